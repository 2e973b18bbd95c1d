"""A proxy on loopback that does to its clients what networks and overloaded servers do, as a test tells it.

It speaks HTTP/1.1 with its client and the server, or passes plain TCP (``raw``). Faults are set and taken away while it
runs, from any thread. They count what they did, so that a test can prove that its fault fired.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeVar

from tests.fault_streams import HEAD_LIMIT, Connection, Direction

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from random import Random

T = TypeVar("T")
F = TypeVar("F", bound="Fault")

Match = bytes | Callable[[bytes], bool]
"""A regular expression that is searched for in the head of a request (in what is sent, when raw), or a function of it.

A head is the request line and the headers, each ended by CRLF, without the empty line: `PUT /bucket/key HTTP/1.1...`.
"""

_STEP_WITHIN = 30.0


class Fault:
    """Something that happens to those requests that match. ``fired`` counts how often it did."""

    def __init__(
        self, kind: str, match: Match = b"", times: int | None = None, fraction: float = 1.0, rng: Random | None = None
    ) -> None:
        self.kind = kind
        self.fired = 0
        self._times = times
        self._fraction, self._rng = fraction, rng
        self._matches = match if callable(match) else re.compile(match).search
        self._lock = threading.Lock()

    def fires(self, head: bytes) -> bool:
        """Return whether it happens to a request, and count it then."""
        with self._lock:
            if (self._times is not None and self.fired >= self._times) or not self._matches(head):
                return False
            if self._rng is not None and self._rng.random() >= self._fraction:
                return False
            self.fired += 1
            return True

    def stop(self) -> None:
        """Let it happen no more."""
        with self._lock:
            self._times = 0


class Reset(Fault):
    """Connections that are reset after ``count`` bytes of a request (up) or of its reply (down)."""

    def __init__(self, direction: Direction, count: int, match: Match, times: int | None) -> None:
        super().__init__("reset", match, times)
        self.direction, self.count = direction, count
        self.since: dict[Connection, int] = {}
        """Bytes that raw connections had passed on before."""


class LostReply(Fault):
    """Requests that reach the server, and whose reply does not reach the client."""


class Answer(Fault):
    """Answers that the proxy gives itself."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Hold(Fault):
    """Requests that are parked before their first byte goes to the server."""

    def __init__(self, match: Match, times: int | None) -> None:
        super().__init__("hold", match, times)
        self._released = threading.Event()

    def wait(self, count: int = 1) -> None:
        """Wait until ``count`` requests are parked. Raises AssertionError when they do not come."""
        deadline = time.monotonic() + _STEP_WITHIN
        while self.fired < count:
            assert time.monotonic() < deadline, f"{self.fired} requests came to be parked, not {count}"
            time.sleep(0.005)

    def release(self) -> None:
        """Let the parked requests go on, and park no more."""
        self.stop()
        self._released.set()

    async def parked(self) -> None:
        """Return when the requests are released."""
        while not self._released.is_set():
            await asyncio.sleep(0.002)


class FaultProxy:
    """A proxy to a port of this host, which runs in a thread until the block ends.

    ``latency``
        seconds that each request, and each reply, takes longer; of plain TCP, each piece of data each way
    ``black_hole``
        swallow all that is sent, either way, and keep the connections open. A connection that has lost something this
        way stays silent when it is turned off
    ``refuse``
        reset new connections
    ``clock_offset``
        seconds that the clock is wrong by which the replies' `Date` is made
    ``heads``
        the head of each request that went to the server, in the order in which they went
    ``faults``
        how many faults fired, by kind: reset, lost reply, answer, hold, black hole, refuse, date
    """

    def __init__(self, upstream_port: int, *, raw: bool = False) -> None:
        self.upstream_port = upstream_port
        self.raw = raw
        self.port = 0
        self.latency = 0.0
        self.black_hole = False
        self.refuse = False
        self.clock_offset = 0.0
        self.heads: list[bytes] = []
        self.faults: Counter[str] = Counter()
        self._set: list[Fault] = []
        self._open: dict[Connection, asyncio.Task[None]] = {}
        self._errors: list[Exception] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> Counter[tuple[str, str]]:
        """How many requests went to the server, by method and target, such as `("PUT", "/bucket/key?partNumber=1")`."""
        counted: Counter[tuple[str, str]] = Counter()
        for head in self.heads.copy():
            method, target, _ = head.decode("latin-1").split(" ", 2)
            counted[method, target] += 1
        return counted

    def count(self, match: Match) -> int:
        """Return how many requests that match went to the server."""
        matches = match if callable(match) else re.compile(match).search
        return sum(1 for head in self.heads.copy() if matches(head))

    def reset_after(self, direction: Direction, count: int, match: Match = b"", *, times: int | None = None) -> Fault:
        """Reset the connection once ``count`` bytes of a request (up) or of its reply (down) have passed.

        Heads count, and what is sent with them. Of plain TCP, what each connection carries from now on counts.
        """
        fault = Reset(direction, count, match, times)
        return self._in_thread(self._add_reset(fault))

    def lose_reply(self, match: Match = b"", *, times: int | None = 1) -> Fault:
        """Let requests through, and reset the connection when the server answers: `100 Continue` is no answer."""
        return self._add(LostReply("lost reply", match, times))

    def answer(
        self,
        status: int,
        body: bytes = b"",
        match: Match = b"",
        *,
        times: int | None = None,
        fraction: float = 1.0,
        rng: Random | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """Answer requests without the server: those of a ``fraction`` that ``rng`` draws, or all."""
        fault = Answer("answer", match, times, fraction, rng)
        fault.status, fault.body, fault.headers = status, body, {"Content-Type": "application/xml", **(headers or {})}
        return self._add(fault)

    def slow_down(
        self, match: Match = b"", *, times: int | None = None, fraction: float = 1.0, rng: Random | None = None
    ) -> Fault:
        """Answer `503 SlowDown`."""
        body = s3_error("SlowDown", "Please reduce your request rate.")
        return self.answer(503, body, match, times=times, fraction=fraction, rng=rng)

    def hold(self, match: Match = b"", *, times: int | None = None) -> Hold:
        """Park requests before they go to the server, until they are released; those whose client is gone go, too."""
        return self._add(Hold(match, times))

    def reset_all(self) -> int:
        """Reset every open connection, and return how many there were."""
        return self._in_thread(self._reset_open())

    def clear(self) -> None:
        """Take every fault away, and let go what is parked. Counters stay."""
        self.latency = self.clock_offset = 0.0
        self.black_hole = self.refuse = False
        for fault in self._set:
            if isinstance(fault, Hold):
                fault.release()
            fault.stop()
        self._set = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._in_thread(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_LIMIT, backlog=256))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()
        self._in_thread(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._errors:
            raise self._errors[0]

    # For the connections, in the proxy's thread

    def hold_for(self, head: bytes) -> Hold | None:
        return self._fired(Hold, head)

    def answer_for(self, head: bytes) -> Answer | None:
        return self._fired(Answer, head)

    def loses_reply(self, head: bytes) -> bool:
        return self._fired(LostReply, head) is not None

    def allowance(self, connection: Connection, direction: Direction, size: int, head: bytes) -> int | None:
        """Return how many of the next ``size`` bytes may pass before a reset; None when there is none to come."""
        passed = connection.passed[direction]
        for fault in self._set:
            if isinstance(fault, Reset) and fault.direction == direction:
                left = max(0, fault.count + fault.since.get(connection, 0) - passed)
                if left <= size and fault.fires(head):
                    self.faults[fault.kind] += 1
                    return left
        return None

    def _fired(self, kind: type[F], head: bytes) -> F | None:
        for fault in self._set:
            if isinstance(fault, kind) and fault.fires(head):
                self.faults[fault.kind] += 1
                return fault
        return None

    def _add(self, fault: F) -> F:
        self._set = [*self._set, fault]
        return fault

    async def _add_reset(self, fault: Reset) -> Reset:
        if self.raw:
            fault.since = {connection: connection.passed[fault.direction] for connection in self._open}
        return self._add(fault)

    def _in_thread(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_STEP_WITHIN)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        if self.refuse:
            self.faults["refuse"] += 1
            connection.reset()
            return
        task = asyncio.ensure_future(connection.run())
        self._open[connection] = task
        try:
            await asyncio.wait({task})
            if not task.cancelled() and isinstance(error := task.exception(), Exception):
                self._errors.append(error)
        finally:
            del self._open[connection]

    async def _reset_open(self) -> int:
        for connection in self._open:
            connection.reset()
        self.faults["reset"] += len(self._open)
        return len(self._open)

    async def _close(self) -> None:
        self._server.close()
        while self._open:
            for task in self._open.values():
                task.cancel()
            await asyncio.sleep(0.002)


def s3_error(code: str, message: str) -> bytes:
    """Return the body of an answer that tells an S3 error."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
