"""What is known beforehand of the services that speak S3: `docs/reference/s3.md` says what was tested and what read."""

from __future__ import annotations

from dataclasses import dataclass

from pkgstore.config import suggest
from pkgstore.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Dialect:
    """A service, and what no probe can find out about it.

    ``hosts`` are the ends of host names by which it is recognised, ``addressing`` how a bucket is named (``path`` or
    ``virtual``) and ``region`` what is signed where none is given. ``completes_once``: whether its makers, or
    long races, say that completing a multipart upload on condition is exclusive; a probe may miss a race that is rare.
    """

    name: str
    hosts: tuple[str, ...] = ()
    addressing: str = "path"
    region: str = "us-east-1"
    completes_once: bool = False


GENERIC = Dialect("generic")
_ALL = (
    GENERIC,
    Dialect("aws", (".amazonaws.com", ".amazonaws.com.cn"), "virtual", completes_once=True),
    Dialect("minio"),
    Dialect("ministack", completes_once=True),
    Dialect("ceph"),
    Dialect("hetzner", (".your-objectstorage.com",)),
    Dialect("r2", (".r2.cloudflarestorage.com",), region="auto", completes_once=True),
    Dialect("b2", (".backblazeb2.com",)),
    Dialect("spaces", (".digitaloceanspaces.com",)),
    Dialect("seaweedfs"),
)


def find(name: str | None, host: str) -> Dialect:
    """Return the dialect of that name, or else the one that the host's name tells. Raises `Misconfigured`."""
    if name is None:
        return next((each for each in _ALL if host.endswith(each.hosts)), GENERIC) if host else _ALL[1]
    known = {each.name: each for each in _ALL}
    if name not in known:
        raise Misconfigured(f"there is no S3 dialect {name!r}: {suggest(name, known)}")
    return known[name]
