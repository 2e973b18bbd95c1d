"""Reading an archive from its first byte to its last, in one pass, and believing nothing of it."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, NoReturn, Self

from pkgstore import keys
from pkgstore.archive import foreign, manifest, packing, sealing
from pkgstore.archive.base import Base
from pkgstore.archive.items import Item, Limits, Refused
from pkgstore.archive.local import Rewound, exactly, spool
from pkgstore.archive.tarring import Members, header
from pkgstore.errors import Corrupt, Denied, Misconfigured
from pkgstore.hashing import Hasher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from pkgstore.archive.local import Readable
    from pkgstore.archive.signing import Checker
    from pkgstore.archive.tarring import Member

_CHUNK = 1 << 20


class Walk:
    """The blobs of an archive, one after the other. A context manager.

    ``signature`` says of it: ``good``, ``unchecked`` for one that nobody asked to check, ``none``. ``has_manifest`` is
    false for a tar file that somebody else made. After the last blob, ``rest`` tells what else its manifest says.
    Raises `Corrupt` for what is not whole, and `Denied` for what is not signed as is asked.
    """

    def __init__(
        self,
        source: Readable,
        *,
        checker: Checker | None = None,
        key: bytes | None = None,
        strip: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self._checker = checker
        self._strip = strip
        self._limits = limits or Limits()
        self._members = Members(_opened(source, key, self._limits))
        self._running = manifest.Running()
        self._totals = manifest.Totals()
        self._manifest: BinaryIO | None = None
        self._head_length = 0
        self._beyond = 0
        self.signature: Literal["good", "unchecked", "none"] = "none"
        self.has_manifest = False
        self.head: manifest.Head | None = None
        self.is_whole = False

    def __iter__(self) -> Iterator[Item | Refused]:
        members = iter(self._members)
        first = next(members, None)
        self.has_manifest = first is not None and first.name == manifest.HEAD
        if first is None:
            self._fail("it holds no archive: there is nothing before its end")
        if not self.has_manifest:
            if self._checker is not None:
                raise Denied("the archive is not signed, and a key to check it with was given: take one that is")
            yield from foreign.judged(chain([first], members), self._strip, self._limits)
        else:
            if self._strip:
                raise Misconfigured("pkgstore made the archive: its names are keys, so leave out --strip-components")
            yield from self._ours(members, self._read_head(first))
        self.is_whole = True

    @property
    def base(self) -> str | None:
        """The digest of the manifest of the archive that this one continues, if any."""
        return None if self.head is None else self.head.base

    @property
    def is_broken(self) -> bool:
        """Whether the archive itself could not be read on."""
        return self._members.failure is not None

    @property
    def sha256(self) -> str:
        """The digest of the manifest, once the last blob was read."""
        return self._running.digest

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes of the body of the blob at hand; empty at its end."""
        return self._members.read(size)

    def read_all(self) -> bytes:
        """Return the body of the blob at hand."""
        return self._members.read_all()

    def rest(self) -> Iterator[manifest.Entry]:
        """Yield what the manifest says after the last blob: what the base has, and what was deleted since."""
        if self._manifest is not None:
            yield from manifest.checked(self._manifest, self._beyond)

    def as_base(self) -> Base:
        """Return the manifest, once the last blob was read. Raises `Misconfigured`."""
        if self._manifest is None or self.head is None:
            raise Misconfigured("there is no manifest in that archive: give one that pkgstore exported")
        return Base(self._manifest, self._head_length, self.sha256, self.head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._manifest is not None:
            self._manifest.close()

    # -- our own ------------------------------------------------------------------------------------------------------

    def _check_header(self, member: Member) -> None:
        """Refuse what the exporter would not have written: the signature is of the manifest, and tar heeds more."""
        if member.name is None or member.header != header(member.name, member.size, member.comment):
            self._fail(f"the header of {keys.shown(str(member.name))} is not as pkgstore writes it")

    def _read_head(self, member: Member) -> manifest.Head:
        self._check_header(member)
        if member.size > manifest.LONGEST_LINE:
            self._fail("its head is too long")
        line = self.read_all()
        if not line.endswith(b"\n"):
            self._fail("its head is malformed")
        try:
            head = self.head = manifest.parsed_head(line[:-1])
        except ValueError as exc:
            self._fail(str(exc))
        self._running.add_text(line)
        self._head_length = len(line)
        self._check(_comment(member)[0])
        return head

    def _ours(self, members: Iterator[Member], head: manifest.Head) -> Iterator[Item | Refused]:
        last = ""
        for member in members:
            if member.is_folder or member.refusal:
                self._fail(f"it holds {member.refusal or 'a folder'}, which pkgstore does not write")
            self._check_header(member)
            signature, line = _comment(member)
            if member.name == manifest.MANIFEST:
                self._read_manifest(member, signature, head)
                if next(members, None) is not None:
                    self._fail("something follows its manifest")
                return
            try:
                entry = manifest.parsed(line)
                head.check(entry)
            except ValueError as exc:
                self._fail(str(exc))
            if (entry.kind, entry.key, entry.size) != ("key", member.name, member.size):
                self._fail(f"the header of {keys.shown(entry.key)} does not agree with the manifest")
            if entry.key <= last:
                self._fail(f"it has {keys.shown(entry.key)} twice, or out of order")
            last = entry.key
            self._running.add(line)
            self._totals.count(entry)
            self._check(signature)
            if excess := self._limits.excess(entry.size):
                yield Refused(entry.key, excess)
            else:
                yield Item(entry.key, entry.size, entry.digests, entry.replaces)
        self._fail("it has no manifest at its end")

    def _read_manifest(self, member: Member, signature: str, head: manifest.Head) -> None:
        """Take the whole manifest, which must begin with the lines that came with the blobs."""
        if member.size < self._running.length:
            self._fail("its manifest leaves out blobs")
        file = self._manifest = spool()
        so_far = Hasher(["sha256"])
        left = self._running.length
        while data := self.read(min(left, _CHUNK)):
            file.write(data)
            so_far.update(data)
            left -= len(data)
        if so_far.digests()["sha256"] != self._running.digest:
            self._fail("its manifest differs from what came with the blobs")
        beginning = self._beyond = self._running.length
        while data := self.read(_CHUNK):
            file.write(data)
            self._running.add_text(data)
        self._check(signature)
        try:
            starts: dict[manifest.Kind, int] = {"key": self._head_length}
            for entry in manifest.entries(file, beginning, totals=self._totals, starts=starts):
                if entry.kind == "key":
                    self._fail(f"it lacks {keys.shown(entry.key)}, which its manifest has")
                head.check(entry)
            manifest.check_kinds(file, starts)
        except ValueError as exc:
            self._fail(str(exc))

    def _check(self, signature: str) -> None:
        if self._checker is None:
            self.signature = "unchecked" if signature else "none"
        elif not signature:
            raise Denied("the archive is not signed, and a key to check it with was given: take one that is")
        elif not self._checker.is_good(self._running.digest, signature):
            raise Denied("the archive is not signed with the key that was given, or was changed since: do not trust it")
        else:
            self.signature = "good"

    def _fail(self, what: str) -> NoReturn:
        self._members.fail(what)


def _comment(member: Member) -> tuple[str, bytes]:
    """Return the signature and the line of the manifest that a header of ours carries."""
    signature, _, line = member.comment.partition(" ")
    return "" if signature == "-" else signature, line.encode()


def _opened(source: Readable, key: bytes | None, limits: Limits) -> Iterator[bytes]:
    """Yield the tar stream that a file holds, whether it is sealed, packed or neither."""
    file = Rewound(source, len(sealing.MAGIC))
    if not file.first:
        raise Corrupt("the archive is empty: take another copy")
    if file.first == sealing.MAGIC:
        if key is None:
            raise Denied("the archive is sealed: give the file of the key that it was exported with")
        chunks = sealing.unsealed(partial(exactly, file), key)
    elif key is not None:
        raise Denied("the archive is not sealed, and a key to open it with was given: anybody may have made it")
    else:
        chunks = iter(partial(file.read, _CHUNK), b"")
    first = next(chunks, b"")
    while len(first) < packing.LONGEST_MAGIC and (more := next(chunks, b"")):
        first += more
    yield from packing.unpacked(chain([first], chunks), first[: packing.LONGEST_MAGIC], limits.ratio, limits.total)
