"""Servers on free loopback ports, and a client that costs next to nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_READY_WITHIN = 60.0
_PATIENCE = 300.0


class Client:
    """One connection that is kept, for GET requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def get(self, path: str) -> bytes:
        """Return a page's body. Raises OSError when the answer is not a 200 with a Content-Length."""
        fresh = self._socket is None
        try:
            return self._get(path)
        except ConnectionError:
            self.close()
            if fresh:
                raise
            return self._get(path)  # the server had closed the kept connection

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _get(self, path: str) -> bytes:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more(1 << 16)
        head, _, start = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if " 200 " not in status or "content-length" not in headers:
            raise OSError(f"GET {path}: {status}")
        parts, left = [start], int(headers["content-length"]) - len(start)
        while left > 0:
            parts.append(self._more(min(left, 1 << 20)))
            left -= len(parts[-1])
        if headers.get("connection") == "close":
            self.close()
        return b"".join(parts)

    def _more(self, size: int) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(size)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


@contextlib.contextmanager
def gunicorn(
    python: str, app: str, log: Path, ready: str, path: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Client]:
    """Serve an app from one process with four threads until the block ends.

    ``ready`` is a page that it has, and ``path`` a folder of modules that go before those of its environment, to which
    ``env`` is added.

    Raises RuntimeError when it does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--workers", "1", "--threads", "4", "--keep-alive", "60", "--timeout", "600", "--log-level", "warning"]
    command = [python, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *options, app]
    own = {"HOME": str(log.parent), **({"PYTHONPATH": str(path)} if path else {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **own, **(env or {})}
        )
    client = Client(port)
    try:
        _wait(process, client, ready, log)
        yield client
    finally:
        client.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], client: Client, ready: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while True:
        try:
            client.get(ready)
        except OSError as exc:
            client.close()
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not come up ({exc}): {log.read_text()[-2000:]}") from exc
            time.sleep(0.05)
        else:
            return
