"""What the fake of Google Cloud Storage stores, and how it is told to behave."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

sys.path.insert(0, str(Path(__file__).parent))
from gcs_fake_identity import Identity  # type: ignore[import-not-found]

_ITEMS = re.compile(r"items\(([^)]*)\)")


class Refusal(Exception):
    """An error to be answered."""

    def __init__(self, status: int, reason: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.code = code or reason  # what the XML API calls it


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Stored:
    """One version of an object; its bytes are in a file of their own."""

    name: str
    generation: int
    created: float
    size: int
    metadata: dict[str, str]
    crc32c: str
    md5: str
    path: Path
    metageneration: int = 1

    def resource(self, bucket: str) -> dict[str, Any]:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.created)) + f".{int(self.created % 1 * 1000):03d}Z"
        found: dict[str, Any] = {
            "kind": "storage#object",
            "name": self.name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "size": str(self.size),
            "timeCreated": stamp,
            "updated": stamp,
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
        }
        return {**found, "metadata": self.metadata} if self.metadata else found


@dataclass
class Upload:
    """Bytes on their way to an object: all at once, or in a resumable session."""

    bucket: str
    resource: dict[str, Any]
    precondition: str | None
    path: Path
    file: BinaryIO
    size: int = 0
    crc32c: Any = field(default_factory=google_crc32c.Checksum)
    md5: Any = field(default_factory=hashlib.md5)
    done: Stored | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.crc32c.update(data)
        self.md5.update(data)
        self.size += len(data)


class Fake:
    """What is stored, and how the fake is told to behave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.sessions: dict[str, Upload] = {}
        self.identity = Identity()
        self.faults: list[dict[str, Any]] = []
        self.fired = 0
        self.log: deque[str] = deque(maxlen=5000)
        self.generation = 0
        self.settings: dict[str, Any] = {}
        self.reset_settings()

    def reset_settings(self) -> None:
        self.settings = {
            "auth": True,  # ask for a bearer token
            "public": [],  # buckets that anybody may read and list
            "xml": True,  # serve the XML API
            "page": 1000,  # most items on one page of a listing
            "honours": ["media", "resumable"],  # uploads that keep to preconditions
            "payer": "",  # the project that has to be named as the one to bill
        }

    # -- what tests tell it -------------------------------------------------------------------------------------------

    def control(self, do: str, arguments: dict[str, Any]) -> Any:
        with self.lock:
            return getattr(self, f"do_{do}")(**arguments)

    def do_bucket(self, name: str) -> None:
        self.buckets[name] = {}

    def do_drop_bucket(self, name: str) -> None:
        for stored in self.buckets.pop(name, {}).values():
            stored.path.unlink()

    def do_set(self, **settings: Any) -> None:
        assert settings.keys() <= self.settings.keys(), settings
        self.settings.update(settings)

    def do_reset(self) -> None:
        self.reset_settings()
        self.faults.clear()
        self.sessions.clear()
        self.fired = 0
        self.log.clear()
        self.identity.reset()

    def do_fault(self, **fault: Any) -> None:
        """Fail where ``match`` finds something in "METHOD target", and Content-Range starts with ``range``; ``times``.

        ``do``: answer a ``status``; ``drop`` the connection, or after the effect, so that the reply is ``lost``;
        ``cut`` it after so many bytes; ``keep`` only so many bytes of a chunk; ``damage`` a byte of a body; send a
        ``short`` answer. Which status, or how many bytes, is its ``value``.
        """
        self.faults.append({"times": 1, **fault})

    def do_seen(self, match: str = "") -> list[str]:
        return [line for line in self.log if re.search(match, line)]

    def do_fired(self) -> int:
        return self.fired

    def do_sessions(self) -> int:
        return sum(upload.done is None for upload in self.sessions.values())

    def do_forget_sessions(self) -> None:
        self.sessions.clear()

    def do_tamper(self, bucket: str, name: str, truncate: bool = False) -> None:
        stored = self.buckets[bucket][name]
        data = stored.path.read_bytes()
        stored.path.unlink()  # who has it open goes on reading what it was
        stored.path.write_bytes(data[:-1] if truncate else bytes([data[0] ^ 1]) + data[1:])

    def do_identity(self, what: str, **arguments: Any) -> Any:
        return getattr(self.identity, what)(**arguments)

    def fault(self, line: str, span: str) -> dict[str, Any] | None:
        with self.lock:
            for fault in self.faults:
                if fault["times"] and re.search(fault["match"], line) and span.startswith(fault.get("range", "")):
                    fault["times"] -= 1
                    self.fired += 1
                    return fault
        return None

    # -- objects ------------------------------------------------------------------------------------------------------

    def objects(self, bucket: str) -> dict[str, Stored]:
        if bucket not in self.buckets:
            raise Refusal(404, "notFound", "The specified bucket does not exist.", "NoSuchBucket")
        return self.buckets[bucket]

    def get(self, bucket: str, name: str, generation: str | None) -> Stored:
        stored = self.objects(bucket).get(name)
        if stored is None or generation not in (None, str(stored.generation)):
            raise Refusal(404, "notFound", f"No such object: {bucket}/{name}", "NoSuchKey")
        return stored

    def check(self, bucket: str, name: str, precondition: str | None) -> None:
        stored = self.objects(bucket).get(name)
        if precondition not in (None, str(stored.generation) if stored else "0"):
            raise Refusal(
                412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.",
            )  # fmt: skip

    def begin(self, bucket: str, resource: dict[str, Any], precondition: str | None) -> Upload:
        with self.lock:
            self.objects(bucket)
        path = self.folder / secrets.token_hex(12)
        return Upload(bucket, resource, precondition, path, path.open("w+b"))

    def abandon(self, upload: Upload) -> None:
        upload.file.close()
        upload.path.unlink(missing_ok=True)

    def commit(self, upload: Upload, kind: str, hashes: str, may: Any) -> Stored:
        """Make an upload an object, when its checksums and its precondition hold."""
        upload.file.close()
        found = {"crc32c": encoded(upload.crc32c.digest()), "md5": encoded(upload.md5.digest())}
        declared = dict(part.strip().split("=", 1) for part in hashes.split(",") if part)
        declared = {
            "crc32c": upload.resource.get("crc32c"),
            "md5": upload.resource.get("md5Hash"),
        } | declared
        try:
            for name, value in declared.items():
                if value is not None and value != found[name]:
                    raise Refusal(
                        400, "invalid",
                        f'Provided {name.upper()} "{value}" doesn\'t match calculated {name.upper()} "{found[name]}".',
                    )  # fmt: skip
            with self.lock:
                name = upload.resource["name"]
                if kind in self.settings["honours"]:
                    self.check(upload.bucket, name, upload.precondition)
                old = self.objects(upload.bucket).get(name)
                if old is not None:
                    may("storage.objects.delete")
                now = time.time()
                self.generation = max(self.generation + 1, int(now * 1e6))
                metadata = upload.resource.get("metadata", {})
                stored = Stored(name, self.generation, now, upload.size, metadata, *found.values(), upload.path)
                self.objects(upload.bucket)[name] = upload.done = stored
                if old is not None:
                    old.path.unlink()
                return stored
        except Refusal:
            upload.path.unlink(missing_ok=True)
            raise

    def list(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        with self.lock:
            objects = dict(self.objects(bucket))
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        names = sorted(name for name in objects if name.startswith(query.get("prefix", "")) and name > after)
        count = min(int(query.get("maxResults", 1000)), self.settings["page"])
        fields = query.get("fields")
        wanted = _ITEMS.search(fields)[1].split(",") if fields else None  # type: ignore[index]
        answer: dict[str, Any] = {"items": [objects[name].resource(bucket) for name in names[:count]]}
        if wanted:
            answer["items"] = [{name: item[name] for name in wanted if name in item} for item in answer["items"]]
        if not answer["items"]:
            del answer["items"]
        if len(names) > count and (fields is None or "nextPageToken" in _ITEMS.sub("", fields)):
            answer["nextPageToken"] = base64.urlsafe_b64encode(names[count - 1].encode()).decode()
        return answer
