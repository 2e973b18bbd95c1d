"""What holds between processes that use one store at the same time; and between threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pytest

from pkgstore import NotFound
from pkgstore.testing.processes import Talk, workers
from pkgstore.testing.races import Arena, look, outcome, race, read_while_written, start_replacing
from pkgstore.testing.suite.harness import Harness, MiB, held

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pkgstore import Store
    from pkgstore.testing.races import Opener

_T = TypeVar("_T")


class RaceTests(Harness):
    """One winner, no half blobs, one version to its end."""

    def arena(self, url: str, rng: random.Random, keys: int, size: int) -> Arena:
        """Return where a race of this test is run."""
        return Arena(self.open_store, url, "race/", keys, size, rng.randbytes(4).hex())

    @pytest.mark.parametrize(("keys", "size"), [(60, 1), (20, 100 << 10), (6, 0)], ids=["small", "middle", "stepwise"])
    def test_racing_processes_have_one_winner(
        self, url: str, store: Store, rng: random.Random, keys: int, size: int
    ) -> None:
        self.need_racing_processes()
        size = size or self.stepwise
        result = race(self.arena(url, rng, keys, size), racers=4, reads=4 * keys)
        assert result.faults == []
        assert result.one == keys
        assert result.reads >= 4 * keys
        self.assert_nothing_staged(url)
        assert store.usage().blobs == keys

    def test_racing_threads_have_one_winner(self, store: Store) -> None:
        self.need_writers_kept_apart()
        count = 8
        for index in range(30):
            key = f"pkg-{index}/file"
            bodies = [bytes([number % 3]) * 1000 for number in range(count)]
            outcomes = _together(lambda number: outcome(store, key, bodies[number]), count)  # noqa: B023
            winners = [number for number, (kind, _) in enumerate(outcomes) if kind == "won"]
            assert len(winners) == 1, outcomes
            content = store.read(key)
            assert content == bodies[winners[0]]
            for number, (kind, identical) in enumerate(outcomes):
                assert kind == "won" or (kind, identical) == ("exists", bodies[number] == content)

    def test_racing_openers_make_one_store(self, url: str) -> None:
        self.need_racing_processes()
        with workers(4) as team:
            for each in team:
                each.start(opened_id, self.open_store, url)
            assert len({each.result() for each in team}) == 1

    def test_readers_see_whole_versions_while_one_is_replaced(self, url: str, rng: random.Random) -> None:
        self.need_other_processes()
        for size in (1, 2 * MiB):
            arena = self.arena(url, rng, 1, size)
            with self.open_store(url) as store:
                store.publish(arena.key(0), arena.bodies()[0], replace=True)
            with workers(2) as replacers, workers(2) as readers:
                start_replacing(replacers, arena)
                for number, each in enumerate(readers):
                    each.start(read_while_written, arena, number, 100)
                    each.say("all are there")
                for each in readers:
                    _, _, half = each.result()
                    assert half == []
                for each in replacers:
                    each.say("enough")
                    each.result()

    def test_threads_see_whole_versions_while_one_is_replaced(self, store: Store, url: str, rng: random.Random) -> None:
        arena = self.arena(url, rng, 1, 300_000)
        store.publish(arena.key(0), arena.bodies()[0])
        done = threading.Event()

        def replace() -> None:
            for number in range(40):
                store.publish(arena.key(0), arena.bodies()[number % 4], replace=True)
            done.set()

        with ThreadPoolExecutor(3) as pool:
            replacing = pool.submit(replace)
            while not done.is_set() and not replacing.done():
                assert look(store, arena, 0, verify=True) == ""
            replacing.result()

    @pytest.mark.parametrize("replaced", [True, False], ids=["replace", "delete"])
    def test_a_reader_keeps_its_version(self, store: Store, rng: random.Random, replaced: bool) -> None:
        old, new = rng.randbytes(6 * MiB), rng.randbytes(6 * MiB)
        store.publish("a/b", old)
        with store.open("a/b") as before, store.open("a/b") as untouched:
            start = before.read(1000)
            if replaced:
                store.publish("a/b", new, replace=True)
                assert store.read("a/b") == new
            else:
                store.delete("a/b")
                with pytest.raises(NotFound):
                    store.open("a/b")
            assert start + before.readall() == old
            assert untouched.readall() == old

    def test_folders_that_come_and_go(self, url: str, store: Store) -> None:
        self.need_other_processes()
        with workers(4) as team:
            for number, each in enumerate(team):
                each.start(come_and_go, self.open_store, url, number, 60)
            assert [each.result() for each in team] == [[]] * 4
        assert held(store) == {}
        self.assert_nothing_staged(url)

    def test_folders_that_come_and_go_by_threads(self, url: str, store: Store) -> None:
        def run(number: int) -> list[str]:
            return _come_and_go(store, number, 40)

        assert _together(run, 4) == [[]] * 4
        assert held(store) == {}

    def test_racing_deletes_and_replaces(self, store: Store) -> None:
        def run(number: int) -> None:
            for _ in range(30):
                if number % 2:
                    store.delete("a/b")
                else:
                    store.publish("a/b", bytes([number]) * 10, replace=True)

        _together(run, 4)
        assert [blob.key for blob in store.list()] in ([], ["a/b"])
        store.publish("a/b", b"last", replace=True)
        assert held(store) == {"a/b": b"last"}

    def test_many_threads_on_one_store(self, store: Store) -> None:
        def run(number: int) -> None:
            for turn in range(10):
                key = f"{turn}/{number}"
                data = key.encode() * 1000
                store.publish(key, data)
                assert store.read(key) == data
                assert store.stat(key).size == len(data)
                if turn % 2:
                    store.delete(key)

        _together(run, 16)
        assert len(held(store)) == 16 * 5


def opened_id(talk: Talk, opener: Opener, url: str) -> str:
    """Return the id of the store that is opened."""
    with opener(url) as store:
        return str(store.id)


def come_and_go(talk: Talk, opener: Opener, url: str, number: int, turns: int) -> list[str]:
    """Publish and delete, in folders that others use as well; return what went wrong."""
    with opener(url) as store:
        return _come_and_go(store, number, turns)


def _come_and_go(store: Store, number: int, turns: int) -> list[str]:
    wrong = []
    for turn in range(turns):
        key = f"x/{'y/' * (turn % 3)}{number}"
        data = key.encode()
        try:
            store.publish(key, data)
            if store.read(key) != data:
                wrong.append(f"{key} has wrong bytes")
            if key not in {blob.key for blob in store.list("x/")}:
                wrong.append(f"{key} is not listed")
            store.delete(key)
        except Exception as exc:  # noqa: BLE001 - any error is one too many
            wrong.append(f"{key}: {exc!r}")
    return wrong


def _together(run: Callable[[int], _T], count: int) -> list[_T]:
    """Call ``run(number)`` in so many threads at one moment, and return what they return."""
    barrier = threading.Barrier(count)

    def start(number: int) -> _T:
        barrier.wait()
        return run(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))
