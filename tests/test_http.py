"""Connections to one origin: kept, never used twice by mistake, and never believed when they break."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pkgstore.drivers.http import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Conduct = Callable[[socket.socket], None]
    Serve = Callable[[Conduct], "Server"]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
WITHIN = 10.0


class Server:
    """A server on loopback, whose conduct on each connection is a function of the socket, one thread each."""

    def __init__(self, conduct: Conduct) -> None:
        self.connections = 0
        self._conduct = conduct
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(connection)
            thread = threading.Thread(target=self._run, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._conduct(connection)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers; all end with the test."""
    with contextlib.ExitStack() as stack:

        def start(conduct: Conduct) -> Server:
            server = Server(conduct)
            stack.callback(server.end)
            return server

        yield start


def head(connection: socket.socket) -> bytes:
    """Read the head of a request; nothing when there is none to come."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(1)
        if not more:
            return b""
        data += more
    return data


def polite(connection: socket.socket) -> None:
    """Answer every request without a body."""
    while head(connection):
        connection.sendall(OK)


def answering(reply: bytes, *, close: bool = False) -> Conduct:
    def conduct(connection: socket.socket) -> None:
        while head(connection):
            connection.sendall(reply)
            if close:
                return

    return conduct


@contextlib.contextmanager
def pool_of(server: Server, timeout: float = 5.0) -> Iterator[Pool]:
    pool = Pool(server.url, timeout=timeout)
    try:
        yield pool
    finally:
        pool.close()


def get(pool: Pool) -> bytes:
    return pool.request("GET", "/", {"Host": "x"}).read()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestKept:
    def test_a_connection_serves_many_requests(self, serve: Serve) -> None:
        server = serve(polite)
        with pool_of(server) as pool:
            assert [get(pool) for _ in range(5)] == [b"hello"] * 5
        assert server.connections == 1

    def test_after_every_way_to_read_to_the_end(self, serve: Serve) -> None:
        server = serve(polite)
        with pool_of(server) as pool:
            answer = pool.request("GET", "/", {"Host": "x"})
            assert (answer.read_some(3), answer.read_some(9), answer.read_some(9)) == (b"hel", b"lo", b"")
            with pool.request("GET", "/", {"Host": "x"}).stream() as stream:
                assert stream.read() == b"hello"
            with pool.request("GET", "/", {"Host": "x"}).stream() as stream:
                buffer = bytearray(3)
                assert [stream.readinto(buffer) for _ in range(3)] == [3, 2, 0]  # type: ignore[attr-defined]
            get(pool)
        assert server.connections == 1

    def test_each_request_under_way_has_its_own(self, serve: Serve) -> None:
        server = serve(polite)
        with pool_of(server) as pool:
            answers = [pool.request("GET", "/", {"Host": "x"}) for _ in range(4)]
            assert [answer.read() for answer in answers] == [b"hello"] * 4
            assert [get(pool) for _ in range(4)] == [b"hello"] * 4
        assert server.connections == 4

    def test_answers_without_a_body(self, serve: Serve) -> None:
        server = serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))
        with pool_of(server) as pool:
            for _ in range(3):
                pool.request("HEAD", "/", {"Host": "x"}).close()
        assert server.connections == 1
        server = serve(answering(b"HTTP/1.1 204 No Content\r\n\r\n"))
        with pool_of(server) as pool:
            for _ in range(3):
                assert pool.request("DELETE", "/", {"Host": "x"}).read() == b""
        assert server.connections == 1

    def test_not_when_the_server_says_that_it_closes(self, serve: Serve) -> None:
        server = serve(answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), close=True))
        with pool_of(server) as pool:
            assert [get(pool) for _ in range(3)] == [b"hello"] * 3
        assert server.connections == 3

    def test_not_when_the_server_has_closed(self, serve: Serve) -> None:
        """Nothing is sent where nobody reads any more."""
        closed = threading.Semaphore(0)

        def conduct(connection: socket.socket) -> None:
            head(connection)
            connection.sendall(OK)
            connection.close()
            closed.release()

        server = serve(conduct)
        with pool_of(server) as pool:
            for number in range(3):
                assert get(pool) == b"hello"
                assert closed.acquire(timeout=WITHIN)
                assert len(pool._idle) == 1, number

    def test_not_when_the_server_has_sent_what_nobody_asked_for(self, serve: Serve) -> None:
        taken = threading.Event()

        def conduct(connection: socket.socket) -> None:
            while head(connection):
                connection.sendall(OK)
                taken.wait(WITHIN)
                connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

        server = serve(conduct)
        with pool_of(server) as pool:
            assert get(pool) == b"hello"
            taken.set()
            until(lambda: len(pool._idle[0][0].sock.recv(1, socket.MSG_PEEK)) == 1)
            assert get(pool) == b"hello"
        assert server.connections == 2

    def test_not_for_ever(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        server = serve(polite)
        with pool_of(server) as pool:
            get(pool)
            monkeypatch.setattr("pkgstore.drivers.http._KEPT_FOR", 0.0)
            get(pool)
        assert server.connections == 2


class TestHalfRead:
    def test_what_has_come_already_is_read_away(self, serve: Serve) -> None:
        server = serve(polite)
        with pool_of(server) as pool:
            for _ in range(3):
                answer = pool.request("GET", "/", {"Host": "x"})
                assert answer._answer.fp.peek() == b"hello"
                answer.close()
                answer.close()
            assert get(pool) == b"hello"
        assert server.connections == 1

    def test_a_long_rest_ends_the_connection(self, serve: Serve) -> None:
        server = serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000000)))
        with pool_of(server) as pool:
            answer = pool.request("GET", "/", {"Host": "x"})
            assert answer.read_some(10) == bytes(10)
            started = time.monotonic()
            answer.close()
            assert time.monotonic() - started < 1
            assert pool.request("GET", "/", {"Host": "x"}).read() == bytes(1000000)
        assert server.connections == 2

    def test_a_rest_that_does_not_come_is_not_waited_for(self, serve: Serve) -> None:
        server = serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"))
        with pool_of(server, timeout=60) as pool:
            answer = pool.request("GET", "/", {"Host": "x"})
            assert answer.read_some(3) == b"hel"
            started = time.monotonic()
            answer.close()
            assert time.monotonic() - started < 5
            pool.request("GET", "/", {"Host": "x"}).close()
        assert server.connections == 2


class TestCutOff:
    """A body that ends before its length is an error, however it is read."""

    @pytest.mark.parametrize("how", ["read", "read_some", "readinto", "stream"])
    def test_before_its_end(self, serve: Serve, how: str) -> None:
        server = serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", close=True))

        def read() -> None:
            answer = pool.request("GET", "/", {"Host": "x"})
            if how == "read":
                answer.read()
            elif how == "stream":
                with answer.stream() as stream:
                    stream.read()
            else:
                buffer = bytearray(5)
                while answer.read_some(5) if how == "read_some" else answer.readinto(buffer):
                    pass

        with pool_of(server) as pool:
            with pytest.raises((ConnectionError, http.client.IncompleteRead), match="cut off|IncompleteRead"):
                read()
            assert not pool._idle

    def test_in_a_chunk(self, serve: Serve) -> None:
        server = serve(
            answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwo", close=True)
        )
        with pool_of(server) as pool:
            with pytest.raises(http.client.IncompleteRead):
                pool.request("GET", "/", {"Host": "x"}).read()
            answer = pool.request("GET", "/", {"Host": "x"})
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                list(iter(lambda: answer.read_some(4), b""))

    def test_before_the_answer(self, serve: Serve) -> None:
        def conduct(connection: socket.socket) -> None:
            head(connection)

        server = serve(conduct)
        with pool_of(server) as pool, pytest.raises(http.client.RemoteDisconnected):
            get(pool)
        assert server.connections == 1, "nothing is sent twice"

    def test_what_is_no_http(self, serve: Serve) -> None:
        server = serve(answering(b"220 mail.example ESMTP\r\n", close=True))
        with pool_of(server) as pool, pytest.raises(http.client.BadStatusLine):
            get(pool)


class TestBodies:
    def test_arrive_whole(self, serve: Serve) -> None:
        got = []

        def conduct(connection: socket.socket) -> None:
            while request := head(connection):
                length = int(request.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                data = b""
                while len(data) < length:
                    data += connection.recv(1 << 16)
                got.append(data)
                connection.sendall(OK)

        server = serve(conduct)
        bodies = [b"", b"small", os.urandom(1 << 14), os.urandom((1 << 14) + 1), os.urandom((2 << 20) + 1)]
        with pool_of(server) as pool:
            for body in bodies:
                assert pool.request("PUT", "/", {"Host": "x"}, body).read() == b"hello"
                assert pool.request("PUT", "/", {"Host": "x"}, memoryview(body)).read() == b"hello"
                length = {"Host": "x", "Content-Length": str(len(body))}
                parts = iter([body[:3], memoryview(body)[3:]])
                assert pool.request("PUT", "/", length, parts).read() == b"hello"
        assert got == [each for body in bodies for each in (body, body, body)]
        assert server.connections == 1

    @pytest.mark.parametrize("says", [b"Connection: close\r\n", b""], ids=["says that it closes", "does not say so"])
    def test_an_early_answer_is_heard(self, serve: Serve, says: bytes) -> None:
        """A server that refuses before it has read all, and closes: what it said is what counts."""
        reply = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n" + says + b"\r\nno"
        answered = threading.Event()

        def conduct(connection: socket.socket) -> None:
            head(connection)
            connection.sendall(reply)
            connection.close()
            answered.set()

        def parts() -> Iterator[bytes]:
            for _ in range(64):
                assert answered.wait(WITHIN)
                yield bytes(1 << 16)

        server = serve(conduct)
        with pool_of(server) as pool:
            answer = pool.request("PUT", "/", {"Host": "x", "Content-Length": str(1 << 22)}, parts())
            assert (answer.status, answer.read()) == (403, b"no")
            assert not pool._idle

    def test_a_reset_while_it_is_sent(self, serve: Serve) -> None:
        def conduct(connection: socket.socket) -> None:
            head(connection)
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

        server = serve(conduct)
        with pool_of(server) as pool:
            with pytest.raises(ConnectionError):
                pool.request("PUT", "/", {"Host": "x"}, bytes(32 << 20))
            assert not pool._idle
        assert server.connections == 1

    def test_an_error_of_the_body_comes_through(self, serve: Serve) -> None:
        ended = threading.Event()

        def conduct(connection: socket.socket) -> None:
            head(connection)
            while connection.recv(1 << 16):
                pass
            ended.set()

        def parts() -> Iterator[bytes]:
            yield b"some"
            raise ZeroDivisionError

        server = serve(conduct)
        with pool_of(server) as pool:
            with pytest.raises(ZeroDivisionError):
                pool.request("PUT", "/", {"Host": "x", "Content-Length": "9"}, parts())
            assert ended.wait(WITHIN), "the request is broken off, not ended"
            assert not pool._idle


class TestTimeouts:
    def test_no_answer(self, serve: Serve) -> None:
        def conduct(connection: socket.socket) -> None:
            head(connection)
            connection.recv(1)

        server = serve(conduct)
        with pool_of(server, timeout=0.3) as pool:
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                get(pool)
            assert 0.3 <= time.monotonic() - started < 3

    def test_no_more_of_a_body(self, serve: Serve) -> None:
        server = serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"))
        with pool_of(server, timeout=0.3) as pool, pytest.raises(TimeoutError):
            get(pool)

    def test_nobody_reads_what_is_sent(self, serve: Serve) -> None:
        over = threading.Event()

        def conduct(connection: socket.socket) -> None:
            head(connection)
            over.wait(WITHIN)

        server = serve(conduct)
        try:
            with pool_of(server, timeout=0.3) as pool, pytest.raises(TimeoutError):
                pool.request("PUT", "/", {"Host": "x"}, bytes(64 << 20))
        finally:
            over.set()


class TestFork:
    def test_a_child_has_connections_of_its_own(self, serve: Serve) -> None:
        server = serve(polite)
        with pool_of(server) as pool:
            assert get(pool) == b"hello"
            _in_child(lambda: [get(pool) for _ in range(3)] == [b"hello"] * 3)
            assert server.connections == 2
            assert get(pool) == b"hello"
        assert server.connections == 2, "the parent's connection was left alone"

    def test_an_answer_belongs_to_its_process(self, serve: Serve) -> None:
        def in_child() -> bool:
            for read in (lambda: answer.read_some(1), lambda: answer.readinto(bytearray(1))):
                with pytest.raises(ConnectionError, match="belongs to the process"):
                    read()
            answer.close()
            return True

        server = serve(polite)
        with pool_of(server) as pool:
            answer = pool.request("GET", "/", {"Host": "x"})
            assert answer.read_some(2) == b"he"
            _in_child(in_child)
            assert answer.read() == b"llo"
            assert get(pool) == b"hello"
        assert server.connections == 1


def _in_child(check: Callable[[], bool]) -> None:
    """Assert that a function returns true in a forked child."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
