"""Servers for tests: real processes on free loopback ports, ended by their process id whatever happens."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import time
import warnings
from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from wsgiref.util import setup_testing_defaults

from tests.packages import form, upload_form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

with warnings.catch_warnings():
    # pypiserver imports modules of the standard library that are deprecated, and leaves an import hook of an old kind
    # behind, which warns at every import that fails from then on.
    warnings.simplefilter("ignore")
    from pkgstore.integrations import pypiserver
    from pkgstore.integrations.pypiserver import create_app

    sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]

__all__ = [
    "Answer",
    "Server",
    "call",
    "create_app",
    "gunicorn",
    "key_of",
    "path_of",
    "peak_memory",
    "pkgstore_app",
    "pypiserver",
    "serve",
    "until",
]  # fmt: skip

_READY_WITHIN = 60.0
_ENDED_WITHIN = 20.0
_HREF = re.compile(r'href="([^"]*)"[^>]*>([^<]*)<')


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def links(self) -> dict[str, str]:
        """The page's links: addresses by the text that is shown for them."""
        return {text: address for address, text in _HREF.findall(self.text)}


@dataclass(frozen=True)
class Server:
    """A server that runs. ``log`` is the file that holds what it printed."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        user: str | None = None,
    ) -> Answer:
        """Send one request, on a connection of its own. ``user`` is `name:password`. Redirects are not followed."""
        headers = dict(headers or {})
        if user is not None:
            headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, _Headers(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None, **options: str) -> Answer:
        return self.request("GET", path, headers, **options)  # type: ignore[arg-type]

    def upload(self, filename: str, data: bytes, *, agent: str = "", user: str | None = None, **fields: str) -> Answer:
        """Upload a file, as twine does. ``agent`` is what the client calls itself."""
        headers, body = upload_form(filename, data, **fields)
        return self.request("POST", "/", headers | {"User-Agent": agent}, body, user=user)

    def remove(self, name: str, version: str) -> Answer:
        headers, body = form({":action": "remove_pkg", "name": name, "version": version})
        return self.request("POST", "/", headers, body)

    def files(self, project: str, base: str = "") -> dict[str, str]:
        """Return the files on a project's page: their paths on this server, with fragment, by file name."""
        answer = self.get(f"{base}/simple/{project}/")
        assert answer.status in (200, 303, 404), answer
        return answer.links if answer.status == 200 else {}

    def workers(self) -> list[int]:
        """Return the process ids of a gunicorn's workers."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class _Headers(dict[str, str]):
    """Headers by name, in any case."""

    def __init__(self, items: list[tuple[str, str]]) -> None:
        super().__init__((name.lower(), value) for name, value in items)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        return super().get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())


@contextlib.contextmanager
def gunicorn(
    app: str, log: Path, *options: str, workers: int = 2, ready: str = "/health", path: Path | None = None
) -> Iterator[Server]:
    """Run an app, given as gunicorn wants it: `module:function("argument")`. ``path`` is where its module lies."""

    def command(port: int) -> list[str]:
        start = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
        return [*start, *(["--pythonpath", str(path)] if path else []), *options, app]

    with running(command, log, ready=ready) as server:
        until(lambda: len(server.workers()) == workers)
        yield server


def pkgstore_app(store: Path | str, *arguments: str, anonymous: bool = True) -> str:
    """Return gunicorn's name of pypiserver over a store. It asks for no passwords, unless ``anonymous`` is off."""
    given = [f"file://{store}" if isinstance(store, Path) else store, *(("-a", ".", "-P", ".") if anonymous else ())]
    return f"pkgstore.integrations.pypiserver:create_app({', '.join(map(repr, (*given, *arguments)))})"


@contextlib.contextmanager
def serve(store: Path | str, log: Path, *options: str, ready: str = "/health", **env: str) -> Iterator[Server]:
    """Run `pkgstore serve` on a store, without its command line."""

    def command(port: int) -> list[str]:
        code = "import sys; from pkgstore.integrations.pypiserver import serve; serve(sys.argv[1], sys.argv[2:])"
        return [sys.executable, "-c", code, str(store), "-i", "127.0.0.1", "-p", str(port), *options]

    with running(command, log, ready=ready, env=env) as server:
        yield server


@contextlib.contextmanager
def running(
    command: Callable[[int], list[str]], log: Path, *, ready: str, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server until the block ends, with its log's folder as its home. ``ready`` is a path that then answers."""
    for _ in range(5):
        port = _free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": str(log.parent), **(env or {})},
            )
        server = Server(process, port, log)
        try:
            if _wait_until_ready(server, ready):
                yield server
                return
        finally:
            _end(process)
    raise AssertionError(f"the server could not have any of five ports:\n{log.read_text()}")


def call(app: Any, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """Send one request to a WSGI app in this process. Raises what cuts its answer short."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": io.BytesIO(body)}
    setup_testing_defaults(environ)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        variable = name.upper().replace("-", "_")
        environ[variable if variable.startswith("CONTENT_") else f"HTTP_{variable}"] = value
    started: list[tuple[str, list[tuple[str, str]]]] = []
    chunks = app(environ, lambda status, items, _exc=None: started.append((status, items)))
    try:
        data = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, items = started[-1]
    return Answer(int(status.split()[0]), _Headers(items), data)


def until(condition: Callable[[], object], within: float = 30.0) -> None:
    """Wait until a condition holds. Raises AssertionError when it never does."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)


def peak_memory(process: int) -> int:
    """Return the most memory that a process has had so far, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def path_of(link: str) -> str:
    """Return the path of a link without its fragment, to be asked for."""
    return link.partition("#")[0]


def key_of(link: str) -> str:
    """Return the key that a link to a file leads to."""
    return unquote(path_of(link).partition("/packages/")[2])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: Server, path: str) -> bool:
    """Return whether the server has its port. Raises AssertionError when it failed for another reason."""
    deadline = time.monotonic() + _READY_WITHIN
    while True:
        if server.process.poll() is not None:
            output = server.log.read_text()
            assert "Address already in use" in output or "in use" in output, f"the server ended:\n{output}"
            return False
        with contextlib.suppress(OSError, HTTPException):
            if server.get(path).status < 500:
                return True
        assert time.monotonic() < deadline, f"the server did not get ready:\n{server.log.read_text()}"
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_ENDED_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
