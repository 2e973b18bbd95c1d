"""Publishing, explored: every order of the requests of two or three publishers, with faults, on models of servers.

See `tests.exploration`. The numbers of schedules are what they were when a test was written, or less: they show that a
test has not become one of nothing.
"""

from __future__ import annotations

import os
import random
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from pkgstore import Exists, Store, Unavailable
from pkgstore.calls import Calls
from pkgstore.driver import MediumError
from pkgstore.drivers.gcs import driver as gcs_driver
from pkgstore.drivers.gcs import uploads
from pkgstore.drivers.gcs.client import Client
from pkgstore.drivers.gcs.driver import GCSDriver
from pkgstore.drivers.s3 import driver as s3_driver
from pkgstore.drivers.s3.bucket import Bucket
from pkgstore.drivers.s3.driver import S3Driver
from pkgstore.drivers.s3.multipart import Upload
from pkgstore.drivers.s3.probe import Found
from pkgstore.quota import Quota
from tests.exploration import gcs_model, replay, s3_model
from tests.exploration.gcs_model import GCSModel
from tests.exploration.properties import Scene
from tests.exploration.s3_model import S3Model
from tests.exploration.scheduler import TIMEOUT, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.exploration.replay import Stage
    from tests.exploration.scheduler import Report

SMALL = (b"first", b"the second")
SAME = (b"same", b"same")
PART = 4
LARGE = (b"firsts", b"second")
RUNS = 400

LOSSES = ("request lost", "reply lost", "late", "timed out", "crash")
"""The faults that leave an outcome open."""

REFUSED = ("late", "denies")
"""A late effect, whose sender has been refused meanwhile."""


class NoQuota(Quota):
    """What never looks whether there is a quota, which would be two requests more of no interest here."""

    def is_on(self) -> bool:
        return False


def without_quota(calls: Calls) -> Store:
    """Return a store of which only the driver's requests are explored."""
    return Store(calls, identity="explored", quota=NoQuota(calls))


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Yield where verbs are replayed."""
    with replay.stage() as made:
        yield made


def seen(report: Report, schedules: int) -> None:
    """Print how much was explored, and hold it to how much there was to explore."""
    print(report)
    assert report.schedules >= schedules


# -- S3 ---------------------------------------------------------------------------------------------------------------


class S3Access:
    """Has what a bucket asks of `pkgstore.drivers.s3.access.Access`."""

    bucket = "bucket"
    base = f"{s3_model.ENDPOINT}/bucket"
    ssl_context = None

    def headers(self, method: str, url: str, headers: dict[str, str], payload: str) -> dict[str, str]:
        return {**headers, "x-payload": payload}


def s3(stage: Stage, model: S3Model, *, part_size: int = 1 << 20, dialect: str = "aws") -> Scene:
    """Return a scene on a model of an S3 server, as its probe would have found it."""
    access: Any = S3Access()
    kept = {each.name: "" if each.name.endswith("_reason") else True for each in fields(Found)}
    found = kept | {"complete": model.completes_once, "delete": model.deletes_once, "folders": False}

    def opened() -> Store:
        bucket = Bucket(access, TIMEOUT)
        driver = S3Driver(bucket, "", dialect, part_size=part_size, single_writer=False)
        assert driver.recall({bucket.endpoint: found})
        return without_quota(Calls(driver, "s3://bucket", 5 * TIMEOUT))

    return Scene(stage, model, opened)


@pytest.mark.parametrize(("bodies", "schedules"), [(SMALL, 20_000), (SAME, 20_000)])
def test_s3_two_small(stage: Stage, bodies: tuple[bytes, ...], schedules: int) -> None:
    seen(s3(stage, S3Model()).publishers(*bodies).explore(2), schedules)


def test_s3_two_slow_writers(stage: Stage) -> None:
    seen(s3(stage, S3Model(slow=True)).publishers(*SMALL).explore(2), 300_000)


def test_s3_three_small(stage: Stage) -> None:
    seen(s3(stage, S3Model()).publishers(*SMALL, b"3").explore(1), 18_000)


@pytest.mark.parametrize("again", [404, 412, 200])
def test_s3_two_in_parts(stage: Stage, again: int) -> None:
    """``again`` is the answer to a completion of what is complete; documents differ, and servers."""
    seen(s3(stage, S3Model(again=again), part_size=PART).publishers(*LARGE).explore(1), 1_000_000)


def test_s3_two_in_parts_with_two_faults(stage: Stage) -> None:
    seen(s3(stage, S3Model(), part_size=PART).publishers(*LARGE).explore(2, LOSSES), 100_000_000)


def test_s3_in_parts_and_refused_when_it_looks(stage: Stage) -> None:
    seen(s3(stage, S3Model(), part_size=PART).publishers(LARGE[0]).explore(2, (*REFUSED, "reply lost")), 100)


def test_s3_in_parts_against_small(stage: Stage) -> None:
    seen(s3(stage, S3Model(), part_size=PART).publishers(LARGE[0], b"1").explore(1), 2_000)


@pytest.mark.parametrize(("completes_once", "dialect"), [(False, "aws"), (True, "ceph"), (False, "ceph")])
def test_s3_no_parts_where_completions_race(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, completes_once: bool, dialect: str
) -> None:
    """A large body goes up by one PUT, after a look at whether it need."""
    monkeypatch.setattr(s3_driver, "_SENT_WHOLE", PART)
    monkeypatch.setattr(Upload, "__init__", None)
    model = S3Model(completes_once=completes_once, deletes_once=False, slow=True)
    seen(s3(stage, model, part_size=PART, dialect=dialect).publishers(*LARGE).explore(1), 9_000)


def test_s3_with_a_deleter(stage: Stage) -> None:
    seen(s3(stage, S3Model()).publishers(*SMALL).deleter().explore(1), 1_000)
    seen(s3(stage, S3Model()).publishers(SMALL[0]).deleter().explore(2, REFUSED), 100)


def test_s3_with_a_replacer(stage: Stage) -> None:
    seen(s3(stage, S3Model()).publishers(*SMALL).replacer(b"replaced").explore(1), 6_000)


# -- Google Cloud Storage ---------------------------------------------------------------------------------------------


class GCSAccess:
    """Has what a client asks of `pkgstore.drivers.gcs.access.Access`."""

    anonymous = True

    def token(self) -> None:
        return None


def gcs(stage: Stage, model: GCSModel, *, resumable: bool = True) -> Scene:
    """Return a scene on a model of the service, as its probe would have found it."""
    access: Any = GCSAccess()
    found = {"origins": {gcs_model.ORIGIN: {"media": True, "resumable": resumable}}}

    def opened() -> Store:
        driver = GCSDriver(Client(gcs_model.ORIGIN, "bucket", access, timeout=TIMEOUT, project=None), "")
        assert driver.recall(found)
        return without_quota(Calls(driver, "gs://bucket", 5 * TIMEOUT))

    return Scene(stage, model, opened)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bodies of a few bytes take the ways of large ones."""
    monkeypatch.setattr(uploads, "AT_ONCE", PART)
    monkeypatch.setattr(uploads, "CHUNK", PART)


@pytest.mark.parametrize("slow", [False, True])
def test_gcs_two_small(stage: Stage, slow: bool) -> None:
    seen(gcs(stage, GCSModel(slow=slow)).publishers(*SMALL).explore(2), 20_000)


def test_gcs_three_small(stage: Stage) -> None:
    seen(gcs(stage, GCSModel()).publishers(*SMALL, b"3").explore(1), 20_000)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("forgets", [False, True])
def test_gcs_two_resumable(stage: Stage, forgets: bool) -> None:
    scene = gcs(stage, GCSModel(forgets=forgets)).publishers(*LARGE)
    seen(scene.explore(1), 8_000)
    seen(scene.explore(2, REFUSED), 200_000)


@pytest.mark.usefixtures("small_chunks")
def test_gcs_two_streamed(stage: Stage) -> None:
    seen(gcs(stage, GCSModel(slow=True), resumable=False).publishers(*LARGE).explore(2), 3_000_000)


def test_gcs_with_a_deleter(stage: Stage) -> None:
    seen(gcs(stage, GCSModel()).publishers(*SMALL).deleter().explore(1), 1_000)
    seen(gcs(stage, GCSModel()).publishers(SMALL[0]).deleter().explore(2, REFUSED), 100)


def test_gcs_with_a_replacer(stage: Stage) -> None:
    seen(gcs(stage, GCSModel()).publishers(*SMALL).replacer(b"replaced").explore(1), 6_000)


# -- longer runs, by chance -------------------------------------------------------------------------------------------


@pytest.fixture
def rng() -> random.Random:
    """Chance, with its seed in the output of a test that fails; PKGSTORE_TEST_SEED sets it."""
    seed = os.environ.get("PKGSTORE_TEST_SEED") or random.SystemRandom().randbytes(6).hex()
    print(f"PKGSTORE_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("server", ["s3", "gcs"])
def test_many_with_many_faults(stage: Stage, rng: random.Random, server: str) -> None:
    scene = s3(stage, S3Model(slow=True), part_size=PART) if server == "s3" else gcs(stage, GCSModel(slow=True))
    world = scene.publishers(*LARGE, b"3").replacer(b"replaced").deleter().world()
    told = set()
    for _ in range(RUNS):
        state = world.wander(rng.randint(0, 6), rng)
        told |= {outcome.told for number in range(5) if (outcome := world.outcome(state, number))}
    assert told >= {"done", "Exists", "Unavailable"}


# -- it can fail ------------------------------------------------------------------------------------------------------


def caught(scene: Scene, words: str, faults: int = 1) -> None:
    """Expect that a broken driver is caught, and print the run that shows it."""
    with pytest.raises(Violation, match=words) as info:
        scene.explore(faults)
    print(info.value)


TWO_WINNERS = "both told that they have won|is replaced by"


def test_a_driver_that_forgets_its_token_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> None:
        raise MediumError(Exists, "the key is taken")

    monkeypatch.setattr(S3Driver, "_ours", refused)
    caught(s3(stage, S3Model()).publishers(*SMALL), "although it has won")
    monkeypatch.setattr(GCSDriver, "_own", refused)
    caught(gcs(stage, GCSModel()).publishers(*SMALL), "although it has won")


def test_a_driver_that_sends_no_condition_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_driver, "_ABSENT", {})
    caught(s3(stage, S3Model()).publishers(*SMALL), TWO_WINNERS, 0)
    caught(s3(stage, S3Model(), part_size=PART).publishers(*LARGE), TWO_WINNERS, 0)
    monkeypatch.setattr(gcs_driver, "_ABSENT", None)
    caught(gcs(stage, GCSModel()).publishers(*SMALL), TWO_WINNERS, 0)


def test_a_driver_that_trusts_any_completion_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Driver, "_completes_once", True)
    caught(s3(stage, S3Model(completes_once=False), part_size=PART).publishers(*LARGE), TWO_WINNERS, 0)


def test_a_server_that_judges_too_early_is_caught(stage: Stage) -> None:
    """What the probe has to find out: no driver can help there."""
    caught(s3(stage, S3Model(hasty=True)).publishers(*SMALL), TWO_WINNERS, 0)
    caught(gcs(stage, GCSModel(hasty=True)).publishers(*SMALL), TWO_WINNERS, 0)


def test_an_abort_of_what_may_be_complete_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def abort(self: Upload) -> None:
        self._bucket.request("DELETE", self.key, {"uploadId": self.id}, action="ABORT").close()

    monkeypatch.setattr(Upload, "abort", abort)
    caught(s3(stage, S3Model(), part_size=PART).publishers(*LARGE), "may be under way", 2)


def test_an_upload_that_is_never_aborted_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Upload, "abort", lambda self: None)
    caught(s3(stage, S3Model(), part_size=PART).publishers(*LARGE), "an upload is left", 0)


def test_two_looks_at_a_key_in_the_place_of_one_are_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late completion of its own comes between them."""
    look = S3Driver._there

    def twice(self: S3Driver, key: str) -> Any:
        found = look(self, key)
        if found is None and look(self, key) is not None:
            raise MediumError(Exists, "the key is taken")
        return found

    monkeypatch.setattr(S3Driver, "_there", twice)
    caught(s3(stage, S3Model(), part_size=PART).publishers(*LARGE), "although it has won")


def test_a_placeholder_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is taken first, and given its bytes afterwards."""
    request = Bucket.request

    def first_empty(self: Bucket, method: str, key: str = "", query: Any = None, *args: Any, **options: Any) -> Any:
        if method == "PUT" and not query:
            headers, body = args
            request(self, "PUT", key, None, headers, b"").read()
            args = ({name: value for name, value in headers.items() if name != "If-None-Match"}, body)
        return request(self, method, key, query, *args, **options)

    monkeypatch.setattr(Bucket, "request", first_empty)
    caught(s3(stage, S3Model()).publishers(*SMALL), "a reader has", 0)


def test_a_key_that_is_blocked_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsure(*args: Any) -> None:
        raise MediumError(Unavailable, "somebody is at it")

    monkeypatch.setattr(S3Driver, "_ours", unsure)
    caught(s3(stage, S3Model()).publishers(SMALL[0]), "the key is blocked", 0)


def test_an_error_that_hides_an_open_outcome_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    put = S3Driver.put

    def hiding(self: S3Driver, *args: Any, **options: Any) -> Any:
        try:
            return put(self, *args, **options)
        except MediumError as exc:
            if exc.kind is Unavailable:
                exc.kind = Exists
            raise

    monkeypatch.setattr(S3Driver, "put", hiding)
    caught(s3(stage, S3Model()).publishers(*SMALL), "although it has won|nobody else's object was there")
