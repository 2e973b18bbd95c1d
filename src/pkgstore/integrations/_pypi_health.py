"""`/health`: whether the store can be read and written now."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import TYPE_CHECKING

from pypiserver.bottle_wrapper import HTTPError  # type: ignore[import-untyped]

from pkgstore.errors import Corrupt, QuotaExceeded, StoreError
from pkgstore.integrations._pypi_fork import reset_after_fork
from pkgstore.integrations._pypi_http import RETRY_AFTER, log

if TYPE_CHECKING:
    from pkgstore.store import Store

_FOLDER = ".health/"
_BODY = b"pkgstore is well"  # always the same: a cache keeps it once
_REMEMBERED = 2.0
_PATIENCE = 10.0
_ABANDONED = 3600.0


class Health:
    """The route's callback: 200, or 503 with the reason in one line.

    A small blob of its own is published, read and deleted; a store that is open for reading only is read. What it finds
    holds for two seconds, so that many requests cost as much as one; a medium that hangs is reported after ten.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._found_at = float("-inf")
        self._probing_since: float | None = None
        self._problem: str | None = None

    def __call__(self) -> str:
        """Answer a request."""
        problem = self._latest()
        if problem:
            raise HTTPError(503, problem, headers={"Retry-After": str(RETRY_AFTER)})
        return "Ok"

    def _latest(self) -> str | None:
        with self._changed:
            if time.monotonic() - self._found_at < _REMEMBERED:
                return self._problem
            if self._probing_since is None:
                self._probing_since = time.monotonic()
                threading.Thread(target=self._probe, name="pkgstore-health", daemon=True).start()
            left = self._probing_since + _PATIENCE - time.monotonic()
            if self._changed.wait_for(lambda: self._probing_since is None, max(0.0, left)):
                return self._problem
        return f"the store at {self._store.where} did not answer within {_PATIENCE:.0f} seconds"

    def _probe(self) -> None:
        problem: str | None
        try:
            if self._store.readonly:
                self._read()
            else:
                try:
                    self._write_and_read()
                except QuotaExceeded:  # whose owner wanted it so: what is there is served
                    self._read()
            problem = None
        except StoreError as exc:
            problem = str(exc)
        except Exception as exc:  # noqa: BLE001 - a health check reports, whatever it is
            problem = f"the store at {self._store.where} failed: {type(exc).__name__}"
            log.exception("the health of %s could not be told", self._store.where)
        if problem:
            log.error("unhealthy: %s", problem)
        with self._changed:
            self._problem, self._found_at, self._probing_since = problem, time.monotonic(), None
            self._changed.notify_all()

    def _read(self) -> None:
        for blob in self._store.list():
            with self._store.open(blob.key) as reader:
                reader.read(1)
            return

    def _write_and_read(self) -> None:
        key = f"{_FOLDER}{uuid.uuid4().hex}"
        blob = self._store.publish(key, _BODY)
        try:
            if self._store.read(key) != _BODY:
                raise Corrupt(f"a probe written to {self._store.where} was read back with other bytes", key=key)
        finally:
            self._store.delete(key)
        # What servers that were killed in mid-probe left behind, by the medium's own clock.
        for left in self._store.list(_FOLDER):
            if left.mtime < blob.mtime - _ABANDONED:
                with contextlib.suppress(StoreError):
                    self._store.delete(left.key)
