"""The store: every guarantee, once, over any driver."""

from __future__ import annotations

import json
import logging
import random
import time
import uuid
from dataclasses import dataclass
from dataclasses import replace as copy_with
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar

from pkgstore import config, keys, registry
from pkgstore.bodies import PublishBody
from pkgstore.driver import Blob, Driver, LocalPath, RecordsDigests, SignedURL
from pkgstore.errors import (
    Denied,
    Exists,
    Full,
    InvalidKey,
    Misconfigured,
    NotFound,
    StoreError,
    Unavailable,
    Unsupported,
)
from pkgstore.hashing import CHUNK, Hasher, SourceFailed, wanted
from pkgstore.reading import Reader

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pkgstore.bodies import BodyLike

_T = TypeVar("_T")

_log = logging.getLogger("pkgstore")

_IDENTITY = f"{keys.CONTROL}/store.json"
_CONTROL_PREFIX = f"{keys.CONTROL}/"
_FORMAT = 1
_OPTIONS = {"create", "readonly", "timeout"}
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 2.0

_REMEDIES: dict[type[StoreError], str] = {
    Denied: "check the owner and mode of the files, the user this runs as, and whether the medium is read-only",
    Full: "free some space or enlarge the medium, and try again",
    Unavailable: "check that the medium is mounted and reachable, and try again",
    InvalidKey: "choose another key",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds: ``blobs``, their number, and ``bytes``, the sum of their sizes."""

    blobs: int
    bytes: int


def open_store(url: str | os.PathLike[str], **options: Any) -> Store:
    """Open the store at ``url``, as `pkgstore.open`.

    ``url`` is a path, or a URL such as ``file:///srv/packages`` or ``memory://name``. Options may stand in the URL's
    query too; those given here win:

    ``create``    make the store where there is none (default: yes, unless ``readonly``)
    ``readonly``  refuse to publish and to delete (default: no)
    ``timeout``   how long one call goes on trying a medium that does not answer, in seconds (default: 60)

    Raises `Misconfigured` for a URL or option that cannot work, `NotFound` when there is no store and ``create`` is
    off, and `Denied`, `Unavailable` or `Unsupported` as the medium has it.
    """
    parts, from_query = config.split_url(url)
    connect = registry.find(parts.scheme)
    options = {**from_query, **options}
    config.check_options(options, _OPTIONS | registry.own_options(connect))
    readonly = config.boolean("readonly", options.pop("readonly", False))
    create = config.boolean("create", options.pop("create", not readonly)) and not readonly
    timeout = config.seconds("timeout", options.pop("timeout", 60))
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    try:
        driver = connect(parts, create=create, readonly=readonly, **options)
    except OSError as exc:
        if isinstance(exc, StoreError):
            raise
        raise Misconfigured(f"cannot open {shown}: {exc.strerror or exc}") from exc
    store = Store(driver, where=shown, readonly=readonly, timeout=timeout)
    try:
        store._identify(create)
    except BaseException:
        store.close()
        raise
    return store


class Store:
    """A store of immutable blobs: the same promises on every medium.

    Made by `pkgstore.open`. A context manager; safe to share between threads, and to use in children after fork. Every
    error is a `pkgstore.StoreError`, but for what a caller's own body or argument raises.
    """

    def __init__(
        self, driver: Driver, *, where: str, prefix: str = "", readonly: bool = False, timeout: float = 60.0
    ) -> None:
        self._driver = driver
        self._prefix = prefix
        self.readonly = readonly
        self._timeout = timeout
        self.where = where
        self.id = ""

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        key: str,
        body: BodyLike,
        *,
        digests: Mapping[str, str | None] | None = None,
        size: int | None = None,
        replace: bool = False,
    ) -> Blob:
        """Write ``body`` to ``key``, once: of all who publish a key, one wins, and every other is told `Exists`.

        ``body`` is bytes, a path, or a binary file, read from where it stands. ``digests`` are what the body is
        expected to have, by algorithm (``sha256``, ``md5``, ``blake2b``), in hexadecimal; None as a value asks for a
        digest without expecting one. ``size`` is the length that is expected, in bytes. Both are checked before
        anything is visible.
        ``replace`` lets the new version take the place of an old one, in one step.

        Returns the blob as it is published; it is then durable, and visible to all. Raises `Exists`, `Corrupt` for a
        body that is not as expected, `InvalidKey`, `Full`, `Denied`, `Unavailable` when the outcome is not known, and
        whatever the body itself raises. Nothing is visible after any of them but `Unavailable`.
        """
        self._check_writable("publish", key)
        path = self._path(key)
        if not replace and not self._call("publish", key, lambda: self._driver.exclusive):
            raise Unsupported(
                f"cannot publish {keys.shown(key)} in {self.where}: the medium has neither hard links nor a rename that"
                " never replaces, so that two writers could both win; put the store on another medium",
                key=key,
            )
        with PublishBody(key, body, size, wanted(digests)) as source:
            return self._seen(self._put(path, key, source, exclusive=not replace))

    def delete(self, key: str) -> None:
        """Delete a blob; silent when it is absent. It stays deleted after a power cut.

        Open readers keep what they have. A version that takes the blob's place at the same moment stays.
        """
        self._check_writable("delete", key)
        path = self._path(key)
        try:
            blob = self._call("delete", key, lambda: self._driver.stat(path))
        except NotFound:
            return
        # Bound to the version seen, so that a second attempt after a lost reply cannot take a newer one.
        self._call("delete", key, lambda: self._driver.delete(path, tag=blob.tag))

    # -- reading ------------------------------------------------------------------------------------------------------

    def open(self, key: str, *, verify: bool = True) -> Reader:
        """Open a blob for reading: a raw, seekable binary stream over one version of it.

        A full sequential read raises `Corrupt` rather than return a last byte that does not belong to the recorded
        digest, unless ``verify`` is off or the medium has no digest of the blob (see `adopt`). Raises `NotFound`.
        """
        path = self._path(key)
        blob, stream = self._call("open", key, lambda: self._driver.open(path))

        def reopen(start: int) -> BinaryIO:
            return self._call("read", key, lambda: self._driver.open(path, start, tag=blob.tag))[1]

        return Reader(
            self._seen(blob),
            stream,
            reopen,
            lambda exc: self._translated("read", key, exc),
            blob.digests.get("sha256") if verify else None,
            f"{keys.shown(key)} in {self.where}",
        )

    def read(self, key: str) -> bytes:
        """Return the bytes of a blob, verified. Raises as `open` does, and `Corrupt`."""
        with self.open(key) as reader:
            return reader.readall()

    def stat(self, key: str) -> Blob:
        """Return what is at ``key``, without reading it. Raises `NotFound`."""
        path = self._path(key)
        return self._seen(self._call("stat", key, lambda: self._driver.stat(path)))

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """Yield the blobs whose keys start with ``prefix`` (empty, or ending with `/`), sorted by key.

        Files that others put on the medium under names outside the key grammar are left out, with a warning in the log.
        """
        return self._listed(self._prefix + keys.check_prefix(prefix))

    def usage(self) -> Usage:
        """Count the blobs and their bytes, by listing them all."""
        blobs = size = 0
        for blob in self.list():
            blobs += 1
            size += blob.size
        return Usage(blobs, size)

    def adopt(self, key: str) -> Blob:
        """Return what is at ``key``, with its sha256: recorded, or else computed now, by reading it, and recorded.

        For files that came without digests, because they were put on the medium by hand. Raises `NotFound`.
        """
        blob = self.stat(key)
        if "sha256" in blob.digests:
            return blob
        with self.open(key, verify=False) as reader:
            hasher = Hasher(["sha256"])
            while chunk := reader.read(CHUNK):
                hasher.update(chunk)
        digests = hasher.digests()
        if isinstance(self._driver, RecordsDigests) and not self.readonly:
            found = copy_with(reader.blob, key=self._path(key))
            recorder = self._driver
            self._call("adopt", key, lambda: recorder.record_digests(found, digests))
        return copy_with(reader.blob, digests=digests)

    def local_path(self, key: str) -> Path:
        """Return the path of the blob's own file on this host, to be read and not written.

        Raises `NotFound`, and `Unsupported` where the medium has no such files.
        """
        from pathlib import Path

        path = self._path(key)
        driver = self._driver
        if not isinstance(driver, LocalPath):
            raise Unsupported(f"{self.where} keeps no files on this host: read {keys.shown(key)} with open()", key=key)
        return Path(self._call("find", key, lambda: driver.local_path(path)))

    def url(self, key: str, *, expires: float) -> str:
        """Return a URL that serves the blob for ``expires`` seconds to whoever has it.

        Raises `NotFound`, and `Unsupported` where the medium cannot sign URLs.
        """
        path = self._path(key)
        driver = self._driver
        if not isinstance(driver, SignedURL):
            raise Unsupported(f"{self.where} cannot sign URLs: serve {keys.shown(key)} from open()", key=key)
        self.stat(key)
        return self._call("sign a URL for", key, lambda: driver.signed_url(path, expires))

    # -- the store itself ---------------------------------------------------------------------------------------------

    def scope(self, prefix: str) -> Store:
        """Return a view of the blobs below ``prefix``, as a store of its own that cannot reach outside.

        It shares this store's connections, and is closed with it.
        """
        if not prefix:
            raise InvalidKey("a scope needs a prefix, such as 'tenant/'", key=prefix)
        scoped = Store(
            self._driver,
            where=f"{self.where.rstrip('/')}/{prefix}",
            prefix=self._prefix + keys.check_prefix(prefix),
            readonly=self.readonly,
            timeout=self._timeout,
        )
        scoped.id = self.id
        return scoped

    def close(self) -> None:
        """Let go of connections and handles. A scope leaves that to the store that it is a view of."""
        if not self._prefix:
            self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pkgstore.Store {self.where}>"

    # -- how ----------------------------------------------------------------------------------------------------------

    def _identify(self, create: bool) -> None:
        """Read who this store is; make it known where it is new and may be made."""
        while True:
            try:
                _, stream = self._call("open", _IDENTITY, lambda: self._driver.open(_IDENTITY))
                with stream:
                    text = stream.read(CHUNK)
                break
            except NotFound:
                if not create:
                    raise NotFound(
                        f"there is no store at {self.where}: check that its medium is mounted, or make one with"
                        f" `pkgstore init {self.where}`"
                    ) from None
            if not self._call("make", _IDENTITY, lambda: self._driver.exclusive):
                raise Unsupported(
                    f"cannot make a store at {self.where}: the medium has neither hard links nor a rename that never"
                    " replaces, so that two writers could both win; choose another medium"
                )
            identity = json.dumps({"format": _FORMAT, "id": uuid.uuid4().hex}).encode() + b"\n"
            with PublishBody(_IDENTITY, identity, None, wanted(None)) as source:
                try:
                    self._put(_IDENTITY, _IDENTITY, source, exclusive=True)
                except Exists:
                    continue
        try:
            document = json.loads(text)
            form, self.id = document["format"], str(document["id"])
        except (ValueError, TypeError, KeyError):
            raise Misconfigured(
                f"{_IDENTITY} in {self.where} does not describe a store: restore that file, or remove it if the folder"
                " never was one"
            ) from None
        if form != _FORMAT:
            raise Misconfigured(f"{self.where} is a store of format {form!r}: use a pkgstore that knows it")

    def _put(self, path: str, key: str, source: PublishBody, *, exclusive: bool) -> Blob:
        known = {} if self._driver.streams else source.spool()
        token = uuid.uuid4().hex

        def attempt() -> Blob:
            body = source.attempt()
            try:
                blob = self._driver.put(path, body, source.size, digests=known, exclusive=exclusive, token=token)
            except Exception as exc:
                error = self._translated("publish", key, exc)
                if isinstance(error, Exists):
                    raise self._exists(key, body.count, (body.digests or known)["sha256"]) from exc
                raise error from exc
            finally:
                body.close()
            if body.digests is None:
                raise AssertionError(f"the {self._driver.scheme} driver did not finish the body of {key!r}")
            return blob

        try:
            return self._call("publish", key, attempt, retry=source.replayable)
        except SourceFailed as failure:
            raise failure.error from None

    def _exists(self, key: str, size: int, sha256: str) -> Exists:
        blob: Blob | None
        try:
            blob = self.adopt(key) if self.stat(key).size == size else self.stat(key)
        except NotFound:
            blob = None
        identical = blob is not None and blob.size == size and blob.digests.get("sha256") == sha256
        return Exists(
            f"{keys.shown(key)} is already in {self.where}, with {'the same' if identical else 'other'} bytes: a key is"
            " published once; choose another, or ask to replace it",
            key=key,
            blob=blob,
            identical=identical,
        )

    def _listed(self, path: str) -> Iterator[Blob]:
        last = ""
        scan: Iterator[Blob] | None = None

        def following() -> Blob | None:
            nonlocal scan
            if scan is None:
                scan = self._driver.scan(path)
            try:
                for blob in scan:
                    if blob.key > last:
                        return blob
            except Exception:
                scan = None
                raise
            return None

        while (blob := self._call("list", path, following)) is not None:
            last = blob.key
            if keys.is_valid(last):
                yield self._seen(blob)
            elif not last.startswith(_CONTROL_PREFIX):
                _log.warning("%s leaves out %s: the name is no valid key", self.where, keys.shown(last))

    def _path(self, key: str) -> str:
        keys.check(key)
        if not self._prefix:
            return key
        try:
            return keys.check(self._prefix + key)
        except InvalidKey as exc:
            raise InvalidKey(str(exc), key=key) from None

    def _seen(self, blob: Blob) -> Blob:
        return copy_with(blob, key=blob.key[len(self._prefix) :]) if self._prefix else blob

    def _check_writable(self, verb: str, key: str) -> None:
        if self.readonly:
            raise Denied(f"cannot {verb} {key!r}: {self.where} is open for reading only", key=key)

    def _call(self, verb: str, key: str, function: Callable[[], _T], *, retry: bool = True) -> _T:
        """Call the driver, in the store's errors, and again while the medium is unavailable and there is time."""
        deadline = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                return function()
            except Exception as exc:
                error = self._translated(verb, key, exc)
                if not isinstance(error, Unavailable) or not retry or time.monotonic() + pause > deadline:
                    if error is exc:
                        raise
                    raise error from exc
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _translated(self, verb: str, key: str, exc: Exception) -> Exception:
        if isinstance(exc, StoreError):
            return exc
        kind = self._driver.classify(exc)
        if kind is None:
            return exc
        if kind is NotFound:
            return NotFound(f"{keys.shown(key)} is not in {self.where}", key=key)
        reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
        remedy = _REMEDIES.get(kind)
        return kind(
            f"cannot {verb} {keys.shown(key)} in {self.where}: {' '.join(reason.split())}"
            + (f"; {remedy}" if remedy else ""),
            key=key,
        )
