"""Which driver serves which URL scheme.

A driver's entry is a function, called as ``connect(url, create=…, **options)`` with a split URL and the
medium's own options, whose names are its keyword-only parameters with defaults. It returns a `pkgstore.driver.Driver`.
Others than ours are found through the entry-point group ``pkgstore.drivers``, by scheme.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from pkgstore.config import suggest
from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore.driver import Driver

GROUP = "pkgstore.drivers"

_OURS = {
    "file": "pkgstore.drivers.local",
    "gs": "pkgstore.drivers.gcs",
    "memory": "pkgstore.drivers.memory",
    "nfs": "pkgstore.drivers.nfs",
    "s3": "pkgstore.drivers.s3",
    "smb": "pkgstore.drivers.smb",
}
_EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs"), "smb": ("smb", "smbprotocol")}


def find(scheme: str) -> Callable[..., Driver]:
    """Return the function that connects to media of this scheme.

    Raises `Misconfigured` when there is none, or when what it needs is not installed.
    """
    if scheme in _OURS:
        extra, library = _EXTRAS.get(scheme, ("", ""))
        if library and find_spec(library) is None:
            raise Misconfigured(
                f"{scheme}: URLs need {library}, which is not installed: python -m pip install 'pkgstore[{extra}]'"
            )
        return cast("Callable[..., Driver]", import_module(_OURS[scheme]).connect)
    from importlib.metadata import entry_points

    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in others:
        raise Misconfigured(f"no driver serves {scheme}: URLs: {suggest(scheme, {*_OURS, *others})}")
    try:
        return cast("Callable[..., Driver]", others[scheme].load())
    except ImportError as exc:
        raise Misconfigured(f"the driver for {scheme}: URLs cannot be loaded ({exc}): install what it needs") from exc


def makes_unasked(scheme: str) -> bool:
    """Say whether opening a URL of this scheme makes a store where there is none, unless told otherwise.

    Not where a share that is not mounted looks like an empty folder.
    """
    return scheme != "nfs"


def own_options(connect: Callable[..., Driver]) -> set[str]:
    """Return the names of the options that belong to a medium alone."""
    return set(getattr(connect, "__kwdefaults__", None) or ())
