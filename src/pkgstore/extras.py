"""Packages that only some uses need: which extra of ours has them, when they are missing."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """Say of a package that is not there which extra has it. Raises `Misconfigured`."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise Misconfigured(f"{what} needs {exc.name}: pip install 'pkgstore[{extra}]'") from exc


def zstd() -> Any:
    """Return the module of zstd: Python's own, from 3.14 on, or its twin for older ones. Raises `Misconfigured`."""
    with needed("zstd", "archive"):
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    return zstd
