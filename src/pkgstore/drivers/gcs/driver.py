"""The verbs, in requests to Google Cloud Storage."""

from __future__ import annotations

import json
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pkgstore import keys
from pkgstore.driver import Blob, MediumError
from pkgstore.drivers.gcs import errors, probing, uploads
from pkgstore.drivers.gcs.signing import signed_url
from pkgstore.drivers.http import Nothing
from pkgstore.errors import Exists, InvalidKey, NotFound, StoreError, Unavailable, Unsupported
from pkgstore.hashing import ALGORITHMS, is_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pkgstore.driver import Body
    from pkgstore.drivers.gcs.client import Client
    from pkgstore.drivers.http import Response

_METADATA = "pkgstore-"
_TOKEN = f"{_METADATA}token"
_ABSENT = "0"
_LONGEST_NAME = 1024
_RESERVED = ".well-known/acme-challenge/"
_CONTROL_PREFIX = f"{keys.CONTROL}/"
_ORIGINS = "origins"
_PAGE = 1000
_FIELDS = "nextPageToken,items(name,size,generation,timeCreated,metadata)"
_LOOKS = 5


class GCSDriver:
    """The verbs over one bucket, below a prefix."""

    scheme = "gs"
    streams = False

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._found: Mapping[str, bool] | None = None
        self._elsewhere: Mapping[str, Any] = {}
        self._reads_plainly = True

    # -- writing ------------------------------------------------------------------------------------------------------

    @property
    def exclusive(self) -> bool:
        if self._found is None:
            self.probe()
        assert self._found is not None
        if not self._found["media"]:
            raise Unsupported(
                f"{self._client.origin} lets several writers create one object: it ignores ifGenerationMatch, without"
                " which nothing can be published once; use Google Cloud Storage itself, or another emulator"
            )
        return True

    def probe(self) -> dict[str, Any]:
        self._found = probing.race(self._client, self._prefix)
        return {_ORIGINS: {**self._elsewhere, self._client.origin: self._found}}

    def recall(self, found: dict[str, Any]) -> bool:
        origins = found.get(_ORIGINS)
        self._elsewhere = origins if isinstance(origins, dict) else {}
        here = self._elsewhere.get(self._client.origin)
        if not isinstance(here, dict) or not all(isinstance(here.get(each), bool) for each in ("media", "resumable")):
            return False
        self._found = {"media": here["media"], "resumable": here["resumable"]}
        return True

    def put(
        self, key: str, body: Body, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        assert size is not None
        name = self._name(key)
        metadata = {_TOKEN: token, **{f"{_METADATA}{each}": value for each, value in digests.items()}}
        resource = {"name": name, "contentType": "application/octet-stream", "metadata": metadata}
        generation = _ABSENT if exclusive else None
        try:
            if size <= uploads.AT_ONCE:
                made = uploads.at_once(self._client, body, resource, generation)
            elif not exclusive or (self.exclusive and self._found is not None and self._found["resumable"]):
                made = uploads.resumable(self._client, body, size, resource, generation)
            else:
                self._check_absent(name)
                made = uploads.streamed(self._client, body, size, resource, generation)
        except uploads.ConditionFailed:
            return self._own(key, name, token)
        return self._blob(made)

    def delete(self, key: str, *, tag: str | None = None) -> None:
        if tag is None or tag.isdecimal():
            self._client.delete(self._name(key), generation=tag)

    def record_digests(self, blob: Blob, digests: Mapping[str, str]) -> bool:
        target = self._client.object(self._name(blob.key), ifGenerationMatch=blob.tag)
        metadata = {f"{_METADATA}{each}": value for each, value in digests.items()}
        content = json.dumps({"metadata": metadata}).encode()
        response = self._client.send("PATCH", target, {"Content-Type": "application/json"}, content)
        if response.status in (403, 404, 412):
            self._client.content(response)
            return False
        self._client.document(response)
        return True

    # -- reading ------------------------------------------------------------------------------------------------------

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        if stop is not None and stop <= start:
            return self._stat(key, tag), cast("BinaryIO", Nothing())
        wanted = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        for _ in range(_LOOKS):
            response = self._get(self._name(key), wanted, tag)
            if response.status == 416:
                self._client.content(response)
                return self._stat(key, tag), cast("BinaryIO", Nothing())
            if response.status not in (200, 206):
                raise self._client.refused(response.status, self._client.content(response))
            try:
                if response.status == 200 and start:
                    raise errors.not_the_service("it ignores the range that was asked for")
                return self._described(key, response), cast("BinaryIO", response.stream())
            except MediumError as exc:
                response.close()
                if exc.kind is not NotFound or tag is not None:
                    raise
                # Another version took its place, between the bytes and their metadata.
        raise MediumError(Unavailable, "the object changes all the time", "try again")

    def stat(self, key: str) -> Blob:
        return self._stat(key, None)

    def scan(self, prefix: str) -> Iterator[Blob]:
        control = prefix.startswith(_CONTROL_PREFIX)
        page: str | None = None
        while True:
            target = self._client.objects(
                prefix=self._prefix + prefix, maxResults=str(_PAGE), fields=_FIELDS, pageToken=page
            )
            listed = self._client.document(self._client.send("GET", target), of_bucket=True)
            for resource in listed.get("items") or ():
                blob = self._blob(resource)
                if not blob.key.endswith("/") and blob.key and (control or not blob.key.startswith(_CONTROL_PREFIX)):
                    yield blob
            before, page = page, listed.get("nextPageToken")
            if not page:
                return
            if page == before:
                raise errors.not_the_service("a page of its listing is followed by itself")

    def signed_url(self, key: str, expires: float) -> str:
        return signed_url(self._client, self._name(key), expires)

    def classify(self, exc: BaseException) -> type[StoreError] | None:
        return errors.classify(exc)

    def close(self) -> None:
        self._client.close()

    # -- how ----------------------------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        """Return the name of a key's object."""
        name = self._prefix + key
        if len(name.encode()) > _LONGEST_NAME:
            raise MediumError(
                InvalidKey, f"with its prefix it is longer than {_LONGEST_NAME} bytes", "choose a shorter key"
            )
        if name.startswith(_RESERVED):
            raise MediumError(
                InvalidKey, f"Google Cloud Storage has no objects below {_RESERVED}", "choose another key, or a prefix"
            )
        return name

    def _get(self, name: str, headers: Mapping[str, str], tag: str | None) -> Response:
        """Ask for an object's bytes, at best from the XML API, which gives the metadata with them."""
        if self._reads_plainly:
            response = self._client.send("GET", self._client.plain(name, generation=tag), headers)
            if response.status != 404:
                return response
            content = self._client.content(response)
            answer = errors.parsed(404, content)
            if answer.reason:
                raise self._client.refused(404, content)
            self._reads_plainly = False  # an emulator that has the JSON API alone
        return self._client.send("GET", self._client.object(name, alt="media", generation=tag), headers)

    def _described(self, key: str, response: Response) -> Blob:
        """Return the blob whose bytes are in an answer."""
        headers = response.headers
        generation, modified = headers.get("x-goog-generation"), headers.get("Last-Modified")
        if generation is None:
            raise errors.not_the_service("it tells no generation")
        whole = (headers.get("Content-Range") or "").rpartition("/")[2] or headers.get("Content-Length")
        length = headers.get("x-goog-stored-content-length") or whole
        metadata = {f"{_METADATA}{each}": headers.get(f"x-goog-meta-{_METADATA}{each}") for each in ALGORITHMS}
        mtime = _time(modified or "")
        if mtime is None or not (length or "").isdecimal() or not (self._reads_plainly or any(metadata.values())):
            return self._stat(key, generation)
        return Blob(key, int(length or 0), mtime, generation, _digests(metadata))

    def _stat(self, key: str, tag: str | None) -> Blob:
        return self._blob(self._client.resource(self._name(key), generation=tag))

    def _check_absent(self, name: str) -> None:
        """Raise ConditionFailed when there is an object, before a large body is sent in vain."""
        try:
            self._client.resource(name)
        except MediumError as exc:
            if exc.kind is not NotFound:
                raise
            return
        raise uploads.ConditionFailed

    def _own(self, key: str, name: str, token: str) -> Blob:
        """Return what is there when an earlier attempt of this very publish made it. Raises `MediumError`."""
        try:
            there = self._client.resource(name)
        except MediumError as exc:
            if exc.kind is not NotFound:
                raise
            there = {}
        if there.get("metadata", {}).get(_TOKEN) != token:
            raise MediumError(Exists, f"{keys.shown(key)} is there already", "choose another key")
        return self._blob(there)

    def _blob(self, resource: Mapping[str, Any]) -> Blob:
        try:
            return Blob(
                resource["name"][len(self._prefix) :],
                int(resource["size"]),
                # Whole seconds, which is all that is told along with the bytes.
                float(int(datetime.fromisoformat(resource["timeCreated"]).timestamp())),
                str(resource["generation"]),
                _digests(resource.get("metadata", {})),
            )
        except (KeyError, TypeError, ValueError):
            raise errors.not_the_service("an object's resource is not complete") from None


def _time(date: str) -> float | None:
    """Return a date of an answer's head, in seconds since the epoch."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _digests(metadata: Mapping[str, str | None]) -> dict[str, str]:
    """Return the digests that an object's metadata hold."""
    found = {each: metadata.get(f"{_METADATA}{each}") for each in ALGORITHMS}
    return {each: value for each, value in found.items() if value is not None and is_digest(each, value)}
