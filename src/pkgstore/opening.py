"""Opening a store: from its URL to a `Store` that is known to be one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import uuid
from functools import partial
from importlib.util import find_spec
from shlex import quote
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote as quote_path

from pkgstore import config, keys, registry
from pkgstore.bodies import PublishBody
from pkgstore.cache.absent import Absent
from pkgstore.calls import Calls
from pkgstore.driver import Probed
from pkgstore.errors import Denied, Exists, Misconfigured, NotFound, Unsupported
from pkgstore.hashing import CHUNK, wanted
from pkgstore.pair import Pair
from pkgstore.reopening import Origin
from pkgstore.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from urllib.parse import SplitResult

    from pkgstore.cache.folder import Cache
    from pkgstore.catalog import Catalog
    from pkgstore.crypt.keyring import Keyring

_log = logging.getLogger("pkgstore")

_IDENTITY = f"{keys.CONTROL}/store.json"
_FORMAT = 1
_ENCRYPTED_FORMAT = 2  # which no pkgstore takes for plain that does not know encryption
_ENCRYPTION = "encryption"
_SEALED = "aes-256-gcm-stream-1"
_PLAIN = "/!$&'()*+,;:=@~"
_PROBED = "probed"
_VARIABLE = "PKGSTORE_KEYRING_FILE"
_NONE = "none"
_OPTIONS = {
    *("cache", "cache_negative", "cache_size", "catalog", "ciphertext", "create", "keyring", "probe", "readonly"),
    "timeout",
}


def open_store(url: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], **options: Any) -> Store:
    """Open the store at ``url``, as `pkgstore.open`.

    ``url`` is a path, or a URL such as ``file:///srv/packages`` or ``memory://name``. Options may stand in the URL's
    query too; those given here win:

    ``create``
        make the store where there is none (default: yes, unless ``readonly``, and no for `nfs:`)
    ``readonly``
        refuse to publish and to delete (default: no)
    ``probe``
        find out again, by trial, what the medium keeps to, where that is remembered (default: no)
    ``timeout``
        how long one call goes on trying a medium that does not answer, in seconds (default: 60)
    ``cache``
        a folder of this host that keeps what is read (default: none)
    ``cache_size``
        how many bytes it holds at most, such as ``20Gi`` (default: 10Gi)
    ``cache_negative``
        for how long this process may take a blob for absent that once was, in seconds (default: 0)
    ``catalog``
        a file of this host that keeps the digests of blobs for listings that cannot tell them (default: none)
    ``keyring``
        a file of keys, made by `pkgstore keys new`, for a store that is encrypted; one that is made is so from its
        beginning (default: what PKGSTORE_KEYRING_FILE names; None, or ``none``, for no keyring whatever that says)
    ``ciphertext``
        show the blobs of an encrypted store as they lie on the medium, for reading only (default: no)

    Two URLs, ``[new, old]``, are for the time of a migration: what is not in the first store is read from the second,
    and what is published goes to the first (`pkgstore.pair.Pair`). Options hold for both, but that the second has to
    be there; those of a medium stand in its URL.

    Raises `Misconfigured` for a URL or option that cannot work, `NotFound` when there is no store and ``create`` is
    off, and `Denied`, `Unavailable` or `Unsupported` as the medium has it.
    """
    if isinstance(url, (list, tuple)):
        return _pair(url, options)
    parts, from_query = config.split_url(cast("str | os.PathLike[str]", url))
    config.check_says_where(from_query)
    return _open(parts, {**from_query, **options})


def _pair(urls: Sequence[str | os.PathLike[str]], options: dict[str, Any]) -> Store:
    if len(urls) != 2:
        raise Misconfigured(f"a store is opened by one URL, or by two, the new one and the old one: not by {len(urls)}")
    old = open_store(urls[1], **{**options, "create": False})
    try:
        new = open_store(urls[0], **options)
    except BaseException:
        old.close()
        raise
    if new.id == old.id:
        new.close()
        old.close()
        raise Misconfigured(f"{new.where} and {old.where} are one store, and no two: give the new one and the old one")
    return Pair(new, old)


def _open(parts: SplitResult, given: dict[str, Any]) -> Store:
    options = dict(given)
    connect = registry.find(parts.scheme)
    config.check_options(options, _OPTIONS | registry.own_options(connect))
    readonly = config.boolean("readonly", options.pop("readonly", False))
    unasked = registry.makes_unasked(parts.scheme) and not readonly
    create = config.boolean("create", options.pop("create", unasked)) and not readonly
    probe = config.boolean("probe", options.pop("probe", False))
    timeout = config.seconds("timeout", options.pop("timeout", 60))
    absent = Absent(config.seconds("cache_negative", options.pop("cache_negative", 0)))
    ciphertext = config.boolean("ciphertext", options.pop("ciphertext", False))
    if ciphertext and options.get("catalog") is not None:
        raise Misconfigured("a catalog is of plaintext: leave out catalog= or ciphertext=")
    keyring = _keyring(options, given, ciphertext=ciphertext)
    make_cache = _cache(options)
    make_catalog = _catalog(options, given)
    who, at, place = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{'**redacted**' if who else ''}{at}{place}{quote_path(parts.path, safe=_PLAIN)}"
    if "timeout" in registry.own_options(connect):
        options["timeout"] = timeout
    driver = connect(parts, create=create, **options)
    calls = Calls(driver, shown, timeout)
    try:
        identity = _identify(calls, create=create and not ciphertext, encrypted=keyring is not None)
        encrypted = identity.get(_ENCRYPTION) is not None
        _check_encryption(shown, keyring, encrypted=encrypted, ciphertext=ciphertext)
        if isinstance(driver, Probed):
            _remember(calls, driver, identity, readonly=readonly, again=probe)
        if encrypted and not ciphertext:
            from pkgstore.crypt.driver import SealedDriver
            from pkgstore.crypt.keyring import NoKeyring

            calls = Calls(SealedDriver(driver, identity["id"], keyring or NoKeyring()), shown, timeout)
        return Store(
            calls,
            identity=identity["id"],
            readonly=readonly or ciphertext,
            encrypted=encrypted,
            probed=identity.get(_PROBED),
            cache=make_cache(),
            absent=absent,
            catalog=make_catalog(calls, identity["id"]),
            reduce=Origin(_open, parts, given).reduced,
        )
    except BaseException:
        driver.close()
        raise


def _cache(options: dict[str, Any]) -> Callable[[], Cache | None]:
    """Take the cache's options out of ``options``; return what makes it, once the store is known to be there."""
    path, size = options.pop("cache", None), options.pop("cache_size", None)
    if path is None:
        if size is not None:
            raise Misconfigured("the option cache_size is given without a cache: name its folder with cache=")
        return lambda: None
    from pkgstore.cache.folder import Cache, folder_of

    return partial(Cache, folder_of(path), config.size("cache_size", "10Gi" if size is None else size))


def _catalog(options: dict[str, Any], given: dict[str, Any]) -> Callable[[Calls, str], Catalog | None]:
    """Take the catalog's option out of ``options``; return what makes it for a store, given its calls and its id.

    ``given`` gets its absolute path, which is the same file for a process that works in another folder.
    """
    path = options.pop("catalog", None)
    if path is None:
        return lambda _calls, _identity: None
    from pkgstore.catalog import file_of, opened

    path = given["catalog"] = file_of(path)
    return partial(opened, path)


def _keyring(options: dict[str, Any], given: dict[str, Any], *, ciphertext: bool) -> Keyring | None:
    """Take the keyring's option out of ``options``; return the keyring that it, or else the environment, names.

    ``given`` gets what was found: another process need have neither the folder of this one nor its environment. Raises
    `Misconfigured`, also for a keyring that could not be used.
    """
    path = options.pop("keyring", os.environ.get(_VARIABLE) or None)
    if ciphertext or path is None or path == _NONE:
        given["keyring"] = _NONE
        return None
    if find_spec("cryptography") is None:
        raise Misconfigured(
            "a keyring needs cryptography, which is not installed: python -m pip install 'pkgstore[crypt]'"
        )
    from pkgstore.crypt.keyring import Keyring, file_of

    keyring = Keyring(file_of(path))
    given["keyring"] = keyring.path
    return keyring


def _check_encryption(where: str, keyring: Keyring | None, *, encrypted: bool, ciphertext: bool) -> None:
    """Raise `Misconfigured` for a store that is not encrypted, where it is taken to be."""
    if encrypted:
        return
    if ciphertext:
        raise Misconfigured(f"{where} is not encrypted: leave out ciphertext=")
    if keyring is not None:
        raise Misconfigured(
            f"{where} is not encrypted, and the keyring {keyring.path} is given: say keyring=none to use it as it is,"
            " or make an encrypted store elsewhere and copy the blobs"
        )


def _identify(calls: Calls, *, create: bool, encrypted: bool) -> dict[str, Any]:
    """Return the identity of the store; make it one, where there is none yet and ``create`` says so."""

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
                    f"there is no store at {calls.where}: check the URL, and that the medium is mounted, or"
                    f" make one with `pkgstore init {quote(calls.where)}`"
                ) from None
            _make(calls, encrypted=encrypted)


def _make(calls: Calls, *, encrypted: bool) -> None:
    identity: dict[str, Any] = {"format": _ENCRYPTED_FORMAT if encrypted else _FORMAT, "id": uuid.uuid4().hex}
    if encrypted:
        identity[_ENCRYPTION] = _SEALED
        if calls.call("list", "", lambda: any(True for _ in calls.driver.scan(""))):
            raise Misconfigured(
                f"there are files at {calls.where} already, which would not be encrypted: make the store elsewhere, and"
                " copy them into it"
            )
    if isinstance(calls.driver, Probed):
        identity[_PROBED] = calls.call("make", _IDENTITY, calls.driver.probe)
    if not calls.call("make", _IDENTITY, lambda: calls.driver.exclusive):
        raise Unsupported(
            f"cannot make a store at {calls.where}: the medium has neither hard links nor a rename that never"
            " replaces, so that two writers could both win; choose another medium"
        )
    with contextlib.suppress(Exists):  # another made it at the same moment: it is the same store
        _write(calls, identity, exclusive=True)


def _remember(calls: Calls, driver: Probed, identity: dict[str, Any], *, readonly: bool, again: bool) -> None:
    """See that the driver knows what its medium keeps to, and that the store's identity says it to the next process.

    Who only reads tries nothing, and gets on with what is remembered.
    """
    known = identity.get(_PROBED)
    known = identity[_PROBED] = known if isinstance(known, dict) else {}
    recalled = driver.recall(known)
    if not readonly and (again or not recalled):
        found = calls.call("probe", _IDENTITY, driver.probe)
        identity[_PROBED] = {**known, **found}
        try:
            _write(calls, identity, exclusive=False)
        except Denied as exc:
            _log.warning("what was found of the medium is not remembered, and will be probed again: %s", exc)


def _write(calls: Calls, identity: dict[str, Any], *, exclusive: bool) -> None:
    text = json.dumps(identity, indent=1).encode() + b"\n"
    with PublishBody(_IDENTITY, text, None, wanted(None)) as source:
        calls.put(_IDENTITY, _IDENTITY, source, exclusive=exclusive)


def _parsed(where: str, text: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(text)
        form = document["format"]
        identity: str = document["id"]
        if not re.fullmatch(r"[0-9A-Za-z-]{1,64}", identity):
            raise ValueError(identity)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Misconfigured(
            f"{_IDENTITY} in {where} does not describe a store: restore that file, or remove it if the folder never"
            " was one"
        ) from None
    known = {_FORMAT: None, _ENCRYPTED_FORMAT: _SEALED}
    if not isinstance(form, int) or form not in known or document.get(_ENCRYPTION) != known[form]:
        raise Misconfigured(f"{where} is a store of format {form!r}: use a pkgstore that knows it")
    return document
