"""Looking at one blob: reading it again, and mending it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pkgstore import Blob, Corrupt, Denied, Exists, NotFound, Reader, Store, StoreError
from pkgstore.bodies import PublishBody
from pkgstore.calls import Calls
from pkgstore.driver import of_medium
from pkgstore.hashing import ALGORITHMS, CHUNK, Hasher, wanted
from pkgstore.keys import CONTROL, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pkgstore.bodies import BodyLike

Found: TypeAlias = Literal["good", "unrecorded", "corrupt", "unreadable", "gone"]

QUARANTINE = f"{CONTROL}/quarantine/"

_READS = 4


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one blob.

    ``found``
        ``good``; ``unrecorded``, without digests to compare with; ``corrupt``; ``unreadable``; or ``gone`` meanwhile
    ``did``
        ``repaired`` or ``quarantined``; empty where nothing was done
    ``says``
        what is wrong, in a sentence; empty where nothing is
    ``remedy``
        what to do, in a sentence; empty where nothing is left to do
    ``size``
        how many bytes were read
    ``kept_as``
        where the bytes of a corrupt blob are kept, below the store's root; empty where they are not
    """

    key: str
    found: Found
    size: int = 0
    did: Literal["", "repaired", "quarantined"] = ""
    says: str = ""
    remedy: str = ""
    kept_as: str = ""


class _Overtaken(Exception):
    """The blob has been replaced, or deleted, by somebody else."""


def checked(blob: Blob, *, store: Store, repair_from: Store | None, quarantine: bool) -> Checked:
    """Read a blob again, and mend it where it is corrupt."""
    key, read = blob.key, 0
    for _ in range(_READS):
        try:
            seen, digests, count = _read(store, key)
            read += count
            found = _judged(seen, digests)
            if found == "corrupt":
                found = _judged(*_read(store, key)[:2])
                if found == "corrupt":
                    return _mended(store, seen, read, repair_from, quarantine=quarantine)
                read += count  # it was the way here
            return Checked(key, found, read)
        except (_Overtaken, NotFound):
            try:
                store.stat(key)
            except NotFound:
                return Checked(key, "gone", read)
            except StoreError as exc:
                return _unreadable(key, read, exc)
        except StoreError as exc:
            return _unreadable(key, read, exc)
    return Checked(key, "unreadable", read, says=f"{shown(key)} is replaced all the time", remedy="verify it again")


def _unreadable(key: str, read: int, exc: StoreError) -> Checked:
    remedy = "mend the medium, and verify the blob again"
    if isinstance(exc, Denied):
        remedy = "then verify the blob again"  # the error says what is missing
    return Checked(key, "unreadable", read, says=str(exc), remedy=remedy)


def _judged(blob: Blob, digests: Mapping[str, str]) -> Found:
    if not digests:
        return "corrupt"
    recorded = _recorded(blob)
    if not recorded:
        return "unrecorded"
    return "good" if digests == recorded else "corrupt"


def _recorded(blob: Blob) -> dict[str, str]:
    return {name: value for name, value in blob.digests.items() if name in ALGORITHMS}


def _read(store: Store, key: str) -> tuple[Blob, Mapping[str, str], int]:
    """Return a blob, the digests of its bytes, and how many there are; no digests for one that does not open, or ends
    too early.
    """
    try:
        opened = store.open(key, verify=False, fresh=True)
    except Corrupt:  # it is encrypted, and what says how is damaged
        return store.stat(key), {}, 0
    with opened as reader:
        hasher, count = Hasher(_recorded(reader.blob) or ["sha256"]), 0
        try:
            while chunk := reader.read(CHUNK):
                hasher.update(chunk)
                count += len(chunk)
        except Corrupt:  # there are less than there should be
            return reader.blob, {}, count
        return reader.blob, hasher.digests(), count


def _mended(
    store: Store,
    seen: Blob,
    read: int,
    repair_from: Store | None,
    *,
    quarantine: bool,
) -> Checked:
    """Quarantine a corrupt blob and repair it, as far as this is asked for. Raises `_Overtaken`."""
    key = seen.key
    recorded = "/".join(_recorded(seen))
    says = f"do not have the {recorded} recorded with them" if recorded else "are not what was sealed there"
    what = f"the bytes of {shown(key)} in {store.where} {says}"
    kept_as, reason = "", ""
    if quarantine:
        try:
            kept_as = _set_aside(store, seen)
        except StoreError as exc:
            reason = f"; it is not quarantined: {exc}"
    if repair_from is not None:
        try:
            _repair(store, seen, repair_from)
            return Checked(key, "corrupt", read, "repaired", what, kept_as=kept_as)
        except NotFound:
            reason += f"; {repair_from.where} does not have it"
        except StoreError as exc:
            reason += f"; it is not repaired: {exc}"
    remedy = "delete it and publish it again, or mirror it here"
    if recorded:
        remedy = "restore it with --repair-from another store, or delete it and publish it again"
    if not kept_as:
        return Checked(key, "corrupt", read, says=what + reason, remedy=remedy)
    try:
        store.delete(key, tag=seen.tag)
    except StoreError as exc:
        return Checked(key, "corrupt", read, "", f"{what}; it is not quarantined: {exc}", remedy, kept_as)
    if store._found(seen.key) is not None:
        raise _Overtaken
    return Checked(key, "corrupt", read, "quarantined", what + reason, "publish it again, or mirror it here", kept_as)


def _set_aside(store: Store, seen: Blob) -> str:
    """Copy a corrupt blob, and a note of what it was, to where it is not served; return where. Raises `_Overtaken`.

    Of an encrypted one, that is its ciphertext, all of it: what is in segments after a damaged one could be told, too.
    """
    calls = store._calls
    medium = Calls(of_medium(calls.driver), calls.where, calls.timeout)
    path = store._path(seen.key)
    name = hashlib.sha256(f"{path}\0{seen.tag}".encode()).hexdigest()[:32]
    place = f"{QUARANTINE}{name}.blob"
    lying = Store(medium, identity=store.id, quota=store._quota)
    with lying.open(path, verify=False) as reader:
        blob = reader.blob
        if blob.tag != seen.tag:
            raise _Overtaken
        found = _put(medium, place, _AsItIs(reader), _recorded(blob))
    note = {
        "key": path,
        "size": blob.size,
        "mtime": blob.mtime,
        "tag": blob.tag,
        "digests": dict(blob.digests),
        "found": found,
    }
    _put(medium, f"{QUARANTINE}{name}.json", json.dumps(note, indent=1).encode() + b"\n")
    return place


def _put(calls: Calls, place: str, body: BodyLike, algorithms: Iterable[str] = ()) -> dict[str, str]:
    """Put what is not there yet; return the digests of it."""
    with PublishBody(place, body, None, wanted(dict.fromkeys(algorithms))) as source:
        with contextlib.suppress(Exists):
            calls.put(place, place, source, exclusive=True)
        return dict(source.digests)


def _repair(store: Store, seen: Blob, other: Store) -> None:
    """Put another store's blob in the place of a corrupt one. Raises `_Overtaken`, and `Corrupt` when it has none."""
    recorded = _recorded(seen)
    if not recorded:
        raise Corrupt(
            f"its digests are damaged too, and nothing tells whether {other.where} has what was published here",
            key=seen.key,
        )

    def look() -> None:
        now = store._found(seen.key)
        if now is None or now.tag != seen.tag:
            raise _Overtaken

    with other.open(seen.key) as good:
        for name, value in good.blob.digests.items():
            if recorded.get(name, value) != value:
                raise Corrupt(f"{other.where} has other bytes under this key", key=seen.key)
        body = _LooksLast(good, look)
        store.publish(seen.key, body, digests=recorded, size=good.blob.size, replace=True)


class _AsItIs:
    """The bytes of a blob, also when they end too early."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except Corrupt:
            return b""


class _LooksLast:
    """The bytes of a blob, the last of which are given only after a look."""

    def __init__(self, reader: Reader, look: Callable[[], None]) -> None:
        self._reader = reader
        self._look = look

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        if self.tell() == self._reader.blob.size:
            self._look()
        return data

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._reader.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._reader.seek(offset, whence)
