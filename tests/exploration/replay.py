"""Real verbs of a real store, run against a script of answers, in a time of their own.

What a verb does next depends on nothing but the answers it has had. So a verb at some point of its run is the list of
these answers: it is run again from its start to find out what it asks after one more. Every list is run once.
"""

from __future__ import annotations

import hashlib
import io
import logging
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from pkgstore import StoreError, calls
from pkgstore.drivers.gcs import client as gcs_client
from pkgstore.drivers.gcs import uploads as gcs_uploads
from pkgstore.drivers.s3 import bucket as s3_bucket
from pkgstore.drivers.s3 import multipart as s3_multipart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pkgstore import Store

_LEFT_OUT = {"Host", "Accept-Encoding", "User-Agent"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its whole body. ``headers`` are sorted."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes of a request, ``elapsed`` seconds after it was sent.

    With ``status`` 0 the connection broke; with ``cut`` it broke within the body of the answer.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    cut: bool = False
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a verb ended: ``told`` is `done`, or the name of the error; ``value`` is what it returned, or the message."""

    told: str
    value: Any = None


class _Unscripted(BaseException):
    """Ends a replay where the verb would wait for an answer that is not in its script."""


class Stage:
    """Where verbs are replayed, one at a time: its clock, its chance, and what stands in for the network."""

    def __init__(self) -> None:
        self._name = ""
        self._now = 0.0
        self._script: tuple[tuple[Request, Reply], ...] = ()
        self._at = 0
        self._asked: Request | None = None

    def run(
        self, name: str, verb: Callable[[Store], Any], open_store: Callable[[], Store], script: tuple[Any, ...]
    ) -> Request | Outcome:
        """Run a verb with the answers of ``script``; return the request that comes after them, or how it ended."""
        self._name, self._now, self._script, self._at, self._asked = name, 0.0, script, 0, None
        try:
            outcome = Outcome("done", verb(open_store()))
        except _Unscripted:
            assert self._asked is not None
            return self._asked
        except StoreError as exc:
            outcome = Outcome(type(exc).__name__, str(exc))
        assert self._asked is None, "a verb took the end of its replay for an error"
        assert self._at == len(script), "a verb is not repeatable: it asked less than before"
        return outcome

    def answer(self, request: Request) -> Reply:
        if self._asked is not None or self._at == len(self._script):
            self._asked = self._asked or request
            raise _Unscripted
        before, reply = self._script[self._at]
        assert before == request, f"a verb is not repeatable: it asked {before} before, and now {request}"
        self._at += 1
        self._now += reply.elapsed
        return reply

    # -- in the place of modules --------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    def urandom(self, size: int) -> bytes:
        return token_of(self._name)[:size]

    def token_hex(self, size: int) -> str:
        return token_of(self._name)[:size].hex()

    def event(self) -> Any:
        """A `threading.Event` that nobody sets while one waits."""
        stage = self

        class Event:
            def __init__(self) -> None:
                self._set = False

            def set(self) -> None:
                self._set = True

            def wait(self, seconds: float) -> bool:
                stage.sleep(0 if self._set else seconds)
                return self._set

        return Event()


def token_of(name: str) -> bytes:
    """Return the token by which the verb of that name publishes."""
    return hashlib.sha256(name.encode()).digest()[:16]


@contextmanager
def stage() -> Iterator[Stage]:
    """Replace what is not repeatable in the store and the drivers, and yield where to replay them."""
    made = Stage()
    clock = SimpleNamespace(monotonic=made.monotonic, time=made.monotonic, sleep=made.sleep)
    chance = SimpleNamespace(uniform=lambda low, high: high)
    with pytest.MonkeyPatch.context() as patch:
        for module in (calls, s3_multipart, gcs_uploads):
            patch.setattr(module, "time", clock)
            patch.setattr(module, "random", chance)
        patch.setattr(calls, "os", SimpleNamespace(urandom=made.urandom))
        patch.setattr(gcs_uploads, "secrets", SimpleNamespace(token_hex=made.token_hex))
        patch.setattr(s3_multipart, "threading", SimpleNamespace(Event=made.event))
        patch.setattr(s3_multipart, "ThreadPoolExecutor", _AtOnce)
        for network in (s3_bucket, gcs_client):
            patch.setattr(network, "Pool", lambda *args, **kwargs: _Wire(made))
        log = logging.getLogger("pkgstore")
        patch.setattr(log, "disabled", True)
        yield made


class _AtOnce:
    """A pool of threads that does everything when it is asked to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as exc:  # noqa: BLE001 - raised by whoever asks for the result
            future.set_exception(exc)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class _Wire:
    """Has the methods of `pkgstore.drivers.http.Pool`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] = b"", **kwargs: Any
    ) -> _Response:
        return self.begin(method, target, headers, body, **kwargs).answer()

    def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] = b"", **kwargs: Any
    ) -> _Pending:
        kept = tuple(sorted((name, value) for name, value in headers.items() if name not in _LEFT_OUT))
        whole = bytes(body) if isinstance(body, (bytes, memoryview)) else b"".join(body)
        return _Pending(self._stage.answer(Request(method, target, kept, whole)))

    def close(self) -> None:
        pass


class _Pending:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def answer(self) -> _Response:
        if self._reply.status == 0:
            raise ConnectionResetError("the connection broke")
        return _Response(self._reply)


class _Response:
    """Has the methods of `pkgstore.drivers.http.Response`."""

    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = Message()
        for name, value in reply.headers:
            self.headers[name] = value
        self._reply = reply

    def read(self) -> bytes:
        if self._reply.cut:
            raise ConnectionResetError("the connection broke")
        return self._reply.body

    def stream(self) -> io.BytesIO:
        return io.BytesIO(self.read())

    def close(self) -> None:
        pass


@dataclass(slots=True)
class _Node:
    next: Request | Outcome
    script: tuple[tuple[Request, Reply], ...]
    after: dict[Reply, int] = field(default_factory=dict)


class Verb:
    """One call of a store, by whoever is called ``name``.

    ``body`` is what it publishes, None when it does not; ``exclusive`` whether it may only publish where nothing is.
    Where it stands is a number; it begins at 0.
    """

    def __init__(
        self,
        stage: Stage,
        open_store: Callable[[], Store],
        name: str,
        call: Callable[[Store], Any],
        body: bytes | None,
        *,
        exclusive: bool,
    ) -> None:
        self.name = name
        self.token = token_of(name).hex() if body is not None else ""
        self.body = body
        self.exclusive = exclusive
        self._stage = stage
        self._open_store = open_store
        self._call = call
        self._nodes: list[_Node] = []
        self._add(())

    def next(self, at: int) -> Request | Outcome:
        """Return what it does there: the request it sends, or how it ended."""
        return self._nodes[at].next

    def after(self, at: int, reply: Reply) -> int:
        """Return where it stands once it has had this answer."""
        node = self._nodes[at]
        if reply not in node.after:
            assert isinstance(node.next, Request)
            node.after[reply] = self._add((*node.script, (node.next, reply)))
        return node.after[reply]

    def _add(self, script: tuple[tuple[Request, Reply], ...]) -> int:
        self._nodes.append(_Node(self._stage.run(self.name, self._call, self._open_store, script), script))
        return len(self._nodes) - 1
