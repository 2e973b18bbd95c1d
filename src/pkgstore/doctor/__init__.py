"""Examination of a store and its medium: what holds, what does not, and what to do about it.

What the driver tells of its medium comes first; then blobs are written, raced for and deleted, below
`.pkgstore/doctor/`. Where a folder holds no store, or one that cannot be opened, the folder is examined all the same.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote as quote_path

import pkgstore
from pkgstore import config, registry
from pkgstore.doctor import blobs, crew
from pkgstore.doctor.watch import Watch
from pkgstore.driver import Examined, Finding, of_medium
from pkgstore.drivers import folders
from pkgstore.drivers.mounts import mount_of
from pkgstore.errors import Misconfigured, NotFound, StoreError
from pkgstore.testing.processes import dismiss

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from urllib.parse import SplitResult

    from pkgstore.driver import Driver
    from pkgstore.store import Store

_FOLDERS = ("file", "nfs")
_ABSENT = "There is no store at "
_NOT_TRIED = {folders.NOT_WRITABLE, "exclusive"}


def examine(url: str | os.PathLike[str], *, wait: float = 0.0, **options: Any) -> Generator[Finding]:
    """Examine the store at ``url``, and yield what is found; ``options`` are those of `pkgstore.open`.

    ``wait`` is for how many seconds, from now, to wait for a doctor on another host, to see whether both can hold one
    lock. Nothing stays on the medium; to end early, close the generator.

    Raises `Misconfigured` for a URL or option that cannot work. What else goes wrong is a finding.
    """
    parts, query = config.split_url(url)
    given = {**query, **options}
    if config.boolean("readonly", given.get("readonly", False)):
        raise Misconfigured("an examination writes to the medium: give the URL without the option readonly")
    options["create"] = False
    named = _folder(parts)
    root = named if named is not None and os.path.isdir(named) else None
    if root is not None and parts.scheme == "nfs" and not mount_of(root).is_nfs:
        # The folder below a share that is not mounted: nothing is to be written there.
        yield from folders.of_mount(mount_of(root), parts.scheme, root)
        return
    with contextlib.ExitStack() as stack:
        stack.callback(dismiss)
        watch = None
        if root is not None:
            watch = stack.enter_context(Watch(root, wait))
            stack.callback(folders.reap, root)
        store, finding = _opened(url, options, parts)
        if store is not None:
            stack.enter_context(store)
        yield finding
        driver = of_medium(store.driver) if store is not None else None
        if finding.says.startswith(_ABSENT) and root is None:
            driver = _unopened(stack, parts, given)
        failed: set[str] = set()
        for each in _of_the_medium(driver, root, parts.scheme):
            if each.level == "error":
                failed.add(each.name)
            yield each
        if failed & _NOT_TRIED or (store is None and root is None):
            return
        alone = parts.scheme == "memory" or config.boolean("single_writer", given.get("single_writer", False))
        timeout = config.seconds("timeout", given.get("timeout", 60))
        opened: crew.Reach = partial(crew.opened, url, options, timeout)
        reach = partial(crew.in_folder, parts.scheme, root, timeout) if store is None and root else opened
        yield from _tried(store, reach, alone=alone)
        if watch is not None:
            yield crew.locks(watch.folder)
            yield from watch.findings()


def _opened(url: str | os.PathLike[str], options: dict[str, Any], parts: SplitResult) -> tuple[Store | None, Finding]:
    """Open the store, and say what came of it. Raises `Misconfigured` for what is wrong with the URL or an option."""
    try:
        store = pkgstore.open(url, **options)
    except StoreError as exc:
        if isinstance(exc, Misconfigured) and (_folder(parts) is None or str(exc) != _refusal(parts)):
            raise
        return None, _not_opened(parts, exc)
    return store, Finding("store", "ok", f"There is a store at {store.where}, with the id {store.id}.")


def _folder(parts: SplitResult) -> str | None:
    """Return the folder that a URL names, when it is one that names a folder."""
    if parts.scheme not in _FOLDERS or parts.netloc not in ("", "localhost") or not os.path.isabs(parts.path):
        return None
    return os.path.normpath(parts.path)


def _refusal(parts: SplitResult) -> str:
    """Return what a URL is refused for without any option; a mistake in the options is the caller's."""
    try:
        pkgstore.open(_bare(parts), create=False).close()
    except StoreError as exc:
        return str(exc)
    return ""


def _bare(parts: SplitResult) -> str:
    return parts._replace(path=quote_path(parts.path)).geturl()


def _not_opened(parts: SplitResult, exc: StoreError) -> Finding:
    if isinstance(exc, NotFound):
        where = config.without_secrets(_bare(parts))
        remedy = f"Check the URL, and that the medium is mounted; or make a store: pkgstore init '{where}'"
        return Finding("store", "error", f"{_ABSENT}{where}.", remedy)
    return blobs.failed("store", "The store cannot be opened", exc)


def _unopened(stack: contextlib.ExitStack, parts: SplitResult, given: dict[str, Any]) -> Driver | None:
    """Return a driver for a medium that holds no store, to examine it by."""
    connect = registry.find(parts.scheme)
    own = {name: value for name, value in given.items() if name in registry.own_options(connect)}
    if "timeout" in own:
        own["timeout"] = config.seconds("timeout", own["timeout"])
    try:
        driver = connect(parts, create=False, **own)
    except StoreError:
        return None  # which is what was found when the store could not be opened
    stack.callback(driver.close)
    return driver


def _of_the_medium(driver: Driver | None, root: str | None, scheme: str) -> Iterator[Finding]:
    """Yield what the driver finds; or what a folder shows without one."""
    try:
        if isinstance(driver, Examined):
            yield from driver.examine()
        elif driver is None and root is not None:
            yield from folders.examine(root, scheme)
    except Exception as exc:
        error = driver.classify(exc) if driver is not None else None
        if error is None and not isinstance(exc, StoreError):
            raise
        yield blobs.failed("medium", "The medium could not be examined to the end", exc)


def _tried(store: Store | None, reach: crew.Reach, *, alone: bool) -> Iterator[Finding]:
    if store is not None and store.probed:
        yield from blobs.remembered(store.probed)
    usable = True
    try:
        with reach() as calls:
            for each in blobs.tried(calls):
                usable = usable and each.level != "error"
                yield each
    except StoreError as exc:
        yield blobs.failed("medium", "The store could not be opened a second time", exc)
        return
    if not usable:
        return
    if alone:
        yield Finding("race", "note", "No processes raced for keys: this medium is for a single writer.")
    else:
        yield crew.race(reach)
