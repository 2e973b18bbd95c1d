"""The commands: what each does to a store and to files, and what it prints."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pkgstore
from tests.command import ENVIRONMENT, complaint, run

KEY = "six/six-1.17.0-py2.py3-none-any.whl"
BODY = b"a wheel"
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one blob."""
    with pkgstore.open(tmp_path / "store") as store:
        store.publish(KEY, BODY)
    return tmp_path / "store"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "six.whl"
    path.write_bytes(BODY)
    return path


def test_version_and_help() -> None:
    assert run("--version").stdout == f"pkgstore {pkgstore.__version__}\n"
    shown = run("--help")
    assert shown.returncode == 0
    commands = (
        "init",
        "put",
        "get",
        "ls",
        "stat",
        "rm",
        "usage",
        "quota",
        "export",
        "restore",
        "verify-archive",
        "mirror",
        "verify",
        "keys",
        "prune",
        "undelete",
        "trash",
        "warm",
        "probe",
        "leftovers",
        "doctor",
        "bundle",
        "serve",
        "demo",
    )
    for command in commands:
        assert f"\n  {command} " in shown.stdout
        assert run(command, "--help").stdout.startswith(f"Usage: pkgstore {command} ")
    assert "4    the key is taken" in shown.stdout


def test_help_needs_nothing_heavy() -> None:
    code = """
import sys
from pkgstore.cli import main
try:
    main(["--help"])
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(shown.stderr.split())
    assert "pkgstore.cli.app" in loaded
    assert loaded.isdisjoint({"rich", "pypiserver", "pkgstore.cli.demo", "pkgstore.drivers.local", "subprocess"})


def test_without_a_command_help_goes_to_stderr() -> None:
    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: pkgstore ")


def test_without_click_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from pkgstore.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'pkgstore[cli]'" in complaint(result, 2)


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_makes_a_store_once(tmp_path: Path) -> None:
    made = json.loads(run("init", tmp_path / "new", "--json").stdout)
    assert made == {"url": f"file://{tmp_path}/new", "id": made["id"], "created": True, "encrypted": False}
    with pkgstore.open(tmp_path / "new", create=False) as store:
        assert store.id == made["id"]
    again = run("init", tmp_path / "new", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == {**made, "created": False}
    assert run("init", tmp_path / "new").stdout.startswith("There is a store already at ")


def test_init_adopts_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "old.whl").write_bytes(BODY)
    assert run("init", tmp_path).stdout.startswith("Made a store at ")
    assert run("ls", tmp_path).stdout == "old.whl\n"


def test_init_makes_no_store_inside_another(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    for inner in (root / "six", root / "a" / "b", tmp_path / "link" / "c"):
        assert f"inside the store {root}," in complaint(run("init", inner), 2)
    assert sorted(path.name for path in root.iterdir()) == [".pkgstore", "six"]
    assert run("init", root).returncode == 0
    assert run("init", f"{root}-beside").returncode == 0


def test_a_memory_store_is_refused() -> None:
    assert "lives in one Python process" in complaint(run("init", "memory://x"), 2)


# -- put ---------------------------------------------------------------------------------------------------------------


def test_put_a_file(root: Path, wheel: Path) -> None:
    result = run("put", root, "a/b", wheel, "--sha256", SHA256, "--md5", MD5, "--size", str(len(BODY)))
    assert result.stdout == f"Published a/b: 7 bytes, sha256 {SHA256}.\n"
    assert result.stderr == ""
    with pkgstore.open(root) as store:
        assert store.read("a/b") == BODY
        assert store.stat("a/b").digests == {"sha256": SHA256, "md5": MD5}


@pytest.mark.parametrize("file", [["-"], []])
def test_put_standard_input_from_a_pipe(root: Path, file: list[str]) -> None:
    body = os.urandom(3 << 20)
    result = run("put", root, "a/b", *file, "--json", input=body, text=False)
    fields = json.loads(result.stdout)
    with pkgstore.open(root) as store:
        blob = store.stat("a/b")
        assert store.read("a/b") == body
    assert fields == {
        "key": "a/b",
        "size": len(body),
        "mtime": blob.mtime,
        "tag": blob.tag,
        "digests": {"sha256": hashlib.sha256(body).hexdigest()},
    }


def test_put_standard_input_from_a_file(root: Path, wheel: Path) -> None:
    with wheel.open("rb") as file:
        file.seek(2)
        assert run("put", root, "a/b", "-", stdin=file).returncode == 0
    with pkgstore.open(root) as store:
        assert store.read("a/b") == BODY[2:]


def test_put_a_named_pipe(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", f"printf piped > {tmp_path}/pipe"]) as writer:
        assert run("put", root, "a/b", tmp_path / "pipe").returncode == 0
    assert writer.returncode == 0
    with pkgstore.open(root) as store:
        assert store.read("a/b") == b"piped"


def test_put_publishes_once_unless_told_to_replace(root: Path, wheel: Path) -> None:
    wheel.write_bytes(b"other")
    result = run("put", root, KEY, wheel, "--json")
    assert result.returncode == 4
    error = json.loads(result.stderr)
    assert (error["error"], error["key"], error["identical"]) == ("Exists", KEY, False)
    with pkgstore.open(root) as store:
        assert store.read(KEY) == BODY
    assert run("put", root, KEY, wheel, "--replace").returncode == 0
    with pkgstore.open(root) as store:
        assert store.read(KEY) == b"other"


def test_put_of_the_same_bytes_says_so(root: Path, wheel: Path) -> None:
    result = run("put", root, KEY, wheel, "--json")
    assert result.returncode == 4
    assert json.loads(result.stderr)["identical"] is True


@pytest.mark.parametrize("option", [["--sha256", "0" * 64], ["--md5", "0" * 32], ["--size", "6"], ["--size", "8"]])
def test_put_refuses_what_is_not_as_expected(root: Path, wheel: Path, option: list[str]) -> None:
    assert "nothing was published" in complaint(run("put", root, "a/b", wheel, *option), 8)
    assert run("ls", root).stdout == f"{KEY}\n"


def test_put_makes_no_store(tmp_path: Path, wheel: Path) -> None:
    missing = tmp_path / "typo"
    assert "pkgstore init" in complaint(run("put", missing, "a", wheel), 3)
    assert not missing.exists()
    missing.mkdir()
    assert "pkgstore init" in complaint(run("put", missing, "a", wheel), 3)
    assert list(missing.iterdir()) == []


# -- get ---------------------------------------------------------------------------------------------------------------


def test_get_to_a_file(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.whl"
    result = run("get", root, KEY, target, preexec_fn=lambda: os.umask(0o027))
    assert result.stdout == f"Wrote {target}: 7 bytes, verified: sha256 {SHA256}.\n"
    assert target.read_bytes() == BODY
    assert target.stat().st_mode & 0o777 == 0o640
    assert json.loads(run("get", root, KEY, target, "--json", "--force").stdout)["digests"] == {"sha256": SHA256}


def test_get_into_a_folder_uses_the_name_of_the_blob(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("get", root, KEY, tmp_path / "out").returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [KEY.split("/")[1]]


@pytest.mark.parametrize("file", [["-"], []])
def test_get_to_standard_output(root: Path, file: list[str]) -> None:
    body = bytes(range(256)) * 10000
    with pkgstore.open(root) as store:
        store.publish("binary", body)
        store.publish("empty", b"")
    assert run("get", root, "binary", *file, text=False).stdout == body
    assert run("get", root, "empty", *file, text=False).stdout == b""


def test_get_says_when_there_is_no_digest_to_verify(root: Path, tmp_path: Path) -> None:
    (root / "by-hand.whl").write_bytes(BODY)
    assert "not verified" in run("get", root, "by-hand.whl", tmp_path / "out").stdout
    assert (tmp_path / "out").read_bytes() == BODY


def test_get_replaces_a_file_only_when_told_to(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.whl"
    target.write_bytes(b"mine")
    assert "--force" in complaint(run("get", root, KEY, target), 1)
    assert target.read_bytes() == b"mine"
    assert run("get", root, KEY, target, "--force").returncode == 0
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_get_replaces_nothing_but_regular_files(root: Path, tmp_path: Path, force: list[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    assert "no regular file" in complaint(run("get", root, KEY, link, *force), 1)
    assert link.is_symlink()
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in complaint(run("get", root, KEY, tmp_path / "pipe", *force), 1)


def tamper(path: Path) -> None:
    """Change the first byte of a file."""
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))


def test_get_of_a_corrupt_blob_leaves_no_file(root: Path, tmp_path: Path) -> None:
    tamper(root / KEY)
    (tmp_path / "out").mkdir()
    assert "sha256" in complaint(run("get", root, KEY, tmp_path / "out" / "x"), 8)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / "x").write_bytes(b"mine")
    complaint(run("get", root, KEY, tmp_path / "out" / "x", "--force"), 8)
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [b"mine"]


def test_get_of_a_corrupt_blob_withholds_its_end(root: Path) -> None:
    body = os.urandom(5 << 20)
    with pkgstore.open(root) as store:
        store.publish("big", body)
    tamper(root / "big")
    result = run("get", root, "big", "-", text=False)
    assert result.returncode == 8
    assert len(result.stdout) < len(body)
    assert body[1:].startswith(result.stdout[1:])
    tamper(root / KEY)
    assert run("get", root, KEY, "-").stdout == ""


def test_get_with_json_needs_a_file(root: Path) -> None:
    assert "give a FILE" in complaint(run("get", root, KEY, "--json"), 2)


# -- ls, stat, usage ---------------------------------------------------------------------------------------------------


def test_ls(root: Path) -> None:
    with pkgstore.open(root) as store:
        for key in ("six-old/a", "b", "six/sub/c"):
            store.publish(key, b"")
    assert run("ls", root).stdout.split() == sorted(["b", "six-old/a", KEY, "six/sub/c"])
    assert run("ls", root, "six/").stdout.split() == sorted([KEY, "six/sub/c"])
    assert run("ls", root, "six").stdout.split() == sorted([KEY, "six/sub/c"])
    assert run("ls", root, KEY).stdout.split() == [KEY]
    nothing = run("ls", root, "nothing/")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "'nothing' is not in" in complaint(run("ls", root, "nothing"), 3)


def test_ls_long(root: Path) -> None:
    (root / "by-hand").write_bytes(b"")
    os.utime(root / "by-hand", (1, 1))
    os.utime(root / KEY, (86400, 86400))
    assert [line.split() for line in run("ls", root, "-l").stdout.splitlines()] == [
        ["0", "1970-01-01T00:00:01Z", "-", "by-hand"],
        ["7", "1970-01-02T00:00:00Z", SHA256, KEY],
    ]


def test_ls_json_is_one_blob_per_line(root: Path) -> None:
    (root / "by-hand").write_bytes(b"")
    first, second = (json.loads(line) for line in run("ls", root, "--json").stdout.splitlines())
    assert (first["key"], first["digests"]) == ("by-hand", {})
    with pkgstore.open(root) as store:
        blob = store.stat(KEY)
    assert second == {"key": KEY, "size": 7, "mtime": blob.mtime, "tag": blob.tag, "digests": {"sha256": SHA256}}


def test_ls_prints_any_key_on_any_terminal(root: Path) -> None:
    with pkgstore.open(root) as store:
        store.publish("ünïcode", b"")
    ascii_only = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    assert run("ls", root, "ünïcode", env=ascii_only).stdout == "\\xfcn\\xefcode\n"
    assert json.loads(run("ls", root, "ünïcode", "--json", env=ascii_only).stdout)["key"] == "ünïcode"


def test_ls_leaves_out_what_is_no_key(root: Path) -> None:
    (root / "what?").write_bytes(b"")
    result = run("ls", root)
    assert (result.returncode, result.stdout) == (0, f"{KEY}\n")
    assert "'what?'" in result.stderr


def test_stat(root: Path) -> None:
    with pkgstore.open(root) as store:
        blob = store.stat(KEY)
    assert json.loads(run("stat", root, KEY, "--json").stdout)["tag"] == blob.tag
    lines = dict(line.split(maxsplit=1) for line in run("stat", root, KEY).stdout.splitlines())
    assert lines["key"] == KEY
    assert lines["size"] == "7 bytes"
    assert lines["sha256"] == SHA256
    (root / "by-hand").write_bytes(b"")
    assert "sha256  not recorded" in run("stat", root, "by-hand").stdout


def test_usage(root: Path) -> None:
    assert run("usage", root).stdout == "1 blob, 7 bytes\n"
    (root / "by-hand").write_bytes(bytes(2000))
    assert run("usage", root).stdout == "2 blobs, 2,007 bytes\n"
    without = {"reserved": 0, "limit": None, "blob_limit": None, "available": None}
    assert json.loads(run("usage", root, "--json").stdout) == {"blobs": 2, "bytes": 2007, **without}


@pytest.mark.parametrize("command", [["quota", "--bytes", "1"], ["usage", "--recount"]])
def test_a_quota_is_not_set_in_what_is_open_for_reading_only(root: Path, command: list[str]) -> None:
    name, *options = command
    assert "is open for reading only" in complaint(run(name, f"{root.as_uri()}?readonly=true", *options), 5)


def test_quota(root: Path) -> None:
    assert "nothing is set" in complaint(run("quota", root), 2)
    assert "is no number of blobs" in complaint(run("quota", root, "--blobs", "-1"), 2)
    assert run("quota", root, "--bytes", "1Ki").stdout == f"{root.as_uri()} may hold 1,024 bytes; 7 bytes are there.\n"
    assert run("quota", root, "--blobs", "1").stdout.endswith("may hold 1,024 bytes and 1 blobs; 7 bytes are there.\n")
    assert run("usage", root).stdout == "1 blob, 7 bytes of 1,024; 0 reserved, 1,017 available; 1 blob at most\n"
    assert "is one blob more than the quota of" in complaint(run("put", root, "b", "-", input="1"), 6)
    assert run("quota", root, "--blobs", "none", "--bytes", "none").stdout.endswith(
        "has no limit; 7 bytes are there.\n"
    )
    run("put", root, "b", "-", input="1")
    (root / "by-hand").write_bytes(b"12")
    assert json.loads(run("usage", root, "--json", "--recount").stdout)["bytes"] == 10
    assert run("quota", root, "--scope", "t/", "--bytes", "0").stdout.startswith(f"{root.as_uri()}/t/ may hold 0 bytes")
    assert run("usage", root, "--scope", "t/").stdout == "0 blobs, 0 bytes of 0; 0 reserved, 0 available\n"


@pytest.mark.parametrize("command", [["ls"], ["get", KEY, "-"], ["stat", KEY], ["usage"], ["rm", KEY]])
def test_these_make_no_store(tmp_path: Path, command: list[str]) -> None:
    name, *rest = command
    assert "pkgstore init" in complaint(run(name, tmp_path / "none", *rest), 3)
    assert list(tmp_path.iterdir()) == []
    assert "pkgstore init" in complaint(run(name, tmp_path, *rest), 3)
    assert list(tmp_path.iterdir()) == []


# -- rm ----------------------------------------------------------------------------------------------------------------


def test_rm(root: Path) -> None:
    assert run("rm", root, KEY).stdout == f"Deleted {KEY}.\n"
    assert run("ls", root).stdout == ""


def test_rm_goes_on_after_a_key_that_is_missing(root: Path) -> None:
    result = run("rm", root, "a", KEY, "b", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"key": "a", "deleted": False},
        {"key": KEY, "deleted": True},
        {"key": "b", "deleted": False},
    ]
    assert result.returncode == 3
    assert json.loads(result.stderr)["key"] == "a"
    assert complaint(run("rm", root, "a", "b"), 3) == f"'a', 'b' are not in {root.as_uri()}"
    assert complaint(run("rm", root, "a"), 3) == f"'a' is not in {root.as_uri()}"
    assert run("rm", root, "a", "--force").returncode == 0


def test_rm_with_one_bad_key_deletes_nothing(root: Path) -> None:
    assert "'../x'" in complaint(run("rm", root, KEY, "../x"), 2)
    assert run("ls", root).stdout == f"{KEY}\n"


def test_a_signal_in_a_finaliser_is_not_lost() -> None:
    """An exception that is raised there ends nothing."""
    code = """
import os, signal
from pkgstore import cli
class Last:
    def __del__(self):
        end()
def end():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000): pass
def run(argv):
    Last()
    signal.pause()
from pkgstore.cli import app
app.run = run
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (143, "")
