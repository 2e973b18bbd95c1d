"""Who asks: credentials, from where people keep them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pkgstore.drivers.gcs.access import Access, GivenToken
from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pkgstore.drivers.gcs.access import Source

ANONYMOUS = "anonymous"
STORAGE_SCOPES = ["https://www.googleapis.com/auth/devstorage.read_write"]

_INLINE = "PKGSTORE_GCS_CREDENTIALS"
_CREDENTIALS_FILE = "PKGSTORE_GCS_CREDENTIALS_FILE"
_TOKEN = "PKGSTORE_GCS_TOKEN"
_TOKEN_FILE = "PKGSTORE_GCS_TOKEN_FILE"
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS"


def find(given: object, timeout: float) -> Access:
    """Return access with the credentials that were given, or else those of the variables or of this host.

    Raises `Misconfigured` for what can be no credentials.
    """
    if given == ANONYMOUS:
        return Access(None, timeout)
    if given is not None:
        source = _given(given)
        return Access(None if source is None else _always(source), timeout)
    values = {
        name: os.environ[name] for name in (_INLINE, _CREDENTIALS_FILE, _TOKEN, _TOKEN_FILE) if os.environ.get(name)
    }
    if len(values) > 1:
        raise Misconfigured(f"the variables {' and '.join(values)} are set at once: keep one of them")
    for name, value in values.items():
        return Access(_always(_from_variable(name, value)), timeout)
    path = os.environ.get(_GOOGLE)
    if path:
        return Access(
            _always(_from_info(_read_json(path, f"the variable {_GOOGLE}"), f"the variable {_GOOGLE}")), timeout
        )
    return Access(_of_this_host, timeout)


def _given(given: object) -> Source | None:
    """Return the credentials that an option gives, or None when they are those of nobody."""
    what = "the option 'credentials'"
    if isinstance(given, dict):
        return _from_info(given, what)
    if isinstance(given, (str, os.PathLike)):
        path = os.fspath(given)
        if not isinstance(path, str) or path.lstrip().startswith("{"):
            raise Misconfigured(f"{what} is a path, or in Python a dict; JSON is read from {_INLINE}")
        return _from_info(_read_json(path, what), what)
    from google.auth.credentials import AnonymousCredentials, Credentials, with_scopes_if_required

    for _ in range(2):  # gcsfs: a file system has credentials, which have google-auth's
        if not isinstance(given, Credentials):
            given = getattr(given, "credentials", None)
    if isinstance(given, AnonymousCredentials):
        return None
    if not isinstance(given, Credentials):
        raise Misconfigured(f"{what} is a path, a dict, a credentials object of google-auth, or '{ANONYMOUS}'")
    scoped: Source = with_scopes_if_required(given, STORAGE_SCOPES)
    return scoped


def _always(source: Source) -> Callable[[Any], Source]:
    return lambda _: source


def _from_variable(name: str, value: str) -> Source:
    what = f"the variable {name}"
    if name == _TOKEN:
        return GivenToken(lambda: value)
    if name == _TOKEN_FILE:
        return GivenToken(lambda: _read(value, what).strip())
    if name == _INLINE and value.lstrip().startswith("{"):
        return _from_info(_parsed(value, what), what)
    return _from_info(_read_json(value, what), what)


def _from_info(info: Mapping[str, Any], what: str) -> Source:
    """Return the credentials that a JSON document describes."""
    from google.auth import exceptions

    kind = info.get("type")
    maker = _MAKERS.get(kind) if isinstance(kind, str) else None
    if maker is None:
        raise Misconfigured(f"{what} describes no credentials: its 'type' is none of {', '.join(_MAKERS)}")
    try:
        source: Source = maker(dict(info))
    except (ValueError, TypeError, KeyError, AttributeError, exceptions.GoogleAuthError):
        raise Misconfigured(
            f"{what} describes {kind} credentials that cannot be used: fields are missing or damaged; download them"
            " again"
        ) from None
    return source


def _service_account(info: dict[str, Any]) -> Any:
    from google.oauth2 import service_account

    return service_account.Credentials.from_service_account_info(info, scopes=STORAGE_SCOPES)


def _federation(info: dict[str, Any]) -> Any:
    from google.auth import aws, identity_pool, pluggable

    maker: Any = identity_pool.Credentials
    if info["subject_token_type"].startswith("urn:ietf:params:aws:"):
        maker = aws.Credentials
    elif "executable" in info["credential_source"]:
        maker = pluggable.Credentials
    return maker.from_info(info, scopes=STORAGE_SCOPES)


def _federated_user(info: dict[str, Any]) -> Any:
    from google.auth import external_account_authorized_user

    return external_account_authorized_user.Credentials.from_info(info)


def _impersonation(info: dict[str, Any]) -> Any:
    from google.auth import impersonated_credentials

    maker: Any = impersonated_credentials.Credentials
    return maker.from_impersonated_service_account_info(info, scopes=STORAGE_SCOPES)


def _user(info: dict[str, Any]) -> Any:
    from google.oauth2 import credentials

    return credentials.Credentials.from_authorized_user_info(info)


_MAKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "service_account": _service_account,
    "external_account": _federation,
    "external_account_authorized_user": _federated_user,
    "impersonated_service_account": _impersonation,
    "authorized_user": _user,
}


def _of_this_host(request: Any) -> Source:
    """Return the application default credentials: of gcloud's user, or of the machine's metadata server."""
    import google.auth

    source: Source = google.auth.default(scopes=STORAGE_SCOPES, request=request)[0]
    return source


def _read_json(path: str, what: str) -> Mapping[str, Any]:
    return _parsed(_read(path, what), what)


def _read(path: str, what: str) -> str:
    # Neither what is given nor what is read is shown: it may be a secret that was put in the wrong place.
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or "it is no text"
        raise Misconfigured(f"{what} names no file that can be read ({why}): give the path of a JSON file") from None


def _parsed(text: str, what: str) -> Mapping[str, Any]:
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        raise Misconfigured(f"{what} holds no JSON object: give the file as it was downloaded")
    return info
