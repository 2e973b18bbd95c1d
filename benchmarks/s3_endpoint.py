"""A stand-in for an S3 endpoint that costs little beside its clients, so that they are what is measured.

``python s3_endpoint.py FOLDER LISTED`` prints its port, and serves until its input ends. It has one bucket for every
name, in which ``LISTED`` objects lie below `listed/` from the start. It keeps all that it is sent: what is large in
nameless files in ``FOLDER``, the rest in memory. It honours If-None-Match and If-Match, and checks no signatures; of
checksums it judges x-amz-content-sha256, of bodies up to 1 MiB. Replies are made ahead where they can be, and one
thread serves every connection.
"""

from __future__ import annotations

import os
import re
import resource
import select
import socket
import sys
import tempfile
import time
from collections import defaultdict
from email.utils import formatdate
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape, unescape

if TYPE_CHECKING:
    from collections.abc import Generator
    from io import FileIO

    Events: TypeAlias = Generator[int, None, None]
    Received: TypeAlias = Generator[int, None, "Piece"]
    Piece: TypeAlias = bytes | FileIO

_RECEIVED_AT_ONCE = 1 << 20
_IN_MEMORY_UP_TO = 1 << 20
_PAGE = 1000
_SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_ALWAYS = "Server: stand-in\r\nx-amz-id-2: %s\r\nx-amz-request-id: 0123456789ABCDEF\r\n" % ("0" * 76)


class Stored:
    """An object: its bytes in pieces, and the heads of the answers that have it."""

    def __init__(self, pieces: list[Piece], tag: str, metadata: str) -> None:
        self.pieces = pieces
        self.sizes = [len(each) if isinstance(each, bytes) else os.fstat(each.fileno()).st_size for each in pieces]
        self.size = sum(self.sizes)
        self.tag = f'"{tag}"'
        self.written = time.time()
        date = formatdate(self.written, usegmt=True)
        self._rest = (
            f"{_ALWAYS}Date: {date}\r\nLast-Modified: {date}\r\nETag: {self.tag}\r\nAccept-Ranges: bytes\r\n"
            f"Content-Type: binary/octet-stream\r\n{metadata}\r\n"
        )
        self.head = f"HTTP/1.1 200 OK\r\nContent-Length: {self.size}\r\n{self._rest}".encode("latin-1")
        self.whole = self.head + pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b""

    def range_head(self, start: int, stop: int) -> bytes:
        return (
            f"HTTP/1.1 206 Partial Content\r\nContent-Length: {stop - start}\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{self.size}\r\n{self._rest}"
        ).encode("latin-1")


class Request:
    """The head of a request."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._lowered = head.lower()
        line = head[: head.find(b"\r\n")].decode("latin-1")
        self.method, _, rest = line.partition(" ")
        self.target = rest.rpartition(" ")[0]
        path, _, query = self.target.partition("?")
        self.key = unquote(path.lstrip("/").partition("/")[2])
        self.query = parse_qs(query, keep_blank_values=True) if query else {}

    def header(self, name: bytes) -> str:
        """Return a header, empty where there is none; its name is to be given in small letters."""
        start = self._lowered.find(b"\r\n" + name + b":")
        if start < 0:
            return ""
        start += len(name) + 3
        end = self._lowered.find(b"\r\n", start)
        return self._head[start : end if end >= 0 else None].strip().decode("latin-1")

    def metadata(self) -> str:
        """Return the headers that belong to the object, as they go into an answer."""
        found = re.findall(rb"\r\n(x-amz-meta-[^:]+: ?[^\r]*)", self._head, re.IGNORECASE)
        return "".join(each.decode("latin-1") + "\r\n" for each in found)


class Bucket:
    """What is stored, and what is answered. Every answer is bytes, or an object with the range of it that is sent."""

    def __init__(self, listed: int) -> None:
        self.objects: dict[str, Stored] = {}
        self._uploads: dict[str, tuple[str, dict[int, Piece]]] = {}
        self._numbers = count(1)
        self._pages: dict[tuple[str, bool], list[bytes]] = {}
        some = Stored([bytes(1024)], self._tag(), "")
        for number in range(listed):
            project, version = divmod(number, 100)
            self.objects[f"listed/project-{project:06}/project_{project:06}-{version}.0-py3-none-any.whl"] = some

    def _tag(self) -> str:
        return f"{next(self._numbers):032x}"

    def answer(self, request: Request, body: Piece) -> bytes | tuple[Stored, int, int]:
        method, key, query = request.method, request.key, request.query
        digest = request.header(b"x-amz-content-sha256")
        if len(digest) == 64 and body and isinstance(body, bytes) and sha256(body).hexdigest() != digest:
            return _error(400, "XAmzContentSHA256Mismatch")
        if not key:
            return self._answer_of_bucket(method, query, body)
        if "uploadId" in query or "uploads" in query:
            return self._answer_of_upload(request, query, body)
        if method in ("GET", "HEAD"):
            return self._get(request)
        if method == "PUT":
            return self._store(request, [body], request.metadata())
        if method == "DELETE":
            return self._delete(request)
        return _error(501, "NotImplemented")

    def _answer_of_bucket(self, method: str, query: dict[str, list[str]], body: Piece) -> bytes:
        if method == "GET" and query.get("list-type") == ["2"] and "delimiter" not in query:
            return self._list(query)
        if method == "POST" and "delete" in query:
            assert isinstance(body, bytes)
            keys = re.findall(r"<Key>([^<]*)</Key>", body.decode())
            for each in keys:
                self._remove(unescape(each))
            gone = "".join(f"<Deleted><Key>{each}</Key></Deleted>" for each in keys)
            return _document(f"<DeleteResult {_SPACE}>", gone)
        return _error(501, "NotImplemented")

    def _answer_of_upload(self, request: Request, query: dict[str, list[str]], body: Piece) -> bytes:
        if request.method == "POST" and "uploads" in query:
            upload = self._tag()
            self._uploads[upload] = (request.metadata(), {})
            return _document(f"<InitiateMultipartUploadResult {_SPACE}><UploadId>{upload}</UploadId>", "")
        upload = query["uploadId"][0]
        if upload not in self._uploads:
            return _error(404, "NoSuchUpload")
        if request.method == "PUT":
            self._uploads[upload][1][int(query["partNumber"][0])] = body
            return _reply(200, headers=f'ETag: "{self._tag()}"\r\n')
        if request.method == "POST":
            assert isinstance(body, bytes)
            return self._complete(request, upload, body)
        del self._uploads[upload]
        return _reply(204)

    def _get(self, request: Request) -> bytes | tuple[Stored, int, int]:
        found = self.objects.get(request.key)
        if found is None:
            return _error(404, "NoSuchKey", empty=request.method == "HEAD")
        if (match := request.header(b"if-match")) and match != found.tag:
            return _error(412, "PreconditionFailed", empty=request.method == "HEAD")
        if request.method == "HEAD":
            return found.head
        if given := request.header(b"range"):
            first, last = given.removeprefix("bytes=").split("-")
            if int(first) >= found.size:
                return _error(416, "InvalidRange")
            return found, int(first), min(int(last) + 1 if last else found.size, found.size)
        return found.whole or (found, 0, found.size)

    def _store(self, request: Request, pieces: list[Piece], metadata: str) -> bytes:
        if request.header(b"if-none-match") == "*" and request.key in self.objects:
            return _error(412, "PreconditionFailed")
        stored = self.objects[request.key] = Stored(pieces, self._tag(), metadata)
        self._pages.clear()
        if request.method == "POST":
            return _document(f"<CompleteMultipartUploadResult {_SPACE}><ETag>{escape(stored.tag)}</ETag>", "")
        return _reply(200, headers=f"ETag: {stored.tag}\r\n")

    def _complete(self, request: Request, upload: str, body: bytes) -> bytes:
        metadata, parts = self._uploads[upload]
        numbers = [int(each) for each in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
        answer = self._store(request, [parts[number] for number in numbers], metadata)
        if answer.startswith(b"HTTP/1.1 200"):
            del self._uploads[upload]
        return answer

    def _delete(self, request: Request) -> bytes:
        match, found = request.header(b"if-match"), self.objects.get(request.key)
        if match and (found is None or match != found.tag):
            return _error(412, "PreconditionFailed")
        self._remove(request.key)
        return _reply(204)

    def _remove(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self._pages.clear()

    def _list(self, query: dict[str, list[str]]) -> bytes:
        wanted = query.get("prefix", [""])[0], query.get("encoding-type") == ["url"]
        if wanted not in self._pages:
            self._pages[wanted] = self._made(*wanted)
        return self._pages[wanted][int(query.get("continuation-token", ["0"])[0])]

    def _made(self, prefix: str, encoded: bool) -> list[bytes]:
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        pages = []
        for start in range(0, max(1, len(keys)), _PAGE):
            page = keys[start : start + _PAGE]
            more = start + _PAGE < len(keys)
            contents = "".join(_content(key, self.objects[key]) for key in page)
            pages.append(
                _document(
                    f"<ListBucketResult {_SPACE}><Name>bucket</Name><Prefix>{escape(prefix)}</Prefix>"
                    f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
                    + ("<EncodingType>url</EncodingType>" if encoded else "")
                    + f"<IsTruncated>{str(more).lower()}</IsTruncated>"
                    + (f"<NextContinuationToken>{len(pages) + 1}</NextContinuationToken>" if more else ""),
                    contents,
                )
            )
        return pages


def _content(key: str, stored: Stored) -> str:
    written = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.written))
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{written}</LastModified><ETag>{escape(stored.tag, _QUOTE)}"
        f"</ETag><Size>{stored.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


_QUOTE = {'"': "&quot;"}


def _document(start: str, rest: str) -> bytes:
    name = start[1:].partition(" ")[0].partition(">")[0]
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{start}{rest}</{name}>'.encode()
    return _reply(200, body, "Content-Type: application/xml\r\n")


def _error(status: int, code: str, *, empty: bool = False) -> bytes:
    body = b"" if empty else f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return _reply(status, body, "Content-Type: application/xml\r\n")


def _reply(status: int, body: bytes = b"", headers: str = "") -> bytes:
    length = "" if status == 204 else f"Content-Length: {len(body)}\r\n"
    date = formatdate(usegmt=True)
    return f"HTTP/1.1 {status} -\r\n{_ALWAYS}Date: {date}\r\n{length}{headers}\r\n".encode("latin-1") + body


class Server:
    """One thread for all connections: each is a generator that yields what it waits for."""

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self._bucket = bucket
        self._folder = folder
        self._buffer = memoryview(bytearray(_RECEIVED_AT_ONCE))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        """Serve until standard input ends."""
        poll = select.epoll()
        listening, ending = self._listener.fileno(), sys.stdin.fileno()
        poll.register(listening, select.EPOLLIN)
        poll.register(ending, select.EPOLLIN)
        served: dict[int, tuple[socket.socket, Events]] = {}
        waits: dict[int, int] = defaultdict(int)
        while True:
            for number, _ in poll.poll():
                if number == ending:
                    return
                if number == listening:
                    connection, _ = self._listener.accept()
                    connection.setblocking(False)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    number = connection.fileno()
                    served[number] = connection, self._serve(connection)
                    poll.register(number, 0)
                connection, events = served[number]
                try:
                    wanted = next(events)
                except (StopIteration, ConnectionError):
                    poll.unregister(number)
                    connection.close()
                    del served[number], waits[number]
                else:
                    if wanted != waits[number]:
                        waits[number] = wanted
                        poll.modify(number, wanted)

    def _serve(self, connection: socket.socket) -> Events:
        received = b""
        while True:
            while (end := received.find(b"\r\n\r\n")) < 0:
                yield select.EPOLLIN
                more = connection.recv(1 << 16)
                if not more:
                    return
                received += more
            request, received = Request(received[:end]), received[end + 4 :]
            body: Piece = b""
            if length := int(request.header(b"content-length") or 0):
                if request.header(b"expect") and not received:
                    yield from _send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
                body = yield from self._body(connection, received[:length], length)
                received = received[length:]
            answer = self._bucket.answer(request, body)
            if isinstance(answer, bytes):
                yield from _send(connection, answer)
            else:
                yield from _send_range(connection, *answer)
            del answer, body

    def _body(self, connection: socket.socket, start: bytes, length: int) -> Received:
        if len(start) == length:
            return start
        file = None if length <= _IN_MEMORY_UP_TO else _nameless(self._folder)
        pieces, left = [start], length - len(start)
        if file:
            file.write(start)
        while left:
            try:
                size = connection.recv_into(self._buffer, min(left, _RECEIVED_AT_ONCE))
            except BlockingIOError:
                yield select.EPOLLIN
                continue
            if not size:
                raise ConnectionResetError("the client went away")
            left -= size
            if file:
                file.write(self._buffer[:size])
            else:
                pieces.append(bytes(self._buffer[:size]))
        return file or b"".join(pieces)


def _nameless(folder: str) -> FileIO:
    return tempfile.TemporaryFile(dir=folder, buffering=0)  # type: ignore[return-value]


def _send(connection: socket.socket, data: bytes | memoryview) -> Events:
    view = memoryview(data)
    while view:
        try:
            view = view[connection.send(view) :]
        except BlockingIOError:
            yield select.EPOLLOUT


def _send_range(connection: socket.socket, stored: Stored, start: int, stop: int) -> Events:
    yield from _send(connection, stored.head if stop - start == stored.size else stored.range_head(start, stop))
    at = 0
    for piece, size in zip(stored.pieces, stored.sizes, strict=True):
        first, last = max(start - at, 0), min(stop - at, size)
        at += size
        if first >= last:
            continue
        if isinstance(piece, bytes):
            yield from _send(connection, memoryview(piece)[first:last])
            continue
        while first < last:
            try:
                first += os.sendfile(connection.fileno(), piece.fileno(), first, last - first)
            except BlockingIOError:
                yield select.EPOLLOUT


def main() -> None:
    """Serve."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = Server(Bucket(int(sys.argv[2])), sys.argv[1])
    print(server.port, flush=True)
    server.run()


if __name__ == "__main__":
    main()
