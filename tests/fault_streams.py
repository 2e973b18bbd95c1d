"""The connections of `tests.fault_proxy`: what passes between one client and the server, piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections import Counter
from datetime import timedelta
from email.utils import format_datetime, formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from tests.fault_proxy import Answer, FaultProxy

Direction = Literal["up", "down"]

_CHUNK = 1 << 16
HEAD_LIMIT = 1 << 18
_CHUNKED, _UNTIL_END = -1, -2


class _Ended(Exception):
    """There is nothing more to do on this connection."""


class _Silenced(Exception):
    """A black hole has swallowed something: nothing more comes of this connection."""


class Connection:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.passed: Counter[Direction] = Counter()
        """Bytes that went each way: of the running request and its reply, or of all that is plain TCP."""
        self._proxy = proxy
        self._client, self._to_client = reader, writer
        self._server: asyncio.StreamReader | None = None
        self._to_server: asyncio.StreamWriter | None = None
        self._reply_is_lost = False

    async def run(self) -> None:
        """Pass everything on, until either side closes or a fault ends it."""
        try:
            await (self._pass_plain() if self._proxy.raw else self._pass_requests())
        except _Silenced:
            self._proxy.faults["black hole"] += 1
            with contextlib.suppress(ConnectionError):
                while await self._client.read(_CHUNK):
                    pass
        except (_Ended, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for writer in (self._to_client, self._to_server):
                if writer is not None:
                    writer.close()

    def reset(self) -> None:
        """Reset both connections."""
        for writer in (self._to_client, self._to_server):
            if writer is not None and not writer.transport.is_closing():
                _abort(writer)

    async def _pass_requests(self) -> None:
        while head := await self._next_request():
            self.passed.clear()
            if hold := self._proxy.hold_for(head):
                await hold.parked()
            if answer := self._proxy.answer_for(head):
                await self._answer(head, answer)
            else:
                await self._exchange(head)

    async def _next_request(self) -> bytes:
        """Return the next request's head, or nothing when either side has closed in between."""
        if self._server is None:
            return await _read_head(self._client)
        reading = asyncio.ensure_future(_read_head(self._client))
        closing = asyncio.ensure_future(self._server.read(1))
        try:
            await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not closing.done():
                return reading.result()
            if self._proxy.black_hole:
                raise _Silenced
            return b""
        finally:
            await _cancel(reading, closing)

    async def _exchange(self, head: bytes) -> None:
        """Pass one request to the server, and its reply to the client."""
        if self._proxy.black_hole:
            raise _Silenced
        server, _ = await self._connect()
        continued = asyncio.Event()
        sending = asyncio.ensure_future(self._send(head))
        replying = asyncio.ensure_future(self._reply(head, server, continued))
        try:
            await asyncio.wait({sending, replying}, return_when=asyncio.FIRST_COMPLETED)
            if replying.done() and not sending.done() and _header(head, b"expect") and not continued.is_set():
                replying.result()
                raise _Ended  # the client need not send the body that it was not told to send
            if sending.done() and isinstance(sending.exception(), ConnectionError):
                await replying  # the server may have answered, and closed, before it had read all
            await asyncio.gather(sending, replying)
        finally:
            await _cancel(sending, replying)

    async def _send(self, head: bytes) -> None:
        _, to_server = await self._connect()
        await asyncio.sleep(self._proxy.latency)
        self._proxy.heads.append(head)
        await self._pass(to_server, head, "up", head)
        async for piece in _pieces(self._client, _length_of_request(head)):
            await self._pass(to_server, piece, "up", head)

    async def _reply(self, request: bytes, server: asyncio.StreamReader, continued: asyncio.Event) -> None:
        while True:
            head = await _read_head(server)
            if not head:
                raise _Ended
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
            continued.set()
            await self._pass(self._to_client, head, "down", request)
        if self._proxy.loses_reply(request):
            self.reset()
            raise _Ended
        await asyncio.sleep(self._proxy.latency)
        await self._pass(self._to_client, self._dated(head), "down", request)
        async for piece in _pieces(server, _length_of_reply(request, status, head)):
            await self._pass(self._to_client, piece, "down", request)

    async def _answer(self, head: bytes, answer: Answer) -> None:
        """Answer a request, once it is here as a whole."""
        expects = _header(head, b"expect")
        if not expects:
            async for _ in _pieces(self._client, _length_of_request(head)):
                pass
        await asyncio.sleep(2 * self._proxy.latency)
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        headers = {"Date": formatdate(usegmt=True), "Content-Length": str(len(answer.body)), **answer.headers}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if expects:
            lines.append("Connection: close")
        reply = self._dated("\r\n".join([*lines, "", ""]).encode())
        self._to_client.write(reply if head.startswith(b"HEAD ") else reply + answer.body)
        await self._to_client.drain()
        if expects:
            raise _Ended

    def _dated(self, head: bytes) -> bytes:
        """Return a reply's head with its `Date` put as far wrong as the proxy is told to."""
        given = _header(head, b"date")
        if not self._proxy.clock_offset or not given:
            return head
        date = parsedate_to_datetime(given.decode()) + timedelta(seconds=self._proxy.clock_offset)
        self._proxy.faults["date"] += 1
        return head.replace(given, format_datetime(date, usegmt=True).encode(), 1)

    async def _pass_plain(self) -> None:
        server, to_server = await self._connect()
        await _first(self._pump(self._client, to_server, "up"), self._pump(server, self._to_client, "down"))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        """Pass data on until its sender closes, each piece when the latency is over."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        clock = asyncio.get_running_loop().time

        async def read() -> None:
            data = b"-"
            while data:
                data = await reader.read(_CHUNK)
                await waiting.put((clock() + self._proxy.latency, data))
            await waiting.join()

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                if not data:
                    return
                await asyncio.sleep(due - clock())
                await self._pass_piece(writer, data, direction)
                waiting.task_done()

        await _first(read(), deliver())

    async def _pass_piece(self, writer: asyncio.StreamWriter, data: bytes, direction: Direction) -> None:
        if direction == "up":
            if hold := self._proxy.hold_for(data):
                await hold.parked()
            self._reply_is_lost = self._reply_is_lost or self._proxy.loses_reply(data)
        elif self._reply_is_lost:
            self.reset()
            raise _Ended
        await self._pass(writer, data, direction, data)

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes, direction: Direction, request: bytes) -> None:
        """Write one piece, or what of it a fault lets through."""
        if self._proxy.black_hole:
            raise _Silenced
        allowed = self._proxy.allowance(self, direction, len(data), request)
        self.passed[direction] += len(data)
        writer.write(data if allowed is None else data[:allowed])
        await writer.drain()
        if allowed is not None:
            await _delivered(writer)
            self.reset()
            raise _Ended

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server is None or self._to_server is None:
            self._server, self._to_server = await asyncio.open_connection(
                "127.0.0.1", self._proxy.upstream_port, limit=HEAD_LIMIT
            )
        return self._server, self._to_server


async def _delivered(writer: asyncio.StreamWriter) -> None:
    """Wait until the other side's kernel has what was written, because a reset takes back what is on its way."""
    connection: socket.socket = writer.get_extra_info("socket")
    while not writer.transport.is_closing() and (
        writer.transport.get_write_buffer_size() or any(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    ):
        await asyncio.sleep(0.001)


def _abort(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _first(*coroutines: Coroutine[None, None, None]) -> None:
    """Run coroutines until the first of them ends, as that one does."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and take note of how the others have ended, which their owner has looked at."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Return a request's or reply's head with its empty line, or nothing at the end of the connection."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return b""


def _header(head: bytes, name: bytes) -> bytes:
    """Return a header's value, or nothing."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""


def _length_of_request(head: bytes) -> int:
    if _header(head, b"transfer-encoding").lower() == b"chunked":
        return _CHUNKED
    return int(_header(head, b"content-length") or 0)


def _length_of_reply(request: bytes, status: int, head: bytes) -> int:
    if request.startswith(b"HEAD ") or status in (204, 304):
        return 0
    if _header(head, b"transfer-encoding").lower() == b"chunked":
        return _CHUNKED
    return int(_header(head, b"content-length") or _UNTIL_END)


async def _pieces(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    """Yield a body, as it is on the wire."""
    if length == _UNTIL_END:
        while piece := await reader.read(_CHUNK):
            yield piece
        raise _Ended
    if length != _CHUNKED:
        while length:
            piece = await reader.read(min(_CHUNK, length))
            if not piece:
                raise asyncio.IncompleteReadError(b"", length)
            length -= len(piece)
            yield piece
        return
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        yield line
        if size:
            yield await reader.readexactly(size + 2)
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        yield line
