"""Google Cloud Storage, as far as the tests need it: strict, shared by processes, with the bodies on disk.

Run as a program: ``gcs_fake.py PORT FOLDER``. It serves the JSON API, the XML API's GET, and beside them what hands out
credentials (see `gcs_fake_identity`). ``POST /control`` tells it what to do; see `Fake.control`.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import json
import re
import secrets
import sys
import urllib.parse
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).parent))
from gcs_fake_objects import Fake, Refusal, Stored, Upload  # type: ignore[import-not-found]

_CHUNK = 256 << 10
_PRECONDITION = "ifGenerationMatch"


class Vanish(Exception):
    """The connection is to be closed without a reply."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    fake: Fake

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def serve(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        self.short: int | None = None
        self.keep: int | None = None
        self.lost = False
        line = f"{self.command} {self.path}"
        fault = None
        if parts.path != "/control":
            self.fake.log.append(line)
            fault = self.fake.fault(line, self.headers.get("Content-Range", ""))
        try:
            self.body = self.receive(fault)
            if fault and fault["do"] == "status":
                raise Refusal(fault["value"], fault.get("reason", "backendError"), fault.get("message", "as was asked"))
            self.route(parts.path)
        except Refusal as exc:
            self.refuse(exc, xml=not re.match("/(upload/|download/)?storage/", parts.path))
        except Vanish:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815

    def receive(self, fault: dict[str, Any] | None) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise Refusal(411, "required", "a body needs a Content-Length")
        length = int(self.headers.get("Content-Length") or 0)
        do = fault["do"] if fault else ""
        if do == "drop":
            raise Vanish
        if do in ("short", "keep"):
            setattr(self, do, fault["value"])  # type: ignore[index]
        self.lost = do == "lost"
        if do == "cut":
            self.keep = length = fault["value"]  # type: ignore[index]
        data = self.rfile.read(length)
        if len(data) != length:
            raise Vanish
        if do == "damage":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if do == "cut":
            if "upload_id" in self.query:
                self.resume(data, gone=True)
            raise Vanish
        return data

    def reply(self, status: int, content: object = b"", **headers: str) -> None:
        if self.lost:
            raise Vanish
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, exc: Refusal, *, xml: bool) -> None:
        if xml:
            text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{exc.code}</Code><Message>{exc.message}"
            self.reply(exc.status, f"{text}</Message></Error>".encode(), Content_Type="application/xml")
        else:
            errors = [{"message": exc.message, "domain": "global", "reason": exc.reason}]
            body = {"error": {"code": exc.status, "message": exc.message, "errors": errors}}
            self.reply(exc.status, body, Content_Type="application/json; charset=UTF-8")

    # -- which request it is ------------------------------------------------------------------------------------------

    def route(self, path: str) -> None:
        if path == "/control":
            answer = self.fake.control(**json.loads(self.body))
            return self.reply(200, answer)
        status, identity = self.fake.identity.answer(self.command, self.path, self.headers, self.body)
        if status:
            kind = "text/plain" if isinstance(identity, bytes) else "application/json"
            return self.reply(status, identity, Metadata_Flavor="Google", Content_Type=kind)
        match = re.fullmatch(r"/(upload/|download/)?storage/v1/b/([^/]+)/o(?:/([^/]+))?", path)
        if match:
            kind, bucket, name = match[1], match[2], urllib.parse.unquote(match[3] or "")
            if kind == "upload/":
                return self.upload(bucket)
            return self.json_object(bucket, name) if name else self.json_list(bucket)
        match = re.fullmatch(r"/([^/]+)/(.+)", path)
        if match and self.command == "GET" and self.fake.settings["xml"]:
            return self.xml_get(match[1], urllib.parse.unquote(match[2]), path)
        return self.reply(404, b"Not Found", Content_Type="text/plain")

    def may(self, permission: str, bucket: str) -> None:
        """Refuse whoever asks without a permission."""
        settings = self.fake.settings
        payer = settings["payer"]
        if payer and self.headers.get("x-goog-user-project") != payer:
            message = "Bucket is a requester pays bucket but no user project provided."
            raise Refusal(400, "required", message, "UserProjectMissing")
        if not settings["auth"]:
            return
        given = self.headers.get("Authorization")
        who, permissions = "Anonymous caller", {"storage.objects.get", "storage.objects.list"}
        if given is None:
            if bucket not in settings["public"]:
                permissions = set()
        else:
            found = self.fake.identity.whose(given)
            if found is None:
                raise Refusal(401, "authError", "Invalid Credentials", "AuthenticationRequired")
            who, permissions = found
        if permission not in permissions:
            message = (
                f"{who} does not have {permission} access to the Google Cloud Storage object. Permission"
                f" '{permission}' denied on resource (or it may not exist)."
            )
            raise Refusal(401 if given is None else 403, "required" if given is None else "forbidden", message)

    def only(self, *names: str) -> None:
        """Refuse parameters that are not known."""
        unknown = self.query.keys() - set(names)
        if unknown:
            raise Refusal(400, "invalidParameter", f"unknown parameters {sorted(unknown)}")

    # -- objects ------------------------------------------------------------------------------------------------------

    def json_list(self, bucket: str) -> None:
        self.only("prefix", "maxResults", "pageToken", "fields")
        self.may("storage.objects.list", bucket)
        self.reply(200, self.fake.list(bucket, self.query))

    def found(self, bucket: str, name: str) -> Stored:
        """Return an object. That there is none is told only to those who may list."""
        try:
            return self.fake.get(bucket, name, self.query.get("generation"))
        except Refusal:
            self.may("storage.objects.list", bucket)
            raise

    def json_object(self, bucket: str, name: str) -> None:
        self.only("alt", "generation", "fields", _PRECONDITION)
        fake, verb = self.fake, {"GET": "get", "DELETE": "delete", "PATCH": "update"}[self.command]
        self.may(f"storage.objects.{verb}", bucket)
        with fake.lock:
            stored = self.found(bucket, name)
            fake.check(bucket, name, self.query.get(_PRECONDITION))
            if self.command == "DELETE":
                del fake.buckets[bucket][name]
                stored.path.unlink()
                return self.reply(204)
            if self.command == "PATCH":
                stored.metadata = {**stored.metadata, **json.loads(self.body)["metadata"]}
                stored.metageneration += 1
            resource = stored.resource(bucket)
            file = stored.path.open("rb")
        with file:
            if self.query.get("alt") == "media":
                return self.media(stored, file, {})
        return self.reply(200, resource)

    def xml_get(self, bucket: str, name: str, path: str) -> None:
        if "X-Goog-Signature" in self.query:
            problem = self.fake.identity.refused_signature(path, self.headers["Host"], self.query)
            if problem:
                raise Refusal(403, "forbidden", problem, "SignatureDoesNotMatch")
        else:
            self.only("generation")
            self.may("storage.objects.get", bucket)
        with self.fake.lock:
            stored = self.found(bucket, name)
            headers = {f"x-goog-meta-{name}": value for name, value in stored.metadata.items()}
            headers["Last-Modified"] = email.utils.formatdate(stored.created, usegmt=True)
            file = stored.path.open("rb")
        with file:
            self.media(stored, file, headers)

    def media(self, stored: Stored, file: BinaryIO, headers: dict[str, str]) -> None:
        start, stop, status = 0, stored.size, 200
        given = self.headers.get("Range")
        if given:
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", given)
            if not match or int(match[1]) >= stored.size:
                raise Refusal(416, "requestedRangeNotSatisfiable", "Request range not satisfiable", "InvalidRange")
            start, stop, status = int(match[1]), min(int(match[2] or stored.size) + 1, stored.size), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{stored.size}"}
        there = file.seek(0, 2)
        stop = min(stop, there)
        self.send_response(status)
        for name, value in {
            "x-goog-generation": str(stored.generation),
            "x-goog-metageneration": str(stored.metageneration),
            "x-goog-hash": f"crc32c={stored.crc32c},md5={stored.md5}",
            "x-goog-stored-content-length": str(stored.size),
            "Content-Length": str(stop - start),
            "Content-Type": "application/octet-stream",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()
        if self.short is not None:
            stop = min(stop, start + self.short)
            self.close_connection = True
        if stop > start:
            self.connection.sendfile(file, start, stop - start)

    # -- uploads ------------------------------------------------------------------------------------------------------

    def upload(self, bucket: str) -> None:
        fake = self.fake
        if "upload_id" in self.query:
            return self.resume(self.body)
        self.only("uploadType", "name", _PRECONDITION, "fields")
        self.may("storage.objects.create", bucket)
        precondition = self.query.get(_PRECONDITION)
        if self.query["uploadType"] == "resumable":
            resource = json.loads(self.body)
            with fake.lock:
                if "resumable" in fake.settings["honours"]:
                    fake.check(bucket, resource["name"], precondition)
            session = secrets.token_hex(12)
            fake.sessions[session] = fake.begin(bucket, resource, precondition)
            target = f"{self.path.partition('?')[0]}?uploadType=resumable&upload_id={session}"
            return self.reply(200, Location=f"http://{self.headers['Host']}{target}")
        if self.query["uploadType"] != "multipart":
            raise Refusal(400, "invalid", "uploadType")
        resource, content = self.multipart()
        upload = fake.begin(bucket, resource, precondition)
        upload.write(content)
        stored = fake.commit(upload, "media", "", lambda permission: self.may(permission, bucket))
        return self.reply(200, stored.resource(bucket))

    def multipart(self) -> tuple[dict[str, Any], bytes]:
        match = re.fullmatch(r'multipart/related; boundary="?([^";]+)"?', self.headers["Content-Type"])
        if not match:
            raise Refusal(400, "invalid", "no multipart/related")
        mark = b"--" + match[1].encode()
        head, rest = self.body.split(b"\r\n\r\n", 1)
        resource, content = rest.split(b"\r\n" + mark + b"\r\n", 1)
        _, content = content.split(b"\r\n\r\n", 1)
        if not head.startswith(mark + b"\r\n") or not content.endswith(b"\r\n" + mark + b"--\r\n"):
            raise Refusal(400, "invalid", "malformed multipart body")
        return json.loads(resource), content[: -len(mark) - 6]

    def resume(self, data: bytes, *, gone: bool = False) -> None:
        """Take a chunk of a session, or tell where it stands. ``gone`` is for a chunk whose sender is gone."""
        upload = self.fake.sessions.get(self.query["upload_id"])
        if upload is None:
            raise Refusal(404, "notFound", "no such upload session")
        self.may("storage.objects.create", upload.bucket)
        with upload.lock:
            if upload.done is not None:
                return self.reply(200, upload.done.resource(upload.bucket))
            match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers["Content-Range"])
            if not match:
                raise Refusal(400, "badContentRange", self.headers["Content-Range"])
            total = None if match[3] == "*" else int(match[3])
            if match[1] is not None:
                self.take(upload, data, int(match[1]), int(match[2]), total, gone=gone)
            if upload.size != total or gone:
                at = {"Range": f"bytes=0-{upload.size - 1}"} if upload.size else {}
                return None if gone else self.reply(308, **at)
            bucket, hashes = upload.bucket, self.headers.get("X-Goog-Hash", "")
            try:
                stored = self.fake.commit(upload, "resumable", hashes, lambda name: self.may(name, bucket))
            except Refusal:
                del self.fake.sessions[self.query["upload_id"]]
                raise
            return self.reply(200, stored.resource(bucket))

    def take(self, upload: Upload, data: bytes, first: int, last: int, total: int | None, *, gone: bool) -> None:
        if first > upload.size:
            raise Refusal(400, "badContentRange", f"{first} is beyond the {upload.size} bytes received")
        if not gone and last - first + 1 != len(data):
            raise Refusal(400, "badContentRange", "the body is not as long as its range")
        if total is not None and last + 1 > total:
            raise Refusal(400, "badContentRange", "beyond the total")
        if not gone and last + 1 != total and len(data) % _CHUNK:
            raise Refusal(400, "invalid", "the chunk is no multiple of 256 KiB")
        if self.keep is not None:
            data = data[: self.keep // _CHUNK * _CHUNK]
        upload.write(data[upload.size - first :])


class Server(http.server.ThreadingHTTPServer):
    """A thread for every connection."""

    daemon_threads = True
    request_queue_size = 512


def main(port: str, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    Handler.fake = Fake(Path(folder))
    Server(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
