"""A child after fork starts afresh, whatever its parent's threads were at: as under `gunicorn --preload`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

import pkgstore
from tests.forked import in_a_child
from tests.servers import call, create_app, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPEN = ("-a", ".", "-P", ".", "--disable-fallback")


def test_a_child_lists_while_its_parent_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkgstore.integrations._pypi_index._LONGEST_WAIT", 10.0)
    (tmp_path / "flat-1.0.zip").write_bytes(b"x")
    with pkgstore.open(tmp_path) as store:
        app, listed, began, release = create_app(store, *OPEN), store.list, threading.Event(), threading.Event()

        def slow(prefix: str = "") -> Iterator[pkgstore.Blob]:
            if not prefix:
                began.set()
                assert release.wait(60)
            return listed(prefix)

        def links() -> list[str]:
            store.list = listed  # type: ignore[method-assign]
            return list(call(app, "GET", "/simple/flat/").links)

        store.list = slow  # type: ignore[method-assign]
        waiting = threading.Thread(target=call, args=(app, "GET", "/simple/flat/"))
        waiting.start()
        assert began.wait(60)
        assert in_a_child(lambda: links() == ["flat-1.0.zip"])
        release.set()
        waiting.join()
        assert links() == ["flat-1.0.zip"]


def test_a_child_probes_while_its_parent_does(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app, publish, began, release = create_app(store, *OPEN), store.publish, threading.Event(), threading.Event()

        def slow(key: str, body: bytes) -> pkgstore.Blob:
            began.set()
            assert release.wait(60)
            return publish(key, body)

        def status() -> int:
            store.publish = publish  # type: ignore[method-assign]
            return call(app, "GET", "/health").status

        store.publish = slow  # type: ignore[method-assign, assignment]
        waiting = threading.Thread(target=call, args=(app, "GET", "/health"))
        waiting.start()
        assert began.wait(60)
        assert in_a_child(lambda: status() == 200)
        release.set()
        waiting.join()
        assert status() == 200
        until(lambda: not list(store.list()))


@pytest.mark.parametrize("path", ["/simple/none/", "/health"])
def test_a_child_does_not_wait_for_a_lock_that_another_thread_held(tmp_path: Path, path: str) -> None:
    """The threads of the parent go in and out of the lock while it forks."""
    with pkgstore.open(tmp_path) as store:
        app, ended = create_app(store, *OPEN), threading.Event()

        def ask() -> None:
            while not ended.is_set():
                call(app, "GET", path)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            assert all(in_a_child(lambda: call(app, "GET", path).status in (200, 404)) for _ in range(10))
        finally:
            ended.set()
            for thread in threads:
                thread.join()
