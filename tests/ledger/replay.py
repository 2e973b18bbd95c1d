"""Real ledgers, run against a script of what their calls came to, in a time of their own.

What an update does next depends on nothing but what its ledger knew before, and the answers since. So an update in its
middle is the list of these answers, and is run again from its start to find out what it asks after one more.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pkgstore import calls, ledger
from pkgstore.calls import Calls
from pkgstore.driver import Blob, MediumError
from pkgstore.errors import StoreError
from tests.ledger.medium import Held, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pkgstore.driver import Body
    from pkgstore.ledger import Entry, Ledger

NAME = "explored"
REST = 1e7
"""Seconds between one step of a writer and the next, when it rests."""


class Refused(Exception):
    """What a `change` raises by itself."""


class Told(NamedTuple):
    """How an update or a read ended: ``error`` is empty, or the name of what it raised."""

    error: str
    generation: int = 0
    names: tuple[str, ...] = ()
    message: str = ""


class Node(NamedTuple):
    """A point of a run: the call that is made there, or how the run ended, and what the ledger knows then."""

    request: Request | None
    told: Told | None = None
    memory: int = 0


class _Unscripted(BaseException):
    """Ends a replay where a call would be made that is not in its script."""


class Stage:
    """Where ledgers are replayed, one at a time: their driver, clock and chance.

    A pause of a ledger takes no time, that of calls to a driver all they may: so only what fails runs out of time.
    """

    scheme = "explored"
    exclusive = True
    streams = True

    def __init__(self) -> None:
        self.scans_in_one = False
        self._prefix = ""
        self._now = 0.0
        self._count = 0
        self._script: list[Reply] = []
        self._asked: Request | None = None

    def run(self, prefix: str, now: float, function: Callable[[], Told], script: list[Reply]) -> Request | Told:
        """Run a function with the answers of ``script``; return the call that comes after them, or how it ended."""
        self._prefix, self._now, self._count, self._script, self._asked = prefix, now, 0, script[::-1], None
        try:
            told = function()
        except _Unscripted:
            assert self._asked is not None
            return self._asked
        except (StoreError, Refused) as exc:
            told = Told(type(exc).__name__, message=str(exc))
        assert self._asked is None, "a ledger took the end of its replay for an error"
        assert not self._script, "a ledger is not repeatable: it asked less than before"
        return told

    def _answer(self, request: Request) -> Any:
        if not self._script:
            self._asked = self._asked or request
            raise _Unscripted
        reply = self._script.pop()
        self._now += reply.elapsed
        if reply.error:
            raise MediumError(reply.error, f"{request.verb} ended so")
        return reply.value

    # -- in the place of a driver -------------------------------------------------------------------------------------

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        content = b""
        while part := body.read():
            content += part
        found = body.finish()
        self._answer(Request("put", key, content, token, exclusive))
        return Blob(key, len(content), 0.0, token, found)

    def open(self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None) -> Any:
        held: Held = self._answer(Request("open", key, tag=tag))
        return Blob(key, len(held.content), 0.0, held.token), io.BytesIO(held.content)

    def scan(self, prefix: str) -> Iterator[Blob]:
        if not self.scans_in_one:
            self._answer(Request("scan", prefix))
        for key, token in self._answer(Request("listed", prefix)):
            yield Blob(key, 1, 0.0, token)

    def delete(self, key: str, *, tag: str | None = None) -> None:
        self._answer(Request("delete", key, tag=tag))

    def stat(self, key: str) -> Blob:
        raise NotImplementedError

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        return exc.kind if isinstance(exc, MediumError) else None

    def close(self) -> None:
        raise NotImplementedError

    # -- in the place of modules --------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    def urandom(self, size: int) -> bytes:
        self._count += 1
        return f"{self._prefix}-{self._count}".encode().ljust(size, b".")


@contextlib.contextmanager
def stage(kept: int, remembered: int) -> Iterator[Stage]:
    """Yield a stage, with so many generations kept and remembered."""
    made = Stage()
    with pytest.MonkeyPatch.context() as patch:
        for module, uniform in ((ledger, min), (calls, max)):
            for name in ("time", "os"):
                patch.setattr(module, name, made)
            patch.setattr(module, "random", SimpleNamespace(uniform=uniform))
        patch.setattr(logging.getLogger("pkgstore"), "disabled", True)
        patch.setattr(ledger, "KEPT", kept)
        patch.setattr(ledger, "REMEMBERED", remembered)
        yield made


class Step(NamedTuple):
    """What a writer does: ``update``, or ``read``, at once or after a long rest.

    ``mood`` is how an update's `change` behaves:

    ``appends``   the name of the update goes to the end of the list, whatever is there
    ``raises``    `Refused` comes out of it
    ``hesitates`` it changes its mind: it appends when it is first called, and raises `Refused` from then on
    ``shrugs``    it changes its mind likewise, and finds that there is nothing to change from then on
    """

    verb: str = "update"
    mood: str = "appends"
    is_rested: bool = False


class Writer:
    """A process with a ledger, that does some steps, one after the other. Each is run once for every list of answers.

    Its points are numbers. What its ledger knows is carried from one step to the next.
    """

    def __init__(self, stage: Stage, name: str, steps: tuple[Step, ...], kind: type[Ledger], timeout: float) -> None:
        self.name = name
        self.steps = steps
        self._stage = stage
        self._calls = Calls(stage, "explored://", timeout)
        self._kind = kind
        self._nodes: list[Node] = []
        self._came: list[tuple[int, Reply] | tuple[int, int]] = []
        self._children: dict[tuple[int, Reply], int] = {}
        self._memories: list[dict[str, Any]] = []
        self._roots: dict[tuple[int, str], int] = {}
        self.start = self._root(0, {})

    def __getitem__(self, point: int) -> Node:
        return self._nodes[point]

    def update_name(self, step: int) -> str:
        """Return the name that a step appends."""
        return f"{self.name}{step + 1}"

    def after(self, point: int, reply: Reply) -> int:
        """Return the point after a call at ``point`` was answered."""
        found = self._children.get((point, reply))
        if found is None:
            found = self._children[point, reply] = self._made((point, reply))
        return found

    def next_step(self, point: int) -> int:
        """Return the first point of the step that follows the one that has ended at ``point``."""
        return self._root(self.step_of(point) + 1, self._memories[self._nodes[point].memory])

    def step_of(self, point: int) -> int:
        """Return which step a point belongs to."""
        return self._traced(point)[0]

    def _root(self, step: int, memory: dict[str, Any]) -> int:
        key = (step, repr(memory))
        if key not in self._roots:
            self._memories.append(memory)
            self._roots[key] = self._made((step, len(self._memories) - 1))
        return self._roots[key]

    def _made(self, came: tuple[int, Reply] | tuple[int, int]) -> int:
        self._came.append(came)
        point = len(self._came) - 1
        step, memory, script = self._traced(point)
        made = self._kind(self._calls, NAME)
        vars(made).update(copy.deepcopy(self._memories[memory]))
        found = self._stage.run(f"{self.name}{step + 1}", self._begins(step), lambda: self._do(made, step), script)
        if isinstance(found, Told):
            self._memories.append({name: value for name, value in vars(made).items() if name != "_calls"})
            self._nodes.append(Node(None, found, len(self._memories) - 1))
        else:
            self._nodes.append(Node(found))
        return point

    def _traced(self, point: int) -> tuple[int, int, list[Reply]]:
        """Return the step of a point, what was known when it began, and the answers since."""
        script: list[Reply] = []
        while True:
            before, reply = self._came[point]
            if not isinstance(reply, Reply):
                return before, reply, script[::-1]
            script.append(reply)
            point = before

    def _begins(self, number: int) -> float:
        return REST * sum(step.is_rested for step in self.steps[: number + 1])

    def _do(self, ledger: Ledger, number: int) -> Told:
        step = self.steps[number]
        entry = ledger.read() if step.verb == "read" else ledger.update(_change(step.mood, self.update_name(number)))
        return _told(entry)


def _change(mood: str, name: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    called = False

    def change(document: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal called
        if mood == "raises" or (mood == "hesitates" and called):
            raise Refused
        if mood == "shrugs" and called:
            return None
        called = True
        document.setdefault("names", []).append(name)
        return document

    return change


def _told(entry: Entry) -> Told:
    return Told("", entry.generation, tuple(entry.document.get("names", ())))
