"""The ledger, explored: every order of the driver calls of a few writers, with faults.

See `tests.ledger`. Few generations are kept and remembered, so that short runs reach what happens beyond them. The
numbers of schedules are what they were when a test was written, or less: they show that a test has not become one of
nothing. With PKGSTORE_LABS set to ``full``, more is explored.
"""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from pkgstore import keys, ledger
from pkgstore.bodies import PublishBody
from pkgstore.drivers import memory
from pkgstore.errors import Exists
from pkgstore.hashing import wanted
from pkgstore.ledger import Entry, Ledger
from tests.ledger import replay
from tests.ledger.medium import Medium, Reply, Request, Violation, effect
from tests.ledger.replay import Step
from tests.ledger.schedules import KINDS, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ledger.replay import Stage
    from tests.ledger.schedules import Report

FULL = os.environ.get("PKGSTORE_LABS") == "full"
RUNS = 2000 if FULL else 60

KEPT, REMEMBERED = 2, 4
MANY = 6
"""Changes after which all that was there is gone, and more than are remembered."""

UPDATE, READ, AFTER_REST = Step(), Step("read"), Step(is_rested=True)

only_full = pytest.mark.skipif(not FULL, reason="PKGSTORE_LABS is not full")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Yield where ledgers are replayed."""
    with replay.stage(KEPT, REMEMBERED) as made:
        yield made


@pytest.fixture
def long_memory() -> Iterator[Stage]:
    """Yield a stage where nobody is refused for having slept."""
    with replay.stage(KEPT, 5 * MANY) as made:
        yield made


def seen(report: Report, schedules: int, most: int = 2 * KEPT + 1) -> None:
    """Print how much was explored, and hold it to how much there was, and to how many generations may be there."""
    print(report)
    assert report.schedules >= schedules
    assert report.most <= most


# -- all orders -------------------------------------------------------------------------------------------------------


def test_one_writer(stage: Stage) -> None:
    seen(World(stage).writer(UPDATE, UPDATE).explore(2), 300)


def test_two_writers(stage: Stage) -> None:
    seen(World(stage).writer().writer().explore(1), 1_000_000)
    seen(World(stage, scans_in_one=True).writer().writer().explore(2), 1_000_000)


def test_two_writers_whose_calls_are_tried_again(stage: Stage) -> None:
    seen(World(stage, scans_in_one=True, timeout=0.05).writer().writer().explore(2), 100_000)


def test_three_writers(stage: Stage) -> None:
    seen(World(stage, scans_in_one=True).writer().writer().writer().explore(0), 1_000_000)


@pytest.mark.parametrize("mood", ["raises", "hesitates", "shrugs"])
def test_a_change_that_is_not_made(stage: Stage, mood: str) -> None:
    seen(World(stage).writer(Step(mood=mood)).writer().explore(1), 10_000)


def test_readers(stage: Stage) -> None:
    seen(World(stage).writer(READ, READ).crowd(1, MANY).explore(1), 100)
    seen(World(stage).writer(READ, READ).writer().explore(1), 10_000)


def test_a_writer_that_rests(stage: Stage) -> None:
    """It is told nothing of how long it has rested, although it finds the name free that follows what it knew."""
    seen(World(stage).writer(UPDATE, AFTER_REST).crowd(MANY).explore(1), 500, 2 * KEPT + 2)
    seen(World(stage).writer(UPDATE, UPDATE).crowd(MANY).explore(1), 500, 2 * KEPT + 2)


def test_a_writer_that_sleeps(stage: Stage) -> None:
    seen(World(stage, scans_in_one=True).writer().crowd(1, MANY).explore(2), 10_000, 2 * KEPT + 2)
    seen(World(stage).writer().crowd(1, MANY).explore(1), 1_000, 2 * KEPT + 2)


def test_a_writer_that_sleeps_and_may_look_for_itself(long_memory: Stage) -> None:
    lost = World(long_memory, scans_in_one=True, faults=frozenset({"late", "reply lost"}))
    seen(lost.writer().crowd(1, MANY).explore(2), 1_000, 2 * KEPT + 3)
    seen(World(long_memory).writer().crowd(1, MANY).explore(1), 1_000, 2 * KEPT + 2)


def test_two_writers_that_sleep(stage: Stage) -> None:
    kinds = frozenset({"late", "reply lost"})
    seen(World(stage, scans_in_one=True, faults=kinds).writer().writer().crowd(MANY).explore(1), 100_000, 2 * KEPT + 2)


def test_each_change_deletes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEPT", 1)
    seen(World(stage).writer(UPDATE, UPDATE).writer().explore(0), 500_000, 4)
    world = World(stage, scans_in_one=True)
    seen(world.writer(UPDATE, UPDATE).writer().explore(1), 100_000, 4)


@only_full
@pytest.mark.timeout(3600)
def test_more_of_all_this(stage: Stage) -> None:
    one = {"scans_in_one": True}
    seen(World(stage, **one).writer().writer().writer().explore(1), 10_000_000)
    seen(World(stage).writer().writer().explore(2), 1_000_000_000)
    seen(
        World(stage)
        .writer()
        .crowd(1, MANY)
        .explore(
            2,
        ),
        100_000,
        2 * KEPT + 3,
    )
    seen(World(stage, **one).writer().writer().crowd(MANY).explore(1), 1_000_000, 2 * KEPT + 3)
    seen(World(stage, **one).writer(READ, READ).writer().crowd(1, MANY).explore(1), 100_000, 2 * KEPT + 3)


# -- longer runs, by chance -------------------------------------------------------------------------------------------


@pytest.fixture
def rng() -> random.Random:
    """Chance, with its seed in the output of a test that fails; PKGSTORE_TEST_SEED sets it."""
    seed = os.environ.get("PKGSTORE_TEST_SEED") or random.SystemRandom().randbytes(6).hex()
    print(f"PKGSTORE_TEST_SEED={seed}")
    return random.Random(seed)


def many(stage: Stage, **what: Any) -> World:
    """Return a world of several who change the document several times."""
    world = World(stage, faults=KINDS - {"overtaken"}, **what)
    world.writer(*[UPDATE] * 3, READ).writer(UPDATE, READ, AFTER_REST, UPDATE).writer(*[UPDATE] * 4)
    return world.crowd(2, MANY)


def wandered(world: World) -> None:
    """Follow many runs, and the shortest that breaks a promise when one does."""

    @settings(max_examples=RUNS, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 6), st.randoms(use_true_random=False))
    def run(faults: int, chance: random.Random) -> None:
        world.wander(faults, chance)

    run()


def test_many_changes_with_many_faults(stage: Stage) -> None:
    world = many(stage)
    wandered(world)
    seen(world.report, RUNS, 2 * KEPT + 6)


def test_a_long_run_shows_a_broken_ledger(stage: Stage) -> None:
    class Mutant(Ledger):
        def _get(self, *args: Any) -> Entry:
            return super()._get(*args)._replace(transactions=())

    with pytest.raises(Violation, match="is made twice"):
        wandered(many(stage, kind=Mutant))


def test_the_medium_is_as_the_memory_driver(rng: random.Random) -> None:
    """What is explored does what a driver does that has passed the conformance kit."""
    medium, driver = Medium(), memory.MemoryDriver(memory._Space())
    for turn in range(300):
        newest = medium.log[-1]
        number = rng.randint(max(1, newest.generation - 2), newest.generation + 1)
        verb = rng.choice(["put", "put", "delete", "open", "listed"])
        if verb == "delete" and number == newest.generation:
            continue
        document = {"names": [*newest.names, str(turn)]}
        content = json.dumps({"generation": number, "document": document}).encode()
        request = Request(verb, f".pkgstore/ledger/x/{number:012}.json", content, rng.choice("abc") + str(number))
        medium, reply = effect(medium, request)
        assert (reply.error and reply.error.__name__, _contents(reply)) == _done(driver, request)
    assert len(medium.log) > 10


def _contents(reply: Reply) -> Any:
    if isinstance(reply.value, tuple) and not hasattr(reply.value, "content"):
        return [key for key, _ in reply.value]
    return reply.value and reply.value.content


def _done(driver: memory.MemoryDriver, request: Request) -> tuple[str | None, Any]:
    try:
        match request.verb:
            case "put":
                with PublishBody(request.key, request.content, None, wanted(None)) as source, source.attempt() as body:
                    driver.put(request.key, body, None, digests={}, exclusive=True, token=request.token)
                return None, driver.open(request.key)[1].read()
            case "listed":
                return None, [blob.key for blob in driver.scan(f"{keys.CONTROL}/ledger/x/")]
            case "open":
                return None, driver.open(request.key)[1].read()
        driver.delete(request.key)
    except OSError as exc:
        kind = driver.classify(exc)
        assert kind is not None
        return kind.__name__, None
    return None, None


# -- it can fail ------------------------------------------------------------------------------------------------------


def caught(world: World, words: str, faults: int = 0) -> None:
    """Expect that a broken ledger is caught, and print the run that shows it."""
    with pytest.raises(Violation, match=words) as info:
        world.explore(faults)
    print(info.value)


def test_a_put_that_nobody_confirms_is_caught(stage: Stage) -> None:
    class Mutant(Ledger):
        """Where it looks after a put, it sees nothing newer."""

        newest = 0

        def _put(self, entry: Entry) -> Any:
            self.newest = entry.generation
            try:
                return super()._put(entry)
            except Exists:
                self.newest = 0
                raise

        def _numbers(self) -> Any:
            found, newest, self.newest = super()._numbers(), self.newest, 0
            return [each for each in found if not newest or (each if type(each) is int else each[0]) <= newest]

    caught(World(stage, kind=Mutant).writer().crowd(1, MANY), "was never the newest")


def test_a_ledger_that_does_not_know_its_own_is_caught(stage: Stage) -> None:
    class Mutant(Ledger):
        def _get(self, *args: Any) -> Entry:
            return super()._get(*args)._replace(transactions=())

    caught(World(stage, kind=Mutant, faults=frozenset({"reply lost"})).writer(), "is made twice", 1)
    caught(World(stage, kind=Mutant).writer().writer(), "is made twice")


def test_a_ledger_that_remembers_less_than_it_relies_on_is_caught(
    long_memory: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It relies on 30 and remembers 4, so that whoever has slept is not refused."""
    followed = ledger._followed

    def forgetful(*args: Any, **options: Any) -> Entry | None:
        entry = followed(*args, **options)
        return entry and entry._replace(transactions=entry.transactions[-REMEMBERED:])

    monkeypatch.setattr(ledger, "_followed", forgetful)
    caught(World(long_memory).writer().crowd(MANY), "is made twice")


def test_a_ledger_that_takes_the_oldest_for_the_newest_is_caught(stage: Stage) -> None:
    class Mutant(Ledger):
        def _newest(self) -> Entry:
            numbers = self._numbers()
            return self._get(*numbers[0]) if numbers else Entry({}, 0)

    caught(World(stage, kind=Mutant).writer(READ).crowd(1, 1), "one who comes now|was there when it began|is deleted")


def test_a_ledger_that_deletes_the_newest_is_caught(stage: Stage) -> None:
    class Mutant(Ledger):
        def _put(self, entry: Entry) -> Any:
            done = super()._put(entry)
            self._delete(entry.generation)
            return done

    caught(World(stage, kind=Mutant).writer(), "the newest generation is deleted")


def test_a_medium_that_replaces_is_caught(stage: Stage) -> None:
    def replacing(medium: Medium, request: Request) -> tuple[Medium, Reply]:
        return effect(medium, request._replace(exclusive=False))

    caught(World(stage, effect=replacing).writer().writer(), "the newest generation is replaced")


def test_a_ledger_that_opens_whatever_is_there_is_caught(long_memory: Stage) -> None:
    """And not the version that was listed: a name that was the newest may be somebody's stale one since."""

    def unbound(medium: Medium, request: Request) -> tuple[Medium, Reply]:
        return effect(medium, request._replace(tag=None))

    world = World(long_memory, effect=unbound, scans_in_one=True, faults=frozenset({"late"}))
    caught(world.writer().crowd(1, MANY), "which was never the newest", 1)


def test_a_ledger_that_believes_an_empty_listing_is_caught(stage: Stage) -> None:
    class Mutant(Ledger):
        def _newest(self) -> Entry:
            return super()._newest() if self._numbers() else Entry({}, 0)

    caught(World(stage, kind=Mutant).writer(READ).crowd(1, MANY), "was there when it began", 1)
