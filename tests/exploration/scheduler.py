"""All orders in which the requests of several verbs can take effect, with every fault at every one of them.

A request is one step: its effect, and the answer that its sender has before it does anything else. (That of a slow
writer is two.) Nobody sees more of the time in between. With a fault, the effect or the answer is lost, or the effect
comes at any later time; or the sender ends there, or stands still for so long that whatever it waits for is over.

The state of such a run is small and is compared by value: runs that come to the same state are continued once. What is
counted as a schedule is a whole run, from the start to where every verb has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tests.exploration.replay import Outcome, Reply, Request

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from tests.exploration.replay import Verb

TIMEOUT = 60.0
"""Seconds after which a request is given up that had no answer."""

FROZEN = 86400.0
"""Seconds after which one goes on who was frozen."""

RUNNING, ENDED, CRASHED = range(3)

_BROKEN = Reply(0)
_TIMED_OUT = Reply(0, elapsed=TIMEOUT)
_FROZEN_OUT = Reply(0, elapsed=FROZEN)


class Violation(AssertionError):
    """Something happened that must not."""


class Answer(NamedTuple):
    """What a server may answer in the stead of the truth.

    ``effect`` says whether the request took effect, ``doubt`` whether this answer leaves that open.
    """

    name: str
    reply: Reply
    effect: bool
    doubt: bool


class Model(Protocol):
    """What a server does, without a state of its own: states are passed, and can be compared and hashed."""

    def empty(self) -> Any: ...
    def begins(self, state: Any, request: Request) -> bool | None: ...
    def is_write(self, request: Request) -> bool: ...
    def may_be_late(self, request: Request) -> bool: ...
    def doubt(self, state: Any, request: Request) -> Any: ...
    def answers(self, request: Request) -> list[Answer]: ...
    def effect(self, state: Any, request: Request, judged: bool | None) -> tuple[Any, Reply]: ...
    def token_there(self, state: Any) -> str: ...


class Actor(NamedTuple):
    """Where a verb stands. ``begun`` is what was judged of its request, where half of that is there, as (judged,).

    ``since`` is how many versions the key had had when the verb began, -1 before that.
    """

    at: int = 0
    status: int = RUNNING
    begun: tuple[bool] | None = None
    faulty: bool = False
    since: int = -1


class Late(NamedTuple):
    """A request that may take effect although its sender has given it up."""

    verb: int
    at: int
    judged: bool | None


class State(NamedTuple):
    """A moment of a run; ``server`` is the number of the server's state, and ``faults`` how many are still to come."""

    server: int
    actors: tuple[Actor, ...]
    late: tuple[Late, ...]
    faults: int


Label = tuple[int, str, int]
Fault = tuple[str, int, Reply, bool]


@dataclass
class Report:
    """How much was explored."""

    schedules: int = 0
    states: int = 0
    steps: int = 0
    deepest: int = 0


class World:
    """Some verbs and a server. ``kinds`` names the faults to try; all of them unless given.

    ``seen`` is called for every state of the server, ``ended`` whenever a verb has ended, with its number, and ``over``
    when all have. They raise `Violation`.
    """

    def __init__(
        self,
        model: Model,
        verbs: Sequence[Verb],
        *,
        seen: Callable[[World, State], None],
        ended: Callable[[World, State, int], None],
        over: Callable[[World, State], None],
        kinds: frozenset[str] | None = None,
    ) -> None:
        self.model = model
        self.verbs = verbs
        self.tried: Label | None = None
        self._seen = seen
        self._ended = ended
        self._over = over
        self._wanted = kinds
        self._shown: set[int] = set()
        self._servers: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._effects: dict[tuple[int, Late], tuple[int, Reply]] = {}

    def start(self, faults: int) -> State:
        return State(self.number(self.model.empty()), tuple(Actor() for _ in self.verbs), (), faults)

    def server(self, state: State) -> Any:
        return self._servers[state.server]

    def server_of(self, number: int) -> Any:
        return self._servers[number]

    def number(self, server: Any) -> int:
        """Return the number of a server's state."""
        found = self._numbers.get(server)
        if found is None:
            found = self._numbers[server] = len(self._servers)
            self._servers.append(server)
        return found

    def take_effect(self, server: int, request: Late) -> tuple[int, Reply]:
        """Return the server's state after a request, and the answer."""
        known = self._effects.get((server, request))
        if known is None:
            after, reply = self.model.effect(self._servers[server], self.request(request), request.judged)
            known = self._effects[server, request] = self.number(after), reply
        return known

    def request(self, late: Late) -> Request:
        found = self.verbs[late.verb].next(late.at)
        assert isinstance(found, Request)
        return found

    def _is_wanted(self, name: str) -> bool:
        return self._wanted is None or name in self._wanted

    def _check(self, state: State) -> None:
        self.tried = None
        if state.server not in self._shown:
            self._shown.add(state.server)
            self._seen(self, state)
        if self.is_over(state):
            self._over(self, state)

    # -- what can happen next -----------------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[tuple[Label, State]]:
        """Yield all that can happen, and the state after it. Raises `Violation`, whose label is `self.tried`."""
        for number, late in enumerate(state.late):
            self.tried = (late.verb, "takes effect late", late.at)
            rest = state.late[:number] + state.late[number + 1 :]
            yield self.tried, state._replace(server=self.take_effect(state.server, late)[0], late=rest)
        for number, actor in enumerate(state.actors):
            if actor.status == RUNNING:
                for name, after in self._steps_of(number, actor, state):
                    yield (number, name, actor.at), after

    def _steps_of(self, number: int, actor: Actor, state: State) -> Iterator[tuple[str, State]]:
        request = self.verbs[number].next(actor.at)
        assert isinstance(request, Request)
        server = self._servers[state.server]
        if actor.since < 0:
            actor = actor._replace(since=len(server.log))
        if actor.begun is None:
            judged = self.model.begins(server, request)
            if judged is not None:
                yield from self._halves(number, actor, state, judged)
                return
        late = Late(number, actor.at, actor.begun[0] if actor.begun else None)

        def replied(name: str, where: int, reply: Reply, *, fault: bool = True, later: bool = False) -> Any:
            self.tried = (number, name, actor.at)
            return name, self._replied(number, actor, state, where, reply, fault=fault, late=late if later else None)

        after, reply = self.take_effect(state.server, late)
        yield replied("", after, reply, fault=False)
        if not state.faults:
            return
        for name, where, answer, later in self._faults_of(state.server, request, after, reply):
            if self._is_wanted(name):
                yield replied(name, where, answer, later=later)
        if self._is_wanted("crash"):
            gone = self._moved(state, number, actor._replace(status=CRASHED, begun=None))
            gone = gone._replace(server=self._doubted(state.server, request), faults=state.faults - 1)
            yield "crash", gone._replace(late=_sorted((*state.late, late))) if self.model.may_be_late(request) else gone

    def _faults_of(self, before: int, request: Request, after: int, reply: Reply) -> Iterator[Fault]:
        """Yield what can go wrong with a request: its name, the server's state, the answer, and whether it is late."""
        doubted, changed = self._doubted(before, request), self._doubted(after, request)
        later = self.model.may_be_late(request)
        yield "request lost", doubted, _BROKEN, False
        if self.model.is_write(request):
            yield "reply lost", changed, _BROKEN, False
        if later:
            yield "late", doubted, _BROKEN, True
        yield "timed out", doubted, _TIMED_OUT, later
        yield "frozen", after, replace(reply, elapsed=FROZEN), False
        yield "frozen, and the connection broken", doubted, _FROZEN_OUT, later
        if reply.body and 200 <= reply.status < 300:
            yield "cut", changed, replace(reply, cut=True), False
        for answer in self.model.answers(request):
            taken, open_outcome = (after, changed) if answer.effect else (before, doubted)
            yield answer.name, open_outcome if answer.doubt else taken, answer.reply, False

    def _doubted(self, server: int, request: Request) -> int:
        return self.number(self.model.doubt(self._servers[server], request))

    def _halves(self, number: int, actor: Actor, state: State, judged: bool) -> Iterator[tuple[str, State]]:
        """Yield what can happen within the body of a slow writer. One that is cut off there has no effect."""
        yield "first half", self._moved(state, number, actor._replace(begun=(judged,)))
        if state.faults and self._is_wanted("request lost"):
            yield "cut in its body", self._replied(number, actor, state, state.server, _BROKEN, fault=True, late=None)
        if state.faults and self._is_wanted("crash"):
            gone = self._moved(state, number, actor._replace(status=CRASHED))
            yield "crash in its body", gone._replace(faults=state.faults - 1)

    def _replied(
        self, number: int, actor: Actor, state: State, server: int, reply: Reply, *, fault: bool, late: Late | None
    ) -> State:
        verb = self.verbs[number]
        at = verb.after(actor.at, reply)
        ended = isinstance(verb.next(at), Outcome)
        moved = Actor(at, ENDED if ended else RUNNING, None, actor.faulty or fault, actor.since)
        after = self._moved(state, number, moved)
        lates = state.late if late is None else _sorted((*state.late, late))
        after = after._replace(server=server, late=lates, faults=state.faults - fault)
        if ended:
            self._ended(self, after, number)
        return after

    def _moved(self, state: State, number: int, actor: Actor) -> State:
        return state._replace(actors=(*state.actors[:number], actor, *state.actors[number + 1 :]))

    # -- whole runs ---------------------------------------------------------------------------------------------------

    def explore(self, faults: int) -> Report:
        """Try everything, the shortest runs first. Raises `Violation`, with the run that leads there."""
        report = Report()
        layer: dict[State, int] = {self.start(faults): 1}
        came: list[dict[State, tuple[State, Label]]] = []
        while layer:
            following: dict[State, int] = {}
            origin: dict[State, tuple[State, Label]] = {}
            report.states += len(layer)
            for state, count in layer.items():
                try:
                    report.schedules += count * self.is_over(state)
                    self._check(state)
                    for label, after in self.steps(state):
                        report.steps += 1
                        if after in following:
                            following[after] += count
                        else:
                            following[after] = count
                            origin[after] = (state, label)
                except AssertionError as exc:
                    raise Violation(f"{exc}\n{self._story(state, came)}") from exc
            came.append(origin)
            layer = following
            report.deepest += 1
        return report

    def wander(self, faults: int, chance: random.Random) -> State:
        """Follow one run by chance to its end. Raises `Violation`."""
        state = self.start(faults)
        labels: list[Label] = []
        try:
            while True:
                self._check(state)
                found = list(self.steps(state))
                if not found:
                    return state
                plain = [each for each in found if not each[0][1]]
                label, state = chance.choice(plain if plain and chance.random() < 0.5 else found)
                labels.append(label)
        except AssertionError as exc:
            raise Violation(f"{exc}\n{self._told(labels)}") from exc

    def is_over(self, state: State) -> bool:
        """Whether every verb has ended."""
        return all(actor.status != RUNNING for actor in state.actors)

    def outcome(self, state: State, number: int) -> Outcome | None:
        """How a verb ended; None for one that is running or has crashed."""
        actor = state.actors[number]
        if actor.status != ENDED:
            return None
        found = self.verbs[number].next(actor.at)
        assert isinstance(found, Outcome)
        return found

    def _story(self, state: State, came: list[dict[State, tuple[State, Label]]]) -> str:
        labels = []
        for origin in reversed(came):
            state, label = origin[state]
            labels.append(label)
        return self._told(labels[::-1])

    def _told(self, labels: list[Label]) -> str:
        lines = []
        for number, name, at in [*labels, *([self.tried] if self.tried else [])]:
            verb = self.verbs[number]
            what = verb.next(at)
            assert isinstance(what, Request)
            lines.append(f"  {verb.name}: {what.method} {what.target}{f'  [{name}]' if name else ''}")
        return "\n".join(lines)


def _sorted(late: tuple[Late, ...]) -> tuple[Late, ...]:
    return tuple(sorted(late, key=lambda each: (each.verb, each.at)))
