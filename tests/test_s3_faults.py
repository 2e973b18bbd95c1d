"""What networks and overloaded servers do to S3: nothing is lost, nothing is told that is not so, nothing hangs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import pkgstore
from pkgstore import Denied, Exists, NotFound, Unavailable
from pkgstore.testing.suite.basics import BasicTests
from pkgstore.testing.suite.bodies import BodyTests
from pkgstore.testing.suite.listing import ListingTests
from pkgstore.testing.suite.races import RaceTests
from pkgstore.testing.suite.reading import ReadingTests
from tests.fault_proxy import FaultProxy, s3_error
from tests.s3_medium import BUCKET, PART, S3Conformance, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store
    from tests.endpoints import Endpoint
    from tests.s3_medium import Servers

__all__ = ["servers"]

MANY_PARTS = 3 * PART + 11
CREATE = rb"^POST [^ ]*\?uploads="
SEND_PART = rb"^PUT [^ ]*[?&]partNumber="
COMPLETE = rb"^POST [^ ]*\?uploadId="
ABORT = rb"^DELETE [^ ]*\?uploadId="
PUT = rb"^PUT [^ ?]*/pypi/a HTTP"
GET = rb"^GET [^ ?]*/pypi/a HTTP"
HEAD = rb"^HEAD [^ ?]*/pypi/a HTTP"
DELETE = rb"^DELETE [^ ?]*/pypi/a HTTP"


def body_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
def rng() -> random.Random:
    """Chance, with its seed in the output of a test that fails; PKGSTORE_TEST_SEED sets it."""
    seed = os.environ.get("PKGSTORE_TEST_SEED") or random.SystemRandom().randbytes(6).hex()
    print(f"PKGSTORE_TEST_SEED={seed}")
    return random.Random(seed)


def seen_through(proxy: FaultProxy, endpoint: Endpoint, url: str) -> str:
    """Return the URL by which a store is seen through a proxy, which is known to be as exclusive as its server."""
    client, key = endpoint.client(), f"{urlsplit(url).path.strip('/')}/.pkgstore/store.json"
    identity = json.load(client.get_object(Bucket=BUCKET, Key=key)["Body"])
    identity["probed"][proxy.url] = identity["probed"][endpoint.url]
    client.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(identity).encode())
    return url.replace(endpoint.url, proxy.url)


class Through:
    """A store that is opened through a proxy, and one that is opened without it, at one place."""

    def __init__(self, servers: Servers, name: str, proxy: FaultProxy, **options: str) -> None:
        self.proxy = proxy
        self.endpoint = servers[name]
        direct = servers.store(name, **options)
        self.url = seen_through(proxy, self.endpoint, direct)
        self.stack = contextlib.ExitStack()
        self.direct = self.stack.enter_context(pkgstore.open(direct))
        self.store = self.stack.enter_context(pkgstore.open(self.url))
        proxy.heads.clear()

    def assert_holds(self, key: str, body: bytes) -> None:
        """Fail unless all can read a blob, and it is the only one."""
        assert [blob.key for blob in self.direct.list()] == [key]
        assert self.direct.read(key) == body
        assert self.direct.stat(key).digests["sha256"] == hashlib.sha256(body).hexdigest()

    def uploads(self) -> int:
        """Return how many multipart uploads have neither been completed nor aborted."""
        prefix = urlsplit(self.url).path.strip("/") + "/"
        found = self.endpoint.client().list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])
        return len([each for each in found if each["Key"].startswith(prefix)])


@pytest.fixture
def proxy(servers: Servers) -> Iterator[FaultProxy]:
    with FaultProxy(servers["ministack"].port) as proxy:
        yield proxy


@pytest.fixture
def through(servers: Servers, proxy: FaultProxy) -> Iterator[Through]:
    """Ministack, where bodies of more than 5 MiB go up in parts."""
    through = Through(servers, "ministack", proxy)
    with through.stack:
        yield through


@pytest.fixture
def impatient(servers: Servers, proxy: FaultProxy) -> Iterator[Through]:
    """The same, with a timeout of 2 seconds."""
    through = Through(servers, "ministack", proxy, timeout="2")
    with through.stack:
        yield through


OTHERS = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("ministack", "seaweedfs", "moto")]


@pytest.fixture
def other(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Through]:
    """A server that the test names; bodies of any size go up whole."""
    with FaultProxy(servers[request.param].port) as proxy:
        through = Through(servers, request.param, proxy, dialect="seaweedfs")
        with through.stack:
            yield through


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.mark.xdist_group("ministack")
@pytest.mark.parametrize("size", [10, MANY_PARTS])
def test_latency(through: Through, size: int) -> None:
    through.proxy.latency = 0.05
    body = body_of(size)
    with at_most(20):
        through.store.publish("a", body)
        assert through.store.read("a") == body
    with pytest.raises(Exists):
        through.store.publish("a", body)
    through.assert_holds("a", body)


# -- one PUT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", OTHERS, indirect=True)
class TestPut:
    """A body that goes up whole."""

    @pytest.mark.parametrize("size", [100_000, 9 * PART])
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
    def test_is_reset_while_it_is_sent(self, other: Through, size: int, share: float) -> None:
        body = body_of(size)
        fault = other.proxy.reset_after("up", int(size * share), PUT, times=1)
        assert other.store.publish("a", body).size == size
        assert fault.fired == 1
        other.assert_holds("a", body)

    @pytest.mark.parametrize("size", [10, 2 * PART])
    def test_whose_reply_is_lost_is_a_win(self, other: Through, size: int) -> None:
        body = body_of(size)
        fault = other.proxy.lose_reply(PUT)
        blob = other.store.publish("a", body)
        assert fault.fired == 1
        assert (blob.key, blob.size, blob.digests["sha256"]) == ("a", size, hashlib.sha256(body).hexdigest())
        assert blob.tag == other.direct.stat("a").tag
        other.assert_holds("a", body)
        # A small body is simply sent again, and the refusal looked into; a larger one is looked for first.
        assert other.proxy.count(PUT) == (2 if size == 10 else 1)
        with pytest.raises(Exists):
            other.store.publish("a", body)

    @pytest.mark.parametrize("size", [10, 2 * PART])
    def test_whose_reply_is_lost_while_a_rival_has_won(self, other: Through, size: int) -> None:
        """The server refuses us, we do not hear it: the rival's blob is not taken for ours."""
        rival = body_of(size + 1)
        hold = other.proxy.hold(PUT, times=1)
        fault = other.proxy.lose_reply(PUT)
        told: list[object] = []

        def publish() -> None:
            try:
                told.append(other.store.publish("a", body_of(size)))
            except Exists as exc:
                told.append(exc)

        thread = threading.Thread(target=publish)
        thread.start()
        hold.wait()
        other.direct.publish("a", rival)
        hold.release()
        thread.join()
        assert fault.fired == 1
        assert isinstance(told[0], Exists)
        assert not told[0].identical
        other.assert_holds("a", rival)

    def test_that_replaces_and_whose_reply_is_lost(self, other: Through) -> None:
        other.direct.publish("a", b"old")
        fault = other.proxy.lose_reply(PUT)
        assert other.store.publish("a", b"newer", replace=True).size == 5
        assert fault.fired == 1
        other.assert_holds("a", b"newer")

    def test_whose_reply_is_lost_each_time(self, other: Through) -> None:
        """And whose effect shows in the refusal of the next."""
        fault = other.proxy.lose_reply(PUT, times=2)
        assert other.store.publish("a", b"1").size == 1
        assert fault.fired == 2
        other.assert_holds("a", b"1")

    def test_whose_proof_is_lost_too(self, other: Through) -> None:
        put, head = other.proxy.lose_reply(PUT), other.proxy.lose_reply(HEAD)
        assert other.store.publish("a", b"1").size == 1
        assert (put.fired, head.fired) == (1, 1)
        other.assert_holds("a", b"1")


# -- multipart uploads -------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("ministack")
class TestMultipart:
    """A body that goes up in parts, and is made visible by one completion."""

    @pytest.mark.parametrize("step", [CREATE, SEND_PART, COMPLETE], ids=["create", "part", "complete"])
    def test_a_reply_that_is_lost(self, through: Through, step: bytes) -> None:
        body = body_of(MANY_PARTS)
        fault = through.proxy.lose_reply(step)
        blob = through.store.publish("a", body)
        assert fault.fired == 1
        assert (blob.key, blob.size, blob.digests["sha256"]) == ("a", MANY_PARTS, hashlib.sha256(body).hexdigest())
        through.assert_holds("a", body)
        assert through.proxy.count(COMPLETE) == 1, "what HEAD shows to be ours is not completed again"
        assert through.proxy.count(ABORT) == 0
        assert through.uploads() == (1 if step == CREATE else 0), "whose name never came cannot be aborted"
        with pytest.raises(Exists):
            through.store.publish("a", body)

    @pytest.mark.parametrize("count", [0, 1, 700, PART // 2, PART])
    def test_a_part_that_is_reset(self, through: Through, count: int) -> None:
        body = body_of(MANY_PARTS)
        fault = through.proxy.reset_after("up", count, SEND_PART, times=2)
        through.store.publish("a", body)
        assert fault.fired == 2
        through.assert_holds("a", body)
        assert through.proxy.count(COMPLETE) == 1
        assert through.uploads() == 0

    @pytest.mark.parametrize("direction", ["up", "down"])
    def test_a_completion_that_is_reset(self, through: Through, direction: Any) -> None:
        body = body_of(MANY_PARTS)
        fault = through.proxy.reset_after(direction, 40, COMPLETE, times=1)
        through.store.publish("a", body)
        assert fault.fired == 1
        through.assert_holds("a", body)
        assert through.proxy.count(ABORT) == 0

    def test_a_completion_that_is_never_answered_is_not_aborted(self, impatient: Through) -> None:
        """It may take effect yet, and an abort of it could cost the data. What became of it is not told."""
        fault = impatient.proxy.lose_reply(COMPLETE, times=None)
        heads = impatient.proxy.answer(404, b"", HEAD)  # a server that does not show yet what it has completed
        with pytest.raises(Unavailable, match="whether 'a' was published is not known: look with stat"):
            impatient.store.publish("a", body_of(MANY_PARTS))
        assert fault.fired >= 1
        assert heads.fired >= 1
        assert impatient.proxy.count(ABORT) == 0
        impatient.assert_holds("a", body_of(MANY_PARTS))

    def test_an_error_in_a_good_status(self, through: Through) -> None:
        """S3 may answer 200 to a completion before it fails."""
        body = body_of(MANY_PARTS)
        fault = through.proxy.answer(200, s3_error("InternalError", "We failed."), COMPLETE, times=2)
        through.store.publish("a", body)
        assert fault.fired == 2
        through.assert_holds("a", body)
        assert through.proxy.count(COMPLETE) == 1
        assert through.uploads() == 0

    def test_an_error_in_a_good_status_for_good(self, impatient: Through) -> None:
        fault = impatient.proxy.answer(200, s3_error("InternalError", "We failed."), COMPLETE)
        with at_most(8), pytest.raises(Unavailable, match="an error of its own"):
            impatient.store.publish("a", body_of(MANY_PARTS))
        assert fault.fired > 1
        assert impatient.proxy.count(ABORT) == 0, "it may have taken effect"
        assert list(impatient.direct.list()) == []

    def test_a_completion_that_is_refused_for_good_is_aborted(self, impatient: Through) -> None:
        """A definite no has not taken effect, and nothing is left."""
        fault = impatient.proxy.answer(403, s3_error("AccessDenied", "no"), COMPLETE)
        with pytest.raises(Denied, match="allow s3:PutObject"):
            impatient.store.publish("a", body_of(MANY_PARTS))
        assert fault.fired == 1
        assert impatient.proxy.count(ABORT) == 1
        assert impatient.uploads() == 0
        assert list(impatient.direct.list()) == []

    def test_a_rival_that_wins_while_our_reply_is_lost(self, through: Through) -> None:
        rival = body_of(20)
        hold = through.proxy.hold(COMPLETE, times=1)
        fault = through.proxy.lose_reply(COMPLETE)
        told: list[object] = []

        def publish() -> None:
            try:
                told.append(through.store.publish("a", body_of(MANY_PARTS)))
            except Exists as exc:
                told.append(exc)

        thread = threading.Thread(target=publish)
        thread.start()
        hold.wait()
        through.direct.publish("a", rival)
        hold.release()
        thread.join()
        assert fault.fired == 1
        assert isinstance(told[0], Exists)
        assert not told[0].identical
        through.assert_holds("a", rival)
        assert through.proxy.count(ABORT) == 0, "a completion of it went unanswered"

    def test_a_rival_that_wins_before_we_complete(self, through: Through) -> None:
        hold = through.proxy.hold(COMPLETE, times=1)
        told: list[object] = []

        def publish() -> None:
            try:
                told.append(through.store.publish("a", body_of(MANY_PARTS)))
            except Exists as exc:
                told.append(exc)

        thread = threading.Thread(target=publish)
        thread.start()
        hold.wait()
        through.direct.publish("a", b"rival")
        hold.release()
        thread.join()
        assert isinstance(told[0], Exists)
        through.assert_holds("a", b"rival")
        assert through.proxy.count(ABORT) == 1
        assert through.uploads() == 0

    def test_an_upload_that_is_gone(self, through: Through) -> None:
        """As a lifecycle rule ends them: all of it goes up again."""
        body = body_of(MANY_PARTS)
        fault = through.proxy.answer(404, s3_error("NoSuchUpload", "gone"), SEND_PART, times=1)
        through.store.publish("a", body)
        assert fault.fired == 1
        assert through.proxy.count(CREATE) == 2
        through.assert_holds("a", body)

    def test_a_part_that_never_goes_up_is_aborted(self, impatient: Through) -> None:
        fault = impatient.proxy.slow_down(SEND_PART)
        with at_most(10), pytest.raises(Unavailable, match="asks to slow down"):
            impatient.store.publish("a", body_of(MANY_PARTS))
        assert fault.fired > 3
        assert impatient.proxy.count(COMPLETE) == 0
        assert impatient.uploads() == 0


# -- reading, looking and deleting -------------------------------------------------------------------------------------


@pytest.mark.xdist_group("ministack")
class TestRead:
    @pytest.mark.parametrize("count", [0, 10, 400, 100_000, 2 * PART, MANY_PARTS])
    def test_is_resumed_in_the_same_version(self, through: Through, count: int) -> None:
        body = body_of(MANY_PARTS)
        tag = through.direct.publish("a", body).tag
        fault = through.proxy.reset_after("down", count, GET, times=2)
        with through.store.open("a") as reader:
            assert b"".join(iter(lambda: reader.read(1 << 14), b"")) == body
        assert fault.fired == (2 if count <= 100_000 else 1), "what is left to fetch is shorter each time"
        gets = [head for head in through.proxy.heads if head.startswith(b"GET ") and b"/pypi/a " in head]
        resumed = [head for head in gets if b"range: bytes=" in head.lower()]
        assert len(gets) == 1 + fault.fired
        assert all(f'if-match: "{tag}"'.encode() in head.lower() for head in resumed)
        if count >= 100_000:
            assert len(resumed) == fault.fired, "what has come is not fetched again"

    def test_of_a_version_that_is_replaced_meanwhile(self, through: Through) -> None:
        """Bytes of two versions are never mixed."""
        through.direct.publish("a", body_of(MANY_PARTS))
        fault = through.proxy.reset_after("down", 2 * PART, GET, times=1)
        with through.store.open("a") as reader:
            assert reader.read(1000) == body_of(MANY_PARTS)[:1000]
            through.direct.publish("a", bytes(MANY_PARTS), replace=True)
            with pytest.raises(NotFound):
                reader.readall()
        assert fault.fired == 1

    def test_that_is_cut_off_again_and_again(self, impatient: Through) -> None:
        impatient.direct.publish("a", body_of(MANY_PARTS))
        fault = impatient.proxy.reset_after("down", 300, GET)
        with pytest.raises(Unavailable, match="broke"):
            impatient.store.read("a")
        assert fault.fired > 1

    def test_of_other_bytes_than_were_published(self, through: Through) -> None:
        """A proxy that answers something else, with good manners."""
        tag = through.direct.publish("a", b"good").tag
        headers = {"ETag": f'"{tag}"', "x-amz-meta-pkgstore-sha256": hashlib.sha256(b"good").hexdigest()}
        fault = through.proxy.answer(200, b"evil", GET, headers=headers)
        with pytest.raises(pkgstore.Corrupt):
            through.store.read("a")
        assert fault.fired == 1


@pytest.mark.xdist_group("ministack")
class TestReplyIsLost:
    def test_of_head(self, through: Through) -> None:
        through.direct.publish("a", b"1")
        fault = through.proxy.lose_reply(HEAD, times=3)
        assert through.store.stat("a").size == 1
        assert fault.fired == 3

    def test_of_delete(self, through: Through) -> None:
        through.direct.publish("a", b"1")
        fault = through.proxy.lose_reply(DELETE)
        through.store.delete("a")
        assert fault.fired == 1
        assert list(through.direct.list()) == []

    def test_of_delete_while_another_publishes_anew(self, through: Through) -> None:
        """The second attempt does not take what came after the first."""
        through.direct.publish("a", b"old")
        hold = through.proxy.hold(lambda head: head.startswith(b"DELETE ") and len(deletes()) == 1, times=1)

        def deletes() -> list[bytes]:
            return [head for head in through.proxy.heads.copy() if head.startswith(b"DELETE ")]

        fault = through.proxy.lose_reply(DELETE)
        thread = threading.Thread(target=through.store.delete, args=("a",))
        thread.start()
        hold.wait()
        through.direct.publish("a", b"newer")
        hold.release()
        thread.join()
        assert fault.fired == 1
        assert len(deletes()) == 2
        through.assert_holds("a", b"newer")

    def test_of_a_listing(self, through: Through) -> None:
        for key in "abc":
            through.direct.publish(key, b"1")
        fault = through.proxy.lose_reply(rb"^GET [^ ]*list-type=2", times=2)
        assert [blob.key for blob in through.store.list()] == ["a", "b", "c"]
        assert fault.fired == 2


# -- overload, silence, and clocks -------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[Store], object]] = {
    "publish": lambda store: store.publish("b", b"1"),
    "publish in parts": lambda store: store.publish("b", body_of(MANY_PARTS)),
    "read": lambda store: store.read("a"),
    "stat": lambda store: store.stat("a"),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete("a"),
}


@pytest.mark.xdist_group("ministack")
class TestSilence:
    @pytest.mark.parametrize("verb", VERBS)
    def test_ends_in_time(self, impatient: Through, verb: str) -> None:
        impatient.direct.publish("a", b"1")
        impatient.proxy.black_hole = True
        with at_most(7), pytest.raises(Unavailable, match="did not answer in time"):
            VERBS[verb](impatient.store)
        assert impatient.proxy.faults["black hole"] >= 1
        impatient.proxy.black_hole = False
        assert impatient.store.stat("a").size == 1

    @pytest.mark.parametrize("step", [CREATE, SEND_PART, COMPLETE], ids=["create", "part", "complete"])
    def test_in_the_middle_of_an_upload(self, impatient: Through, step: bytes) -> None:
        hold = impatient.proxy.hold(step)
        with at_most(12), pytest.raises(Unavailable, match="did not answer in time"):
            impatient.store.publish("a", body_of(MANY_PARTS))
        assert hold.fired >= 1
        assert impatient.proxy.count(ABORT) == (1 if step == SEND_PART else 0)

    def test_in_the_middle_of_a_read(self, impatient: Through) -> None:
        impatient.direct.publish("a", body_of(MANY_PARTS))
        with impatient.store.open("a") as reader:
            assert len(reader.read(1000)) == 1000
            impatient.proxy.black_hole = True
            with at_most(12), pytest.raises(Unavailable, match="did not answer in time"):
                reader.readall()
        assert impatient.proxy.faults["black hole"] >= 1

    def test_while_a_store_is_opened_and_its_server_tried_out(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pkgstore.drivers.s3.driver._PROBED_WITHIN", 2.0)
        with FaultProxy(servers["ministack"].port) as proxy:
            url = servers.url("ministack", timeout="2").replace(servers["ministack"].url, proxy.url)
            proxy.hold(rb"^POST .*/probe/.*uploadId=")
            with at_most(15), pytest.raises(Unavailable, match="did not answer in time"):
                pkgstore.open(url)
            assert proxy.faults["hold"] >= 1


@pytest.mark.xdist_group("ministack")
class TestOverload:
    @pytest.mark.parametrize("size", [10, MANY_PARTS])
    def test_every_second_request(self, through: Through, rng: random.Random, size: int) -> None:
        fault = through.proxy.slow_down(fraction=0.5, rng=rng)
        body = body_of(size)
        for _ in range(2):
            through.store.publish("a", body)
            with pytest.raises(Exists):
                through.store.publish("a", b"other")
            assert through.store.read("a") == body
            through.assert_holds("a", body)
            through.store.delete("a")
            assert list(through.store.list()) == []
        assert fault.fired > 3
        assert through.uploads() == 0

    @pytest.mark.parametrize("verb", VERBS)
    def test_for_good(self, impatient: Through, verb: str) -> None:
        impatient.direct.publish("a", b"1")
        fault = impatient.proxy.slow_down()
        with at_most(5), pytest.raises(Unavailable, match="slow down, or raise the endpoint.s limits"):
            VERBS[verb](impatient.store)
        assert fault.fired > 2
        impatient.assert_holds("a", b"1")


@pytest.mark.xdist_group("ministack")
class TestConnections:
    def test_that_the_server_has_closed(self, through: Through) -> None:
        """A stale connection is noticed before anything is sent on it."""
        for number in range(4):
            through.store.publish(f"k{number}", b"1")
            assert through.proxy.reset_all() >= 1
        assert [blob.key for blob in through.store.list()] == ["k0", "k1", "k2", "k3"]
        assert through.proxy.count(rb"^PUT ") == 4
        assert through.proxy.faults["reset"] >= 4

    def test_that_are_refused_for_a_while(self, through: Through) -> None:
        through.proxy.refuse = True
        through.proxy.reset_all()
        timer = threading.Timer(0.3, lambda: setattr(through.proxy, "refuse", False))
        timer.start()
        through.store.publish("a", b"1")
        timer.join()
        assert through.proxy.faults["refuse"] >= 1
        through.assert_holds("a", b"1")

    def test_that_break_at_any_moment(self, through: Through, rng: random.Random) -> None:
        """Writers and readers go on, and what each was told is so."""
        over = threading.Event()
        won: dict[str, bytes] = {}
        failures: list[BaseException] = []

        def work(number: int, seed: float) -> None:
            chance = random.Random(seed)
            try:
                for turn in range(6):
                    key, body = f"{number}/{turn}", chance.randbytes(chance.choice((10, 70_000, PART + 5)))
                    through.store.publish(key, body)
                    won[key] = body
                    assert through.store.read(key) == body
            except BaseException as exc:  # noqa: BLE001 - raised in the test
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(number, rng.random())) for number in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            over.wait(rng.uniform(0.05, 0.15))
            through.proxy.reset_all()
        assert failures == []
        assert through.proxy.faults["reset"] > 3
        assert {blob.key: through.direct.read(blob.key) for blob in through.direct.list()} == won


@pytest.mark.xdist_group("ministack")
class TestClocks:
    def test_a_server_whose_clock_is_wrong(self, through: Through) -> None:
        """What it says of the time is what a blob's time is; nothing else depends on it."""
        through.proxy.clock_offset = 86_400.0
        blob = through.store.publish("a", b"1")
        assert through.proxy.faults["date"] >= 1
        assert blob.mtime == pytest.approx(time.time() + 86_400, abs=60)
        assert through.store.read("a") == b"1"
        through.assert_holds("a", b"1")

    def test_a_token_that_expires_in_the_middle_of_an_upload(self, through: Through) -> None:
        body = body_of(MANY_PARTS)
        expired = s3_error("ExpiredToken", "The provided token has expired.")
        faults = [through.proxy.answer(400, expired, step, times=1) for step in (CREATE, SEND_PART, COMPLETE)]
        through.store.publish("a", body)
        assert [fault.fired for fault in faults] == [1, 1, 1]
        assert through.proxy.count(COMPLETE) == 1
        through.assert_holds("a", body)


# -- the kit -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="class")
def met() -> Iterator[Counter[str]]:
    """How many tests there were, and how many of their requests met a fault: enough, where all tests run."""
    counts: Counter[str] = Counter()
    yield counts
    assert counts["faults"] > counts["tests"] / 10 or counts["tests"] < 50


@pytest.mark.xdist_group("ministack")
class TestMinistackThroughFaults(BasicTests, BodyTests, ReadingTests, ListingTests):
    """The promises of the kit on a slow network, whose server asks now and then to slow down.

    Without the tests that ask a driver alone, which does not try again, and those that run for long.
    """

    stepwise = PART + 7
    tamper, truncate, _rewrite = S3Conformance.tamper, S3Conformance.truncate, S3Conformance._rewrite
    test_racing_threads_have_one_winner = RaceTests.test_racing_threads_have_one_winner
    test_racing_deletes_and_replaces = RaceTests.test_racing_deletes_and_replaces
    test_many_threads_on_one_store = RaceTests.test_many_threads_on_one_store
    test_no_store_is_made_unasked = None  # there is one at the URL of the fixture

    @pytest.fixture
    def url(self, servers: Servers, rng: random.Random, met: Counter[str]) -> Iterator[str]:  # type: ignore[override]
        self.endpoint = servers["ministack"]
        url = servers.store("ministack")
        with FaultProxy(self.endpoint.port) as proxy:
            through = seen_through(proxy, self.endpoint, url)
            proxy.latency = 0.002
            proxy.slow_down(fraction=0.05, rng=rng)
            yield through
            met["tests"] += 1
            met["faults"] += proxy.faults["answer"]
