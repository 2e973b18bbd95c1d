"""Looking at one blob: reading it again, and mending it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pkgstore import Blob, Corrupt, Denied, Exists, NotFound, Reader, Store, StoreError
from pkgstore.hashing import ALGORITHMS, CHUNK, Hasher
from pkgstore.keys import CONTROL, shown
from pkgstore.reading import LooksLast

if TYPE_CHECKING:
    from collections.abc import Mapping

Found: TypeAlias = Literal["good", "unrecorded", "corrupt", "unreadable", "gone"]

_QUARANTINE = "quarantine"
_READS = 4
_RESTORE = "restore it with --repair-from another store, or delete it and publish it again"
_COPY = "delete it and publish it again, or mirror it here"


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
            recorded = _recorded(seen)
            if digests is not None and not recorded:
                return Checked(key, "unrecorded", read)
            if digests is not None and digests == recorded:
                return Checked(key, "good", read)
            again, digests, _ = _read(store, key)
            if again.tag != seen.tag:
                raise _Overtaken
            if digests is not None and digests == _recorded(again):  # it was the way here
                return Checked(key, "good", read)
            return _mended(store, again, read, repair_from, quarantine=quarantine)
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
    mend = "see to what is denied" if isinstance(exc, Denied) else "mend the medium"
    return Checked(key, "unreadable", read, says=str(exc), remedy=f"{mend}, and verify the blob again")


def _recorded(blob: Blob) -> dict[str, str]:
    return {name: value for name, value in blob.digests.items() if name in ALGORITHMS}


def _read(store: Store, key: str) -> tuple[Blob, Mapping[str, str] | None, int]:
    """Return a blob, the digests of its bytes, and how many were read.

    None are the digests of what does not open, or ends too early.
    """
    try:
        reader = store.open(key, verify=False, fresh=True)
    except Corrupt:  # encrypted, and what says how is damaged
        return store.stat(key), None, 0
    except Denied:  # damaged as well, where the name of a key is
        if not (store.encrypted and _is_damaged(store._as_it_lies(), key)):
            raise
        return store.stat(key), None, 0
    with reader:
        hasher = Hasher(_recorded(reader.blob) or ["sha256"])
        try:
            return reader.blob, _digests(reader, hasher), reader.tell()
        except Corrupt:
            return reader.blob, None, reader.tell()


def _is_damaged(medium: Store, key: str) -> bool:
    blob, digests, _ = _read(medium, key)
    recorded = _recorded(blob)
    return bool(recorded) and digests != recorded


def _digests(reader: Reader | _AsItIs, hasher: Hasher) -> Mapping[str, str]:
    while chunk := reader.read(CHUNK):
        hasher.update(chunk)
    return hasher.digests()


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
    what = f"the bytes of {shown(key)} in {store.where} do not have the {'/'.join(_recorded(seen))} recorded with them"
    remedy = _RESTORE
    if not _recorded(seen):
        what = f"{shown(key)} in {store.where} does not open: it is damaged, or was put there by other means"
        remedy = _COPY
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

    Of an encrypted store, that is the ciphertext as it lies on the medium, which is not sealed again; the note has no
    digests but of that.
    """
    path = store._path(seen.key)
    aside = store.control(_QUARANTINE)
    with store._as_it_lies().open(seen.key, verify=False, fresh=True) as reader:
        blob = reader.blob
        if blob.tag != seen.tag:
            raise _Overtaken
        held = _digests(_AsItIs(reader), Hasher({*_recorded(blob), "sha256"}))
        name = hashlib.sha256(f"{path}\0{seen.tag}\0{held['sha256']}".encode()).hexdigest()[:32]
        reader.seek(0)
        note = {
            "key": path,
            "size": blob.size,
            "mtime": blob.mtime,
            "tag": blob.tag,
            "digests": dict(blob.digests),
            "found": held,
        }
        with contextlib.suppress(Exists):
            aside.put(f"{name}.blob", _AsItIs(reader), digests=held)
    with contextlib.suppress(Exists):
        aside.put(f"{name}.json", json.dumps(note, indent=1).encode() + b"\n")
    return f"{CONTROL}/{_QUARANTINE}/{name}.blob"


def _repair(store: Store, seen: Blob, other: Store) -> None:
    """Put another store's blob in the place of a corrupt one. Raises `_Overtaken`, and `Corrupt` when it has none."""
    recorded = _recorded(seen)
    if "sha256" not in recorded:
        raise Corrupt("its digests are lost with it, so that no copy can be told to be the same", key=seen.key)

    def look() -> None:
        now = store._found(seen.key)
        if now is None or now.tag != seen.tag:
            raise _Overtaken

    with other.open(seen.key) as good:
        for name, value in good.blob.digests.items():
            if recorded.get(name, value) != value:
                raise Corrupt(f"{other.where} has other bytes under this key", key=seen.key)
        body = LooksLast(good, look)
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
