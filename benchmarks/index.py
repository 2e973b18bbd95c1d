"""Pages and downloads of a package index, against pypiserver's own two backends."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import s3
from growth import fill, large_store
from measure import Row, take_turns, workers
from peers import OLD_WATCHDOG, old_watchdog
from server import gunicorn
from settings import MIB
from sides_ours import cached_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from measure import Sample
    from server import Client
    from settings import Settings

_TURNS = 6
_LARGE = 100_000
_WHEEL = "wheel/wheel-1.0-py3-none-any.whl"
_CACHED = "cached-dir, cache kept"
_BACKENDS = {"simple-dir": "simple-dir", "cached-dir": "cached-dir", _CACHED: "cached-dir"}
_EMPTIED = "as the registry has it: its watcher takes reads for changes, and empties the cache"
_HOLDS = f"with {OLD_WATCHDOG}"


def index_large(settings: Settings) -> Iterator[Row]:
    """Ask for a project's page, and download a wheel, from a store of 100,000 files."""
    store = large_store(settings)
    files = settings.files_per_project
    projects = settings.growth[-1] // files
    with workers(store.parent, {"pkgstore": settings.python}) as sides:
        (worker,) = sides["pkgstore"]
        if not (store / "project-000000").exists():
            fill([worker], 0, projects, files)
        worker("put", name=_WHEEL, size=MIB)
    targets = (100, 2, 3) if settings.growth[-1] >= _LARGE else (None, None, None)
    where = f"a store of {settings.growth[-1]:,} files"
    yield from _index(settings, store, f"project-{projects // 2:06}", where, "large", targets)


def index_small(settings: Settings) -> Iterator[Row]:
    """The same with a store of 100 files."""
    store = settings.folder / "small" / "pkgstore"
    with workers(store.parent, {"pkgstore": settings.python}) as sides:
        (worker,) = sides["pkgstore"]
        fill([worker], 0, 1, settings.files_per_project)
        worker("put", name=_WHEEL, size=MIB)
    where = f"a store of {settings.files_per_project} files"
    yield from _index(settings, store, "project-000000", where, "small", (None, None, 3))


def index_in_bucket(settings: Settings) -> Iterator[Row]:
    """The same with a store on S3, whose catalog and cache are warm; the others have their files on the local disk."""
    files = settings.indexed_in_bucket
    store = settings.folder / "indexed" / "pkgstore"
    with workers(store.parent, {"pkgstore": settings.python}) as sides:
        (worker,) = sides["pkgstore"]
        fill([worker], 0, files // settings.files_per_project, settings.files_per_project)
        worker("put", name=_WHEEL, size=MIB)
    with tempfile.TemporaryDirectory(dir=s3.in_memory()) as folder, s3.endpoint(Path(folder), 0) as url:
        env = s3.environment(settings, url)
        with workers(store.parent, dict.fromkeys((s3.OURS, s3.CACHED), settings.python), env=env) as sides:
            (publisher,), (reader,) = sides[s3.OURS], sides[s3.CACHED]
            publisher("copy", folder=str(store))
            reader("warm")
            cached = cached_url(reader.folder)
        where = f"a store of {files:,} files on S3, warm"
        yield from _index(settings, store, "project-000000", where, "s3", (None, 1, 3), cached, env)


def _index(
    settings: Settings,
    store: Path,
    project: str,
    where: str,
    slug: str,
    targets: tuple[float | None, float | None, float | None],
    url: str = "",
    env: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Measure our index of ``url``, or else of the folder ``store``, and pypiserver's of links to what that has."""
    page, wheel = f"/simple/{project}/", f"/packages/{_WHEEL}"
    ours = f"pkgstore.integrations.pypiserver:create_app({url or f'file://{store}'!r}, '-a', '.', '-P', '.')"
    assert settings.peers is not None
    with contextlib.ExitStack() as stack:
        log = settings.folder / "server-0.log"
        clients = {"pkgstore": stack.enter_context(gunicorn(settings.python, ours, log, page, env=env))}
        for number, (name, backend) in enumerate(_BACKENDS.items(), 1):
            # Each has a folder of its own, of links to the same files: a watcher takes others' reads for changes.
            links = store.with_name(f"links-{number}")
            _link_tree(store, links)
            app = f"pypiserver:app(roots=[{str(links)!r}], backend_arg={backend!r})"
            log = settings.folder / f"server-{number}.log"
            path = old_watchdog(settings.peers) if name == _CACHED else None
            clients[name] = stack.enter_context(gunicorn(str(settings.peers), app, log, page, path))
        _check(clients, page, wheel, settings.files_per_project)
        pages = take_turns({name: partial(_ask, client, page, settings) for name, client in clients.items()}, _TURNS)
        wheels = take_turns({name: partial(_ask, client, wheel, settings) for name, client in clients.items()}, _TURNS)
    than_simple, than_cached, wheel_than_cached = targets
    what = f"`/simple/<project>/` ({settings.files_per_project} files), {where}"
    yield from _rows(what, pages, f"page-{slug}", than_simple, than_cached)
    yield from _rows(f"download a wheel of 1 MiB, {where}", wheels, f"download-{slug}", None, wheel_than_cached)


def _rows(
    what: str, samples: Mapping[str, Sample], plot: str, than_simple: float | None, than_cached: float | None
) -> Iterator[Row]:
    for name, at_least, note in (
        ("simple-dir", than_simple, ""),
        ("cached-dir", than_cached, _EMPTIED),
        (_CACHED, than_cached, _HOLDS),
    ):
        yield Row(
            what,
            samples["pkgstore"],
            f"pypiserver {name}",
            samples[name],
            at_least=at_least,
            shown=_per_second,
            note=note,
            plot=plot,
        )


def _per_second(seconds: float) -> str:
    return f"{1 / seconds:.0f}/s" if seconds < 0.01 else f"{1 / seconds:.3g}/s"


def _check(clients: Mapping[str, Client], page: str, wheel: str, files: int) -> None:
    """Raise AssertionError unless all serve the same."""
    hashes = {
        name: sorted(re.findall(rb"#(sha256=[0-9a-f]{64})", client.get(page))) for name, client in clients.items()
    }
    bodies = {name: client.get(wheel) for name, client in clients.items()}
    for name in clients:
        assert len(hashes[name]) == files, f"{name} lists {len(hashes[name])} files, not {files}"
        assert hashes[name] == hashes["pkgstore"], f"{name} lists other files than pkgstore"
        assert bodies[name] == bodies["pkgstore"], f"{name} serves another wheel than pkgstore"


def _ask(client: Client, path: str, settings: Settings) -> list[float]:
    """Ask for a page again and again, for a while; return the mean time of one."""
    count, began = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - began < settings.seconds_per_server / _TURNS:
        client.get(path)
        count += 1
    return [(time.perf_counter() - began) / count]


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir()
    for entry in os.scandir(source):
        if entry.is_dir() and not entry.name.startswith("."):
            folder = target / entry.name
            folder.mkdir()
            for each in os.scandir(entry):
                os.link(each.path, folder / each.name)
