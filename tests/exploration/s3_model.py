"""What S3 servers do with one key: objects, multipart uploads and conditions, as an immutable state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl
from xml.etree import ElementTree

from tests.exploration.replay import Reply
from tests.exploration.scheduler import Answer, Violation

if TYPE_CHECKING:
    from tests.exploration.replay import Request

KEY = "k"
ENDPOINT = "http://s3.test"
TARGET = f"/bucket/{KEY}"
_LISTING = "/bucket/?list-type=2"
_META = "x-amz-meta-"
_DATE = "Sat, 21 Nov 2026 12:00:00 GMT"
_MESSAGES = {404: "NoSuchKey", 412: "PreconditionFailed", 409: "ConditionalRequestConflict", 503: "SlowDown"}
_BROKEN = {500: "InternalError", 403: "AccessDenied"}


@dataclass(frozen=True, slots=True)
class Object:
    """An object that everybody sees."""

    body: bytes
    meta: tuple[tuple[str, str], ...]
    etag: str

    @property
    def token(self) -> str:
        return dict(self.meta).get(f"{_META}pkgstore-token", "")


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that is neither completed nor aborted."""

    id: str
    meta: tuple[tuple[str, str], ...]
    parts: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What a server has. ``doubted`` are the uploads of which a completion had no answer that says no."""

    there: Object | None = None
    uploads: tuple[Upload, ...] = ()
    begun: frozenset[str] = frozenset()
    completed: frozenset[str] = frozenset()
    doubted: frozenset[str] = frozenset()
    log: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        """How many uploads take up space."""
        return len(self.uploads)


@dataclass(frozen=True)
class S3Model:
    """A server, and what it keeps to.

    ``completes_once`` says whether the condition of a completion holds, ``deletes_once`` whether that of a delete does.
    A PUT is two steps with ``slow``: the first half of its body, and the rest, when its condition is judged; with
    ``hasty`` it is judged at the first, as no server may that is to publish once. ``again`` is what the server answers
    to the completion of an upload that it has completed: 404, 412 where it looks at the condition first, or 200.
    """

    completes_once: bool = True
    deletes_once: bool = True
    slow: bool = False
    hasty: bool = False
    again: int = 404

    def empty(self) -> State:
        return State()

    def begins(self, state: State, request: Request) -> bool | None:
        """Return what is judged before the whole of a request is there; None for one that is there at once."""
        if not (self.slow or self.hasty) or request.method != "PUT" or "?" in request.target:
            return None
        return self.hasty and self._is_refused(state, request)

    def is_write(self, request: Request) -> bool:
        return request.method not in ("GET", "HEAD")

    def may_be_late(self, request: Request) -> bool:
        """Whether it matters that a request takes effect after its sender has given it up."""
        return self.is_write(request) and "uploads=" not in request.target and "partNumber=" not in request.target

    def doubt(self, state: State, request: Request) -> State:
        """Note that a request had no answer, or one from which its effect cannot be told."""
        query = _query(request)
        if request.method == "POST" and "uploadId" in query:
            return replace(state, doubted=state.doubted | {query["uploadId"]})
        return state

    def answers(self, request: Request) -> list[Answer]:
        """Return what the server may answer in the stead of the truth."""
        found = [
            Answer("busy", _refused(503), effect=False, doubt=False),
            Answer("fails", _refused(500), effect=False, doubt=True),
            Answer("denies", _refused(403), effect=False, doubt=False),
        ]
        if self.is_write(request):
            found.append(Answer("fails after the effect", _refused(500), effect=True, doubt=True))
        if request.header("If-None-Match"):
            found.append(Answer("conflict", _refused(409), effect=False, doubt=False))
        if request.method == "POST" and "uploadId" in _query(request):
            error = Reply(200, (("Date", _DATE),), _document("InternalError"))
            found.append(Answer("fails with 200", error, effect=False, doubt=True))
        return found

    def effect(self, state: State, request: Request, judged: bool | None) -> tuple[State, Reply]:
        """Return the state after a request, and the answer to it."""
        query = _query(request)
        if request.target.startswith(_LISTING):
            return state, self._list(state, query["prefix"])
        if request.target.partition("?")[0] != TARGET:
            raise Violation(f"a request for another key: {request}")
        if "uploads" in query or "uploadId" in query:
            return self._of_upload(state, request, query)
        match request.method:
            case "HEAD" | "GET":
                return state, self._read(state, request)
            case "PUT":
                return self._put(state, request, judged)
            case "DELETE":
                return self._delete(state, request)
        raise Violation(f"a request that the model does not know: {request}")

    def token_there(self, state: State) -> str:
        """Return whose object is there; empty for nobody's."""
        return state.there.token if state.there else ""

    # -- how ----------------------------------------------------------------------------------------------------------

    def _is_refused(self, state: State, request: Request) -> bool:
        return request.header("If-None-Match") == "*" and state.there is not None

    def _of_upload(self, state: State, request: Request, query: dict[str, str]) -> tuple[State, Reply]:
        match request.method:
            case "PUT":
                return self._part(state, query["uploadId"], int(query["partNumber"]), request)
            case "POST" if "uploads" in query:
                return self._initiate(state, request)
            case "POST":
                return self._complete(state, query["uploadId"], request)
            case "DELETE":
                return self._abort(state, query["uploadId"])
        raise Violation(f"a request that the model does not know: {request}")

    def _put(self, state: State, request: Request, judged: bool | None) -> tuple[State, Reply]:
        if judged if self.hasty else self._is_refused(state, request):
            return state, _refused(412)
        digest = hashlib.sha256(request.body).hexdigest()
        if request.header("x-payload") not in ("UNSIGNED-PAYLOAD", digest):
            return state, _refused(400, "XAmzContentSHA256Mismatch")
        made = Object(request.body, _meta(request), hashlib.md5(request.body).hexdigest())
        return _with(state, made), Reply(200, (("Date", _DATE), ("ETag", f'"{made.etag}"')))

    def _delete(self, state: State, request: Request) -> tuple[State, Reply]:
        tag = (request.header("If-Match") or "").strip('"')
        if state.there is None:
            return state, Reply(204)
        if self.deletes_once and tag and tag != state.there.etag:
            return state, _refused(412)
        return replace(state, there=None, log=(*state.log, "")), Reply(204)

    def _read(self, state: State, request: Request) -> Reply:
        there = state.there
        if there is None:
            return Reply(404) if request.method == "HEAD" else _refused(404)
        headers = (
            *there.meta,
            ("ETag", f'"{there.etag}"'),
            ("Content-Length", str(len(there.body))),
            ("Last-Modified", _DATE),
        )
        return Reply(200, headers, b"" if request.method == "HEAD" else there.body)

    def _list(self, state: State, prefix: str) -> Reply:
        there = state.there if KEY.startswith(prefix) else None
        entry = f"<Contents><Key>{KEY}</Key><Size>{len(there.body)}</Size></Contents>" if there else ""
        return Reply(200, (), f"<ListBucketResult>{entry}</ListBucketResult>".encode())

    def _initiate(self, state: State, request: Request) -> tuple[State, Reply]:
        meta = _meta(request)
        owner = dict(meta)[f"{_META}pkgstore-token"][:4]
        name = f"{owner}-{sum(each.startswith(owner) for each in state.begun)}"
        body = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
        uploads = tuple(sorted((*state.uploads, Upload(name, meta)), key=lambda each: each.id))
        return replace(state, uploads=uploads, begun=state.begun | {name}), Reply(200, (), body.encode())

    def _part(self, state: State, name: str, number: int, request: Request) -> tuple[State, Reply]:
        upload = _found(state, name)
        if upload is None:
            return state, _refused(404, "NoSuchUpload")
        parts = tuple(sorted({**dict(upload.parts), number: request.body}.items()))
        changed = tuple(replace(each, parts=parts) if each is upload else each for each in state.uploads)
        tag = hashlib.md5(request.body).hexdigest()
        return replace(state, uploads=changed), Reply(200, (("ETag", f'"{tag}"'),))

    def _complete(self, state: State, name: str, request: Request) -> tuple[State, Reply]:
        refused = self.completes_once and self._is_refused(state, request)
        upload = _found(state, name)
        if upload is None:
            if name in state.completed and self.again == 200:
                return state, _completed(state.there.etag if state.there else "")
            return state, _refused(412) if refused and self.again == 412 else _refused(404, "NoSuchUpload")
        if refused:
            return state, _refused(412)
        numbers = [int(each.findtext("{*}PartNumber") or 0) for each in ElementTree.fromstring(request.body)]
        if numbers != [number for number, _ in upload.parts]:
            return state, _refused(400, "InvalidPart")
        body = b"".join(part for _, part in upload.parts)
        made = Object(body, upload.meta, f"{hashlib.md5(body).hexdigest()}-{len(numbers)}")
        left = tuple(each for each in state.uploads if each is not upload)
        after = replace(_with(state, made), uploads=left, completed=state.completed | {name})
        return after, _completed(made.etag)

    def _abort(self, state: State, name: str) -> tuple[State, Reply]:
        if name in state.doubted:
            raise Violation(f"the upload {name} is aborted, although a completion of it may be under way")
        if _found(state, name) is None:
            return state, _refused(404, "NoSuchUpload")
        return replace(state, uploads=tuple(each for each in state.uploads if each.id != name)), Reply(204)


def _with(state: State, made: Object) -> State:
    return replace(state, there=made, log=(*state.log, made.token))


def _found(state: State, name: str) -> Upload | None:
    return next((each for each in state.uploads if each.id == name), None)


def _query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True))


def _meta(request: Request) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in request.headers if name.startswith(_META))


def _completed(etag: str) -> Reply:
    body = f"<CompleteMultipartUploadResult><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>"
    return Reply(200, (("Date", _DATE),), body.encode())


def _refused(status: int, code: str = "") -> Reply:
    return Reply(status, (), _document(code or {**_MESSAGES, **_BROKEN}[status]))


def _document(code: str) -> bytes:
    return f"<Error><Code>{code}</Code></Error>".encode()
