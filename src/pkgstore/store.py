"""The store: every guarantee, once, over any driver."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace as copy_with
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pkgstore import config, keys
from pkgstore.bodies import PublishBody
from pkgstore.cache.absent import Absent
from pkgstore.cache.reading import CachedReader, Entry
from pkgstore.calls import Calls
from pkgstore.control import Control
from pkgstore.driver import Blob, HasLeftovers, Leftover, RecordsDigests, SignedURL, of_medium
from pkgstore.errors import Denied, Exists, InvalidKey, Misconfigured, NotFound, StoreError, Unsupported
from pkgstore.hashing import CHUNK, Hasher, wanted
from pkgstore.lease import Leases, Patience, alone, lease_seconds
from pkgstore.quota import Quota
from pkgstore.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from pkgstore.accounts import Usage
    from pkgstore.bodies import BodyLike
    from pkgstore.bundle import Bundle
    from pkgstore.bundle.identity import Input
    from pkgstore.cache.folder import Cache
    from pkgstore.catalog import Catalog
    from pkgstore.driver import Driver
    from pkgstore.reencryption import Reencrypted, Reencryption

_log = logging.getLogger("pkgstore")

_READS = 4
_NO_VERSION = ""
_CONTROL_PREFIX = f"{keys.CONTROL}/"


class Store:
    """A store of immutable blobs: the same promises on every medium.

    Made by `pkgstore.open`. A context manager; safe to share between threads, and to use in children after fork. Every
    error is a `pkgstore.StoreError`, but for what a caller's own body or argument raises.

    It can be pickled, and so be sent to other processes and hosts. There it is opened once, with the URL and the
    options that it was opened with here (secrets among them are in the pickle), and stays open until the process ends.
    Where another store answers at that URL, or none, unpickling raises `Misconfigured` or `NotFound`.

    ``id`` is the store's identity, the same for all who open it, and ``probed`` what trials showed of its medium, where
    its driver makes any. ``encrypted`` says whether its blobs are encrypted on the medium.
    """

    def __init__(
        self,
        calls: Calls,
        *,
        identity: str,
        prefix: str = "",
        readonly: bool = False,
        probed: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        absent: Absent | None = None,
        catalog: Catalog | None = None,
        quota: Quota | None = None,
        encrypted: bool = False,
        reduce: Callable[[str, str, str], tuple[Any, ...]] | None = None,
        is_view: bool = False,
    ) -> None:
        self._calls = calls
        self._prefix = prefix
        self._left_out: set[str] = set()
        self._cache = cache
        self._absent = absent or Absent(0)
        self._catalog = catalog
        self._quota = quota or Quota(calls)
        self._reduce = reduce
        self._is_view = is_view
        self.id = identity
        self.readonly = readonly
        self.encrypted = encrypted
        self.probed = probed or {}

    @property
    def where(self) -> str:
        """The store's URL, for people to read: without options, and without secrets."""
        return f"{self._calls.where}{self._prefix and '/'}{self._prefix}"

    @property
    def driver(self) -> Driver:
        """The driver of the store's medium."""
        return self._calls.driver

    @property
    def prefix(self) -> str:
        """The prefix that this is a scope of; empty for a whole store."""
        return self._prefix

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
                return self._put(path, key, source, replace=replace)
            except Exists as exc:
                raise self._exists(key, source) from exc

    def _put(self, path: str, key: str, source: PublishBody, *, replace: bool) -> Blob:
        with self._absent.changing(path):
            return self._seen(self._quota.publish(path, key, source, replace=replace))

    def delete(self, key: str, *, tag: str | None = None) -> bool:
        """Delete a blob, and return whether it was there. It stays deleted after a power cut, whoever deleted it.

        With ``tag``, only that version is deleted: another in its place is left alone, also one that takes its place
        at this very moment. Open readers keep what they have.
        """
        self._check_writable("delete", key)
        path = self._path(key)

        def delete() -> Blob | None:
            try:
                found = self._calls.call("delete", key, lambda: self.driver.stat(path))
            except NotFound:
                found = None
            if found is not None and tag not in (None, found.tag):
                return None
            seen = found.tag if found else _NO_VERSION
            # Bound to the version seen, so that a second attempt after a lost reply cannot take a newer one.
            self._calls.call("delete", key, lambda: self.driver.delete(path, tag=seen), changes=True)
            return found

        old = self._quota.delete(path, key, delete)
        if self._catalog is not None:
            self._catalog.forget(path)
        return old is not None

    # -- producing once -----------------------------------------------------------------------------------------------

    def get_or_publish(
        self,
        key: str,
        produce: Callable[[], BodyLike],
        *,
        digests: Mapping[str, str | None] | None = None,
        lease: float = 30.0,
        wait: float | None = None,
    ) -> Blob:
        """Return what is at ``key``; where nothing is, publish what ``produce()`` returns, and return that.

        Of all who ask for an absent key, in any threads, processes and hosts, one calls ``produce``, and the others
        wait until its blob is there. ``produce`` returns a body as `publish` takes it, with ``digests``, and a body
        that has a ``close()`` is closed. What it raises comes through to its own caller; of the others, one tries next.

        A producer that dies or freezes is replaced once nothing has been heard of it for ``lease`` seconds. After that,
        or when the medium was out of reach for so long, two may produce one key; both return what one has published.

        ``wait`` is for how many seconds this may wait for other producers, and None for as long as they are at it.
        Raises `LockTimeout` when that is over, `Denied` when the key is absent and the store open for reading only,
        RuntimeError when ``produce`` asks for its own key, and what `stat` and `publish` raise, but for `NotFound` and
        `Exists`.
        """
        path = self._path(key)
        lease = lease_seconds(lease)
        patience = Patience(key, self.where, wait)
        while True:
            blob = self._found(key)
            if blob is None:
                self._check_writable("publish", key)
                with alone((self.id, self._calls.where, path), patience) as is_mine:
                    if is_mine:
                        blob = self._produced(key, produce, digests, lease, patience)
            if blob is not None:
                return blob

    def _produced(
        self,
        key: str,
        produce: Callable[[], BodyLike],
        digests: Mapping[str, str | None] | None,
        lease: float,
        patience: Patience,
    ) -> Blob | None:
        """Produce a blob, or wait for who does; None when it was published by another, and deleted again."""
        while not (held := self._leases.take(self._path(key), lease)):
            patience.pause()
            blob = self._found(key)
            if blob is not None:
                return blob
        with held:
            blob = self._found(key)  # who held the lease before may have published it since we looked
            if blob is not None:
                return blob
            body = produce()
            try:
                return self.publish(key, body, digests=digests)
            except Exists as exc:
                return exc.blob
            finally:
                close = getattr(body, "close", None)
                if close is not None:
                    close()

    def _found(self, key: str) -> Blob | None:
        """Return what is at ``key``, and not what was remembered of it. That it was absent is forgotten."""
        path = self._path(key)
        with self._absent.changing(path):
            try:
                return self._seen(self._calls.call("stat", key, lambda: self.driver.stat(path)))
            except NotFound:
                return None

    def bundle(
        self,
        name: str,
        inputs: Iterable[Input] = (),
        *,
        max_archive_size: int | str = "1Gi",
        retries: int = 3,
        timeout: float = 600.0,
        lease: float = 30.0,
    ) -> Bundle:
        """Return a bundle: a directory that is built once, kept here as an archive, and put in place by `ensure`.

        ``inputs`` are all that decides what is in it: strings, bytes, and paths, which stand for the contents of
        files. Its key is made of ``name``, these, and the version and platform of this Python interpreter.

        ``max_archive_size`` is how many bytes it may have, packed and unpacked, such as ``1Gi``; ``retries`` how often
        a failure is followed by another try, ``timeout`` for how many seconds all of that may take, and ``lease`` as
        in `get_or_publish`. Raises `Misconfigured`.
        """
        from pkgstore.bundle import make

        return make(
            self, name, inputs, max_archive_size=max_archive_size, retries=retries, timeout=timeout, lease=lease
        )

    @cached_property
    def _leases(self) -> Leases:
        return Leases(self._calls)

    # -- reading ------------------------------------------------------------------------------------------------------

    def open(self, key: str, *, verify: bool = True, fresh: bool = False) -> Reader:
        """Open a blob for reading: a raw, seekable binary stream over one version of it.

        A full sequential read raises `Corrupt` rather than return a last byte that does not belong to the recorded
        digest, unless ``verify`` is off or the medium has no digest of the blob (see `adopt`). With ``fresh``, all
        is read from the medium, and nothing from a cache. Raises `NotFound`.
        """
        path = self._path(key)
        if self._cache is not None and not fresh:
            blob, entry = self._cached(path, key, self._cache)
            if entry is not None:
                return self._reader(path, key, blob, entry, verify=verify)
        blob, stream = self._absent.look(path, lambda: self._calls.call("open", key, lambda: self.driver.open(path)))
        return self._reader(path, key, blob, stream, verify=verify)

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
        return self._seen(self._look(path, key))

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """Yield the blobs whose keys start with ``prefix`` (empty, or ending with `/`), sorted by key.

        Files that others put on the medium under names outside the key grammar are left out, with a warning each in
        the log. Digests that the medium's listing does not tell are those that the catalog knows of this very version.
        """
        return self._listed(self._prefix + keys.check_prefix(prefix))

    def usage(self, *, recount: bool = False) -> Usage:
        """Return what the store holds: where it has a quota, as its ledger says; else by listing all blobs.

        With ``recount``, the blobs are counted, and the ledger is set right where it differs: what dead publishers had
        in hand is no longer reserved, and files that others put on the medium are counted. Publishers wait meanwhile.
        """
        if recount:
            self._check_writable("recount the blobs", "")
            if self._quota.is_on():
                self._quota.recount()
        return self._quota.usage(self._prefix, self._counted)

    def set_quota(self, bytes: int | str | None = None, *, blobs: int | None = None) -> None:  # noqa: A002
        """Let the store, or this scope of it, hold no more than so many bytes and blobs.

        Each call sets both limits: one that is None, or not given, is lifted. They are kept in the store, and hold for
        all who publish there. ``bytes`` may be a size such as ``500M`` or ``1Gi``. The first time, all blobs are
        counted. A limit below what is there already lets nothing more in.
        """
        self._check_writable("set the quota", "")
        if blobs is not None and (type(blobs) is not int or blobs < 0):
            raise Misconfigured(f"the quota blobs={blobs!r} is no number of blobs")
        self._quota.set_limits(self._prefix, None if bytes is None else config.size("bytes", bytes), blobs)

    def _counted(self) -> tuple[int, int]:
        blobs = size = 0
        for blob in self.list():
            blobs += 1
            size += blob.size
        return blobs, size

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
        found = copy_with(reader.blob, key=self._path(key))
        if isinstance(self.driver, RecordsDigests) and not self.readonly:
            recorder = self.driver
            self._calls.call("adopt", key, lambda: recorder.record_digests(found, digests))
        return self._seen(copy_with(found, digests=digests))

    def local_path(self, key: str) -> Path:
        """Return the path of the blob's own file on this host, to be read and not written.

        Where the medium has no such files, that of its entry in the cache, which goes when it has long not been used.
        Raises `NotFound`, and `Unsupported` where there is neither.
        """
        path = self._path(key)
        locate = self._calls.local_path
        if locate is None and self._cache is not None:
            blob, entry = self._cached(path, key, self._cache)
            if entry is not None:
                entry.close()
                return self._cache.path(blob)
        if locate is None:
            raise Unsupported(
                f"{self.where} keeps no files on this host{' that are not encrypted' if self.encrypted else ''}: read"
                f" {keys.shown(key)} with open()",
                key=key,
            )
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

    def warm(
        self,
        prefix: str = "",
        *,
        jobs: int = 16,
        share: bool = False,
        progress: Callable[[Blob], object] | None = None,
    ) -> int:
        """Have the catalog know the digests of all blobs below ``prefix``; return how many it did not know.

        The medium is asked for those, ``jobs`` of them at a time; what has no digests there is read. What was learnt
        is kept at once, so that a run that was cut short goes on where it was. What the catalog knows of blobs that are
        gone is dropped. ``progress`` is called with each blob, in this thread.

        With ``share``, a copy of the catalog is kept in the store, with which others begin that have none.

        Raises `Misconfigured` for a store that was opened without a catalog, `Unavailable` when the catalog cannot be
        written, what `stat` and `open` raise but for `NotFound`, and with ``share`` what `publish` raises.
        """
        catalog = self._catalog
        if catalog is None:
            raise Misconfigured(f"{self.where} was opened without a catalog: name its file with catalog=")
        from pkgstore.catalog import sharing, warming

        if share:
            self._check_writable("share the catalog of", self._prefix)
            if self._prefix:
                raise Unsupported(f"{self.where} is a part of a store, whose whole catalog is shared: ask the store")
        path = self._prefix + keys.check_prefix(prefix)

        def ask(blob: Blob) -> Blob:
            return self.adopt(blob.key[len(self._prefix) :])

        asked = 0
        for blob, was_unknown in warming.warmed(catalog, self._pages(path), path, ask, jobs):
            asked += was_unknown
            if progress is not None:
                progress(self._named(blob))
        if share:
            sharing.share(catalog, self._calls)
        return asked

    def reencrypt(
        self,
        *,
        executor: Executor | None = None,
        jobs: int = 4,
        progress: Callable[[str, Blob | None], object] | None = None,
    ) -> Reencrypted:
        """Seal every blob of an encrypted store anew, under its keyring's active key; return what became of all.

        Blobs that are under that key already are left alone, so that a run that was cut short is just run again. Each
        takes the place of the very version that was read, verified, whoever publishes, replaces and deletes meanwhile.
        ``executor`` does the work, or else ``jobs`` threads; ``jobs`` blobs are under way at a time. ``progress`` is
        called with each key, and the blob if it was sealed anew, in this thread. What the medium writes down as the
        time of a blob is then that of its re-encryption.

        A store without a quota is given one without limits for this, and keeps it. Raises `Misconfigured` for a store
        that is not encrypted, `Denied` without a keyring, and `Unavailable`; what is wrong with blobs is in the result.
        """
        self._check_writable("encrypt the blobs anew", "")

        def done(path: str, blob: Blob | None) -> None:
            if blob is not None and keys.is_valid(path):
                self._seen(blob)
            if progress is not None:
                progress(path[len(self._prefix) :], blob and self._named(blob))

        return self._reencryption().run(executor, jobs, done)

    def _reencryption(self, active: str | None = None) -> Reencryption:
        from pkgstore.reencryption import Reencryption

        return Reencryption(self._calls, self._quota, self._prefix, self._reencryption, active=active)

    def leftovers(self, *, remove: bool = False) -> Iterator[Leftover]:
        """Yield what dead writers left unfinished on the medium, and with ``remove`` remove what safely can be.

        What ``kept_because`` says of each is why it stays; it is empty for what is, or could be, removed. Live writers'
        uploads are among them, and stay. On media that need no such upkeep, nothing.
        """
        if remove:
            self._check_writable("remove what was left below", self._prefix)
        driver = of_medium(self.driver)
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
        return self._view(keys.check_prefix(prefix))

    def _view(self, prefix: str) -> Store:
        """Return a view of the blobs below ``prefix``, or of all."""
        parts = {**self._parts(), "prefix": self._prefix + prefix}
        return Store(self._calls, **parts, reduce=self._reduce, is_view=True)

    def _as_it_lies(self) -> Store:
        """Return a view of the blobs as they lie on the medium, for reading: of an encrypted store, of ciphertext."""
        calls = Calls(of_medium(self.driver), self._calls.where, self._calls.timeout)
        return Store(calls, identity=self.id, prefix=self._prefix, readonly=True, is_view=True)

    def _parts(self) -> dict[str, Any]:
        """Return what is shared by all that show the blobs of this store: what they are made with, beside the calls."""
        return {
            "identity": self.id,
            "prefix": self._prefix,
            "readonly": self.readonly,
            "probed": self.probed,
            "cache": self._cache,
            "absent": self._absent,
            "catalog": self._catalog,
            "quota": self._quota,
            "encrypted": self.encrypted,
        }

    def control(self, folder: str) -> Control:
        """Return the blobs of the store's own in a folder below `.pkgstore/`. A scope has those of its store."""
        return Control(self._calls, folder, readonly=self.readonly)

    def close(self) -> None:
        """Let go of connections and handles. A scope leaves that to the store that it is a view of."""
        if not self._is_view and not self._calls.closed:
            with contextlib.ExitStack() as stack:  # each is let go of, whatever becomes of the others
                stack.callback(self.driver.close)
                if self._catalog is not None:
                    stack.callback(self._catalog.close)
                stack.callback(setattr, self._calls, "closed", True)
                self._quota.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reduce is None:
            raise TypeError(f"{self.where} was not opened by pkgstore.open, and cannot be sent to another process")
        return self._reduce(self.where, self.id, self._prefix)

    def __repr__(self) -> str:
        return f"<pkgstore.Store {self.where}>"

    # -- how ----------------------------------------------------------------------------------------------------------

    def _look(self, path: str, key: str) -> Blob:
        return self._absent.look(path, lambda: self._calls.call("stat", key, lambda: self.driver.stat(path)))

    def _cached(self, path: str, key: str, cache: Cache) -> tuple[Blob, Entry | None]:
        """Return what is there now, and its entry in the cache; None where it is to be read from the medium."""
        for tries_left in reversed(range(_READS)):
            blob = self._look(path, key)
            try:
                return blob, cache.open(blob, partial(self._opened, path, key, blob))
            except NotFound:  # another version is there now, or none
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def _opened(self, path: str, key: str, blob: Blob) -> Reader:
        """Return a reader of one version, from the medium."""
        stream = self._calls.call("open", key, lambda: self.driver.open(path, tag=blob.tag))[1]
        return self._reader(path, key, blob, stream, verify=True)

    def _reader(self, path: str, key: str, blob: Blob, stream: BinaryIO | Entry, *, verify: bool) -> Reader:
        def reopen(start: int) -> BinaryIO:
            try:
                return self._calls.call("read", key, lambda: self.driver.open(path, start, tag=blob.tag))[1]
            except NotFound as exc:
                raise NotFound(
                    f"{keys.shown(key)} in {self.where} was replaced or deleted while it was read: open it again",
                    key=key,
                ) from exc

        about = (
            reopen,
            lambda exc: self._calls.translated("read", key, exc),
            blob.digests.get("sha256") if verify else None,
            f"{keys.shown(key)} in {self.where}",
        )
        if isinstance(stream, Entry):
            return CachedReader(self._seen(blob), stream, *about)
        return Reader(self._seen(blob), stream, *about)

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
        for page in self._pages(path):
            yield from map(self._named, page if self._catalog is None else self._catalog.fill(page))

    def _pages(self, path: str) -> Iterator[Sequence[Blob]]:
        """Yield the blobs below ``path`` as the medium lists them, by full key, some at a time."""
        for scanned in self._calls.scan(path):
            page = []
            for blob in scanned:
                if keys.is_valid(blob.key):
                    page.append(blob)
                elif not blob.key.startswith(_CONTROL_PREFIX) and blob.key not in self._left_out:
                    self._left_out.add(blob.key)
                    _log.warning("%s leaves out %s: the name is no valid key", self.where, keys.shown(blob.key))
            if page:
                yield page

    def _path(self, key: str) -> str:
        keys.check(key)
        if not self._prefix:
            return key
        try:
            return keys.check(self._prefix + key)
        except InvalidKey as exc:
            raise InvalidKey(str(exc), key=key) from None

    def _seen(self, blob: Blob) -> Blob:
        """Return what the medium has just told of a blob, as this view names it; the catalog learns it."""
        if self._catalog is not None:
            self._catalog.learn(blob)
        return self._named(blob)

    def _named(self, blob: Blob) -> Blob:
        return copy_with(blob, key=blob.key[len(self._prefix) :]) if self._prefix else blob

    def _check_writable(self, verb: str, key: str) -> None:
        if self.readonly:
            what = f"{verb} {key!r}" if key else verb
            raise Denied(f"cannot {what}: {self.where} is open for reading only", key=key or None)
