"""Where a bucket is and who we are there: found by s3fs as every AWS tool finds it, and kept for signing."""

from __future__ import annotations

import os
import ssl
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pkgstore import config
from pkgstore.driver import MediumError
from pkgstore.errors import Denied, Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.credentials import ReadOnlyCredentials

    from pkgstore.drivers.s3.dialects import Dialect

_REFREEZE_AFTER = 60.0
_FOUND_WITHIN = 60.0
_UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True)
class _Found:
    """What s3fs found."""

    base: str
    region: str
    credentials: ReadOnlyCredentials
    renew: Callable[[], ReadOnlyCredentials] | None
    ca_bundle: str | None
    pid: int
    at: float


_all: weakref.WeakSet[Access] = weakref.WeakSet()


def _forget_locks() -> None:
    for access in _all:
        access._lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_locks)


class Access:
    """Signs requests to one bucket.

    Credentials are those of ``PKGSTORE_S3_ACCESS_KEY_ID``, ``PKGSTORE_S3_SECRET_ACCESS_KEY`` and
    ``PKGSTORE_S3_SESSION_TOKEN`` (or of the files that these, with ``_FILE`` at their end, name); else those of
    the AWS chain. Looked up when they are first needed; safe in children after fork.
    """

    def __init__(
        self, bucket: str, *, endpoint_url: str | None, region: str | None, profile: str | None, dialect: Dialect
    ) -> None:
        self.bucket = bucket
        self._endpoint_url = endpoint_url
        self._region = region
        self._profile = profile
        self._dialect = dialect
        self._lock = threading.Lock()
        self._found: _Found | None = None
        _all.add(self)

    @property
    def base(self) -> str:
        """The URL of the bucket, without a slash at its end."""
        return self._now().base

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """The certificates to trust, or None for an endpoint without TLS."""
        found = self._now()
        if not found.base.startswith("https:"):
            return None
        try:
            return ssl.create_default_context(cafile=found.ca_bundle)
        except OSError as exc:
            raise MediumError(
                Misconfigured, f"the certificates in {found.ca_bundle} cannot be read ({exc})", "correct AWS_CA_BUNDLE"
            ) from exc

    def headers(self, method: str, url: str, headers: dict[str, str], payload: str = _UNSIGNED) -> dict[str, str]:
        """Return the headers with those of a signature. ``payload`` is the sha256 of the body, where it is known."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        found = self._now()
        request = AWSRequest(method, url, headers=headers)
        request.context["payload_signing_enabled"] = False
        signer = S3SigV4Auth(found.credentials, "s3", found.region)
        signer.payload = lambda request: payload
        signer.add_auth(request)
        return dict(request.headers.items())

    def signed_url(self, url: str, expires: float) -> str:
        """Return a URL that whoever has it may GET for ``expires`` seconds."""
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest

        found = self._now()
        request = AWSRequest("GET", url)
        S3SigV4QueryAuth(found.credentials, "s3", found.region, expires=int(expires)).add_auth(request)
        return cast("str", request.url)

    def renew(self) -> None:
        """Look the credentials up again when they are next needed: those in use have been refused as expired."""
        self._found = None

    def _now(self) -> _Found:
        found = self._found
        if found is None or (
            found.renew and (found.pid != os.getpid() or time.monotonic() - found.at > _REFREEZE_AFTER)
        ):
            with self._lock:
                found = self._found = self._look_up(self._found)
        return found

    def _look_up(self, known: _Found | None) -> _Found:
        if known is not None and known.pid == os.getpid() and known.renew is not None:
            if time.monotonic() - known.at <= _REFREEZE_AFTER:
                return known
            credentials = known.renew()
            return _Found(
                known.base, known.region, credentials, known.renew, known.ca_bundle, known.pid, time.monotonic()
            )
        if known is not None and known.renew is None:
            return known
        return self._ask_s3fs()

    def _ask_s3fs(self) -> _Found:
        from botocore.credentials import Credentials
        from botocore.exceptions import BotoCoreError, ClientError
        from fsspec.asyn import sync
        from fsspec.exceptions import FSTimeoutError
        from s3fs import S3FileSystem

        key, secret = config.secret("PKGSTORE_S3_ACCESS_KEY_ID"), config.secret("PKGSTORE_S3_SECRET_ACCESS_KEY")
        token = config.secret("PKGSTORE_S3_SESSION_TOKEN")
        if bool(key) != bool(secret):
            raise Misconfigured(
                "of PKGSTORE_S3_ACCESS_KEY_ID and PKGSTORE_S3_SECRET_ACCESS_KEY one is not set: set both, or neither"
            )
        try:
            system = S3FileSystem(
                key=key,
                secret=secret,
                token=token,
                profile=self._profile,
                endpoint_url=self._endpoint_url,
                client_kwargs={"region_name": self._region} if self._region else {},
                config_kwargs={
                    "signature_version": "s3v4",
                    "s3": {"addressing_style": self._dialect.addressing},
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
                use_listings_cache=False,
                skip_instance_cache=True,
            )
            client = system.connect()
            session, loop = system.session, system.loop
            source: Any = (
                Credentials(key, secret, token) if key else sync(loop, session.get_credentials, timeout=_FOUND_WITHIN)
            )
            if source is None:
                raise _no_credentials()
            parameters = {"Bucket": self.bucket, "Key": "x"}
            example = sync(loop, client.generate_presigned_url, "get_object", Params=parameters)
            region = client.meta.region_name
            configured = session.get_config_variable("region")
            ca_bundle = session.get_config_variable("ca_bundle")
            sync(loop, client.close)
        except (BotoCoreError, ClientError, FSTimeoutError, ValueError) as exc:
            raise _refused(exc) from exc

        def freeze() -> ReadOnlyCredentials:
            if key:
                return _printable(source.get_frozen_credentials())
            try:
                return _printable(sync(loop, source.get_frozen_credentials, timeout=_FOUND_WITHIN))
            except (BotoCoreError, ClientError, FSTimeoutError) as exc:
                raise _refused(exc) from exc

        parts = urlsplit(example)
        base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/x')}"
        if not self._region and not configured:
            region = self._dialect.region
        renew = freeze if hasattr(source, "refresh_needed") else None
        return _Found(base, region, freeze(), renew, ca_bundle, os.getpid(), time.monotonic())


def _printable(found: ReadOnlyCredentials) -> ReadOnlyCredentials:
    for name, value in (("key id", found.access_key), ("secret", found.secret_key), ("token", found.token or "x")):
        if not (value.isascii() and value.isprintable() and " " not in value):
            raise MediumError(
                Misconfigured,
                f"the {name} of the credentials holds a blank or a line break",
                "correct where it comes from",
            )
    return found


def _no_credentials() -> MediumError:
    return MediumError(
        Denied,
        "no credentials were found",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, or give the machine a role",
    )


def _refused(exc: Exception) -> MediumError:
    """Return the error for one that botocore raised while it looked for the bucket and the credentials."""
    from botocore import exceptions

    text = " ".join(str(exc).split())
    if isinstance(exc, exceptions.ClientError):
        return MediumError(Denied, f"credentials were refused ({text})", "check the role, and who may take it")
    if isinstance(exc, TimeoutError):
        return MediumError(Unavailable, "no credentials were had in time", "see where the AWS chain gets them from")
    if isinstance(exc, exceptions.NoCredentialsError):
        return _no_credentials()
    if isinstance(exc, exceptions.ProfileNotFound):
        return MediumError(Misconfigured, text, "name a profile of ~/.aws/config, or of AWS_CONFIG_FILE")
    if isinstance(exc, exceptions.PartialCredentialsError):
        return MediumError(Denied, f"the credentials are not complete ({text})", "set both the key id and the secret")
    if isinstance(exc, exceptions.ParamValidationError):
        return MediumError(Misconfigured, f"the bucket's name cannot be one ({text})", "correct the URL")
    if isinstance(
        exc, (exceptions.HTTPClientError, exceptions.CredentialRetrievalError, exceptions.MetadataRetrievalError)
    ):
        return MediumError(
            Unavailable, f"credentials could not be had ({text})", "see where the AWS chain gets them from"
        )
    return MediumError(Misconfigured, f"the client cannot be made ({text})", "correct endpoint_url, region or profile")
