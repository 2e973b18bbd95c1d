"""The SMB driver over a network that fails, and with a server that stands still. Each fault is seen to have fired."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import pkgstore
from pkgstore import Exists, NotFound, Unavailable
from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.driver import SMBDriver
from pkgstore.drivers.smb.errors import SMBError
from pkgstore.testing.sources import Stream
from pkgstore.testing.suite.harness import MiB, held
from tests.fault_proxy import FaultProxy
from tests.smb_medium import fresh, smb
from tests.smb_server import PASSWORD, SMBServer, samba
from tests.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store

__all__ = ["smb"]

pytestmark = pytest.mark.xdist_group("smb-faults")

TIMEOUT = 2.0
LATE = 4 * TIMEOUT  # until which a call has ended that has `TIMEOUT`, on a machine that is busy


def set_info(what: int) -> Callable[[bytes], bool]:
    """Return what matches a request to set information of one class: 10 to rename, 11 to link, 13 to delete."""
    pattern = re.compile(rb"\xfeSMB.{8}\x11\x00.{50}\x21\x00\x01" + bytes([what]), re.DOTALL)
    return lambda data: pattern.search(data) is not None


RENAME, LINK = set_info(10), set_info(11)


@pytest.fixture
def url(smb: SMBServer) -> str:
    return fresh(smb)


@pytest.fixture
def proxy(smb: SMBServer) -> Iterator[FaultProxy]:
    with FaultProxy(smb.port, raw=True) as proxy:
        yield proxy


@pytest.fixture
def direct(url: str) -> Iterator[Store]:
    """Return the store, past the proxy."""
    with pkgstore.open(url) as store:
        yield store


@pytest.fixture
def store(url: str, direct: Store, proxy: FaultProxy) -> Iterator[Store]:
    """Return the store through the proxy."""
    with pkgstore.open(through(url, proxy)) as store:
        assert store.driver.exclusive  # so that no trial of it meets the faults
        yield store


def through(url: str, proxy: FaultProxy) -> str:
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/")


# -- lost replies -----------------------------------------------------------------------------------------------------


def test_a_publish_whose_reply_was_lost_has_won(store: Store, direct: Store, proxy: FaultProxy) -> None:
    fault = proxy.lose_reply(LINK)
    blob = store.publish("a/b", b"mine")
    assert fault.fired == 1
    assert direct.stat("a/b") == blob
    assert held(direct) == {"a/b": b"mine"}


def test_a_stream_whose_reply_was_lost_is_open_and_there(store: Store, direct: Store, proxy: FaultProxy) -> None:
    fault = proxy.lose_reply(LINK)
    with pytest.raises(Unavailable, match="was lost before the answer came"):
        store.publish("a/b", Stream(b"mine"))
    assert fault.fired == 1
    assert held(direct) == {"a/b": b"mine"}


def test_a_replace_whose_reply_was_lost(store: Store, direct: Store, proxy: FaultProxy) -> None:
    direct.publish("a", b"old")
    fault = proxy.lose_reply(RENAME)
    blob = store.publish("a", b"new", replace=True)
    assert fault.fired == 1
    assert direct.stat("a") == blob
    assert direct.read("a") == b"new"


def test_a_delete_whose_reply_was_lost(store: Store, direct: Store, proxy: FaultProxy) -> None:
    direct.publish("a/b", b"1")
    fault = proxy.lose_reply(RENAME)
    store.delete("a/b")
    assert fault.fired == 1
    assert held(direct) == {}


def test_a_publish_that_did_not_arrive_is_sent_again(store: Store, direct: Store, proxy: FaultProxy) -> None:
    fault = proxy.reset_after("up", 0, LINK, times=1)
    blob = store.publish("a/b", b"mine")
    assert fault.fired == 1
    assert direct.stat("a/b") == blob


def test_a_rival_who_came_first(store: Store, direct: Store, proxy: FaultProxy) -> None:
    hold = proxy.hold(LINK)
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(store.publish, "a/b", b"mine")
        hold.wait()
        direct.publish("a/b", b"rival")
        hold.release()
        with pytest.raises(Exists) as caught:
            mine.result()
    assert caught.value.identical is False
    assert held(direct) == {"a/b": b"rival"}


# -- resets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 3 * MiB, 8 * MiB])
@pytest.mark.parametrize("replace", [False, True])
def test_a_reset_in_the_middle_of_a_publish(
    smb: SMBServer, url: str, store: Store, direct: Store, proxy: FaultProxy, at: int, replace: bool
) -> None:
    data = bytes(range(256)) * (9 * MiB // 256)
    resets: list[int] = []

    def told(read: int) -> None:
        if read >= at and not resets:
            resets.append(proxy.reset_all())

    blob = store.publish("a/b", Told(data, told), replace=replace)
    assert resets
    assert proxy.faults["reset"] >= 1
    assert direct.stat("a/b") == blob
    assert direct.read("a/b") == data
    with pkgstore.open(url) as later:  # which reaps what the lost connection left
        later.publish("later", b"1")
    assert list(smb.path(url, ".pkgstore/tmp").iterdir()) == []


def test_a_reset_under_a_reader(store: Store, direct: Store, proxy: FaultProxy) -> None:
    data = bytes(range(256)) * (6 * MiB // 256)
    direct.publish("a", data)
    with store.open("a") as reader:
        start = reader.read(1000)
        assert proxy.reset_all() >= 1
        assert start + reader.readall() == data


def test_a_reader_whose_version_went_with_the_connection(store: Store, direct: Store, proxy: FaultProxy) -> None:
    direct.publish("a", bytes(3 * MiB))
    with store.open("a") as reader:
        reader.read(1000)
        direct.publish("a", b"new", replace=True)
        assert proxy.reset_all() >= 1
        with pytest.raises(NotFound):
            reader.readall()


def test_replies_that_are_cut(store: Store, direct: Store, proxy: FaultProxy) -> None:
    data = bytes(range(256)) * (3 * MiB // 256)
    direct.publish("a", data)
    fault = proxy.reset_after("down", MiB + 500, times=2)
    assert store.read("a") == data
    assert fault.fired >= 1


def test_every_verb_connects_again(store: Store, proxy: FaultProxy) -> None:
    store.publish("a", b"1")
    calls: list[Callable[[], object]] = [
        lambda: store.stat("a"),
        lambda: store.read("a"),
        lambda: list(store.list()),
        lambda: store.publish("b", b"1"),
        lambda: store.publish("a", b"2", replace=True),
        lambda: store.delete("b"),
    ]
    for call in calls:
        assert proxy.reset_all() >= 1
        call()
    assert held(store) == {"a": b"2"}


def test_a_server_that_refuses_for_a_while(store: Store, proxy: FaultProxy) -> None:
    store.publish("a", b"1")
    proxy.refuse = True
    proxy.reset_all()
    timer = threading.Timer(0.5, lambda: setattr(proxy, "refuse", False))
    timer.start()
    assert store.read("a") == b"1"
    timer.join()
    assert proxy.faults["refuse"] >= 1


# -- silence ----------------------------------------------------------------------------------------------------------


def bounded(call: Callable[[], object]) -> None:
    """Assert that a call says in time that the server does not answer."""
    start = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        call()
    assert time.monotonic() - start < LATE
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("at", [0, 3 * MiB, 8 * MiB])
def test_a_black_hole_in_the_middle_of_a_publish(url: str, direct: Store, proxy: FaultProxy, at: int) -> None:
    def told(read: int) -> None:
        proxy.black_hole = proxy.black_hole or read >= at

    with pkgstore.open(through(url, proxy), timeout=TIMEOUT) as store:
        bounded(lambda: store.publish("a", Told(bytes(9 * MiB), told)))
        assert proxy.faults["black hole"] >= 1
        assert held(direct) == {}
        proxy.black_hole = False
        store.publish("b", b"1")
    assert held(direct) == {"b": b"1"}


def test_when_the_server_is_silent_on_one_connection_all_are_given_up(url: str, proxy: FaultProxy) -> None:
    with pkgstore.open(through(url, proxy), timeout=TIMEOUT) as store:
        assert isinstance(store.driver, SMBDriver)
        one, other = store.driver._pool.several(2)
        proxy.black_hole = True
        waiting = other.begin(messages.create("", messages.LOOK, folder=True))
        with pytest.raises(SMBError, match="did not answer"):
            one.call(messages.create("", messages.LOOK, folder=True))
        assert proxy.faults["black hole"] >= 1
        assert waiting is not None
        start = time.monotonic()
        with pytest.raises(SMBError, match="was lost"):
            other.end(waiting)
        assert time.monotonic() - start < TIMEOUT / 2
        proxy.black_hole = False
        assert list(store.list()) == []


def test_a_server_that_stands_still(url: str) -> None:
    with samba() as server:
        who = {"username": server.user, "password": PASSWORD, "timeout": TIMEOUT}
        with pkgstore.open(server.url("pkg/x"), **who) as store:
            store.publish("a", bytes(3 * MiB))
            calls: list[Callable[[], object]] = [
                lambda: store.stat("a"),
                lambda: store.read("a"),
                lambda: list(store.list()),
                lambda: store.delete("a"),
                lambda: store.publish("b", bytes(6 * MiB)),
                lambda: store.publish("a", b"1", replace=True),
                lambda: pkgstore.open(server.url("pkg/x"), **who),
            ]
            for call in calls:
                store.stat("a")  # so that there is a connection
                with server.frozen():
                    bounded(call)
            with store.open("a") as reader, ThreadPoolExecutor(12) as pool:
                reader.read(10)
                with server.frozen():
                    list(pool.map(lambda _: bounded(lambda: store.stat("a")), range(12)))
                    bounded(reader.readall)
            with store.open("a") as reader:
                reader.read(10)
                with server.frozen():
                    start = time.monotonic()
                    reader.close()
                    assert time.monotonic() - start < LATE
            assert store.read("a") == bytes(3 * MiB)
