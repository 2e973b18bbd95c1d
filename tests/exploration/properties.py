"""What must hold of every run, whatever is lost and whoever dies."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pkgstore import NotFound
from tests.exploration.replay import Outcome, Verb
from tests.exploration.scheduler import ENDED, Violation, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pkgstore import Store
    from tests.exploration.replay import Stage
    from tests.exploration.scheduler import Late, Model, Report, State

KEY = "k"


class Scene:
    """Publishers of one key, and others, on a model of a server; ``open_store`` opens a store there.

    Checks what each of them is told when it ends, what a reader sees of every version, and after every run that a new
    publisher learns at once whether it has won.
    """

    def __init__(self, stage: Stage, model: Model, open_store: Callable[[], Store]) -> None:
        self.model = model
        self._stage = stage
        self._open_store = open_store
        self._verbs: list[Verb] = []
        self._read: dict[tuple[str, str], None] = {}
        self._afterwards: dict[int, int] = {}
        self._fresh = self._new("fresh", lambda store: _publish(store, b"fresh body"), b"fresh body", exclusive=True)
        self._reader = self._new("reader", _read, None, exclusive=False)

    # -- who takes part -----------------------------------------------------------------------------------------------

    def publishers(self, *bodies: bytes) -> Scene:
        """Add one who publishes for each body, A, B and so on."""
        for body in bodies:
            name = "ABCDEFGH"[len(self._verbs)]
            self._verbs.append(self._new(name, lambda store, body=body: _publish(store, body), body, exclusive=True))
        return self

    def replacer(self, body: bytes) -> Scene:
        """Add one who publishes in the place of whatever is there."""
        call = lambda store: _publish(store, body, replace=True)  # noqa: E731
        self._verbs.append(self._new("replacer", call, body, exclusive=False))
        return self

    def deleter(self) -> Scene:
        """Add one who deletes."""
        self._verbs.append(self._new("deleter", lambda store: store.delete(KEY), None, exclusive=False))
        return self

    def world(self, kinds: Sequence[str] | None = None) -> World:
        """Return the world in which they are, with faults of these kinds; of all unless given."""
        wanted = None if kinds is None else frozenset(kinds)
        checks = {"seen": self._check_read, "ended": self._check_told, "over": self._check_over}
        return World(self.model, self._verbs, kinds=wanted, **checks)

    def explore(self, faults: int, kinds: Sequence[str] | None = None) -> Report:
        return self.world(kinds).explore(faults)

    def _new(self, name: str, call: Callable[[Store], Any], body: bytes | None, *, exclusive: bool) -> Verb:
        return Verb(self._stage, self._open_store, name, call, body, exclusive=exclusive)

    # -- what each is told --------------------------------------------------------------------------------------------

    def _check_told(self, world: World, state: State, number: int) -> None:
        verb, actor = world.verbs[number], state.actors[number]
        outcome = world.outcome(state, number)
        assert outcome is not None
        server = world.server(state)
        told = f"{verb.name} is told {outcome.told}" + (f" ({outcome.value})" if outcome.told != "done" else "")
        if not actor.faulty and outcome.told not in ("done", "Exists"):
            raise Violation(f"{told}, although nothing has failed for it")
        match outcome.told:
            case "done" if verb.body is not None:
                self._check_success(world, state, verb, outcome)
            case "done":
                if actor.since and server.log[actor.since - 1 :] == server.log[actor.since - 1 : actor.since] != ("",):
                    raise Violation(f"{told}, but what it has deleted is there as before")
            case "Exists":
                self._check_exists(world, state, number, told)
            case "Unavailable":
                pass
            case "Denied":
                if verb.token in server.log[actor.since :]:  # that of a deletion is empty
                    raise Violation(f"{told}, but it has changed what is there")
                if any(late.verb == number and self._may_land(world, state, late) for late in state.late):
                    raise Violation(f"{told}, but it may still change what is there")
            case _:
                raise Violation(f"{told}, which nothing here can cause")

    def _check_success(self, world: World, state: State, verb: Verb, outcome: Outcome) -> None:
        if verb.token not in world.server(state).log:
            raise Violation(f"{verb.name} is told that it has published, but its object was never visible")
        if outcome.value != hashlib.sha256(verb.body or b"").hexdigest():
            raise Violation(f"{verb.name} is told that it has published other bytes than its own")
        if verb.exclusive and self._is_write_once(world):
            winners = [name for each, name in self._told(world, state) if each == "done"]
            if len(winners) > 1:
                raise Violation(f"{' and '.join(winners)} are both told that they have won")

    def _check_exists(self, world: World, state: State, number: int, told: str) -> None:
        verb, actor, log = world.verbs[number], state.actors[number], world.server(state).log
        if not verb.exclusive:
            raise Violation(f"{told}, although it may replace what is there")
        if verb.token in log and self._is_write_once(world):
            raise Violation(f"{told}, although it has won")
        # Where others delete, its own object may have come and gone: then nobody can tell.
        if not any(log[max(0, actor.since - 1) :]):
            raise Violation(f"{told}, but nobody else's object was there")

    # -- what is left -------------------------------------------------------------------------------------------------

    def _check_over(self, world: World, state: State) -> None:
        self._check_versions(world, state)
        if all(not actor.faulty and actor.status == ENDED for actor in state.actors):
            told = [told for told, _ in self._told(world, state)]
            if self._is_write_once(world) and told.count("done") != 1:
                raise Violation("nobody has won, although nothing has failed")
            if world.server(state).left:
                raise Violation("an upload is left, although nothing has failed")
        server = self._afterwards.get(state.server)
        if server is None:
            server = self._afterwards[state.server] = self._publish_afterwards(world, state)
        if all(world.verbs[late.verb].exclusive for late in state.late):
            for late in state.late:
                after, _ = world.take_effect(server, late)
                if self.model.token_there(world.server_of(after)) != self.model.token_there(world.server_of(server)):
                    raise Violation(f"a late request of {world.verbs[late.verb].name} changes what was published")
                server = after

    def _check_versions(self, world: World, state: State) -> None:
        """Whoever was told that it has won has its object there, unless it was asked to be replaced or deleted."""
        log = world.server(state).log
        owners = {verb.token: verb for verb in world.verbs if verb.token}
        for number, verb in enumerate(world.verbs):
            outcome = world.outcome(state, number)
            if outcome is None or outcome.told != "done" or not verb.token:
                continue
            following = log[log.index(verb.token) + 1 :]
            if following and following[0] and owners[following[0]].exclusive:
                raise Violation(f"the object of {verb.name}, which has won, is replaced by {owners[following[0]].name}")

    def _check_read(self, world: World, state: State) -> None:
        """A reader sees nothing, or the whole body of whoever put it there."""
        server = world.server(state)
        token = self.model.token_there(server)
        whole = {verb.token: verb.body for verb in world.verbs if verb.token}
        key = (token, repr(server.there))
        if key not in self._read:
            _, read = self._run(world, self._reader, state.server)
            if read.told != "done" or read.value != whole.get(token):
                raise Violation(f"a reader has {read}, not {whole.get(token)!r}")
            self._read[key] = None

    def _may_land(self, world: World, state: State, late: Late) -> bool:
        """Whether a late request would change now what is there."""
        after, _ = world.take_effect(state.server, late)
        return len(world.server_of(after).log) > len(world.server(state).log)

    def _publish_afterwards(self, world: World, state: State) -> int:
        after, outcome = self._run(world, self._fresh, state.server)
        there = self.model.token_there(world.server(state))
        if outcome.told != ("Exists" if there else "done"):
            raise Violation(f"a publisher that comes afterwards is told {outcome}: the key is blocked")
        if not there and self.model.token_there(world.server_of(after)) != self._fresh.token:
            raise Violation("a publisher that comes afterwards is told that it has won, and has not")
        return after

    def _run(self, world: World, verb: Verb, server: int) -> tuple[int, Outcome]:
        """Run a verb alone, without a fault."""
        at = 0
        while not isinstance(step := verb.next(at), Outcome):
            after, reply = self.model.effect(world.server_of(server), step, self._judged(world, server, step))
            server, at = world.number(after), verb.after(at, reply)
        return server, step

    def _judged(self, world: World, server: int, request: Any) -> bool | None:
        return self.model.begins(world.server_of(server), request)

    def _told(self, world: World, state: State) -> list[tuple[str, str]]:
        """Return what each exclusive publisher was told, and who it is."""
        outcomes = [(world.outcome(state, number), verb) for number, verb in enumerate(world.verbs) if verb.exclusive]
        return [(outcome.told, verb.name) for outcome, verb in outcomes if outcome is not None]

    def _is_write_once(self, world: World) -> bool:
        return all(verb.exclusive for verb in world.verbs)


def _publish(store: Store, body: bytes, **options: Any) -> str:
    return store.publish(KEY, body, **options).digests["sha256"]


def _read(store: Store) -> bytes | None:
    try:
        return store.read(KEY)
    except NotFound:
        return None
