"""Multipart uploads that were begun and neither completed nor aborted.

Whoever aborts an upload has to know that no completion of it can arrive any more. Our writers do not complete what they
began more than `LIFETIME` ago, by a clock that also runs while the machine sleeps; and an upload is only aborted when
it is `AGE` old by the endpoint's own clock. Where completions are not exclusive we complete no uploads of our own, and
what abort does there is not known well enough: then nothing is aborted.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pkgstore.driver import Leftover
from pkgstore.drivers.s3.errors import modified
from pkgstore.drivers.s3.listing import cut_off, document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.drivers.s3.bucket import Bucket

DAY = 86_400.0
LIFETIME = DAY
AGE = 7 * DAY


def uploads(bucket: Bucket, prefix: str, *, safe: bool) -> Iterator[Leftover]:
    """Yield the unfinished uploads of keys that start with ``prefix``; none may be aborted unless it is ``safe``."""
    query = {"uploads": "", "prefix": prefix}
    while True:
        root, headers = document(bucket, query, "UPLOADS")
        now = modified(headers, "Date")
        for each in root.iterfind("{*}Upload"):
            key, name = each.findtext("{*}Key") or "", each.findtext("{*}UploadId") or ""
            began = _time(each.findtext("{*}Initiated") or "")
            if key.startswith(prefix):
                yield Leftover(key[len(prefix) :], began, name, _why_kept(now, began, safe=safe))
        if root.findtext("{*}IsTruncated") != "true":
            return
        following = {
            "key-marker": root.findtext("{*}NextKeyMarker") or "",
            "upload-id-marker": root.findtext("{*}NextUploadIdMarker") or "",
        }
        if not following["key-marker"] or following.items() <= query.items():
            raise cut_off(bucket)
        query.update(following)


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _why_kept(now: float, began: float, *, safe: bool) -> str:
    if not safe:
        return "this endpoint may lose a published object when an upload of it is aborted: use a lifecycle rule"
    if not now or not began:
        return "the endpoint does not say how old it is"
    if now - began < AGE:
        return f"it is younger than {AGE / DAY:.0f} days, and its writer may still be at it"
    return ""
