"""What a store's errors and a client's broken requests become in HTTP."""

from __future__ import annotations

import errno
import logging
import re
from typing import TYPE_CHECKING, Any, BinaryIO

from pypiserver.bottle_wrapper import HTTPError, request  # type: ignore[import-untyped]

from pkgstore.errors import (
    Denied,
    Exists,
    Full,
    InvalidKey,
    LockTimeout,
    NotFound,
    QuotaExceeded,
    StoreError,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pkgstore.pypiserver")

RETRY_AFTER = 5
"""Seconds after which a client may ask again when the store did not answer."""

_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_ENDED = 1

_STATUSES: dict[type[StoreError], int] = {
    NotFound: 404,
    Exists: 409,
    Denied: 403,
    InvalidKey: 400,
    Full: 507,
    QuotaExceeded: 507,
    Unavailable: 503,
    LockTimeout: 503,
    Unsupported: 501,
}


def error_for(exc: StoreError) -> HTTPError:
    """Return the HTTP error that says the same: 500 for what no client can do anything about."""
    status = _STATUSES.get(type(exc), 500)
    if status >= 500:
        log.error("%s", exc)
    return HTTPError(status, str(exc), headers={"Retry-After": str(RETRY_AFTER)} if status == 503 else None)


class StoreErrors:
    """A Bottle plugin: every route answers a store's error with a status and its one line, never with a traceback.

    So does it a form that cannot be read.
    """

    name = "pkgstore-errors"
    api = 2

    def apply(self, callback: Callable[..., Any], _route: object) -> Callable[..., Any]:
        """Return ``callback`` with its errors translated."""

        def answered(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except StoreError as exc:
                raise error_for(exc) from exc
            except OSError as exc:
                # Not the store's: the server keeps a request's body in a temporary file.
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                log.exception("no space for temporary files")
                raise HTTPError(507, "the server has no space left for temporary files: try again later") from exc
            except ValueError as exc:
                # Bottle has the form's body, and failed to make a form of it.
                known = request.environ
                if not _is_multipart() or "bottle.request.body" not in known or "bottle.request.post" in known:
                    raise
                raise HTTPError(400, "the form cannot be read: check its boundary, and its parts' headers") from exc

        return answered


def check_password(config: Any, action: str) -> None:
    """Refuse the request, as pypiserver does, when ``action`` needs a password and it gives none that is right."""
    if action not in config.authenticate:
        return
    if not request.auth or request.auth[1] is None:
        raise HTTPError(401, headers={"WWW-Authenticate": 'Basic realm="pypi"'})
    if not config.auther(*request.auth):
        raise HTTPError(403)


def guard_body() -> None:
    """See to it that a body that ends before its declared length is refused, and not taken for a shorter one.

    A hook to be called before each request. Nothing is read here; a route that needs a password checks that first.
    """
    kind, semicolon, parameters = request.environ.get("CONTENT_TYPE", "").partition(";")
    request.environ["CONTENT_TYPE"] = kind.lower() + semicolon + parameters  # its name is of either case
    length = request.environ.get("CONTENT_LENGTH") or "0"
    if not _LENGTH.fullmatch(length):
        raise HTTPError(400, "the Content-Length is no number of bytes")
    if int(length) and not request.chunked:
        request.environ["wsgi.input"] = _WholeBody(request.environ["wsgi.input"], int(length))


def check_form() -> None:
    """Refuse a form without its closing delimiter: it was cut short, though its announced length may agree.

    To be called when the form has been read, before anything is done that it asks for.
    """
    if _is_multipart():
        parts = request["_cgi.FieldStorage"].list
        if not parts or parts[-1].done != _ENDED:
            raise HTTPError(400, "the form ends without its closing boundary; nothing was done: send it again")


def _is_multipart() -> bool:
    return bool(request.content_type.lower().startswith("multipart/"))


class _WholeBody:
    """A request's body that raises when it ends early: its client is gone, or gave up."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        self._stream = stream
        self._length = length
        self._left = length

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        if not data and size and self._left:
            raise HTTPError(
                400,
                f"the request ended after {self._length - self._left} of {self._length} bytes;"
                " nothing was done: send it again",
            )
        return data
