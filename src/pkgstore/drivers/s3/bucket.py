"""Requests to one bucket: signed, sent once, and their refusals told apart."""

from __future__ import annotations

import http.client
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from pkgstore.drivers.http import Pool
from pkgstore.drivers.s3.errors import EXPIRED, S3Error, no_answer, refusal
from pkgstore.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pkgstore.drivers.http import BodyPart, Pending, Response
    from pkgstore.drivers.s3.access import Access

_SAFE = "/~"


class Bucket:
    """A bucket, as `Access` finds it. ``timeout`` is how long it may stand still within a request, in seconds."""

    def __init__(self, access: Access, timeout: float) -> None:
        self.name = access.bucket
        self.timeout = timeout
        self._access = access
        self._pool: Pool | None = None
        self._target = ""
        self._host = ""

    def with_timeout(self, timeout: float) -> Bucket:
        """Return the same bucket, with connections of its own that wait so long."""
        return Bucket(self._access, timeout)

    @property
    def endpoint(self) -> str:
        """The endpoint's URL, for messages and to tell one from another."""
        parts = urlsplit(self._access.base)
        return f"{parts.scheme}://{parts.netloc}"

    def request(
        self,
        method: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: BodyPart | Iterable[BodyPart] = b"",
        *,
        payload: str = "UNSIGNED-PAYLOAD",
        action: str = "",
    ) -> Response:
        """Send a request, and return its answer, whose body is to be read or closed. Raises `MediumError`.

        ``payload`` is the sha256 of the body where it is known: the endpoint then refuses any other. A body that is
        not bytes is sent once, whatever happens.
        """
        for last in (False, True):
            with self.talking():
                pending = self.begin(method, key, query, headers, body, payload=payload)
                answer = pending.answer()
                if answer.status in (200, 204, 206):
                    return answer
                error = self.refused(answer, method, key, action)
            if error.code in EXPIRED:
                self._access.renew()
            if error.code not in EXPIRED or last or not isinstance(body, (bytes, memoryview)):
                raise error
        raise AssertionError("unreachable")

    def begin(
        self,
        method: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: BodyPart | Iterable[BodyPart] = b"",
        *,
        payload: str = "UNSIGNED-PAYLOAD",
    ) -> Pending:
        """Send a request; its answer is read later. Raises what `Pool` does."""
        pool = self._connected()
        target = self._target + (f"/{quote(key, safe=_SAFE)}" if key else "/")
        if query:
            target += f"?{urlencode(query, quote_via=quote, safe='~')}"
        signed = self._access.headers(
            method, f"{self.endpoint}{target}", {"Host": self._host, **(headers or {})}, payload
        )
        return pool.begin(method, target, signed, body)

    def refused(self, answer: Response, method: str, key: str, action: str = "") -> S3Error:
        """Read an answer that is a refusal, and return its error."""
        body = answer.read()
        if method == "HEAD" and answer.status in (400, 403):
            # The answer to HEAD has no body to say why; that to GET has.
            second = self.begin("GET", key, headers={"Range": "bytes=0-0"}).answer()
            body = second.read() if second.status == answer.status else b""
            second.close()
        return refusal(
            answer.status,
            answer.headers,
            body,
            action=action or method,
            method=method,
            bucket=self.name,
            endpoint=self.endpoint,
        )

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Say in our words what the connection raises."""
        try:
            yield
        except StoreError:  # of the body
            raise
        except (OSError, http.client.HTTPException) as exc:
            raise no_answer(exc, self.endpoint) from exc

    def signed_url(self, key: str, expires: float) -> str:
        """Return a URL that whoever has it may GET for so many seconds."""
        return self._access.signed_url(f"{self._access.base}/{quote(key, safe=_SAFE)}", expires)

    def close(self) -> None:
        """Close what connections are kept."""
        if self._pool is not None:
            self._pool.close()

    def _connected(self) -> Pool:
        if self._pool is None:
            parts = urlsplit(self._access.base)
            self._host, self._target = parts.netloc, parts.path
            self._pool = Pool(self.endpoint, timeout=self.timeout, ssl_context=self._access.ssl_context)
        return self._pool
