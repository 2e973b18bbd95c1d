"""The fault proxy does what it is told, and counts it."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.fault_proxy import FaultProxy, s3_error
from tests.servers import until

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


class Origin(ThreadingHTTPServer):
    """A server that keeps what is put, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kept: dict[str, bytes] = {}
        self.cut = 0
        self.asked: list[str] = []
        self.connections: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *request: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*request)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Origin

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        length = int(self.headers["Content-Length"])
        if self.path == "/early":
            self._reply(b"", 403)
        try:
            body = self.rfile.read(length)
        except ConnectionResetError:
            body = b""
        if len(body) < length:
            self.server.cut += 1
            self.close_connection = True
            return
        self.server.kept[self.path] = body
        if self.path != "/early":
            self._reply(b"")

    def do_POST(self) -> None:
        """Send a chunked body back, as it is on the wire."""
        lines = [b""]
        while lines[-2:] != [b"0\r\n", b"\r\n"]:
            lines.append(self.rfile.readline())
        self._reply(b"".join(lines))

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.server.kept[self.path]
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            half = len(body) // 2
            for piece in (body[:half], body[half:]):
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/to-the-end":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True
        else:
            self._reply(body)
            self.close_connection = self.path == "/and-close"

    def handle_expect_100(self) -> bool:
        if self.path == "/unwelcome":
            self._reply(b"", 417)
            return False
        return super().handle_expect_100()

    do_HEAD = do_GET  # noqa: N815

    def date_time_string(self, timestamp: float | None = None) -> str:
        return _DATE

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(origin: Origin) -> Iterator[FaultProxy]:
    with FaultProxy(origin.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[HTTPConnection]:
    with contextlib.closing(HTTPConnection("127.0.0.1", proxy.port, timeout=20)) as connection:
        yield connection


def ask(client: HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str) -> HTTPResponse:
    """Send a request, and read the reply to its end; then its body is at ``.text``."""
    client.request(method, path, body, headers)
    response = client.getresponse()
    response.text = response.read()  # type: ignore[attr-defined]
    return response


def put(client: HTTPConnection, path: str = "/a", body: bytes = b"1") -> int:
    return ask(client, "PUT", path, body).status


def get(client: HTTPConnection, path: str = "/a") -> bytes:
    return ask(client, "GET", path).text  # type: ignore[attr-defined]


def seconds(client: HTTPConnection) -> float:
    start = time.monotonic()
    get(client)
    return time.monotonic() - start


def test_without_faults_all_passes_on_one_connection(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    body = random.Random(1).randbytes(3_000_001)
    assert put(client, "/a", body) == 200
    first = client.sock
    assert origin.kept["/a"] == body
    assert get(client) == body
    assert ask(client, "HEAD", "/a").headers["Content-Length"] == "3000001"
    origin.kept["/chunked"] = body
    assert get(client, "/chunked") == body
    assert client.sock is first
    assert proxy.requests == {("PUT", "/a"): 1, ("GET", "/a"): 1, ("HEAD", "/a"): 1, ("GET", "/chunked"): 1}
    assert proxy.count(rb"^GET ") == 2
    assert proxy.heads[0].startswith(b"PUT /a HTTP/1.1\r\n")
    assert not proxy.faults


def test_a_server_that_closes_closes_the_clients_connection(
    origin: Origin, client: HTTPConnection, proxy: FaultProxy
) -> None:
    origin.kept |= {"/to-the-end": b"12345", "/and-close": b"123"}
    assert get(client, "/to-the-end") == b"12345"
    assert get(client, "/and-close") == b"123"
    assert client.sock.recv(1) == b""
    assert proxy.requests.total() == 2


def test_chunked_requests_pass(proxy: FaultProxy, client: HTTPConnection) -> None:
    for _ in range(2):
        client.request("POST", "/a", iter([b"12", b"345"]), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        with client.getresponse() as response:
            assert response.read() == b"2\r\n12\r\n3\r\n345\r\n0\r\n\r\n"
    assert proxy.requests == {("POST", "/a"): 2}


def test_an_answer_to_a_request_that_is_still_being_sent_passes(client: HTTPConnection, proxy: FaultProxy) -> None:
    for _ in range(2):
        assert put(client, "/early", bytes(5_000_000)) == 403
    assert proxy.requests == {("PUT", "/early"): 2}


def test_latency(client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client, "/a", bytes(1_000_000))
    proxy.latency = 0.1
    assert seconds(client) >= 0.2
    proxy.slow_down()
    assert seconds(client) >= 0.2
    proxy.clear()
    assert proxy.latency == 0


def test_reset_in_the_middle_of_a_request(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    fault = proxy.reset_after("up", 100_000, rb"^PUT /b", times=1)
    assert put(client, "/a", bytes(200_000)) == 200
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        put(client, "/b", bytes(5_000_000))
    until(lambda: origin.cut == 1)
    assert "/b" not in origin.kept
    client.close()
    assert put(client, "/b", bytes(200_000)) == 200
    assert fault.fired == proxy.faults["reset"] == 1


def test_reset_in_the_middle_of_a_reply(client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client, "/a", bytes(5_000_000))
    fault = proxy.reset_after("down", 1_000_000)
    for _ in range(2):
        client.request("GET", "/a")
        response = client.getresponse()
        received: list[bytes] = []
        with pytest.raises(ConnectionResetError):
            received.extend(iter(lambda answer=response: answer.read1(10_000), b""))
        head = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in response.getheaders()), "", ""]
        assert sum(map(len, received)) == 1_000_000 - len("\r\n".join(head))
        client.close()
    assert fault.fired == 2
    fault.stop()
    assert len(get(client)) == 5_000_000


def test_a_shorter_reply_is_not_reset(client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client, "/a", bytes(1000))
    fault = proxy.reset_after("down", 10_000, times=1)
    for _ in range(20):
        assert len(get(client)) == 1000
    assert fault.fired == 0


def test_reset_before_a_request_reaches_the_server(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    proxy.reset_after("up", 0)
    with pytest.raises(ConnectionResetError):
        put(client)
    assert origin.asked == []


def test_lost_reply(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    fault = proxy.lose_reply(rb"^PUT /b ", times=2)
    assert put(client, "/a") == 200
    for number in (1, 2):
        with pytest.raises((ConnectionResetError, RemoteDisconnected)):
            put(client, "/b", b"%d" % number)
        assert origin.kept["/b"] == b"%d" % number
        client.close()
    assert put(client, "/b") == 200
    assert fault.fired == proxy.faults["lost reply"] == 2
    assert proxy.requests["PUT", "/b"] == 3


def test_100_continue_is_no_reply_that_could_be_lost(origin: Origin, proxy: FaultProxy) -> None:
    proxy.lose_reply()
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
        sock.sendall(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert b" 100 Continue" in sock.recv(1000)
        sock.sendall(b"abc")
        with pytest.raises(ConnectionResetError):
            sock.recv(1000)
    assert origin.kept == {"/a": b"abc"}


def test_black_hole(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client)
    proxy.black_hole = True
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        put(client, "/b", bytes(5_000_000))
    with socket.create_connection(("127.0.0.1", proxy.port), 0.2) as sock:
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(TimeoutError):
            sock.recv(1)
    proxy.black_hole = False
    assert origin.asked == ["PUT /a"]
    client.close()
    assert get(client) == b"1"
    until(lambda: proxy.faults["black hole"] == 2)


def test_a_black_hole_hides_that_the_server_closes(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client)
    proxy.black_hole = True
    origin.connections[0].shutdown(socket.SHUT_RDWR)
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    assert proxy.faults == {"black hole": 1}


def test_refused_connections(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    proxy.refuse = True
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        put(client)
    assert proxy.faults["refuse"] == 1
    proxy.refuse = False
    client.close()
    assert put(client) == 200
    assert origin.asked == ["PUT /a"]


def test_slow_down(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    proxy.slow_down(times=2)
    for _ in range(2):
        answer = ask(client, "PUT", "/a", bytes(2_000_000))
        assert (answer.status, answer.reason) == (503, "Service Unavailable")
        assert b"<Code>SlowDown</Code>" in answer.text  # type: ignore[attr-defined]
    first = client.sock
    assert put(client) == 200
    assert client.sock is first
    assert origin.asked == ["PUT /a"]
    assert proxy.faults["answer"] == 2
    assert proxy.requests == {("PUT", "/a"): 1}


def test_slow_down_for_a_fraction(client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client)
    fault = proxy.slow_down(fraction=0.3, rng=random.Random(7))
    statuses = [ask(client, "GET", "/a").status for _ in range(100)]
    draws = random.Random(7)
    assert statuses == [503 if draws.random() < 0.3 else 200 for _ in range(100)]
    assert fault.fired == statuses.count(503) > 10


def test_a_canned_answer(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    body = s3_error("ExpiredToken", "The provided token has expired.")
    proxy.answer(400, body, rb"(?is)^GET /a .*\r\nx-given: 1\r\n", headers={"x-amz-request-id": "7"})
    put(client)
    answer = ask(client, "GET", "/a", **{"X-Given": "1"})
    assert (answer.status, answer.headers["x-amz-request-id"]) == (400, "7")
    assert answer.text == body  # type: ignore[attr-defined]
    assert get(client) == b"1"
    proxy.answer(403, body, lambda head: head.startswith(b"HEAD "))
    assert ask(client, "HEAD", "/a").status == 403
    assert origin.asked == ["PUT /a", "GET /a"]


def test_a_canned_answer_instead_of_100_continue(proxy: FaultProxy) -> None:
    proxy.slow_down()
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock, sock.makefile("rb") as file:
        sock.sendall(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        answer = file.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nConnection: close\r\n" in answer


def test_an_answer_instead_of_100_continue_ends_the_connection(proxy: FaultProxy) -> None:
    """Whether the client still sends the body is its choice, so that nobody knows where its next request starts."""
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock, sock.makefile("rb") as file:
        sock.sendall(b"PUT /unwelcome HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert file.read().startswith(b"HTTP/1.1 417 ")


def test_wrong_clock(client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client)
    right = parsedate_to_datetime(_DATE)
    proxy.clock_offset = -3600
    assert (right - parsedate_to_datetime(ask(client, "GET", "/a").headers["Date"])).total_seconds() == 3600
    assert proxy.faults["date"] == 1
    proxy.slow_down()
    wrong = parsedate_to_datetime(ask(client, "GET", "/a").headers["Date"])
    proxy.clock_offset = 0
    assert 3590 < (parsedate_to_datetime(ask(client, "GET", "/a").headers["Date"]) - wrong).total_seconds() < 3660
    proxy.clear()
    assert ask(client, "GET", "/a").headers["Date"] == _DATE


def test_held_requests(origin: Origin, client: HTTPConnection, proxy: FaultProxy) -> None:
    hold = proxy.hold(rb"^PUT /b ")
    threads = [threading.Thread(target=put_alone, args=(proxy, b"%d" % number)) for number in range(3)]
    for thread in threads:
        thread.start()
    hold.wait(3)
    assert put(client, "/a") == 200
    assert origin.asked == ["PUT /a"]
    assert proxy.count(rb"^PUT /b ") == 0
    hold.release()
    for thread in threads:
        thread.join()
    assert put(client, "/b") == 200
    assert proxy.requests == {("PUT", "/a"): 1, ("PUT", "/b"): 4}
    assert hold.fired == proxy.faults["hold"] == 3


def put_alone(proxy: FaultProxy, body: bytes) -> None:
    with contextlib.closing(HTTPConnection("127.0.0.1", proxy.port, timeout=20)) as connection:
        put(connection, "/b", body)


def test_a_held_request_goes_although_its_client_has_gone(origin: Origin, proxy: FaultProxy) -> None:
    hold = proxy.hold()
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
        sock.sendall(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        hold.wait()
    assert origin.asked == []
    hold.release()
    until(lambda: origin.kept == {"/a": b"abc"})


def test_reset_all(client: HTTPConnection, proxy: FaultProxy) -> None:
    put(client)
    assert proxy.reset_all() == 1
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        put(client)
    client.close()
    assert put(client) == 200
    assert proxy.faults["reset"] == 1


def test_an_end_in_the_middle_leaves_nothing(origin: Origin) -> None:
    before = threading.active_count()
    with FaultProxy(origin.port) as proxy:
        hold = proxy.hold()
        sock = socket.create_connection(("127.0.0.1", proxy.port), 20)
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        hold.wait()
    with sock, contextlib.suppress(ConnectionResetError):
        while sock.recv(1000):
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), 20)
    until(lambda: threading.active_count() == before)


class TestRaw:
    """Plain TCP: what is sent is none of the proxy's business."""

    @pytest.fixture
    def echo(self) -> Iterator[int]:
        """Yield the port of a server that sends everything back."""

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    threading.Thread(target=answer, args=(peer,), daemon=True).start()

        def answer(peer: socket.socket) -> None:
            with peer, contextlib.suppress(ConnectionError):
                while data := peer.recv(1 << 16):
                    peer.sendall(data)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve)
            thread.start()
            yield listener.getsockname()[1]
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()

    @pytest.fixture
    def proxy(self, echo: int) -> Iterator[FaultProxy]:
        with FaultProxy(echo, raw=True) as proxy:
            yield proxy

    @pytest.fixture
    def sock(self, proxy: FaultProxy) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
            yield sock

    @staticmethod
    def echoed(sock: socket.socket, data: bytes) -> bytes:
        received = bytearray()
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        try:
            while len(received) < len(data):
                piece = sock.recv(1 << 16)
                assert piece
                received += piece
        finally:
            sender.join()
        return bytes(received)

    def test_all_passes(self, sock: socket.socket, proxy: FaultProxy) -> None:
        data = random.Random(2).randbytes(5_000_000)
        assert self.echoed(sock, data) == data
        assert not proxy.faults

    def test_a_closed_connection_is_closed_on_the_other_side(self, sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""

    def test_latency_delays_each_piece_once(self, sock: socket.socket, proxy: FaultProxy) -> None:
        proxy.latency = 0.1
        start = time.monotonic()
        self.echoed(sock, bytes(2_000_000))
        assert 0.2 <= time.monotonic() - start < 3

    def test_a_reset_counts_from_when_it_was_set(self, sock: socket.socket, proxy: FaultProxy) -> None:
        self.echoed(sock, bytes(1000))
        fault = proxy.reset_after("down", 1000)
        self.echoed(sock, bytes(999))
        sock.sendall(bytes(1000))
        received: list[bytes] = []
        with pytest.raises(ConnectionResetError):
            received.extend(iter(lambda: sock.recv(1000), b""))
        assert sum(map(len, received)) == 1
        assert fault.fired == 1

    def test_lost_reply(self, sock: socket.socket, proxy: FaultProxy) -> None:
        proxy.lose_reply(b"^lose")
        assert self.echoed(sock, b"keep") == b"keep"
        sock.sendall(b"lose")
        with pytest.raises(ConnectionResetError):
            sock.recv(10)
        assert proxy.faults == {"lost reply": 1}

    def test_hold_and_black_hole(self, sock: socket.socket, proxy: FaultProxy) -> None:
        hold = proxy.hold(b"^later")
        sock.sendall(b"later")
        hold.wait()
        hold.release()
        assert sock.recv(10) == b"later"
        proxy.black_hole = True
        sock.settimeout(0.2)
        sock.sendall(b"never")
        with pytest.raises(TimeoutError):
            sock.recv(10)
        assert proxy.faults == {"hold": 1, "black hole": 1}
