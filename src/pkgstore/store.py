"""The store: every guarantee, once, over any driver."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from dataclasses import replace as copy_with
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pkgstore import keys
from pkgstore.bodies import PublishBody
from pkgstore.driver import Blob, HasLeftovers, Leftover, RecordsDigests, SignedURL
from pkgstore.errors import Denied, Exists, InvalidKey, NotFound, StoreError, Unsupported
from pkgstore.hashing import CHUNK, Hasher, wanted
from pkgstore.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pkgstore.bodies import BodyLike
    from pkgstore.calls import Calls
    from pkgstore.driver import Driver

_log = logging.getLogger("pkgstore")

_LISTED_AT_ONCE = 256
_READS = 4
_NO_VERSION = ""
_CONTROL_PREFIX = f"{keys.CONTROL}/"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds: ``blobs``, their number, and ``bytes``, the sum of their sizes."""

    blobs: int
    bytes: int


class Store:
    """A store of immutable blobs: the same promises on every medium.

    Made by `pkgstore.open`. A context manager; safe to share between threads, and to use in children after fork. Every
    error is a `pkgstore.StoreError`, but for what a caller's own body or argument raises.

    ``id`` is the store's identity, the same for all who open it, and ``probed`` what trials showed of its medium, where
    its driver makes any.
    """

    def __init__(
        self,
        calls: Calls,
        *,
        identity: str,
        prefix: str = "",
        readonly: bool = False,
        probed: Mapping[str, Any] | None = None,
    ) -> None:
        self._calls = calls
        self._prefix = prefix
        self._left_out: set[str] = set()
        self.id = identity
        self.readonly = readonly
        self.probed = probed or {}

    @property
    def where(self) -> str:
        """The store's URL, for people to read: without options, and without secrets."""
        return f"{self._calls.where}{self._prefix and '/'}{self._prefix}"

    @property
    def driver(self) -> Driver:
        """The driver of the store's medium."""
        return self._calls.driver

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
        anything is visible. ``replace`` lets the new version take the place of an old one, in one step.

        Returns the blob as it is published; it is then durable, and visible to all. Raises `Exists`, `Corrupt` for a
        body that is not as expected, `InvalidKey`, `Full`, `Denied`, `Unavailable` when the outcome is not known, and
        whatever the body itself raises. Nothing is visible after any of them but `Unavailable`.
        """
        self._check_writable("publish", key)
        path = self._path(key)
        with PublishBody(key, body, size, wanted(digests)) as source:
            try:
                return self._seen(self._calls.put(path, key, source, exclusive=not replace))
            except Exists as exc:
                raise self._exists(key, source) from exc

    def delete(self, key: str) -> None:
        """Delete a blob; silent when it is absent. It stays deleted after a power cut, whoever deleted it.

        Open readers keep what they have.
        """
        self._check_writable("delete", key)
        path = self._path(key)
        try:
            tag = self._calls.call("delete", key, lambda: self.driver.stat(path)).tag
        except NotFound:
            tag = _NO_VERSION
        # Bound to the version seen, so that a second attempt after a lost reply cannot take a newer one.
        self._calls.call("delete", key, lambda: self.driver.delete(path, tag=tag), changes=True)

    # -- reading ------------------------------------------------------------------------------------------------------

    def open(self, key: str, *, verify: bool = True) -> Reader:
        """Open a blob for reading: a raw, seekable binary stream over one version of it.

        A full sequential read raises `Corrupt` rather than return a last byte that does not belong to the recorded
        digest, unless ``verify`` is off or the medium has no digest of the blob (see `adopt`). Raises `NotFound`.
        """
        path = self._path(key)
        blob, stream = self._calls.call("open", key, lambda: self.driver.open(path))

        def reopen(start: int) -> BinaryIO:
            try:
                return self._calls.call("read", key, lambda: self.driver.open(path, start, tag=blob.tag))[1]
            except NotFound as exc:
                raise NotFound(
                    f"{keys.shown(key)} in {self.where} was replaced or deleted while it was read: open it again",
                    key=key,
                ) from exc

        return Reader(
            self._seen(blob),
            stream,
            reopen,
            lambda exc: self._calls.translated("read", key, exc),
            blob.digests.get("sha256") if verify else None,
            f"{keys.shown(key)} in {self.where}",
        )

    def read(self, key: str) -> bytes:
        """Return the bytes of a blob, verified. Raises as `open` does, and `Corrupt`."""
        for tries_left in reversed(range(_READS)):
            with self.open(key) as reader:
                try:
                    return reader.readall()
                except NotFound:  # nothing is lost by reading the version that is there now
                    if not tries_left:
                        raise
        raise AssertionError("unreachable")

    def stat(self, key: str) -> Blob:
        """Return what is at ``key``, without reading it. Raises `NotFound`."""
        path = self._path(key)
        return self._seen(self._calls.call("stat", key, lambda: self.driver.stat(path)))

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """Yield the blobs whose keys start with ``prefix`` (empty, or ending with `/`), sorted by key.

        Files that others put on the medium under names outside the key grammar are left out, with a warning each in
        the log.
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
        if isinstance(self.driver, RecordsDigests) and not self.readonly:
            found = copy_with(reader.blob, key=self._path(key))
            recorder = self.driver
            self._calls.call("adopt", key, lambda: recorder.record_digests(found, digests))
        return copy_with(reader.blob, digests=digests)

    def local_path(self, key: str) -> Path:
        """Return the path of the blob's own file on this host, to be read and not written.

        Raises `NotFound`, and `Unsupported` where the medium has no such files.
        """
        path = self._path(key)
        locate = self._calls.local_path
        if locate is None:
            raise Unsupported(f"{self.where} keeps no files on this host: read {keys.shown(key)} with open()", key=key)
        return self._calls.call("find", key, lambda: locate(path))

    def url(self, key: str, *, expires: float) -> str:
        """Return a URL that serves the blob for ``expires`` seconds to whoever has it.

        Raises `NotFound`, and `Unsupported` where the medium cannot sign URLs.
        """
        path = self._path(key)
        driver = self.driver
        if not isinstance(driver, SignedURL):
            raise Unsupported(f"{self.where} cannot sign URLs: serve {keys.shown(key)} from open()", key=key)
        self.stat(key)
        return self._calls.call("sign a URL for", key, lambda: driver.signed_url(path, expires))

    # -- upkeep -------------------------------------------------------------------------------------------------------

    def leftovers(self, *, remove: bool = False) -> Iterator[Leftover]:
        """Yield what dead writers left unfinished on the medium, and with ``remove`` remove what safely can be.

        What ``kept_because`` says of each is why it stays; it is empty for what is, or could be, removed. Live writers'
        uploads are among them, and stay. On media that need no such upkeep, nothing.
        """
        if remove:
            self._check_writable("remove what was left below", self._prefix)
        driver = self.driver
        if not isinstance(driver, HasLeftovers):
            return
        for found in self._calls.call("list what was left in", self._prefix, lambda: list(driver.leftovers())):
            if not found.key.startswith(self._prefix):
                continue
            if remove and not found.kept_because:
                self._calls.call("remove what was left of", found.key, partial(driver.remove_leftover, found))
            yield copy_with(found, key=found.key[len(self._prefix) :])

    # -- the store itself ---------------------------------------------------------------------------------------------

    def scope(self, prefix: str) -> Store:
        """Return a view of the blobs below ``prefix``, as a store of its own that cannot reach outside.

        It shares this store's connections, and is closed with it.
        """
        if not prefix:
            raise InvalidKey("a scope needs a prefix, such as 'tenant/'", key=prefix)
        prefix = self._prefix + keys.check_prefix(prefix)
        return Store(self._calls, identity=self.id, prefix=prefix, readonly=self.readonly, probed=self.probed)

    def close(self) -> None:
        """Let go of connections and handles. A scope leaves that to the store that it is a view of."""
        if not self._prefix and not self._calls.closed:
            self._calls.closed = True
            self.driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pkgstore.Store {self.where}>"

    # -- how ----------------------------------------------------------------------------------------------------------

    def _exists(self, key: str, source: PublishBody) -> Exists:
        blob: Blob | None = None
        held = "nothing any more: it was deleted meanwhile"
        try:
            blob = self.stat(key)
            held = "other bytes"
            if blob.size == source.length:
                blob = self.adopt(key)
                if blob.digests["sha256"] == source.digests["sha256"]:
                    held = "the same bytes"
        except NotFound:
            blob = None
        except StoreError as exc:
            held = "bytes that cannot be compared"
            _log.warning("cannot compare a refused body with what is there: %s", exc)
        return Exists(
            f"{keys.shown(key)} is already in {self.where}, with {held}; a key is published once: choose another, or"
            " ask to replace it",
            key=key,
            blob=blob,
            identical=held == "the same bytes",
        )

    def _listed(self, path: str) -> Iterator[Blob]:
        for blob in self._scanned(path):
            if keys.is_valid(blob.key):
                yield self._seen(blob)
            elif not blob.key.startswith(_CONTROL_PREFIX) and blob.key not in self._left_out:
                self._left_out.add(blob.key)
                _log.warning("%s leaves out %s: the name is no valid key", self.where, keys.shown(blob.key))

    def _scanned(self, path: str) -> Iterator[Blob]:
        last, seen, size = "", "", 1
        scan: Iterator[Blob] | None = None

        def following() -> list[Blob]:
            """Return what follows ``last``. A scan that failed begins anew, and what it repeats is of the same call."""
            nonlocal scan, seen
            if scan is None:
                scan, seen = self.driver.scan(path), ""
            try:
                while blobs := list(islice(scan, size)):
                    for blob in blobs:
                        if blob.key <= seen:
                            raise AssertionError(f"the {self.driver.scheme} driver lists {blob.key!r} after {seen!r}")
                        seen = blob.key
                    if seen > last:
                        return [blob for blob in blobs if blob.key > last]
            except Exception:
                scan = None
                raise
            return []

        while blobs := self._calls.call("list", path, following):
            size = min(2 * size, _LISTED_AT_ONCE)
            last = blobs[-1].key
            yield from blobs

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
