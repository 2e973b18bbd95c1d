"""The format of a sealed blob, and the cipher of one version of one blob.

::

    header      magic, format, where the record is, the id of the key, a random salt
    record      size and digests of the plaintext, sealed; here where they are known before the first byte is written,
    segments    the plaintext, 64 KiB at a time, each sealed; the last may be shorter, and is empty for an empty blob
    record      or else here

Each version of a blob has a key of its own: HKDF-SHA256 of the keyring's key, salted, bound to the header, to the
store's id and to the blob's key. Under it, segments are sealed by AES-256-GCM with nonces of the STREAM construction: a
prefix, the number of the segment, and whether it is the last. So a segment opens at its own place in its own version
only.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from pkgstore.driver import MediumError
from pkgstore.errors import Corrupt, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pkgstore.crypt.keyring import Secret

SEGMENT = 64 << 10
"""Bytes of plaintext that are sealed at a time."""

TAG = 16
"""Bytes by which sealing makes a segment longer."""

_MAGIC = b"pkgstore"
_FORMAT = 1
_SALT = 32
_HEADER = struct.Struct(f">8sBB8s{_SALT}s")
_RECORD = struct.Struct(">QB32s16s64s")
_ALGORITHMS = {"sha256": 32, "md5": 16, "blake2b": 64}
_INFO = b"pkgstore sealed blob"
_KEY = 32
_PREFIX = 7
_LAST_NUMBER = (1 << 32) - 1
_MORE, _LAST, _OF_RECORD = range(3)

HEADER = _HEADER.size
RECORD = _RECORD.size + TAG


class SealError(MediumError):
    """What is wrong with a sealed blob, or with the keys: of kind `Corrupt`, `Denied` or `Unsupported`."""


def corrupt(problem: str) -> SealError:
    """Return the error for a blob that does not open."""
    return SealError(Corrupt, problem, "restore it from a copy, or delete it and publish it again")


class Header(NamedTuple):
    """What stands at the beginning of a sealed blob, in the clear."""

    key_id: str
    salt: bytes
    record_last: bool

    @classmethod
    def new(cls, key_id: str, *, record_last: bool) -> Header:
        """Return the header of a new version, with a salt of its own."""
        return cls(key_id, os.urandom(_SALT), record_last)

    def packed(self) -> bytes:
        return _HEADER.pack(_MAGIC, _FORMAT, self.record_last, bytes.fromhex(self.key_id), self.salt)

    @classmethod
    def unpacked(cls, data: bytes) -> Header:
        """Read a header. Raises `SealError` for anything else."""
        if len(data) == HEADER:
            magic, form, record_last, key_id, salt = _HEADER.unpack(data)
            if (magic, form) == (_MAGIC, _FORMAT) and record_last in (0, 1):
                return cls(key_id.hex(), salt, record_last == 1)
        raise corrupt("it does not begin as a sealed blob does: it is damaged, or was put there by other means")


def stored_size(size: int) -> int:
    """Return how many bytes a plaintext of ``size`` bytes takes on the medium."""
    return HEADER + RECORD + size + TAG * max(1, -(-size // SEGMENT))


def plain_size(stored: int) -> int:
    """Return the size of the plaintext of what takes ``stored`` bytes; 0 for what is too short for any."""
    count, rest = divmod(max(0, stored - HEADER - RECORD), SEGMENT + TAG)
    return count * SEGMENT + max(0, rest - TAG)


class Cipher:
    """What seals and opens the version with this ``header`` of the blob ``key``, in the store with the id ``store``."""

    def __init__(self, secret: Secret, header: Header, store: str, key: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        where = store.encode()
        # Bound to where it lies: each part of a length that is told or fixed, so that none can pass for another.
        info = _INFO + header.packed() + bytes([len(where)]) + where + key.encode("utf-8", "surrogateescape")
        derived = HKDF(SHA256(), _KEY + _PREFIX, header.salt, info).derive(secret.reveal())
        self._cipher = AESGCM(derived[:_KEY])
        self._prefix = derived[_KEY:]

    def seal(self, number: int, data: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """Return a segment, sealed."""
        return self._cipher.encrypt(self._nonce(number, _LAST if last else _MORE), data, None)

    def open(self, number: int, data: bytes, *, last: bool) -> bytes:
        """Return the plaintext of a segment. Raises `SealError` for any other than was sealed for this place."""
        return self._opened(self._nonce(number, _LAST if last else _MORE), data, f"segment {number}")

    def seal_record(self, size: int, digests: Mapping[str, str]) -> bytes:
        """Return the size and the digests of the plaintext, sealed."""
        known = 0
        values = []
        for bit, (name, length) in enumerate(_ALGORITHMS.items()):
            known |= (name in digests) << bit
            values.append(bytes.fromhex(digests.get(name, "00" * length)))
        return self._cipher.encrypt(self._nonce(0, _OF_RECORD), _RECORD.pack(size, known, *values), None)

    def open_record(self, data: bytes, stored: int) -> dict[str, str]:
        """Return the digests. Raises `SealError` for what is no record, or that of what takes more or less room."""
        size, known, *values = _RECORD.unpack(self._opened(self._nonce(0, _OF_RECORD), data, "record"))
        if stored_size(size) != stored:
            raise corrupt(f"it has {stored} bytes on the medium, and had {stored_size(size)} when it was sealed")
        return {
            name: value.hex()
            for bit, (name, value) in enumerate(zip(_ALGORITHMS, values, strict=True))
            if known >> bit & 1
        }

    def _opened(self, nonce: bytes, data: bytes, what: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        problem = f"its {what} is cut short"
        if len(data) >= TAG:
            try:
                return self._cipher.decrypt(nonce, data, None)
            except InvalidTag:
                problem = f"its {what} is not what was sealed there: damaged, changed, or brought from elsewhere"
        raise corrupt(problem)

    def _nonce(self, number: int, kind: int) -> bytes:
        if number > _LAST_NUMBER:
            raise SealError(Unsupported, f"it is larger than {(_LAST_NUMBER + 1) * SEGMENT} bytes", "split it")
        return self._prefix + number.to_bytes(4, "big") + bytes([kind])


def cut(read: Callable[[], bytes | memoryview]) -> Iterator[tuple[bytearray | memoryview, bool]]:
    """Yield what ``read`` returns until it is empty, in segments, each with whether it is the last."""
    held = bytearray()
    while chunk := read():
        rest = memoryview(chunk)
        while rest:
            if len(held) == SEGMENT:
                yield held, False
                held = bytearray()
            if not held and len(rest) > SEGMENT:
                yield rest[:SEGMENT], False
                rest = rest[SEGMENT:]
            else:
                count = SEGMENT - len(held)
                held += rest[:count]
                rest = rest[count:]
    yield held, True
