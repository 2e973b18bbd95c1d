"""The trash: a blob is at its key, or in the trash, or in both, whoever dies and whatever others do meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import pickle
import random
import signal
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import (
    Corrupt,
    Denied,
    Exists,
    InvalidKey,
    NotFound,
    Store,
    Unavailable,
    Unsupported,
    accounts,
    holder,
    tending,
    trash,
)
from pkgstore.pair import Pair
from pkgstore.prune import prune
from pkgstore.testing.faults import Fault, FaultPlan, FaultyDriver, with_driver
from pkgstore.testing.processes import workers
from pkgstore.trash import Emptied, Trashed, discard, empty, trashed, undelete
from tests.s3_medium import servers
from tests.smb_medium import fresh, smb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pkgstore.testing.processes import Talk

__all__ = ["servers", "smb"]

KEY = "six/six-1.0-py3-none-any.whl"
SIGNATURE = f"{KEY}.asc"
OLD, NEW = b"the old bytes", b"other bytes"
DAY = 86400.0
ROUNDS = 4
MEDIA = ["memory", "file", "s3", "smb"]

_numbers = itertools.count(1)


@pytest.fixture(params=MEDIA)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new store, on each medium."""
    match request.param:
        case "memory":
            return f"memory://trash-{os.getpid()}-{next(_numbers)}"
        case "file":
            return f"file://{tmp_path}/store"
        case "s3":
            found: str = request.getfixturevalue("servers").store("ministack")
            return found
        case _:
            return fresh(request.getfixturevalue("smb"), "cased")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def put_away(store: Store, key: str = KEY, *, keep: float = 30 * DAY, goes_with: str = "") -> bool:
    blob = store.stat(goes_with) if goes_with else None
    return discard(store, store.stat(key), why="a test", keep=keep, goes_with=blob)


def listed(store: Store) -> list[str]:
    return sorted(each.key for each in trashed(store))


def content(store: Store, key: str = KEY) -> bytes | None:
    """Return what is at a key, if anything."""
    try:
        return store.read(key)
    except NotFound:
        return None


def kept(store: Store, key: str = KEY) -> set[bytes]:
    """Return what can be read in the trash, of a key."""
    control = store.control("undelete")
    found = set()
    for each in trashed(store):
        if each.key == key:
            with control.open(f"{each.name}.blob") as reader:
                found.add(reader.readall())
    return found


def own(store: Store) -> list[str]:
    """Return the names of all that is in the folder of the trash."""
    return [name for name, _ in store.control("undelete").list()]


def aged(store: Store, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so much time have passed on the medium, as the trash sees it."""
    now = trash._medium_time(store.control("undelete")) + seconds
    monkeypatch.setattr(trash, "_medium_time", lambda _: now)


# -- there and back ---------------------------------------------------------------------------------------------------


def test_there_and_back(url: str) -> None:
    with pkgstore.open(url) as store:
        before = store.publish(KEY, OLD, digests={"md5": None})
        assert put_away(store)
        assert content(store) is None
        assert list(store.list()) == []
        (item,) = trashed(store)
        assert (item.key, item.size, item.tag, item.digests) == (KEY, len(OLD), before.tag, before.digests)
        assert (item.why, item.goes_with) == ("a test", "")
        assert item.until == item.trashed + 30 * DAY
        (after,) = undelete(store, KEY)
        assert (after.key, after.digests) == (KEY, before.digests)
        assert store.read(KEY) == OLD
        assert own(store) == [f"{item.name}.blob", f"{item.name}.json"]


def test_sizes_around_the_chunk(folder: str) -> None:
    with pkgstore.open(folder) as store:
        for size in (0, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 3):
            data = random.Random(size).randbytes(size)
            store.publish(f"a/{size}", data)
            assert put_away(store, f"a/{size}")
            undelete(store, f"a/{size}")
            assert store.read(f"a/{size}") == data


def test_the_longest_key_there_is(url: str) -> None:
    key = "/".join(["k" * 200] * 4)
    with pkgstore.open(url) as store:
        store.publish(key, OLD)
        assert put_away(store, key)
        undelete(store, key)
        assert store.read(key) == OLD


def test_a_file_that_was_put_there_by_hand(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        (tmp_path / "a.whl").write_bytes(OLD)
        assert "sha256" not in store.stat("a.whl").digests
        assert put_away(store, "a.whl")
        assert not (tmp_path / "a.whl").exists()
        undelete(store, "a.whl")
        assert store.read("a.whl") == OLD


def test_undelete_is_told_that_the_key_is_taken(url: str) -> None:
    with pkgstore.open(url) as store:
        store.publish(KEY, OLD)
        put_away(store)
        store.publish(KEY, NEW)
        with pytest.raises(Exists, match="move what is there to the trash first"):
            undelete(store, KEY)
        assert store.read(KEY) == NEW
        assert kept(store) == {OLD}


def test_undelete_of_what_is_back_already(folder: str) -> None:
    with pkgstore.open(folder) as store:
        store.publish(KEY, OLD)
        put_away(store)
        undelete(store, KEY)
        with pytest.raises(Exists, match="with the same bytes"):
            undelete(store, KEY)


def test_what_is_not_in_the_trash(folder: str) -> None:
    with pkgstore.open(folder) as store:
        with pytest.raises(NotFound, match=r"is not in the trash of .*: `pkgstore trash list` shows what is"):
            undelete(store, KEY)
        store.publish(KEY, OLD)
        put_away(store)
        with pytest.raises(NotFound, match="with the sha256 '0000"):
            undelete(store, KEY, sha256="0" * 64)
        with pytest.raises(InvalidKey):
            undelete(store, "../x")
        with pytest.raises(NotFound):
            undelete(store, SIGNATURE)


def test_companions_come_back_with_their_blob(folder: str) -> None:
    with pkgstore.open(folder) as store:
        store.publish(KEY, OLD)
        store.publish(SIGNATURE, b"signed")
        assert put_away(store, SIGNATURE, goes_with=KEY)
        assert put_away(store)
        assert [blob.key for blob in undelete(store, KEY)] == [KEY, SIGNATURE]
        assert store.read(SIGNATURE) == b"signed"


def test_a_companion_comes_back_by_its_own_name(folder: str) -> None:
    with pkgstore.open(folder) as store:
        store.publish(KEY, OLD)
        store.publish(SIGNATURE, b"signed")
        put_away(store, SIGNATURE, goes_with=KEY)
        assert [blob.key for blob in undelete(store, SIGNATURE)] == [SIGNATURE]
        assert store.read(SIGNATURE) == b"signed"


def test_the_rest_comes_back_when_undelete_was_interrupted(folder: str) -> None:
    with pkgstore.open(folder) as store:
        store.publish(KEY, OLD)
        store.publish(SIGNATURE, b"signed")
        put_away(store, SIGNATURE, goes_with=KEY)
        put_away(store)
        store.publish(KEY, OLD)
        assert [blob.key for blob in undelete(store, KEY)] == [SIGNATURE]


def test_of_several_versions_the_last_comes_back_or_the_one_that_is_named(folder: str) -> None:
    with pkgstore.open(folder) as store:
        digests = []
        for data in (OLD, NEW):
            digests.append(store.publish(KEY, data).digests["sha256"])
            store.publish(SIGNATURE, b"of " + data)
            put_away(store, SIGNATURE, goes_with=KEY)
            put_away(store)
        undelete(store, KEY)
        assert (store.read(KEY), store.read(SIGNATURE)) == (NEW, b"of " + NEW)
        store.delete(KEY)
        store.delete(SIGNATURE)
        undelete(store, KEY, sha256=digests[0])
        assert (store.read(KEY), store.read(SIGNATURE)) == (OLD, b"of " + OLD)


def test_a_companion_comes_back_with_the_version_that_it_went_with_and_no_other(folder: str) -> None:
    with pkgstore.open(folder) as store:
        store.publish(KEY, OLD)
        store.publish(SIGNATURE, b"of the old")
        put_away(store, SIGNATURE, goes_with=KEY)
        put_away(store)
        sha256 = store.publish(KEY, NEW).digests["sha256"]
        put_away(store)
        assert [blob.key for blob in undelete(store, KEY, sha256=sha256)] == [KEY]
        assert content(store, SIGNATURE) is None


def test_a_scope_has_the_trash_of_its_own_keys(folder: str) -> None:
    with pkgstore.open(folder) as store:
        one, other = store.scope("one/"), store.scope("other/")
        for scope in (one, other):
            scope.publish(KEY, scope.prefix.encode())
            scope.publish(SIGNATURE, b"signed")
            put_away(scope, SIGNATURE, goes_with=KEY)
            put_away(scope)
        assert listed(store) == [f"{scope}/{key}" for scope in ("one", "other") for key in (KEY, SIGNATURE)]
        assert listed(one) == [KEY, SIGNATURE]
        assert [each.goes_with for each in trashed(one) if each.key == SIGNATURE] == [KEY]
        assert [blob.key for blob in undelete(one, KEY)] == [KEY, SIGNATURE]
        assert (content(one), content(other)) == (b"one/", None)
        with pytest.raises(Unsupported, match="is emptied as a whole: ask the store"):
            empty(one)
        undelete(store, f"other/{KEY}")
        assert content(other) == b"other/"


def test_reading_only(folder: str) -> None:
    with pkgstore.open(folder) as store:
        store.publish(KEY, OLD)
        put_away(store)
        store.publish(KEY, OLD)
        with pkgstore.open(folder, readonly=True) as reader:
            assert listed(reader) == [KEY]
            for change in (lambda: put_away(reader), lambda: undelete(reader, KEY), lambda: empty(reader)):
                with pytest.raises(Denied, match="open for reading only"):
                    change()


def test_a_corrupt_blob_stays_where_it_is(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish(KEY, OLD)
        (tmp_path / KEY).chmod(0o644)
        (tmp_path / KEY).write_bytes(OLD[::-1])
        with pytest.raises(Corrupt):
            put_away(store)
        assert (tmp_path / KEY).read_bytes() == OLD[::-1]
        assert own(store) == []


def test_a_corrupt_copy_is_not_published(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish(KEY, OLD)
        put_away(store)
        (copy,) = (tmp_path / ".pkgstore" / "undelete").glob("*/*.blob")
        copy.chmod(0o644)
        copy.write_bytes(OLD[::-1])
        with pytest.raises(Corrupt):
            undelete(store, KEY)
        assert content(store) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format": 2}', "\udcff"])
def test_a_record_that_is_none(tmp_path: Path, text: str) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish(KEY, OLD)
        put_away(store)
        (record,) = (tmp_path / ".pkgstore" / "undelete").glob("*/*.json")
        good = json.loads(record.read_text())
        spoilt = {"size": -1, "mtime": math.nan, "trashed": 10**400, "digests": {"sha256": "0"}}
        spoilt["why"] = " " * trash._LARGEST_RECORD
        each_spoilt = ({**good, name: value} for name, value in (*dict.fromkeys(good).items(), *spoilt.items()))
        for bad in (text, *map(json.dumps, each_spoilt)):
            record.unlink()
            record.write_text(bad, errors="surrogateescape")
            with pytest.raises(Corrupt, match=r"is no record of the trash: use .* or remove that file"):
                undelete(store, KEY)


def test_other_files_in_the_folder_of_the_trash_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish(KEY, OLD)
        put_away(store)
        stray = tmp_path / ".pkgstore" / "undelete" / "notes.json"
        stray.write_text("mine")
        assert listed(store) == [KEY]
        aged(store, monkeypatch, 60 * DAY)
        assert empty(store) == Emptied(1, len(OLD))
        assert stray.read_text() == "mine"


def test_two_stores_as_one(tmp_path: Path) -> None:
    """A blob of either goes to the trash of the new one, and comes back there."""
    pkgstore.open(tmp_path / "old").close()
    with pkgstore.open([tmp_path / "new", tmp_path / "old"]) as store:
        assert isinstance(store, Pair)
        store.old.publish("of-old", OLD)
        store.new.publish("of-new", OLD)
        store.old.publish("of-both", NEW)
        store.new.publish("of-both", OLD)
        for key in ("of-old", "of-new", "of-both"):
            seen = store.stat(key)
            assert not store.delete(key, tag="other")
            assert discard(store, seen, why="a test", keep=DAY)
            assert content(store, key) is None
            assert not store.delete(key)
            undelete(store, key)
            assert store.new.read(key) == OLD
        assert len(listed(store.new)) == 3
        assert own(store.old) == []
        assert store.delete("of-old")


# -- its time ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_until_when(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pkgstore.open(url) as store:
        for days in (1, 10):
            store.publish(f"a/{days}", OLD)
            put_away(store, f"a/{days}", keep=days * DAY)
        assert empty(store) == Emptied(0, 0)
        assert listed(store) == ["a/1", "a/10"]
        aged(store, monkeypatch, 2 * DAY)
        assert empty(store) == Emptied(1, len(OLD))
        assert listed(store) == ["a/10"]
        assert empty(store, everything=True) == Emptied(1, len(OLD))
        assert own(store) == []
        with pytest.raises(NotFound):
            undelete(store, "a/1")


def test_the_time_is_that_of_the_medium(tmp_path: Path) -> None:
    """It is what a file has that is written now, whatever this host's clock says; and no file is left of the look."""
    with pkgstore.open(tmp_path) as store:
        now = trash._medium_time(store.control("undelete"))
        probe = tmp_path / "probe"
        probe.touch()
        assert abs(probe.stat().st_mtime - now) < 60
        assert own(store) == []
        store.publish(KEY, OLD)
        put_away(store, keep=60)
        for each in (tmp_path / ".pkgstore" / "undelete").glob("*/*"):
            os.utime(each, (now - 61, now - 61))
        assert empty(store) == Emptied(1, len(OLD))


def test_what_the_dead_left_goes_after_a_day(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pkgstore.open(folder) as store:
        control = store.control("undelete")
        control.put(f"{'0' * 32}/{'1' * 16}-60.blob", b"a copy without a record")
        control.put("clock/0123", b"")
        assert empty(store) == Emptied(0, 0)
        assert empty(store, everything=True) == Emptied(0, 0)
        assert len(own(store)) == 2
        aged(store, monkeypatch, 25 * 3600)
        assert empty(store) == Emptied(1, 23)
        assert own(store) == []


def test_a_discard_that_took_too_long_deletes_nothing(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its copy may be gone by then."""
    with pkgstore.open(folder) as store:
        store.publish(KEY, OLD)
        for keep, longest in ((30 * DAY, 6 * 3600), (3600, 3600)):
            monkeypatch.setattr(trash, "clock", partial(next, iter([0.0, longest + 1.0])))
            with pytest.raises(Unavailable, match=f"was not deleted, as to copy it .* more than {longest} s"):
                put_away(store, keep=keep)
            assert content(store) == OLD
        monkeypatch.setattr(trash, "clock", partial(next, iter([0.0, 1.0])))
        assert put_away(store, keep=0)  # which asks for nothing


# -- at any moment ----------------------------------------------------------------------------------------------------


class Stepped(FaultyDriver):
    """A driver that calls ``action`` once: at the step with the given number, of all before, in and after the verbs."""

    def __init__(self, store: Store, step: int, action: Callable[[], object]) -> None:
        super().__init__(store.driver, FaultPlan())
        self._left, self._action = step, action

    def _tick(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._action()

    @property
    def came_to_it(self) -> bool:
        return self._left <= 0

    @contextlib.contextmanager
    def _failing(self, verb: Any) -> Iterator[Callable[[], None]]:
        self._tick()
        yield self._tick
        self._tick()


def is_killed(store: Store, step: int, work: Callable[[Store], object]) -> bool:
    """Work on a store in a child that is killed (SIGKILL) at a step; False when it came to its end before."""
    child = os.fork()
    if not child:
        try:
            work(with_driver(store, Stepped(store, step, lambda: os.kill(os.getpid(), signal.SIGKILL))))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must never go on with the parent's tests
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def assert_safe(store: Store, keys: tuple[str, ...] = (KEY,)) -> None:
    """Assert that the old bytes are at their key, or in the trash."""
    for key in keys:
        assert OLD in ({content(store, key)} | kept(store, key)), f"{key} is in neither"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # that a fork of a process with threads may go wrong
@pytest.mark.parametrize(("url", "stride"), [("file", 1), ("s3", 7), ("smb", 11)], indirect=["url"])
def test_killed_at_every_step_of_pruning_and_undeleting(url: str, stride: int) -> None:
    """On a server at some of the steps: on each run those that follow one of chance."""
    newest = "six/six-2.0-py3-none-any.whl"
    first = random.SystemRandom().randrange(stride) + 1
    print(f"the first step is {first}")
    with pkgstore.open(url) as store:
        store.publish(newest, NEW)
        for step in itertools.count(first, stride):
            for key in (KEY, SIGNATURE):
                store.publish(key, OLD)
            died = is_killed(store, step, lambda store: prune(store, keep=1, dry_run=False))
            assert_safe(store, (KEY, SIGNATURE))
            assert content(store, newest) == NEW
            prune(store, keep=1, dry_run=False)
            assert (content(store), content(store, SIGNATURE)) == (None, None)
            died_again = is_killed(store, step, lambda store: undelete(store, KEY))
            assert content(store) in (None, OLD)
            assert_safe(store, (KEY, SIGNATURE))
            with contextlib.suppress(Exists):
                undelete(store, KEY)
            assert (content(store), content(store, SIGNATURE)) == (OLD, OLD)
            store.delete(KEY)
            store.delete(SIGNATURE)
            empty(store, everything=True)
            if not died and not died_again:
                break
        assert step > 15


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_at_every_step_of_emptying(folder: str) -> None:
    with pkgstore.open(folder) as store:
        for step in itertools.count(1):
            store.publish(KEY, OLD)
            put_away(store, keep=0)
            died = is_killed(store, step, lambda store: empty(store, everything=True))
            for each in trashed(store):  # whatever is offered can be had
                undelete(store, each.key)
                assert store.read(each.key) == OLD
                store.delete(KEY)
            empty(store, everything=True)
            assert listed(store) == []
            for name in own(store):  # a copy of which the record is gone, which stays for a day
                assert name.endswith(".blob")
                store.control("undelete").delete(name)
            if not died:
                break
        assert step > 5


def replace(store: Store) -> None:
    store.publish(KEY, NEW, replace=True)


def delete(store: Store) -> None:
    store.delete(KEY)


def publish_anew(store: Store) -> None:
    store.delete(KEY)
    store.publish(KEY, NEW)


def publish_the_same(store: Store) -> None:
    store.delete(KEY)
    store.publish(KEY, OLD)


def discard_too(store: Store) -> None:
    with contextlib.suppress(NotFound):
        put_away(store)


def undelete_it(store: Store) -> None:
    with contextlib.suppress(NotFound, Exists):
        undelete(store, KEY)


def empty_it(store: Store) -> None:
    empty(store)


def delete_and_undelete(store: Store) -> None:
    store.delete(KEY)
    undelete_it(store)


OTHERS = [replace, delete, publish_anew, publish_the_same, discard_too, undelete_it, empty_it, delete_and_undelete]


def check_others(rival: Store, other: Callable[[Store], object], stride: int = 1) -> None:
    """Assert that nothing is lost when another does something at any step of a discard.

    With ``stride``, at every so many steps, from one of chance.
    """
    first = random.SystemRandom().randrange(stride) + 1
    print(f"the first step is {first}")
    for step in itertools.count(first, stride):
        seen = rival.publish(KEY, OLD, replace=True)
        driver = Stepped(rival, step, lambda: other(rival))
        done = discard(with_driver(rival, driver), seen, why="a test", keep=DAY)
        if not driver.came_to_it:
            break
        assert_after(rival, other, done=done)
        rival.delete(KEY)
        empty(rival, everything=True)
    assert step > 10


def assert_after(store: Store, other: Callable[[Store], object], *, done: bool) -> None:
    there, held = content(store), kept(store)
    if other in (replace, publish_anew):
        assert there == NEW, "what was published at the same moment is lost"
    elif other is delete:
        assert there is None
    elif other is not delete_and_undelete or held:
        assert OLD in {there} | held, "it is in neither"
    if done:
        assert OLD in {there} | held, "it is said to be in the trash"
    elif other in (replace, publish_anew, delete):
        assert not held, "the copy of what was not deleted is left"


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("url", ["memory", "file"], indirect=True)
def test_others_at_every_step_of_a_discard(url: str, other: Callable[[Store], object]) -> None:
    with pkgstore.open(url) as store:
        check_others(store, other)


@pytest.mark.parametrize("other", [replace, publish_anew, publish_the_same, delete_and_undelete])
@pytest.mark.parametrize(("url", "stride"), [("s3", 3), ("smb", 5)], indirect=["url"])
def test_others_at_some_step_of_a_discard(url: str, stride: int, other: Callable[[Store], object]) -> None:
    with pkgstore.open(url) as store:
        check_others(store, other, stride)


def forgets_the_version(patch: pytest.MonkeyPatch) -> None:
    original = Store.delete
    patch.setattr(Store, "delete", lambda self, key, *, tag=None: original(self, key))


def deletes_first(patch: pytest.MonkeyPatch) -> None:
    def hasty(store: Store, blob: pkgstore.Blob, **options: Any) -> bool:
        data = store.read(blob.key)
        store.delete(blob.key, tag=blob.tag)
        store.control("undelete").put("x", data)
        return True

    patch.setattr("tests.test_trash.discard", hasty)


def looks_and_then_deletes(patch: pytest.MonkeyPatch) -> None:
    def delete(self: Store, key: str, *, tag: str | None = None) -> bool:
        try:
            if tag not in (None, self.stat(key).tag):
                return False
        except NotFound:
            return False
        self.driver.delete(key)
        return True

    patch.setattr(Store, "delete", delete)


@pytest.mark.parametrize("mutant", [forgets_the_version, looks_and_then_deletes, deletes_first])
def test_a_careless_discard_is_caught(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutant(monkeypatch)
    other = empty_it if mutant is deletes_first else replace
    with pkgstore.open("memory://") as store, pytest.raises(AssertionError):
        check_others(store, other)


@pytest.mark.parametrize("verb", ["put", "delete", "stat", "open"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_lost_request_or_reply(folder: str, verb: Any, when: Any, nth: int) -> None:
    """What is tried again takes no newer version away, and what was done is known to be done."""
    with pkgstore.open(folder) as below:
        below.publish(KEY, OLD)
        blob = below.stat(KEY)
        plan = FaultPlan(Fault(verb, when, nth=nth))
        store = with_driver(below, FaultyDriver(below.driver, plan))
        assert discard(store, blob, why="a test", keep=DAY)
        assert content(store) is None
        assert kept(store) == {OLD}


def test_a_delete_whose_outcome_is_not_known(folder: str) -> None:
    with pkgstore.open(folder) as below:
        blob = below.publish(KEY, OLD)
        for when, there in (("before", OLD), ("after", None)):
            plan = FaultPlan(Fault("delete", when, times=None))  # type: ignore[arg-type]
            store = with_driver(below, FaultyDriver(below.driver, plan), timeout=0)
            with pytest.raises(Unavailable):
                discard(store, blob, why="a test", keep=DAY)
            assert content(below) == there
            assert kept(below) == {OLD}
            empty(below, everything=True)


def test_a_medium_that_is_full_loses_nothing(folder: str) -> None:
    with pkgstore.open(folder) as below:
        blob = below.publish(KEY, OLD)
        for nth in (1, 2):
            plan = FaultPlan(Fault("put", "during", nth=nth, error=pkgstore.Full("full")))
            with pytest.raises(pkgstore.Full):
                discard(with_driver(below, FaultyDriver(below.driver, plan)), blob, why="a test", keep=DAY)
            assert content(below) == OLD
        assert listed(below) == []


# -- racing processes -------------------------------------------------------------------------------------------------


def prune_on_and_on(talk: Talk, url: str, rounds: int) -> int:
    with pkgstore.open(url) as store:
        talk.meet()
        return sum(each.outcome == "trashed" for _ in range(rounds) for each in prune(store, keep=1, dry_run=False))


def undelete_on_and_on(talk: Talk, url: str, rounds: int) -> int:
    done = 0
    with pkgstore.open(url) as store:
        talk.meet()
        for _ in range(rounds):
            with contextlib.suppress(NotFound, Exists):
                done += len(undelete(store, KEY))
    return done


def replace_on_and_on(talk: Talk, url: str, rounds: int) -> int:
    with pkgstore.open(url) as store:
        talk.meet()
        for number in range(rounds):
            store.publish(KEY, b"%d" % number, replace=True)
            assert _is_somewhere(store, b"%d" % number), f"version {number} is lost"
    return rounds


def _is_somewhere(store: Store, data: bytes) -> bool:
    """Say whether a version is at its key or in the trash, to which it may move meanwhile."""
    sha256 = hashlib.sha256(data).hexdigest()
    return content(store) == data or any(each.digests["sha256"] == sha256 for each in trash._under(store, KEY))


@pytest.mark.parametrize("url", ["file", "s3"], indirect=True)
def test_processes_that_prune_undelete_and_replace_one_key(url: str) -> None:
    with pkgstore.open(url) as store, workers(4) as team:
        store.publish("six/six-2.0-py3-none-any.whl", NEW)
        for worker, work in zip(
            team, (prune_on_and_on, prune_on_and_on, undelete_on_and_on, replace_on_and_on), strict=True
        ):
            worker.start(work, url, ROUNDS)
        for worker in team:
            assert worker.hear() == "here"
        for worker in team:
            worker.say("go")
        assert [worker.result() for worker in team][3] == ROUNDS
        assert _is_somewhere(store, b"%d" % (ROUNDS - 1))
        prune(store, keep=1, dry_run=False)
        assert content(store) is None


# -- the quota --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "LEASE", 0.5)
    monkeypatch.setattr(holder, "LOOK", 0.0)
    monkeypatch.setattr(tending, "TICK", 0.02)
    monkeypatch.setattr(tending, "_IDLE", 0.1)


def assert_exact(store: Store) -> None:
    told = store.usage()
    assert (told.blobs, told.bytes) == (len(found := list(store.list())), sum(blob.size for blob in found))
    counted = store.usage(recount=True)
    assert (told.blobs, told.bytes) == (counted.blobs, counted.bytes)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("url", ["memory", "file"], indirect=True)
def test_the_quota_is_exact(url: str) -> None:
    with pkgstore.open(url) as store:
        store.set_quota(40)
        store.publish(KEY, OLD)
        store.publish("b", OLD)
        with pytest.raises(pkgstore.QuotaExceeded):
            store.publish("c", OLD * 2)
        assert put_away(store)
        assert_exact(store)
        store.publish("c", OLD * 2)
        with pytest.raises(pkgstore.QuotaExceeded):
            undelete(store, KEY)
        store.delete("c")
        undelete(store, KEY)
        assert_exact(store)


@pytest.mark.usefixtures("quick")
def test_the_quota_when_another_version_is_there(folder: str) -> None:
    """What was not deleted is not given back."""
    with pkgstore.open(folder) as store:
        store.set_quota(1000)
        old = store.publish(KEY, OLD)
        store.publish(KEY, NEW * 3, replace=True)
        assert not discard(store, old, why="a test", keep=DAY)
        assert not store.delete(KEY, tag=old.tag)
        assert_exact(store)
        assert store.usage().bytes == len(NEW) * 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("other", [replace, delete, publish_anew, discard_too])
def test_the_quota_is_exact_whatever_others_do(folder: str, other: Callable[[Store], object]) -> None:
    """At some of the steps, as each is followed by a recount."""
    with pkgstore.open(folder) as rival:
        rival.set_quota(1000)
        for step in range(2, 40, 5):
            seen = rival.publish(KEY, OLD, replace=True)
            store = with_driver(rival, Stepped(rival, step, lambda: other(rival)))
            try:
                done = discard(store, seen, why="a test", keep=DAY)
            finally:
                store._quota.close()
            assert_exact(rival)
            assert_after(rival, other, done=done)
            rival.delete(KEY)
            empty(rival, everything=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("quick")
def test_the_quota_after_a_kill(folder: str) -> None:
    with pkgstore.open(folder) as store:
        store.set_quota(1000)
        store.publish("six/six-2.0-py3-none-any.whl", NEW)
        for step in (20, 30, 36, 40, 44):
            store.publish(KEY, OLD, replace=True)
            is_killed(store, step, lambda store: prune(store, keep=1, dry_run=False))
            assert_safe(store)
            store.usage(recount=True)
            prune(store, keep=1, dry_run=False)
            assert_exact(store)
            empty(store, everything=True)


# -- deleting one version ---------------------------------------------------------------------------------------------


def test_delete_says_whether_it_was_there(url: str) -> None:
    with pkgstore.open(url) as store:
        assert not store.delete(KEY)
        old = store.publish(KEY, OLD)
        new = store.publish(KEY, NEW, replace=True)
        assert not store.delete(KEY, tag=old.tag)
        assert store.read(KEY) == NEW
        assert store.delete(KEY, tag=new.tag)
        assert not store.delete(KEY, tag=new.tag)
        assert content(store) is None


def test_what_is_in_the_trash_can_be_sent() -> None:
    item = Trashed(KEY, 1, 0.0, "t", {"sha256": "0"}, "", "", "a test", 0.0, 1.0, "n")
    assert pickle.loads(pickle.dumps(item)) == item
