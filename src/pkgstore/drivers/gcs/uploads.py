"""From a body to an object: in one request, or in a resumable session."""

from __future__ import annotations

import json
import random
import re
import secrets
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import google_crc32c

from pkgstore.driver import MediumError
from pkgstore.drivers.gcs.errors import not_the_service
from pkgstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pkgstore.driver import Body
    from pkgstore.drivers.gcs.client import Client
    from pkgstore.drivers.http import Response

AT_ONCE = 8 << 20
"""Bytes of the largest body that is sent from memory, in one request."""

CHUNK = 16 << 20
"""Bytes that a resumable session is sent at a time, and that are kept until it has them; a multiple of 256 KiB."""

_EXCHANGES = 6
_FIRST_PAUSE = 0.1
_RECEIVED = re.compile(r"bytes=0-(\d+)")


class ConditionFailed(Exception):
    """The object has another generation than the precondition names."""


def at_once(client: Client, body: Body, resource: dict[str, Any], generation: str | None) -> dict[str, Any]:
    """Make an object of a small body, in one request, with its checksum; return its resource."""
    pieces = []
    checksum = google_crc32c.Checksum()
    while piece := body.read():
        checksum.update(bytes(piece))
        pieces.append(piece)
    body.finish()
    head, tail, boundary = _envelope({**resource, "crc32c": _declared(checksum)})
    parts = [head, *pieces, tail]
    headers = _multipart(boundary, sum(map(len, parts)))
    response = client.send("POST", _multipart_target(client, generation), headers, parts)
    return _made(client, response)


def streamed(client: Client, body: Body, size: int, resource: dict[str, Any], generation: str | None) -> dict[str, Any]:
    """Make an object of a body of any size in one request; for emulators whose sessions keep to no precondition.

    No checksum goes with it, as it would have to go first.
    """
    head, tail, boundary = _envelope(resource)

    def parts() -> Iterator[bytes | memoryview]:
        yield head
        held: bytes | memoryview = b""
        while piece := body.read():
            if held:
                yield held
            held = piece
        body.finish()  # before the last of it is sent
        yield held
        yield tail

    headers = _multipart(boundary, len(head) + size + len(tail))
    return _made(client, client.send("POST", _multipart_target(client, generation), headers, parts()))


def resumable(
    client: Client, body: Body, size: int, resource: dict[str, Any], generation: str | None
) -> dict[str, Any]:
    """Make an object of a large body, chunk by chunk; its checksum goes with the last.

    A chunk that is interrupted is taken up again where the service has it. A session that is given up becomes no
    object, and the service forgets it after a week.
    """
    session = Session(client, resource, generation)
    checksum = google_crc32c.Checksum()
    first = 0
    while True:
        wanted = min(CHUNK, size - first)
        pieces: list[bytes | memoryview] = []
        count = 0
        while count < wanted and (piece := body.read(wanted - count)):
            checksum.update(bytes(piece))
            pieces.append(piece)
            count += len(piece)
        if first + count == size or count < wanted:
            while piece := body.read():
                count += len(piece)  # more than was declared, which `finish` tells
            body.finish()
            made = session.send(pieces, first, size, {"X-Goog-Hash": f"crc32c={_declared(checksum)}"})
            if made is None:
                raise not_the_service("it takes the last bytes of an upload, and makes no object")
            return made
        if session.send(pieces, first, size) is not None:
            raise not_the_service("it makes an object of a part of the bytes")
        first += count


class Session:
    """A resumable upload, whose precondition the service checks when it begins and when it ends."""

    def __init__(self, client: Client, resource: Mapping[str, Any], generation: str | None) -> None:
        self._client = client
        self._unanswered = False
        target = client.uploads(uploadType="resumable", ifGenerationMatch=generation)
        content = json.dumps(resource).encode()
        response = client.send("POST", target, {"Content-Type": "application/json; charset=UTF-8"}, content)
        location = response.headers.get("Location")
        answer = client.content(response)
        if response.status == 412:
            raise ConditionFailed
        if response.status not in (200, 201):
            raise client.refused(response.status, answer, of_bucket=True)
        if not location:
            raise not_the_service("it opens no session for an upload")
        # On our own origin, whatever the service calls itself: the token is for nobody else.
        parts = urlsplit(location)
        self._target = f"{parts.path}?{parts.query}"

    def send(
        self, pieces: list[bytes | memoryview], first: int, size: int, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any] | None:
        """Send the bytes from ``first`` on, of ``size`` in all. Return the object's resource, once it has become one.

        Raises `ConditionFailed`, and `MediumError`: of kind Unavailable when the session can no longer be used.
        """
        try:
            return self._send(pieces, first, size, headers or {})
        except MediumError as exc:
            # An exchange that went unanswered may have made the object, or may yet.
            if self._unanswered and exc.kind is not Unavailable:
                raise MediumError(Unavailable, str(exc), exc.remedy) from exc
            raise

    def _send(
        self, pieces: list[bytes | memoryview], first: int, size: int, headers: Mapping[str, str]
    ) -> dict[str, Any] | None:
        stop = first + sum(map(len, pieces))
        asking = False
        for number in range(_EXCHANGES):
            try:
                if asking:  # with no size, so that the question cannot end the session
                    made, there = self._exchange([], stop, None, {})
                else:
                    made, there = self._exchange(pieces, first, size, headers)
            except MediumError as exc:
                if exc.kind is not Unavailable or isinstance(exc, _SessionGone) or number == _EXCHANGES - 1:
                    raise
                asking = self._unanswered = True
                time.sleep(_FIRST_PAUSE * 2**number * random.uniform(0.5, 1))
                continue
            if made is not None or there == stop < size:
                return made
            if not first <= there <= stop:
                break
            pieces, first, asking = _without(pieces, there - first), there, False
        raise _SessionGone("the upload session does not take the bytes")

    def _exchange(
        self, pieces: list[bytes | memoryview], first: int, size: int | None, headers: Mapping[str, str]
    ) -> tuple[dict[str, Any] | None, int]:
        """Send bytes, or none to ask; return the object that was made, and how many bytes the service has."""
        count = sum(map(len, pieces))
        which = f"{first}-{first + count - 1}" if count else "*"
        sent = {
            "Content-Range": f"bytes {which}/{'*' if size is None else size}",
            "Content-Length": str(count),
            **headers,
        }
        response = self._client.send("PUT", self._target, sent, pieces)
        if response.status == 308:
            self._client.content(response)
            received = _RECEIVED.fullmatch(response.headers.get("Range") or "")
            return None, int(received[1]) + 1 if received else 0
        if response.status in (404, 410):
            self._client.content(response)
            raise _SessionGone("the upload session is gone")
        return _made(self._client, response), first + count


class _SessionGone(MediumError):
    """The upload has to start again, in another session."""

    def __init__(self, message: str) -> None:
        super().__init__(Unavailable, message, "publish it again")


def _made(client: Client, response: Response) -> dict[str, Any]:
    if response.status == 412:
        client.content(response)
        raise ConditionFailed
    return client.document(response, of_bucket=True)


def _declared(checksum: Any) -> str:
    return b64encode(checksum.digest()).decode()


def _without(pieces: list[bytes | memoryview], count: int) -> list[bytes | memoryview]:
    """Return pieces without their first ``count`` bytes."""
    left: list[bytes | memoryview] = []
    for piece in pieces:
        if count < len(piece):
            left.append(memoryview(piece)[count:])
        count = max(0, count - len(piece))
    return left


def _multipart_target(client: Client, generation: str | None) -> str:
    return client.uploads(uploadType="multipart", ifGenerationMatch=generation)


def _multipart(boundary: str, length: int) -> dict[str, str]:
    return {"Content-Type": f"multipart/related; boundary={boundary}", "Content-Length": str(length)}


def _envelope(resource: Mapping[str, Any]) -> tuple[bytes, bytes, str]:
    """Return what goes before the bytes of an upload and after them, and the boundary between its parts."""
    boundary = secrets.token_hex(20)
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n"
        f"--{boundary}\r\nContent-Type: {resource['contentType']}\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode(), boundary
