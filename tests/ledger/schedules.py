"""All orders of the driver calls of a few writers, with every fault at every one of them, and what must hold.

A call is one step, and a scan two, unless it is taken for one. With a fault, the call or its answer is lost, or it
takes effect at any later time, or it is refused; or the writer stands still in it for longer than anybody waits.
Standing still for less is an order like others; a `Crowd` is there for it, which makes many changes in one step. A
crash is no step either: every state is judged as if nobody in it were to go on, but for calls that are under way.

It ends, as every update ends that has no fault and no rival, and both are few. Runs that come to the same state are
continued once; what is counted as a schedule is a whole run, to where everybody has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pkgstore import ledger as ledgers
from pkgstore.errors import Denied, Unavailable
from pkgstore.ledger import Ledger
from tests.ledger.medium import Medium, Reply, Request, Violation, effect, listings
from tests.ledger.replay import Step, Told, Writer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.ledger.replay import Stage

FROZEN = 86400.0
"""Seconds after which one goes on who was frozen."""

KINDS = frozenset({"request lost", "reply lost", "late", "denied", "frozen", "overtaken"})
"""The faults. ``overtaken`` is a scan so slow that the newest it began with has gone, and which shows nothing newer."""

Label = tuple[str, str, str]


class Actor(NamedTuple):
    """Where one stands. ``point`` is None when it has ended; ``seen`` is what was there when its scan began.

    ``since`` is the newest generation when its step began, -1 before that; ``known`` the one when the last step before
    it that went well began, from which it may know what it starts from; ``failed`` are the names of updates that were
    told to have changed nothing.
    """

    point: int | None
    seen: frozenset[tuple[str, str]] | None = None
    since: int = -1
    known: int = 0
    is_faulty: bool = False
    failed: tuple[str, ...] = ()


class Late(NamedTuple):
    """A call that may take effect although its writer has given it up."""

    who: str
    request: Request


class State(NamedTuple):
    """A moment of a run; ``medium`` is the number of the medium's state, and ``faults`` how many are still to come."""

    medium: int
    actors: tuple[Actor, ...]
    late: tuple[Late, ...]
    faults: int


@dataclass
class Report:
    """How much was explored, and the greatest number of generations that was there at once."""

    schedules: int = 0
    states: int = 0
    steps: int = 0
    deepest: int = 0
    most: int = 0


class Crowd(NamedTuple):
    """Others who change the document so many times, while everybody else stands still."""

    name: str
    count: int


class World:
    """Writers and crowds, on a medium. ``kind`` is the class of ledger they use, ``effect`` what the medium does."""

    def __init__(
        self,
        stage: Stage,
        *,
        kind: type[Ledger] = Ledger,
        effect: Callable[[Medium, Request], tuple[Medium, Reply]] = effect,
        faults: frozenset[str] = KINDS,
        timeout: float = 0.0,
        scans_in_one: bool = False,
    ) -> None:
        stage.scans_in_one = scans_in_one
        self._stage = stage
        self._kind = kind
        self._timeout = timeout
        self._effect = effect
        self._kinds = faults
        self._actors: list[Writer | Crowd] = []
        self._media: list[Medium] = []
        self._numbers: dict[Medium, int] = {}
        self._effects: dict[tuple[int, Request], tuple[int, Reply]] = {}
        self._alone: dict[tuple[int, str], int] = {}
        self._crowds: dict[str, Writer] = {}
        self._tried: Label | None = None
        self.report = Report()

    # -- who takes part -----------------------------------------------------------------------------------------------

    def writer(self, *steps: Step, name: str = "") -> World:
        """Add a writer, with one update unless told otherwise."""
        named = name or "ABCDEFGH"[len(self._actors)]
        self._actors.append(Writer(self._stage, named, steps or (Step(),), self._kind, self._timeout))
        return self

    def crowd(self, *counts: int) -> World:
        """Add those who change the document ``count`` times in one step, for each count."""
        for count in counts:
            self._actors.append(Crowd("UVWXYZ"[len(self._actors)], count))
        return self

    # -- the medium ---------------------------------------------------------------------------------------------------

    def medium(self, state: State) -> Medium:
        return self._media[state.medium]

    def _number(self, medium: Medium) -> int:
        found = self._numbers.get(medium)
        if found is None:
            found = self._numbers[medium] = len(self._media)
            self._media.append(medium)
        return found

    def _take_effect(self, medium: int, request: Request) -> tuple[int, Reply]:
        known = self._effects.get((medium, request))
        if known is None:
            after, reply = self._effect(self._media[medium], request)
            known = self._effects[medium, request] = self._number(after), reply
        return known

    def _run_alone(self, medium: int, who: Crowd) -> int:
        """Return the medium after somebody new has changed the document, undisturbed."""
        known = self._alone.get((medium, who.name))
        if known is not None:
            return known
        if who.name not in self._crowds:
            steps = (*[Step()] * who.count, Step("read"))
            self._crowds[who.name] = Writer(self._stage, who.name, steps, self._kind, 0.0)
        writer, before = self._crowds[who.name], self._media[medium].log[-1]
        after, point = medium, writer.start
        for number in range(len(writer.steps)):
            while (request := writer[point].request) is not None:
                after, reply = self._take_effect(after, request)
                point = writer.after(point, reply)
            told, newest = writer[point].told, self._media[after].log[-1]
            if told != Told("", *newest):
                raise Violation(f"one who comes now is told {told}, and not {newest}")
            if number < who.count:
                point = writer.next_step(point)
                if newest.generation != before.generation + number + 1:
                    raise Violation(f"one who comes now makes {newest} of {before}")
        self._alone[medium, who.name] = after
        return after

    # -- what can happen next -----------------------------------------------------------------------------------------

    def start(self, faults: int) -> State:
        actors = tuple(Actor(who.start if isinstance(who, Writer) else 0) for who in self._actors)
        return State(self._number(Medium()), actors, (), faults)

    def is_over(self, state: State) -> bool:
        return all(actor.point is None for actor in state.actors)

    def steps(self, state: State) -> Iterator[tuple[Label, State]]:
        """Yield all that can happen, and the state after it. Raises `Violation`."""
        for number, late in enumerate(state.late):
            label = self._tried = (late.who, _shown(late.request), "takes effect late")
            rest = state.late[:number] + state.late[number + 1 :]
            yield label, state._replace(medium=self._take_effect(state.medium, late.request)[0], late=rest)
        for number, (who, actor) in enumerate(zip(self._actors, state.actors, strict=True)):
            if actor.point is None:
                continue
            if isinstance(who, Crowd):
                label = self._tried = (who.name, f"changes the document {who.count} times", "")
                after = self._run_alone(state.medium, who)
                yield label, _moved(state, number, Actor(None))._replace(medium=after)
            else:
                yield from self._steps_of(number, who, actor, state)

    def _steps_of(self, number: int, who: Writer, actor: Actor, state: State) -> Iterator[tuple[Label, State]]:
        assert actor.point is not None
        request = who[actor.point].request
        assert request is not None
        if actor.since < 0:
            actor = actor._replace(since=self.medium(state).log[-1].generation)
        if request.verb == "scan":
            actor = actor._replace(seen=self.medium(state).shown())
        for name, medium, reply, is_fault in self._ends(request, actor, state):
            if is_fault and not (state.faults and name.split(":")[0] in self._kinds):
                continue
            label = self._tried = (who.name, _shown(request), name)
            after = state._replace(medium=medium, faults=state.faults - is_fault)
            if name == "late":
                after = after._replace(late=tuple(sorted((*state.late, Late(who.name, request)))))
            yield label, self._replied(number, who, actor._replace(is_faulty=actor.is_faulty or is_fault), after, reply)

    def _ends(self, request: Request, actor: Actor, state: State) -> Iterator[tuple[str, int, Reply, bool]]:
        """Yield how a call may end: a name, the medium then, the answer, and whether that is a fault."""
        after, reply = self._take_effect(state.medium, request)
        if request.verb == "listed" and actor.seen is not None:
            for name, answer, is_overtaken in listings(actor.seen, self.medium(state)):
                yield (f"overtaken: {name}", after, answer, True) if is_overtaken else (name, after, answer, False)
        else:
            yield "", after, reply, False
            broken = Reply(error=Unavailable)
            yield "request lost", state.medium, broken, True
            yield "denied", state.medium, Reply(error=Denied), True
            if request.changes:
                yield "reply lost", after, broken, True
                yield "late", state.medium, broken, True
        yield "frozen", after, reply._replace(elapsed=FROZEN), True

    def _replied(self, number: int, who: Writer, actor: Actor, state: State, reply: Reply) -> State:
        assert actor.point is not None
        point = who.after(actor.point, reply)
        told = who[point].told
        if told is None:
            seen = actor.seen if reply == Reply() else None
            return _moved(state, number, actor._replace(point=point, seen=seen))
        failed = self._judge(who, who.step_of(point), actor, state, told)
        is_last = who.step_of(point) == len(who.steps) - 1
        known = min(actor.since, actor.known) if told.error else actor.since
        return _moved(state, number, Actor(None if is_last else who.next_step(point), known=known, failed=failed))

    # -- what must hold -----------------------------------------------------------------------------------------------

    def _judge(self, who: Writer, number: int, actor: Actor, state: State, told: Told) -> tuple[str, ...]:
        """Judge what one is told at its end; return its updates that must not be there any more, nor come."""
        step, log = who.steps[number], self.medium(state).log
        name = who.update_name(number)
        says = f"{name}, a {step.verb} that {step.mood}, is told {told}"
        passed = log[-1].generation - (actor.since if step.is_rested or not number else actor.known)
        if told.error:
            expected = {"Unavailable", "Denied"} if actor.is_faulty else set()
            if passed >= ledgers.REMEMBERED:
                expected.add("Unavailable")
            if step.mood != "appends":
                expected.add("Refused")
            if told.error not in expected:
                raise Violation(f"{says}, although nothing has failed for it, and {passed} others were faster")
            return actor.failed if told.error == "Unavailable" else (*actor.failed, name)
        if told.generation < actor.since:
            raise Violation(f"{says}, although generation {actor.since} was there when it began")
        if told.generation > log[-1].generation or log[told.generation].names != told.names:
            raise Violation(f"{says}, which was never the newest: {log}")
        if step.verb == "read":
            return actor.failed
        if name in told.names:
            return actor.failed
        if step.mood != "shrugs":
            raise Violation(f"{says}, and is not in it")
        return (*actor.failed, name)

    def _check(self, state: State) -> None:
        self._tried = None
        medium = self.medium(state)
        for actor in state.actors:
            if there := set(actor.failed) & set(medium.log[-1].names):
                raise Violation(f"{there} was told to have changed nothing, and is there")
        self.report.most = max(self.report.most, len(medium.blobs))
        after = self._run_alone(state.medium, Crowd("fresh", 2))
        if len(self._media[after].blobs) > 2 * ledgers.KEPT:
            raise Violation(f"{len(self._media[after].blobs)} generations are there after one has come who had time")
        for late in state.late:
            landed, _ = self._take_effect(after, late.request)
            if self._media[landed].log != self._media[after].log:
                raise Violation(f"a late {_shown(late.request)} changes the document")
            after = landed

    # -- whole runs ---------------------------------------------------------------------------------------------------

    def explore(self, faults: int) -> Report:
        """Try everything, the shortest runs first. Raises `Violation`, with the run that leads there."""
        report = self.report
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
                    self.report.schedules += 1
                    return state
                plain = [each for each in found if not each[0][2]]
                label, state = chance.choice(plain if plain and chance.random() < 0.5 else found)
                labels.append(label)
                self.report.steps += 1
        except AssertionError as exc:
            raise Violation(f"{exc}\n{self._lines(labels)}") from exc

    def _story(self, state: State, came: list[dict[State, tuple[State, Label]]]) -> str:
        labels = []
        for origin in reversed(came):
            state, label = origin[state]
            labels.append(label)
        return self._lines(labels[::-1])

    def _lines(self, labels: list[Label]) -> str:
        told = [*labels, *([self._tried] if self._tried else [])]
        return "\n".join(f"  {who}: {what}{f'  [{how}]' if how else ''}" for who, what, how in told)


def _shown(request: Request) -> str:
    return f"{request.verb} {request.key.rsplit('/', 1)[1].lstrip('0')}"


def _moved(state: State, number: int, actor: Actor) -> State:
    return state._replace(actors=(*state.actors[:number], actor, *state.actors[number + 1 :]))
