"""Readers: where they stand, what they return, and that it is what was published."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pkgstore import Corrupt
from pkgstore.testing.suite.harness import Harness, MiB

if TYPE_CHECKING:
    import random

    from pkgstore import Reader, Store


class ReadingTests(Harness):
    """A reader is a raw, seekable file, and never returns a wrong byte as the last."""

    def test_a_reader_is_a_raw_file(self, store: Store, rng: random.Random) -> None:
        data = rng.randbytes(3 * MiB + 17)
        store.publish("a/b", data)
        with store.open("a/b") as reader:
            assert (reader.readable(), reader.seekable(), reader.writable()) == (True, True, False)
            assert reader.name == "a/b"
            assert reader.tell() == 0
            buffer = bytearray(1000)
            assert reader.readinto(buffer) == 1000
            assert buffer == data[:1000]
            assert reader.tell() == 1000
            assert reader.readall() == data[1000:]
            assert reader.tell() == len(data)
            assert (reader.read(1), reader.read(), reader.readinto(buffer)) == (b"", b"", 0)
            assert reader.seek(-5, os.SEEK_END) == len(data) - 5
            assert reader.read() == data[-5:]
            assert reader.seek(len(data) + 10) == len(data) + 10
            assert reader.read(1) == b""
            with pytest.raises(ValueError, match="before the first byte"):
                reader.seek(-1)
        assert reader.closed
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)

    def test_random_access(self, store: Store, rng: random.Random) -> None:
        data = rng.randbytes(MiB + 333)
        store.publish("a", data)
        oracle = io.BytesIO(data)
        with store.open("a") as reader:
            for _ in range(300):
                at, count = rng.randrange(len(data) + 10), rng.choice([0, 1, 100, 70_000])
                assert reader.seek(at) == oracle.seek(at)
                assert _exactly(reader, count) == oracle.read(count)
                assert reader.tell() == oracle.tell() if at + count <= len(data) else at

    @pytest.mark.parametrize("step", [1, 7, 4096, MiB])
    def test_reading_in_steps(self, store: Store, rng: random.Random, step: int) -> None:
        data = rng.randbytes(min(step * 300, 3 * MiB) + 5)
        store.publish("a", data)
        with store.open("a") as reader:
            assert b"".join(iter(lambda: reader.read(step), b"")) == data

    def test_buffered_and_text_readers(self, store: Store) -> None:
        lines = [f"{number}: ünïcode\n" for number in range(10_000)]
        store.publish("a", "".join(lines).encode())
        with io.TextIOWrapper(io.BufferedReader(store.open("a")), encoding="utf-8") as text:
            assert list(text) == lines

    def test_a_zip_file(self, store: Store, rng: random.Random) -> None:
        members = {f"pkg/{number}.py": rng.randbytes(10_000) for number in range(20)}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        store.publish("pkg-1-py3-none-any.whl", buffer.getvalue())
        with store.open("pkg-1-py3-none-any.whl") as reader, zipfile.ZipFile(reader) as archive:
            assert archive.testzip() is None
            for name in sorted(members, reverse=True):
                assert archive.read(name) == members[name]

    def test_readers_are_independent(self, store: Store, rng: random.Random) -> None:
        data = rng.randbytes(100_000)
        store.publish("a", data)
        with store.open("a") as one, store.open("a") as other:
            one.seek(50_000)
            assert other.read(100) == data[:100]
            assert one.read(100) == data[50_000:50_100]

    @pytest.mark.parametrize("size", [1, 100_000, 5 * MiB])
    def test_a_changed_byte_is_corrupt(self, url: str, store: Store, rng: random.Random, size: int) -> None:
        tamper = self.hook("tamper")
        data = rng.randbytes(size)
        store.publish("a", data)
        tamper(url, "a")
        with pytest.raises(Corrupt) as caught:
            store.read("a")
        assert caught.value.key == "a"
        with self.open_store(url) as other:
            for step in (1000, MiB):
                with other.open("a") as reader:
                    got: list[bytes] = []
                    with pytest.raises(Corrupt):
                        got.extend(iter(partial(reader.read, step), b""))
                    assert sum(map(len, got)) < size, "the last byte was returned"
            with other.open("a", verify=False) as reader:
                unverified = reader.readall()
        assert len(unverified) == size
        assert unverified != data

    def test_a_truncated_blob_is_corrupt(self, url: str, store: Store, rng: random.Random) -> None:
        truncate = self.hook("truncate")
        for size in (1, 100_000):
            store.publish(f"{size}", rng.randbytes(size))
            truncate(url, f"{size}")
            with pytest.raises(Corrupt):
                store.read(f"{size}")

    def test_a_blob_that_is_truncated_under_a_reader(self, url: str, store: Store, rng: random.Random) -> None:
        truncate = self.hook("truncate")
        data = rng.randbytes(5 * MiB)
        for verify in (True, False):
            store.publish("a", data, replace=True)
            with store.open("a", verify=verify) as reader:
                start = reader.read(10)
                truncate(url, "a")
                with contextlib.suppress(Corrupt):
                    assert start + reader.readall() == data


def _exactly(reader: Reader, count: int) -> bytes:
    """Read ``count`` bytes, or as many as there are: a raw file may return fewer at a time."""
    data = bytearray()
    while len(data) < count and (chunk := reader.read(count - len(data))):
        data += chunk
    return bytes(data)
