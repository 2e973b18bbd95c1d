"""What processes leave that are killed, stopped or forked."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from pkgstore import NotFound
from pkgstore.testing.kills import freeze_in_mid_publish, holding, kill_at_any_moment, kill_in_mid_publish
from pkgstore.testing.processes import Talk, until, workers
from pkgstore.testing.races import Arena
from pkgstore.testing.suite.harness import Harness, MiB, held

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pkgstore import Store


class CrashTests(Harness):
    """Processes that end, or stand still, in the middle of a publish."""

    def killing_arena(self, url: str, rng: random.Random, size: int, prefix: str = "killed/") -> Arena:
        """Return where publishers are killed."""
        self.need_other_processes()
        return Arena(self.open_store, url, prefix, 50, size, rng.randbytes(4).hex())

    def test_an_upload_in_progress_is_not_visible(self, url: str, store: Store, rng: random.Random) -> None:
        arena = self.killing_arena(url, rng, self.stepwise)
        with workers(1) as (publisher,):
            holding(publisher, arena, 0, self.stepwise * 2 // 3)
            assert held(store) == {}
            assert store.usage().bytes == 0
            for verb in (store.stat, store.open):
                with pytest.raises(NotFound):
                    verb(arena.key(0))
            store.delete(arena.key(0))
            publisher.say("go on")
            tag = publisher.result()
        assert store.stat(arena.key(0)).tag == tag
        assert held(store) == {arena.key(0): arena.body(0, 0)}

    @pytest.mark.parametrize("small", [True, False], ids=["small", "stepwise"])
    def test_a_killed_publisher_leaves_nothing_at_the_name(self, url: str, rng: random.Random, small: bool) -> None:
        size = 1 if small else self.stepwise
        assert kill_in_mid_publish(self.killing_arena(url, rng, size), kills=4).found == []

    @pytest.mark.parametrize("small", [True, False], ids=["small", "stepwise"])
    def test_a_frozen_publisher_loses_to_another(self, url: str, rng: random.Random, small: bool) -> None:
        self.need_racing_processes()
        size = 1 if small else self.stepwise
        assert freeze_in_mid_publish(self.killing_arena(url, rng, size, "frozen/"), freezes=3) == []

    def test_a_publisher_killed_at_any_moment(self, url: str, rng: random.Random) -> None:
        for number in range(4):
            arena = self.killing_arena(url, rng, 50_000, f"killed/{number}/")
            assert kill_at_any_moment(arena) == []

    def test_what_the_dead_left_is_reaped(self, url: str, rng: random.Random) -> None:
        leftovers = self.hook("leftovers")
        arena = self.killing_arena(url, rng, self.stepwise)
        with workers(2) as victims:
            for index, each in enumerate(victims):
                holding(each, arena, index, self.stepwise * 2 // 3)
            before = leftovers(url)
            assert len(before) >= 2
            for each in victims:
                each.kill()
        with self.open_store(url) as later:
            later.publish("later", b"1")
        until(lambda: not set(before) & set(leftovers(url)), "the reaping of what dead publishers left")
        assert leftovers(url) == []

    @pytest.mark.parametrize("stopped", [False, True], ids=["slow", "stopped"])
    def test_a_live_writer_is_never_reaped(self, url: str, rng: random.Random, stopped: bool) -> None:
        arena = self.killing_arena(url, rng, self.stepwise)
        with workers(1) as (writer,), workers(2) as others:
            holding(writer, arena, 0, self.stepwise * 2 // 3)
            if stopped:
                writer.stop()
            for number, each in enumerate(others):
                each.run(publish_one, self.open_store, url, f"other-{number}")
            with self.open_store(url) as store:
                store.publish("mine", b"1")
                store.delete("mine")
            if stopped:
                writer.resume()
            writer.say("go on")
            tag = writer.result()
        with self.open_store(url) as store:
            assert store.stat(arena.key(0)).tag == tag
            assert held(store) == {arena.key(0): arena.body(0, 0), "other-0": b"other-0", "other-1": b"other-1"}
        self.assert_nothing_staged(url)

    def test_a_store_goes_on_after_fork(self, url: str) -> None:
        with workers(1) as (worker,):
            assert worker.run(fork_and_use, self.open_store, url, self.shared) == []

    def test_memory_stays_flat(self, url: str) -> None:
        if not self.large:
            pytest.skip("this medium holds its blobs in the memory of the process")
        with workers(1) as (worker,):
            publishing, reading = worker.run(peak_memory, self.open_store, url, self.large)
        assert publishing < self.memory
        assert reading < self.memory


def publish_one(talk: Talk, opener: Callable[..., Store], url: str, key: str) -> None:
    """Publish a blob that holds its own key."""
    with opener(url) as store:
        store.publish(key, key.encode())


def fork_and_use(talk: Talk, opener: Callable[..., Store], url: str, shared: bool) -> list[str]:
    """Use a store, fork, and use it in both processes; return what is wrong."""
    with opener(url) as store:
        store.publish("before/fork", b"1")
        reader = store.open("before/fork")
        child = os.fork()
        if child == 0:
            # Whatever happens, the child must not return into the code of its parent.
            try:
                store.publish("pkg/child", bytes(5 * MiB))
                good = store.read("before/fork") == b"1" and store.read("pkg/child") == bytes(5 * MiB)
                with store.open("pkg/child") as own:
                    good = good and own.read(5) == bytes(5)
                store.delete("before/fork")
                os._exit(0 if good else 3)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        for number in range(10):
            store.publish(f"pkg/{number}", b"parent")
        _, status = os.waitpid(child, 0)
        wrong = [] if status == 0 else [f"the child ended with {os.waitstatus_to_exitcode(status)}"]
        store.publish("pkg/after", b"parent")
        expected = {f"pkg/{number}": b"parent" for number in [*range(10), "after"]}
        expected.update({"pkg/child": bytes(5 * MiB)} if shared else {"before/fork": b"1"})
        if held(store) != expected:
            wrong.append(f"the store holds {[blob.key for blob in store.list()]}")
        if reader.readall() != b"1":
            wrong.append("the reader from before the fork has wrong bytes")
        reader.close()
    return wrong


def peak_memory(talk: Talk, opener: Callable[..., Store], url: str, size: int) -> tuple[int, int]:
    """Publish and read a generated stream; return by how many bytes each raised the peak of this process's memory."""
    with opener(url) as store:
        store.publish("small", bytes(5 * MiB))
        store.read("small")
        start = _reset_peak()
        store.publish("large", Generated(size))
        publishing = _resident("VmHWM") - start
        start = _reset_peak()
        with store.open("large") as reader:
            count = 0
            while chunk := reader.read(MiB):
                count += len(chunk)
        assert count == size
        reading = _resident("VmHWM") - start
        store.delete("large")
        return publishing, reading


class Generated:
    """An unseekable stream of so many bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._block = os.urandom(2 * MiB)

    def read(self, size: int, /) -> bytes:
        start = self._left % MiB // 2 + 1
        data = self._block[start : start + min(size, self._left)]
        self._left -= len(data)
        return data


def _reset_peak() -> int:
    """Forget the peak of this process's memory; return what is resident now, in bytes."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
        control.write("5")
    return _resident("VmRSS")


def _resident(name: str) -> int:
    # Not resource.getrusage: its peak is inherited from the parent, through fork and exec.
    with open("/proc/self/status", encoding="ascii") as status:
        (line,) = (line for line in status if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
