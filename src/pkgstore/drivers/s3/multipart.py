"""Large bodies: uploaded in parts, several at a time, and made visible by one conditional completion.

An upload is aborted only while no completion of it can be under way: on some endpoints an abort that races a completion
loses the data of an object that is there for all to see. One whose completion went unanswered is left as it is.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from base64 import b64encode
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from pkgstore.driver import MediumError
from pkgstore.drivers.s3.errors import S3Error, modified, refusal
from pkgstore.drivers.s3.leftovers import DAY, LIFETIME
from pkgstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from pkgstore.driver import Blob, Body
    from pkgstore.drivers.s3.bucket import Bucket

_log = logging.getLogger("pkgstore")

MOST_PARTS = 10_000
_IN_FLIGHT = 4
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_ABORTED_WITHIN = 5.0


class Upload:
    """A multipart upload to ``key``, of an object that will carry ``headers``.

    Its requests but the first may be sent again, by itself, for as long as the bucket's timeout says.
    ``may_be_complete``: whether a completion that went unanswered has taken effect, or may yet.
    """

    def __init__(self, bucket: Bucket, key: str, headers: Mapping[str, str]) -> None:
        self._bucket = bucket
        self.key = key
        self._tags: dict[int, str] = {}
        self.may_be_complete = False
        self._began = _clock()
        with bucket.talking():
            body = bucket.request("POST", key, {"uploads": ""}, headers).read()
        self.id = _text(body, "UploadId")

    def send(self, body: Body, part_size: int) -> Mapping[str, str]:
        """Upload the whole body, in parts of so many bytes; return its digests. When that fails, all is aborted."""
        pending: deque[Future[None]] = deque()
        stop = threading.Event()
        try:
            with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="pkgstore-part") as pool:
                try:
                    number = 0
                    while part := _next_part(body, part_size):
                        if len(pending) == _IN_FLIGHT:
                            pending.popleft().result()
                        number += 1
                        pending.append(pool.submit(self._send_part, number, part, stop))
                    digests = body.finish()
                    while pending:
                        pending.popleft().result()
                except BaseException:
                    stop.set()
                    raise
        except BaseException:
            self.abort()
            raise
        return digests

    def complete(self, condition: Mapping[str, str], landed: Callable[[], Blob | None]) -> Blob | tuple[str, float]:
        """Make the object visible where ``condition`` allows; return its ETag, and the endpoint's time.

        ``landed`` tells whether it is visible already: then what it returns is returned. Raises `S3Error` for a
        refusal, and `MediumError` where the outcome is not known.
        """
        document = self.document()
        pauses = _pauses(time.monotonic() + self._bucket.timeout)
        while True:
            if _clock() - self._began > LIFETIME:  # before each try: the process may have stood still
                raise MediumError(
                    Unavailable,
                    f"the multipart upload {self.id} was begun more than {LIFETIME / DAY:.0f} day ago, and is given up",
                    "publish it again, over a faster network",
                )
            before = self.may_be_complete
            self.may_be_complete = True
            try:
                return self._complete_once(condition, document)
            except S3Error as exc:
                # What was answered with a definite no has not taken effect.
                self.may_be_complete = before or exc.status in (200, 500, 502, 504)
                pause = next(pauses)
                if exc.kind is not Unavailable or exc.code == "NoSuchUpload" or exc.status == 409 or pause is None:
                    raise
            except MediumError as exc:
                pause = next(pauses)
                if exc.kind is not Unavailable or pause is None:
                    raise
            blob = _if_answered(landed)
            if blob is not None:
                return blob
            time.sleep(pause)

    def document(self) -> bytes:
        """The body of a completion."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(self._tags[number])}</ETag></Part>"
            for number in sorted(self._tags)
        )
        return (
            '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"{parts}</CompleteMultipartUpload>"
        ).encode()

    def _complete_once(self, condition: Mapping[str, str], document: bytes) -> tuple[str, float]:
        bucket = self._bucket
        with bucket.talking():
            answer = bucket.request("POST", self.key, {"uploadId": self.id}, condition, document)
            body = answer.read()
        if _name(body) == "Error":  # which may come after a good status
            raise refusal(
                answer.status,
                answer.headers,
                body,
                action="POST",
                method="POST",
                bucket=bucket.name,
                endpoint=bucket.endpoint,
            )
        return _text(body, "ETag").strip('"'), modified(answer.headers, "Date")

    def abort(self) -> None:
        """End the upload, unless a completion of it may have taken effect, or may yet."""
        if self.may_be_complete:
            _log.warning("the multipart upload %s of %s is left, as it may be complete", self.id, self.key)
            return
        pauses = _pauses(time.monotonic() + min(self._bucket.timeout, _ABORTED_WITHIN))
        while True:
            try:
                self._bucket.request("DELETE", self.key, {"uploadId": self.id}, action="ABORT").close()
            except MediumError as exc:
                if isinstance(exc, S3Error) and exc.status == 404:
                    return
                busy = isinstance(exc, S3Error) and exc.kind is Unavailable
                pause = next(pauses) if busy else None
                if pause is None:
                    _log.warning("the multipart upload %s of %s is left: %s", self.id, self.key, exc)
                    return
            else:
                return
            time.sleep(pause)

    def _send_part(self, number: int, part: bytes, stop: threading.Event) -> None:
        query = {"partNumber": str(number), "uploadId": self.id}
        headers = {"Content-MD5": b64encode(md5(part, usedforsecurity=False).digest()).decode()}
        pauses = _pauses(time.monotonic() + self._bucket.timeout)
        while True:
            try:
                with self._bucket.talking():
                    answer = self._bucket.request("PUT", self.key, query, headers, part)
                    answer.read()
                if not answer.headers.get("ETag"):
                    raise MediumError(
                        Unavailable, f"{self._bucket.endpoint} confirms a part without an ETag", "check endpoint_url"
                    )
            except MediumError as exc:
                pause = next(pauses)
                if exc.kind is not Unavailable or getattr(exc, "code", "") == "NoSuchUpload" or pause is None:
                    raise
                if stop.wait(pause):
                    raise
            else:
                self._tags[number] = answer.headers["ETag"]
                return


def _clock() -> float:
    """A time in seconds that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


def _pauses(deadline: float) -> Iterator[float | None]:
    """Yield the seconds to wait after a try that failed, before the next; None when there is no time for one."""
    pause = _FIRST_PAUSE
    while time.monotonic() + pause < deadline:
        yield pause * random.uniform(0.5, 1)
        pause = min(2 * pause, _LONGEST_PAUSE)
    yield None


def _if_answered(landed: Callable[[], Blob | None]) -> Blob | None:
    """Return what has landed; None, too, while the endpoint does not say."""
    try:
        return landed()
    except MediumError as exc:
        if exc.kind is not Unavailable:
            raise
        return None


def _next_part(body: Body, size: int) -> bytes:
    chunks, left = [], size
    while left and (chunk := body.read(left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _name(document: bytes) -> str:
    try:
        return ElementTree.fromstring(document).tag.rpartition("}")[2]
    except ElementTree.ParseError:
        return "Error"


def _text(document: bytes, name: str) -> str:
    try:
        found = ElementTree.fromstring(document).findtext(f"{{*}}{name}")
    except ElementTree.ParseError:
        found = None
    if not found:
        raise MediumError(
            Unavailable,
            f"the endpoint's answer to a multipart upload has no {name}",
            "check endpoint_url, or see its log",
        )
    return found
