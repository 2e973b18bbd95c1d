"""Keyrings: nothing is lost of them, nobody else reads them, and nothing shows a key."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore.crypt import keyring
from pkgstore.crypt.keyring import Keyring, Secret
from tests.command import complaint, run

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    keyring.make(str(tmp_path / "ring"))
    return tmp_path / "ring"


def test_a_new_keyring_is_for_its_owner_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        secret = keyring.make(str(tmp_path / "ring"))
    finally:
        os.umask(umask)
    assert (tmp_path / "ring").stat().st_mode & 0o777 == 0o600
    held = keyring.held(str(tmp_path / "ring"))
    assert held.active == secret.id
    assert [each.reveal() for each in held.by_id.values()] == [secret.reveal()]
    assert len(secret.reveal()) == 32
    assert os.listdir(tmp_path) == ["ring"]


def test_no_keyring_is_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(pkgstore.Misconfigured, match="is there already"):
        keyring.make(str(path))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["ring"]


def test_an_id_is_computed_from_its_key() -> None:
    assert Secret(KEY, "").id == Secret(KEY, "later").id == "ae6fa5fcb7e81e13"
    assert Secret(KEY[::-1], "").id != Secret(KEY, "").id


def test_keys_are_added_and_none_is_lost(path: Path) -> None:
    first = keyring.held(str(path)).active
    added = keyring.add(str(path), activate=False)
    assert keyring.held(str(path)).active == first
    keyring.activate(str(path), added.id)
    rotated = keyring.add(str(path), activate=True)
    held = keyring.held(str(path))
    assert (held.active, list(held.by_id)) == (rotated.id, [first, added.id, rotated.id])
    with pytest.raises(pkgstore.Misconfigured, match=f"holds no key abc: it holds {first}"):
        keyring.activate(str(path), "abc")


def test_a_keyring_that_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_LARGEST", len(path.read_bytes()) * 2)
    keyring.add(str(path), activate=True)
    before = path.read_bytes()
    with pytest.raises(pkgstore.Misconfigured, match="holds 2 keys, and has no room for another"):
        keyring.add(str(path), activate=True)
    assert path.read_bytes() == before
    assert len(keyring.held(str(path)).by_id) == 2


def test_owner_mode_and_links_stay(path: Path) -> None:
    path.chmod(0o640)
    link = path.parent / "link"
    link.symlink_to("ring")
    keyring.add(str(link), activate=True)
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert len(keyring.held(str(path)).by_id) == 2


def test_many_add_keys_at_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: keyring.add(str(path), activate=True).id, range(40)))
    assert set(added) < set(keyring.held(str(path)).by_id)
    assert len(set(added)) == 40


ADDING = """
import sys
from pkgstore.crypt import keyring
while True:
    print(keyring.add(sys.argv[1], activate=True).id, flush=True)
"""


def test_a_key_that_was_told_of_survives_a_kill(path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    told = []
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", ADDING, path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told += [process.stdout.readline().strip() for _ in range(chance.randrange(1, 8))]
            process.kill()
            told += [line.strip() for line in process.stdout if line.endswith("\n")]
        assert set(told) <= set(keyring.held(str(path)).by_id)


def test_what_a_kill_leaves_beside_goes_with_the_next_change(path: Path) -> None:
    die = "import os, signal\nos.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n" + ADDING
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", die, path], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(os.listdir(path.parent)) == 2  # and it holds keys
    keyring.add(str(path), activate=True)
    assert os.listdir(path.parent) == ["ring"]


def test_a_lock_as_nfs_has_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def only_if_writable(file: Any, operation: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", only_if_writable)
    added = keyring.add(str(path), activate=True)
    assert keyring.held(str(path)).active == added.id


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644, 0o666])
def test_a_keyring_that_is_open_to_others(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(pkgstore.Misconfigured, match=f"is open to others .its mode is {mode:04o}.: chmod 600"):
        Keyring(str(path))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_keyring_that_is_not(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert Keyring(str(path)).active


def document(**changed: Any) -> bytes:
    entry = {"id": Secret(KEY, "").id, "created": "2026-01-01T00:00:00Z", "key": base64.b64encode(KEY).decode()}
    return json.dumps({"format": 1, "active": entry["id"], "keys": [{**entry, **changed}]}).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not one"),
        (b"{", "is not one"),
        (b"[" * 100_000, "is not one"),
        (b"\xff\xfe", "is not one"),
        (b"[]", "is not one"),
        (b'{"format": 1}', "is not one"),
        (b'{"format": 1, "active": "a", "keys": 5}', "is not one"),
        (b'{"format": 1, "active": "a", "keys": [5]}', "is not one"),
        (document(key="AAAA"), "is not one"),
        (document(key=document().decode()), "is not one"),
        (document(key=5), "is not one"),
        (document(id=5), "is not one"),
        (document(created=5), "is not one"),
        (document()[:-2], "is not one"),
        (document(id="0" * 16), "another key under the id '0000000000000000'"),
        (document().replace(b'"format": 1', b'"format": 2'), "is of format 2"),
        (document().replace(b'"active": "ae', b'"active": "6f'), "holds no key under the id that it calls active"),
        (document().replace(b'"active": "ae6fa5fcb7e81e13"', b'"active": []'), "is not one|calls active"),
    ],
)
def test_a_file_that_is_no_keyring(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "ring"
    path.write_bytes(content)
    path.chmod(0o600)
    for call in (Keyring, lambda name: keyring.add(name, activate=True)):
        with pytest.raises(pkgstore.Misconfigured, match=says) as caught:
            call(str(path))
        assert "\n" not in str(caught.value)
        assert not shows(caught.value)
    assert path.read_bytes() == content


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("absent", "No such file"), ("pipe", "not a regular file"), ("", "not a regular file")):
        with pytest.raises(pkgstore.Misconfigured, match=says):
            Keyring(str(tmp_path / name))
        with pytest.raises(pkgstore.Misconfigured, match=f"{says}|cannot be used"):
            keyring.add(str(tmp_path / name), activate=True)
    with pytest.raises(pkgstore.Misconfigured, match="No such file"):
        keyring.make(str(tmp_path / "absent" / "ring"))
    for wrong in ("", "a\0b"):
        with pytest.raises(pkgstore.Misconfigured, match="is not the path of a file"):
            pkgstore.open("memory://", keyring=wrong)


# -- secrecy ----------------------------------------------------------------------------------------------------------


def shows(exc: BaseException, key: bytes = KEY) -> bool:
    """Say whether an error shows a key, in its message or in a traceback with all local variables but the tests'."""
    told = []
    error: BaseException | None = exc
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        told += [f"{error!r} {vars(error)}"]
        told += [repr(frame.f_locals) for frame in frames if not frame.f_code.co_name.startswith("test_")]
        error = error.__cause__ or error.__context__
    forms = (key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1], repr(key.decode("latin-1")))
    return any(form in each for form in forms for each in told)


def test_the_check_sees_a_key() -> None:
    def fail(key: bytes) -> None:
        raise ValueError(len(key))

    with pytest.raises(ValueError, match="32") as caught:
        fail(KEY)
    assert shows(caught.value)


def test_no_error_and_no_repr_shows_a_key(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    path.write_bytes(document())
    path.chmod(0o600)
    with pkgstore.open(tmp_path / "store", keyring=path) as store:
        store.publish("a", b"1")
        store.publish("b", b"1")
        driver = store.driver
        ring = driver.keyring  # type: ignore[attr-defined]
        shown = repr([store, driver, ring, ring._last, ring.active, vars(ring), vars(driver)])
        assert KEY.hex() not in shown
        assert base64.b64encode(KEY).decode() not in shown
        assert repr(KEY)[2:-1] not in shown
        (tmp_path / "store" / "b").write_bytes((tmp_path / "store" / "a").read_bytes())
        with pytest.raises(pkgstore.Corrupt) as corrupt:
            store.read("b")
        with pytest.raises(ZeroDivisionError) as failed:
            store.publish("c", Failing())
        path.write_bytes(document()[:-3])
        with pytest.raises(pkgstore.Misconfigured) as broken:
            store.publish("c", b"1")
    for caught in (corrupt, failed, broken):
        assert not shows(caught.value)


class Failing:
    """A body that cannot be read."""

    def read(self, size: int, /) -> bytes:
        raise ZeroDivisionError


# -- a keyring that changes under a store -----------------------------------------------------------------------------


def test_a_new_key_is_taken_up_at_once(path: Path, tmp_path: Path) -> None:
    with (
        pkgstore.open(tmp_path / "store", keyring=path) as one,
        pkgstore.open(tmp_path / "store", keyring=path) as other,
    ):
        one.publish("a", b"1")
        old, new = keyring.held(str(path)).active, keyring.add(str(path), activate=True).id
        one.publish("b", b"2")
        assert (other.read("a"), other.read("b")) == (b"1", b"2")
        assert [one.driver.sealed_under(key)[1] for key in "ab"] == [old, new]  # type: ignore[attr-defined]
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        path.unlink()
        assert other.read("a") == b"1", "what is known is enough to read"
        with pytest.raises(pkgstore.Misconfigured, match="No such file"):
            other.publish("c", b"3")
        copy.rename(path)
        other.publish("c", b"3")


# -- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    made = json.loads(run("keys", "new", path, "--json").stdout)
    assert made["keyring"] == str(path)
    assert complaint(run("keys", "new", path), 2).startswith(f"{path} is there already")
    added = json.loads(run("keys", "add", path, "--json").stdout)["id"]
    assert [json.loads(line) for line in run("keys", "list", path, "--json").stdout.splitlines()] == [
        {"id": each.id, "created": each.created, "active": each.id == made["id"]}
        for each in keyring.held(str(path)).by_id.values()
    ]
    assert run("keys", "activate", path, added).returncode == 0
    rotated = json.loads(run("keys", "rotate", path, "--json").stdout)["id"]
    lines = run("keys", "list", path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [made["id"], added, rotated]
    assert [line.endswith("active") for line in lines] == [False, False, True]
    key = base64.b64encode(keyring.held(str(path)).by_id[rotated].reveal()).decode()
    assert key in path.read_text()
    assert key not in "".join(lines)
