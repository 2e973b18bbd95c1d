"""What the local driver has acknowledged survives a power cut, at whatever moment it comes: on a model of a medium.

See `tests.crash_model`. A real power cut, of a real kernel, is tried in `tests.labs`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from tests.crash_model import Medium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEDS = 2


@dataclass
class Ledger:
    """What a store has acknowledged: the bytes of each key, or None; and what may be true of a key meanwhile."""

    held: dict[str, bytes] = field(default_factory=dict)
    pending: dict[str, set[bytes | None]] = field(default_factory=dict)
    opened: str = ""

    @contextlib.contextmanager
    def changing(self, key: str, to: bytes | None) -> Iterator[None]:
        """Say that ``key`` is about to have the bytes ``to``, or none; it has them when the block ends."""
        self.pending = {key: {self.held.get(key), to}}
        yield
        self.pending = {}
        self.held.pop(key, None)
        if to is not None:
            self.held[key] = to


class Crashes:
    """Tries a crash whenever it is told of a change: opens what is left, and compares it with the ledger."""

    def __init__(self, medium: Medium, folder: Path, ledger: Ledger) -> None:
        self.count = 0
        self._medium = medium
        self._folder = folder
        self._ledger = ledger
        self._busy = False

    def after(self, what: str) -> None:
        """Crash after a call: with all recent names, with none of them, and with some."""
        if self._busy:
            return
        self._busy = True  # what follows makes and links files of its own
        try:
            for recent in (True, False):
                self._crash(what, None, recent)
            for seed in range(SEEDS):
                self._crash(what, f"{self.count} {seed}", False)
        finally:
            self._busy = False

    def _crash(self, what: str, seed: str | None, recent: bool) -> None:
        self.count += 1
        target = self._folder / f"{self.count}"
        self._medium.survivors(target, random.Random(seed) if seed else None, recent=recent)
        try:
            self._check(target / "store")
        except (AssertionError, pkgstore.StoreError) as exc:
            raise AssertionError(
                f"a power cut after {what} ({seed=}, {recent=}), with {self._ledger.pending} pending: {exc}"
            ) from exc
        shutil.rmtree(target)

    def _check(self, root: Path) -> None:
        ledger = self._ledger
        try:
            store = pkgstore.open(root, readonly=True)
        except pkgstore.NotFound:
            assert not ledger.opened, "the store is lost"
            return
        with store:
            assert ledger.opened in ("", store.id), "the store is another"
            blobs = {blob.key: blob for blob in store.list()}
            for key in ledger.held.keys() | ledger.pending.keys() | blobs.keys():
                allowed = ledger.pending.get(key, {ledger.held.get(key)})
                found = store.read(key) if key in blobs else None
                assert found in allowed, f"{key} is {_shown(found)}, not {' or '.join(map(_shown, allowed))}"
                if found is not None:
                    digest = blobs[key].digests.get("sha256")
                    assert digest in (None, hashlib.sha256(found).hexdigest()), f"{key} has a wrong digest"


def _shown(data: bytes | None) -> str:
    return "absent" if data is None else f"{data[:12]!r} ({len(data)} bytes)"


def unsupported(*args: Any, **kwargs: Any) -> None:
    """What a call does on a medium that lacks it."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


# By calls that fail, in the stead of media that lack them.
LACKS = {"nothing": [], "no hard links": ["link"], "no attributes": ["setxattr"], "neither": ["link", "setxattr"]}


@pytest.mark.parametrize("lacks", LACKS)
def test_what_was_acknowledged_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    for name in LACKS[lacks]:
        monkeypatch.setattr(os, name, unsupported)
    if "setxattr" in LACKS[lacks]:
        monkeypatch.setattr("tests.crash_model._write", _write_without_attributes)
    (tmp_path / "medium").mkdir()
    (tmp_path / "left").mkdir()
    ledger = Ledger()
    medium = Medium(tmp_path / "medium")
    crashes = Crashes(medium, tmp_path / "left", ledger)
    with contextlib.closing(medium), medium.watched(monkeypatch, crashes.after):
        _use(tmp_path / "medium" / "store", ledger, crashes)
    assert crashes.count > 300


def _use(root: Path, ledger: Ledger, crashes: Crashes) -> None:
    """Publish, replace and delete, through two stores, so that neither knows what the other has flushed."""
    with pkgstore.open(root) as one, pkgstore.open(root) as two:
        ledger.opened = one.id
        crashes.after("opening")

        def publish(store: pkgstore.Store, key: str, data: bytes, *, replace: bool = False) -> None:
            with ledger.changing(key, data):
                store.publish(key, data, replace=replace)
            crashes.after(f"publishing {key}")

        def delete(store: pkgstore.Store, key: str) -> None:
            with ledger.changing(key, None):
                store.delete(key)
            crashes.after(f"deleting {key}")

        publish(one, "top", b"1" * 3000)
        publish(one, "a/b/c", b"2" * 3000)
        publish(two, "a/b/d", b"3" * 3000)
        publish(one, "a/b/c", b"4" * 3000, replace=True)
        publish(two, "top", b"5", replace=True)
        publish(two, "a/b/new", b"", replace=True)
        delete(one, "top")
        for key in ("a/b/c", "a/b/d", "a/b/new"):
            delete(two, key)
        publish(one, "a/b/c", b"6" * 10)
        delete(two, "a/b/c")
        publish(one, "a", b"a blob where a folder was")
        delete(one, "a")
        publish(one, "a/b/c", b"7" * 10)
        _lose(root, one, ledger, crashes)


def _lose(root: Path, store: pkgstore.Store, ledger: Ledger, crashes: Crashes) -> None:
    """Lose to another, who has given the name, and made its folder, and not flushed them yet."""
    winner = root / ".pkgstore" / "tmp" / "winner"
    with winner.open("w+b") as file:
        file.write(b"8" * 10)
        file.flush()
        os.fsync(file.fileno())
    with ledger.changing("won/first", b"8" * 10):
        os.mkdir(root / "won")
        os.rename(winner, root / "won" / "first")
        with pytest.raises(pkgstore.Exists):
            store.publish("won/first", b"9")
    crashes.after("losing won/first")


def _write_without_attributes(path: Path, file: Any) -> None:
    path.write_bytes(file.data)
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
