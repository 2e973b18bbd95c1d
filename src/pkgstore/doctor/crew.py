"""What it takes several processes to find out: races for keys, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import SplitResult

import pkgstore
from pkgstore import registry
from pkgstore.calls import Calls
from pkgstore.doctor import blobs
from pkgstore.driver import Finding
from pkgstore.errors import Exists, NotFound, StoreError
from pkgstore.testing.processes import WorkerDied, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pkgstore.testing.processes import Talk, Worker

    Reach: TypeAlias = Callable[[], contextlib.AbstractContextManager[Calls]]

_RACERS = 4
_KEYS = 24
_PATIENCE = 10.0
_ELSEWHERE = "Put the store on another medium: two who publish one name would both be told that it is theirs."
_ENOUGH = "enough"


@contextlib.contextmanager
def opened(url: str | os.PathLike[str], options: dict[str, Any], timeout: float) -> Iterator[Calls]:
    """Reach the medium of a store."""
    with pkgstore.open(url, **options) as store:
        yield Calls(store.driver, store.where, timeout)


@contextlib.contextmanager
def in_folder(scheme: str, root: str, timeout: float) -> Iterator[Calls]:
    """Reach a folder that holds no store, or one that cannot be opened."""
    driver = registry.find(scheme)(SplitResult(scheme, "", root, "", ""), create=False)
    try:
        yield Calls(driver, root, timeout)
    finally:
        driver.close()


@contextlib.contextmanager
def crew(count: int) -> Generator[list[Worker]]:
    """Have so many workers; after an error let them end what they are at, so that nothing of it stays."""
    with workers(count) as team:
        try:
            yield team
        except BaseException:
            with contextlib.suppress(OSError, EOFError, WorkerDied, StoreError):
                for each in team:
                    if each.busy:
                        each.say(_ENOUGH)
                for each in team:
                    if each.busy:
                        each.result(_PATIENCE)
            raise


def race(reach: Reach) -> Finding:
    """Have processes publish the same keys at the same time; exactly one has to win each."""
    prefix = f"{blobs.PLACE}{os.urandom(8).hex()}/"
    keys = [f"{prefix}{index:02}" for index in range(_KEYS)]
    try:
        with reach() as calls:
            try:
                replies, held = _raced(reach, calls, keys)
            finally:
                for key in keys:
                    blobs.delete(calls, key)
    except (StoreError, WorkerDied, TimeoutError) as exc:
        return blobs.failed("race", "Processes could not race for keys", exc)
    return judged(replies, held)


def _raced(reach: Reach, calls: Calls, keys: list[str]) -> tuple[list[tuple[str, ...]], list[bytes | None]]:
    with crew(_RACERS) as team:
        for number, each in enumerate(team):
            each.start(publish_each, reach, keys, number)
        for _ in keys:
            for each in team:
                each.hear()
            for each in team:
                each.say("go")
        replies = list(zip(*(each.result() for each in team), strict=True))
    return replies, [_held(calls, key) for key in keys]


def _held(calls: Calls, key: str) -> bytes | None:
    try:
        return blobs.read(calls, key)
    except NotFound:
        return None


def judged(replies: list[tuple[str, ...]], held: list[bytes | None]) -> Finding:
    """Return what came of a race: of each key, what each racer was told, and whose bytes it holds."""
    for told in replies:
        for each in told:
            if each not in ("won", "exists"):
                remedy = "Look at the logs of the medium's server; publishing has to go on while others publish."
                return Finding("race", "error", f"A publisher was told, in a race: {each}.", remedy)
    several = sum(told.count("won") > 1 for told in replies)
    none = sum(told.count("won") == 0 for told in replies)
    wrong = sum(
        told.count("won") == 1 and body != body_of(told.index("won")) for told, body in zip(replies, held, strict=True)
    )
    racers = len(replies[0])
    if several or none or wrong:
        says = (
            f"{racers} processes raced for {len(replies)} keys: {several} had more than one winner, {none} had none,"
            f" and {wrong} hold other bytes than their winner's."
        )
        return Finding("race", "error", says, _ELSEWHERE)
    return Finding("race", "ok", f"{racers} processes raced for {len(replies)} keys: each had one winner.")


def locks(folder: str) -> Finding:
    """Find out whether a lock that this process holds is refused to another on this host."""
    path = os.path.join(folder, f"{os.urandom(8).hex()}.locked")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with crew(1) as (other,):
                held = other.run(try_lock, path)
                fcntl.flock(fd, fcntl.LOCK_UN)
                free = other.run(try_lock, path)
        finally:
            os.close(fd)
            os.unlink(path)
    except OSError as exc:
        says = f"Files cannot be locked here: {exc.strerror}. What a dead publisher leaves in `.pkgstore/tmp` stays."
        return Finding("locks", "warning", says, "Mount it with locks; or remove old files there by hand.")
    if held:
        says = "A lock that one process holds is given to another on this host too."
        return Finding("locks", "error", says, "Mount it with locks that work: for NFS, without `nolock`.")
    if not free:
        says = "A lock that was let go is still refused to another process on this host."
        return Finding("locks", "error", says, "Look for what holds locks on the server, and restart its lock service.")
    return Finding("locks", "ok", "A lock that one process holds is refused to another on this host.")


# -- in the workers ---------------------------------------------------------------------------------------------------


def body_of(racer: int) -> bytes:
    """Return what a racer publishes."""
    return bytes([racer]) * 1000


def publish_each(talk: Talk, reach: Reach, keys: list[str], racer: int) -> list[str]:
    """Publish every key together with the others; return ``won``, ``exists`` or an error for each."""
    replies = []
    with reach() as calls:
        for key in keys:
            talk.say("here")
            if talk.hear() == _ENOUGH:
                break
            try:
                blobs.put(calls, key, body_of(racer))
                replies.append("won")
            except Exists:
                replies.append("exists")
            except StoreError as exc:
                replies.append(f"{type(exc).__name__}: {exc}")
    return replies


def try_lock(_talk: Talk, path: str) -> bool:
    """Say whether the lock on a file can be had."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
