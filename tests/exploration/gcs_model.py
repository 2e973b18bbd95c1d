"""What Google Cloud Storage does with one key: objects, upload sessions and generations, as an immutable state."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import google_crc32c

from tests.exploration.replay import Reply
from tests.exploration.scheduler import Answer, Violation

if TYPE_CHECKING:
    from tests.exploration.replay import Request

KEY = "k"
ORIGIN = "http://gcs.test"
_UPLOADS = "/upload/storage/v1/b/bucket/o"
_OBJECT = f"/storage/v1/b/bucket/o/{KEY}"
_PLAIN = f"/bucket/{KEY}"
_TIME = "2026-11-21T12:00:00.000Z"
_DATE = "Sat, 21 Nov 2026 12:00:00 GMT"
_REASONS = {
    400: "invalid",
    403: "forbidden",
    404: "notFound",
    412: "conditionNotMet",
    500: "backendError",
    503: "backendError",
}


@dataclass(frozen=True, slots=True)
class Object:
    """An object that everybody sees."""

    body: bytes
    meta: tuple[tuple[str, str], ...]
    generation: int

    @property
    def token(self) -> str:
        return dict(self.meta).get("pkgstore-token", "")

    def resource(self) -> Reply:
        described = {
            "name": KEY,
            "size": str(len(self.body)),
            "generation": str(self.generation),
            "timeCreated": _TIME,
            "metadata": dict(self.meta),
        }
        return Reply(200, (), json.dumps(described).encode())


@dataclass(frozen=True, slots=True)
class Session:
    """An upload session. ``made`` is the object that it has become."""

    id: str
    meta: tuple[tuple[str, str], ...]
    condition: str | None
    received: bytes = b""
    made: Object | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What the service has."""

    there: Object | None = None
    sessions: tuple[Session, ...] = ()
    log: tuple[str, ...] = ()
    left = 0  # sessions are forgotten, and take up no space for long


@dataclass(frozen=True)
class GCSModel:
    """The service, and what it keeps to.

    A body in one request is two steps with ``slow``, its first half and the rest, when its condition is judged; with
    ``hasty`` it is judged at the first, as by no service that is to publish once. With ``forgets``, a session that has
    ended is not known any more; otherwise it tells what it has become.
    """

    slow: bool = False
    hasty: bool = False
    forgets: bool = False

    def empty(self) -> State:
        return State()

    def begins(self, state: State, request: Request) -> bool | None:
        """Return what is judged before the whole of a request is there; None for one that is there at once."""
        if not (self.slow or self.hasty) or _query(request).get("uploadType") != "multipart":
            return None
        return self.hasty and _is_refused(state, _query(request).get("ifGenerationMatch"))

    def is_write(self, request: Request) -> bool:
        return request.method != "GET"

    def may_be_late(self, request: Request) -> bool:
        """Whether it matters that a request takes effect after its sender has given it up."""
        opens = request.method == "POST" and _query(request).get("uploadType") == "resumable"
        asks = (request.header("Content-Range") or "").startswith("bytes */")
        return self.is_write(request) and not opens and not asks

    def doubt(self, state: State, request: Request) -> State:
        return state

    def token_there(self, state: State) -> str:
        """Return whose object is there; empty for nobody's."""
        return state.there.token if state.there else ""

    def answers(self, request: Request) -> list[Answer]:
        """Return what the service may answer in the stead of the truth."""
        found = [
            Answer("busy", _refused(503), effect=False, doubt=False),
            Answer("fails", _refused(500), effect=False, doubt=True),
            Answer("denies", _refused(403), effect=False, doubt=False),
        ]
        if self.is_write(request):
            found.append(Answer("fails after the effect", _refused(500), effect=True, doubt=True))
        return found

    def effect(self, state: State, request: Request, judged: bool | None) -> tuple[State, Reply]:
        """Return the state after a request, and the answer to it."""
        path, query = request.target.partition("?")[0], _query(request)
        match request.method, path, query.get("uploadType"):
            case "GET", p, _ if p in (_OBJECT, _PLAIN):
                return state, self._read(state, path, query.get("generation"))
            case "POST", p, "multipart" if p == _UPLOADS:
                return self._at_once(state, request, judged)
            case "POST", p, "resumable" if p == _UPLOADS:
                return self._open_session(state, query.get("ifGenerationMatch"), _meta(json.loads(request.body)))
            case "PUT", p, "resumable" if p == _UPLOADS:
                return self._send(state, query["upload_id"], request)
            case "DELETE", p, _ if p == _OBJECT:
                return self._delete(state, query.get("ifGenerationMatch"))
        raise Violation(f"a request that the model does not know: {request}")

    # -- how ----------------------------------------------------------------------------------------------------------

    def _read(self, state: State, path: str, generation: str | None) -> Reply:
        there = state.there
        if there is None or _is_refused(state, generation):
            return _refused(404)
        return there.resource() if path == _OBJECT else _bytes(there)

    def _at_once(self, state: State, request: Request, judged: bool | None) -> tuple[State, Reply]:
        if judged if self.hasty else _is_refused(state, _query(request).get("ifGenerationMatch")):
            return state, _refused(412)
        resource, body = _parts(request)
        if resource.get("crc32c", _checksum(body)) != _checksum(body):
            return state, _refused(400)
        return _made(state, body, _meta(resource))

    def _delete(self, state: State, generation: str | None) -> tuple[State, Reply]:
        if state.there is None:
            return state, _refused(404)
        if _is_refused(state, generation):
            return state, _refused(412)
        return replace(state, there=None, log=(*state.log, "")), Reply(204)

    def _open_session(
        self, state: State, condition: str | None, meta: tuple[tuple[str, str], ...]
    ) -> tuple[State, Reply]:
        if _is_refused(state, condition):
            return state, _refused(412)
        owner = dict(meta)["pkgstore-token"][:4]
        name = f"{owner}-{sum(each.id.startswith(owner) for each in state.sessions)}"
        sessions = tuple(sorted((*state.sessions, Session(name, meta, condition)), key=lambda each: each.id))
        location = f"{ORIGIN}{_UPLOADS}?uploadType=resumable&upload_id={name}"
        return replace(state, sessions=sessions), Reply(200, (("Location", location),))

    def _send(self, state: State, name: str, request: Request) -> tuple[State, Reply]:
        session = next(each for each in state.sessions if each.id == name)
        if session.failed or (session.made and self.forgets):
            return state, _refused(404)
        if session.made:
            return state, session.made.resource()
        which, _, total = (request.header("Content-Range") or "").removeprefix("bytes ").partition("/")
        received = session.received
        first = int(which.partition("-")[0]) if which != "*" else len(received)
        if first <= len(received):
            received += request.body[len(received) - first :]
        after = replace(session, received=received)
        if total == "*" or len(received) < int(total):
            head = (("Range", f"bytes=0-{len(received) - 1}"),) if received else ()
            return _with(state, after), Reply(308, head)
        if _is_refused(state, session.condition):
            return _with(state, replace(after, failed=True)), _refused(412)
        if request.header("X-Goog-Hash") not in (None, f"crc32c={_checksum(received)}"):
            return _with(state, replace(after, failed=True)), _refused(400)
        state, reply = _made(state, received, session.meta)
        return _with(state, replace(after, made=state.there)), reply


def _is_refused(state: State, condition: str | None) -> bool:
    there = state.there.generation if state.there else 0
    return condition is not None and condition != str(there)


def _made(state: State, body: bytes, meta: tuple[tuple[str, str], ...]) -> tuple[State, Reply]:
    made = Object(body, meta, len(state.log) + 1)
    return replace(state, there=made, log=(*state.log, made.token)), made.resource()


def _with(state: State, session: Session) -> State:
    return replace(state, sessions=tuple(session if each.id == session.id else each for each in state.sessions))


def _bytes(there: Object) -> Reply:
    headers = (
        *((f"x-goog-meta-{name}", value) for name, value in there.meta),
        ("x-goog-generation", str(there.generation)),
        ("Last-Modified", _DATE),
        ("Content-Length", str(len(there.body))),
    )
    return Reply(200, headers, there.body)


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """Return the resource and the bytes of an upload in one request."""
    boundary = (request.header("Content-Type") or "").partition("boundary=")[2].encode()
    _, first, second, _ = request.body.split(b"--" + boundary)
    return json.loads(first.partition(b"\r\n\r\n")[2]), second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def _meta(resource: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(resource["metadata"].items()))


def _checksum(body: bytes) -> str:
    return b64encode(google_crc32c.Checksum(body).digest()).decode()


def _query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.target.partition("?")[2]))


def _refused(status: int) -> Reply:
    reason = _REASONS[status]
    error = {"message": f"No such object: bucket/{KEY}" if status == 404 else reason, "errors": [{"reason": reason}]}
    return Reply(status, (), json.dumps({"error": error}).encode())
