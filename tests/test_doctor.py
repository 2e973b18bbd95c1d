"""``pkgstore doctor`` on real media: what it finds, what it exits with, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore import doctor
from tests import needs
from tests.command import ENVIRONMENT, PKGSTORE, complaint, run
from tests.test_local_conformance import mounted_exfat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEVELS = {"ok", "note", "warning", "error"}
GOOD = {"store", "inodes", "permissions", "write", "flush", "clock", "exclusive", "blob", "race", "locks"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one blob."""
    with pkgstore.open(tmp_path / "store") as store:
        store.publish("six/six.whl", b"body")
    return tmp_path / "store"


def examined(url: str | os.PathLike[str], code: int) -> dict[str, list[dict[str, str]]]:
    """Run doctor with --json, and return its findings by their names."""
    done = run("doctor", url, "--json")
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    return of_document(done.stdout, ok=code == 0)


def of_document(text: str, *, ok: bool) -> dict[str, list[dict[str, str]]]:
    """Return the findings of what --json prints, by their names; assert that it is of the form that is promised."""
    document = json.loads(text)
    assert list(document) == ["url", "ok", "findings"]
    assert document["ok"] is ok
    found: dict[str, list[dict[str, str]]] = {}
    for each in document["findings"]:
        assert list(each) == ["name", "level", "says", "remedy"]
        assert each["level"] in LEVELS
        assert each["says"].endswith(".")
        assert each["remedy"] or each["level"] in ("ok", "note")
        found.setdefault(each["name"], []).append(each)
    assert ok == all(each["level"] != "error" for each in document["findings"])
    return found


def level(found: dict[str, list[dict[str, str]]], name: str) -> str:
    (finding,) = found[name]
    return finding["level"]


def tree(folder: Path) -> dict[str, int]:
    """Return every file and folder below ``folder``, with its inode."""
    return {str(path): path.lstat().st_ino for path in sorted(folder.rglob("*"))}


def begun(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PKGSTORE, "doctor", root, "--wait", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        text=True,
    )


def goes_on_until(process: subprocess.Popen[str], moment: str) -> None:
    """Read what a doctor says until it says what it found of ``moment``."""
    assert process.stdout is not None
    while (line := process.stdout.readline()).split()[1] != moment:
        assert line


def races_in(root: Path) -> None:
    """Wait until the first key of a race is published."""
    deadline = time.monotonic() + 30
    while not list(root.glob(".pkgstore/doctor/*/00")):
        assert time.monotonic() < deadline


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# -- a store, and what is none -----------------------------------------------------------------------------------------


def test_a_good_store(root: Path) -> None:
    before = tree(root)
    found = examined(root, 0)
    assert {name: level(found, name) for name in GOOD} == dict.fromkeys(GOOD, "ok")
    assert found["race"][0]["says"] == "4 processes raced for 24 keys: each had one winner."
    assert level(found, "locks-between-hosts") == "note"
    assert "--wait 60" in found["locks-between-hosts"][0]["remedy"]
    assert tree(root) == before


def test_the_output_for_people(root: Path) -> None:
    done = run("doctor", root)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert lines[0].startswith(f"ok       store                There is a store at file://{root}, with the id ")
    for line in lines:
        assert line[:7].strip() in {*LEVELS, ""}
        assert line[7:9] == line[28:30] == "  "
        assert line[:9].strip() or line[30:].startswith("-> ")
    shown = Counter(line[:7].strip() for line in lines)
    assert shown["error"] == 0
    warnings = "1 warning" if shown["warning"] == 1 else f"{shown['warning']} warnings"
    assert last == f"file://{root}: 0 errors, {warnings}."


def test_a_folder_without_a_store_is_examined(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "six.whl").write_bytes(b"body")
    before = tree(tmp_path)
    found = examined(tmp_path / "folder", 1)
    assert level(found, "store") == "error"
    assert f"pkgstore init 'file://{tmp_path}/folder'" in found["store"][0]["remedy"]
    rest = GOOD - {"store"}
    assert {name: level(found, name) for name in rest} == dict.fromkeys(rest, "ok")
    assert tree(tmp_path) == before


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert list(examined(tmp_path / "none", 1)) == ["store"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    found = examined(tmp_path / "file", 1)
    assert list(found) == ["store"]
    assert "is no folder" in found["store"][0]["says"]


def test_a_store_that_cannot_be_opened(root: Path) -> None:
    (root / ".pkgstore" / "store.json").write_text("{}")
    found = examined(root, 1)
    assert "does not describe a store" in found["store"][0]["says"]
    assert level(found, "race") == "ok"
    assert (root / ".pkgstore" / "store.json").read_text() == "{}"


def test_nfs_that_is_none(root: Path) -> None:
    """It may be what lies below a share that is not mounted: nothing is written there."""
    before = {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}
    found = examined(f"nfs://{root}", 1)
    assert level(found, "mount") == "error"
    assert "write" not in found
    assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before
    assert "that is no NFS" in found["mount"][0]["says"]
    assert list(examined(f"nfs://{root}/none", 1)) == ["store"]


def test_mistakes_are_for_the_caller(root: Path, tmp_path: Path) -> None:
    assert "did you mean 'timeout'?" in complaint(run("doctor", root, "-o", "timeot=1"), 2)
    assert "timeout='soon'" in complaint(run("doctor", root.as_uri() + "?timeout=soon"), 2)
    assert "without the option readonly" in complaint(run("doctor", root.as_uri() + "?readonly=yes"), 2)
    assert "has no medium" in complaint(run("doctor", "memory://x"), 2)
    assert "--wait" in complaint(run("doctor", root, "--wait", "-1"), 2)
    assert "secret" not in complaint(run("doctor", f"file://user:secret@host{root}"), 2)
    assert list(tmp_path.iterdir()) == [root]


def test_a_memory_store_from_python() -> None:
    with pkgstore.open("memory://examined"):
        found = {each.name: each.level for each in doctor.examine("memory://examined")}
    assert found == {"store": "ok", "exclusive": "ok", "blob": "ok", "race": "note"}


def test_an_examination_that_is_ended_early_leaves_nothing(root: Path) -> None:
    before = tree(root)
    for last in ("store", "write", "blob"):
        findings = doctor.examine(root)
        while next(findings).name != last:
            pass
        assert tree(root) != before
        findings.close()
        assert tree(root) == before


# -- media -------------------------------------------------------------------------------------------------------------


def test_in_memory_and_without_attributes(tmp_path: Path) -> None:
    with needs.mounted("ramfs", tmp_path / "ramfs") as folder:
        assert run("init", folder).returncode == 0
        before = files(folder)
        found = examined(folder, 0)
        assert files(folder) == before
    assert level(found, "extended-attributes") == "note"
    assert level(found, "space") == "note"
    assert level(found, "mount") == "warning"
    assert "in memory" in found["mount"][0]["says"]


def test_neither_links_nor_renames(tmp_path: Path) -> None:
    with mounted_exfat(tmp_path / "exfat") as folder:
        found = examined(folder, 1)
        left = list(folder.rglob("*"))
    assert level(found, "hard-links") == level(found, "rename") == "note"
    assert level(found, "exclusive") == "error"
    assert "race" not in found
    assert left == []


def test_mounted_read_only(root: Path, tmp_path: Path) -> None:
    needs.root()
    (tmp_path / "bound").mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", root, tmp_path / "bound"], check=True)
    try:
        found = examined(tmp_path / "bound", 1)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "bound"], check=True)
    assert level(found, "store") == "ok"
    assert level(found, "write") == "error"
    assert "mounted read-only" in found["write"][0]["says"]
    assert "race" not in found


def test_space_and_inodes(tmp_path: Path) -> None:
    with needs.mounted("tmpfs", tmp_path / "large", "size=3g,nr_inodes=10k") as folder:
        assert run("init", folder).returncode == 0
        found = examined(folder, 0)
        assert level(found, "space") == level(found, "inodes") == "ok"
        for number in range(9800):
            (folder / str(number)).touch()
        assert level(examined(folder, 0), "inodes") == "warning"
    with needs.mounted("tmpfs", tmp_path / "small", "size=8m,nr_inodes=0") as folder:
        assert run("init", folder).returncode == 0
        found = examined(folder, 0)
        assert level(found, "inodes") == "ok"
        assert level(found, "space") == "warning"
        with pytest.raises(OSError, match="No space"):
            (folder / "big").write_bytes(bytes(9 << 20))
        found = examined(folder, 1)
        assert level(found, "space") == level(found, "write") == "error"
        assert "Free some space" in found["write"][0]["remedy"]


# -- permissions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user may enter and nobody but root may write to, with a store in it."""
    needs.root()
    with needs.mounted("tmpfs", tmp_path / "mounted", "mode=755,size=2g") as folder:
        pkgstore.open(folder / "store").close()
        yield folder / "store"


def as_user(folder: Path, code: int, *groups: int) -> dict[str, list[dict[str, str]]]:
    """Run doctor as the user 1234, who may read everything, such as an interpreter that root keeps at home."""
    member = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    other = [needs.program("setpriv"), "--reuid=1234", "--regid=1234", member]
    other += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command = [*other, *PKGSTORE, "doctor", folder, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=120)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    return of_document(done.stdout, ok=code == 0)


def test_a_folder_of_another_user(open_path: Path) -> None:
    before = tree(open_path)
    found = as_user(open_path, 1)
    (finding,) = found["permissions"]
    assert finding["level"] == "error"
    assert f"{open_path} is owned by 0:0, mode 0755" in finding["says"]
    assert "1234:1234" in finding["says"]
    assert "securityContext.fsGroup: 1234" in finding["remedy"]
    assert f"chown -R 1234:1234 {open_path}" in finding["remedy"]
    assert level(found, "write") == "error"
    assert "race" not in found
    assert tree(open_path) == before


def test_the_remedies_for_permissions_help(open_path: Path) -> None:
    found = as_user(open_path, 1, 4321)
    for command in (f"chgrp -R 4321 {open_path}", f"chmod g+x {open_path}"):
        subprocess.run(command, shell=True, check=True)
    found = as_user(open_path, 1, 4321)
    remedy = found["permissions"][0]["remedy"]
    assert remedy.startswith("This user is in its group 4321: chmod ")
    subprocess.run(remedy.partition(": ")[2], shell=True, check=True)
    found = as_user(open_path, 0, 4321)
    assert level(found, "permissions") == level(found, "sharing") == "ok"

    open_path.chmod(0o775)
    found = as_user(open_path, 0, 4321)
    assert level(found, "sharing") == "warning"
    assert "g+s" in found["sharing"][0]["remedy"]

    open_path.chmod(0o2775)
    (open_path / ".pkgstore" / "tmp").chmod(0o755)
    found = as_user(open_path, 1, 4321)
    assert str(open_path / ".pkgstore" / "tmp") in found["permissions"][0]["says"]
    (finding,) = examined(open_path, 0)["sharing"]
    assert finding["level"] == "warning"
    assert f"but not to {open_path}/.pkgstore/tmp" in finding["says"]


def test_a_folder_of_blobs_that_is_not_writable(open_path: Path) -> None:
    for path in (open_path, *open_path.rglob("*")):
        os.chown(path, 1234, 1234)
    (open_path / "six").mkdir()
    found = as_user(open_path, 1)
    assert f"{open_path}/six is owned by 0:0" in found["permissions"][0]["says"]
    os.chown(open_path / "six", 1234, 1234)
    assert level(as_user(open_path, 0), "permissions") == "ok"


def test_a_folder_that_all_may_write_to(root: Path) -> None:
    root.chmod(0o777)
    (finding,) = examined(root, 0)["sharing"]
    assert finding["level"] == "warning"
    assert "any of them can change what was published" in finding["says"]


# -- interrupted -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["write", "exclusive", "blob", "locks"])
def test_interrupted_it_leaves_nothing(root: Path, number: signal.Signals, moment: str) -> None:
    """`blob` is the last that is printed before the race begins, and `locks` before a second host is waited for."""
    before = tree(root)
    with begun(root) as process:
        goes_on_until(process, moment)
        assert tree(root) != before
        if moment == "blob":
            races_in(root)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert said.strip() == ""
    assert tree(root) == before


def test_interrupted_it_leaves_no_digests_beside(tmp_path: Path) -> None:
    with needs.mounted("ramfs", tmp_path / "ramfs") as folder:
        pkgstore.open(folder).close()
        before = files(folder)
        with begun(folder) as process:
            races_in(folder)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == 130
        assert files(folder) == before
