"""Directories, as tests compare them."""

from __future__ import annotations

import os
from pathlib import Path


def told(tree: Path | str) -> dict[str, object]:
    """Return all that a bundle keeps of a directory, by path: bytes and whether it is a program, or where a link leads.

    Also when files were changed, which a bundle decides.
    """
    found: dict[str, object] = {}
    for path in sorted(Path(tree).rglob("*")):
        name = path.relative_to(tree).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "a folder"
        else:
            status = path.lstat()
            found[name] = (path.read_bytes(), oct(status.st_mode), status.st_mtime)
    return found
