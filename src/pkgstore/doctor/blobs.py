"""What can be tried with blobs, on any medium."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from pkgstore import config, keys
from pkgstore.bodies import PublishBody
from pkgstore.driver import Finding
from pkgstore.errors import Denied, Full, Misconfigured, NotFound, QuotaExceeded, StoreError, Unavailable, Unsupported
from pkgstore.hashing import wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pkgstore.calls import Calls

PLACE = f"{keys.CONTROL}/doctor/"

_REMEDIES: dict[type[StoreError], str] = {
    Denied: "Let this user, or these credentials, read, write, list and delete there.",
    Full: "Free some space, or enlarge the medium.",
    Misconfigured: "Correct what is named, and try again.",
    QuotaExceeded: "Delete something, or raise the quota.",
    Unavailable: "See that the medium is mounted, that its server runs, and that this host reaches it.",
    Unsupported: "Put the store on another medium.",
}
_OTHER = "Look at the logs of the medium's server."


def failed(name: str, what: str, exc: Exception) -> Finding:
    """Return the finding that ``what``, a sentence without its end, was ended by an error.

    Our errors say what to do after a semicolon.
    """
    reason, _, told = (" ".join(str(exc).split()) or type(exc).__name__).partition("; ")
    other = next((text for kind, text in _REMEDIES.items() if isinstance(exc, kind)), _OTHER)
    remedy = f"{told[0].upper()}{told[1:]}." if told else other
    return Finding(name, "error", f"{what}: {reason}.", remedy)


def put(calls: Calls, key: str, body: bytes, *, exclusive: bool = True) -> None:
    """Put a blob at a key of our own. Raises as `pkgstore.store.Store.publish`."""
    with PublishBody(key, body, None, wanted(None)) as source:
        calls.put(key, key, source, exclusive=exclusive)


def delete(calls: Calls, key: str) -> None:
    """Delete a blob at a key of our own; silent when it is absent."""
    calls.call("delete", key, lambda: calls.driver.delete(key))


def remembered(probed: Mapping[str, Any]) -> Iterator[Finding]:
    """Say what a store remembers of what its driver found by trial."""
    for endpoint, found in probed.items():
        facts = found.items() if isinstance(found, dict) else [("value", found)]
        told = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in facts]
        says = "; ".join(f"{name}: {value}" for name, value in told if value)
        yield Finding("remembered", "note", f"The store remembers of {config.without_secrets(endpoint)} {says}.")


def tried(calls: Calls) -> Iterator[Finding]:
    """Try what every medium has to be able to do; after an error nothing more."""
    try:
        if not calls.call("try", PLACE, lambda: calls.driver.exclusive):
            says = "Nothing is exclusive on this medium: two writers could both win a key."
            yield Finding("exclusive", "error", says, "Put the store on another medium.")
            return
    except StoreError as exc:
        yield failed("exclusive", "It cannot be told whether one of two writers wins", exc)
        return
    yield Finding("exclusive", "ok", "A key can be published once.")
    try:
        finding = _turn(calls, f"{PLACE}{os.urandom(8).hex()}/blob")
    except StoreError as exc:
        finding = failed("blob", "A blob was not written, read back and deleted", exc)
    yield finding


def _turn(calls: Calls, key: str) -> Finding:
    """Put, replace, read, list and delete a blob."""
    start = time.monotonic()
    old, new = os.urandom(1000), os.urandom(1001)
    try:
        put(calls, key, old)
        seen = read(calls, key) == old
        put(calls, key, new, exclusive=False)
        seen = seen and read(calls, key) == new
        prefix = key.rpartition("/")[0] + "/"
        listed = calls.call("list", prefix, lambda: [blob.key for blob in calls.driver.scan(prefix)])
    finally:
        delete(calls, key)
    try:
        calls.call("stat", key, lambda: calls.driver.stat(key))
        gone = False
    except NotFound:
        gone = True
    took = (time.monotonic() - start) * 1000
    wrong = [text for text, right in (("read", seen), ("listed", listed == [key]), ("deleted", gone)) if not right]
    if wrong:
        says = f"A blob that was written could not be {' and '.join(wrong)} as it should be."
        return Finding(
            "blob", "error", says, "Put the store on another medium: what was written has to be seen at once."
        )
    return Finding("blob", "ok", f"A blob was written, replaced, read, listed and deleted, in {took:.0f} ms.")


def read(calls: Calls, key: str) -> bytes:
    def read() -> bytes:
        _, stream = calls.driver.open(key)
        with stream:
            found = bytearray()
            while chunk := stream.read(1 << 16):
                found += chunk
            return bytes(found)

    return calls.call("read", key, read)
