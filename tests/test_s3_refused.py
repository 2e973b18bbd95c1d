"""Endpoints that cannot keep two writers apart: found out by trial, remembered, and refused where that matters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import pkgstore
from pkgstore import Exists, NotFound, Unsupported
from tests.fault_proxy import FaultProxy
from tests.s3_medium import BUCKET, PART, servers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.s3_medium import Servers

__all__ = ["servers"]

RACY = [
    pytest.param(name, part, marks=pytest.mark.xdist_group(name))
    for name, part in (
        ("swift", "that raced to PUT 65536 bytes to one key"),
        ("juicefs", "it ignores If-None-Match on PUT"),
        ("rclone", "it ignores If-None-Match on PUT"),
    )
]


def identity(servers: Servers, name: str, url: str) -> dict[str, Any]:
    """Return what a store says of itself."""
    key = f"{urlsplit(url).path.strip('/')}/.pkgstore/store.json"
    found: dict[str, Any] = json.load(servers[name].client().get_object(Bucket=BUCKET, Key=key)["Body"])
    return found


def names(servers: Servers, name: str, url: str) -> list[str]:
    """Return the keys of all objects below a URL."""
    prefix = urlsplit(url).path.strip("/") + "/"
    found = servers[name].client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [each["Key"].removeprefix(prefix) for each in found.get("Contents", [])]


@pytest.mark.parametrize(("name", "reason"), RACY)
def test_no_store_is_made_where_two_could_win(servers: Servers, name: str, reason: str) -> None:
    url = servers.url(name)
    with pytest.raises(Unsupported) as refused:
        pkgstore.open(url)
    message = str(refused.value)
    assert f"the endpoint {servers[name].url} cannot publish once: " in message
    assert reason in message
    assert "single_writer=true where no two processes ever write" in message
    assert "\n" not in message
    assert names(servers, name, url) == [], "the trial leaves nothing behind"
    assert servers[name].client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


@pytest.mark.parametrize(("name", "reason"), RACY)
def test_one_writer_can_use_it_all_the_same(servers: Servers, name: str, reason: str) -> None:
    url = servers.url(name, single_writer="true")
    with pkgstore.open(url) as store:
        for key, body in {"a": b"1", "b/c": bytes(PART + 7), "b/empty": b""}.items():
            assert store.publish(key, body).size == len(body)
            with pytest.raises(Exists) as taken:
                store.publish(key, body)
            assert taken.value.identical
            with pytest.raises(Exists) as taken:
                store.publish(key, b"other")
            assert not taken.value.identical
            assert store.read(key) == body
        store.publish("a", b"2", replace=True)
        assert store.read("a") == b"2"
        assert [blob.key for blob in store.list()] == ["a", "b/c", "b/empty"]
        store.delete("b/c")
        with pytest.raises(NotFound):
            store.stat("b/c")
        assert [blob.key for blob in store.list()] == ["a", "b/empty"]
    probed = identity(servers, name, url)["probed"][servers[name].url]
    assert probed["put"] is False
    assert reason in probed["put_reason"]
    with pkgstore.open(url.replace("single_writer=true", "single_writer=false"), readonly=True) as store:
        assert store.read("a") == b"2"
    with pkgstore.open(url.replace("single_writer=true", "single_writer=false")) as store:
        with pytest.raises(Unsupported, match="cannot publish once"):
            store.publish("d", b"1")
        assert store.read("a") == b"2"


@pytest.mark.xdist_group("ministack")
class TestRemembered:
    """What a trial has found is kept in the store, by the endpoint's address."""

    def test_opening_again_tries_nothing(self, servers: Servers) -> None:
        with FaultProxy(servers["ministack"].port) as proxy:
            url = servers.url("ministack").replace(servers["ministack"].url, proxy.url)
            pkgstore.open(url).close()
            assert proxy.count(rb"/\.pkgstore/probe/") > 50
            proxy.heads.clear()
            with pkgstore.open(url) as store:
                store.publish("a", b"1")
                store.publish("b", bytes(PART + 1))
                store.delete("a")
            assert proxy.count(rb"/\.pkgstore/probe/") == 0
            pkgstore.open(url, readonly=True).close()
            assert proxy.count(rb"/\.pkgstore/probe/") == 0

    def test_a_new_endpoint_is_tried_and_remembered_beside_the_old(self, servers: Servers) -> None:
        url = servers.url("ministack")
        pkgstore.open(url).close()
        before = identity(servers, "ministack", url)
        with FaultProxy(servers["ministack"].port) as proxy:
            other = url.replace(servers["ministack"].url, proxy.url)
            with pkgstore.open(other) as store:
                assert store.id == before["id"]
            tried = proxy.count(rb"/\.pkgstore/probe/")
            assert tried > 50
            pkgstore.open(other).close()
            assert proxy.count(rb"/\.pkgstore/probe/") == tried
            after = identity(servers, "ministack", url)
            assert after == {**before, "probed": {**before["probed"], proxy.url: after["probed"][proxy.url]}}
            assert after["probed"][proxy.url] == before["probed"][servers["ministack"].url]

    def test_it_is_tried_again_when_asked(self, servers: Servers) -> None:
        with FaultProxy(servers["ministack"].port) as proxy:
            url = servers.url("ministack").replace(servers["ministack"].url, proxy.url)
            pkgstore.open(url).close()
            proxy.heads.clear()
            pkgstore.open(url, probe=True).close()
            assert proxy.count(rb"/\.pkgstore/probe/") > 50
            proxy.heads.clear()
            pkgstore.open(f"{url}&probe=true").close()
            assert proxy.count(rb"/\.pkgstore/probe/") > 50

    def test_an_endpoint_that_came_to_ignore_the_condition(self, servers: Servers) -> None:
        """What is remembered is corrected by a new trial, and then believed."""
        with FaultProxy(servers["ministack"].port) as proxy:
            url = servers.url("ministack").replace(servers["ministack"].url, proxy.url)
            pkgstore.open(url).close()
            lax = proxy.answer(
                200, b"", rb"^PUT [^ ?]*/probe/[^ ?]* (?s:.*)\r\n[Ii]f-[Nn]one-[Mm]atch", headers={"ETag": '"1"'}
            )
            with pkgstore.open(url, probe=True) as store:
                assert lax.fired
                lax.stop()
                with pytest.raises(Unsupported, match="it ignores If-None-Match on PUT"):
                    store.publish("a", b"1")
            with pkgstore.open(url) as store, pytest.raises(Unsupported, match="it ignores If-None-Match on PUT"):
                store.publish("a", b"1")

    def test_a_trial_that_is_not_answered_is_no_finding(self, servers: Servers) -> None:
        with FaultProxy(servers["ministack"].port) as proxy:
            url = servers.url("ministack", timeout="1").replace(servers["ministack"].url, proxy.url)
            busy = proxy.slow_down(rb"^PUT .*/probe/")
            with pytest.raises(pkgstore.Unavailable, match="asks to slow down"):
                pkgstore.open(url)
            assert busy.fired > 1
            busy.stop()
            with pkgstore.open(url) as store:
                store.publish("a", b"1")
            found = identity(servers, "ministack", url)["probed"]
            assert [found[proxy.url][each] for each in ("put", "complete", "delete")] == [True, True, True]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("seaweedfs", "ceph")]
)
class TestOnlyPutIsExclusive:
    """Services where completions of multipart uploads race: large bodies go up by one PUT."""

    def test_a_large_body_goes_up_whole(self, servers: Servers, name: str, tmp_path: Path) -> None:
        with FaultProxy(servers[name].port) as proxy:
            url = servers.url(name).replace(servers[name].url, proxy.url)
            with pkgstore.open(url) as store:
                found = identity(servers, name, url)["probed"][proxy.url]
                assert found["put"]
                if name != "seaweedfs":  # whose race may go well by chance
                    assert not found["complete"]
                    assert "CompleteMultipartUpload" in found["complete_reason"] or "raced" in found["complete_reason"]
                driver: Any = store.driver
                assert not driver._completes_once
                proxy.heads.clear()
                body = bytes(range(256)) * (2 * PART // 256)
                store.publish("a", body)
                assert proxy.count(rb"^PUT [^?]*/a HTTP") == 1
                assert proxy.count(rb"^POST ") == 0
                assert store.read("a") == body

    def test_what_is_too_large_for_one_put_is_refused_before_it_is_sent(
        self, servers: Servers, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pkgstore.drivers.s3.driver.LARGEST_PUT", 2 * PART)
        path = tmp_path / "body"
        with path.open("wb") as file:
            file.truncate(2 * PART + 1)
        with FaultProxy(servers[name].port) as proxy:
            url = servers.url(name, dialect="seaweedfs").replace(servers[name].url, proxy.url)
            with pkgstore.open(url) as store:
                proxy.heads.clear()
                with pytest.raises(Unsupported) as refused:
                    store.publish("a", path)
                assert "more than the 5 GiB that one PUT may have" in str(refused.value)
                assert "split the body, or use another service" in str(refused.value)
                assert proxy.count(rb"^(PUT|POST) ") == 0
                assert list(store.list()) == []
                with path.open("wb") as file:
                    file.truncate(2 * PART)
                assert store.publish("a", path).size == 2 * PART
