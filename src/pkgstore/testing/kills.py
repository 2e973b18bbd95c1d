"""Publishers that are killed (SIGKILL) in the middle of it, and what they leave."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pkgstore import Corrupt, Exists, NotFound, keys
from pkgstore.testing.processes import Talk, Worker, workers
from pkgstore.testing.sources import Once, Rewound, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore import Store
    from pkgstore.testing.races import Arena

_AT_ONCE = 4
_STAGING = f"{keys.CONTROL}/tmp/"


def publish_until_held(talk: Talk, arena: Arena, index: int, at: int) -> str:
    """Publish a body that says ``held`` once ``at`` bytes are on their way to the medium, and goes on when spoken to.

    Returns the blob's tag; empty when the key was taken.
    """

    def wait() -> None:
        talk.say("held")
        talk.hear()

    hold = Once(wait)

    def told(read: int) -> None:
        if read >= at:
            hold()

    with arena.opener(arena.url) as store:
        data = arena.body(index, 0)
        body = Stream(data, told=told) if store.driver.streams else Rewound(data, told)
        try:
            return store.publish(arena.key(index), body).tag
        except Exists:
            return ""


def publish_on_and_on(talk: Talk, arena: Arena) -> None:
    """Publish one key after the other, and say so before and after."""
    with arena.opener(arena.url) as store:
        for index in range(arena.keys):
            talk.say(("begun", index))
            store.publish(arena.key(index), arena.body(index, 0))
            talk.say(("done", index))


def holding(worker: Worker, arena: Arena, index: int, at: int) -> None:
    """Start a publish in a worker, and return when it is held in its middle."""
    worker.start(publish_until_held, arena, index, at)
    assert worker.hear() == "held"


@dataclass
class Killed:
    """What came of killing publishers."""

    found: list[str] = field(default_factory=list)  # what must not be there, in sentences
    left: set[str] = field(default_factory=set)  # the names of what lay staged then, where the driver shows it


def kill_in_mid_publish(arena: Arena, kills: int) -> Killed:
    """Kill publishers in the middle of their bodies, each of a key of its own; a publisher that comes after wins."""
    chance = random.Random(f"{arena.seed} kills")
    killed = Killed()
    with arena.opener(arena.url) as store:
        for first in range(0, kills, _AT_ONCE):
            indexes = range(first, min(first + _AT_ONCE, kills))
            with workers(len(indexes)) as victims:
                for victim, index in zip(victims, indexes, strict=True):
                    holding(victim, arena, index, chance.randrange(arena.size + 1))
                for victim in victims:
                    victim.kill()
            killed.left |= staged(store)
            for index in indexes:
                killed.found += _seen(store, arena, index)
                try:
                    store.publish(arena.key(index), arena.body(index, 1))
                except Exists:
                    killed.found.append(f"{arena.key(index)} could not be published, after its publisher was killed")
    return killed


def freeze_in_mid_publish(arena: Arena, freezes: int) -> list[str]:
    """Freeze publishers (SIGSTOP) in the middle of their bodies, publish the same keys, and thaw them.

    Returns what they did or were told that is wrong: each has lost.
    """
    chance = random.Random(f"{arena.seed} freezes")
    found = []
    with arena.opener(arena.url) as store, workers(1) as (victim,):
        for index in range(freezes):
            holding(victim, arena, index, chance.randrange(arena.size + 1))
            victim.stop()
            key, data = arena.key(index), arena.body(index, 1)
            try:
                tag = store.publish(key, data).tag
            except Exists:
                found.append(f"{key} could not be published while another publisher was frozen")
                tag = ""
            victim.resume()
            victim.say("go on")
            if victim.result():
                found.append(f"{key}: a publisher that was frozen was told that it had won as well")
            if tag and (store.stat(key).tag != tag or store.read(key) != data):
                found.append(f"{key} does not hold what was published while another publisher was frozen")
    return found


def staged(store: Store) -> set[str]:
    """Return the names of what lies staged in a store, where its driver stages in the control folder."""
    return {blob.key for blob in store.driver.scan(_STAGING)}


def kill_at_any_moment(arena: Arena) -> list[str]:
    """Kill a publisher of many keys at a moment of chance; return what is lost, or torn, or ought not to be there."""
    chance = random.Random(f"{arena.seed} moments")
    with workers(1) as (victim,):
        victim.start(publish_on_and_on, arena)
        said = [victim.hear() for _ in range(chance.randrange(1, arena.keys))]
        for _ in range(chance.randrange(20_000)):
            pass  # so that the publish is killed at any of its steps
        said += victim.kill()
    done = {index for word, index in said if word == "done"}
    begun = {index for word, index in said if word == "begun"}
    found = []
    with arena.opener(arena.url) as store:
        present = {blob.key: blob.size for blob in store.list(arena.prefix)}
        for index in sorted(begun):
            size = present.pop(arena.key(index), None)
            if size is None and index in done:
                found.append(f"{arena.key(index)} was published, and is lost")
            elif size is not None and not _is_whole(store, arena, index):
                found.append(f"{arena.key(index)} is torn")
        found += [f"{key} was never published" for key in present]
    return found


def _seen(store: Store, arena: Arena, index: int) -> Iterator[str]:
    key = arena.key(index)
    for name, verb in (("stat", store.stat), ("open", store.open)):
        try:
            verb(key)
        except NotFound:
            pass
        else:
            yield f"{key} is there for {name}, after its publisher was killed"
    if key in {blob.key for blob in store.list(arena.prefix)}:
        yield f"{key} is listed, after its publisher was killed"


def _is_whole(store: Store, arena: Arena, index: int) -> bool:
    try:
        return store.read(arena.key(index)) == arena.body(index, 0)
    except Corrupt:
        return False
