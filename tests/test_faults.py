"""The fault injection itself; what stores make of faults is in the conformance kit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Exists, Unavailable
from pkgstore.driver import LocalPath, RecordsDigests
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, Outage, SpoolingDriver, with_driver
from pkgstore.testing.sources import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def store() -> Iterator[pkgstore.Store]:
    with pkgstore.open("memory://") as store:
        yield store


def test_a_plan_tells_what_did_not_happen(store: pkgstore.Store) -> None:
    late = Fault("stat", nth=2)
    plan = FaultPlan(Fault("put"), late)
    words = r"planned faults that did not happen: .*verb='stat'.*nth=2"
    with pytest.raises(AssertionError, match=words), plan:
        with_driver(store, FaultyDriver(store.driver, plan)).publish("a", b"1")
    assert plan.unfired == [late]


def test_a_plan_does_not_hide_what_went_wrong() -> None:
    with pytest.raises(ZeroDivisionError), FaultPlan(Fault("put")):
        raise ZeroDivisionError


@pytest.mark.parametrize("verb", ["stat", "delete"])
def test_verbs_without_a_middle(verb: Any) -> None:
    with pytest.raises(ValueError, match=f"{verb} has no middle"):
        Fault(verb, "during")


def test_before_and_after_the_effect(store: pkgstore.Store) -> None:
    for when, there in (("before", []), ("after", ["a"])):
        with FaultPlan(Fault("put", when, error=KeyError("mine"))) as plan:  # type: ignore[arg-type]
            faulty = with_driver(store, FaultyDriver(store.driver, plan))
            with pytest.raises(KeyError, match="mine"):
                faulty.publish("a", b"1")
        assert [blob.key for blob in store.list()] == there


@pytest.mark.parametrize(("nth", "times", "failing"), [(1, 1, {1}), (2, 2, {2, 3}), (3, None, {3, 4, 5}), (5, 9, {5})])
def test_which_calls_fail(store: pkgstore.Store, nth: int, times: int | None, failing: set[int]) -> None:
    store.publish("a", b"1")
    failed = set()
    with FaultPlan(Fault("stat", nth=nth, times=times)) as plan:
        driver = FaultyDriver(store.driver, plan)
        for call in range(1, 6):
            try:
                driver.stat("a")
            except Outage:
                failed.add(call)
    assert failed == failing


def test_a_fault_in_the_middle(store: pkgstore.Store) -> None:
    store.publish("a", b"12")
    store.publish("b", b"34")
    faults = [Fault("put", "during"), Fault("open", "during"), Fault("scan", "during")]
    with FaultPlan(*faults) as plan:
        driver = FaultyDriver(store.driver, plan)
        with driver.open("a")[1] as stream:
            assert stream.read(2) == b"1"
            with pytest.raises(Outage):
                stream.read(2)
        listing = driver.scan("")
        assert next(listing).key == "a"
        with pytest.raises(Outage):
            next(listing)
        with pytest.raises(Unavailable, match="cannot be rewound"):
            with_driver(store, driver).publish("c", Stream(b"56"))  # type: ignore[arg-type]
    assert [blob.key for blob in store.list()] == ["a", "b"]


def test_what_is_classified(store: pkgstore.Store) -> None:
    driver = FaultyDriver(store.driver, FaultPlan())
    assert driver.classify(Outage()) is Unavailable
    assert driver.classify(FileExistsError()) is Exists
    assert driver.classify(ValueError()) is None


def test_no_optional_part_is_claimed(store: pkgstore.Store) -> None:
    assert isinstance(store.driver, RecordsDigests)
    driver = FaultyDriver(store.driver, FaultPlan())
    assert not isinstance(driver, RecordsDigests)
    assert not isinstance(driver, LocalPath)


def test_a_driver_that_has_to_know_is_told(store: pkgstore.Store) -> None:
    driver: Any = SpoolingDriver(store.driver, FaultPlan())
    assert driver.streams is False
    with pytest.raises(AssertionError, match="both have to be known"):
        driver.put("a", None, None, digests={"sha256": "0" * 64}, exclusive=True, token="0" * 32)
    with pytest.raises(AssertionError, match="both have to be known"):
        driver.put("a", None, 1, digests={}, exclusive=True, token="0" * 32)
    assert with_driver(store, driver).publish("a", Stream(b"1")).size == 1  # type: ignore[arg-type]
