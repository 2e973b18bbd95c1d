"""The trash: blobs that were taken out of a store, and can be put back until their time is over.

::

    .pkgstore/undelete/<digest of the key>/<number>-<seconds to keep>.blob     the bytes, with their digests
    .pkgstore/undelete/<digest of the key>/<number>-<seconds to keep>.json     what they were, and why they went

A blob is copied to the trash, then its record is put there, and only then is that very version deleted at its key: it
lies at its key, or in the trash, or in both, wherever this ends. A copy is its maker's own, and is removed by nobody
before its time is over; so it does no harm that others discard, restore or publish the same key meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pkgstore import config, keys
from pkgstore.accounts import clock
from pkgstore.errors import Corrupt, Exists, NotFound, Unavailable, Unsupported
from pkgstore.hashing import ALGORITHMS, is_digest
from pkgstore.spread import spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor
    from datetime import timedelta

    from pkgstore.control import Control
    from pkgstore.driver import Blob
    from pkgstore.store import Store

KEPT_FOR = "30d"
"""For how long a blob can be undeleted, unless told otherwise."""

_FOLDER = "undelete"
_CLOCK = "clock/"
_FORMAT = 1
_NAME = re.compile(r"([0-9a-f]{32}/[0-9a-f]{16}-([0-9]{1,12}))\.(blob|json)")
_LARGEST_RECORD = 1 << 20
_LONGEST_TO_DISCARD = 6 * 3600.0
_ABANDONED_AFTER = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Trashed:
    """A blob in the trash.

    ``key``, ``size`` in bytes, ``mtime``, ``tag`` and ``digests`` are as it had them in its store; ``goes_with`` is the
    key of the blob whose companion it is, if any, and ``goes_with_tag`` the tag of that version. ``why`` is a sentence
    on why it went. ``trashed`` is when it went, and ``until`` for how long it is kept at least, by the medium's clock,
    in seconds since the epoch. ``name`` is where it lies, below `.pkgstore/undelete/`.
    """

    key: str
    size: int
    mtime: float
    tag: str
    digests: Mapping[str, str]
    goes_with: str
    goes_with_tag: str
    why: str
    trashed: float
    until: float
    name: str


@dataclass(frozen=True, slots=True)
class Emptied:
    """What emptying the trash removed: the number of its ``blobs``, and their ``bytes``."""

    blobs: int
    bytes: int


def discard(
    store: Store, blob: Blob, *, why: str, keep: str | float | timedelta, goes_with: Blob | None = None
) -> bool:
    """Move one version of a blob to the trash, where it is kept for ``keep`` at least: ``"30d"``, or so many seconds.

    ``blob`` is as the store told of it; False when another version is at its key by now, or none: that is left alone.
    With ``goes_with``, another blob, it comes back when that very version does.

    Raises `Corrupt` for a blob whose bytes are not those that were published: it stays where it is. Raises `Full`, and
    whatever else `Store.open`, `publish` and `delete` raise; the blob is then still at its key, or in the trash, or in
    both.
    """
    control = store.control(_FOLDER)
    kept_for = math.ceil(config.span("keep", keep))
    key = store.prefix + blob.key
    companion_of = store.prefix + goes_with.key if goes_with else ""
    name = f"{_folder_of(companion_of or key)}{os.urandom(8).hex()}-{kept_for}"
    began = clock()
    try:
        with store.open(blob.key, fresh=True) as reader:
            if reader.blob.tag != blob.tag:
                return False
            copy = control.put(f"{name}.blob", reader, digests=_known(reader.blob.digests))
    except NotFound:
        return False
    record = {
        "format": _FORMAT,
        "key": key,
        "size": copy.size,
        "mtime": blob.mtime,
        "tag": blob.tag,
        "digests": dict(copy.digests),
        "goes_with": companion_of,
        "goes_with_tag": goes_with.tag if goes_with else "",
        "why": why,
        "trashed": copy.mtime,  # the record's own time is another once it is encrypted anew
    }
    control.put(f"{name}.json", json.dumps(record).encode())
    longest = min(_LONGEST_TO_DISCARD, kept_for or math.inf)
    if clock() - began > longest:  # the copy may be taken for abandoned, or be past its time
        raise Unavailable(
            f"{keys.shown(blob.key)} in {store.where} was not deleted, as to copy it to the trash took more than"
            f" {longest:.0f} s, or this process had slept: try again, or have it kept for longer",
            key=blob.key,
        )
    if store.delete(blob.key, tag=blob.tag):
        return True
    _remove(store, name)
    return False


def trashed(store: Store, *, executor: Executor | None = None) -> Iterator[Trashed]:
    """Yield what is in the trash, in no order; of a scope, what was trashed there, by its keys in the scope.

    Raises `Corrupt` for a record that is none, and as `Store.list` and `Store.read` do.
    """
    names = (name for name, _ in store.control(_FOLDER).list() if _is_record(name))
    for found in spread(partial(_recorded, store), names, executor=executor):
        if found is not None:
            yield found


def undelete(store: Store, key: str, *, sha256: str | None = None) -> list[Blob]:
    """Publish a blob from the trash again, verified, and what went with it; return what is published.

    Of several versions it is the one that went last, or that with the given ``sha256``. It also stays in the trash,
    until its time there is over. Raises `NotFound` when it is not in the trash, `Exists` when its key was published
    meanwhile, `Corrupt`, and what else `Store.publish` raises.
    """
    keys.check(key)
    control = store.control(_FOLDER)
    found = list(_under(store, key))
    if not any(each.key == key for each in found):  # a companion lies beside the blob that it went with
        found = [each for each in trashed(store) if each.key == key]
    found.sort(key=lambda each: each.trashed)
    versions = [each for each in found if each.key == key and sha256 in (None, each.digests["sha256"])]
    if not versions:
        which = f"{keys.shown(key)} with the sha256 {sha256!r}" if sha256 else keys.shown(key)
        raise NotFound(f"{which} is not in the trash of {store.where}: `pkgstore trash list` shows what is", key=key)
    chosen = versions[-1]
    companions = {
        each.key: each
        for each in found
        if (each.goes_with, each.goes_with_tag) == (key, chosen.tag) and each.trashed <= chosen.trashed
    }
    published = []
    taken: Exists | None = None
    for each in (chosen, *companions.values()):
        try:
            with control.open(f"{each.name}.blob") as reader:
                published.append(store.publish(each.key, reader, digests=_known(each.digests), size=each.size))
        except Exists as exc:
            if not exc.identical:
                raise Exists(
                    f"{keys.shown(each.key)} has been published in {store.where} since: to have the old one back, move"
                    " what is there to the trash first, with `pkgstore rm --trash`",
                    key=each.key,
                    blob=exc.blob,
                ) from exc
            taken = taken or exc  # as when an earlier try ended after the first of them
        except NotFound:
            raise NotFound(f"{keys.shown(each.key)} is no longer in the trash of {store.where}", key=each.key) from None
    if not published:
        assert taken is not None
        raise taken
    return published


def empty(store: Store, *, everything: bool = False, executor: Executor | None = None) -> Emptied:
    """Remove from the trash what has been there for as long as it was to be kept; or ``everything``.

    Also what those who died while they discarded a blob left there more than a day ago, but not with ``everything``,
    which asks for no time, and so works on a medium that is full. Raises `Unsupported` for a scope, and what
    `Store.list` and `Store.delete` raise.
    """
    if store.prefix:
        raise Unsupported(f"{store.where} is a part of a store, whose trash is emptied as a whole: ask the store")
    control = store.control(_FOLDER)
    now = None if everything else _medium_time(control)
    records: dict[str, Blob] = {}
    copies: dict[str, Blob] = {}
    abandoned = []
    for name, blob in control.list():
        match = _NAME.fullmatch(name)
        if match:
            (copies if match[3] == "blob" else records)[match[1]] = blob
        elif now is not None and name.startswith(_CLOCK) and now - blob.mtime > _ABANDONED_AFTER:
            abandoned.append(name)
    due = {name for name, record in records.items() if now is None or record.mtime + _kept_for(name) <= now}
    if now is not None:
        due |= {name for name, copy in copies.items() if name not in records and now - copy.mtime > _ABANDONED_AFTER}
    for name in abandoned:
        control.delete(name)
    for _ in spread(partial(_remove, store), due, executor=executor):
        pass
    gone = [copies[name].size for name in due if name in copies]
    return Emptied(len(gone), sum(gone))


def _under(store: Store, key: str) -> Iterator[Trashed]:
    """Yield what is in the trash of a key, and of what went with it."""
    for name, _ in store.control(_FOLDER).list(_folder_of(store.prefix + key)):
        found = _recorded(store, name) if _is_record(name) else None
        if found is not None:
            yield found


def _folder_of(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}/"


def _is_record(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and match[3] == "json"


def _kept_for(name: str) -> float:
    return float(name.rpartition("-")[2])


def _recorded(store: Store, record: str) -> Trashed | None:
    """Return what a record tells; None when it is gone by now, or of another scope."""
    name = record.removesuffix(".json")
    try:
        with store.control(_FOLDER).open(record) as reader:
            text = reader.readall() if reader.blob.size <= _LARGEST_RECORD else b""
    except NotFound:
        return None
    try:
        found = json.loads(text)
        if found.pop("format") != _FORMAT:
            raise ValueError(found)
        item = Trashed(**found, until=found["trashed"] + _kept_for(name), name=name)
        if not _is_sound(asdict(item)):
            raise ValueError(found)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise Corrupt(
            f".pkgstore/{_FOLDER}/{record} in {store.where} is no record of the trash: use a pkgstore that knows its"
            f" format, or remove that file; the bytes lie beside it"
        ) from None
    return _seen_from(store.prefix, item)


def _is_sound(item: dict[str, Any]) -> bool:
    texts = ("key", "tag", "goes_with", "goes_with_tag", "why")
    return (
        all(isinstance(item[each], str) for each in texts)
        and keys.is_valid(item["key"])
        and type(item["size"]) is int
        and item["size"] >= 0
        and all(isinstance(item[each], (int, float)) and math.isfinite(item[each]) for each in ("mtime", "trashed"))
        and isinstance(item["digests"], dict)
        and "sha256" in item["digests"]
        and all(is_digest(name, value) for name, value in _known(item["digests"]).items())
    )


def _seen_from(prefix: str, item: Trashed) -> Trashed | None:
    if not prefix:
        return item
    if not item.key.startswith(prefix):
        return None
    return replace(item, key=item.key.removeprefix(prefix), goes_with=item.goes_with.removeprefix(prefix))


def _known(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in digests.items() if name in ALGORITHMS}


def _remove(store: Store, name: str) -> None:
    control = store.control(_FOLDER)
    control.delete(f"{name}.json")  # first: what has no record is not offered to anybody
    control.delete(f"{name}.blob")


def _medium_time(control: Control) -> float:
    """Return what time it is by the clock that gives blobs their times, in seconds since the epoch."""
    name = f"{_CLOCK}{os.urandom(8).hex()}"
    try:
        return control.put(name, b"").mtime
    finally:
        control.delete(name)
