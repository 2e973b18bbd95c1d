"""Objects in an S3 bucket, below a prefix: `s3://bucket/prefix`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pkgstore import config, keys
from pkgstore.drivers.s3 import dialects
from pkgstore.drivers.s3.access import Access
from pkgstore.drivers.s3.bucket import Bucket
from pkgstore.drivers.s3.driver import MiB, S3Driver
from pkgstore.errors import InvalidKey, Misconfigured

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_SMALLEST_PART, _LARGEST_PART = 5 * MiB, 5 << 30


def connect(
    url: SplitResult,
    *,
    create: bool,
    endpoint_url: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    dialect: str | None = None,
    part_size: str | int = 8 * MiB,
    single_writer: str | bool = False,
    timeout: float = 60.0,
) -> S3Driver:
    """Return the driver for ``s3://bucket/prefix``. Nothing is asked of the endpoint yet.

    ``endpoint_url``, ``region``, ``profile``
        as for every AWS tool, and found where those look when they are not given
    ``dialect``
        the service, where its host does not tell: `aws`, `minio`, `ceph`, `hetzner`, `r2`, `b2`, `spaces`, `seaweedfs`,
        `ministack`; bodies go up in parts only where it is one that completes them exclusively
    ``part_size``
        the bytes of a part, such as `16Mi` (default: 8 MiB), where bodies of more than 8 MiB go up in parts
    ``single_writer``
        publish also where the endpoint cannot keep two writers apart: the operator vouches that there is only one
    """
    if "@" in url.netloc or ":" in url.netloc:
        raise Misconfigured(
            f"{config.without_secrets(url.geturl())!r} names more than a bucket before the path: credentials come from"
            " the AWS chain, and the endpoint is endpoint_url="
        )
    if not url.netloc:
        raise Misconfigured("the URL names no bucket: write s3://bucket/prefix")
    prefix = url.path.strip("/")
    if prefix:
        try:
            keys.check(prefix)
        except InvalidKey as exc:
            raise Misconfigured(f"the prefix of {url.geturl()!r} cannot be one: {exc}") from None
        prefix += "/"
    if endpoint_url is None:
        endpoint_url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint_url is not None and "@" in endpoint_url:
        raise Misconfigured(
            f"endpoint_url={config.without_secrets(endpoint_url)!r} names somebody: credentials come from the AWS chain"
        )
    if endpoint_url is not None and not endpoint_url.startswith(("http://", "https://")):
        raise Misconfigured(f"endpoint_url={endpoint_url!r} is no URL: write https://host or http://host:port")
    parts = config.size("part_size", part_size)
    if not _SMALLEST_PART <= parts <= _LARGEST_PART:
        raise Misconfigured(f"part_size={part_size!r} is not between 5Mi and 5Gi, as S3 has it")
    host = "" if endpoint_url is None else endpoint_url.partition("//")[2].partition("/")[0].partition(":")[0]
    spoken = dialects.find(dialect, host)
    access = Access(
        url.netloc,
        endpoint_url=endpoint_url,
        region=region or os.environ.get("AWS_REGION"),
        profile=profile,
        dialect=spoken,
    )
    return S3Driver(
        Bucket(access, max(0.1, timeout)),
        prefix,
        dialect,
        part_size=parts,
        single_writer=config.boolean("single_writer", single_writer),
    )
