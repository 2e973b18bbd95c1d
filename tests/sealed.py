"""Encrypted stores for tests, each with a keyring beside it."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pkgstore
from pkgstore.crypt import keyring

if TYPE_CHECKING:
    from pkgstore import Store


def ring_of(url: str) -> Path:
    """Return the path of the keyring for a store; it is made by whoever first asks for it."""
    name = url.partition("://")[2].partition("?")[0]
    folder = Path(name).parent if url.startswith("file:") else Path(tempfile.gettempdir())
    path = folder / f"{name.replace('/', '-')[-100:]}.keyring"
    if not path.exists():
        with contextlib.suppress(pkgstore.Misconfigured):  # another process has made it at the same moment
            keyring.make(str(path))
    return path


def open_sealed(url: str, **options: Any) -> Store:
    """Open an encrypted store, as `pkgstore.open` does."""
    return pkgstore.open(url, keyring=ring_of(url), **options)
