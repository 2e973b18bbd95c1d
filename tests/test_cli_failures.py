"""How commands fail: exit codes, one line on stderr, and nothing left behind."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pkgstore
from pkgstore import errors
from pkgstore.cli import failures, files, progress
from tests.command import ENVIRONMENT, PKGSTORE, complaint, run

CODES = {
    errors.NotFound: 3,
    errors.Exists: 4,
    errors.Denied: 5,
    errors.InvalidKey: 2,
    errors.QuotaExceeded: 6,
    errors.Full: 6,
    errors.Unavailable: 7,
    errors.Corrupt: 8,
    errors.Unsupported: 9,
    errors.LockTimeout: 7,
    errors.Misconfigured: 2,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one blob, ``a``."""
    with pkgstore.open(tmp_path / "store") as store:
        store.publish("a", b"body")
    return tmp_path / "store"


def staged(root: Path) -> list[Path]:
    return list((root / ".pkgstore" / "tmp").glob("*"))


def begun_put(root: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start to put ``b/c``; when this returns, a part of it is staged, and it waits for more."""
    command = [*PKGSTORE, "put", str(root), "b/c", "-", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdin is not None
    process.stdin.write(bytes(1 << 20))
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in staged(root)):
        assert time.monotonic() < deadline, "nothing was staged"
        time.sleep(0.01)
    return process


# -- exit codes --------------------------------------------------------------------------------------------------------


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.StoreError)


def test_every_error_has_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(CODES) == {kind for kind in vars(pkgstore).values() if is_error(kind)} - {errors.StoreError}
    for kind, code in CODES.items():
        assert failures.reported(kind("what, where,\nand what to do", key="k"), as_json=False) == code
        assert capsys.readouterr().err == "pkgstore: what, where, and what to do\n"
        assert failures.reported(kind("what", key="k"), as_json=True) == code
        error = json.loads(capsys.readouterr().err)
        assert {name: error[name] for name in ("error", "message", "key")} == {
            "error": kind.__name__,
            "message": "what",
            "key": "k",
        }


def test_help_lists_every_code() -> None:
    shown = run("--help").stdout
    for code in {0, 1, 130, *CODES.values()}:
        assert f"\n    {code:<4} " in shown


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["usag"], "did you mean 'usage'?"),
        (["put"], "missing argument 'URL'"),
        (["ls", "URL", "--jsn"], "--json"),
        (["ls", "URL", "-o", "timeout"], "'timeout' is not NAME=VALUE"),
        (["ls", "URL", "-o", "timeout=1", "-o", "timeout=2"], "given twice"),
        (["ls", "URL", "-o", "create=yes"], "'create' is for the command to decide"),
        (["put", "URL", "k", "--size", "-1"], "--size"),
        (["put", "URL", "k", "--size", "five"], "not a valid number of bytes"),
        (["serve", "-p", "80", "URL"], "-p"),
    ],
)
def test_a_mistyped_command(arguments: list[str], hint: str) -> None:
    line = complaint(run(*arguments), 2)
    assert hint in line
    assert line.endswith(" --help`)")


def test_a_mistyped_option_or_url(root: Path, tmp_path: Path) -> None:
    assert "did you mean 'timeout'?" in complaint(run("ls", root, "-o", "timeot=1"), 2)
    assert "sftp" in complaint(run("ls", "sftp://host/folder"), 2)
    assert "empty" in complaint(run("ls", ""), 2)
    assert "options need a URL" in complaint(run("ls", f"{root}?readonly=yes"), 2)
    assert "readonly='maybe'" in complaint(run("ls", f"{root.as_uri()}?readonly=maybe"), 2)
    assert "secret" not in complaint(run("ls", "memory://user:secret@x"), 2)
    assert "no sha256" in complaint(run("put", root, "k", os.devnull, "--sha256", "12"), 2)
    assert list(tmp_path.iterdir()) == [root]


def test_an_option_does_not_say_who() -> None:
    done = run("ls", "smb://127.0.0.1:1/share", "-o", "password=abra")
    assert done.returncode == 2
    assert "password= says who" in done.stderr
    assert "abra" not in done.stderr


def test_a_store_option_takes_effect(root: Path) -> None:
    assert "timeout='soon'" in complaint(run("ls", root, "-o", "timeout=soon"), 2)
    assert run("ls", root, "-o", "timeout=5").stdout == "a\n"


@pytest.mark.parametrize("key", ["../a", "", "/a", "a//b", ".pkgstore/store.json", "a\nb", b"\xff"])
def test_a_bad_key(root: Path, key: str) -> None:
    for name, rest in (("put", [os.devnull]), ("get", ["-"]), ("stat", []), ("rm", [])):
        assert "not valid" in complaint(run(name, root, key, *rest), 2)
    assert run("ls", root).stdout == "a\n"


def test_denied(root: Path) -> None:
    assert "reading only" in complaint(run("put", f"{root.as_uri()}?readonly=yes", "b", os.devnull), 5)


def test_full(root: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))

    (tmp_path / "big").write_bytes(bytes(2 << 20))
    assert "free some space" in complaint(run("put", root, "b", tmp_path / "big", preexec_fn=small_files), 6)
    assert run("ls", root).stdout == "a\n"
    assert staged(root) == []


def test_unavailable(root: Path, tmp_path: Path) -> None:
    with begun_put(root, "-o", "timeout=0") as process:
        root.rename(tmp_path / "elsewhere")
        _, said = process.communicate()
    assert process.returncode == 7, said
    assert said.startswith(b"pkgstore: ")
    assert said.count(b"\n") == 1


# -- files of the user's own -------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read(root: Path, tmp_path: Path) -> None:
    assert complaint(run("put", root, "b", tmp_path / "none"), 1).endswith("/none: No such file or directory")
    assert complaint(run("put", root, "b", tmp_path), 1) == f"cannot read {tmp_path}: Is a directory"
    error = json.loads(run("put", root, "b", tmp_path / "none", "--json").stderr)
    assert (error["error"], error["key"]) == ("FileNotFoundError", None)
    closed = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *PKGSTORE, "put", root, "b"],
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert "standard input" in complaint(closed, 1)
    assert run("ls", root).stdout == "a\n"


def test_a_file_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    assert "cannot write" in complaint(run("get", root, "a", tmp_path / "none" / "a"), 1)
    error = json.loads(run("get", root, "a", tmp_path / "none" / "a", "--json").stderr)
    assert error["error"] == "FileNotFoundError"
    assert complaint(run("get", root, "a", f"{tmp_path}/none/"), 1) == (
        f"cannot write {tmp_path}/none/: there is no such folder"
    )
    assert list(tmp_path.iterdir()) == [root]


def test_a_local_disk_that_is_full(root: Path, tmp_path: Path) -> None:
    def no_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2, resource.RLIM_INFINITY))

    (tmp_path / "out").mkdir()
    assert "cannot write" in complaint(run("get", root, "a", tmp_path / "out" / "a", preexec_fn=no_files), 1)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("command", [["ls"], ["get", "a", "-"], ["stat", "a", "--json"], ["usage"]])
def test_an_output_that_is_full_or_closed(root: Path, command: list[str]) -> None:
    name, *rest = command
    with open("/dev/full", "wb") as full:
        result = run(name, root, *rest, stdout=full)
    assert result.returncode == 1
    assert "standard output" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    with open("/dev/full", "wb") as full:
        assert "Exception ignored" not in run("ls", root, "none", stdout=full).stderr


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["ls", "--help"], ["demo"]])
def test_help_for_an_output_that_is_full_or_that_nobody_reads(command: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        result = run(*command, stdout=full)
    assert complaint(result, 1).endswith(": No space left on device" if "demo" not in command else "on device")
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb") as pipe:
        result = run(*command, stdout=pipe)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("command", [["get", "a", "-"], ["ls"], ["stat", "a", "--json"]])
def test_a_closed_output(root: Path, command: list[str]) -> None:
    name, *rest = command
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *PKGSTORE, name, root, *rest],
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert "standard output" in closed.stderr
    assert (closed.returncode, closed.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["get", "big", "-"]])
def test_a_pipe_that_nobody_reads_is_no_error(root: Path, command: list[str]) -> None:
    with pkgstore.open(root) as store:
        store.publish("big", bytes(4 << 20))
    for number in range(1500):
        (root / f"{number:0100}").touch()
    name, *rest = command
    with subprocess.Popen(
        [*PKGSTORE, name, root, *rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")


# -- sources and targets, in detail -----------------------------------------------------------------------------------


def test_a_source_that_is_read_again_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"body")
    meter = progress.Meter("put", "bytes", shown=False)
    with files.source(str(tmp_path / "x")) as file:
        metered = files.MeteredSource(file, meter)
        assert metered.read(3) == b"bod"
        assert meter.done == 3
        assert metered.seek(0) == 0
        assert metered.read() == b"body"
        assert meter.done == 4


@pytest.mark.parametrize("force", [False, True])
def test_a_target_is_flushed_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    calls: list[str] = []
    for name in ("fsync", "link", "replace"):
        real = getattr(os, name)

        def recorded(*args: object, name: str = name, real: object = real) -> None:
            is_folder = name == "fsync" and Path(f"/proc/self/fd/{args[0]}").resolve().is_dir()
            calls.append(f"{name} folder" if is_folder else name)
            real(*args)  # type: ignore[operator]

        monkeypatch.setattr(os, name, recorded)
    with files.target(str(tmp_path / "x"), force=force) as target:
        target.write(b"body")
        assert [path.name for path in tmp_path.iterdir()] != ["x"]
    assert calls == ["fsync", "replace" if force else "link", "fsync folder"]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"body"]


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def get() -> None:
        with files.target(str(tmp_path / "x"), force=False) as target:
            target.write(b"body")
            (tmp_path / "x").write_bytes(b"another's")

    with pytest.raises(failures.LocalError, match="it is there already"):
        get()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"another's"]


def test_a_target_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    with files.target(str(tmp_path / "x"), force=False) as target:
        target.write(b"body")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"body"]
    with pytest.raises(failures.LocalError), files.target(str(tmp_path / "y"), force=False) as target:
        (tmp_path / "y").write_bytes(b"another's")
    assert (tmp_path / "y").read_bytes() == b"another's"
    assert len(list(tmp_path.iterdir())) == 2


# -- signals -----------------------------------------------------------------------------------------------------------


def test_an_interrupt_while_it_starts_is_no_error() -> None:
    code = """
import signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from pkgstore.cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code, "--help"], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_put_leaves_nothing(root: Path, number: signal.Signals, code: int) -> None:
    with begun_put(root) as process:
        process.send_signal(number)
        process.wait(30)
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""
    assert process.returncode == code
    assert staged(root) == []
    assert run("ls", root).stdout == "a\n"


def test_an_interrupted_get_leaves_nothing(tmp_path: Path) -> None:
    code = """
import os, sys
from pkgstore import outfile
from pkgstore.cli import main
write_all = outfile.write_all
def and_wait(file, data):
    write_all(file, data)
    print("waiting", flush=True)
    sys.stdin.read()
outfile.write_all = and_wait
main(["get", sys.argv[1], "a", sys.argv[2]])
"""
    with pkgstore.open(tmp_path / "store") as store:
        store.publish("a", bytes(2 << 20))
    (tmp_path / "out").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "store", tmp_path / "out" / "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        (partial,) = (tmp_path / "out").iterdir()
        assert partial.name.endswith(".part")
        process.terminate()
    assert process.returncode == 143
    assert list((tmp_path / "out").iterdir()) == []
