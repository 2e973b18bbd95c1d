"""The verbs over one bucket."""

from __future__ import annotations

import http.client
from base64 import b64encode
from hashlib import md5
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

from pkgstore import keys
from pkgstore.driver import Blob, Leftover, MediumError
from pkgstore.drivers.http import Nothing
from pkgstore.drivers.s3 import dialects, listing
from pkgstore.drivers.s3.errors import S3Error, modified
from pkgstore.drivers.s3.leftovers import uploads
from pkgstore.drivers.s3.multipart import MOST_PARTS, Upload
from pkgstore.drivers.s3.probe import Found, probe
from pkgstore.errors import Exists, InvalidKey, Misconfigured, NotFound, StoreError, Unavailable, Unsupported
from pkgstore.hashing import ALGORITHMS, is_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pkgstore.driver import Body
    from pkgstore.drivers.http import Response
    from pkgstore.drivers.s3.bucket import Bucket
    from pkgstore.drivers.s3.dialects import Dialect

MiB = 1 << 20
LARGEST_PUT = 5 << 30
LONGEST_KEY = 1024
_PROBED_WITHIN = 60.0  # seconds: some endpoints take long over the first writes to a bucket, and over a race
_LONGEST_SIGNED = 7 * 86_400
_SENT_WHOLE = 8 * MiB
_MARK = "x-amz-meta-pkgstore-"
_TOKEN = f"{_MARK}token"
_CONTROL_PREFIX = f"{keys.CONTROL}/"
_ABSENT = {"If-None-Match": "*"}
_UNTOLD: Mapping[str, str] = {}  # the digests of whatever is listed


class S3Driver:
    """Blobs are objects at their own keys below ``prefix``, which is empty or ends with a slash.

    A blob's digests, and the token of the publish that wrote it, are in its metadata. Its tag is the ETag.
    """

    scheme = "s3"
    streams = False

    def __init__(
        self, bucket: Bucket, prefix: str, dialect: str | None, *, part_size: int, single_writer: bool
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._dialect_name = dialect
        self._part_size = part_size
        self._single_writer = single_writer
        self._found: Found | None = None

    @property
    def spool_digests(self) -> frozenset[str]:
        """What one PUT of a large body has to declare."""
        return frozenset() if self._completes_once else frozenset({"md5"})

    # -- what the endpoint keeps to -----------------------------------------------------------------------------------

    @property
    def exclusive(self) -> bool:
        if not self._single_writer and not self._findings.put:
            raise Unsupported(
                f"the endpoint {self._bucket.endpoint} cannot publish once: {self._findings.put_reason};"
                " use another service, or say single_writer=true where no two processes ever write"
            )
        return True

    def probe(self) -> dict[str, Any]:
        """Race for keys at the endpoint; return what was found."""
        patient = self._bucket.with_timeout(max(self._bucket.timeout, _PROBED_WITHIN))
        where = f"{self._prefix}{_CONTROL_PREFIX}probe/"
        try:
            self._found = probe(patient, where, thoroughly=self._dialect is dialects.GENERIC)
        finally:
            patient.close()
        return {self._bucket.endpoint: self._found.document()}

    def recall(self, found: dict[str, Any]) -> bool:
        """Take what an earlier probe found at this endpoint."""
        self._found = Found.of(found.get(self._bucket.endpoint))
        return self._found is not None

    @property
    def _findings(self) -> Found:
        if self._found is None:
            self.probe()
        return cast("Found", self._found)

    @property
    def _dialect(self) -> Dialect:
        return dialects.find(self._dialect_name, urlsplit(self._bucket.endpoint).hostname or "")

    @property
    def _completes_once(self) -> bool:
        return self._dialect.completes_once and self._findings.complete

    # -- the verbs ----------------------------------------------------------------------------------------------------

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        assert size is not None
        if len((self._prefix + key).encode()) > LONGEST_KEY:
            raise MediumError(
                InvalidKey,
                f"it is longer, with the store's prefix, than the {LONGEST_KEY} bytes of S3",
                "choose a shorter",
            )
        headers = {_TOKEN: token, **{f"{_MARK}{name}": value for name, value in digests.items()}}
        headers["Content-Type"] = "application/octet-stream"
        in_parts = size > min(self._part_size, _SENT_WHOLE) and self._completes_once
        if exclusive and (in_parts or size > _SENT_WHOLE or not self._findings.conditional):
            there = self._there(key)
            if there is not None:
                return self._ours(there, token)
        if not in_parts:
            return self._put_whole(key, body, size, headers, digests, token, exclusive=exclusive)
        if size > self._part_size * MOST_PARTS:
            raise Unsupported(
                f"{size} bytes are more than {MOST_PARTS} parts of {self._part_size} bytes: raise part_size in the URL"
            )
        upload = Upload(self._bucket, self._prefix + key, headers)
        held = upload.send(body, self._part_size)
        try:
            done = upload.complete(_ABSENT if exclusive else {}, lambda: self._landed(key, token))
        except MediumError as exc:
            try:
                return self._settled(exc, key, token, exclusive=exclusive)
            except MediumError as second:
                if upload.may_be_complete and second.kind is not Exists:
                    raise MediumError(Unavailable, str(second), second.remedy) from second
                raise
            finally:
                upload.abort()
        return done if isinstance(done, Blob) else Blob(key, size, done[1], done[0], held)

    def _put_whole(
        self,
        key: str,
        body: Body,
        size: int,
        headers: dict[str, str],
        digests: Mapping[str, str],
        token: str,
        *,
        exclusive: bool,
    ) -> Blob:
        if size > LARGEST_PUT:
            raise Unsupported(
                f"{size} bytes are more than the 5 GiB that one PUT may have, and {self._bucket.endpoint} does not keep"
                " two completions of multipart uploads apart: split the body, or use another service"
            )
        condition = _ABSENT if exclusive and self._findings.conditional else {}
        parts: bytes | Iterator[bytes | memoryview]
        if size <= _SENT_WHOLE:
            parts = b"".join(iter(body.read, b""))
            body.finish()
            digest = md5(parts, usedforsecurity=False).digest()
        else:
            headers["Content-Length"] = str(size)
            digest = bytes.fromhex(digests["md5"])
            parts = _all_but_visible(body)
        # Of the endpoints that take any x-amz-content-sha256 most refuse a wrong Content-MD5.
        headers["Content-MD5"] = b64encode(digest).decode()
        try:
            with self._bucket.talking():
                answer = self._bucket.request(
                    "PUT", self._prefix + key, None, {**headers, **condition}, parts, payload=digests["sha256"]
                )
                answer.read()
        except S3Error as exc:
            return self._settled(exc, key, token, exclusive=exclusive)
        etag = (answer.headers.get("ETag") or "").strip('"')
        if not etag:
            raise MediumError(
                Unavailable, f"{self._bucket.endpoint} confirms a PUT without an ETag", "check endpoint_url"
            )
        return Blob(key, size, modified(answer.headers, "Date"), etag, dict(digests))

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        headers = {} if tag is None else {"If-Match": f'"{tag}"'}
        if stop is not None and stop <= start:
            stop = start + 1
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            answer = self._bucket.request("GET", self._prefix + key, headers=headers)
        except S3Error as exc:
            if exc.status == 412:
                raise _gone(key) from exc
            if exc.status != 416:
                raise
            return self._of_version(self.stat(key), tag), cast("BinaryIO", Nothing())
        try:
            blob = self._of_version(self._blob(key, answer), tag)
            if start and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
                raise MediumError(
                    Unavailable,
                    f"{self._bucket.endpoint} answers another range than was asked for",
                    "see what is between",
                )
        except BaseException:
            answer.close()
            raise
        return blob, cast("BinaryIO", answer.stream())

    def stat(self, key: str) -> Blob:
        answer = self._bucket.request("HEAD", self._prefix + key)
        answer.close()
        return self._blob(key, answer)

    def scan(self, prefix: str) -> Iterator[Blob]:
        skip = len(self._prefix)
        hidden = () if prefix.startswith(_CONTROL_PREFIX) else self._prefix + _CONTROL_PREFIX
        found = listing.objects(self._bucket, self._prefix + prefix)
        if self._found is None or not self._found.sorted:
            found = listing.by_key(found, self._prefix + prefix)
        for name, size, mtime, etag in found:
            if not name.startswith(hidden) and name[-1] != "/":  # which folders are shown by
                yield Blob(name[skip:], size, mtime, etag, _UNTOLD)

    def delete(self, key: str, *, tag: str | None = None) -> None:
        headers = {}
        if tag is not None:
            if not self._findings.delete:
                try:
                    self._of_version(self.stat(key), tag)
                except MediumError as exc:
                    if exc.kind is NotFound:
                        return
                    raise
            elif tag == "":
                return
            else:
                headers["If-Match"] = f'"{tag}"'
        try:
            self._bucket.request("DELETE", self._prefix + key, headers=headers).close()
        except S3Error as exc:
            if exc.kind not in (NotFound, Exists):
                raise

    def leftovers(self) -> Iterator[Leftover]:
        safe = self._found is not None and self._completes_once
        return uploads(self._bucket, self._prefix, safe=safe)

    def remove_leftover(self, leftover: Leftover) -> None:
        query = {"uploadId": leftover.name}
        try:
            self._bucket.request("DELETE", self._prefix + leftover.key, query, action="ABORT").close()
        except S3Error as exc:
            if exc.status != 404:
                raise

    def signed_url(self, key: str, expires: float) -> str:
        if not 1 <= expires <= _LONGEST_SIGNED:
            raise MediumError(Misconfigured, f"a URL cannot be signed for {expires:g} seconds", "choose 1 to 604800")
        return self._bucket.signed_url(self._prefix + key, expires)

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        if isinstance(exc, MediumError):
            return exc.kind
        if isinstance(exc, StoreError):
            return None
        return Unavailable if isinstance(exc, (OSError, http.client.HTTPException)) else None

    def close(self) -> None:
        self._bucket.close()

    # -- how ----------------------------------------------------------------------------------------------------------

    def _there(self, key: str) -> tuple[Blob, str | None] | None:
        """Return what is at ``key``, if anything is, and the token under which it was put there."""
        try:
            answer = self._bucket.request("HEAD", self._prefix + key)
        except MediumError as exc:
            if exc.kind is NotFound:
                return None
            raise
        answer.close()
        return self._blob(key, answer), answer.headers.get(_TOKEN)

    def _landed(self, key: str, token: str) -> Blob | None:
        """Return what is at ``key``, if it was put there under this token."""
        there = self._there(key)
        return there[0] if there is not None and there[1] == token else None

    def _settled(self, exc: MediumError, key: str, token: str, *, exclusive: bool) -> Blob:
        """Return what an earlier attempt of ours put at ``key``, where that is why a put was refused; or raise."""
        if not isinstance(exc, S3Error) or exc.status not in (404, 412):
            raise exc
        there = self._there(key)
        if there is not None and (exclusive or there[1] == token):
            return self._ours(there, token)
        if exc.status == 404 or not exclusive:
            raise exc
        if self._findings.folders and self._there(f"{key}/") is not None:
            raise MediumError(
                InvalidKey,
                "the endpoint keeps a folder of that name",
                "remove it there if it is empty, or choose another",
            )
        raise MediumError(Unavailable, "the endpoint says that the key is taken, and shows nothing there", "try again")

    def _ours(self, there: tuple[Blob, str | None], token: str) -> Blob:
        if there[1] != token:
            raise MediumError(Exists, "the key is taken")
        return there[0]

    def _blob(self, key: str, answer: Response) -> Blob:
        headers = answer.headers
        if not headers.get("ETag"):
            raise MediumError(
                Misconfigured,
                f"{self._bucket.endpoint} shows an object without an ETag",
                "check endpoint_url: that it is an S3 endpoint",
            )
        total = (headers.get("Content-Range") or "").rpartition("/")[2]
        length = total if total.isdecimal() else headers.get("Content-Length") or ""
        if not length.isdecimal():
            raise MediumError(
                Misconfigured,
                f"{self._bucket.endpoint} tells no length of an object",
                "see what is between, as a proxy",
            )
        size = int(length)
        digests = {name: value for name in ALGORITHMS if is_digest(name, value := headers.get(f"{_MARK}{name}") or "")}
        return Blob(key, size, modified(headers, "Last-Modified"), (headers.get("ETag") or "").strip('"'), digests)

    def _of_version(self, blob: Blob, tag: str | None) -> Blob:
        if tag is not None and blob.tag != tag:
            raise _gone(blob.key)
        return blob


def _gone(key: str) -> MediumError:
    return MediumError(NotFound, f"the version of {key} that was asked for is not there any more")


def _all_but_visible(body: Body) -> Iterator[bytes | memoryview]:
    """Yield the body, and hold its last chunk back until it has been judged."""
    last = body.read()
    while chunk := body.read():
        yield last
        last = chunk
    body.finish()
    yield last
