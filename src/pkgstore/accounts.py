"""The document of a store's quota: what is there, what may be, and what each publisher has in hand.

::

    scopes     by prefix ("" is the whole store): blobs, bytes, limit, blob_limit, and whether they were counted yet
    holders    by publisher: beat, a number that changes as long as it lives; grants, by scope; claims, the keys that it
               is about to change; parked, the recount for which it holds still
    recount    who counts all blobs at the moment
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pkgstore.driver import Blob

LEASE = 12.0
"""Seconds of silence after which one who has something in hand is taken for dead."""

_MOST_BYTES_AHEAD = 64 << 20
_SHARES = 8


def clock() -> float:
    """Return the seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds: ``blobs``, their number, and ``bytes``, the sum of their sizes.

    Where it has a quota: ``reserved``, the bytes that publishers have in hand; ``limit`` and ``blob_limit``, what it
    may hold, or None for no limit; ``available``, the bytes that it, and the store that it is a scope of, have left, or
    None where neither has a limit.
    """

    blobs: int
    bytes: int
    reserved: int = 0
    limit: int | None = None
    blob_limit: int | None = None
    available: int | None = None


@dataclass
class Amounts:
    """Bytes and blobs, by scope. False when there are none."""

    of: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(map(any, self.of.values()))

    def __add__(self, other: Amounts) -> Amounts:
        of = dict(self.of)
        for scope, (size, blobs) in other.of.items():
            mine = of.get(scope, (0, 0))
            of[scope] = (mine[0] + size, mine[1] + blobs)
        return Amounts(of)

    def __sub__(self, other: Amounts) -> Amounts:
        of = dict(self.of)
        for scope, (size, blobs) in other.of.items():
            mine = of.get(scope, (0, 0))
            of[scope] = (mine[0] - size, mine[1] - blobs)
        return Amounts(of)

    def __getitem__(self, scope: str) -> tuple[int, int]:
        return self.of.get(scope, (0, 0))

    def without(self, scopes: set[str]) -> Amounts:
        """Return what is not in these scopes."""
        return Amounts({scope: amounts for scope, amounts in self.of.items() if scope not in scopes})

    def covers(self, other: Amounts) -> bool:
        """Say whether this is as much as the other, or more, in each of its scopes."""
        return all(self[scope][0] >= size and self[scope][1] >= blobs for scope, (size, blobs) in other.of.items())

    @classmethod
    def at(cls, scopes: Iterable[str], path: str, size: int, blobs: int) -> Amounts:
        """Return what a key takes in each of the scopes that it lies in."""
        return cls({scope: (size, blobs) for scope in scopes if path.startswith(scope)})


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


class Beats:
    """Whose beat has been the same for how long, by this host's clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def silent(self, holders: dict[str, Any]) -> set[str]:
        """Return those who have said nothing for `LEASE`, since they were first seen here."""
        now = clock()
        known = self._seen
        self._seen = {
            name: known[name] if name in known and known[name][0] == each["beat"] else (each["beat"], now)
            for name, each in holders.items()
        }
        return {name for name, (_, since) in self._seen.items() if now - since >= LEASE}


class Short(Exception):
    """A scope has no room for what is needed: no bytes, if ``in_bytes``, or else no blobs.

    ``others`` says whether it would have, but for what others hold.
    """

    def __init__(self, scope: str, usage: Usage, *, in_bytes: bool, others: bool) -> None:
        super().__init__(scope)
        self.scope = scope
        self.usage = usage
        self.in_bytes = in_bytes
        self.others = others


def add_scope(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the account of a scope, which is made, and is then still to be counted, where there is none."""
    empty = {"blobs": 0, "bytes": 0, "limit": None, "blob_limit": None, "counted": False}
    account: dict[str, Any] = document.setdefault("scopes", {}).setdefault(prefix, empty)
    return account


def settle(document: dict[str, Any], changes: Amounts) -> None:
    """Add what has become visible since, and take away what is gone."""
    for scope, account in document["scopes"].items():
        size, blobs = changes[scope]
        account["bytes"] += size
        account["blobs"] += blobs


def usage_of(document: dict[str, Any], prefix: str) -> Usage | None:
    """Return the usage of a scope; None where it has no account, or was not counted yet."""
    account = document.get("scopes", {}).get(prefix)
    if account is None or not account["counted"]:
        return None
    return Usage(
        account["blobs"],
        account["bytes"],
        _granted(document, prefix)[0],
        account["limit"],
        account["blob_limit"],
        available(document, prefix),
    )


def available(document: dict[str, Any], prefix: str) -> int | None:
    """Return the bytes that a scope, and those that it lies in, have left; None where none of them has a limit."""
    scopes = document.get("scopes", {}).items()
    lefts = [_left(account, _granted(document, scope)[0]) for scope, account in scopes if prefix.startswith(scope)]
    return min((left for left in lefts if left is not None), default=None)


def _left(account: dict[str, Any], reserved: int) -> int | None:
    limit: int | None = account["limit"]
    return None if limit is None else max(0, limit - account["bytes"] - reserved)


def check_room(document: dict[str, Any], holder: str, held: Amounts, need: Amounts) -> None:
    """Raise `Short` when there is no room for what is needed beside what all have in hand."""
    for scope in need.of:
        account = document["scopes"][scope]
        size, blobs = _sum(held[scope], need[scope])
        more, others = _granted(document, scope, but=holder)
        if not _fits(account, size + more, blobs + others):
            reserved = held[scope][0] + more
            limits = account["limit"], account["blob_limit"], _left(account, reserved)
            usage = Usage(account["blobs"], account["bytes"], reserved, *limits)
            in_bytes = not _fits({**account, "blob_limit": None}, size + more, 0)
            raise Short(scope, usage, in_bytes=in_bytes, others=_fits(account, size, blobs))


def ahead(document: dict[str, Any], holder: str, held: Amounts, need: Amounts, times: int) -> Amounts:
    """Return what may be granted besides ``held``, for as many publishes like ``need`` more: a share of the room."""
    room = []
    for scope in need.of:
        account = document["scopes"][scope]
        size, blobs = _sum(held[scope], _granted(document, scope, but=holder))
        room.append(
            (
                _MOST_BYTES_AHEAD
                if account["limit"] is None
                else (account["limit"] - account["bytes"] - size) // _SHARES,
                times
                if account["blob_limit"] is None
                else (account["blob_limit"] - account["blobs"] - blobs) // _SHARES,
            )
        )
    if not room:
        return Amounts()
    size = max(size for size, _ in need.of.values())
    most = max(0, min(size * times, _MOST_BYTES_AHEAD, *(each[0] for each in room)))
    blobs = max(0, min(times, *(each[1] for each in room)))
    return Amounts(dict.fromkeys(need.of, (most, blobs)))


def over(document: dict[str, Any]) -> set[str]:
    """Return the scopes in which more is there and granted than a limit allows, as when it was lowered."""
    scopes = document.get("scopes", {}).items()
    return {scope for scope, account in scopes if not _fits(account, *_granted(document, scope))}


def _fits(account: dict[str, Any], size: int, blobs: int) -> bool:
    limit, blob_limit = account["limit"], account["blob_limit"]
    return (limit is None or account["bytes"] + size <= limit) and (
        blob_limit is None or account["blobs"] + blobs <= blob_limit
    )


def _granted(document: dict[str, Any], scope: str, but: str = "") -> tuple[int, int]:
    found = (0, 0)
    for name, each in document.get("holders", {}).items():
        if name != but:
            size, blobs = each["grants"].get(scope, (0, 0))
            found = _sum(found, (size, blobs))
    return found


def count(blobs: Iterator[Blob], scopes: Iterable[str]) -> Amounts:
    """Return what is there, in each of the scopes."""
    totals = {scope: [0, 0] for scope in scopes}
    for blob in blobs:
        for scope, total in totals.items():
            if blob.key.startswith(scope):
                total[0] += blob.size
                total[1] += 1
    return Amounts({scope: (size, number) for scope, (size, number) in totals.items()})
