"""Processes that use a store at the same time: started once, and told what to do through a pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

PATIENCE = 120.0
"""Seconds that a process may be silent before its silence is a failure."""

# Nothing is inherited, as it would not be by a process on another host.
_context = multiprocessing.get_context("spawn")
_idle: list[Worker] = []


class WorkerDied(Exception):
    """A process ended before it had answered."""


class _Order(NamedTuple):
    """What a worker is to do, with which environment variables."""

    environment: dict[str, str]
    function: Callable[..., object]
    args: tuple[object, ...]


class Talk:
    """The end of the pipe that a function in a worker has."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, what: object) -> None:
        """Send ``what`` to the process that started this one; `Worker.hear` returns it there."""
        self._pipe.send(("said", what))

    def hear(self) -> Any:
        """Wait for what `Worker.say` sends, and return it."""
        return self._pipe.recv()

    def is_spoken_to(self) -> bool:
        """Say whether `hear` would return at once."""
        return self._pipe.poll()

    def meet(self) -> None:
        """Wait until all who are conducted by `conduct` are here."""
        self.say("here")
        self.hear()


class Worker:
    """A process of our own that runs functions, one after the other; each is called with a `Talk` first."""

    def __init__(self) -> None:
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(theirs,), daemon=True)
        # Ctrl-C is for this process, which ends its workers; nor may it leave one half started.
        resource_tracker.ensure_running()  # which lets the signal through again, when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.busy = False

    def start(self, function: Callable[..., object], /, *args: object) -> None:
        """Have ``function(talk, *args)`` run, with the environment variables that this process has now."""
        self.busy = True
        with _undisturbed():
            self._pipe.send(_Order(dict(os.environ), function, args))

    def say(self, what: object) -> None:
        """Send ``what`` to the function that runs; `Talk.hear` returns it there."""
        with _undisturbed():
            self._pipe.send(what)

    def hear(self) -> Any:
        """Return what the function says next. Raises what it raises, and `WorkerDied`."""
        kind, value = self._next()
        if kind != "said":
            raise AssertionError(f"the function in the worker ended, with {value!r}, and had nothing to say")
        return value

    def result(self, patience: float = PATIENCE) -> Any:
        """Wait for the function's end, and return what it returned; what it still said is dropped. Raises likewise.

        Raises TimeoutError, too, when the function says nothing for so many seconds.
        """
        while True:
            kind, value = self._next(patience)
            if kind == "returned":
                return value

    def run(self, function: Callable[..., object], /, *args: object) -> Any:
        """Run a function to its end."""
        self.start(function, *args)
        return self.result()

    def kill(self) -> list[Any]:
        """Kill the process (SIGKILL), wait for its end, and return what it had still said before."""
        self._process.kill()
        self._process.join()
        said = []
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, value = self._pipe.recv()
                if kind == "said":
                    said.append(value)
        self._pipe.close()
        return said

    def stop(self) -> None:
        """Stop the process where it stands (SIGSTOP), and wait until it does."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a stopped process go on."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._pipe.closed and self._process.is_alive()

    def _next(self, patience: float = PATIENCE) -> tuple[str, Any]:
        if not self._pipe.poll(patience):
            raise TimeoutError(f"a worker was silent for {patience:.0f} s")
        try:
            with _undisturbed():
                kind, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise WorkerDied(f"a worker ended with {self._process.exitcode}") from None
        if kind != "said":
            self.busy = False
        if kind == "raised":
            raise value
        return kind, value


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no signal end this thread in the middle of a message, after which the rest would be taken for another."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def workers(count: int) -> Iterator[list[Worker]]:
    """Yield ``count`` workers. Those that are idle at the end are kept for the next who asks; the others are killed."""
    _idle[:] = [each for each in _idle if each.alive]
    team = [_idle.pop() if _idle else Worker() for _ in range(count)]
    try:
        yield team
    finally:
        for each in team:
            if each.alive and not each.busy:
                _idle.append(each)
            elif each.alive:
                each.kill()


def dismiss() -> None:
    """Kill the workers that are kept, so that those who ask next get new ones."""
    while _idle:
        _idle.pop().kill()


def conduct(team: list[Worker], meetings: int) -> None:
    """Let those in ``team`` meet so many times: none goes on before the last has come."""
    for _ in range(meetings):
        for each in team:
            each.hear()
        for each in team:
            each.say("go")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition. Raises TimeoutError, saying what did not happen."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {PATIENCE:.0f} s")
        time.sleep(0.005)


def _serve(pipe: Connection) -> None:
    """What a worker does, until its parent is gone."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            order = pipe.recv()
            if not isinstance(order, _Order):
                continue  # said to a function that had just ended
            os.environ.clear()
            os.environ.update(order.environment)
            try:
                answer = ("returned", order.function(Talk(pipe), *order.args))
            except BaseException as exc:  # noqa: BLE001 - it is raised again, by the parent
                answer = ("raised", _portable(exc))
            pipe.send(answer)


def _portable(exc: BaseException) -> BaseException:
    """Return an exception that can be sent, with its traceback as a note."""
    text = "".join(traceback.format_exception(exc))
    try:
        copy: BaseException = pickle.loads(pickle.dumps(exc))
    except Exception:  # noqa: BLE001 - whatever keeps an error from being sent
        copy = RuntimeError(f"{type(exc).__name__}: {exc}")
    copy.add_note(f"in a worker:\n{text}")
    return copy
