"""Mutants that lose, delete, read or list wrongly."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from typing import TYPE_CHECKING, Any

from pkgstore.drivers import local, posix
from pkgstore.drivers.local import LocalDriver
from pkgstore.drivers.staging import Staged, Staging
from pkgstore.drivers.tree import Tree
from pkgstore.testing import processes
from tests.mutants.registry import mutant, patch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.driver import Blob


# -- durability -------------------------------------------------------------------------------------------------------


@mutant(test_what_was_acknowledged_survives="a power cut after")
def folders_are_not_flushed() -> None:
    """Flushes the files only."""
    patch(posix, "settle", lambda folder: None)
    patch(posix, "sync_folder", lambda path: None)
    patch(Tree, "_pin", lambda self, child, parent: None)


@mutant(test_what_was_acknowledged_survives="a power cut after")
def new_folders_are_not_flushed() -> None:
    """Flushes the folder that holds the blob, and not the one that holds the folder."""
    patch(Tree, "_pin", lambda self, child, parent: None)


@mutant(test_what_was_acknowledged_survives="a power cut after")
def files_are_not_flushed() -> None:
    """Flushes the folders only."""
    patch(Staged, "sync", lambda self: None)


# -- what is left, and what is not to be touched ----------------------------------------------------------------------


@mutant(test_a_live_writer_is_never_reaped="was removed")
def reaps_by_age() -> None:
    """Takes what has not been written to for a while (here: at all) for abandoned."""

    def reap(self: Staging) -> int:
        files = self._files()
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return len(files)

    patch(Staging, "reap", reap)


@mutant(test_what_the_dead_left_is_reaped="the reaping of what dead publishers left did not happen")
def never_reaps() -> None:
    """Leaves what dead publishers left."""
    patch(Staging, "reap", lambda self: 0)
    patch(processes, "PATIENCE", 2.0)


@mutant(test_delete_leaves_its_siblings="held(store) == siblings")
def deletes_the_folder() -> None:
    """Deletes the blob's folder, as there is a function for it."""

    def delete(self: LocalDriver, key: str, *, tag: str | None = None) -> None:
        with contextlib.suppress(FileNotFoundError):
            if tag in (None, self.stat(key).tag):
                path = os.path.join(self.root, key)
                shutil.rmtree(os.path.dirname(path)) if "/" in key else os.unlink(path)

    patch(LocalDriver, "delete", delete)


@mutant(
    test_delete_of_one_version="FileNotFoundError",
    test_a_delete_repeated_spares_what_is_newer="assert {} == {'a': b'new'}",
)
def deletes_any_version() -> None:
    """Takes no notice of the version that is to be deleted."""
    original = LocalDriver.delete

    def delete(self: LocalDriver, key: str, *, tag: str | None = None) -> None:
        original(self, key)

    patch(LocalDriver, "delete", delete)


@mutant(test_folders_that_come_and_go="NotFound(")
def gives_up_when_a_folder_goes() -> None:
    """Fails when another process removes the folder in which a blob is to be."""
    patch(LocalDriver, "_name", LocalDriver._try_to_name)


# -- reading and listing ----------------------------------------------------------------------------------------------


@mutant(test_a_reader_keeps_its_version="Corrupt")
def readers_follow_the_name() -> None:
    """Opens the file anew for every read."""

    class Following(io.RawIOBase):
        def __init__(self, path: str, at: int) -> None:
            self.path, self.at = path, at

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                count = file.readinto(buffer)
            self.at += count
            return count

    original = LocalDriver.open

    def open_following(self: LocalDriver, key: str, start: int = 0, *args: Any, **options: Any) -> Any:
        blob, stream = original(self, key, start, *args, **options)
        stream.close()
        return blob, Following(os.path.join(self.root, key), start)

    patch(LocalDriver, "open", open_following)


@mutant(test_a_prefix_is_not_its_sibling="pypi-old/a")
def prefixes_without_their_slash() -> None:
    """Compares names with a prefix that has lost its slash."""
    original = LocalDriver.scan

    def scan(self: LocalDriver, prefix: str) -> Iterator[Blob]:
        if prefix.startswith(".pkgstore/"):
            return original(self, prefix)
        return (blob for blob in original(self, "") if blob.key.startswith(prefix.removesuffix("/")))

    patch(LocalDriver, "scan", scan)


@mutant(test_sorted_by_key="the file driver lists 'a/x-y' after 'a/x/y'")
def sorted_by_folder() -> None:
    """Lists what a folder holds where the folder's name sorts, without its slash."""
    original = LocalDriver.scan

    def scan(self: LocalDriver, prefix: str) -> Iterator[Blob]:
        return iter(sorted(original(self, prefix), key=lambda blob: blob.key.split("/")))

    patch(LocalDriver, "scan", scan)


@mutant(test_documents_of_the_store="== ['pkg/a']")
def control_folder_is_scanned() -> None:
    """Lists the store's own documents among the blobs."""
    patch(local, "_HIDDEN", set())


@mutant(test_memory_stays_flat="< 67108864")
def whole_bodies_in_memory() -> None:
    """Reads a body to its end before it writes."""
    original = LocalDriver.put

    class Whole:
        def __init__(self, body: Any) -> None:
            self.parts = [part for part in iter(body.read, b"") if part]
            self.finish = body.finish

        def read(self, size: int = -1) -> bytes:
            return self.parts.pop(0) if self.parts else b""

    def put(self: LocalDriver, key: str, body: Any, size: Any, **options: Any) -> Blob:
        return original(self, key, Whole(body), size, **options)

    patch(LocalDriver, "put", put)


@mutant(test_digests_on_request="== {}", test_every_verb_shows_the_same_blob="digests={}")
def digests_are_not_kept() -> None:
    """Returns the digests of what it writes, and forgets them."""
    patch(local.Records, "attach", lambda self, *record: True)
