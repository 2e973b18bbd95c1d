"""A driver around a driver, that fails as planned: before a verb's effect, after it, or in its middle.

::

    with FaultPlan(Fault("put", "after")) as plan:
        store = with_driver(store, FaultyDriver(store.driver, plan))
        store.publish("key", b"content")     # the reply of the first put is lost; the second attempt finds that it won

At its end, the plan raises AssertionError unless every fault has happened.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

from pkgstore.calls import Calls
from pkgstore.driver import KnowsBefore
from pkgstore.errors import StoreError, Unavailable
from pkgstore.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pkgstore.driver import Blob, Body, Driver

Verb = Literal["put", "open", "stat", "scan", "delete"]
When = Literal["before", "during", "after"]

# So short that whatever is read has a middle.
_FIRST_READ = 1

_WITH_A_MIDDLE = {"put", "open", "scan"}


class Outage(Exception):
    """What a fault raises unless it is told otherwise; a `FaultyDriver` calls it `Unavailable`."""


@dataclass(frozen=True)
class Fault:
    """A failure that is to happen.

    ``verb``       put, open, stat, scan or delete
    ``when``       before the effect, after it (so that only the reply is lost), or during it: after the first bytes of
                   a body (put) or of what is read (open), or after the first blob (scan)
    ``nth``        at which call of the verb, from 1
    ``times``      at how many calls in a row; None for ever
    ``error``      what is raised
    ``meanwhile``  called just before, to do what others do in such a moment
    """

    verb: Verb
    when: When = "before"
    nth: int = 1
    times: int | None = 1
    error: Exception | type[Exception] = Outage
    meanwhile: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        if self.when == "during" and self.verb not in _WITH_A_MIDDLE:
            raise ValueError(f"{self.verb} has no middle to fail in: use 'before' or 'after'")

    def happens_at(self, call: int) -> bool:
        """Say whether the fault happens at this call of its verb."""
        return self.nth <= call and (self.times is None or call < self.nth + self.times)


class FaultPlan:
    """Faults that all have to happen. A context manager; may be shared by threads."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults
        self._calls: Counter[str] = Counter()
        self._happened: set[int] = set()
        self._lock = threading.Lock()

    def begin(self, verb: Verb) -> int:
        """Count a call of a verb, and return its number, from 1."""
        with self._lock:
            self._calls[verb] += 1
            return self._calls[verb]

    def reach(self, verb: Verb, when: When, call: int) -> None:
        """Raise what is planned for this point of a call."""
        for index, fault in enumerate(self._faults):
            if (fault.verb, fault.when) == (verb, when) and fault.happens_at(call):
                with self._lock:
                    self._happened.add(index)
                if fault.meanwhile:
                    fault.meanwhile()
                raise fault.error

    @property
    def unfired(self) -> list[Fault]:
        """The faults that have not happened yet."""
        return [fault for index, fault in enumerate(self._faults) if index not in self._happened]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None and self.unfired:
            raise AssertionError(f"planned faults that did not happen: {self.unfired}")


class FaultyDriver:
    """A driver that fails as planned, and else does what ``driver`` does: of its optional parts only `KnowsBefore`."""

    def __init__(self, driver: Driver, plan: FaultPlan) -> None:
        self._driver = driver
        self._plan = plan
        self.scheme = driver.scheme
        self.exclusive = driver.exclusive
        self.streams = driver.streams
        self.spool_digests = driver.spool_digests if isinstance(driver, KnowsBefore) else frozenset()

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        with self._failing("put") as middle:
            tripping = _TrippingBody(body, middle)
            return self._driver.put(key, tripping, size, digests=digests, exclusive=exclusive, token=token)

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        with self._failing("open") as middle:
            blob, stream = self._driver.open(key, start, stop, tag=tag)
            return blob, _TrippingStream(stream, middle)  # type: ignore[return-value]

    def stat(self, key: str) -> Blob:
        with self._failing("stat"):
            return self._driver.stat(key)

    def scan(self, prefix: str) -> Iterator[Blob]:
        with self._failing("scan") as middle:
            for blob in self._driver.scan(prefix):
                yield blob
                middle()

    def delete(self, key: str, *, tag: str | None = None) -> None:
        with self._failing("delete"):
            self._driver.delete(key, tag=tag)

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        return Unavailable if isinstance(exc, Outage) else self._driver.classify(exc)

    def close(self) -> None:
        self._driver.close()

    @contextmanager
    def _failing(self, verb: Verb) -> Iterator[Callable[[], None]]:
        """Fail before and after what is done within; yield a function that fails where it is called."""
        call = self._plan.begin(verb)
        self._plan.reach(verb, "before", call)
        yield lambda: self._plan.reach(verb, "during", call)
        self._plan.reach(verb, "after", call)


class _TrippingBody:
    def __init__(self, body: Body, middle: Callable[[], None]) -> None:
        self._body = body
        self._middle = middle
        self._started = False

    def read(self, size: int = -1, /) -> bytes | memoryview:
        if self._started:
            self._middle()
        self._started = True
        return self._body.read(size)

    def finish(self) -> Mapping[str, str]:
        return self._body.finish()


class _TrippingStream(io.RawIOBase):
    def __init__(self, stream: BinaryIO, middle: Callable[[], None]) -> None:
        super().__init__()
        self._stream = stream
        self._middle = middle
        self._started = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        if self._started:
            self._middle()
        else:
            view = view[:_FIRST_READ]
        self._started = True
        count: int = self._stream.readinto(view)  # type: ignore[attr-defined]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class SpoolingDriver(FaultyDriver):
    """A driver that has to be told size and sha256 of a body before its first byte; it fails when it is not."""

    def __init__(self, driver: Driver, plan: FaultPlan) -> None:
        super().__init__(driver, plan)
        self.streams = False

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        if size is None or "sha256" not in digests:
            raise AssertionError(f"the size of {key!r} is {size}, its digests {digests}: both have to be known")
        blob = super().put(key, body, size, digests=digests, exclusive=exclusive, token=token)
        if (blob.size, blob.digests["sha256"]) != (size, digests["sha256"]):
            raise AssertionError(f"{key!r} was to have {size} bytes and {digests}, and has {blob}")
        return blob


def with_driver(store: Store, driver: Driver, *, timeout: float = 60.0) -> Store:
    """Return the store over another driver, which it has in common with the first; close only one of them."""
    return Store(Calls(driver, store.where, timeout), identity=store.id)
