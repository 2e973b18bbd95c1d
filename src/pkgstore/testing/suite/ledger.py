"""What holds for a ledger on a medium: no change that was acknowledged is lost, and none is made twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pkgstore.calls import Calls
from pkgstore.ledger import KEPT, Ledger
from pkgstore.testing.processes import Talk, conduct, workers
from pkgstore.testing.suite.harness import Harness

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pkgstore import Store
    from pkgstore.testing.races import Opener

_TIMEOUT = 60.0
_CHANGES = 5
_SURVIVORS = 2
_VICTIMS = 1


class LedgerTests(Harness):
    """A document that many change at once, one of whom is killed."""

    def test_a_ledger_counts_what_processes_have_changed(self, url: str, store: Store, rng: random.Random) -> None:
        self.need_racing_processes()
        with workers(_SURVIVORS) as survivors, workers(_VICTIMS) as victims:
            for number, each in enumerate([*survivors, *victims]):
                each.start(change_on_and_on, self.open_store, url, f"process {number}", _CHANGES)
            conduct([*survivors, *victims], 1)
            said: list[tuple[str, str]] = []
            for each in victims:
                said += [each.hear() for _ in range(rng.randrange(1, 2 * _CHANGES))]
                for _ in range(rng.randrange(20_000)):
                    pass  # so that it is killed at any step of a change
                said += each.kill()
            acknowledged = [name for each in survivors for name in each.result()]
        assert len(acknowledged) == _SURVIVORS * _CHANGES
        acknowledged += [name for word, name in said if word == "done"]
        begun = {name for word, name in said if word == "begun"}
        _judge(store, acknowledged, begun - set(acknowledged))

    def test_a_ledger_counts_what_threads_have_changed(self, store: Store) -> None:
        self.need_writers_kept_apart()
        shared = ledger_of(store)
        barrier = threading.Barrier(3)

        def run(number: int) -> list[str]:
            ledger = shared if number else ledger_of(store)
            barrier.wait()
            return [_changed(ledger, f"thread {number}: {turn}") for turn in range(_CHANGES)]

        with ThreadPoolExecutor(3) as pool:
            acknowledged = [name for each in pool.map(run, range(3)) for name in each]
        _judge(store, acknowledged, set())

    def test_a_ledger_deletes_what_it_needs_no_more(self, store: Store) -> None:
        self.need_writers_kept_apart()
        ledger = ledger_of(store)
        for turn in range(2 * KEPT + 1):
            _changed(ledger, str(turn))
        assert len(list(store.driver.scan(".pkgstore/ledger/"))) == KEPT
        _judge(store, [str(turn) for turn in range(2 * KEPT + 1)], set())


def ledger_of(store: Store) -> Ledger:
    """Return a ledger of this name of ours, that knows nothing yet."""
    return Ledger(Calls(store.driver, store.where, _TIMEOUT), "conformance")


def change_on_and_on(talk: Talk, opener: Opener, url: str, who: str, times: int) -> list[str]:
    """Change the document so many times, and say so before and after; return the names of the changes."""
    names = [f"{who}: {turn}" for turn in range(times)]
    with opener(url) as store:
        ledger = ledger_of(store)
        talk.meet()
        for name in names:
            talk.say(("begun", name))
            talk.say(("done", _changed(ledger, name)))
    return names


def _changed(ledger: Ledger, name: str) -> str:
    entry = ledger.update(_adding(name))
    assert name in entry.document["names"]
    return name


def _adding(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        names = [*document.get("names", ()), name]
        return {"count": document.get("count", 0) + 1, "names": names}

    return change


def _judge(store: Store, acknowledged: list[str], in_doubt: set[str]) -> None:
    """Compare the document with what its writers were told, and make one change more."""
    entry = ledger_of(store).read()
    names = entry.document["names"]
    assert len(names) == len(set(names)), "a change was made twice"
    assert set(acknowledged) <= set(names), "a change that was acknowledged is lost"
    assert set(names) <= {*acknowledged, *in_doubt}, "a change is there that nobody has made"
    assert entry.document["count"] == entry.generation == len(names)
    _changed(ledger_of(store), "the last")
