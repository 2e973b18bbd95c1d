"""Signatures: Ed25519, over the digest that the manifest has as far as it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pkgstore.archive.local import read_small
from pkgstore.errors import Misconfigured
from pkgstore.extras import needed

if TYPE_CHECKING:
    import os

_CONTEXT = b"pkgstore archive 1\n"
_MAKE = "make one with `openssl genpkey -algorithm ed25519`"


class Signer(Protocol):
    """Who signs an archive."""

    def sign(self, digest: str) -> str:
        """Return the signature of a digest, in hexadecimal."""

    def checker(self) -> Checker:
        """Return who trusts what this one signs."""


class Checker(Protocol):
    """Who knows whether a signature is good."""

    def is_good(self, digest: str, signature: str) -> bool:
        """Say whether ``signature`` is one of ``digest``, by the key that is trusted."""


def signer(path: str | os.PathLike[str]) -> Signer:
    """Return who signs with the private key in a PEM file. Raises `Misconfigured`."""
    with needed("signing", "archive"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_small(path)
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise Misconfigured(
            f"the key in {path} is protected by a password: give one without, that only you read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Misconfigured(f"{path} holds no private key in PEM: {_MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"the key in {path} is not of Ed25519: {_MAKE}")
    return _Signer(key)


def checker(path: str | os.PathLike[str]) -> Checker:
    """Return who trusts the public key in a PEM file. Raises `Misconfigured`."""
    with needed("checking a signature", "archive"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = read_small(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise Misconfigured(
            f"{path} holds no public key in PEM: `openssl pkey -in key.pem -pubout` writes it"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise Misconfigured(f"the key in {path} is not of Ed25519: {_MAKE}")
    return _Checker(key)


class _Signer:
    def __init__(self, key: object) -> None:
        self._key = key

    def sign(self, digest: str) -> str:
        signature: bytes = self._key.sign(_CONTEXT + digest.encode())  # type: ignore[attr-defined]
        return signature.hex()

    def checker(self) -> Checker:
        return _Checker(self._key.public_key())  # type: ignore[attr-defined]


class _Checker:
    def __init__(self, key: object) -> None:
        self._key = key

    def is_good(self, digest: str, signature: str) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            data = bytes.fromhex(signature)
            self._key.verify(data, _CONTEXT + digest.encode())  # type: ignore[attr-defined]
        except (InvalidSignature, ValueError):
            return False
        return data.hex() == signature
