"""What was learnt of blobs, kept on this host, so that a listing need not ask for it again.

`pkgstore.catalog.rows` is the file, `pkgstore.catalog.sharing` keeps a copy of it in the store, for the next host, and
`pkgstore.catalog.warming` fills it ahead of need.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pkgstore.catalog.rows import Catalog
from pkgstore.catalog.sharing import load
from pkgstore.config import expand
from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from pkgstore.calls import Calls

__all__ = ["Catalog", "file_of", "opened"]


def file_of(option: object) -> str:
    """Return the path that the option ``catalog`` names, with its variables expanded. Raises `Misconfigured`."""
    text = os.fspath(option) if isinstance(option, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise Misconfigured(f"the option catalog={option!r} is not the path of a file")
    path = os.path.abspath(os.path.expanduser(expand(text)))
    if text.endswith("/") or os.path.isdir(path):
        raise Misconfigured(f"the option catalog={text!r} names a folder: name a file, such as {path}/catalog.sqlite")
    folder = os.path.dirname(path)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise Misconfigured(f"the option catalog={text!r} names a file in {folder}, which is no folder")
    return path


def opened(path: str, calls: Calls, identity: str) -> Catalog:
    """Return the catalog at ``path`` for the store with this id; one that knows nothing takes the store's copy."""
    catalog = Catalog(path, identity)
    try:
        if catalog.is_empty():
            load(catalog, calls)
    except BaseException:
        catalog.close()
        raise
    return catalog
