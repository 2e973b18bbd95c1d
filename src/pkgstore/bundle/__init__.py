"""Bundles: directories that are built once, kept in a store, and put in place whole.

A bundle is named by a name and a digest of all that decides what is in it (`pkgstore.bundle.identity`). It lies in a
store as an archive (`pkgstore.bundle.archives`), and on a host as a directory that never changes
(`pkgstore.bundle.places`). Of all who want one that is not there, one builds it, by `Store.get_or_publish`.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pkgstore import config, keys
from pkgstore.bundle import archives
from pkgstore.bundle.archives import TooLarge
from pkgstore.bundle.identity import Input, digest
from pkgstore.bundle.interpreter import facts as facts_of_this_interpreter
from pkgstore.bundle.places import Deadline, Place, remove_tree
from pkgstore.errors import Corrupt, Misconfigured, NotFound, StoreError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pkgstore.bodies import BodyLike
    from pkgstore.driver import Blob
    from pkgstore.reading import Reader

_log = logging.getLogger("pkgstore")

MAX_ARCHIVE_SIZE = "1Gi"
RETRIES = 3
TIMEOUT = 600.0
LEASE = 30.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_MOST_DIGITS = 20
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


class Shelf(Protocol):
    """What a bundle needs of a store; `pkgstore.Store` has it."""

    @property
    def where(self) -> str: ...

    def open(self, key: str) -> Reader: ...

    def read(self, key: str) -> bytes: ...

    def stat(self, key: str) -> Blob: ...

    def delete(self, key: str, *, tag: str | None = None) -> object: ...

    def publish(self, key: str, body: BodyLike, *, replace: bool = False) -> Blob: ...

    def get_or_publish(
        self, key: str, produce: Callable[[], BodyLike], *, lease: float = 30.0, wait: float | None = None
    ) -> Blob: ...


@dataclass(frozen=True)
class Bundle:
    """A directory that is built once, and reused wherever the same is wanted. Made by `pkgstore.Store.bundle`.

    ``store`` is where its archive is kept; None for one that is built on each host. ``key`` is the archive's key there.
    """

    store: Shelf | None
    name: str
    digest: str
    max_archive_size: int
    retries: int
    timeout: float
    lease: float

    @property
    def key(self) -> str:
        """The key of the archive in its store."""
        return f"bundles/{self.name}/{self.digest}.tar.zst"

    def in_store(self, store: Shelf) -> Bundle:
        """Return this bundle, with its archive in a store."""
        return replace(self, store=store)

    def at(self, dest: str | os.PathLike[str]) -> Path | None:
        """Return the directory that ``dest`` leads to, when it is this bundle; else None. The store is not asked."""
        place = Place(dest)
        return Path(place.path(self._version)) if place.is_at(self._version) else None

    def ensure(self, dest: str | os.PathLike[str], build: Callable[[Path], object]) -> Path:
        """Have ``dest`` lead to this bundle, and return the directory that it leads to.

        Where it does, nothing is done. Else the directory is unpacked beside ``dest``, from the archive in the store,
        or filled by ``build(directory)`` where there is none, and ``dest``, a symbolic link, is then replaced in one
        step. A directory never changes once ``dest`` has led to it: a program that was started with what this
        returns, and not with ``dest``, sees one version to its end. Nor is any removed.

        Of all who want the same archive, in any processes and hosts, one builds and publishes it. Others wait. When
        that one dies, another takes over. An archive that is damaged is deleted, and built again; one that is larger
        than ``max_archive_size``, or would unpack to more, is not used and not published, and a warning says so.

        What ``build`` raises, and `Unavailable`, lead to another try, ``retries`` times at most. All of it takes
        ``timeout`` seconds at most; ``build`` itself has to see to that where it runs.

        Raises `Misconfigured` when ``dest`` is somebody else's, or the directory holds what an archive cannot;
        `LockTimeout`; what the store raises; what ``build`` raises; and OSError when ``dest`` cannot be written.
        """
        place = Place(dest)
        version = Path(place.path(self._version))
        if place.is_at(self._version):
            return version
        place.check()
        deadline = Deadline(self.timeout, f"the bundle {self.name!r}")
        with place.locked(deadline):
            if not place.has(self._version):
                with place.part() as part:
                    place.keep(_Making(self, part, build, deadline).tree(), self._version)
            place.point_at(self._version)
        return version

    @property
    def _version(self) -> str:
        return f"{self.name}-{self.digest}"


def make(
    store: Shelf | None,
    name: str,
    inputs: Iterable[Input] = (),
    *,
    facts: Mapping[str, str] | None = None,
    max_archive_size: int | str = MAX_ARCHIVE_SIZE,
    retries: int = RETRIES,
    timeout: float = TIMEOUT,
    lease: float = LEASE,
) -> Bundle:
    """Return the bundle of this name and these inputs. See `pkgstore.Store.bundle`.

    ``facts`` are those of the interpreter that it is for; those of this one unless given.
    """
    if isinstance(inputs, (str, bytes, os.PathLike)):
        raise TypeError("the inputs of a bundle are several: give a list")
    if not _NAME.fullmatch(name) or not keys.is_valid(name):
        raise Misconfigured(
            f"{keys.shown(name)} cannot name a bundle: take up to 100 letters, digits, dots, hyphens and underscores"
        )
    if type(retries) is not int or retries < 0:
        raise Misconfigured(f"the option retries={retries!r} is no number of tries")
    return Bundle(
        store,
        name,
        digest(name, inputs, dict(facts or facts_of_this_interpreter())),
        config.size("max_archive_size", max_archive_size),
        retries,
        config.seconds("timeout", timeout),
        lease,
    )


class _Making:
    """One bundle on its way into a place. What was built stays so, also when it takes several tries to publish it."""

    def __init__(self, bundle: Bundle, part: str, build: Callable[[Path], object], deadline: Deadline) -> None:
        self._bundle = bundle
        self._part = part
        self._build = build
        self._deadline = deadline
        self._latest: str | None = None
        self._built: str | None = None
        self._failure: Exception | None = None

    def tree(self) -> str:
        """Return a directory that holds the bundle."""
        pause = _FIRST_PAUSE
        for tries_left in reversed(range(self._bundle.retries + 1)):
            try:
                return self._try()
            except Exception as exc:
                again = isinstance(exc, Unavailable) or (exc is self._failure and not isinstance(exc, StoreError))
                if not again or not tries_left or self._deadline.left < pause:
                    raise
                _log.warning("the bundle %r is tried again (%d left): %s", self._bundle.name, tries_left, exc)
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("unreachable")

    def _try(self) -> str:
        store, key = self._bundle.store, self._bundle.key
        if store is None:
            return self._made()
        try:
            restored = self._restored(store)
            if restored is None:
                store.get_or_publish(
                    key, lambda: self._archive(store), lease=self._bundle.lease, wait=self._deadline.left
                )
                restored = self._restored(store)
        except TooLarge:
            _log.warning(
                "the bundle %r has more than %d bytes: it is not kept in %s, and built here; raise max-archive-size",
                *(self._bundle.name, self._bundle.max_archive_size, store.where),
            )
            return self._made()
        if restored is None:
            raise Unavailable(f"{keys.shown(key)} in {store.where} was deleted as soon as it was there: try again")
        return restored

    def _made(self) -> str:
        """Return a directory that was built here, now or in an earlier try."""
        if self._built is None:
            self._deadline.check()
            tree = self._folder()
            try:
                self._build(Path(tree))
            except Exception as exc:
                self._failure = exc
                raise
            if os.path.islink(tree) or not os.path.isdir(tree):
                raise FileNotFoundError(
                    errno.ENOENT,
                    f"the directory that {self._bundle.name!r} was built in is gone: its build removed it, or another"
                    " host took over, as this one was out of reach",
                )
            self._built = tree
        return self._built

    def _archive(self, store: Shelf) -> io.FileIO:
        """Return what is published: an archive of what is built here. Raises `TooLarge`."""
        limit = self._bundle.max_archive_size
        if self._is_known_to_be_too_large(store):
            raise TooLarge
        path = os.path.join(self._part, "archive")
        if not os.path.exists(path):
            tree = self._made()
            try:
                with open(f"{path}.new", "wb") as file:
                    archives.pack(tree, file, limit)
            except TooLarge:
                self._tell_others(store)
                raise
            os.rename(f"{path}.new", path)
        return _Timed(path, self._deadline)

    def _restored(self, store: Shelf) -> str | None:
        """Return a directory unpacked from the archive; None where there is none, or none that is whole."""
        key, limit = self._bundle.key, self._bundle.max_archive_size
        try:
            blob = store.stat(key)
            if blob.size > limit:
                raise TooLarge
            tree = self._folder()
            try:
                with store.open(key) as reader:
                    blob = reader.blob
                    archives.unpack(reader, tree, limit, self._deadline.check)
            except Corrupt as exc:
                _log.warning("the archive of the bundle %r is damaged, and is built again: %s", self._bundle.name, exc)
                store.delete(key, tag=blob.tag)
                return None
        except NotFound:
            return None
        return tree

    def _folder(self) -> str:
        """Return a new folder. The one before goes, unless it is what was built."""
        if self._latest not in (None, self._built):
            remove_tree(self._latest)
        self._latest = os.path.join(self._part, f"tree-{os.urandom(8).hex()}")
        os.mkdir(self._latest)
        return self._latest

    # A bundle that is too large has no archive, and those who wait for one would build it one after the other. Where
    # this is known, they build at once.

    @property
    def _too_large_key(self) -> str:
        return f"{self._bundle.key}.too-large"

    def _is_known_to_be_too_large(self, store: Shelf) -> bool:
        try:
            if store.stat(self._too_large_key).size > _MOST_DIGITS:
                return False
            text = store.read(self._too_large_key)
        except NotFound:
            return False
        return text.isdigit() and self._bundle.max_archive_size <= int(text)

    def _tell_others(self, store: Shelf) -> None:
        try:
            store.publish(self._too_large_key, str(self._bundle.max_archive_size).encode(), replace=True)
        except StoreError as exc:
            _log.warning("others who want the bundle %r will build it one by one: %s", self._bundle.name, exc)


class _Timed(io.FileIO):
    """A file to publish, that is to be read before a deadline."""

    def __init__(self, path: str, deadline: Deadline) -> None:
        super().__init__(path)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> Any:
        self._deadline.check()
        return super().read(-1 if size is None else size)
