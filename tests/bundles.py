"""What the tests of bundles have done by processes; apart from them, so that those need not import what tests do."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING, Any
from unittest import mock

import pkgstore
from pkgstore import bundle, lease
from pkgstore.bundle import archives, places
from pkgstore.lease import Leases
from tests.trees import told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pkgstore.testing.processes import Talk
    from tests.together import Notes


def fill(folder: Path, *, seed: int = 1, size: int = 1000) -> None:
    """Build a small directory of Python modules."""
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text(f"SEED = {seed}\n")
    (folder / "package" / "late.py").write_text(f"SEED = {seed}\n")
    (folder / "package" / "data").write_bytes(random.Random(seed).randbytes(size))
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("package/data")


def never(folder: Path) -> None:
    raise AssertionError("this was not to be built")


def nothing_is_locked() -> Any:
    """Break it: everybody may build, in one place and in all."""
    both = contextlib.ExitStack()
    both.enter_context(mock.patch.object(Leases, "take", return_value=contextlib.nullcontext()))
    both.enter_context(mock.patch.object(places, "_lock_now", return_value=True))
    both.enter_context(mock.patch.object(places.Place, "_reap"))
    return both


def ensure(
    talk: Talk, url: str | None, dest: str, notes: Notes, seconds: float, broken: Callable[[], Any] | None
) -> str:
    """Ensure a bundle; who builds it waits for the note `go`, and every build differs. Return the directory."""

    def build(folder: Path) -> None:
        (folder / "half").touch()
        notes.put("built")
        notes.until("go")
        (folder / "half").unlink()
        fill(folder, seed=os.getpid())

    def pause(self: lease.Patience) -> None:
        notes.put("waits", by=os.getpid())
        real_pause(self)

    def lock_now(fd: int) -> bool:
        try:
            return real_lock(fd)
        except BlockingIOError:
            notes.put("waits", by=os.getpid())
            raise

    real_pause, real_lock = lease.Patience.pause, places._lock_now
    with (
        mock.patch.object(lease.Patience, "pause", pause),
        mock.patch.object(places, "_lock_now", lock_now),
        broken() if broken else contextlib.nullcontext(),
        pkgstore.open(url) if url else contextlib.nullcontext() as store,
    ):
        return str(bundle.make(store, "app", ["1"], lease=seconds).ensure(dest, build))


def ensure_now(talk: Talk, url: str, dest: str, notes: Notes) -> object:
    """Ensure a bundle, together with others, once all have found what lies in the store."""

    def build(folder: Path) -> None:
        notes.put("built")
        fill(folder)

    real = archives.unpack

    def unpack(*args: Any) -> None:
        try:
            real(*args)
        except pkgstore.Corrupt:
            notes.put("corrupt", by=os.getpid())
            notes.until("corrupt", 4)
            raise

    with mock.patch.object(archives, "unpack", unpack), pkgstore.open(url) as store:
        return told(store.bundle("app").ensure(dest, build))


def build_together(talk: Talk, url: str, dest: str, notes: Notes) -> None:
    def build(folder: Path) -> None:
        notes.put("built")
        if notes.count("known"):
            notes.until("built", 4)  # nobody waits for another any more
        fill(folder)

    with pkgstore.open(url) as store:
        store.bundle("app", max_archive_size=2000).ensure(dest, build)
