"""Access tokens: made when they are needed, renewed when they are refused, shared by threads and after fork."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from pkgstore.driver import MediumError
from pkgstore.errors import Denied, Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNING_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
_FIND = "set GOOGLE_APPLICATION_CREDENTIALS or PKGSTORE_GCS_CREDENTIALS_FILE"
_RENEW = "see that they are neither revoked nor expired and that the clock of this host is right, or give others"
_LONGEST_REASON = 300


class Source(Protocol):
    """What gives tokens: the credentials of google-auth, or a given token."""

    token: str | None

    @property
    def valid(self) -> bool:
        """Whether ``token`` can be used as it is."""

    def refresh(self, request: Any) -> None:
        """Get another token."""


class Access:
    """Access tokens, made and renewed when they are needed. Safe to share between threads, and after fork.

    ``find`` returns the credentials; it is called once, when the first token is asked for.
    """

    def __init__(self, find: Callable[[Any], Source] | None, timeout: float) -> None:
        self._find = find
        self._timeout = timeout
        self._source: Source | None = None
        self._signing: Access | None = None
        self._lock = threading.Lock()
        _all.add(self)

    @property
    def anonymous(self) -> bool:
        """Whether there are no credentials, because none were wanted."""
        return self._find is None

    @property
    def account(self) -> str:
        """Whose credentials they are, for messages."""
        name = getattr(self._source, "service_account_email", None)
        return name if isinstance(name, str) and "@" in name else "the account of these credentials"

    def token(self) -> str | None:
        """Return a token that is thought to be good, or None for anonymous access."""
        if self._find is None:
            return None
        source = self._source
        if source is not None and source.valid and source.token:
            return source.token
        with self._lock:
            source = self.source()
            if not (source.valid and source.token):
                self._refresh(source)
            return source.token

    def renew(self, refused: str) -> str | None:
        """Return another token than one that was refused."""
        with self._lock:
            source = self.source()
            if source.token == refused or not source.valid:
                self._refresh(source)
            return source.token

    def source(self) -> Source:
        """Return the credentials. Raises `MediumError` when there are none."""
        if self._source is None:
            assert self._find is not None
            find = self._find
            self._source = self.asking(find)
        return self._source

    def for_signing(self) -> Access:
        """Return access to Google's signing service, with the same credentials."""
        if self._signing is None:
            self._signing = Access(self._rescoped, self._timeout)
        return self._signing

    def _rescoped(self, request: Any) -> Source:
        from google.auth.credentials import Scoped

        source: Any = self.source()
        rescoped: Source = source.with_scopes(_SIGNING_SCOPES) if isinstance(source, Scoped) else source
        return rescoped

    def asking(self, call: Callable[[Any], Any]) -> Any:
        """Return what a call of google-auth's returns; it is given what sends its requests, within the timeout."""
        from google.auth import exceptions

        request = _bounded_request(self._timeout)
        try:
            return call(request)
        except exceptions.DefaultCredentialsError:
            raise MediumError(
                Denied,
                "no credentials were found",
                f"{_FIND}, or pass credentials=anonymous for a bucket that is open to all",
            ) from None
        except exceptions.TransportError as exc:
            raise MediumError(
                Unavailable, f"the credentials' own server did not answer: {_reason(exc)}", "check the network"
            ) from None
        except exceptions.GoogleAuthError as exc:
            if getattr(exc, "retryable", False):
                raise MediumError(
                    Unavailable, f"the credentials' own server is not well: {_reason(exc)}", "try again"
                ) from None
            raise MediumError(Denied, f"the credentials give no access token: {_reason(exc)}", _RENEW) from None
        finally:
            request.session.close()

    def _refresh(self, source: Source) -> None:
        self.asking(source.refresh)

    def renew_lock(self) -> None:
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Access of {'nobody' if self.anonymous else self.account}>"


_all: weakref.WeakSet[Access] = weakref.WeakSet()


def _forget_locks() -> None:
    for access in _all:
        access.renew_lock()


os.register_at_fork(after_in_child=_forget_locks)


class GivenToken:
    """An access token that somebody else renews: what ``read`` returns."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self.token: str | None = None

    @property
    def valid(self) -> bool:
        return self.token is not None

    def refresh(self, request: Any) -> None:
        token = self._read()
        if not token or not token.isascii() or not token.isprintable():
            raise MediumError(
                Misconfigured,
                "the access token that was given is none",
                "correct PKGSTORE_GCS_TOKEN, or the file that PKGSTORE_GCS_TOKEN_FILE names",
            )
        if token == self.token:
            raise MediumError(Denied, "the access token that was given is not accepted", "give another")
        self.token = token


def _bounded_request(timeout: float) -> Any:
    """Return what sends google-auth's requests; after ``timeout`` seconds it sends none."""
    from google.auth import exceptions
    from google.auth.transport.requests import Request

    deadline = time.monotonic() + timeout

    class Bounded(Request):
        def __call__(self, *args: Any, **options: Any) -> Any:
            left = deadline - time.monotonic()
            if left <= 0:
                raise exceptions.TransportError("it took too long")
            options["timeout"] = min(options.get("timeout") or left, left)
            return super().__call__(*args, **options)

    return Bounded()


def _reason(exc: Exception) -> str:
    """Return the first words of an error of google-auth, which may hold a whole reply besides."""
    text = " ".join(str(exc.args[0] if exc.args else type(exc).__name__).split())
    return text[:_LONGEST_REASON]
