"""What an endpoint's refusals mean, in words for whoever has to mend it."""

from __future__ import annotations

import http.client
import socket
import ssl
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from pkgstore.driver import MediumError
from pkgstore.errors import (
    Denied,
    Exists,
    Full,
    InvalidKey,
    Misconfigured,
    NotFound,
    StoreError,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

_LONGEST_DETAIL = 200

PERMISSIONS = {
    "GET": "s3:GetObject, and s3:ListBucket, without which an absent key is refused as well",
    "HEAD": "s3:GetObject, and s3:ListBucket, without which an absent key is refused as well",
    "PUT": "s3:PutObject",
    "POST": "s3:PutObject",
    "DELETE": "s3:DeleteObject",
    "LIST": "s3:ListBucket",
    "UPLOADS": "s3:ListBucketMultipartUploads",
    "ABORT": "s3:AbortMultipartUpload",
}
"""What a policy must allow, by what was asked."""

EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}

_BUSY = "slow down, or raise the endpoint's limits"
_CODES: dict[str, tuple[type[StoreError], str, str]] = {
    "NoSuchKey": (NotFound, "it is not there", ""),
    "NoSuchBucket": (Misconfigured, "there is no bucket {bucket!r} at {endpoint}", "make it, or correct the URL"),
    "InvalidBucketName": (Misconfigured, "{bucket!r} cannot be a bucket's name", "correct the URL"),
    "InvalidAccessKeyId": (
        Denied,
        "{endpoint} does not know the access key id",
        "correct AWS_ACCESS_KEY_ID or the profile, or the endpoint",
    ),
    "SignatureDoesNotMatch": (
        Denied,
        "{endpoint} refuses the signature: the secret access key is wrong",
        "correct AWS_SECRET_ACCESS_KEY or the profile",
    ),
    "AccessDenied": (Denied, "the credentials may not do this at {endpoint}", "allow {permission}"),
    "AllAccessDisabled": (Denied, "access to the bucket is disabled", "ask the service why"),
    "AccountProblem": (Denied, "the account has a problem", "ask the service what it is"),
    "RequestTimeTooSkewed": (
        Denied,
        "this machine's clock differs too much from the server's{skew}",
        "set the clock: let NTP keep it",
    ),
    "RequestExpired": (Denied, "this machine's clock differs too much from the server's{skew}", "set the clock"),
    "PermanentRedirect": (Misconfigured, "bucket {bucket!r} lies in {region}", "set region= in the URL"),
    "AuthorizationHeaderMalformed": (
        Misconfigured,
        "the request is signed for another region: bucket {bucket!r} lies in {region}",
        "set region= in the URL",
    ),
    "IllegalLocationConstraintException": (
        Misconfigured,
        "the request is for another region: bucket {bucket!r} lies in {region}",
        "set region= in the URL",
    ),
    "PreconditionFailed": (Exists, "the key is taken", ""),
    "ConditionalRequestConflict": (Unavailable, "another writer is at the key", "try again"),
    "OperationAborted": (Unavailable, "another writer is at the key", "try again"),
    "NoSuchUpload": (
        Unavailable,
        "the multipart upload is gone",
        "try again; see that no lifecycle rule ends uploads early",
    ),
    "InvalidObjectState": (
        Misconfigured,
        "the object was moved to an archive class",
        "restore it, and exempt this prefix from the bucket's lifecycle rules",
    ),
    "MethodNotAllowed": (
        Misconfigured,
        "the endpoint does not allow {method} here",
        "check endpoint_url, and the bucket's versioning",
    ),
    "QuotaExceeded": (Full, "the bucket's or the account's quota is used up", "delete something, or have it raised"),
    "InsufficientCapacity": (Full, "the endpoint has no space left", "free some, or enlarge it"),
    "InsufficientStorage": (Full, "the endpoint has no space left", "free some, or enlarge it"),
    "XMinioStorageFull": (Full, "the endpoint has no space left", "free some, or enlarge it"),
    "EntityTooLarge": (Unsupported, "the body is larger than the endpoint takes", "split it"),
    "KeyTooLongError": (
        InvalidKey,
        "the key, with the store's prefix, is longer than the endpoint takes",
        "choose a shorter one",
    ),
    "NotImplemented": (Unsupported, "the endpoint does not know {method} with these headers", "use another service"),
    "BadDigest": (Unavailable, "the bytes that arrived are not those that were sent", "try again; suspect the network"),
    "XAmzContentSHA256Mismatch": (
        Unavailable,
        "the bytes that arrived are not those that were sent",
        "try again; suspect the network",
    ),
    "IncompleteBody": (Unavailable, "the body did not arrive whole", "try again; suspect the network"),
    "RequestTimeout": (Unavailable, "the endpoint waited too long for the body", "try again; suspect the network"),
    "SlowDown": (Unavailable, "{endpoint} asks to slow down", _BUSY),
    "ServiceUnavailable": (Unavailable, "{endpoint} is not available now", _BUSY),
    "InternalError": (Unavailable, "{endpoint} failed by an error of its own", "see its log"),
} | dict.fromkeys(
    EXPIRED,
    (Denied, "the session token has expired or is not valid", "renew the credentials: log in again, or check the role"),
)
_STATUSES = {
    301: "PermanentRedirect",
    307: "PermanentRedirect",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    412: "PreconditionFailed",
    429: "SlowDown",
    500: "InternalError",
    501: "NotImplemented",
    502: "ServiceUnavailable",
    503: "ServiceUnavailable",
    504: "ServiceUnavailable",
    507: "InsufficientStorage",
    408: "RequestTimeout",
}

_WORDS_OF_S3 = (NotFound, Denied, Misconfigured)
"""What only an answer of S3 is believed, and not the page of another server."""


class S3Error(MediumError):
    """A refusal. ``status`` is that of HTTP, ``code`` the one of S3."""

    def __init__(self, kind: type[StoreError], message: str, remedy: str, status: int, code: str) -> None:
        super().__init__(kind, message, remedy)
        self.status = status
        self.code = code


def refusal(
    status: int, headers: Message, body: bytes, *, action: str, method: str, bucket: str, endpoint: str
) -> S3Error:
    """Return the error for an answer that is none of those hoped for. ``action`` is a key of `PERMISSIONS`."""
    fields = _fields(body)
    code = fields.get("Code", "")
    named = code in _CODES
    if not named and status in _STATUSES:
        named, code = not code and not body, code or _STATUSES[status]
    kind, message, remedy = _CODES.get(code) or _CODES.get(_STATUSES.get(status, "")) or _unknown(status)
    if not fields and kind in _WORDS_OF_S3 and (body or (kind is NotFound and method in ("PUT", "POST"))):
        named, (kind, message, remedy) = False, _unknown(status)
    region = headers.get("x-amz-bucket-region") or fields.get("Region") or "another region"
    values = {
        "bucket": bucket,
        "endpoint": endpoint,
        "method": method,
        "permission": PERMISSIONS[action],
        "region": region,
        "skew": _skew(fields),
    }
    message = message.format_map(values)
    if not named:
        detail = fields.get("Message") or ("" if fields else "its answer is not one of S3")
        code_and_detail = " ".join(f"{fields.get('Code', '')} {detail}".split())[:_LONGEST_DETAIL]
        message += f" ({status}{' ' if code_and_detail else ''}{code_and_detail})"
    return S3Error(kind, message, remedy.format_map(values), status, code)


def _unknown(status: int) -> tuple[type[StoreError], str, str]:
    if status >= 500:
        return Unavailable, "{endpoint} failed", "see its log"
    return (
        Misconfigured,
        "{endpoint} refuses {method}",
        "check endpoint_url: that it is an S3 endpoint, and http or https as it should be",
    )


def _fields(body: bytes) -> dict[str, str]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return {}
    if root.tag.rpartition("}")[2] != "Error":
        return {}
    return {each.tag.rpartition("}")[2]: each.text or "" for each in root}


def _skew(fields: Mapping[str, str]) -> str:
    sent, served = fields.get("RequestTime", ""), fields.get("ServerTime", "")
    return f" (here {sent}, there {served})" if sent and served else ""


def no_answer(exc: Exception, endpoint: str) -> MediumError:
    """Return the error for a request that got no answer."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return MediumError(
            Misconfigured,
            f"the certificate of {endpoint} is not trusted ({exc.verify_message})",
            "name its authority's certificates in AWS_CA_BUNDLE",
        )
    if isinstance(exc, ssl.SSLError) and exc.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return MediumError(Misconfigured, f"{endpoint} does not speak TLS", "write http:// in endpoint_url")
    if isinstance(exc, socket.gaierror):
        return MediumError(
            Unavailable, f"the host of {endpoint} has no address ({exc.strerror})", "check endpoint_url and DNS"
        )
    if isinstance(exc, ConnectionRefusedError):
        return MediumError(
            Unavailable, f"nothing listens at {endpoint}", "check endpoint_url, and that the service runs"
        )
    if isinstance(exc, TimeoutError):
        return MediumError(Unavailable, f"{endpoint} did not answer in time", "check the network, and the service")
    if isinstance(exc, http.client.HTTPException) and not isinstance(
        exc, (http.client.RemoteDisconnected, http.client.IncompleteRead)
    ):
        return MediumError(
            Misconfigured,
            f"{endpoint} does not answer as HTTP does ({type(exc).__name__})",
            "check endpoint_url: is it https, and the port right?",
        )
    reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
    tls = "" if endpoint.startswith("https:") else ", and whether endpoint_url should be https"
    return MediumError(
        Unavailable, f"the connection to {endpoint} broke ({reason})", f"check the network, and the service{tls}"
    )


def modified(headers: Message, name: str) -> float:
    """Return a date of the answer's head, in seconds since the epoch; 0 where there is none."""
    try:
        return parsedate_to_datetime(headers.get(name) or "").timestamp()
    except ValueError:
        return 0.0
