"""`/health` tells whether the store can be read and written, at little cost."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

import pkgstore
from tests import needs
from tests.servers import call, create_app, gunicorn, pkgstore_app, until

if TYPE_CHECKING:
    from pathlib import Path

OPEN = ("-a", ".", "-P", ".")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember nothing, so that every request probes."""
    monkeypatch.setattr("pkgstore.integrations._pypi_health._REMEMBERED", 0.0)


def test_a_healthy_store_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish("there/there-1.0.zip", b"x")
        written, publish = [], store.publish

        def noting(key: str, body: bytes, **options: bool) -> pkgstore.Blob:
            written.append(key)
            return publish(key, body, **options)  # type: ignore[arg-type]

        store.publish = noting  # type: ignore[method-assign, assignment]
        answer = call(create_app(store, *OPEN), "GET", "/health")
        assert (answer.status, answer.body) == (200, b"Ok")
        assert len(written) == 1
        assert [blob.key for blob in store.list()] == ["there/there-1.0.zip"]
        assert not (tmp_path / ".health").exists()


def test_the_probe_is_neither_listed_nor_served(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app, delete, seen = create_app(store, *OPEN), store.delete, []

        def looking(key: str) -> None:
            seen.extend(key in call(app, "GET", path).text for path in ("/packages/", "/simple/", "/"))
            seen.append(call(app, "GET", f"/packages/{key}").status != 404)
            delete(key)

        store.delete = looking  # type: ignore[method-assign]
        assert call(app, "GET", "/health").status == 200
        assert seen == [False] * 4


def test_many_requests_probe_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkgstore.integrations._pypi_health._REMEMBERED", 3600.0)
    with pkgstore.open(tmp_path) as store:
        app, publish, probes = create_app(store, *OPEN), store.publish, []

        def counting(key: str, body: bytes, **options: bool) -> pkgstore.Blob:
            probes.append(key)
            return publish(key, body, **options)  # type: ignore[arg-type]

        store.publish = counting  # type: ignore[method-assign, assignment]
        threads = [threading.Thread(target=call, args=(app, "GET", "/health")) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert call(app, "GET", "/health").status == 200
        assert len(probes) == 1


@pytest.mark.usefixtures("at_once")
def test_each_probe_has_a_key_of_its_own(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app, publish, probes = create_app(store, *OPEN), store.publish, set()

        def noting(key: str, body: bytes, **options: bool) -> pkgstore.Blob:
            probes.add(key)
            return publish(key, body, **options)  # type: ignore[arg-type]

        store.publish = noting  # type: ignore[method-assign, assignment]
        assert [call(app, "GET", "/health").status for _ in range(3)] == [200] * 3
        assert len(probes) == 3


@pytest.mark.usefixtures("at_once")
def test_probes_that_were_left_behind_are_removed_when_they_are_old(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, *OPEN)
        for key in (".health/old", ".health/new"):
            store.publish(key, b"x")
        os.utime(tmp_path / ".health" / "old", (0, 0))
        assert call(app, "GET", "/health").status == 200
        assert [blob.key for blob in store.list()] == [".health/new"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("verb", ["publish", "read", "delete"])
def test_what_fails_is_told_in_one_line_and_forgotten_when_it_is_over(tmp_path: Path, verb: str) -> None:
    with pkgstore.open(tmp_path) as store:
        app, works = create_app(store, *OPEN), getattr(store, verb)

        def failing(*_args: object, **_options: object) -> None:
            raise pkgstore.Full("the medium is full: free some space")

        setattr(store, verb, failing)
        answer = call(app, "GET", "/health")
        assert answer.status == 503
        assert "<pre>the medium is full: free some space</pre>" in answer.text
        assert "Retry-After" in answer.headers
        setattr(store, verb, works)
        assert call(app, "GET", "/health").status == 200


@pytest.mark.usefixtures("at_once")
def test_a_store_that_reads_other_bytes_than_were_written_is_not_healthy() -> None:
    with pkgstore.open("memory://") as store:
        app = create_app(store, *OPEN)
        store.read = lambda key: b"other"  # type: ignore[method-assign]
        assert call(app, "GET", "/health").status == 503


@pytest.mark.usefixtures("at_once")
def test_a_store_whose_quota_is_used_up_is_healthy(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish("there/there-1.0.zip", b"x")
        store.set_quota(1)
        assert call(create_app(store, *OPEN), "GET", "/health").status == 200
        assert [blob.key for blob in store.list()] == ["there/there-1.0.zip"]


@pytest.mark.usefixtures("at_once")
def test_a_surprise_is_a_503_without_its_text(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, *OPEN)

        def failing(*_args: object) -> None:
            raise RuntimeError("password=hunter2")

        store.publish = failing  # type: ignore[method-assign, assignment]
        answer = call(app, "GET", "/health")
        assert answer.status == 503
        assert "RuntimeError" in answer.text
        assert "hunter2" not in answer.text


def test_a_medium_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkgstore.integrations._pypi_health._PATIENCE", 0.02)
    with pkgstore.open(tmp_path) as store:
        app, publish, release, started = create_app(store, *OPEN), store.publish, threading.Event(), []

        def hanging(key: str, body: bytes, **options: bool) -> pkgstore.Blob:
            started.append(key)
            assert release.wait(60)
            return publish(key, body, **options)  # type: ignore[arg-type]

        store.publish = hanging  # type: ignore[method-assign, assignment]
        for _ in range(3):
            answer = call(app, "GET", "/health")
            assert answer.status == 503
            assert "did not answer" in answer.text
        assert len(started) == 1
        release.set()
        until(lambda: call(app, "GET", "/health").status == 200)
        until(lambda: not list(store.list()))


def test_a_store_for_reading_only_is_read(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with pkgstore.open(root) as store:
        store.publish("there/there-1.0.zip", b"x")
    before = sorted(root.rglob("*"))
    with gunicorn(pkgstore_app(f"file://{root}?readonly=true&timeout=0"), tmp_path / "log", workers=1) as index:
        assert index.get("/health").status == 200
        assert sorted(root.rglob("*")) == before
        root.rename(tmp_path / "away")
        until(lambda: index.get("/health").status == 503)


@pytest.mark.usefixtures("at_once")
def test_an_empty_store_for_reading_only_is_healthy(tmp_path: Path) -> None:
    pkgstore.open(tmp_path).close()
    with pkgstore.open(tmp_path, readonly=True) as store:
        assert call(create_app(store, *OPEN), "GET", "/health").status == 200


def test_a_full_medium_is_not_healthy_until_there_is_space(tmp_path: Path) -> None:
    with (
        needs.mounted("tmpfs", tmp_path / "small", "size=2m") as root,
        gunicorn(pkgstore_app(root), tmp_path / "log", workers=1) as index,
    ):
        filler = root / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        until(lambda: index.get("/health").status == 503)
        assert "free some space" in index.get("/health").text
        filler.unlink()
        until(lambda: index.get("/health").status == 200)


def test_a_read_only_medium_is_healthy_for_reading_alone(tmp_path: Path) -> None:
    """Whatever is there is served in any case."""
    with needs.mounted("tmpfs", tmp_path / "small", "size=2m") as root:
        with pkgstore.open(root) as store:
            store.publish("there/there-1.0.zip", b"there")
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        with (
            gunicorn(pkgstore_app(root), tmp_path / "log", workers=1, ready="/simple/") as index,
            gunicorn(pkgstore_app(f"file://{root}?readonly=true"), tmp_path / "log2", workers=1) as readonly,
        ):
            answer = index.get("/health")
            assert answer.status == 503
            assert "<pre>" in answer.text
            assert "Traceback" not in answer.text
            assert readonly.get("/health").status == 200
            for server in (index, readonly):
                assert list(server.files("there")) == ["there-1.0.zip"]
                assert server.get("/packages/there/there-1.0.zip").body == b"there"
                assert server.upload("more-1.0.zip", b"more").status == 403
            subprocess.run(["mount", "-o", "remount,rw", str(root)], check=True)
            until(lambda: index.get("/health").status == 200)
            assert index.upload("more-1.0.zip", b"more").status == 200


def fill(path: Path) -> None:
    """Write to a file until there is no space left."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def test_the_endpoint_is_where_it_is_asked_for(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, *OPEN, "--health-endpoint", "/alive/now")
        assert call(app, "GET", "/alive/now").body == b"Ok"
        assert call(app, "GET", "/health").status != 200
        with pytest.raises(pkgstore.Misconfigured, match="/simple/"):
            create_app(store, *OPEN, "--health-endpoint", "/simple/")
