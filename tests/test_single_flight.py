"""Of many who ask for an absent key, one produces it: whatever dies, freezes, fails or forks meanwhile."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import signal
import threading
import time
import traceback
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import pkgstore
from pkgstore import calls, lease, ledger
from pkgstore.lease import Leases
from pkgstore.ledger import Ledger
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, with_driver
from pkgstore.testing.processes import Talk, Worker, conduct, until, workers
from pkgstore.testing.sources import Stream
from tests.clock import Clock
from tests.s3_medium import servers
from tests.together import Notes, local, notes, store, url

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore import Store

__all__ = ["local", "notes", "servers", "store", "url"]

PROCESSES = 8
THREADS = 3
PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "single-flight.md"
KEY = "six/six-1.17.0.tar.gz"


def shard_of(store: Store, path: str = KEY) -> Ledger:
    """Return the document in which the lease of a path lies."""
    return Ledger(store._calls, f"lease-{sha256(path.encode()).digest()[0] % lease.SHARDS:02x}")


def beats(store: Store) -> int:
    """Return how often the lease of the key was renewed; -1 when nobody holds it."""
    beat: int = shard_of(store).read().document.get(KEY, {"beat": -1})["beat"]
    return beat


def assert_no_lease(store: Store) -> None:
    for number in range(lease.SHARDS):
        assert Ledger(store._calls, f"lease-{number:02x}").read().document == {}


def never() -> bytes:
    raise AssertionError("this was not to be produced")


# -- with processes ---------------------------------------------------------------------------------------------------


def nobody_takes_a_lease() -> Any:
    """Break it: everybody may produce."""
    return mock.patch.object(Leases, "take", return_value=contextlib.nullcontext())


def beats_are_not_seen() -> Any:
    """Break it: who holds a lease for long is taken for dead."""
    real = lease._Watch.kept

    def kept(self: Any, document: dict[str, Any]) -> dict[str, Any]:
        return real(self, {path: {**entry, "beat": 0} for path, entry in document.items()})

    return mock.patch.object(lease._Watch, "kept", kept)


def ask(
    talk: Talk, url: str, notes: Notes, threads: int, seconds: float, broken: Callable[[], Any] | None
) -> list[str]:
    """Ask for the key in so many threads; return the tags that they got. A producer waits for the note `go`."""

    def produce() -> bytes:
        notes.put("produced")
        notes.until("go")
        return os.urandom(1000)

    def pause(self: lease.Patience) -> None:
        notes.put("waits", by=os.getpid())
        real(self)

    real = lease.Patience.pause
    with (
        broken() if broken else contextlib.nullcontext(),
        mock.patch.object(lease.Patience, "pause", pause),
        pkgstore.open(url) as store,
        ThreadPoolExecutor(threads) as pool,
    ):
        asked = [pool.submit(store.get_or_publish, KEY, produce, lease=seconds) for _ in range(threads)]
        return [each.result().tag for each in asked]


def start(worker: Worker, url: str, notes: Notes, *, threads: int = 1, seconds: float = 30, broken: Any = None) -> None:
    worker.start(ask, url, notes, threads, seconds, broken)


def one_produces(url: str, notes: Notes, broken: Callable[[], Any] | None = None) -> None:
    """Have processes ask together. Fails unless one of them produces, and all get what it published."""
    with workers(PROCESSES) as team, pkgstore.open(url) as store:
        for each in team:
            start(each, url, notes, threads=THREADS, broken=broken)
        until(lambda: notes.count("waits") + notes.count("produced") >= PROCESSES, "all producing or waiting")
        producers = notes.count("produced")
        notes.put("go")
        tags = {tag for each in team for tag in each.result()}
        assert tags == {store.stat(KEY).tag}
        assert (producers, notes.count("produced")) == (1, 1)
        assert_no_lease(store)


def test_one_of_many_produces(url: str, notes: Notes) -> None:
    one_produces(url, notes)


def test_without_a_lease_many_produce(local: str, notes: Notes) -> None:
    with pytest.raises(AssertionError, match=rf"\({PROCESSES}, {PROCESSES}\) == \(1, 1\)"):
        one_produces(local, notes, nobody_takes_a_lease)


def race_for_each(talk: Talk, url: str, notes: Notes, rounds: int) -> list[str]:
    """Ask for one key after the other, together with others, and produce at once; return the tags."""
    tags = []
    with pkgstore.open(url) as store:
        for number in range(rounds):

            def produce(number: int = number) -> bytes:
                notes.put(f"produced-{number}")
                return os.urandom(100)

            talk.meet()
            tags.append(store.get_or_publish(f"race/{number}", produce).tag)
    return tags


def test_races_with_fast_producers(url: str, notes: Notes) -> None:
    rounds = 12
    with workers(4) as team, pkgstore.open(url) as store:
        for each in team:
            each.start(race_for_each, url, notes, rounds)
        conduct(team, rounds)
        answers = [each.result() for each in team]
        assert answers == [[store.stat(f"race/{number}").tag for number in range(rounds)]] * len(team)
        assert [notes.count(f"produced-{number}") for number in range(rounds)] == [1] * rounds
        assert_no_lease(store)


def test_a_killed_producer_is_replaced_within_its_lease(url: str, notes: Notes) -> None:
    seconds, slack = 2.0, 15.0
    with workers(2) as (victim, heir), pkgstore.open(url) as store:
        start(victim, url, notes, seconds=seconds)
        notes.until("produced")
        start(heir, url, notes, seconds=30)
        notes.until("waits")
        victim.kill()
        began = time.monotonic()
        notes.until("produced", 2)
        took = time.monotonic() - began
        notes.put("go")
        assert heir.result() == [store.stat(KEY).tag]
        assert took < seconds + slack
        assert_no_lease(store)


def slow_one_keeps_it(url: str, notes: Notes, broken: Callable[[], Any] | None = None) -> None:
    """Have one produce for longer than its lease, while another waits. Fails when the other produces too."""
    with workers(2) as (slow, other), pkgstore.open(url) as store:
        start(slow, url, notes, seconds=3)
        notes.until("produced")
        start(other, url, notes, broken=broken)
        notes.until("waits")
        first = beats(store)
        until(lambda: beats(store) >= first + 5 or notes.count("produced") > 1, "renewals")
        producers = notes.count("produced")
        notes.put("go")
        assert slow.result() == other.result() == [store.stat(KEY).tag]
        assert producers == 1
        assert_no_lease(store)


def test_a_slow_producer_keeps_its_lease(local: str, notes: Notes) -> None:
    slow_one_keeps_it(local, notes)


def test_without_its_beats_a_slow_producer_is_taken_for_dead(local: str, notes: Notes) -> None:
    with pytest.raises(AssertionError, match="assert 2 == 1"):
        slow_one_keeps_it(local, notes, beats_are_not_seen)


def test_a_frozen_producer_gets_what_its_heir_published(url: str, notes: Notes) -> None:
    with workers(2) as (frozen, heir), pkgstore.open(url) as store:
        start(frozen, url, notes, seconds=1.5)
        notes.until("produced")
        start(heir, url, notes)
        notes.until("waits")
        frozen.stop()
        notes.put("go")
        [tag] = heir.result()
        frozen.resume()
        assert frozen.result() == [tag] == [store.stat(KEY).tag]
        assert notes.count("produced") == 2
        assert_no_lease(store)


def ask_one_who_fails(talk: Talk, url: str, notes: Notes) -> str:
    """Ask for the key; the first who produces fails."""

    def produce() -> bytes:
        notes.put("produced")
        is_first = notes.count("produced") == 1
        notes.until("go")
        if is_first:
            raise ValueError("upstream is broken")
        return b"1"

    def pause(self: lease.Patience) -> None:
        notes.put("waits", by=os.getpid())
        real(self)

    real = lease.Patience.pause
    with mock.patch.object(lease.Patience, "pause", pause), pkgstore.open(url) as store:
        try:
            return store.get_or_publish(KEY, produce).tag
        except ValueError as exc:
            return str(exc)


def test_who_fails_is_followed_by_another(local: str, notes: Notes) -> None:
    with workers(3) as team, pkgstore.open(local) as store:
        for each in team:
            each.start(ask_one_who_fails, local, notes)
        notes.until("waits", 2)
        notes.put("go")
        tags = sorted(each.result() for each in team)
        tag = store.stat(KEY).tag
        assert tags == sorted([tag, tag, "upstream is broken"])
        assert notes.count("produced") == 2
        assert_no_lease(store)


# -- in one process ---------------------------------------------------------------------------------------------------


def in_threads(number: int, function: Callable[[], Any]) -> list[Any]:
    """Return what a function returns, or raises, in so many threads that call it at once."""
    barrier = threading.Barrier(number)

    def run(_: int) -> Any:
        barrier.wait()
        try:
            return function()
        except Exception as exc:  # noqa: BLE001 - it is looked at
            return exc

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def test_threads_wait_for_the_one_that_produces_and_follow_one_that_fails(store: Store) -> None:
    numbers = count(1)

    def produce() -> bytes:
        number = next(numbers)
        until(lambda: len(lease._changed._waiters) == 8 - number, "the others waiting")  # type: ignore[attr-defined]
        if number <= 2:
            raise ValueError(number)
        return b"1"

    answers = in_threads(8, lambda: store.scope("six/").get_or_publish(KEY.removeprefix("six/"), produce))
    assert sorted(str(each) for each in answers if isinstance(each, ValueError)) == ["1", "2"]
    assert [each.tag for each in answers if not isinstance(each, ValueError)] == [store.stat(KEY).tag] * 6
    assert next(numbers) == 4
    assert lease._busy == {}
    assert_no_lease(store)


def test_what_is_there_costs_one_look(store: Store) -> None:
    blob = store.publish(KEY, b"1")
    with FaultPlan() as plan:
        faulty = with_driver(store, FaultyDriver(store.driver, plan))
        assert faulty.get_or_publish(KEY, never) == blob
        assert faulty.scope("six/").get_or_publish("six-1.17.0.tar.gz", never).tag == blob.tag
    assert dict(plan._calls) == {"stat": 2}


def test_what_is_absent_costs_two_changes_of_the_ledger(store: Store) -> None:
    with FaultPlan() as plan:
        faulty = with_driver(store, FaultyDriver(store.driver, plan))
        assert faulty.get_or_publish(KEY, lambda: b"1") == store.stat(KEY)
    assert plan._calls["stat"] == 2
    assert shard_of(store).read().generation == 2


def test_what_was_published_while_the_lease_was_taken_is_not_produced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Leases.take

    def take(self: Leases, path: str, seconds: float) -> lease.Lease | None:
        store.publish(KEY, b"theirs")
        return real(self, path, seconds)

    monkeypatch.setattr(Leases, "take", take)
    assert store.get_or_publish(KEY, never) == store.stat(KEY)
    assert_no_lease(store)


def test_what_was_published_and_deleted_meanwhile_is_produced_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pkgstore.Store._exists

    def exists(self: Store, *args: Any) -> pkgstore.Exists:
        store.delete(KEY)
        return real(self, *args)

    monkeypatch.setattr(pkgstore.Store, "_exists", exists)
    produced: list[bytes] = []

    def produce() -> bytes:
        if not produced:
            store.publish(KEY, b"theirs")
        produced.append(b"ours")
        return produced[-1]

    assert store.get_or_publish(KEY, produce) == store.stat(KEY)
    assert store.read(KEY) == b"ours"
    assert len(produced) == 2


def test_bodies_are_closed_and_checked(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12")
    expected = {"sha256": sha256(b"12").hexdigest()}
    good, bad, late = Stream(b"12"), Stream(b"13"), Stream(b"14")

    def produce_late() -> Stream:
        store.publish("late", b"15")
        return late

    assert store.get_or_publish("path", lambda: tmp_path / "file", digests=expected).size == 2
    assert store.get_or_publish("good", lambda: good, digests=expected).digests == expected
    with pytest.raises(pkgstore.Corrupt):
        store.get_or_publish("bad", lambda: bad, digests=expected)
    assert store.get_or_publish("late", produce_late) == store.stat("late")
    assert store.read("late") == b"15"
    assert good.closed
    assert bad.closed
    assert late.closed
    assert [blob.key for blob in store.list()] == ["good", "late", "path"]
    assert_no_lease(store)


@pytest.mark.parametrize("error", [pkgstore.NotFound("upstream has none"), pkgstore.Exists("odd"), KeyboardInterrupt()])
def test_what_a_producer_raises_comes_through(store: Store, error: BaseException) -> None:
    def produce() -> bytes:
        raise error

    with pytest.raises(type(error)) as caught:
        store.get_or_publish(KEY, produce)
    assert caught.value is error
    assert_no_lease(store)
    assert store.get_or_publish(KEY, lambda: b"1").size == 1


def test_a_producer_may_ask_for_others_and_not_for_itself(store: Store) -> None:
    store.get_or_publish("a", lambda: store.read(store.get_or_publish("b", lambda: b"1").key))
    assert store.read("a") == store.read("b") == b"1"
    with pytest.raises(RuntimeError, match="would wait for itself"):
        store.get_or_publish("c", lambda: store.read(store.get_or_publish("c", never).key))
    assert_no_lease(store)


def test_readonly(store: Store) -> None:
    name = f"memory://{os.urandom(8).hex()}"
    pkgstore.open(name).publish("a", b"1")
    with pkgstore.open(name, readonly=True) as reader:
        assert reader.get_or_publish("a", never).size == 1
        with pytest.raises(pkgstore.Denied, match="cannot publish 'b'"):
            reader.get_or_publish("b", never)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lease": 0}, "a lease of 0 seconds cannot be kept"),
        ({"lease": 86_401}, "a lease of 86401 seconds cannot be kept"),
        ({"lease": "soon"}, "lease='soon' is not a number of seconds"),
        ({"wait": -1}, "wait=-1 is not a number of seconds"),
    ],
)
def test_times_that_cannot_be(store: Store, options: dict[str, Any], words: str) -> None:
    store.publish(KEY, b"1")
    with pytest.raises(pkgstore.Misconfigured, match=words):
        store.get_or_publish(KEY, never, **options)


def test_waiting_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    other = Leases(store._calls).take(KEY, 1000)
    assert other is not None
    with other:
        for wait in (0, 5):
            began = clock.now
            with pytest.raises(pkgstore.LockTimeout, match=f"takes longer than the {wait} s") as caught:
                store.scope("six/").get_or_publish("six-1.17.0.tar.gz", never, wait=wait)
            assert caught.value.key == "six-1.17.0.tar.gz"
            assert clock.now - began == pytest.approx(wait)
        monkeypatch.setattr(clock, "sleep", lambda _: store.publish(KEY, b"1"))
        assert store.get_or_publish(KEY, never, wait=5).size == 1


def test_a_thread_that_waits_for_another_ends_too(store: Store) -> None:
    def produce() -> bytes:
        def ask() -> Any:
            return store.get_or_publish(KEY, never, wait=0.01)

        [answer] = in_threads(1, ask)
        assert isinstance(answer, pkgstore.LockTimeout)
        return b"1"

    assert store.get_or_publish(KEY, produce).size == 1


def test_what_was_remembered_as_absent_is_looked_for() -> None:
    name = f"memory://{os.urandom(8).hex()}"
    with pkgstore.open(name, cache_negative=1000) as store, pkgstore.open(name) as other:
        with pytest.raises(pkgstore.NotFound):
            store.stat(KEY)
        blob = other.publish(KEY, b"1")
        with pytest.raises(pkgstore.NotFound):
            store.stat(KEY)
        assert store.get_or_publish(KEY, never) == blob
        assert store.read(KEY) == b"1"


def test_the_program_of_the_page(local: str) -> None:
    """Several replicas of the proxy that the how-to shows ask upstream once."""
    program = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0]
    fetched: list[str] = []

    class Upstream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"1234" if self.path == "/whole" else b"123")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Upstream))
        stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        replicas: list[dict[str, Any]] = []
        for _ in range(2):
            replica: dict[str, Any] = {}
            exec(program.replace("s3://packages/mirror", local), replica)
            stack.enter_context(replica["store"])
            replicas.append(replica)
        url, digest = f"http://127.0.0.1:{server.server_port}", sha256(b"1234").hexdigest()

        def read(path: str) -> bytes:
            reader: pkgstore.Reader = replicas[next(numbers) % 2]["package"]("a/b", url + path, digest)
            with reader:
                return reader.read()

        numbers = count()
        with pytest.raises(pkgstore.Corrupt):
            read("/broken")
        assert in_threads(6, lambda: read("/whole")) == [b"1234"] * 6
    assert fetched == ["/broken", "/whole"]


# -- the lease itself -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (lease, ledger, calls):
        monkeypatch.setattr(module, "time", clock)
    return clock


def observer(store: Store) -> Leases:
    """Return the leases of a store as another process knows them."""
    return Leases(with_driver(store, store.driver)._calls)


def neighbours() -> tuple[str, str]:
    """Return two paths whose leases lie in one document."""
    first: dict[int, str] = {}
    for path in map(str, count()):
        number = sha256(path.encode()).digest()[0] % lease.SHARDS
        if number in first:
            return first[number], path
        first[number] = path
    raise AssertionError("unreachable")


def test_a_lease_runs_out_by_each_observers_own_watch(store: Store, clock: Clock) -> None:
    first, second, late = (observer(store) for _ in range(3))
    assert first.take(KEY, 10)
    assert second.take(KEY, 1) is None
    clock.now = 9.9
    assert second.take(KEY, 1) is None
    assert late.take(KEY, 1) is None
    clock.now = 10.1
    assert late.take(KEY, 1) is None
    assert second.take(KEY, 10)
    clock.now = 19.9
    assert late.take(KEY, 1) is None, "it has seen the new holder since 10.1 only, and not at all"
    clock.now = 29.8
    assert late.take(KEY, 1) is None
    clock.now = 29.95
    assert late.take(KEY, 1)


def test_short_waits_through_new_scopes_add_up(store: Store, clock: Clock) -> None:
    """As in a server that makes the scope of a tenant for each request, and lets none wait for as long as a lease."""
    assert observer(store).take(KEY, 10)
    for _ in range(4):
        with pytest.raises(pkgstore.LockTimeout):
            store.scope("six/").get_or_publish("six-1.17.0.tar.gz", never, wait=2)
    clock.now = 10.1
    assert store.scope("six/").get_or_publish("six-1.17.0.tar.gz", lambda: b"1", wait=2).size == 1


def test_nothing_stays_of_a_store_that_is_gone() -> None:
    store = pkgstore.open("memory://")
    store.get_or_publish(KEY, lambda: b"1")
    known = weakref.ref(store._calls)
    del store
    gc.collect()
    assert known() is None


def test_a_beat_in_the_last_moment_keeps_it(store: Store, clock: Clock) -> None:
    first, second = observer(store), observer(store)
    held = first.take(KEY, 10)
    assert held is not None
    assert second.take(KEY, 10) is None
    clock.now = 10.1
    assert held._put({**shard_of(store).read().document[KEY], "beat": 1})
    assert second.take(KEY, 10) is None
    clock.now = 20.2
    assert second.take(KEY, 10)
    assert not held._put(None), "it is another's now"
    assert KEY in shard_of(store).read().document


def test_who_decides_on_what_is_outdated_does_not_take_over(store: Store, clock: Clock) -> None:
    """Between the last look and the taking over, the holder renews."""
    first = Leases(store._calls)
    held = first.take(KEY, 10)
    assert held is not None
    renewal = {**shard_of(store).read().document[KEY], "beat": 1}
    plan = FaultPlan(Fault("put", meanwhile=lambda: held._put(renewal)))
    with plan:
        second = Leases(with_driver(store, FaultyDriver(store.driver, plan))._calls)
        assert second.take(KEY, 10) is None
        clock.now = 10.1
        assert second.take(KEY, 10) is None
    assert shard_of(store).read().document[KEY] == renewal


def test_those_of_the_dead_do_not_pile_up(store: Store, clock: Clock) -> None:
    one, other = neighbours()
    leases = Leases(store._calls)
    assert leases.take(one, 10)
    shard_of(store, one).update(lambda document: {**document, "odd": 3, "odder": {"seconds": None}})
    assert leases.take(other, 10)
    assert set(shard_of(store, one).read().document) == {one, other}
    clock.now = 10.1
    third = next(path for path in map(str, count(1000)) if shard_of(store, path).where == shard_of(store, one).where)
    assert leases.take(third, 10)
    assert set(shard_of(store, one).read().document) == {other, third}, "it has not seen the other for long"
    clock.now = 20.2
    assert leases.take(one, 10)
    assert set(shard_of(store, one).read().document) == {third, one}


def test_leases_are_spread(store: Store) -> None:
    assert len({shard_of(store, str(number)).where for number in range(500)}) == lease.SHARDS


@pytest.mark.parametrize("verb", ["put", "scan", "open", "delete", "stat"])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_replies_that_are_lost(clock: Clock, verb: Any, when: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of a verb fails, each in its turn: the blob is produced once, and no lease stays."""
    if when == "during" and verb in ("stat", "delete"):
        return
    monkeypatch.setattr(ledger, "KEPT", 1)
    one, other = neighbours()
    for nth in count(1):
        with pkgstore.open("memory://") as store:
            for _ in range(2):  # so that there are generations to be read, and to be deleted
                store.get_or_publish(other, lambda: b"0")
                store.delete(other)
            plan = FaultPlan(Fault(verb, when, nth))
            faulty = with_driver(store, FaultyDriver(store.driver, plan))
            produced: list[bytes] = []

            def produce(produced: list[bytes] = produced) -> bytes:
                produced.append(b"1")
                return b"1"

            assert faulty.get_or_publish(one, produce) == store.stat(one)
            assert produced == [b"1"]
            assert_no_lease(store)
        if plan._calls[verb] < nth:
            break
    assert nth > 1, f"{verb} was never called"


@pytest.mark.parametrize("verb", ["put", "scan"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_outages_that_last(clock: Clock, verb: Any, when: Any) -> None:
    """From one call of a verb on, all fail: the caller is told, and whoever comes later is not kept for ever."""
    for nth in count(1):
        with pkgstore.open("memory://") as store:
            plan = FaultPlan(Fault(verb, when, nth, times=None))
            faulty = with_driver(store, FaultyDriver(store.driver, plan), timeout=1)
            with contextlib.suppress(pkgstore.Unavailable):
                assert faulty.get_or_publish(KEY, lambda: b"1", lease=10).size == 1
            began = clock.now
            assert store.get_or_publish(KEY, lambda: b"2", lease=10) == store.stat(KEY)
            assert clock.now - began < 12
        if plan._calls[verb] < nth:
            break
    assert nth > 2


def test_a_lease_that_cannot_be_renewed_or_given_back_is_told_of(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    error = pkgstore.Denied("not now")
    with FaultPlan(Fault("put", nth=2, error=error), Fault("put", nth=5, times=None, error=error)) as plan:
        faulty = with_driver(store, FaultyDriver(store.driver, plan))

        def produce() -> bytes:
            until(lambda: "could not be renewed: not now" in caplog.text, "a renewal that fails")
            until(lambda: plan._calls["put"] >= 3, "another renewal")
            return b"1"

        with contextlib.suppress(pkgstore.Denied):  # where a further renewal came before the publish
            faulty.get_or_publish(KEY, produce, lease=1)
    assert "was not given back, and others may wait for 1 s" in caplog.text


def test_a_holder_that_was_taken_for_dead_goes_on(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def produce() -> bytes:
        shard_of(store).update(lambda _: {})
        until(lambda: "others took 'six/six-1.17.0.tar.gz' for abandoned" in caplog.text, "a beat")
        store.publish(KEY, b"theirs")
        return b"ours"

    assert store.get_or_publish(KEY, produce, lease=0.3) == store.stat(KEY)
    assert store.read(KEY) == b"theirs"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


# -- fork -------------------------------------------------------------------------------------------------------------


def forked() -> int:
    """Fork; return the child's id, and 0 in the child, which ends itself after a minute."""
    with warnings.catch_warnings():
        # That a fork of a process with threads may go wrong is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
    return child


def end_child(holds: Callable[[], object]) -> None:
    """End this child of the tests, with 0 when something holds."""
    try:
        os._exit(0 if holds() else 1)
    except BaseException:  # noqa: BLE001 - the child must never go on with the parent's tests
        traceback.print_exc()
        os._exit(2)


def test_a_child_waits_for_its_parents_thread_as_for_a_stranger(local: str, notes: Notes) -> None:
    with pkgstore.open(local) as store, ThreadPoolExecutor(1) as pool:

        def produce() -> bytes:
            notes.put("produced")
            notes.until("go")
            return b"1"

        asked = pool.submit(store.get_or_publish, KEY, produce)
        notes.until("produced")
        child = forked()
        if not child:
            pause = lease.Patience.pause

            def told(self: lease.Patience) -> None:
                notes.put("waits")
                pause(self)

            lease.Patience.pause = told  # type: ignore[method-assign]
            end_child(lambda: store.get_or_publish(KEY, never).size == 1)
        notes.until("waits")
        notes.put("go")
        assert os.waitpid(child, 0)[1] == 0
        assert asked.result().size == 1
        assert_no_lease(store)


def test_a_fork_within_the_producer(local: str) -> None:
    """The child comes back from the producer too, and is first; it does not give back what its parent holds."""
    with pkgstore.open(local) as store:
        here, children = os.getpid(), []

        def produce() -> bytes:
            children.append(forked())
            if children[0]:
                assert os.waitpid(children[0], 0)[1] == 0
                assert beats(store) == 0, "the lease is still held"
            return f"{children[0]}".encode()

        try:
            blob = store.get_or_publish(KEY, produce)
        finally:
            if os.getpid() != here:
                end_child(lambda: store.read(KEY) == b"0" and lease._busy == {})
        assert blob == store.stat(KEY)
        assert store.read(KEY) == b"0"
        assert_no_lease(store)
