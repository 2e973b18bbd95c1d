"""Encryption of a whole archive: AES-256-GCM in segments, so that none can be left out, moved or cut off (STREAM).

A sealed archive is a head (magic, the key's name, a salt) and segments of 64 KiB, each with its tag. The cipher's key
is derived from the key of the file and the salt, and so is new for each archive; a segment's nonce is its number, and
whether it is the last.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from pkgstore.archive.local import read_small
from pkgstore.errors import Corrupt, Denied, Misconfigured
from pkgstore.extras import needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"pkgstore-sealed\x01"
_NAME = 8
_SALT = 32
_KEY = 32
_SEGMENT = 1 << 16
_TAG = 16


def read_key(path: str | os.PathLike[str]) -> bytes:
    """Return the key in a file: 32 bytes, as they are, in hexadecimal or in base64. Raises `Misconfigured`."""
    data = read_small(path)
    if len(data) == _KEY:
        if data.isascii() and data.decode().replace("\n", " ").isprintable():
            raise Misconfigured(
                f"{os.fspath(path)} holds {_KEY} printable characters, so a shorter key, or a password: make a"
                f" key with `openssl rand -hex {_KEY}`"
            )
        return data
    text = data.strip()
    for decode in (bytes.fromhex, _from_base64):
        try:
            key = decode(text.decode("ascii"))
        except ValueError:
            continue
        if len(key) == _KEY:
            return key
    raise Misconfigured(
        f"{os.fspath(path)} holds no key of {_KEY} bytes, in hexadecimal or base64: make one with"
        f" `openssl rand -hex {_KEY}`"
    )


def sealed(chunks: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    """Yield what ``chunks`` yield, sealed with ``key``."""
    head = MAGIC + _name(key) + os.urandom(_SALT)
    cipher = _cipher(key, head)
    yield head
    pending = bytearray()
    number = 0
    for chunk in chunks:
        pending += chunk
        at = 0
        while len(pending) - at > _SEGMENT:  # one is kept back, as it may be the last
            yield cipher.encrypt(_nonce(number, last=False), pending[at : at + _SEGMENT], head)
            number += 1
            at += _SEGMENT
        del pending[:at]
    yield cipher.encrypt(_nonce(number, last=True), pending, head)


def unsealed(read: Callable[[int], bytes], key: bytes) -> Iterator[bytes]:
    """Yield what was sealed with ``key``; ``read`` returns exactly as many bytes as are asked for, but at the end.

    Raises `Denied` for another key, and `Corrupt` for what is not as it was sealed.
    """
    with needed("encryption", "archive"):
        from cryptography.exceptions import InvalidTag

    head = read(len(MAGIC) + _NAME + _SALT)
    if len(head) != len(MAGIC) + _NAME + _SALT:
        raise Corrupt("the sealed archive is cut short: take another copy")
    if not hmac.compare_digest(head[len(MAGIC) :][:_NAME], _name(key)):
        raise Denied(
            "the archive is sealed with another key than the one given: give the key that it was exported with"
        )
    cipher = _cipher(key, head)
    number = 0
    segment = read(_SEGMENT + _TAG)
    while True:
        following = read(_SEGMENT + _TAG)
        try:
            yield cipher.decrypt(_nonce(number, last=not following), segment, head)
        except InvalidTag:
            raise Corrupt(
                f"the sealed archive is not as it was written, from byte {len(head) + number * (_SEGMENT + _TAG)} on,"
                " or is cut short: take another copy"
            ) from None
        if not following:
            return
        number += 1
        segment = following


def _cipher(key: bytes, head: bytes) -> AESGCM:
    with needed("encryption", "archive"):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), _KEY, salt=head[-_SALT:], info=b"pkgstore archive: cipher").derive(key)
    return AESGCM(derived)


def _name(key: bytes) -> bytes:
    """Return what tells this key from others, and tells nothing of it."""
    return hmac.new(key, b"pkgstore archive: name of the key", hashlib.sha256).digest()[:_NAME]


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(str(exc)) from None
