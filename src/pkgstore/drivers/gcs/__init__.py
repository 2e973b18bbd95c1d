"""Google Cloud Storage: ``gs://bucket/prefix``.

What decides a publish is the service's own precondition, that an object has no generation yet; it is tried at the
endpoint before it is relied on. Checksums are declared with the bytes, so that the service refuses what was damaged on
its way. A token and the digests are in the object's metadata.

`storage.objects.get`, `storage.objects.create` and `storage.objects.list` are enough to publish and to read;
`storage.objects.delete` is needed to delete and to replace, and `storage.objects.update` to record the digests of what
was put there by hand.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pkgstore import keys
from pkgstore.config import seconds, without_secrets
from pkgstore.errors import InvalidKey, Misconfigured

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from pkgstore.drivers.gcs.driver import GCSDriver

_ENDPOINT = "https://storage.googleapis.com"
_EMULATOR = "STORAGE_EMULATOR_HOST"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_SHORTEST_TIMEOUT = 1.0
_PROJECT = re.compile(r"[A-Za-z0-9.:_-]+")


def connect(
    url: SplitResult,
    *,
    create: bool,
    timeout: float = 60.0,
    credentials: object = None,
    endpoint_url: str | None = None,
    project: str | None = None,
) -> GCSDriver:
    """Return the driver for ``gs://bucket`` or ``gs://bucket/prefix``. Nothing is sent yet; a bucket is never made.

    ``timeout``
        seconds that one request may be without an answer or any progress; at least one
    ``credentials``
        the path of a JSON file (a service account, a workload identity federation, or a user's own credentials), its
        content as a dict, a credentials object of google-auth or of gcsfs, or ``"anonymous"`` for a bucket that is open
        to all. Without it, they come from the first of these variables that is set: ``PKGSTORE_GCS_CREDENTIALS``
        (a path, or the JSON itself), ``PKGSTORE_GCS_CREDENTIALS_FILE`` (a path), ``PKGSTORE_GCS_TOKEN`` (an access
        token), ``PKGSTORE_GCS_TOKEN_FILE`` (a file that holds one, read again when it is no longer accepted),
        ``GOOGLE_APPLICATION_CREDENTIALS``; or else from the application default credentials of this host.
    ``endpoint_url``
        where the service is, such as ``https://storage.googleapis.com``, which is the default, or what the variable
        ``STORAGE_EMULATOR_HOST`` says
    ``project``
        the project to bill for the requests; buckets with requester pays ask for one

    Raises `Misconfigured`.
    """
    from pkgstore.drivers.gcs.client import Client
    from pkgstore.drivers.gcs.credentials import find
    from pkgstore.drivers.gcs.driver import GCSDriver

    timeout = max(_SHORTEST_TIMEOUT, seconds("timeout", timeout))
    if project is not None and not (isinstance(project, str) and _PROJECT.fullmatch(project)):
        raise Misconfigured(
            f"the option project={project!r} is no name of a project: give its id, such as my-project-1"
        )
    bucket, prefix = _place(url)
    origin = _origin(endpoint_url)
    access = find(credentials, timeout)
    if not access.anonymous and not _is_private(origin):
        raise Misconfigured(
            f"{origin} would be sent credentials unencrypted: use https, or credentials=anonymous for an emulator"
        )
    return GCSDriver(Client(origin, bucket, access, timeout=timeout, project=project), prefix)


def _place(url: SplitResult) -> tuple[str, str]:
    """Return the bucket and the prefix of a URL; the prefix is empty or ends with `/`."""
    shown = without_secrets(url.geturl())
    if "@" in url.netloc:
        raise Misconfigured(f"{shown} names somebody: credentials are no part of a URL; see the option 'credentials'")
    if not _BUCKET.fullmatch(url.netloc):
        raise Misconfigured(f"{shown} names no bucket: write gs://bucket or gs://bucket/prefix, in lower case")
    prefix = url.path.removeprefix("/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    try:
        return url.netloc, keys.check_prefix(prefix)
    except InvalidKey as exc:
        raise Misconfigured(f"the folder in {shown} cannot be used: {exc}") from None


def _origin(endpoint_url: str | None) -> str:
    """Return the endpoint as `scheme://host:port`."""
    source = "the option endpoint_url"
    if endpoint_url is None and os.environ.get(_EMULATOR):
        source, endpoint_url = f"the variable {_EMULATOR}", os.environ[_EMULATOR]
        if "://" not in endpoint_url:
            endpoint_url = f"http://{endpoint_url}"
    if endpoint_url is None:
        return _ENDPOINT
    try:
        parts = urlsplit(endpoint_url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good or parts.path.strip("/") or parts.query or parts.fragment:
        raise Misconfigured(f"{source} is no address of a server: write it as {_ENDPOINT}, without a path")
    return f"{parts.scheme}://{parts.netloc}"


def _is_private(origin: str) -> bool:
    """Say whether nobody else can read what is sent to an origin."""
    parts = urlsplit(origin)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
