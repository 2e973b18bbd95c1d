"""A medium that fails now and then, before its effect or after it, and one that fails for good."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from pkgstore import Exists, NotFound, Unavailable
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, SpoolingDriver, When, with_driver
from pkgstore.testing.sources import Stream
from pkgstore.testing.suite.harness import Harness, MiB, held

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from pkgstore import Store

ANY: list[When] = ["before", "during", "after"]
ENDS: list[When] = ["before", "after"]


def faulty(store: Store, plan: FaultPlan, timeout: float = 60.0) -> Store:
    """Return the store over a medium that fails as planned."""
    return with_driver(store, FaultyDriver(store.driver, plan), timeout=timeout)


class OutageTests(Harness):
    """Whatever reply is lost, the answer is the right one."""

    @pytest.mark.parametrize("when", ANY)
    @pytest.mark.parametrize("replace", [False, True], ids=["publish", "replace"])
    def test_publish_recovers(self, url: str, store: Store, when: When, replace: bool, rng: random.Random) -> None:
        data = rng.randbytes(5 * MiB)
        with FaultPlan(Fault("put", when)) as plan:
            blob = faulty(store, plan).publish("a/b", data, replace=replace)
        assert store.stat("a/b") == blob
        assert held(store) == {"a/b": data}
        self.assert_nothing_staged(url)

    def test_publish_recovers_again_and_again(self, store: Store) -> None:
        faults = (Fault("put", "before"), Fault("put", "after", 2, times=3), Fault("put", "during", 5))
        with FaultPlan(*faults) as plan:
            blob = faulty(store, plan).publish("a/b", bytes(2 * MiB))
        assert store.stat("a/b") == blob

    @pytest.mark.parametrize("when", ANY)
    @pytest.mark.parametrize("identical", [True, False])
    def test_a_loser_stays_a_loser(self, store: Store, when: When, identical: bool) -> None:
        first = store.publish("a", bytes(2 * MiB))
        # An exclusive put that fails has no reply to lose, so that the fault is in the look at what is there.
        fault = Fault("put", when) if when != "after" else Fault("stat", "after")
        with FaultPlan(fault) as plan, pytest.raises(Exists) as caught:
            faulty(store, plan).publish("a", bytes(2 * MiB) if identical else b"other")
        assert (caught.value.blob, caught.value.identical) == (first, identical)
        assert store.stat("a") == first

    def test_a_winner_that_was_not_told_and_a_rival(self, store: Store) -> None:
        def rival() -> None:
            with pytest.raises(Exists):
                store.publish("a", b"rival")

        with FaultPlan(Fault("put", "after", meanwhile=rival)) as plan:
            blob = faulty(store, plan).publish("a", b"mine")
        assert held(store) == {"a": b"mine"}
        assert store.stat("a") == blob

    def test_a_rival_that_wins_meanwhile(self, store: Store) -> None:
        fault = Fault("put", "before", meanwhile=lambda: store.publish("a", b"rival"))
        with FaultPlan(fault) as plan, pytest.raises(Exists) as caught:
            faulty(store, plan).publish("a", b"mine")
        assert caught.value.identical is False
        assert held(store) == {"a": b"rival"}

    @pytest.mark.parametrize("when", ENDS)
    @pytest.mark.parametrize("verb", ["stat", "delete"])
    def test_delete_recovers(self, store: Store, verb: Any, when: When) -> None:
        store.publish("a/b", b"1")
        store.publish("a/c", b"2")
        with FaultPlan(Fault(verb, when)) as plan:
            faulty(store, plan).delete("a/b")
        assert held(store) == {"a/c": b"2"}

    @pytest.mark.parametrize("when", ENDS)
    def test_a_delete_repeated_spares_what_is_newer(self, store: Store, when: When) -> None:
        store.publish("a", b"old")

        def newer() -> None:
            store.publish("a", b"new", replace=True)

        with FaultPlan(Fault("delete", when, meanwhile=newer)) as plan:
            faulty(store, plan).delete("a")
        assert held(store) == {"a": b"new"}

    @pytest.mark.parametrize("when", ENDS)
    def test_stat_recovers(self, store: Store, when: When) -> None:
        blob = store.publish("a", b"1")
        with FaultPlan(Fault("stat", when)) as plan:
            assert faulty(store, plan).stat("a") == blob

    @pytest.mark.parametrize("when", ANY)
    def test_reading_recovers(self, store: Store, when: When, rng: random.Random) -> None:
        data = rng.randbytes(3 * MiB)
        store.publish("a", data)
        with FaultPlan(Fault("open", when)) as plan:
            assert faulty(store, plan).read("a") == data
        with FaultPlan(Fault("open", "during"), Fault("open", "before", 2), Fault("open", "after", 3)) as plan:
            assert faulty(store, plan).read("a") == data

    def test_a_reader_that_reconnects_keeps_its_version(self, store: Store, rng: random.Random) -> None:
        old, new = rng.randbytes(3 * MiB), rng.randbytes(3 * MiB)
        store.publish("a", old)
        fault = Fault("open", "during", meanwhile=lambda: store.publish("a", new, replace=True))
        got = bytearray()
        with FaultPlan(fault) as plan, faulty(store, plan).open("a") as reader:
            try:
                while chunk := reader.read(MiB):
                    got += chunk
            except NotFound:
                assert got == old[: len(got)]
            else:
                assert got == old

    @pytest.mark.parametrize("when", ANY)
    def test_listing_recovers(self, store: Store, when: When) -> None:
        keys = [f"{letter}/{number}" for letter in "abc" for number in range(3)]
        for key in keys:
            store.publish(key, b"1")
        with FaultPlan(Fault("scan", when)) as plan:
            assert [blob.key for blob in faulty(store, plan).list()] == keys
        with FaultPlan(Fault("scan", "during"), Fault("scan", "during", 2), Fault("scan", "before", 3)) as plan:
            assert [blob.key for blob in faulty(store, plan).list()] == keys

    @pytest.mark.parametrize("when", ANY)
    def test_a_stream_cannot_be_sent_twice(self, url: str, store: Store, when: When) -> None:
        body = Stream(bytes(2 * MiB))
        if not store.driver.streams:  # then the store keeps a copy of it
            with FaultPlan(Fault("put", when)) as plan:
                faulty(store, plan).publish("a/b", body)
            assert held(store) == {"a/b": bytes(2 * MiB)}
            return
        with FaultPlan(Fault("put", when)) as plan, pytest.raises(Unavailable) as caught:
            faulty(store, plan).publish("a/b", body)
        assert "a/b" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert held(store) == ({"a/b": bytes(2 * MiB)} if when == "after" else {})
        self.assert_nothing_staged(url)

    def test_a_medium_that_is_down_for_good(self, store: Store) -> None:
        store.publish("a", b"1")
        calls: list[tuple[Any, Any]] = [
            ("put", lambda store: store.publish("b", b"1")),
            ("open", lambda store: store.read("a")),
            ("stat", lambda store: store.stat("a")),
            ("scan", lambda store: list(store.list())),
            ("delete", lambda store: store.delete("a")),
        ]
        for verb, call in calls:
            with FaultPlan(Fault(verb, times=None)) as plan:
                start = time.monotonic()
                with pytest.raises(Unavailable, match="check that the medium is mounted"):
                    call(faulty(store, plan, timeout=0.3))
                assert time.monotonic() - start < 10
        assert held(store) == {"a": b"1"}

    def test_errors_of_ours_are_not_retried(self, store: Store) -> None:
        with FaultPlan(Fault("stat", error=ZeroDivisionError)) as plan, pytest.raises(ZeroDivisionError):
            faulty(store, plan).stat("a")

    @pytest.mark.parametrize("size", [0, 10, 9 * MiB])
    def test_a_medium_that_has_to_know_first(self, store: Store, size: int, tmp_path: Path, rng: random.Random) -> None:
        data = rng.randbytes(size)
        path = tmp_path / "body"
        path.write_bytes(data)
        bodies = {"bytes": data, "stream": Stream(data), "path": path}
        with FaultPlan(Fault("put", "before", 2)) as plan:
            spooling = with_driver(store, SpoolingDriver(store.driver, plan))
            for key, body in bodies.items():
                blob = spooling.publish(key, body, digests={"md5": None})  # type: ignore[arg-type]
                assert blob.digests == {name: hashlib.new(name, data).hexdigest() for name in ("sha256", "md5")}
        assert held(store) == dict.fromkeys(bodies, data)
