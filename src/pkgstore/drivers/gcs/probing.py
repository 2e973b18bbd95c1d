"""Whether an endpoint keeps to preconditions: found out by racing, below `.pkgstore/probe/`."""

from __future__ import annotations

import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pkgstore import keys
from pkgstore.driver import MediumError
from pkgstore.drivers.gcs import uploads
from pkgstore.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pkgstore.drivers.gcs.client import Client

_RACERS = 4
_ABSENT = "0"


def race(client: Client, prefix: str) -> dict[str, bool]:
    """Return whether creating is exclusive: in one request (``media``), and when a session ends (``resumable``).

    What was made is deleted again; where deleting is not allowed, two small objects stay.
    """
    names = [f"{prefix}{keys.CONTROL}/probe/{secrets.token_hex(8)}-{kind}" for kind in ("media", "resumable")]
    try:
        with ThreadPoolExecutor(_RACERS) as pool:
            media = _winners(pool, [lambda: _at_once(client, names[0])] * _RACERS) == 1
            sessions = [uploads.Session(client, _resource(names[1]), _ABSENT) for _ in range(_RACERS - 1)]
            rivals: list[Callable[[], object]] = [lambda: _at_once(client, names[1])]
            rivals += [lambda session=session: session.send([b"."], 0, 1) for session in sessions]  # type: ignore[misc]
            won = _winners(pool, rivals)
            late = _winners(pool, [lambda: _late(client, names[1])])
            return {"media": media, "resumable": media and won == 1 and late == 0}
    finally:
        for name in names:
            try:
                client.delete(name)
            except MediumError as exc:
                if exc.kind is not Denied:
                    raise


def _winners(pool: ThreadPoolExecutor, racers: list[Callable[[], object]]) -> int:
    """Let racers create one object at the same time; return how many were told that they did."""

    def won(racer: Callable[[], object]) -> bool:
        try:
            racer()
        except uploads.ConditionFailed:
            return False
        return True

    return sum(pool.map(won, racers))


def _late(client: Client, name: str) -> object:
    """Begin a session for an object that is there already, and end it."""
    return uploads.Session(client, _resource(name), _ABSENT).send([b"."], 0, 1)


def _at_once(client: Client, name: str) -> object:
    return uploads.at_once(client, _Nothing(), _resource(name), _ABSENT)


def _resource(name: str) -> dict[str, Any]:
    return {"name": name, "contentType": "application/octet-stream"}


class _Nothing:
    """An empty body."""

    def read(self, size: int = -1, /) -> bytes:
        return b""

    def finish(self) -> Mapping[str, str]:
        return {"sha256": hashlib.sha256().hexdigest()}
