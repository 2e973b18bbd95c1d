"""A driver over that of a medium, which is given ciphertext.

What a store's own documents say has to be known before there are keys, or without them: those below `OPEN` stay as they
are, and so does what was sealed for another place: corrupt blobs that are kept aside, and deleted files of a share
that are still open somewhere. All else is sealed, whatever lies below `.pkgstore/` included.

Sizes are those of the plaintext, and known without keys. Digests are those of the plaintext, too, and are sealed with
it, since they would let people guess what it is; those of the ciphertext are what the medium's driver keeps.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO, cast

from pkgstore import keys
from pkgstore.crypt.reading import OpenedStream
from pkgstore.crypt.sealing import SealedBody, SpooledBody
from pkgstore.crypt.segments import HEADER, RECORD, SEGMENT, TAG, Cipher, Header, SealError, plain_size, stored_size
from pkgstore.driver import Blob, KnowsBefore, LocalPath
from pkgstore.errors import Denied, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pkgstore.crypt.keyring import Keyring, NoKeyring
    from pkgstore.driver import Body, Driver
    from pkgstore.errors import StoreError

OPEN = tuple(
    f"{keys.CONTROL}/{name}"
    for name in ("store.json", "ledger/", "doctor/", "probe/", "tmp/", "digests/", "quarantine/", "trash/")
)

_LOOKS = 5


class SealedDriver:
    """The verbs, over a ``medium`` that sees ciphertext. ``store`` is the id of the store, to which it is bound."""

    def __init__(self, medium: Driver, store: str, keyring: Keyring | NoKeyring) -> None:
        self.medium = medium
        self.keyring = keyring
        self._store = store

    @property
    def scheme(self) -> str:
        return self.medium.scheme

    @property
    def exclusive(self) -> bool:
        return self.medium.exclusive

    @property
    def streams(self) -> bool:
        return self.medium.streams

    # -- verbs --------------------------------------------------------------------------------------------------------

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        medium = self.medium
        if key.startswith(OPEN):
            return medium.put(key, body, size, digests=digests, exclusive=exclusive, token=token)
        secret = self.keyring.active
        header = Header.new(secret.id, record_last=medium.streams)
        cipher = Cipher(secret, header, self._store, key)
        if medium.streams:
            with SealedBody(body, cipher, header, size, None) as sealed:
                length = None if size is None else stored_size(size)
                blob = medium.put(key, sealed, length, digests={}, exclusive=exclusive, token=token)
        else:
            algorithms = {"sha256", *(medium.spool_digests if isinstance(medium, KnowsBefore) else ())}
            with (
                SealedBody(body, cipher, header, size, digests, algorithms) as sealed,
                SpooledBody(sealed) as spooled,
            ):
                blob = medium.put(key, spooled, spooled.size, digests=spooled.digests, exclusive=exclusive, token=token)
        if sealed.count:
            return _plain(blob, sealed.judge())
        return self.stat(key)  # an earlier attempt has won, and nothing was read

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        if key.startswith(OPEN):
            return self.medium.open(key, start, stop, tag=tag)
        for looks_left in reversed(range(_LOOKS)):
            found, stream = self.medium.open(key, 0, _enough(start, stop), tag=tag)
            try:
                return self._opened(found, stream, start, stop)
            except BaseException as exc:
                stream.close()
                # Another version took its place, between two requests for parts of it.
                if tag is not None or not looks_left or self.classify(exc) is not NotFound:
                    raise
        raise AssertionError("unreachable")

    def stat(self, key: str) -> Blob:
        """Return what is at ``key``; without digests, where the keys are not at hand or the record is damaged.

        What that is about, opening it says; what a blob is called, its size and its version are known in any case.
        """
        if key.startswith(OPEN):
            return self.medium.stat(key)
        found, stream = self.medium.open(key, 0, HEADER + RECORD)
        with stream:
            return self._looked_at(found, stream)

    def scan(self, prefix: str) -> Iterator[Blob]:
        for found in self.medium.scan(prefix):
            if found.key.startswith(OPEN):
                yield found
            elif isinstance(self.medium, LocalPath):  # where that takes no request
                yield self._listed(found)
            else:
                yield _plain(found, {})

    def delete(self, key: str, *, tag: str | None = None) -> None:
        self.medium.delete(key, tag=tag)

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        return exc.kind if isinstance(exc, SealError) else self.medium.classify(exc)

    def close(self) -> None:
        self.medium.close()

    # -- for re-encryption --------------------------------------------------------------------------------------------

    def sealed_under(self, key: str) -> tuple[Blob, str]:
        """Return what is at ``key``, and the id of the key under which it is sealed."""
        found, stream = self.medium.open(key, 0, HEADER)
        with stream:
            return _plain(found, {}), Header.unpacked(_exactly(stream, HEADER)).key_id

    # -- how ----------------------------------------------------------------------------------------------------------

    def _opened(self, found: Blob, stream: BinaryIO, start: int, stop: int | None) -> tuple[Blob, BinaryIO]:
        """Return a blob, and its plaintext; ``stream`` is its ciphertext from the first byte on."""
        header, cipher, digests = self._begun(found, stream)
        blob = _plain(found, digests)
        first = HEADER if header.record_last else HEADER + RECORD
        standing = 0
        if stream.seekable():
            standing = -1  # wherever it stands now
        elif start >= SEGMENT:
            standing = start // SEGMENT
            end = None if stop is None else _end_of_segment(first, stop)
            follow = self.medium.open(found.key, first + standing * (SEGMENT + TAG), end, tag=found.tag)[1]
            stream.close()
            stream = follow
        opened = OpenedStream(stream, cipher, first, blob.size, start=start, standing=standing)
        return blob, cast("BinaryIO", opened)

    def _begun(self, found: Blob, stream: BinaryIO) -> tuple[Header, Cipher, dict[str, str]]:
        """Return the header, what opens the segments, and what the record says; ``stream`` stands at the first byte."""
        header = Header.unpacked(_exactly(stream, HEADER))
        cipher = Cipher(self.keyring.find(header.key_id), header, self._store, found.key)
        return header, cipher, cipher.open_record(self._record(found, stream, header), found.size)

    def _record(self, found: Blob, stream: BinaryIO, header: Header) -> bytes:
        """Return the record; a stream that is not seekable stands before the segments then."""
        if not header.record_last:
            return _exactly(stream, RECORD)
        start = max(HEADER, found.size - RECORD)
        if stream.seekable():
            stream.seek(start)
            return _exactly(stream, RECORD)
        with self.medium.open(found.key, start, tag=found.tag)[1] as tail:
            return _exactly(tail, RECORD)

    def _looked_at(self, found: Blob, stream: BinaryIO) -> Blob:
        digests: dict[str, str] = {}
        with contextlib.suppress(SealError):
            digests = self._begun(found, stream)[2]
        return _plain(found, digests)

    def _listed(self, found: Blob) -> Blob:
        try:
            _, stream = self.medium.open(found.key, 0, HEADER + RECORD, tag=found.tag)
        except Exception as exc:
            if self.classify(exc) not in (NotFound, Denied):
                raise
            return _plain(found, {})
        with stream:
            return self._looked_at(found, stream)


def _plain(found: Blob, digests: Mapping[str, str]) -> Blob:
    return Blob(found.key, plain_size(found.size), found.mtime, found.tag, dict(digests))


def _enough(start: int, stop: int | None) -> int | None:
    """Return how far a blob has to be read at first: to its record, and on when ``start`` is in the first segment."""
    if start >= SEGMENT:
        return HEADER + RECORD
    return None if stop is None else _end_of_segment(HEADER + RECORD, stop)


def _end_of_segment(first: int, stop: int) -> int:
    return first + max(1, -(-stop // SEGMENT)) * (SEGMENT + TAG)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    """Return so many bytes, or as many as there are."""
    data = b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data
