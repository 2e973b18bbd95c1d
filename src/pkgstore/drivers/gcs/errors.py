"""What the service's refusals mean, and what to do about each."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from dataclasses import dataclass

from pkgstore.driver import MediumError
from pkgstore.errors import Denied, Misconfigured, NotFound, StoreError, Unavailable

_PERMISSION = re.compile(r"storage\.[a-z]+\.[A-Za-z]+")
_XML_CODE = re.compile(r"<Code>([^<]*)</Code>")
_XML_MESSAGE = re.compile(r"<(?:Details|Message)>([^<]*)</")
_LONGEST_MESSAGE = 300
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_TOO_FAST = {"rateLimitExceeded", "userRateLimitExceeded", "SlowDown", "TooManyRequests"}
_QUOTAS = {"quotaExceeded", "dailyLimitExceeded", "dailyLimitExceededUnreg"}
_KEPT = {"retentionPolicyNotMet", "objectUnderActiveHold", "RetentionPolicyNotMet", "ObjectUnderActiveHold"}


@dataclass(frozen=True)
class Answer:
    """A refusal, as the service worded it; ``reason`` is empty where what answered is not the service."""

    status: int
    reason: str
    message: str

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in _PASSING or (self.status == 403 and self.reason in _TOO_FAST)

    @property
    def without_bucket(self) -> bool:
        """Whether it says that there is no bucket."""
        return self.reason == "NoSuchBucket" or "bucket does not exist" in self.message


def parsed(status: int, content: bytes) -> Answer:
    """Return what a refusal says: in JSON, in XML, or in no form of the service's."""
    text = content.decode("utf-8", "replace")
    reason = message = ""
    try:
        error = json.loads(text)["error"]
        message = str(error["message"])
        reason = str((error.get("errors") or [{}])[0].get("reason") or error.get("status") or "unknown")
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        code = _XML_CODE.search(text)
        if code:
            reason = code[1]
            message = " ".join(_XML_MESSAGE.findall(text))
    return Answer(status, reason, " ".join(message.split())[:_LONGEST_MESSAGE])


def refusal(answer: Answer, *, bucket: str, account: str | None, of_bucket: bool = False) -> MediumError:
    """Return the error for a refusal.

    ``account`` is whose credentials were sent, None for nobody's. ``of_bucket`` says that no object was asked for, so
    that what was not found is the bucket.
    """
    said = f" ({answer.message})" if answer.message else ""
    if answer.passing:
        if answer.status == 429 or answer.reason in _TOO_FAST:
            return MediumError(Unavailable, "the service asks for fewer requests", "try again later, or publish slower")
        return MediumError(
            Unavailable, f"the service answered {answer.status}{said}", "try again later; see the service's status page"
        )
    if answer.status == 404:
        if of_bucket or answer.without_bucket:
            return MediumError(
                Misconfigured,
                f"there is no bucket {bucket!r}",
                f"correct the URL, or make it: gcloud storage buckets create gs://{bucket}",
            )
        return MediumError(NotFound, "there is no such object")
    if answer.status in (401, 403):
        return _denied(answer, account, said)
    if answer.status == 400 and "match calculated" in answer.message:
        return MediumError(
            Unavailable, "the bytes were damaged on their way, and the service refused them", "publish it again"
        )
    if answer.status == 400 and ("requester pays" in answer.message or answer.reason == "UserProjectMissing"):
        return MediumError(
            Misconfigured, f"the bucket {bucket!r} bills whoever asks", "name the project to bill with project="
        )
    if not answer.reason:
        return not_the_service(f"it answered {answer.status}")
    return MediumError(
        Misconfigured,
        f"the service refused the request with {answer.status}{said}",
        "check the names of bucket and project, and the options",
    )


def _denied(answer: Answer, account: str | None, said: str) -> MediumError:
    permission = _PERMISSION.search(answer.message)
    if account is None:
        what = f"{permission[0]} is not allowed to anybody" if permission else f"nobody may do this{said}"
        return MediumError(Denied, f"{what}: the bucket is not open to all", "give credentials")
    if answer.status == 401:
        return MediumError(
            Denied,
            f"the service does not accept the token of {account}, not even a new one",
            "see that the key is neither revoked nor disabled and that the clock of this host is right",
        )
    if answer.reason in _KEPT:
        return MediumError(Denied, f"a retention policy or a hold keeps the object{said}", "wait, or lift it")
    if answer.reason in _QUOTAS:
        return MediumError(Denied, f"a quota of the project is used up{said}", "raise the quota in the Cloud console")
    if permission:
        return MediumError(
            Denied,
            f"{account} lacks {permission[0]}",
            "grant a role that has it on the bucket, such as roles/storage.objectUser",
        )
    return MediumError(
        Denied, f"the service forbids it to {account}{said}", "see the bucket's permissions and policies"
    )


def not_the_service(what: str) -> MediumError:
    """Return the error for an answer that Google Cloud Storage would not give."""
    return MediumError(
        Misconfigured, f"what answers at the endpoint is not Google Cloud Storage: {what}", "check endpoint_url"
    )


def unreachable(exc: Exception, origin: str) -> MediumError:
    """Return the error for a request that had no answer."""
    why = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    if isinstance(exc, ssl.SSLCertVerificationError):
        return MediumError(
            Misconfigured,
            f"the certificate of {origin} is not trusted: {exc.verify_message}",
            "check endpoint_url, and the certificates that this host trusts (SSL_CERT_FILE)",
        )
    if isinstance(exc, ssl.SSLError) and exc.reason in ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"):
        return MediumError(
            Misconfigured, f"{origin} does not speak TLS", "write http:// in endpoint_url, or correct it"
        )
    if isinstance(exc, http.client.BadStatusLine) and not isinstance(exc, http.client.RemoteDisconnected):
        return not_the_service("it does not speak HTTP")
    if isinstance(exc, TimeoutError):
        why = "no answer in time"
    return MediumError(Unavailable, f"cannot reach {origin}: {why}", "check the network and endpoint_url")


def classify(exc: BaseException) -> type[StoreError] | None:
    """Say which of our errors it is, for what a request or a stream raises."""
    if isinstance(exc, MediumError):
        return exc.kind
    if isinstance(exc, StoreError):
        return None
    return Unavailable if isinstance(exc, (OSError, http.client.HTTPException)) else None
