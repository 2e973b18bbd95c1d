"""What the S3 driver makes of answers and settings, without a server."""

from __future__ import annotations

import itertools
import time
from dataclasses import fields
from email.message import Message
from typing import TYPE_CHECKING

import pytest

from pkgstore import Denied, Exists, Misconfigured, NotFound, StoreError, Unavailable, Unsupported
from pkgstore.drivers.s3 import dialects, multipart
from pkgstore.drivers.s3.errors import modified, refusal
from pkgstore.drivers.s3.probe import Found
from tests.fault_proxy import s3_error

if TYPE_CHECKING:
    from pkgstore.drivers.s3.errors import S3Error

HTML = b"<html><body>an <b>apology</b></body></html>"


def refused(status: int, body: bytes, method: str = "GET", headers: dict[str, str] | None = None) -> S3Error:
    answered = Message()
    for name, value in (headers or {}).items():
        answered[name] = value
    return refusal(status, answered, body, action=method, method=method, bucket="b", endpoint="http://e")


@pytest.mark.parametrize(
    ("status", "code", "method", "kind", "part"),
    [
        (404, "NoSuchKey", "GET", NotFound, "not there"),
        (404, "NoSuchBucket", "PUT", Misconfigured, "no bucket 'b' at http://e"),
        (404, "NoSuchUpload", "POST", Unavailable, "the multipart upload is gone"),
        (403, "AccessDenied", "DELETE", Denied, "may not do this"),
        (403, "Novel", "PUT", Denied, "(403 Novel why)"),
        (409, "ConditionalRequestConflict", "PUT", Unavailable, "another writer"),
        (412, "PreconditionFailed", "PUT", Exists, "the key is taken"),
        (400, "EntityTooLarge", "PUT", Unsupported, "larger than the endpoint takes"),
        (501, "NotImplemented", "PUT", Unsupported, "does not know PUT with these headers"),
        (503, "Reduce", "PUT", Unavailable, "(503 Reduce why)"),
        (599, "", "PUT", Unavailable, "failed"),
        (400, "Novel", "PUT", Misconfigured, "(400 Novel why)"),
    ],
)
def test_what_a_code_means(status: int, code: str, method: str, kind: type[StoreError], part: str) -> None:
    error = refused(status, s3_error(code, "why"), method)
    assert error.kind is kind
    assert part in str(error)
    assert error.status == status
    assert "\n" not in f"{error}{error.remedy}"
    assert error.remedy or kind in (NotFound, Exists)


@pytest.mark.parametrize(
    ("status", "method", "kind"),
    [
        (404, "HEAD", NotFound),
        (404, "GET", NotFound),
        (404, "DELETE", NotFound),
        (404, "PUT", Misconfigured),
        (403, "HEAD", Denied),
        (412, "PUT", Exists),
        (412, "HEAD", Exists),
        (503, "PUT", Unavailable),
    ],
)
def test_a_status_alone(status: int, method: str, kind: type[StoreError]) -> None:
    """HEAD never says more, and some gateways do not either."""
    assert refused(status, b"", method).kind is kind


@pytest.mark.parametrize("body", [HTML, b"plain", b"<unclosed", b"\xff\xfe", b"<Error/", b"{}"])
@pytest.mark.parametrize("status", [301, 400, 403, 404, 405, 418])
def test_what_no_s3_has_said_is_not_believed(status: int, body: bytes) -> None:
    error = refused(status, body)
    assert error.kind is Misconfigured
    assert f"({status} its answer is not one of S3)" in str(error)
    assert refused(502, body).kind is Unavailable, "which a proxy says while its S3 is away"


def test_a_long_and_broken_message_is_one_short_line() -> None:
    error = refused(400, s3_error("Novel", "first\nsecond " + "x" * 5000))
    assert "first second xxx" in str(error)
    assert len(str(error)) < 400
    assert "\n" not in str(error)


def test_a_region_is_found_where_it_is_told() -> None:
    body = s3_error("AuthorizationHeaderMalformed", "no").replace(b"</Error>", b"<Region>eu-1</Region></Error>")
    assert "lies in eu-1" in str(refused(400, body))
    assert "lies in eu-2" in str(refused(301, b"", headers={"x-amz-bucket-region": "eu-2"}))
    assert "lies in another region" in str(refused(301, b""))


def test_dates_of_answers() -> None:
    head = Message()
    assert modified(head, "Date") == 0.0
    head["Date"] = "Sat, 21 Nov 2026 12:00:00 GMT"
    assert modified(head, "Date") == 1795262400.0
    head.replace_header("Date", "yesterday")
    assert modified(head, "Date") == 0.0


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("", "aws"),
        ("s3.eu-west-1.amazonaws.com", "aws"),
        ("fsn1.your-objectstorage.com", "hetzner"),
        ("account.r2.cloudflarestorage.com", "r2"),
        ("127.0.0.1", "generic"),
        ("amazonaws.com.example", "generic"),
    ],
)
def test_a_host_tells_its_dialect(host: str, name: str) -> None:
    assert dialects.find(None, host).name == name
    assert dialects.find("minio", host).name == "minio"


@pytest.mark.parametrize("document", [None, 1, "x", [], {}, {"put": True}])
def test_findings_that_are_not_ours(document: object) -> None:
    assert Found.of(document) is None


def test_findings_are_remembered_as_they_were() -> None:
    found = Found(**{each.name: "two won" if each.name.endswith("_reason") else True for each in fields(Found)})
    assert Found.of(found.document()) == found
    assert Found.of({**found.document(), "of a later version": 1}) == found


class TestPauses:
    """How long a step of an upload waits after it has failed."""

    def test_grow_and_end_at_the_deadline(self) -> None:
        found = list(itertools.islice(multipart._pauses(_in(1e6)), 12))
        assert all(0.05 <= pause <= 5 for pause in found if pause is not None)
        assert None not in found
        assert found[-1] is not None
        assert found[-1] >= 2.5

    def test_that_have_no_time_left(self) -> None:
        assert next(multipart._pauses(_in(-1))) is None
        assert next(multipart._pauses(_in(0.01))) is None


def _in(seconds: float) -> float:
    return time.monotonic() + seconds
