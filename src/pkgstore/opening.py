"""Opening a store: from its URL to a `Store` that is known to be one."""

from __future__ import annotations

import json
import re
import uuid
from shlex import quote
from typing import TYPE_CHECKING, Any
from urllib.parse import quote as quote_path

from pkgstore import config, keys, registry
from pkgstore.bodies import PublishBody
from pkgstore.calls import Calls
from pkgstore.errors import Exists, Misconfigured, NotFound, Unsupported
from pkgstore.hashing import CHUNK, wanted
from pkgstore.store import Store

if TYPE_CHECKING:
    import os

_IDENTITY = f"{keys.CONTROL}/store.json"
_FORMAT = 1
_PLAIN = "/!$&'()*+,;:=@~"
_OPTIONS = {"create", "readonly", "timeout"}


def open_store(url: str | os.PathLike[str], **options: Any) -> Store:
    """Open the store at ``url``, as `pkgstore.open`.

    ``url`` is a path, or a URL such as ``file:///srv/packages`` or ``memory://name``. Options may stand in the URL's
    query too; those given here win:

    ``create``
        make the store where there is none (default: yes, unless ``readonly``)
    ``readonly``
        refuse to publish and to delete (default: no)
    ``timeout``
        how long one call goes on trying a medium that does not answer, in seconds (default: 60)

    Raises `Misconfigured` for a URL or option that cannot work, `NotFound` when there is no store and ``create`` is
    off, and `Denied`, `Unavailable` or `Unsupported` as the medium has it.
    """
    parts, from_query = config.split_url(url)
    connect = registry.find(parts.scheme)
    options = {**from_query, **options}
    config.check_options(options, _OPTIONS | registry.own_options(connect))
    readonly = config.boolean("readonly", options.pop("readonly", False))
    create = config.boolean("create", options.pop("create", not readonly)) and not readonly
    timeout = config.seconds("timeout", options.pop("timeout", 60))
    who, at, place = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{'**redacted**' if who else ''}{at}{place}{quote_path(parts.path, safe=_PLAIN)}"
    driver = connect(parts, create=create, **options)
    calls = Calls(driver, shown, timeout)
    try:
        return Store(calls, identity=_identify(calls, create=create), readonly=readonly)
    except BaseException:
        driver.close()
        raise


def _identify(calls: Calls, *, create: bool) -> str:
    """Return the id of the store; make it one, where there is none yet and ``create`` says so."""

    def read() -> bytes:
        _, stream = calls.driver.open(_IDENTITY)
        with stream:
            return stream.read(CHUNK)

    while True:
        try:
            return _parsed(calls.where, calls.call("read", _IDENTITY, read))
        except NotFound:
            if not create:
                raise NotFound(
                    f"there is no store at {calls.where}: check that its medium is mounted, or make one with"
                    f" `pkgstore init {quote(calls.where)}`"
                ) from None
            _make(calls)


def _make(calls: Calls) -> None:
    if not calls.call("make", _IDENTITY, lambda: calls.driver.exclusive):
        raise Unsupported(
            f"cannot make a store at {calls.where}: the medium has neither hard links nor a rename that never"
            " replaces, so that two writers could both win; choose another medium"
        )
    identity = json.dumps({"format": _FORMAT, "id": uuid.uuid4().hex}).encode() + b"\n"
    with PublishBody(_IDENTITY, identity, None, wanted(None)) as source:
        try:
            calls.put(_IDENTITY, _IDENTITY, source, exclusive=True)
        except Exists:
            return  # another made it at the same moment: it is the same store


def _parsed(where: str, text: bytes) -> str:
    try:
        document = json.loads(text)
        form = document["format"]
        identity: str = document["id"]
        if not re.fullmatch(r"[0-9A-Za-z-]{1,64}", identity):
            raise ValueError(identity)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Misconfigured(
            f"{_IDENTITY} in {where} does not describe a store: restore that file, or remove it if the folder never"
            " was one"
        ) from None
    if form != _FORMAT:
        raise Misconfigured(f"{where} is a store of format {form!r}: use a pkgstore that knows it")
    return identity
