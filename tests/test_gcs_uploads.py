"""Uploads to Google Cloud Storage: on both sides of the resumable threshold, and with all that gets in their way."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Exists, Unavailable, Unsupported
from pkgstore.drivers.gcs import uploads
from pkgstore.testing.suite.harness import held
from tests import gcs_servers

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from pkgstore import Store
    from tests.gcs_servers import GCS

pytestmark = pytest.mark.xdist_group("gcs")

MiB = 1 << 20
SMALL = 1000
LARGE = 2 * uploads.CHUNK + 5 * MiB + 3
THRESHOLD = [uploads.AT_ONCE, uploads.AT_ONCE + 1, uploads.CHUNK, uploads.CHUNK + 1, LARGE]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    with gcs_servers.our_fake(tmp_path_factory.mktemp("gcs")) as fake:
        yield fake


@pytest.fixture
def gcs(server: GCS, monkeypatch: pytest.MonkeyPatch) -> Iterator[GCS]:
    server.control("reset")
    monkeypatch.setenv("PKGSTORE_GCS_CREDENTIALS_FILE", server.file(server.account()))
    yield server
    server.control("reset")


@pytest.fixture
def store(gcs: GCS) -> Iterator[Store]:
    with pkgstore.open(gcs.url()) as store:
        yield store


@pytest.fixture
def content() -> bytes:
    return hashlib.shake_256(b"content").digest(LARGE)


def fault(gcs: GCS, match: str, do: str, value: Any = None, times: int = 1, **more: Any) -> None:
    gcs.control("fault", match=match, do=do, value=value, times=times, **more)


CHUNKS = "^PUT .*upload_id="
MEDIA = "uploadType=multipart"


@pytest.mark.parametrize("size", THRESHOLD)
def test_both_sides_of_the_threshold(gcs: GCS, store: Store, content: bytes, size: int) -> None:
    data = content[:size]
    assert store.publish("a", data).size == size
    assert len(gcs.seen(CHUNKS)) == (0 if size <= uploads.AT_ONCE else -(-size // uploads.CHUNK)) + 3
    assert store.read("a") == data
    with pytest.raises(Exists) as refused:
        store.publish("a", data)
    assert refused.value.identical
    new = data[1:] + b"-"
    store.publish("a", new, replace=True)
    assert store.read("a") == new


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_damaged_bytes_become_no_object(gcs: GCS, store: Store, content: bytes, size: int) -> None:
    data = content[:size]
    fault(gcs, MEDIA if size == SMALL else CHUNKS, "damage")
    store.publish("a", data)
    assert gcs.control("fired") == 1
    assert store.read("a") == data
    assert len(gcs.seen(MEDIA if size == SMALL else "POST .*uploadType=resumable")) >= 2


@pytest.mark.parametrize(
    ("do", "value"),
    [
        ("status", 503),
        ("status", 500),
        ("status", 429),
        ("status", 408),
        ("drop", None),
        ("lost", None),
        ("cut", 3 * MiB + 17),
        ("cut", 100),
        ("keep", 5 * MiB),
        ("keep", 0),
    ],
)
@pytest.mark.parametrize("nth", [1, 3], ids=["first", "last"])
def test_an_interrupted_chunk_is_taken_up_again(
    gcs: GCS, store: Store, content: bytes, do: str, value: Any, nth: int
) -> None:
    first = (nth - 1) * uploads.CHUNK
    fault(gcs, CHUNKS, do, value, range=f"bytes {first}-")
    blob = store.publish("a", content)
    assert gcs.control("fired") == 1
    assert store.read("a") == content
    assert store.stat("a") == blob
    assert len(gcs.seen("POST .*uploadType=resumable")) == 3 + 1 + 1, "it went on in the same session"
    assert gcs.control("sessions") == 0


def test_a_session_that_is_lost_begins_again(gcs: GCS, store: Store, content: bytes) -> None:
    fault(gcs, CHUNKS, "status", 410, message="gone", range=f"bytes {uploads.CHUNK}-")
    store.publish("a", content)
    assert gcs.control("fired") == 1
    assert store.read("a") == content


def test_a_session_is_taken_up_a_bounded_number_of_times(gcs: GCS, content: bytes) -> None:
    with pkgstore.open(gcs.url(timeout="0")) as store:
        before = len(gcs.seen(CHUNKS))
        fault(gcs, CHUNKS, "status", 503, times=1000)
        with pytest.raises(Unavailable, match="503"):
            store.publish("a", content)
        assert 2 < len(gcs.seen(CHUNKS)) - before < 12
        gcs.control("reset")
        gcs.account()
        assert held(store) == {}


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_win_whose_reply_was_lost(gcs: GCS, store: Store, content: bytes, size: int) -> None:
    fault(gcs, MEDIA if size == SMALL else CHUNKS, "lost", range="" if size == SMALL else "bytes 33554432-")
    blob = store.publish("a", content[:size])
    assert gcs.control("fired") == 1
    assert store.stat("a") == blob
    with pytest.raises(Exists):
        store.publish("a", content[:size])


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_rival_between_the_chunks_wins(gcs: GCS, store: Store, content: bytes, size: int) -> None:
    class Interrupting:
        """A body during whose second half somebody else publishes; only when it is sent, not when it is spooled."""

        def __init__(self) -> None:
            self.at = self.rounds = 0

        def seekable(self) -> bool:
            return True

        def tell(self) -> int:
            return self.at

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset + (size if whence == 2 else 0)
            self.rounds += whence == 0
            return self.at

        def read(self, count: int, /) -> bytes:
            if self.rounds > 1 and self.at >= size // 2 and not held(store):
                store.publish("a", b"rival")
            data = content[self.at : min(self.at + count, size)]
            self.at += len(data)
            return data

    with pytest.raises(Exists) as refused:
        store.publish("a", Interrupting())
    assert not refused.value.identical
    assert held(store) == {"a": b"rival"}


def test_a_server_whose_sessions_keep_to_no_precondition(gcs: GCS, content: bytes) -> None:
    gcs.control("set", honours=["media"])
    with pkgstore.open(gcs.url()) as store:
        before = len(gcs.seen(CHUNKS))
        store.publish("a", content)
        assert store.read("a") == content
        with pytest.raises(Exists):
            store.publish("a", content)
        assert len(gcs.seen(CHUNKS)) == before, "nothing exclusive goes through a session there"


@pytest.mark.parametrize("honours", [[], ["resumable"]])
def test_a_server_that_keeps_to_no_precondition_is_refused(gcs: GCS, honours: list[str]) -> None:
    gcs.control("set", honours=honours)
    with pytest.raises(Unsupported, match="several writers"):
        pkgstore.open(gcs.url())


def test_probing_leaves_nothing_and_is_remembered(gcs: GCS) -> None:
    url = gcs.url("/prefix")
    with pkgstore.open(url) as store:
        names = [blob.key for blob in store.driver.scan(".pkgstore/")]
        assert names == [".pkgstore/store.json"]
        store.publish("a", b"1")
    probes = len(gcs.seen("%2Fprobe%2F|upload_id="))
    with pkgstore.open(url) as store:
        store.publish("b", b"1")
    assert len(gcs.seen("%2Fprobe%2F|upload_id=")) == probes


def test_get_create_and_list_are_enough(gcs: GCS, content: bytes) -> None:
    gcs.account(permissions=["storage.objects.get", "storage.objects.create", "storage.objects.list"])
    url = gcs.url()
    for key, data in (("small", content[:SMALL]), ("large", content)):
        with pkgstore.open(url) as store:
            assert store.publish(key, data).size == len(data)
            assert store.read(key) == data
            with pytest.raises(Exists):
                store.publish(key, data)
            assert key in {blob.key for blob in store.list()}
            with pytest.raises(pkgstore.Denied, match="lacks storage.objects.delete"):
                store.delete(key)
            with pytest.raises(pkgstore.Denied, match="lacks storage.objects.delete"):
                store.publish(key, b"new", replace=True)
            assert store.read(key) == data


def test_a_prefix_is_exact(gcs: GCS, store: Store) -> None:
    place = f"gs://{gcs.bucket()}"
    options = f"?endpoint_url={gcs.origin}"
    with pkgstore.open(f"{place}/pypi{options}") as one, pkgstore.open(f"{place}/pypi-old/{options}") as other:
        one.publish("a", b"1")
        other.publish("a", b"2")
        other.publish("b/c", b"3")
        assert one.id != other.id
        assert held(one) == {"a": b"1"}
        assert held(other, "b/") == {"b/c": b"3"}
    with pkgstore.open(f"{place}{options}") as whole:
        assert {"pypi/a", "pypi-old/a", "pypi-old/b/c"} <= held(whole).keys()


def test_a_listing_of_many_pages(gcs: GCS, store: Store) -> None:
    gcs.control("set", page=3)
    keys = sorted(f"{number % 4}/{number}" for number in range(20))
    for key in keys:
        store.publish(key, key.encode())
    listed = list(store.list())
    assert [blob.key for blob in listed] == keys
    assert all(blob == store.stat(blob.key) for blob in listed)


@pytest.mark.parametrize("xml", [True, False], ids=["XML", "JSON"])
def test_reading_over_either_api(gcs: GCS, store: Store, rng: random.Random, xml: bool) -> None:
    gcs.control("set", xml=xml)
    data = rng.randbytes(100_000)
    blob = store.publish("a b/é%2F", data)
    before = len(gcs.seen("^GET"))
    with store.open("a b/é%2F") as reader:
        assert reader.blob == blob
        assert reader.readall() == data
    assert len(gcs.seen("^GET")) - before == (1 if xml else 3)
    assert store.read("a b/é%2F") == data
    with store.open("a b/é%2F", verify=False) as reader:
        reader.seek(99_000)
        assert reader.read(500) == data[99_000:99_500]
    with pytest.raises(pkgstore.NotFound):
        store.open("absent")


def test_a_download_that_is_cut_short_goes_on_with_its_version(gcs: GCS, store: Store, content: bytes) -> None:
    store.publish("a", content)
    fault(gcs, "^GET /bucket-[^?]*/a", "short", 3 * MiB)
    assert store.read("a") == content
    assert gcs.control("fired") == 1
    reopened = gcs.seen("^GET /bucket-[^?]*/a")
    assert len(reopened) == 2
    assert "generation=" in reopened[1]


def test_what_was_put_by_hand_is_adopted(gcs: GCS, store: Store) -> None:
    client = store.driver._client  # type: ignore[attr-defined]
    resource = {"name": "by/hand", "contentType": "text/plain", "metadata": {"pkgstore-sha256": "no digest"}}

    class Body:
        def __init__(self) -> None:
            self.left = [b"content"]

        def read(self, size: int = -1, /) -> bytes:
            return self.left.pop() if self.left else b""

        def finish(self) -> dict[str, str]:
            return {}

    uploads.at_once(client, Body(), resource, None)
    assert store.stat("by/hand").digests == {}
    adopted = store.adopt("by/hand")
    assert adopted.digests == {"sha256": hashlib.sha256(b"content").hexdigest()}
    assert store.stat("by/hand") == adopted


def test_folders_of_other_tools_are_left_out(gcs: GCS, store: Store) -> None:
    client = store.driver._client  # type: ignore[attr-defined]
    for name in ("folder/", "folder//", "folder/a"):
        token = uuid.uuid4().hex
        resource = {"name": name, "contentType": "text/plain", "metadata": {"pkgstore-token": token}}
        uploads.Session(client, resource, "0").send([b"1"], 0, 1)
    assert [blob.key for blob in store.list()] == ["folder/a"]


@pytest.fixture
def rng() -> random.Random:
    import random

    return random.Random(5)
