"""HTTP/1.1 to one origin: kept connections, one request at a time on each, nothing ever sent twice.

What drivers of object storage share. Who calls knows what may be repeated, and does that; a request that failed here
may have taken effect. Errors are those of the standard library: `OSError` (`TimeoutError` when the other side stands
still) and `http.client.HTTPException`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

    from typing_extensions import Buffer

    BodyPart: TypeAlias = bytes | memoryview

_LONGEST_CONNECT = 10.0
_KEPT = 64
_KEPT_FOR = 45.0
_SENT_AT_ONCE = 1 << 17  # bytes, for which the timeout is that of one step
_JOINED_UP_TO = 1 << 14
_DRAINED_UP_TO = 1 << 16


class Pool:
    """Connections to one origin, made when needed and kept for the next request.

    Safe to share between threads, and in children after fork, which make connections of their own. ``timeout`` is how
    long the other side may stand still, in seconds, while connecting, sending or receiving.
    """

    def __init__(self, base: str, *, timeout: float, ssl_context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(base)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.timeout = timeout
        self._secure = parts.scheme == "https"
        self._context = ssl_context
        self._idle: deque[tuple[http.client.HTTPConnection, float]] = deque()
        self._pid = os.getpid()
        self._closed = False

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: BodyPart | Iterable[BodyPart] = b"",
    ) -> Response:
        """Send one request, and return the answer once its head is there.

        ``headers`` must hold ``Host``; a ``Content-Length`` is added for a body that is bytes.
        """
        return self.begin(method, target, headers, body).answer()

    def begin(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: BodyPart | Iterable[BodyPart] = b"",
    ) -> Pending:
        """Send one request, and return what its answer will come from."""
        connection = self._take()
        pending = Pending(self, connection)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            whole = body if isinstance(body, (bytes, memoryview)) else None
            if whole is not None and (len(whole) or method in ("PUT", "POST")) and "Content-Length" not in headers:
                connection.putheader("Content-Length", str(len(whole)))
            if whole is not None and len(whole) <= _JOINED_UP_TO:
                connection.endheaders(bytes(whole) or None)
                return pending
            connection.endheaders()
        except BaseException:
            connection.close()
            raise
        parts: Iterable[BodyPart] = body if whole is None else (whole,)  # type: ignore[assignment]
        pending.send(parts)
        return pending

    def close(self) -> None:
        """Close the connections that are not in use; the others follow when they are given back."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop()[0].close()

    def _take(self) -> http.client.HTTPConnection:
        if self._pid != os.getpid():
            inherited, self._idle, self._pid = self._idle, deque(), os.getpid()
            for connection, _ in inherited:
                connection.close()  # the parent's descriptor stays open
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                break
            if time.monotonic() - since < _KEPT_FOR and _is_quiet(connection):
                connection.sock.settimeout(self.timeout)
                return connection
            connection.close()
        limit = min(self.timeout, _LONGEST_CONNECT)
        if self._secure:
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=limit, context=self._context)
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=limit)
        connection.connect()
        connection.sock.settimeout(self.timeout)
        return connection

    def _give_back(self, connection: http.client.HTTPConnection, pid: int) -> None:
        ours = pid == os.getpid() == self._pid
        if self._closed or not ours or connection.sock is None or len(self._idle) >= _KEPT:
            connection.close()
        else:
            self._idle.append((connection, time.monotonic()))


class Pending:
    """A request whose body is being sent, or whose answer is awaited."""

    def __init__(self, pool: Pool, connection: http.client.HTTPConnection) -> None:
        self._pool = pool
        self._connection = connection
        self._broken: OSError | None = None

    def send(self, parts: Iterable[BodyPart]) -> None:
        """Send more of the body. What the parts themselves raise comes through, and ends the request."""
        try:
            for part in parts:
                if self._broken is None:
                    self._send(part)
        except BaseException:
            self.abandon()
            raise

    def _send(self, part: BodyPart) -> None:
        try:
            for piece in _pieces(part):
                self._connection.sock.sendall(piece)
        except TimeoutError:
            raise
        except OSError as exc:
            # A server that refuses early answers, and closes: its answer may be there to be read.
            self._broken = exc

    def answer(self) -> Response:
        """Return the answer, once its head is there."""
        try:
            found = self._connection.getresponse()
        except BaseException as exc:
            self.abandon()
            if self._broken is not None and isinstance(exc, (OSError, http.client.HTTPException)):
                raise self._broken from None
            raise
        if self._broken is not None:
            found.will_close = True
        return Response(self._pool, self._connection, found)

    def abandon(self) -> None:
        """Break the connection off."""
        self._connection.close()


class Response:
    """An answer, whose body is still to be read. It must be read to its end, or closed."""

    def __init__(self, pool: Pool, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        self._pool = pool
        self._connection: http.client.HTTPConnection | None = connection
        self._answer = answer
        self._pid = os.getpid()
        self.status = answer.status
        self.headers = answer.headers
        if answer.isclosed():  # there is no body
            self._release()

    def read(self) -> bytes:
        """Return the whole body."""
        try:
            data = self._answer.read()
        except BaseException:
            self.close()
            raise
        self._release()
        return data

    def read_some(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body; empty at its end. Raises `ConnectionError` when it is cut short."""
        self._check_process()
        try:
            data = self._answer.read(size)
            if not data and size:
                self._check_whole()
        except BaseException:
            self.close()
            raise
        if self._answer.isclosed() or self._answer.length == 0:
            self._release()
        return data

    def readinto(self, buffer: Buffer) -> int:
        """Read into ``buffer``; return how many bytes, 0 at the end of the body."""
        self._check_process()
        try:
            count = self._answer.readinto(buffer)
            if not count and len(memoryview(buffer)):
                self._check_whole()
        except BaseException:
            self.close()
            raise
        if self._answer.isclosed() or self._answer.length == 0:
            self._release()
        return count

    def stream(self) -> Stream:
        """Return the body as an unbuffered binary stream."""
        return Stream(self)

    def close(self) -> None:
        """Let go of the connection: it is kept when little of the body is left, and broken off otherwise."""
        if self._connection is None:
            return
        if self._may_be_drained():
            self._connection.sock.settimeout(0)  # only what has come already
            with contextlib.suppress(OSError):
                left = bytearray(self._answer.length or 0)
                if self._answer.readinto(left) == len(left):
                    self._release()
                    return
        connection, self._connection = self._connection, None
        self._answer.close()
        connection.close()

    def _may_be_drained(self) -> bool:
        left = self._answer.length
        usable = self._pid == os.getpid() and not self._answer.will_close and not self._answer.isclosed()
        return usable and left is not None and left <= _DRAINED_UP_TO

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._answer.close()
        if self._answer.will_close:
            connection.close()
        else:
            self._pool._give_back(connection, self._pid)

    def _check_whole(self) -> None:
        if self._answer.length:
            raise ConnectionError(f"the answer was cut off, {self._answer.length} bytes before its end")

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ConnectionError("the answer belongs to the process that forked this one")


class Nothing(io.RawIOBase):
    """A stream that stands at its end."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        return 0


class Stream(io.RawIOBase):
    """The body of an answer."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self._response = response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        return self._response.readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        return self._response.read_some(size)

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether nothing has come on an idle connection: neither its end nor bytes that nobody asked for."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return not poll.poll(0)


def _pieces(whole: BodyPart) -> Iterable[memoryview]:
    view = memoryview(whole)
    for start in range(0, len(view), _SENT_AT_ONCE):
        yield view[start : start + _SENT_AT_ONCE]
