"""The state machine of the kit notices a store that is not a dictionary."""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis.errors import FlakyFailure, FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

import pkgstore
from pkgstore import Blob
from pkgstore.drivers.memory import MemoryDriver
from pkgstore.testing.machine import StoreMachine

if TYPE_CHECKING:
    from collections.abc import Iterator


class SortedByFolder(MemoryDriver):
    """Lists what a folder holds where the folder's name sorts."""

    def scan(self, prefix: str) -> Iterator[Blob]:
        yield from sorted(super().scan(prefix), key=lambda blob: blob.key.split("/"))


class ForgetsAReplacement(MemoryDriver):
    """Keeps the old version, and says nothing."""

    def put(self, key: str, body: Any, size: Any, *, exclusive: bool, **options: Any) -> Blob:
        while not exclusive and body.read():
            pass
        if not exclusive and any(blob.key == key for blob in self.scan("")):
            body.finish()
            return self.stat(key)
        return super().put(key, body, size, exclusive=exclusive, **options)


class DeletesBelow(MemoryDriver):
    """Deletes also what has a longer name."""

    def delete(self, key: str, *, tag: str | None = None) -> None:
        for blob in list(self.scan("")):
            if blob.key.startswith(key):
                super().delete(blob.key)


class ReadsFromTheStart(MemoryDriver):
    """Has streams that cannot be moved, and opens them at their start."""

    def open(self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None) -> Any:
        blob, stream = super().open(key, tag=tag)
        return blob, Unseekable(stream.read())


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False


class TagsBySize(MemoryDriver):
    """Gives two versions of a key the same tag when they have the same size."""

    def stat(self, key: str) -> Blob:
        blob = super().stat(key)
        return Blob(blob.key, blob.size, blob.mtime, str(blob.size), blob.digests)

    def put(self, key: str, *args: Any, **options: Any) -> Blob:
        super().put(key, *args, **options)
        return self.stat(key)

    def delete(self, key: str, *, tag: str | None = None) -> None:
        super().delete(key)


def run(driver: type[MemoryDriver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkgstore.drivers.memory.MemoryDriver", driver)
    url = f"memory://{uuid.uuid4().hex}"
    machine = type("Machine", (StoreMachine,), {"opener": staticmethod(pkgstore.open), "url": url, "published": set()})
    checks = settings(max_examples=200, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    run_state_machine_as_test(machine, settings=checks)


@pytest.mark.parametrize("driver", [SortedByFolder, ForgetsAReplacement, DeletesBelow, ReadsFromTheStart, TagsBySize])
def test_a_store_that_is_no_dictionary(driver: type[MemoryDriver], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, pkgstore.Corrupt, FlakyFailure, FlakyStrategyDefinition)):
        run(driver, monkeypatch)


def test_a_store_that_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run(MemoryDriver, monkeypatch)
