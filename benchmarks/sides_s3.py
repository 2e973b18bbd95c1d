"""Clients of S3 as sides of a comparison, and the smallest program that does the same. Each is imported when used.

The endpoint and the credentials are in the environment, as AWS's tools have them.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from sides import MIB, Side

if TYPE_CHECKING:
    from pathlib import Path

BUCKET = "bench"
_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class InBucket(Side):
    """A side whose blobs are objects in a bucket."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        super().__init__(folder, *arguments)
        self._held: set[str] = set()

    def list(self, prefix: str) -> int:
        """Return how many objects have keys that start with ``prefix``, having looked at every one."""
        raise NotImplementedError

    def do_list(self, prefix: str, count: int) -> list[float]:
        """Return seconds for each listing of ``count`` objects."""
        began = time.perf_counter()
        found = self.list(prefix)
        taken = time.perf_counter() - began
        assert found == count, f"{found} objects listed, not {count}"
        return [taken]

    def do_read_in_threads(self, size: int, count: int, threads: int) -> list[float]:
        """Return the seconds per blob of ``threads`` threads that read ``count`` blobs each."""
        name = self._there(size)

        def several() -> None:
            for _ in range(count):
                read = self.read(name)
                assert len(read) == size, f"{len(read)} bytes read, not {size}"

        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            for each in [pool.submit(several) for _ in range(threads)]:
                each.result()
            return [(time.perf_counter() - began) / count / threads]

    def _there(self, size: int) -> str:
        name = f"read/{os.getpid()}-{size}.whl"
        if name not in self._held:
            self.publish(name, os.urandom(size))
            self._held.add(name)
        return name


class Boto3(InBucket):
    """boto3's client, one request for each blob: overwrites; digests are those of the transfer only."""

    def __init__(self, folder: Path) -> None:
        import boto3
        from botocore.config import Config

        super().__init__(folder)
        self._client = boto3.client("s3", config=Config(max_pool_connections=16))

    def publish(self, name: str, body: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=name, Body=body)

    def read(self, name: str) -> bytes:
        return self._client.get_object(Bucket=BUCKET, Key=name)["Body"].read()  # type: ignore[no-any-return]

    def drop(self, name: str) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=name)

    def list(self, prefix: str) -> int:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sum(1 for page in pages for _ in page["Contents"])


class Boto3Transfer(Boto3):
    """boto3's transfer manager: large blobs in parts, by ten threads."""

    def publish(self, name: str, body: bytes) -> None:
        self._client.upload_fileobj(io.BytesIO(body), BUCKET, name)

    def read(self, name: str) -> bytes:
        target = io.BytesIO()
        self._client.download_fileobj(BUCKET, name, target)
        return target.getvalue()


class S3fs(InBucket):
    """s3fs: overwrites; digests are those of the transfer only."""

    def __init__(self, folder: Path) -> None:
        import s3fs

        super().__init__(folder)
        self._fs = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)

    def publish(self, name: str, body: bytes) -> None:
        self._fs.pipe_file(f"{BUCKET}/{name}", body)

    def read(self, name: str) -> bytes:
        return self._fs.cat_file(f"{BUCKET}/{name}")  # type: ignore[no-any-return]

    def drop(self, name: str) -> None:
        self._fs.rm_file(f"{BUCKET}/{name}")


class Obstore(InBucket):
    """obstore: overwrites; digests are those of the transfer only. What is read stays in its own buffer."""

    def __init__(self, folder: Path) -> None:
        import obstore
        from obstore.store import S3Store

        super().__init__(folder)
        self._obstore = obstore
        self._store = S3Store(
            BUCKET, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True, "timeout": "60s"}
        )

    def publish(self, name: str, body: bytes) -> None:
        self._obstore.put(self._store, name, body)

    def read(self, name: str) -> bytes:
        return self._obstore.get(self._store, name).bytes()  # type: ignore[return-value]

    def drop(self, name: str) -> None:
        self._obstore.delete(self._store, name)

    def list(self, prefix: str) -> int:
        return sum(1 for chunk in self._obstore.list(self._store, prefix) for _ in chunk)


class FloorInBucket(InBucket):
    """The smallest program: signed requests over one socket for each thread, with nothing checked but the digest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        self._region = os.environ["AWS_DEFAULT_REGION"]
        self._day, self._key = "", b""
        self._own = threading.local()

    def publish(self, name: str, body: bytes) -> None:
        digest = hashlib.sha256(body).hexdigest()
        extra = f"if-none-match:*\nx-amz-content-sha256:{digest}"
        self._ask("PUT", f"/{BUCKET}/{quote(name)}", "", extra, digest, body)

    def read(self, name: str) -> bytes:
        body = self._ask("GET", f"/{BUCKET}/{quote(name)}")
        hashlib.sha256(body).hexdigest()
        return body

    def drop(self, name: str) -> None:
        self._ask("DELETE", f"/{BUCKET}/{quote(name)}")

    def list(self, prefix: str) -> int:
        found, query = 0, {"list-type": "2", "prefix": prefix}
        while True:
            body = self._ask("GET", f"/{BUCKET}/", urlencode(sorted(query.items()), quote_via=quote, safe="~"))
            root = ElementTree.fromstring(body)
            for each in root.iter(f"{_SPACE}Contents"):
                text = each.findtext
                _ = text(f"{_SPACE}Key"), text(f"{_SPACE}LastModified"), text(f"{_SPACE}ETag")
                int(text(f"{_SPACE}Size") or 0)
                found += 1
            token = root.findtext(f"{_SPACE}NextContinuationToken")
            if not token:
                return found
            query["continuation-token"] = token

    def _ask(
        self,
        method: str,
        path: str,
        query: str = "",
        extra: str = "x-amz-content-sha256:UNSIGNED-PAYLOAD",
        payload: str = "UNSIGNED-PAYLOAD",
        body: bytes = b"",
    ) -> bytes:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        if self._day != now[:8]:
            self._day, self._key = now[:8], self._signing_key(now[:8])
        headers = "\n".join(sorted(["host:" + self._host, "x-amz-date:" + now, *extra.split("\n")]))
        names = ";".join(line.partition(":")[0] for line in headers.split("\n"))
        canonical = f"{method}\n{path}\n{query}\n{headers}\n\n{names}\n{payload}"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}"
        lines = [
            f"{method} {path}{query and '?'}{query} HTTP/1.1",
            *headers.split("\n"),
            f"authorization:AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}",
        ]
        if method == "PUT":
            lines.append(f"content-length:{len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        return self._exchange(head, body)

    def _exchange(self, head: bytes, body: bytes) -> bytes:
        connection = self._connection()
        if len(body) < MIB:
            connection.sendall(head + body)
        else:
            connection.sendall(head)
            connection.sendall(body)
        received = connection.recv(1 << 16)
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += connection.recv(1 << 16)
        start = received[end + 4 :]
        assert received[9:10] == b"2", received[:end].decode()
        at = received.find(b"Content-Length: ", 0, end)
        length = int(received[at + 16 : received.index(b"\r\n", at)]) if at >= 0 else 0
        if len(start) == length:
            return start
        whole = bytearray(length)
        view = memoryview(whole)
        view[: len(start)] = start
        at = len(start)
        while at < length:
            at += connection.recv_into(view[at:])
        return whole  # type: ignore[return-value]

    def _connection(self) -> socket.socket:
        found: socket.socket | None = getattr(self._own, "connection", None)
        if found is None:
            host, _, port = self._host.partition(":")
            found = self._own.connection = socket.create_connection((host, int(port)))
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    def _signing_key(self, day: str) -> bytes:
        key = f"AWS4{os.environ['AWS_SECRET_ACCESS_KEY']}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key
