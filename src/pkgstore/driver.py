"""The contract between the store and the drivers.

A driver says how one medium does seven verbs, and nothing else. `pkgstore.store.Store` is the only caller; it owns
every policy, so that a driver is thin: it does not check keys, hash, retry, wrap errors, log or cache.

What every driver owes
    All or nothing
        A key is absent or complete. Nothing partial is ever opened, stat'ed or scanned, whatever dies and when.
    Durable and visible
        When a verb returns, its effect survives a crash of the machine, and every client on every host sees it.
    One version
        A stream yields one version of a blob to its end, even while the key is replaced or deleted.
    Clean failure
        A verb that raises has changed nothing that is visible, or `Driver.classify` calls its error `Unavailable`,
        which means that the outcome is not known. Whatever it staged is gone or can be told to be abandoned.
    Concurrency
        Verbs are called from many threads and processes at once, and go on working in a child after fork.

What the store guarantees
    Keys have passed `pkgstore.keys.check`, or lie below `.pkgstore/`, where the store keeps its own documents. Prefixes
    are empty or end with `/`. Every body is read by one thread, and is new for every attempt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pkgstore.errors import StoreError


@dataclass(frozen=True, slots=True)
class Blob:
    """One version of one blob.

    ``key``
        its name
    ``size``
        in bytes
    ``mtime``
        when it was written, by the medium's clock, in seconds since the epoch; told more or less precisely by different
        verbs, so that blobs are compared without it
    ``tag``
        an opaque string that differs between any two versions of a key whose bytes differ
    ``digests``
        hexadecimal digests by algorithm; empty where the medium knows none, or where a listing cannot tell them
        without a request for each blob
    """

    key: str
    size: int
    mtime: float = field(compare=False)
    tag: str
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a writer that died left unfinished: it takes room, and nobody sees it.

    ``key`` is what was being written, ``began`` when, by the medium's clock in seconds since the epoch, ``name`` what
    the medium calls it, and ``kept_because`` why it must not be removed; empty when that is safe.
    """

    key: str
    began: float
    name: str
    kept_because: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an examination of a medium found.

    ``name`` says what was examined, in words joined by hyphens, the same on every medium; ``level`` is ``ok``, ``note``
    for a fact that is neither good nor bad, ``warning`` for what may do harm, or ``error`` for something needed that
    does not hold; ``says`` is a sentence, and ``remedy`` another, on what to do; empty where nothing is to be done.
    """

    name: str
    level: Literal["ok", "note", "warning", "error"]
    says: str
    remedy: str = ""


class MediumError(Exception):
    """What a medium answered, raised by a driver whose client has no error of its own for it.

    ``kind`` is what `Driver.classify` calls it. The message says what failed, in one line, and ``remedy`` what to do.
    """

    def __init__(self, kind: type[StoreError], message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.remedy = remedy


class Body(Protocol):
    """The bytes of one put, hashed as they are read. Made by the store."""

    def read(self, size: int = -1, /) -> bytes | memoryview:
        """Return up to ``size`` bytes, at most a chunk of the body's own choosing; empty at the end."""

    def finish(self) -> Mapping[str, str]:
        """Return the digests of the whole body, by algorithm.

        To be called once, after the last byte is read and before anything is visible: it raises `Corrupt` when the body
        was shorter or longer than declared, or does not have the digests that its publisher expects.
        """


class Driver(Protocol):
    """How one medium does the verbs. Errors are the medium's own, as its client raises them; see `classify`."""

    @property
    def scheme(self) -> str:
        """The URL scheme, for messages."""

    @property
    def exclusive(self) -> bool:
        """Whether an exclusive put is truly exclusive on this medium: probed there, never assumed.

        A driver that knows why it is not raises `Unsupported`, to say so.
        """

    @property
    def streams(self) -> bool:
        """Whether put takes a body whose size and digests are known only at its end.

        When it is false, the store reads the body ahead, and put always gets ``size`` and a ``sha256``, and what else
        `KnowsBefore` names.
        """

    def put(
        self,
        key: str,
        body: Body,
        size: int | None,
        *,
        digests: Mapping[str, str],
        exclusive: bool,
        token: str,
    ) -> Blob:
        """Write ``body`` to ``key``, and return what is there now, with its digests.

        Among all exclusive puts of a key on any host, while it is absent, exactly one returns; every other raises what
        `classify` calls `Exists`, before or after it has read the body. A put that is not exclusive replaces what is
        there, in one step.

        ``token`` names one publish through all its attempts. When an earlier attempt took effect and only the reply
        was lost, the key holds this very token: that is a win, not `Exists`. ``size`` and ``digests`` are what is
        known of the body before its first byte; `Body.finish` gives the rest, and must have returned before the key
        changes.
        """

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        """Open a blob, and return it with an unbuffered stream that stands at byte ``start``.

        ``stop`` is how far the caller will read at most, so that no more need be fetched; a stream may hold more. A
        seekable stream counts its positions from the first byte of the blob, whatever ``start`` is. With ``tag``,
        only that version will do; another in its place is `NotFound`.
        """

    def stat(self, key: str) -> Blob:
        """Return what is at ``key``, with its digests where the medium knows them."""

    def scan(self, prefix: str) -> Iterator[Blob]:
        """Yield every blob whose key starts with ``prefix``, sorted by key (by code point, as UTF-8 sorts).

        Blobs that are there from the first item to the last are yielded once; those that come or go meanwhile, once
        or not at all. Keys below `.pkgstore/` are yielded only for a prefix that lies there itself. A subtree that
        cannot be read is an error, never an omission.
        """

    def delete(self, key: str, *, tag: str | None = None) -> None:
        """Delete a blob; silent when it is absent. With ``tag``, another version in its place is left alone.

        When it returns, that the blob is gone is durable, also when somebody else has deleted it.
        """

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        """Say which of our errors a medium's error is, or None for one that the medium did not raise."""

    def close(self) -> None:
        """Let go of connections and handles. Called once; no verb is called after it."""


@runtime_checkable
class LocalPath(Protocol):
    """A driver whose blobs are files of this host's file system."""

    def local_path(self, key: str) -> Path:
        """Return the path of the blob's own file, which must exist."""


@runtime_checkable
class SignedURL(Protocol):
    """A driver that can let others read a blob for a while, without credentials."""

    def signed_url(self, key: str, expires: float) -> str:
        """Return a URL that serves the blob for ``expires`` seconds."""


@runtime_checkable
class KnowsBefore(Protocol):
    """A driver that does not stream, and has to declare more digests than sha256 before the first byte of a body."""

    @property
    def spool_digests(self) -> frozenset[str]:
        """The algorithms whose digests put gets, besides what the publisher asked for."""


@runtime_checkable
class Probed(Protocol):
    """A driver that finds out by trial what its medium keeps to, and need not try again where it is remembered.

    The store keeps what was found in its identity, for every process that opens it.
    """

    def probe(self) -> dict[str, Any]:
        """Try it now; return what was found, as JSON can hold it. Uses names below `.pkgstore/probe/`."""

    def recall(self, found: dict[str, Any]) -> bool:
        """Take what an earlier probe found. False when it is of no use here, as on another endpoint."""


@runtime_checkable
class Examined(Protocol):
    """A driver that can tell an operator more of its medium than the verbs show."""

    def examine(self) -> Iterator[Finding]:
        """Look at the medium and try things on it, below `.pkgstore/doctor/`; leave nothing there."""


@runtime_checkable
class HasLeftovers(Protocol):
    """A driver whose dead writers leave something that no later writer removes by itself."""

    def leftovers(self) -> Iterator[Leftover]:
        """Yield what is unfinished, also what live writers are at."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove one whose ``kept_because`` is empty; silent when it is gone."""


@runtime_checkable
class RecordsDigests(Protocol):
    """A driver that can keep the digests of a blob that came without, such as a file put there by hand."""

    def record_digests(self, blob: Blob, digests: Mapping[str, str]) -> bool:
        """Keep ``digests`` for this version of a blob. False when another is there, or the medium lets us keep none."""


@runtime_checkable
class Layer(Protocol):
    """A driver over another, which changes the bytes on their way."""

    @property
    def medium(self) -> Driver:
        """The driver below."""


def of_medium(driver: Driver) -> Driver:
    """Return the driver of the medium itself, to be asked for what no layer changes."""
    while isinstance(driver, Layer):
        driver = driver.medium
    return driver
