"""The manifest of an archive: lines of JSON that say what is in it, in one canonical form.

The first line says what the archive is. Then come the blobs that it holds, sorted by key; the blobs of the store that
it does not hold, as its base has them; the blobs of the base that the store has no more; and a last line that counts.
Its digest runs along: whoever has read as far as one blob can tell whether all lines so far are as they were written.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from pkgstore import keys
from pkgstore.hashing import ALGORITHMS, is_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

FOLDER = f"{keys.CONTROL}/archive"
HEAD = f"{FOLDER}/head.json"
MANIFEST = f"{FOLDER}/manifest.jsonl"
LONGEST_LINE = 1 << 14

_FORMAT = 1
_END = b'{"end"'
_KINDS = ("key", "kept", "deleted")

Kind = Literal["key", "kept", "deleted"]


@dataclass(frozen=True, slots=True)
class Head:
    """What an archive is: of which store, by its id, and of which scope of it; ``base`` is the sha256 of the manifest
    of the archive that it continues, if any.
    """

    store: str
    scope: str
    base: str | None

    def line(self) -> bytes:
        """Return it as the first line of the manifest, without its end."""
        return _line({"base": self.base, "pkgstore-archive": _FORMAT, "scope": self.scope, "store": self.store})

    def check(self, entry: Entry) -> None:
        """Raise ValueError for an entry that only an archive with a base has."""
        if self.base is None and (entry.kind != "key" or entry.replaces is not None):
            raise ValueError(f"the line of {keys.shown(entry.key)} speaks of a base, and there is none")


@dataclass(frozen=True, slots=True)
class Entry:
    """One blob: in the archive (``kind`` is ``key``), in its base only (``kept``), or in the store no more
    (``deleted``).

    ``replaces`` is the sha256 of the version that the base has, where the archive has another.
    """

    key: str
    size: int
    digests: Mapping[str, str]
    replaces: str | None = None
    kind: Kind = "key"

    def line(self) -> bytes:
        """Return it as a line of the manifest, without its end."""
        more = {"replaces": self.replaces} if self.replaces else {}
        return _line({self.kind: self.key, "size": self.size, **self.digests, **more})


@dataclass(slots=True)
class Totals:
    """What the last line counts: blobs in the archive and their bytes, blobs that its base has, and deleted ones."""

    blobs: int = 0
    size: int = 0
    kept: int = 0
    deleted: int = 0

    def count(self, entry: Entry) -> None:
        if entry.kind == "key":
            self.blobs += 1
            self.size += entry.size
        elif entry.kind == "kept":
            self.kept += 1
        else:
            self.deleted += 1

    def line(self) -> bytes:
        """Return the last line, without its end."""
        return _line(
            {"end": {"blobs": self.blobs, "bytes": self.size, "deleted": self.deleted, "kept": self.kept}},
        )


def parsed_head(line: bytes) -> Head:
    """Return what a first line says. Raises ValueError for a line of another form."""
    fields = _fields(line)
    head = Head(fields.get("store", ""), fields.get("scope", ""), fields.get("base"))
    if fields.get("pkgstore-archive") != _FORMAT:
        raise ValueError(f"its format is {keys.shown(str(fields.get('pkgstore-archive')))}, which is not known here")
    if (
        not (isinstance(head.store, str) and isinstance(head.scope, str))
        or not (head.base is None or is_digest("sha256", head.base))
        or line != head.line()
    ):
        raise ValueError("its first line is malformed")
    return head


def parsed(line: bytes) -> Entry:
    """Return the entry that a line tells of. Raises ValueError for a line that is not canonical."""
    fields = _fields(line)
    kind: Kind
    for kind in ("key", "kept", "deleted"):
        if kind in fields:
            break
    else:
        raise ValueError("a line of the manifest names no blob")
    key, size, replaces = fields.pop(kind), fields.pop("size", None), fields.pop("replaces", None)
    if not isinstance(key, str) or not keys.is_valid(key):
        raise ValueError(f"the manifest names {keys.shown(str(key))}, which is no valid key")
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise ValueError(f"the manifest has no size of {keys.shown(key)}")
    if "sha256" not in fields or not all(
        name in ALGORITHMS and is_digest(name, value) for name, value in fields.items()
    ):
        raise ValueError(f"the manifest has no good digests of {keys.shown(key)}")
    entry = Entry(key, size, fields, replaces, kind)
    if not (replaces is None or (kind == "key" and is_digest("sha256", replaces))) or entry.line() != line:
        raise ValueError(f"the line of {keys.shown(key)} is malformed")
    return entry


@dataclass(slots=True)
class Running:
    """The digest of a manifest as far as it goes. ``length`` is its bytes so far."""

    length: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def add(self, line: bytes) -> None:
        self.add_text(line + b"\n")

    def add_text(self, text: bytes) -> None:
        self._hash.update(text)
        self.length += len(text)

    @property
    def digest(self) -> str:
        """The sha256 of what was added so far, in hexadecimal."""
        return str(self._hash.hexdigest())


def lines(file: BinaryIO, start: int = 0) -> Iterator[bytes]:
    """Yield the lines of a manifest from byte ``start`` on, without their ends. Raises ValueError.

    The position of ``file`` is its own, so that several may be at it, in one thread.
    """
    at = start
    while True:
        file.seek(at)
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if not line.endswith(b"\n"):
            raise ValueError(
                "a line of the manifest is cut short" if len(line) <= LONGEST_LINE else "a line is too long"
            )
        at += len(line)
        yield line[:-1]


def entries(
    file: BinaryIO, start: int, *, totals: Totals | None = None, starts: MutableMapping[Kind, int] | None = None
) -> Iterator[Entry]:
    """Yield the entries of a manifest from byte ``start`` on, which is past its first line. Raises ValueError.

    ``totals`` is what was counted before ``start``; it counts on, and the last line has to agree. Within each kind
    the entries are sorted by key; ``starts`` takes notice of where each begins, unless it knows.
    """
    totals = totals if totals is not None else Totals()
    starts = starts if starts is not None else {}
    last, rank, at = "", 0, start
    rest = lines(file, start)
    for line in rest:
        if line.startswith(_END):
            if line != totals.line() or next(rest, None) is not None:
                raise ValueError("the last line of the manifest does not agree with the others")
            return
        entry = parsed(line)
        if (_KINDS.index(entry.kind), entry.key) <= (rank, last):
            raise ValueError(f"the manifest has {keys.shown(entry.key)} twice, or out of order")
        rank, last = _KINDS.index(entry.kind), entry.key
        totals.count(entry)
        starts.setdefault(entry.kind, at)
        at += len(line) + 1
        yield entry
    raise ValueError("the manifest has no last line")


def checked(file: BinaryIO, start: int) -> Iterator[Entry]:
    """Yield the entries from byte ``start`` on of a manifest that `entries` has gone through before."""
    for line in lines(file, start):
        if line.startswith(_END):
            return
        yield parsed(line)


def check_kinds(file: BinaryIO, starts: Mapping[Kind, int]) -> None:
    """Raise ValueError for a key of which the manifest says two things; ``starts`` is where each kind begins."""
    last = ""
    for key in heapq.merge(*(_keys(file, kind, at) for kind, at in starts.items())) if len(starts) > 1 else ():
        if key == last:
            raise ValueError(f"the manifest has {keys.shown(key)} twice")
        last = key


def _keys(file: BinaryIO, kind: Kind, at: int) -> Iterator[str]:
    for entry in checked(file, at):
        if entry.kind != kind:
            return
        yield entry.key


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _fields(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise ValueError("a line of the manifest is too long")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("a line of the manifest is no JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("a line of the manifest is no JSON object")
    return fields
