"""Requests to one bucket: with a token, which is renewed once when it is refused."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from pkgstore.driver import MediumError
from pkgstore.drivers.gcs.errors import not_the_service, parsed, refusal, unreachable
from pkgstore.drivers.http import Pool
from pkgstore.errors import StoreError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pkgstore.drivers.gcs.access import Access
    from pkgstore.drivers.http import Response


class Client:
    """Sends requests about one bucket, and tells what their refusals mean."""

    def __init__(self, origin: str, bucket: str, access: Access, *, timeout: float, project: str | None) -> None:
        self.origin = origin
        self.bucket = bucket
        self.access = access
        self.project = project
        self._pool = Pool(origin, timeout=timeout)
        self._fixed = {"Host": urlsplit(origin).netloc, "Accept-Encoding": "gzip", "User-Agent": "pkgstore"}
        if project is not None:
            self._fixed["x-goog-user-project"] = project

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes | memoryview] = b"",
    ) -> Response:
        """Send one request, and return the answer, whatever it says.

        A body of several parts needs a Content-Length in ``headers``; only a list or tuple of them can be sent again
        after the token was renewed. Raises `MediumError` when there is no answer.
        """
        token = self.access.token()
        response = self._sent(method, target, headers or {}, body, token)
        if response.status != 401 or token is None:
            return response
        response.close()
        token = self.access.renew(token)
        if not isinstance(body, (bytes, list, tuple)):
            raise MediumError(Unavailable, "the access token expired on the way, and was renewed", "try again")
        return self._sent(method, target, headers or {}, body, token)

    def _sent(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes | memoryview],
        token: str | None,
    ) -> Response:
        sent = {**self._fixed, **headers}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        try:
            return self._pool.request(method, target, sent, body)
        except StoreError:
            raise  # of the body
        except (OSError, http.client.HTTPException) as exc:
            raise unreachable(exc, self.origin) from exc

    def content(self, response: Response) -> bytes:
        """Return the whole body of an answer."""
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise unreachable(exc, self.origin) from exc

    def document(self, response: Response, *, of_bucket: bool = False) -> dict[str, Any]:
        """Return the JSON object that an answer holds. Raises `MediumError` for a refusal."""
        content = self.content(response)
        if response.status not in (200, 201):
            raise self.refused(response.status, content, of_bucket=of_bucket)
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise not_the_service("its answer is no JSON object")
        return found

    def refused(self, status: int, content: bytes, *, of_bucket: bool = False) -> MediumError:
        """Return the error for a refusal."""
        account = None if self.access.anonymous else self.access.account
        return refusal(parsed(status, content), bucket=self.bucket, account=account, of_bucket=of_bucket)

    # -- addresses ----------------------------------------------------------------------------------------------------

    def object(self, name: str, **query: str | None) -> str:
        """Return the target of the JSON API for an object."""
        return _with_query(f"/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}", query)

    def objects(self, **query: str | None) -> str:
        """Return the target of the JSON API for the listing."""
        return _with_query(f"/storage/v1/b/{self.bucket}/o", query)

    def uploads(self, **query: str | None) -> str:
        """Return the target of the JSON API for uploads."""
        return _with_query(f"/upload/storage/v1/b/{self.bucket}/o", query)

    def plain(self, name: str, **query: str | None) -> str:
        """Return the target of the XML API for an object, which is that of signed URLs, too."""
        return _with_query(f"/{self.bucket}/{quote(name, safe='/~')}", query)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.close()

    # -- what several parts ask ---------------------------------------------------------------------------------------

    def resource(self, name: str, *, generation: str | None = None) -> dict[str, Any]:
        """Return an object's resource. Raises `MediumError`, of kind NotFound where there is none."""
        return self.document(self.send("GET", self.object(name, generation=generation)))

    def delete(self, name: str, *, generation: str | None = None) -> None:
        """Delete an object; silent when it, or this generation of it, is gone."""
        response = self.send("DELETE", self.object(name, ifGenerationMatch=generation))
        content = self.content(response)
        if response.status == 404 and parsed(404, content).without_bucket:
            raise self.refused(404, content)
        if response.status not in (200, 204, 404, 412):
            raise self.refused(response.status, content)


def _with_query(path: str, query: Mapping[str, str | None]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path
