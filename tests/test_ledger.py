"""What a ledger does for one who uses it; how many do at once is in test_ledger_races.py."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Corrupt, Denied, NotFound, Unavailable, ledger
from pkgstore.bodies import PublishBody
from pkgstore.calls import Calls
from pkgstore.hashing import wanted
from pkgstore.ledger import KEPT, Entry, Ledger
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver
from tests.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store
    from pkgstore.driver import Driver

Document = dict[str, Any]
FOLDER = ".pkgstore/ledger/usage/"


@pytest.fixture
def store() -> Iterator[Store]:
    with pkgstore.open("memory://") as store:
        yield store


def opened(driver: Driver, kind: type[Ledger] = Ledger, timeout: float = 60.0) -> Ledger:
    """Return the ledger `usage`, as a process has it that has just begun."""
    return kind(Calls(driver, "memory://x", timeout), "usage")


def adding(name: str) -> Callable[[Document], Document]:
    """Return a change that appends a name."""

    def change(document: Document) -> Document:
        return {**document, "names": [*document.get("names", ()), name]}

    return change


def there(store: Store) -> list[int]:
    """Return the generations that are there."""
    return [int(blob.key[len(FOLDER) :].removesuffix(".json")) for blob in store.driver.scan(FOLDER)]


def put(store: Store, name: str, content: bytes) -> None:
    """Put a file into the folder of the ledger."""
    with PublishBody(name, content, None, wanted(None)) as source:
        Calls(store.driver, "memory://x", 60.0).put(FOLDER + name, name, source, exclusive=False)


def test_a_document_that_was_never_written_is_empty(store: Store) -> None:
    assert opened(store.driver).read() == Entry({}, 0)
    assert there(store) == []


def test_changes_follow_one_another(store: Store) -> None:
    one, other = opened(store.driver), opened(store.driver)
    assert one.update(adding("a")).document == {"names": ["a"]}
    assert other.update(adding("b")).generation == 2
    assert one.update(adding("c")).document == other.read().document == {"names": ["a", "b", "c"]}
    assert one.read().generation == 3


def test_ledgers_of_other_names_are_others(store: Store) -> None:
    opened(store.driver).update(adding("a"))
    assert Ledger(Calls(store.driver, "memory://x", 60.0), "use").read() == Entry({}, 0)


def test_what_a_change_raises_comes_through(store: Store) -> None:
    def refuse(document: Document) -> Document:
        document["names"] = []
        raise KeyError("no")

    one = opened(store.driver)
    before = one.update(adding("a"))
    with pytest.raises(KeyError, match="no"):
        one.update(refuse)
    assert one.read() == opened(store.driver).read() == before


def test_a_change_is_judged_by_what_is_there_now(store: Store) -> None:
    """What a process remembers is a guess: neither an error nor `nothing to do` rests on it."""
    one = opened(store.driver)
    one.update(adding("a"))
    opened(store.driver).update(adding("b"))

    def only_after_b(document: Document) -> Document:
        if "b" not in document["names"]:
            raise ValueError("too early")
        return adding("c")(document)

    assert one.update(only_after_b).document["names"] == ["a", "b", "c"]
    opened(store.driver).update(adding("d"))
    shrug = one.update(lambda document: None if "d" not in document["names"] else adding("e")(document))
    assert shrug.document["names"] == ["a", "b", "c", "d", "e"]


def test_nothing_to_change_puts_nothing(store: Store) -> None:
    one = opened(store.driver)
    before = one.update(adding("a"))
    assert one.update(lambda document: None) == before
    assert there(store) == [1]


@pytest.mark.parametrize("verb", ["update", "read", "nothing"])
def test_a_document_is_its_reader_s_own(store: Store, verb: str) -> None:
    one = opened(store.driver)
    entry = one.update(adding("a"))
    if verb != "update":
        entry = one.read() if verb == "read" else one.update(lambda document: None)
    entry.document["names"].append("never put")
    assert one.update(adding("b")).document == {"names": ["a", "b"]}
    assert opened(store.driver).read().document == {"names": ["a", "b"]}


def test_what_a_change_keeps_for_itself_is_not_the_document(store: Store) -> None:
    kept: Document = {"names": ["a"]}
    one = opened(store.driver)
    one.update(lambda document: kept)
    kept["names"].append("never put")
    assert one.update(adding("b")).document == {"names": ["a", "b"]}


def test_all_see_the_same_types(store: Store) -> None:
    """A process that has put a document sees what JSON has made of it, as all others do."""
    one = opened(store.driver)
    assert one.update(lambda document: {1: ("a",)}).document == {"1": ["a"]}
    seen: list[Document] = []
    one.update(lambda document: seen.append(document))
    assert {json.dumps(each) for each in seen} == {'{"1": ["a"]}'}
    assert all(list(each) == ["1"] for each in seen)


def test_old_generations_are_deleted(store: Store) -> None:
    one = opened(store.driver)
    for turn in range(100):
        one.update(adding(str(turn)))
        assert len(there(store)) <= 2 * KEPT
    assert there(store)[-1] == 100
    assert len(one.read().document["names"]) == 100


def test_old_generations_that_may_not_be_deleted_stay(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with FaultPlan(Fault("delete", times=None, error=Denied("no"))) as plan:
        one = opened(FaultyDriver(store.driver, plan))
        for turn in range(3 * KEPT):
            one.update(adding(str(turn)))
    assert there(store) == list(range(1, 3 * KEPT + 1))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == ["old generations stay, and make each change slower: no"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b'{"format": 2, "generation": 1, "document": {}, "transactions": []}', b"[" * 100_000],
)
def test_a_document_that_is_none(store: Store, content: bytes) -> None:
    put(store, "000000000001.json", content)
    one = opened(store.driver)
    for verb in (one.read, lambda: one.update(adding("a"))):
        with pytest.raises(Corrupt, match="000000000001.json in memory://x is no generation of a ledger"):
            verb()
    assert there(store) == [1]


def test_files_of_others_are_no_generations(store: Store) -> None:
    one = opened(store.driver, timeout=0.1)
    one.update(adding("a"))
    for name in ("notes.txt", "000000000007", "7.json", "000000000007.json.bak"):
        put(store, name, b"{}")
    assert one.read().generation == 1
    assert one.update(adding("b")).generation == 2


def test_others_are_faster_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ledger, "time", clock)
    other = opened(store.driver)

    def outrun(document: Document) -> Document:
        other.update(adding("other"))
        return adding("mine")(document)

    with pytest.raises(Unavailable, match=r"could not be changed in the 60 s that are given: others were faster"):
        opened(store.driver).update(outrun)
    assert 60 < clock.now < 61
    assert "mine" not in other.read().document["names"]


def test_a_reply_that_was_lost(store: Store) -> None:
    """The document says whether the change is there; the transaction is found even when every reply is lost."""
    with FaultPlan(Fault("put", "after", times=None)) as plan:
        entry = opened(FaultyDriver(store.driver, plan), timeout=0.1).update(adding("a"))
    assert entry.document == opened(store.driver).read().document == {"names": ["a"]}
    with FaultPlan(Fault("put", "before", times=None)) as plan:
        failing = opened(FaultyDriver(store.driver, plan), timeout=0.1)
        with pytest.raises(Unavailable):
            failing.update(adding("b"))
    assert opened(store.driver).read().document == {"names": ["a"]}


def test_it_is_shared_by_threads(store: Store) -> None:
    one = opened(store.driver)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: one.update(adding(str(number))), range(80)))
    assert sorted(one.read().document["names"], key=int) == [str(number) for number in range(80)]


def test_a_thread_reads_what_it_has_found(store: Store) -> None:
    """And not what another thread, that began before it, has found meanwhile."""
    listed, go, done = threading.Event(), threading.Event(), threading.Event()

    class Watched(Ledger):
        """Lets the slow thread go on where another has noted what it found, and has not returned it yet."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_known" and value is not None and value.generation == 2 and not go.is_set():
                go.set()
                assert done.wait(60)

        def _get(self, generation: int, *args: Any) -> Entry:
            entry = super()._get(generation, *args)
            if generation == 1:
                listed.set()
                assert go.wait(60)
            return entry

    opened(store.driver).update(adding("a"))
    one = opened(store.driver, Watched)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.read)
        slow.add_done_callback(lambda _: done.set())
        assert listed.wait(60)
        opened(store.driver).update(adding("b"))
        assert one.read().generation == 2
        assert slow.result().generation in (1, 2)


def test_it_says_where_it_is(store: Store) -> None:
    assert opened(store.driver).where == f"{FOLDER} in memory://x"


def test_an_outage_comes_through(store: Store) -> None:
    opened(store.driver).update(adding("a"))
    with FaultPlan(Fault("open", times=None, error=NotFound("gone"))) as plan:
        failing = opened(FaultyDriver(store.driver, plan), timeout=0.05)
        with pytest.raises(Unavailable, match="changes faster than it can be read"):
            failing.read()
