"""`/packages/<file>`: one look-up, verified on the way out, in bounded memory, as HTTP caches like it."""

from __future__ import annotations

import mimetypes
import re
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pypiserver.bottle_wrapper import HTTPError, HTTPResponse, request  # type: ignore[import-untyped]

from pkgstore import keys
from pkgstore.errors import NotFound
from pkgstore.integrations._pypi_http import check_password, log
from pkgstore.integrations._pypi_index import package_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.driver import Blob
    from pkgstore.reading import Reader
    from pkgstore.store import Store

_YEAR = 365 * 24 * 3600
_CHUNK = 1 << 18
_BEYOND = 10**20
_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*", re.ASCII)
_ETAG = re.compile(r'"[^"]*"')
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


class Downloads:
    """The route's callback. ``config`` is the server's."""

    def __init__(self, config: Any, store: Store) -> None:
        self._config = config
        self._store = store

    def __call__(self, filename: str) -> HTTPResponse:
        """Answer a request for the file at a key."""
        check_password(self._config, "download")
        if not keys.is_valid(filename) or package_at(filename) is None:
            raise _not_found(filename)
        try:
            if request.method == "HEAD":
                blob = self._store.stat(filename)
                return self._unchanged(blob) or HTTPResponse(headers=self._headers(blob) | _content(blob))
            reader = self._store.open(filename)
        except NotFound:
            raise _not_found(filename) from None
        try:
            return self._unchanged(reader.blob) or self._sent(reader)
        except BaseException:
            reader.close()
            raise

    def _sent(self, reader: Reader) -> HTTPResponse:
        blob = reader.blob
        headers = self._headers(blob) | _content(blob)
        part = _wanted_part(blob)
        if part is None:
            return HTTPResponse(_Stream(reader, 0, blob.size), headers=headers)
        start, stop = part
        if start >= stop:
            reader.close()
            raise HTTPError(
                416, f"{filename_of(blob)} has {blob.size} bytes", headers={"Content-Range": f"bytes */{blob.size}"}
            )
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{blob.size}", "Content-Length": str(stop - start)}
        return HTTPResponse(_Stream(reader, start, stop), status=206, headers=headers)

    def _unchanged(self, blob: Blob) -> HTTPResponse | None:
        """Return the answer that the client has this version already, if it says so."""
        tags = request.get_header("If-None-Match")
        if tags is not None:
            same = tags.strip() == "*" or etag(blob) in _ETAG.findall(tags)
        else:
            since = _seconds(request.get_header("If-Modified-Since"))
            same = since is not None and _http_date(blob.mtime) is not None and int(blob.mtime) <= since
        return HTTPResponse(status=304, headers=self._headers(blob)) if same else None

    def _headers(self, blob: Blob) -> dict[str, str]:
        modified = _http_date(blob.mtime)
        return {
            "ETag": etag(blob),
            **({"Last-Modified": modified} if modified else {}),
            "Accept-Ranges": "bytes",
            "Cache-Control": self._cache_control(),
        }

    def _cache_control(self) -> str:
        config = self._config
        # What needs a password is not for the caches that clients share.
        who = "private" if "download" in config.authenticate else "public"
        if config.cache_control:
            return f"{who}, max-age={config.cache_control}"
        return f"{who}, no-cache" if config.overwrite else f"{who}, max-age={_YEAR}, immutable"


class _Stream:
    """The bytes of a reader from ``start`` to ``stop``, which closes it at the end, also when the client goes away.

    The first chunk is read at once, so that an error in it still becomes a status; one that comes later cuts the
    connection short of the length that was announced.
    """

    def __init__(self, reader: Reader, start: int, stop: int) -> None:
        self._reader = reader
        self._left = stop - start
        reader.seek(start)
        self._first = self._read()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield self._first
            while self._left:
                yield self._read()
        except Exception as exc:
            log.error("the download of %r was cut short: %s", self._reader.name, exc)
            raise
        finally:
            self.close()

    def close(self) -> None:
        self._reader.close()

    def _read(self) -> bytes:
        data = self._reader.read(min(self._left, _CHUNK)) or b""
        self._left -= len(data)
        return data


def etag(blob: Blob) -> str:
    """Return what names this version in HTTP: its sha256, the same on every replica, or else the medium's tag."""
    return f'"{blob.digests.get("sha256") or quote(blob.tag)}"'


def filename_of(blob: Blob) -> str:
    """Return the last segment of a blob's key."""
    return blob.key.rpartition("/")[2]


def _content(blob: Blob) -> dict[str, str]:
    kind, encoding = mimetypes.guess_type(blob.key)
    # The file is compressed, not its transfer: no Content-Encoding, or clients would unpack it.
    kind = _COMPRESSED.get(encoding or "", kind) or "application/octet-stream"
    return {"Content-Type": kind, "Content-Length": str(blob.size)}


def _wanted_part(blob: Blob) -> tuple[int, int] | None:
    """Return the one range of bytes that is asked for, as start and stop: empty when it lies outside; None for all.

    Several ranges, or none that can be understood, ask for all, and so does one of another version (`If-Range`).
    """
    match = _RANGE.fullmatch(request.get_header("Range", ""))
    if not match or match.group() == "bytes=-" or not any(match.groups()):
        return None
    condition = request.get_header("If-Range")
    if condition is not None and condition not in (etag(blob), _http_date(blob.mtime)):
        return None
    first, last = match.groups()
    if not first:
        return max(0, blob.size - _position(last)), blob.size
    start, stop = _position(first), min(_position(last) + 1, blob.size) if last else blob.size
    if last and _position(last) < start:
        return None
    return (start, stop) if start < blob.size else (0, 0)


def _position(digits: str) -> int:
    """Return a number of bytes; one that is longer than that of any file is as good as any other such."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 20 else _BEYOND


def _http_date(seconds: float) -> str | None:
    """Return a file's time as HTTP writes it; None for one that HTTP cannot write, outside the years 1 to 9999."""
    try:
        return formatdate(int(seconds), usegmt=True)
    except (ValueError, OverflowError, OSError):
        return None


def _seconds(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (TypeError, ValueError, OverflowError):
        return None


def _not_found(filename: str) -> HTTPError:
    return HTTPError(404, f"Not Found ({filename} does not exist)\n\n")
