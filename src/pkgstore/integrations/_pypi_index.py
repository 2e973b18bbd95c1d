"""Where the package files lie that are not at `<project>/<file>`: a flat folder's, and whatever was put by hand."""

from __future__ import annotations

import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pypiserver.pkg_helpers import (  # type: ignore[import-untyped]
    guess_pkgname_and_version,
    normalize_pkgname,
)

from pkgstore.errors import Unavailable
from pkgstore.integrations._pypi_fork import reset_after_fork

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pkgstore.store import Store

_NOT_OFTENER = 1.0
_SPARING = 10
_LATE = 1.5
_LONGEST_WAIT = 20.0


class Package(NamedTuple):
    """What the name of a package file says. ``project`` is its normalised name."""

    name: str
    version: str
    project: str


def package_at(key: str) -> Package | None:
    """Return what lies at ``key`` by its name; None for what pypiserver does not list.

    That is whatever is no package file, or has a segment that starts with a dot.
    """
    if key.startswith(".") or "/." in key:
        return None
    return _parsed(key.rpartition("/")[2])


@lru_cache(maxsize=1 << 16)
def _parsed(filename: str) -> Package | None:
    guessed = guess_pkgname_and_version(filename)
    return Package(guessed[0], guessed[1], normalize_pkgname(guessed[0])) if guessed else None


def own_key(project: str, filename: str) -> str:
    """Return the key at which an upload is published."""
    return f"{project}/{filename}"


class StrayIndex:
    """The keys of the package files that lie elsewhere than at their own key, by project.

    It is taken by listing the whole store, in the background, while requests go on with the one before. So it lags
    behind what is put on the medium by hand: by two seconds at most, or, in a large store, by fifteen times as long as
    listing it takes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._strays: Mapping[str, list[str]] = {}
        self._as_of = float("-inf")
        self._interval = _NOT_OFTENER
        self._listing = False
        self._error: Exception | None = None

    def of(self, project: str) -> Iterable[str]:
        """Return the keys of a project's stray files. Some may be gone by now.

        Raises `Unavailable` when the store cannot be listed in time, and as `Store.list` does.
        """
        with self._changed:
            if not self._is_younger_than(self._interval) and not self._listing:
                self._listing, self._error = True, None
                threading.Thread(target=self._list, name="pkgstore-stray-index", daemon=True).start()
            self._changed.wait_for(self._is_settled, _LONGEST_WAIT)
            if self._is_young_enough():
                return self._strays.get(project, ())
            if self._error is not None:
                raise self._error
        raise Unavailable(f"the store at {self._store.where} is still being listed: try again in a while")

    def _is_settled(self) -> bool:
        return self._is_young_enough() or not self._listing

    def _is_young_enough(self) -> bool:
        return self._is_younger_than(_LATE * self._interval + _NOT_OFTENER / 2)

    def _is_younger_than(self, seconds: float) -> bool:
        return time.monotonic() - self._as_of < seconds

    def _list(self) -> None:
        began = time.monotonic()
        strays: dict[str, list[str]] = {}
        error: Exception | None = None
        try:
            for blob in self._store.list():
                package = package_at(blob.key)
                if package and blob.key != own_key(package.project, blob.key.rpartition("/")[2]):
                    strays.setdefault(package.project, []).append(blob.key)
        except Exception as exc:  # noqa: BLE001 - whoever waits for this listing raises it
            error = exc
        with self._changed:
            self._listing, self._error = False, error
            if error is None:
                self._strays, self._as_of = strays, began
                self._interval = max(_NOT_OFTENER, _SPARING * (time.monotonic() - began))
            self._changed.notify_all()
