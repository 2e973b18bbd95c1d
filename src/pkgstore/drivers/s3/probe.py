"""Finding out what an endpoint keeps to, by racing for keys on it: what it answers to one request alone says little.

All racers of a round send all of their request but its last byte, and then those last bytes in one sweep, so that the
endpoint has every request before it at the same moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pkgstore.driver import MediumError
from pkgstore.drivers.s3 import listing
from pkgstore.drivers.s3.errors import S3Error
from pkgstore.drivers.s3.multipart import Upload
from pkgstore.errors import Denied, Exists, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pkgstore.drivers.http import Pending, Response
    from pkgstore.drivers.s3.bucket import Bucket

_log = logging.getLogger("pkgstore")

_RACERS = 6
_ROUNDS = 8
_RACED = 64 << 10  # bytes of a body: the time it takes to store them is when a race is lost
_LARGE_RACERS = 4
_LARGE_ROUNDS = 6
_LARGE = 8 << 20  # bytes; some endpoints keep small bodies apart, and not large ones
_TRIES = 3
_ALWAYS: dict[str, str] = {}
_ABSENT = {"If-None-Match": "*"}
_IGNORED = "it ignores If-None-Match on PUT"
_UNKNOWN = "it does not know PUT with If-None-Match"
_LOST = (409, 412)
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Found:
    """What an endpoint keeps to.

    Of ``put``, ``complete`` (of a multipart upload) and ``delete``: whether their condition holds, and what was seen
    where it does not. ``conditional``: whether a PUT with a condition is refused where a key was taken long ago.
    ``sorted``: whether it lists by key, and not folder by folder.
    ``folders``: whether a folder that has become empty goes on to take its name.
    """

    put: bool
    put_reason: str
    conditional: bool
    complete: bool
    complete_reason: str
    delete: bool
    delete_reason: str
    sorted: bool
    folders: bool

    def document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def of(cls, document: Any) -> Found | None:
        """Return what a document says, or None when it is not one of ours."""
        if not isinstance(document, dict):
            return None
        values: dict[str, Any] = {each.name: document.get(each.name) for each in fields(cls)}
        if any(type(values[each.name]).__name__ != each.type for each in fields(cls)):
            return None
        return cls(**values)


def probe(bucket: Bucket, where: str, *, thoroughly: bool) -> Found:
    """Try an endpoint out, with objects whose keys begin with ``where``. Raises `MediumError`.

    ``thoroughly``: with large bodies too, as is needed where nothing is known of the service.
    """
    trial = _Trial(bucket, f"{where}{os.urandom(8).hex()}/")
    try:
        put_reason = trial.put() or (trial.put_large() if thoroughly else "")
        complete_reason = trial.complete()
        delete_reason = trial.delete()
        in_order = trial.is_sorted()
        folders = trial.keeps_folders()
    finally:
        trial.clean()
    return Found(
        not put_reason,
        put_reason,
        put_reason not in (_UNKNOWN, _IGNORED),
        not complete_reason,
        complete_reason,
        not delete_reason,
        delete_reason,
        in_order,
        folders,
    )


class _Trial:
    """One probe. Each of its verbs returns what was seen to be wrong, or nothing."""

    def __init__(self, bucket: Bucket, where: str) -> None:
        self._bucket = bucket
        self._where = where
        self._keys: list[str] = []
        self._uploads: list[Upload] = []

    def put(self) -> str:
        key = self._key("put")
        self._put(key, b"first")
        status = self._status(lambda: self._put(key, b"second", _ABSENT))
        if status == 501:
            return _UNKNOWN
        if status not in _LOST:
            return _IGNORED
        return self._race_to_put(_ROUNDS, _RACERS, _RACED)

    def put_large(self) -> str:
        return self._race_to_put(_LARGE_ROUNDS, _LARGE_RACERS, _LARGE)

    def _race_to_put(self, rounds: int, racers: int, size: int) -> str:
        for number in range(rounds):
            key = self._key(f"put-{size}-{number}")
            bodies = [bytes([racer]) * size for racer in range(racers)]
            winners = self._race([(key, "PUT", {}, body) for body in bodies])
            raced = f"{racers} that raced to PUT {size} bytes to one key with If-None-Match"
            if len(winners) > 1:
                return f"of {raced}, {len(winners)} were told that they won"
            if self._bucket.request("GET", key).read() != bodies[winners[0]]:
                return f"of {raced}, the winner's bytes are not what is there"
        return ""

    def complete(self) -> str:
        key = self._key("complete")
        self._put(key, b"first")
        upload = self._uploaded(key, b"second")
        status = self._status(lambda: self._complete(upload))
        if status == 501:
            return "it does not know CompleteMultipartUpload with If-None-Match"
        if status not in _LOST:
            self._uploads.remove(upload)
            return "it ignores If-None-Match on CompleteMultipartUpload"
        for number in range(_ROUNDS):
            key = self._key(f"complete-{number}")
            bodies = [bytes([racer]) * _RACED for racer in range(_RACERS)]
            uploads = [self._uploaded(key, body) for body in bodies]
            winners = self._race([(key, "POST", {"uploadId": each.id}, each.document()) for each in uploads])
            for winner in winners:
                self._uploads.remove(uploads[winner])
            if len(winners) > 1:
                return (
                    f"of {_RACERS} that raced to complete an upload of one key with If-None-Match, {len(winners)} were"
                    " told that they won"
                )
            if winners and self._bucket.request("GET", key).read() != bodies[winners[0]]:
                return "what a race to complete uploads of one key left there is not what its winner sent"
        return ""

    def delete(self) -> str:
        key = self._key("delete")
        stale = self._put(key, b"first")
        self._put(key, b"second")
        try:
            status = self._status(lambda: self._delete(key, {"If-Match": stale}))
        except MediumError as exc:
            if exc.kind is not Denied:
                raise
            return "the credentials may not delete, so that it was not tried"
        if status == 501:
            return "it does not know DELETE with If-Match"
        if status != 412 or self._status(lambda: self._bucket.request("HEAD", key).close()) != 200:
            return "it ignores If-Match on DELETE"
        fresh = self._put(key, b"third")
        self._status(lambda: self._delete(key, {"If-Match": fresh}))
        if self._status(lambda: self._bucket.request("HEAD", key).close()) != 404:
            return "it refuses DELETE with an If-Match that holds"
        return ""

    def is_sorted(self) -> bool:
        """Say whether a listing is sorted by key."""
        keys = [self._key("list/a-x"), self._key("list/a/x")]
        for key in keys:
            self._put(key, b"1")
        return [name for name, *_ in listing.objects(self._bucket, f"{self._where}list/")] == keys

    def keeps_folders(self) -> bool:
        """Say whether what was a folder cannot be a key."""
        inside, folder = self._key("folder/a/x"), self._key("folder/a")
        self._put(inside, b"1")
        try:
            self._delete(inside, {})
        except MediumError as exc:
            if exc.kind is not Denied:
                raise
            return False
        return self._status(lambda: self._put(folder, b"2", _ABSENT)) in _LOST

    def clean(self) -> None:
        """Remove what the probe made, or as much of it as the endpoint lets us in good time."""
        deadline = time.monotonic() + self._bucket.timeout
        for upload in self._uploads:
            if time.monotonic() < deadline:
                upload.abort()
        for key in self._keys:
            if time.monotonic() >= deadline:
                _log.warning("what a probe left below %s is not removed: there was no time", self._where)
                return
            try:
                self._delete(key, {})
            except MediumError as exc:
                if exc.kind is not NotFound:
                    _log.warning("%s, left by a probe, cannot be removed: %s; %s", key, exc, exc.remedy)

    def _key(self, name: str) -> str:
        self._keys.append(f"{self._where}{name}")
        return self._keys[-1]

    def _put(self, key: str, data: bytes, headers: Mapping[str, str] = _ALWAYS) -> str:
        answer = self._bucket.request("PUT", key, None, headers, data, payload=hashlib.sha256(data).hexdigest())
        answer.read()
        return answer.headers.get("ETag") or ""

    def _delete(self, key: str, headers: Mapping[str, str]) -> None:
        self._bucket.request("DELETE", key, None, headers).close()

    def _uploaded(self, key: str, data: bytes) -> Upload:
        upload = Upload(self._bucket, key, {})
        self._uploads.append(upload)
        upload.send(_Bytes(data), len(data))
        return upload

    def _complete(self, upload: Upload) -> None:
        self._bucket.request("POST", upload.key, {"uploadId": upload.id}, _ABSENT, upload.document()).read()

    def _status(self, call: Callable[[], object]) -> int:
        """Return the status of an answer that may be a refusal, and is not one for want of permission or room."""
        try:
            call()
        except S3Error as exc:
            if exc.kind in (Exists, NotFound) or exc.status in (409, 501) or exc.code == "NotImplemented":
                return exc.status
            raise
        return 200

    def _race(self, racers: list[tuple[str, str, dict[str, str], bytes]]) -> list[int]:
        """Send requests that exclude each other, all at one moment; return the numbers of those that succeeded."""
        for _ in range(_TRIES):
            statuses = []
            with self._bucket.talking(), contextlib.ExitStack() as failing:
                pending = []
                for racer in racers:
                    pending.append(self._all_but_last_byte(*racer))
                    failing.callback(pending[-1].abandon)
                for each, (_, _, _, body) in zip(pending, racers, strict=True):
                    each.send([body[-1:]])
                for each, (key, method, _, _) in zip(pending, racers, strict=True):
                    statuses.append(self._judged(each.answer(), method, key))
                failing.pop_all()
            if 200 in statuses:
                return [number for number, status in enumerate(statuses) if status == 200]
        raise MediumError(
            Unavailable,
            f"{self._bucket.endpoint} let none of {len(racers)} that raced for one key win ({sorted(set(statuses))})",
            "see its log, and try again",
        )

    def _judged(self, answer: Response, method: str, key: str) -> int:
        """Return the status of a racer's answer; 500 for an error that comes after a good one."""
        if answer.status == 200:
            return 500 if b"<Error>" in answer.read() else 200
        error = self._bucket.refused(answer, method, key)
        if answer.status not in (*_LOST, *_BUSY):
            raise error
        return answer.status

    def _all_but_last_byte(self, key: str, method: str, query: dict[str, str], body: bytes) -> Pending:
        headers = {**_ABSENT, "Content-Length": str(len(body))}
        payload = hashlib.sha256(body).hexdigest()
        return self._bucket.begin(method, key, query, headers, iter([body[:-1]]), payload=payload)


class _Bytes:
    """A body that needs no judging."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1, /) -> bytes:
        data, self._data = self._data, b""
        return data

    def finish(self) -> dict[str, str]:
        return {}
