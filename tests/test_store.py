"""What the store itself promises, whatever the driver: see the conformance kit for the rest."""

import contextlib
import errno
import hashlib
import io
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pkgstore
from pkgstore import calls
from pkgstore.driver import Blob, Body, SignedURL
from pkgstore.drivers.memory import MemoryDriver
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, SpoolingDriver, with_driver
from pkgstore.testing.sources import Stream
from tests.clock import Clock


@pytest.fixture
def store() -> Iterator[pkgstore.Store]:
    with pkgstore.open("memory://") as store:
        yield store


def test_stores_of_one_name_are_one_store() -> None:
    with pkgstore.open("memory://shared-by-name") as one, pkgstore.open("memory://shared-by-name") as other:
        one.publish("a", b"1")
        assert other.read("a") == b"1"
        assert one.id == other.id


def test_unnamed_stores_are_apart(store: pkgstore.Store) -> None:
    store.publish("a", b"1")
    with pkgstore.open("memory://") as other:
        assert list(other.list()) == []
        assert other.id != store.id


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        pkgstore.NotFound, match=r"there is no store at memory://absent: .* `pkgstore init memory://absent`"
    ):
        pkgstore.open("memory://absent", create=False)
    with pytest.raises(pkgstore.NotFound, match=r"there is no folder .*absent: check that it is mounted"):
        pkgstore.open(tmp_path / "absent", readonly=True)
    assert not (tmp_path / "absent").exists()
    with pytest.raises(pkgstore.NotFound, match="there is no store"):
        pkgstore.open(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"format": 1}', b"\xff", b'{"format": 1, "id": "\\u001b[2J"}', b"[" * 100_000]
)
def test_an_identity_that_says_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / ".pkgstore").mkdir()
    (tmp_path / ".pkgstore" / "store.json").write_bytes(text)
    with pytest.raises(pkgstore.Misconfigured, match=r"store\.json in .* does not describe a store"):
        pkgstore.open(tmp_path)


def test_a_store_of_another_format(tmp_path: Path) -> None:
    (tmp_path / ".pkgstore").mkdir()
    (tmp_path / ".pkgstore" / "store.json").write_text('{"format": 2, "id": "x"}')
    with pytest.raises(pkgstore.Misconfigured, match="is a store of format 2: use a pkgstore that knows it"):
        pkgstore.open(tmp_path)


def test_who_opens_first_together_agrees(tmp_path: Path) -> None:
    ids = []
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        with pkgstore.open(tmp_path / "new") as store:
            ids.append(store.id)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_readonly() -> None:
    pkgstore.open("memory://to-read").publish("a", b"1")
    with pkgstore.open("memory://to-read", readonly=True) as store:
        assert store.read("a") == b"1"
        with pytest.raises(pkgstore.Denied, match="cannot publish 'b': memory://to-read is open for reading only"):
            store.publish("b", b"")
        with pytest.raises(pkgstore.Denied, match="cannot delete 'a'"):
            store.scope("x/").delete("a")


def test_what_memory_cannot_do_is_said(store: pkgstore.Store) -> None:
    store.publish("a", b"1")
    with pytest.raises(pkgstore.Unsupported, match=r"keeps no files on this host: read 'a' with open\(\)"):
        store.local_path("a")
    with pytest.raises(pkgstore.Unsupported, match=r"cannot sign URLs: serve 'a' from open\(\)"):
        store.url("a", expires=60)


def test_a_medium_that_is_tried_again_for_long_is_told_of_once(
    store: pkgstore.Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("a", b"1")
    monkeypatch.setattr(calls, "time", Clock())
    for times, told in ((3, 0), (None, 1)):
        with (
            FaultPlan(Fault("stat", times=times)) as plan,
            contextlib.suppress(pkgstore.Unavailable),
            caplog.at_level(logging.WARNING, "pkgstore"),
        ):
            with_driver(store, FaultyDriver(store.driver, plan), timeout=60).stat("a")
        assert len(caplog.records) == told
    assert "s at most: cannot stat 'a' in memory://" in caplog.text


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = pkgstore.open(tmp_path)
    store.publish("a/b", b"1")
    scope = store.scope("a/")
    scope.close()
    assert scope.read("b") == b"1"
    store.close()
    store.close()
    for verb in (store.read, store.stat, store.delete, scope.read, lambda key: store.publish(key, b"")):
        with pytest.raises(ValueError, match=f"the store file://{tmp_path} is closed"):
            verb("b")


def test_url_where_the_medium_signs(store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryDriver, "signed_url", lambda _, key, expires: f"signed:{key}:{expires}", raising=False)
    assert isinstance(store.driver, SignedURL)
    scope = store.scope("tenant/")
    scope.publish("a", b"1")
    assert scope.url("a", expires=60) == "signed:tenant/a:60"
    with pytest.raises(pkgstore.NotFound, match="'b' is not in"):
        scope.url("b", expires=60)


def test_scope_cannot_reach_outside(store: pkgstore.Store) -> None:
    store.publish("outside", b"1")
    scope = store.scope("tenant/a/")
    for key in ("../outside", "/outside", "..", ".pkgstore/store.json"):
        with pytest.raises(pkgstore.InvalidKey):
            scope.read(key)
    with pytest.raises(pkgstore.InvalidKey, match="needs a prefix"):
        store.scope("")
    with pytest.raises(pkgstore.InvalidKey, match="longer than 1024 bytes") as caught:
        scope.publish("/".join(["x" * 203] * 5), b"")
    assert caught.value.key == "/".join(["x" * 203] * 5)
    assert list(scope.list()) == []


def test_scope_of_a_scope(store: pkgstore.Store) -> None:
    inner = store.scope("a/").scope("b/")
    blob = inner.publish("c", b"1")
    assert blob.key == "c"
    assert inner.stat("c") == blob
    assert [each.key for each in store.list()] == ["a/b/c"]
    assert inner.where == f"{store.where}/a/b/"
    assert inner.usage() == pkgstore.Usage(blobs=1, bytes=1)
    inner.close()
    assert store.read("a/b/c") == b"1"


@pytest.mark.parametrize("body", ["text", None, 3, ["x"]])
def test_a_body_that_is_no_body(store: pkgstore.Store, body: object) -> None:
    with pytest.raises(TypeError, match="a body is bytes, a path or a binary file"):
        store.publish("a", body)  # type: ignore[arg-type]
    with pytest.raises(pkgstore.NotFound):
        store.stat("a")


def test_text_files_are_refused(store: pkgstore.Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with (tmp_path / "x").open() as file, pytest.raises(TypeError, match="open it with mode 'rb'"):
        store.publish("a", file)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a body yields bytes, not str"):
        store.publish("a", _Texts())  # type: ignore[arg-type]


class _Texts:
    def read(self, size: int) -> str:
        return "x" * size


def test_a_path_that_is_no_file(store: pkgstore.Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent") as caught:
        store.publish("a", tmp_path / "absent")
    assert not isinstance(caught.value, pkgstore.StoreError)
    with pytest.raises(IsADirectoryError):
        store.publish("a", tmp_path)


@pytest.mark.parametrize(
    ("digests", "message"),
    [({"crc32": "00"}, "the digest 'crc32' is not known"), ({"sha256": "zz"}, "is no sha256: that is 64 hexadecimal")],
)
def test_digests_that_cannot_be(store: pkgstore.Store, digests: dict[str, str], message: str) -> None:
    with pytest.raises(pkgstore.Misconfigured, match=message):
        store.publish("a", b"", digests=digests)


def test_digests_may_be_written_in_capitals(store: pkgstore.Store) -> None:
    store.publish("a", b"", digests={"md5": "D41D8CD98F00B204E9800998ECF8427E"})


def test_a_driver_that_forgets_to_finish_is_told(store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    published = store.publish("other", b"")

    def put(self: MemoryDriver, key: str, body: Body, *_: Any, **__: Any) -> Blob:
        body.read()
        return published

    monkeypatch.setattr(MemoryDriver, "put", put)
    with pytest.raises(AssertionError, match="the memory driver did not finish the body of 'a'"):
        store.publish("a", b"x")


class _Refusing(MemoryDriver):
    """Refuses a key that is taken before it reads the body, as a server may."""

    def put(self, key: str, body: Body, size: int | None, *, exclusive: bool, **others: Any) -> Blob:
        if exclusive and any(blob.key == key for blob in self.scan("")):
            raise FileExistsError(errno.EEXIST, "taken", key)
        return super().put(key, body, size, exclusive=exclusive, **others)


@pytest.mark.parametrize("make", [bytes, io.BytesIO, lambda data: Stream(data)], ids=["bytes", "file", "stream"])
def test_a_driver_may_refuse_before_it_reads(make: Callable[[bytes], Any]) -> None:
    with pkgstore.open("memory://") as store:
        assert isinstance(store.driver, MemoryDriver)
        refusing = with_driver(store, _Refusing(store.driver._space))
        refusing.publish("a", b"1")
        for body, identical in ((b"1", True), (b"2", False), (b"12", False)):
            with pytest.raises(pkgstore.Exists) as caught:
                refusing.publish("a", make(body))
            assert caught.value.identical is identical
        with pytest.raises(pkgstore.Corrupt):
            refusing.publish("a", make(b"1"), digests={"sha256": "0" * 64})


class _Reusing:
    """Returns the same buffer each time, with other content."""

    def __init__(self, chunks: int) -> None:
        self._left = chunks
        self._buffer = bytearray(1 << 20)

    def read(self, size: int) -> Any:
        if not self._left:
            return b""
        self._left -= 1
        self._buffer[:] = bytes([self._left]) * len(self._buffer)
        return self._buffer if self._left % 2 else memoryview(self._buffer)


@pytest.mark.parametrize("size", [None, 24 << 20])
def test_a_source_may_reuse_its_buffer(store: pkgstore.Store, size: int | None) -> None:
    published = store.publish("a", _Reusing(24), size=size)
    expected = b"".join(bytes([left]) * (1 << 20) for left in reversed(range(24)))
    assert published.digests["sha256"] == hashlib.sha256(expected).hexdigest()
    assert store.read("a") == expected


@pytest.mark.parametrize("then", [PermissionError(errno.EROFS, "read-only"), OSError(errno.ENOSPC, "full")])
def test_an_outcome_that_was_open_stays_open(tmp_path: Path, then: OSError) -> None:
    with pkgstore.open(tmp_path) as store, FaultPlan(Fault("put", "after"), Fault("put", nth=2, error=then)) as plan:
        with pytest.raises(pkgstore.Unavailable, match="whether 'a' was published is not known: look with stat"):
            with_driver(store, FaultyDriver(store.driver, plan)).publish("a", b"1")
        assert store.read("a") == b"1"


def test_a_body_that_fails_when_it_is_read_again_leaves_the_outcome_open(tmp_path: Path) -> None:
    class Once(io.BytesIO):
        ended = False

        def read(self, size: int | None = -1) -> bytes:
            if self.ended:
                raise OSError(errno.EIO, "of the source")
            data = super().read(size)
            self.ended = not data
            return data

    with pkgstore.open(tmp_path) as store, FaultPlan(Fault("put", "after")) as plan:
        body = Once(b"1")
        with pytest.raises(pkgstore.Unavailable, match="is not known"):
            with_driver(store, FaultyDriver(store.driver, plan)).publish("a", body)


@pytest.mark.parametrize("size", [-1, 3.0, True, "3"])
def test_a_size_that_cannot_be(store: pkgstore.Store, size: Any) -> None:
    with pytest.raises(pkgstore.Misconfigured, match="is no number of bytes"):
        store.publish("a", b"123", size=size)


@pytest.mark.parametrize(
    "url",
    [
        "file://user:s3cret@host/x",
        "memory://user:s3cret@name/x",
        "s4://user:s3cret@host/x?token=s3cret",
        "file:///x?token=s3cret&token=s3cret",
        "file:///x?s3cret",
        "file:///x?token=s3cret#s3cret",
        "s4://user:s3?cret@host/x#y",
        "file://user:s3cret/s3cret@host/x",
    ],
)
def test_no_secret_in_a_message(url: str) -> None:
    with pytest.raises(pkgstore.StoreError) as caught:
        pkgstore.open(url)
    assert "s3cret" not in str(caught.value)


def test_a_body_that_raises_where_it_is_read_ahead_comes_through(store: pkgstore.Store) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise KeyError("mine")

    spooling = with_driver(store, SpoolingDriver(store.driver, FaultPlan()))
    with pytest.raises(KeyError, match="mine"):
        spooling.publish("a", Broken())
    with pytest.raises(TypeError, match="a body yields bytes"):
        spooling.publish("a", _Texts())  # type: ignore[arg-type]


def test_a_name_with_a_password_is_not_shown() -> None:
    with pkgstore.open("memory://user:s3cret@name") as store:
        assert store.where == repr(store)[len("<pkgstore.Store ") : -1] == "memory://**redacted**@name"


def test_names_outside_the_grammar_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good").write_bytes(b"1")
    (tmp_path / "bad:name").write_bytes(b"1")
    with pkgstore.open(tmp_path) as store, caplog.at_level(logging.WARNING, "pkgstore"):
        assert [blob.key for blob in store.list()] == ["good"]
        assert "leaves out 'bad:name': the name is no valid key" in caplog.text
        assert store.usage().blobs == 1


def test_a_prefix_is_checked_at_the_call(store: pkgstore.Store) -> None:
    with pytest.raises(pkgstore.InvalidKey, match="end it with"):
        store.list("a")


def test_a_read_begins_anew_when_its_version_is_gone(store: pkgstore.Store) -> None:
    """On a medium that keeps no old version, and whose reply is cut off just when the blob is replaced, or deleted."""
    versions = itertools.count()

    def replace() -> None:
        store.publish("a", b"version %d" % next(versions), replace=True)

    def failing(times: int | None, meanwhile: Callable[[], None]) -> pkgstore.Store:
        plan = FaultPlan(Fault("open", "during", times=times, meanwhile=meanwhile))
        return with_driver(store, FaultyDriver(store.driver, stack.enter_context(plan)))

    replace()
    with contextlib.ExitStack() as stack:
        assert failing(1, replace).read("a") == b"version 1"
        reader = stack.enter_context(failing(1, replace).open("a"))
        with pytest.raises(pkgstore.NotFound, match="'a' in memory:.* was replaced or deleted while it was read: open"):
            reader.readall()
        often = failing(None, replace)
        with pytest.raises(pkgstore.NotFound, match="while it was read"):
            often.read("a")
        deleted = failing(1, lambda: store.delete("a"))
        with pytest.raises(pkgstore.NotFound, match="'a' is not in"):
            deleted.read("a")


def test_reader_is_raw_and_closes(store: pkgstore.Store) -> None:
    store.publish("a", b"0123456789")
    reader = store.open("a")
    assert isinstance(reader, io.RawIOBase)
    assert reader.name == "a"
    assert reader.readable()
    assert reader.seekable()
    assert not reader.writable()
    assert reader.seek(-3, io.SEEK_END) == 7
    assert reader.read(100) == b"789"
    assert reader.read(1) == b""
    with pytest.raises(ValueError, match="before the first byte"):
        reader.seek(-1)
    with pytest.raises(ValueError, match="whence"):
        reader.seek(0, 3)
    reader.close()
    reader.close()
    for verb in (reader.tell, reader.read, lambda: reader.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            verb()


def test_a_delete_may_be_bound_to_a_version(store: pkgstore.Store) -> None:
    old = store.publish("a", b"1")
    new = store.publish("a", b"2", replace=True)
    store.delete("a", tag=old.tag)
    assert store.read("a") == b"2"
    store.delete("a", tag=new.tag)
    store.delete("a", tag=new.tag)
    assert list(store.list()) == []
    store.publish("a", b"3")
    store.delete("a", tag=new.tag)
    assert store.read("a") == b"3"


def test_a_version_that_is_not_there_gives_no_bytes_back_to_a_quota(store: pkgstore.Store) -> None:
    store.set_quota(100)
    old = store.publish("a", b"1")
    store.publish("a", b"12345", replace=True)
    store.delete("a", tag=old.tag)
    assert store.usage(recount=False).bytes == 5
