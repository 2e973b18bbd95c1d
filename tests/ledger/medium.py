"""What the verbs of a driver do to the folder of a ledger, as a function of values that can be compared and hashed.

A call takes effect in one step, but for a scan, which has a beginning and an end. The medium keeps the history of the
document too, which nobody can read there: every state that was the newest one, in order.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pkgstore.errors import Exists, NotFound, StoreError


class Violation(AssertionError):
    """Something happened that must not."""


class Request(NamedTuple):
    """A call of a driver. A scan is two: ``scan``, and ``listed`` for its end."""

    verb: str
    key: str
    content: bytes = b""
    token: str = ""
    exclusive: bool = True
    tag: str | None = None

    @property
    def changes(self) -> bool:
        """Whether the call changes the medium."""
        return self.verb in ("put", "delete")


class Reply(NamedTuple):
    """What a call came to, ``elapsed`` seconds after it was made: its value, or the kind of its error."""

    value: Any = None
    error: type[StoreError] | None = None
    elapsed: float = 0.0


class Held(NamedTuple):
    """A blob. The token of its put serves as its tag."""

    key: str
    content: bytes
    token: str


class Past(NamedTuple):
    """A state of the document that was the newest, with the names of the updates that are in it."""

    generation: int
    names: tuple[str, ...]


class Medium(NamedTuple):
    """What is there, by key, and the history of the document."""

    blobs: tuple[Held, ...] = ()
    log: tuple[Past, ...] = (Past(0, ()),)

    def at(self, key: str) -> Held | None:
        """Return what is at a key."""
        return next((held for held in self.blobs if held.key == key), None)

    def shown(self) -> frozenset[tuple[str, str]]:
        """Return the keys that are there, with their tags."""
        return frozenset((held.key, held.token) for held in self.blobs)


def effect(medium: Medium, request: Request) -> tuple[Medium, Reply]:
    """Return the medium after a call, and the answer. Raises `Violation` when the document's history is no line."""
    there = medium.at(request.key)
    match request.verb:
        case "scan":
            return medium, Reply()
        case "listed":
            return medium, Reply(tuple(sorted(medium.shown())))
        case "put":
            return _put(medium, request, there)
    if there is None or request.tag not in (None, there.token):
        return medium, Reply(error=NotFound if request.verb == "open" else None)
    if request.verb == "open":
        return medium, Reply(there)
    assert request.verb == "delete"
    if _number(request.key) == medium.log[-1].generation:
        raise Violation("the newest generation is deleted")
    return medium._replace(blobs=tuple(each for each in medium.blobs if each != there)), Reply()


def _put(medium: Medium, request: Request, there: Held | None) -> tuple[Medium, Reply]:
    if there is not None and there.token == request.token:
        return medium, Reply(there)
    if there is not None and request.exclusive:
        return medium, Reply(error=Exists)
    held = Held(request.key, request.content, request.token)
    blobs = tuple(sorted({each.key: each for each in (*medium.blobs, held)}.values()))
    return Medium(blobs, _lengthened(medium, held, replaces=there is not None)), Reply(held)


class Listing(NamedTuple):
    """How a scan may end. ``is_overtaken`` says that it shows an older state than was there when it began."""

    name: str
    reply: Reply
    is_overtaken: bool


def listings(before: frozenset[tuple[str, str]], medium: Medium) -> list[Listing]:
    """Return how a scan may end that began when ``before`` was there: with or without what came meanwhile, or went."""
    after = medium.shown()
    all_the_time = before & after
    came, went = after - before, before - after
    found: dict[tuple[tuple[str, str], ...], str] = {}
    for name, some in (("", came), ("as it began", went), ("without both", frozenset()), ("with both", came | went)):
        # Of one name, a scan yields one version.
        found.setdefault(tuple(sorted(dict(sorted(all_the_time | some)).items())), name)
    return [
        Listing(name, Reply(value), max(value, default=("",)) < max(before, default=("",)))
        for value, name in found.items()
    ]


def _lengthened(medium: Medium, held: Held, *, replaces: bool) -> tuple[Past, ...]:
    content = json.loads(held.content)
    newest, number, names = medium.log[-1], _number(held.key), tuple(content["document"].get("names", ()))
    if number < newest.generation or (number == newest.generation and not replaces):
        return medium.log  # nobody may take this for the newest
    if replaces:
        raise Violation("the newest generation is replaced by another")
    if number != newest.generation + 1 or content["generation"] != number:
        raise Violation(f"generation {number} follows {newest.generation}")
    if names[:-1] != newest.names:
        raise Violation(f"{names} is put in the place of {newest.names}, and is no change of it")
    if len(set(names)) < len(names):
        raise Violation(f"{names[-1]} is made twice")
    return (*medium.log, Past(number, names))


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[1].removesuffix(".json"))
