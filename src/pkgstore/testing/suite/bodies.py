"""Bodies of every kind, and those that are not what they should be."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from typing import TYPE_CHECKING, Any

import pytest

from pkgstore import Corrupt, Misconfigured, NotFound, Unavailable
from pkgstore.testing.sources import Failing, Lying, Short, Stream
from pkgstore.testing.suite.harness import Harness, MiB, held

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from pkgstore import Store

# Around the sizes of the store's chunks, and of the parts in which media take large bodies.
SIZES = [0, 1, 2, MiB - 1, MiB, MiB + 1, 4 * MiB - 1, 4 * MiB, 4 * MiB + 1, 9 * MiB + 7]

KINDS: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, _: data,
    "bytearray": lambda data, _: bytearray(data),
    "memoryview": lambda data, _: memoryview(b"-" + data)[1:],
    "path": lambda data, path: _written(path, data),
    "file": lambda data, path: _written(path, data).open("rb"),
    "unbuffered file": lambda data, path: _written(path, data).open("rb", buffering=0),
    "BytesIO": lambda data, _: io.BytesIO(data),
    "BytesIO at an offset": lambda data, _: _moved(io.BytesIO(b"before" + data), 6),
    "file at an offset": lambda data, path: _moved(_written(path, b"before" + data).open("rb"), 6),
    "stream": lambda data, _: Stream(data),
    "stream of short reads": lambda data, _: Short(data),
}

ERRORS = [
    ValueError("my own"),
    OSError(errno.EIO, "my disk"),
    OSError(errno.ENOSPC, "my disk"),
    FileNotFoundError(errno.ENOENT, "my file"),
    FileExistsError(errno.EEXIST, "my file"),
    Unavailable("my store"),
    NotFound("my blob"),
    KeyboardInterrupt(),
]


class BodyTests(Harness):
    """What is published is what the body held, or nothing is."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_body_of_any_kind(self, store: Store, kind: str, rng: random.Random, tmp_path: Path) -> None:
        for name, size in (("empty", 0), ("small", 1000), ("large", 5 * MiB + 1)):
            data = rng.randbytes(size)
            body = KINDS[kind](data, tmp_path / name)
            blob = store.publish(name, body)
            assert blob.size == size
            assert blob.digests["sha256"] == hashlib.sha256(data).hexdigest()
            assert store.read(name) == data
            if hasattr(body, "close"):
                assert not body.closed, "a caller's file is the caller's to close"
                body.close()

    @pytest.mark.parametrize("size", SIZES)
    def test_a_body_of_any_size(self, store: Store, size: int, rng: random.Random) -> None:
        data = rng.randbytes(size)
        bodies: dict[str, Any] = {"bytes": data, "stream": Stream(data)}
        for name, body in bodies.items():
            assert store.publish(name, body).size == size
            assert store.read(name) == data
            assert store.stat(name).size == size

    def test_a_blob_of_the_same_store(self, store: Store, rng: random.Random) -> None:
        data = rng.randbytes(2 * MiB)
        store.publish("original", data)
        with store.open("original") as reader:
            store.publish("copy", reader)
        assert held(store) == {"original": data, "copy": data}

    def test_digests_on_request(self, store: Store, rng: random.Random) -> None:
        data = rng.randbytes(MiB + 1)
        digests = {name: hashlib.new(name, data).hexdigest() for name in ("sha256", "md5", "blake2b")}
        stream: Any = Stream(data)
        asked = store.publish("asked", stream, digests=dict.fromkeys(digests))
        expected = store.publish("expected", data, digests={name: value.upper() for name, value in digests.items()})
        assert asked.digests == expected.digests == store.stat("asked").digests == digests

    @pytest.mark.parametrize("algorithm", ["sha256", "md5", "blake2b"])
    @pytest.mark.parametrize("size", [0, 10, 5 * MiB])
    def test_a_wrong_digest_publishes_nothing(self, url: str, store: Store, algorithm: str, size: int) -> None:
        wrong = hashlib.new(algorithm, b"something else").hexdigest()
        bodies: list[Any] = [bytes(size), Stream(bytes(size))]
        for body in bodies:
            with pytest.raises(Corrupt) as caught:
                store.publish("a/b", body, digests={algorithm: wrong})
            assert caught.value.key == "a/b"
            assert held(store) == {}
            self.assert_nothing_staged(url)

    def test_a_wrong_digest_replaces_nothing(self, url: str, store: Store) -> None:
        old = store.publish("a", b"old")
        with pytest.raises(Corrupt):
            store.publish("a", b"new", digests={"md5": "0" * 32}, replace=True)
        assert store.stat("a") == old
        assert held(store) == {"a": b"old"}
        self.assert_nothing_staged(url)

    @pytest.mark.parametrize("digests", [{"crc32": None}, {"sha256": "abc"}, {"md5": "x" * 32}])
    def test_a_digest_that_cannot_be_one(self, store: Store, digests: dict[str, str | None]) -> None:
        with pytest.raises(Misconfigured):
            store.publish("a", b"", digests=digests)
        assert held(store) == {}

    @pytest.mark.parametrize("size", [10, 5 * MiB])
    def test_a_body_has_the_size_declared(self, url: str, store: Store, size: int) -> None:
        for declared in (0, size - 1, size + 1, 3 * size):
            bodies: list[Any] = [bytes(size), io.BytesIO(bytes(size)), Stream(bytes(size))]
            for body in bodies:
                with pytest.raises(Corrupt):
                    store.publish("a", body, size=declared)
                assert held(store) == {}
                self.assert_nothing_staged(url)
        right: Any = Stream(bytes(size))
        assert store.publish("a", right, size=size).size == size

    @pytest.mark.parametrize("claim", [-1, 1])
    def test_a_file_that_lies_about_its_size(self, url: str, store: Store, claim: int) -> None:
        with pytest.raises(Corrupt):
            store.publish("a", Lying(bytes(MiB), claim))
        assert held(store) == {}
        self.assert_nothing_staged(url)

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__} {error}")
    @pytest.mark.parametrize("seekable", [True, False], ids=["seekable", "stream"])
    def test_a_body_that_raises(self, url: str, store: Store, error: BaseException, seekable: bool) -> None:
        for after in (0, 2 * MiB):
            body: Any = Failing(bytes(after), error, seekable=seekable)
            with pytest.raises(type(error)) as caught:
                store.publish("a/b", body)
            assert caught.value is error
            assert body.failures == 1, "a body's own error is not to be retried"
            assert held(store) == {}
            self.assert_nothing_staged(url)
        assert store.publish("a/b", b"1").size == 1

    def test_a_body_that_raises_replaces_nothing(self, store: Store) -> None:
        store.publish("a", b"old")
        body: Any = Failing(bytes(100), ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            store.publish("a", body, replace=True)
        assert held(store) == {"a": b"old"}

    def test_a_body_of_the_wrong_type(self, store: Store, tmp_path: Path) -> None:
        wrong: list[Any] = ["text", 5, None, io.StringIO("text"), Failing(b"", None, ending="text"), Failing(b"", None)]
        for body in wrong:
            with pytest.raises(TypeError):
                store.publish("a", body)
        with pytest.raises(FileNotFoundError):
            store.publish("a", tmp_path / "absent")
        with pytest.raises((Misconfigured, IsADirectoryError)):
            store.publish("a", tmp_path)
        assert held(store) == {}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _moved(file: Any, offset: int) -> Any:
    file.seek(offset, os.SEEK_SET)
    return file
