"""Races between processes: who wins, what readers see meanwhile, and what a killed publisher leaves.

Used by the conformance tests with small numbers, and by `pkgstore.testing.race` with large ones.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from pkgstore import Corrupt, Exists, NotFound
from pkgstore.testing.processes import Talk, Worker, conduct, workers
from pkgstore.testing.sources import Once, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore import Store

    Opener = Callable[..., Store]

READERS = 2
REPLACERS = 2

_VARIANTS = 4
_LOOKS = 100
_PATTERN = 1 << 20


@dataclass(frozen=True)
class Arena:
    """Where a race is run: a store, a prefix of it that is the race's own, and what is published there."""

    opener: Opener
    url: str
    prefix: str
    keys: int
    size: int
    seed: str

    def key(self, index: int) -> str:
        """Return the name of the blob with this number."""
        return f"{self.prefix}{index:04}/blob"

    def bodies(self) -> list[bytes]:
        """Return what may be found under each key; the first bytes tell them apart."""
        return _bodies(self.seed, self.size)

    def body(self, index: int, racer: int) -> bytes:
        """Return what a racer publishes. Some racers publish the same bytes."""
        return self.bodies()[(index + racer) % _VARIANTS]


@dataclass
class Race:
    """What came of a race; `faults` is empty when the promises were kept."""

    one: int = 0  # keys with exactly one winner
    several: int = 0  # keys with more
    none: int = 0  # keys without
    reads: int = 0
    absent: int = 0  # times that a reader came before the blob did
    half: list[str] = field(default_factory=list)  # what readers saw that no publisher published
    wrong: list[str] = field(default_factory=list)  # wrong replies, and wrong bytes at the end

    @property
    def faults(self) -> list[str]:
        """Every broken promise, in a sentence."""
        found = [*self.half, *self.wrong]
        if self.several:
            found.append(f"{self.several} keys had more than one winner")
        if self.none:
            found.append(f"{self.none} keys had no winner")
        return found


def race(arena: Arena, racers: int, reads: int) -> Race:
    """Have ``racers`` processes publish the same keys at the same time, while others read; then replace them likewise.

    The readers read ``reads`` times at least, always while somebody writes.
    """
    result = Race()
    with workers(racers) as team, workers(READERS) as readers:
        for number, each in enumerate(readers):
            each.start(read_while_written, arena, number, -(-reads // READERS))
        for number, each in enumerate(team):
            each.start(publish_each, arena, number)
        conduct(team, arena.keys)
        _judge(result, arena, [each.result() for each in team])
        replacers = team[:REPLACERS]
        start_replacing(replacers, arena)
        for each in readers:
            each.say("all are there")
        for each in readers:
            reads_of_one, absent, half = each.result()
            result.reads += reads_of_one
            result.absent += absent
            result.half += half
        for each in replacers:
            each.say("enough")
            each.result()
    return result


def start_replacing(replacers: list[Worker], arena: Arena) -> None:
    """Have workers replace blobs until they are told that it is enough; return when each has replaced one."""
    for number, each in enumerate(replacers):
        each.start(replace_until_told, arena, number)
    for each in replacers:
        each.hear()


def _judge(result: Race, arena: Arena, outcomes: list[list[tuple[str, Any]]]) -> None:
    with arena.opener(arena.url) as store:
        for index in range(arena.keys):
            key = arena.key(index)
            replies = [each[index] for each in outcomes]
            winners = [racer for racer, (kind, _) in enumerate(replies) if kind == "won"]
            result.one += len(winners) == 1
            result.several += len(winners) > 1
            result.none += not winners
            result.wrong += [f"{key}: a racer was told {value}" for kind, value in replies if kind == "error"]
            if len(winners) != 1:
                continue
            content = store.read(key)
            if content != arena.body(index, winners[0]):
                result.wrong.append(f"{key} does not hold the bytes of its winner")
            for racer, (kind, identical) in enumerate(replies):
                if kind == "exists" and identical != (arena.body(index, racer) == content):
                    result.wrong.append(f"{key}: a loser was told identical={identical}, which is wrong")
        listed = [blob.key for blob in store.list(arena.prefix)]
    if listed != [arena.key(index) for index in range(arena.keys)]:
        result.wrong.append(f"the list of {arena.prefix} has {len(listed)} blobs, which are not those published")


# -- in the workers ---------------------------------------------------------------------------------------------------


def publish_each(talk: Talk, arena: Arena, racer: int) -> list[tuple[str, Any]]:
    """Publish every key together with the others: every second time all start, and else all end, in one moment."""
    outcomes: list[tuple[str, Any]] = []
    with arena.opener(arena.url) as store:
        for index in range(arena.keys):
            meet = Once(talk.meet)
            body: Any = arena.body(index, racer)
            if index % 2:
                body = Stream(body, ended=meet)
            else:
                meet()
            outcomes.append(outcome(store, arena.key(index), body))
            meet()  # a driver may refuse before it has read all
    return outcomes


def outcome(store: Store, key: str, body: Any) -> tuple[str, Any]:
    """Publish, and return what came of it: ``won`` and a tag, ``exists`` and whether identical, or an error."""
    try:
        return "won", store.publish(key, body).tag
    except Exists as exc:
        return "exists", exc.identical
    except Exception as exc:  # noqa: BLE001 - any error is a wrong answer, and is reported
        return "error", f"{type(exc).__name__}: {exc}"


def replace_until_told(talk: Talk, arena: Arena, racer: int) -> None:
    """Replace blobs, one after the other; say so after the first."""
    chance = random.Random(f"{arena.seed} replacer {racer}")
    begun = Once(lambda: talk.say("begun"))
    with arena.opener(arena.url) as store:
        while not talk.is_spoken_to():
            store.publish(arena.key(chance.randrange(arena.keys)), chance.choice(arena.bodies()), replace=True)
            begun()
    talk.hear()


def read_while_written(talk: Talk, arena: Arena, reader: int, reads: int) -> tuple[int, int, list[str]]:
    """Read the newest blob again and again; once told that all are there, any blob, until ``reads`` is reached.

    Returns how many reads there were, how often the newest was not there yet, and what was wrong.
    """
    chance = random.Random(f"{arena.seed} reader {reader}")
    counts: Counter[str] = Counter()
    half: list[str] = []
    newest, told = 0, False
    with arena.opener(arena.url) as store:
        while not told or counts["reads"] < reads:
            if not told and talk.is_spoken_to():
                talk.hear()
                told = True
            index = chance.randrange(arena.keys) if told else newest
            seen = look(store, arena, index, verify=chance.random() < 0.25)
            if seen == "absent" and not told:
                counts["absent"] += 1
                continue
            counts["reads"] += 1
            newest = min(newest + 1, arena.keys - 1)
            if seen:
                half.append(f"{arena.key(index)} was seen {seen}")
            if counts["reads"] % 100 == 0:
                half += [f"{blob.key} was listed with {blob.size} bytes" for blob in _odd(store, arena)]
    return counts["reads"], counts["absent"], half


def look(store: Store, arena: Arena, index: int, *, verify: bool) -> str:
    """Read a blob, and say what was wrong with it, if anything was: `absent` or in another state."""
    for _ in range(_LOOKS):
        try:
            reader = store.open(arena.key(index), verify=verify)
        except NotFound:
            return "absent"
        with reader:
            if reader.blob.size != arena.size:
                return f"with a size of {reader.blob.size}"
            try:
                data = reader.readall()
            except NotFound:
                continue  # replaced meanwhile, on a medium that keeps no old version for its readers
            except Corrupt as exc:
                return f"corrupt: {exc}"
        return "" if data in arena.bodies() else f"with {len(data)} bytes that nobody published"
    return f"replaced in the middle of {_LOOKS} reads, one after the other"


def _odd(store: Store, arena: Arena) -> list[Any]:
    expected = {arena.key(index) for index in range(arena.keys)}
    return [blob for blob in store.list(arena.prefix) if blob.size != arena.size or blob.key not in expected]


@cache
def _bodies(seed: str, size: int) -> list[bytes]:
    bodies = []
    for variant in range(_VARIANTS):
        pattern = random.Random(f"{seed} {size} {variant}").randbytes(min(size, _PATTERN))
        whole = pattern * (size // _PATTERN + 1)
        bodies.append((bytes([variant]) + whole)[:size])
    return bodies
