"""`pkgstore bundle`: real installs, what is printed and what is not, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import extras
from pkgstore.bundle import identity
from pkgstore.bundle.commands import CommandFailed
from pkgstore.bundle.commands import run as run_command
from pkgstore.bundle.places import Place
from pkgstore.cli import bundling
from tests.command import ENVIRONMENT, PKGSTORE, complaint, run
from tests.needs import program
from tests.packages import wheel, wheel_name
from tests.servers import until
from tests.trees import told

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTHON = sys.executable
SECRET = "x9-very-secret-z7"


@pytest.fixture
def url(tmp_path: Path) -> str:
    pkgstore.open(tmp_path / "store").close()
    return str(tmp_path / "store")


def script(folder: Path, text: str) -> list[str]:
    """Return a command that runs a Python program with {dest} as its argument, and counts its runs in a file."""
    path = folder / "build.py"
    path.write_text(f"import os, sys\ndest = sys.argv[1]\nopen({str(folder / 'runs')!r}, 'a').write('run\\n')\n{text}")
    return [PYTHON, str(path), "{dest}"]


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines()) if (folder / "runs").exists() else 0


def bundle(dest: Path, command: Sequence[str], *options: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return run("bundle", "--name", "app", "--dest", str(dest), *options, "--", *command, **how)


FILL = "open(dest + '/file', 'w').write('built')\nprint('on stdout')\nprint('on stderr', file=sys.stderr)\n"


# -- three modes ------------------------------------------------------------------------------------------------------


def install(wheels: Path) -> list[str]:
    options = ["--isolated", "--disable-pip-version-check", "--no-index", "--find-links", str(wheels)]
    return [PYTHON, "-m", "pip", "install", *options, "--target", "{dest}", "-r", str(wheels / "requirements.txt")]


def test_a_real_install(url: str, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for project, version in (("first", "1.0"), ("first", "2.0"), ("second", "1.0")):
        (wheels / wheel_name(project, version)).write_bytes(wheel(project, version))
    (wheels / "requirements.txt").write_text("first\n-c constraints.txt\nsecond\n")
    (wheels / "constraints.txt").write_text("first==1.0\n")

    def versions(dest: Path) -> str:
        code = "import first, second; print(first.VERSION, second.VERSION, first.__cached__)"
        environment = {**ENVIRONMENT, "PYTHONPATH": str(dest)}
        shown = subprocess.run([PYTHON, "-c", code], env=environment, check=True, capture_output=True, text=True)
        *found, cached = shown.stdout.split()
        assert Path(cached).is_file()
        return " ".join(found)

    built = bundle(tmp_path / "a", install(wheels), "--store", url)
    assert built.returncode == 0, built.stderr
    assert "Successfully installed first-1.0 second-1.0" in built.stderr
    assert Path(built.stdout.rstrip("\n")) == (tmp_path / "a").resolve()
    restored = bundle(tmp_path / "b", install(wheels), "--store", url)
    assert (restored.returncode, restored.stderr) == (0, "")
    before = told(tmp_path / "a")
    assert told(tmp_path / "b") == before
    assert versions(tmp_path / "a") == versions(tmp_path / "b") == "1.0 1.0"
    # What pip compiled is valid though no file has the time that it had then: it goes by hashes.
    compiled = [path.read_bytes() for path in (tmp_path / "b").resolve().rglob("*.pyc")]
    assert [data[4:8] for data in compiled] == [b"\3\0\0\0"] * 2
    assert told(tmp_path / "b") == before
    # A constraint that the requirements name has changed.
    (wheels / "constraints.txt").write_text("first==2.0\n")
    assert bundle(tmp_path / "b", install(wheels), "--store", url).returncode == 0
    assert versions(tmp_path / "b") == "2.0 1.0"
    assert versions(tmp_path / "a") == "1.0 1.0"


def test_on_one_host_without_a_store(tmp_path: Path) -> None:
    command = script(tmp_path, FILL)
    first = bundle(tmp_path / "out", command)
    assert (sorted(first.stderr.splitlines()), first.returncode) == (["on stderr", "on stdout"], 0)
    assert bundle(tmp_path / "out", command).stderr == ""
    assert runs(tmp_path) == 1
    assert (tmp_path / "out" / "file").read_text() == "built"


def test_json(url: str, tmp_path: Path) -> None:
    found = json.loads(bundle(tmp_path / "out", script(tmp_path, FILL), "--store", url, "--json").stdout)
    with pkgstore.open(url) as store:
        (blob,) = store.list()
    directory = str((tmp_path / "out").resolve())
    assert found == {"directory": directory, "dest": str(tmp_path / "out"), "key": blob.key}
    without = json.loads(bundle(tmp_path / "other", script(tmp_path, FILL), "--json").stdout)
    assert without["key"] is None


def test_what_is_in_place_needs_no_store(url: str, tmp_path: Path) -> None:
    command = script(tmp_path, FILL)
    first = bundle(tmp_path / "out", command, "--store", url)
    (tmp_path / "store").rename(tmp_path / "away")
    again = bundle(tmp_path / "out", command, "--store", url)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "there is no" in complaint(bundle(tmp_path / "other", command, "--store", url), 3)


def test_a_store_is_made_when_asked_for(tmp_path: Path) -> None:
    command = script(tmp_path, FILL)
    assert bundle(tmp_path / "out", command, "--store", str(tmp_path / "new"), "--create").returncode == 0
    inner = str(tmp_path / "new" / "inner")
    assert "lies inside the store" in complaint(bundle(tmp_path / "b", command, "--store", inner, "--create"), 2)


# -- what decides -----------------------------------------------------------------------------------------------------


def test_words_and_files_decide(tmp_path: Path) -> None:
    command = script(tmp_path, FILL)
    (tmp_path / "extra").write_text("1")
    seen = set()
    for options, words in ([(), command], [("--input", str(tmp_path / "extra")), command], [(), [*command, "more"]]):
        seen.add(bundle(tmp_path / "out", words, *options).stdout)
    (tmp_path / "extra").write_text("2")
    seen.add(bundle(tmp_path / "out", command, "--input", str(tmp_path / "extra")).stdout)
    assert len(seen) == 4
    assert "cannot be read" in complaint(bundle(tmp_path / "out", command, "--input", "/none"), 2)


def files_of(*words: str) -> list[str]:
    return [os.fspath(each) for each in identity.inputs_of(words) if not isinstance(each, (str, bytes))]


def test_the_files_that_requirements_name_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    texts = {
        "one.txt": "six\n-r deep/two.txt # why\n",
        "deep/two.txt": "--requirement=three.txt\n--constraint four.txt\n-c\\\nfive.txt\n  -rsix.txt",
        "deep/three.txt": "-r ../one.txt\n-r https://example.com/x.txt\n-e ./local\n",
        "deep/four.txt": "a -r one.txt\n#-r deep/two.txt\n",
        "deep/five.txt": "",
        "deep/six.txt": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    every = [str(tmp_path / name) for name in texts]
    one = every[0]
    for words in (["-r", one], [f"-r{one}"], ["--requirement", one], [f"--requirement={one}"], ["--constraints", one]):
        assert sorted(files_of("pip", "install", *words)) == sorted(every), words
    assert files_of("cp", "-r", str(tmp_path / "deep"), "{dest}", "-r") == []
    assert files_of("pip", "-r", "none.txt", "-r", "https://example.com/x.txt", "-rf", "--requirement") == []


def test_the_interpreter_is_that_of_the_command(tmp_path: Path) -> None:
    other = tmp_path / "python3.99"
    other.write_text('#!/bin/sh\necho \'{"version": "3.99"}\'\n')
    heads = {
        "pip": f"#!{other}\n",
        "pip-env": "#!/usr/bin/env python3.99\n",
        "pip-env-s": "#!/usr/bin/env -S python3.99 -I\n",
        "pip-long": f"#!/bin/sh\n'''exec' {other} \"$0\" \"$@\"\n' '''\n",
        "pip-quoted": f"#!/bin/sh\n'''exec' \"{other}\" \"$0\" \"$@\"\n' '''\n",
        "shell": "#!/bin/sh\nexec python3.99\n",
    }
    other.chmod(0o755)
    for name, head in heads.items():
        (tmp_path / name).write_text(head)
        (tmp_path / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        ours = identity.facts_of(None, [PYTHON])
        found = {name: identity.facts_of(None, [name]) for name in [*heads, "python3.99"]}
        assert identity.facts_of("python3.99", ["shell"]) == {"version": "3.99"}
    assert found.pop("shell") == ours
    assert found == {name: {"version": "3.99"} for name in found}
    assert ours["version"] == sys.version.split()[0]
    with pytest.raises(pkgstore.Misconfigured, match="name a Python interpreter with --python"):
        identity.facts_of("true", [PYTHON])


def test_another_interpreter_tells_the_same_as_this_one_would() -> None:
    shown = subprocess.run([PYTHON, "-I", identity.interpreter.__file__], check=True, capture_output=True, text=True)
    assert json.loads(shown.stdout) == identity.facts_of(None, [PYTHON])


# -- secrets ----------------------------------------------------------------------------------------------------------

LOOK = """
import glob
value = os.environ["PIP_INDEX_URL"]
seen = []
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        seen.append(open(path, "rb").read())
    except OSError:
        pass
open(dest + "/seen", "w").write(f"{len(seen)} {sum(value.encode() in each for each in seen)} {len(value)}")
"""


def test_a_secret_is_nowhere_but_in_the_environment(url: str, tmp_path: Path) -> None:
    value = f"https://user:{SECRET}@index.example.com/simple"
    (tmp_path / "secret").write_text(f"{value}\n")
    done = bundle(
        tmp_path / "out", script(tmp_path, LOOK), "--store", url, "--secret", f"PIP_INDEX_URL={tmp_path / 'secret'}"
    )
    assert done.returncode == 0, done.stderr
    processes, with_it, length = map(int, (tmp_path / "out" / "seen").read_text().split())
    assert processes >= 2
    assert (with_it, length) == (0, len(value))
    assert SECRET not in done.stdout + done.stderr
    with pkgstore.open(url) as store:
        (blob,) = store.list()
        assert SECRET.encode() not in extras.zstd().decompress(store.read(blob.key))
    # Another value makes no other bundle.
    (tmp_path / "secret").write_text("another")
    bundle(tmp_path / "b", script(tmp_path, LOOK), "--store", url, "--secret", f"PIP_INDEX_URL={tmp_path / 'secret'}")
    assert runs(tmp_path) == 1


@pytest.mark.parametrize(
    "word",
    [
        f"https://user:{SECRET}@index.example.com/simple",
        f"--index-url=https://{SECRET}@index.example.com/simple",
        f"git+https://{SECRET}@example.com/x.git",
        f"pkg @ git+https://oauth2:{SECRET}@example.com/x.git",
        f"ssh://user:{SECRET}@example.com/x",
    ],
)
def test_a_secret_among_the_words_is_refused(tmp_path: Path, word: str) -> None:
    said = complaint(bundle(tmp_path / "out", [*script(tmp_path, FILL), word]), 2)
    assert "is a URL that says who" in said
    assert SECRET not in said
    assert runs(tmp_path) == 0


@pytest.mark.parametrize("word", ["git+ssh://git@example.com/x", "https://example.com/a@b", "pkg @ https://x.com/y"])
def test_what_is_no_secret_is_not_refused(tmp_path: Path, word: str) -> None:
    assert bundle(tmp_path / "out", [*script(tmp_path, FILL), word]).returncode == 0


@pytest.mark.parametrize("option", ["NAME", "NAME=", "=x", "1A=x", f"A B={SECRET}"])
def test_secrets_that_cannot_be(tmp_path: Path, option: str) -> None:
    said = complaint(bundle(tmp_path / "out", script(tmp_path, FILL), "--secret", option), 2)
    assert "--secret takes NAME=FILE" in said
    assert SECRET not in said


def test_secrets_that_cannot_be_read(tmp_path: Path) -> None:
    for name, data in {"binary": b"\xff\xff", "null": b"a\0b", "large": bytes(1 << 17)}.items():
        (tmp_path / name).write_bytes(data)
    for name in ("missing", "binary", "null", "large"):
        with pytest.raises(pkgstore.Misconfigured, match="--secret A names .* which cannot be taken"):
            bundling._secret(f"A={tmp_path / name}")


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_command_that_fails(url: str, tmp_path: Path) -> None:
    command = script(tmp_path, "open(dest + '/half', 'w')\nprint('why')\nsys.exit(7)\n")
    failed = bundle(tmp_path / "out", command, "--store", url, "--retries", "1")
    said = failed.stderr.splitlines()
    assert failed.returncode == 1
    assert said[-1] == f"pkgstore: {PYTHON!r} failed with exit code 7: what it printed says why"
    assert said.count("why") == runs(tmp_path) == 2
    assert not (tmp_path / "out").exists()
    assert os.listdir(Place(tmp_path / "out").folder) == ["lock"]
    error = json.loads(bundle(tmp_path / "out", command, "--retries", "0", "--json").stderr.splitlines()[-1])
    assert error["error"] == "CommandFailed"


def test_on_failure_allow_leaves_what_is_there(url: str, tmp_path: Path) -> None:
    good = bundle(tmp_path / "out", script(tmp_path, FILL), "--store", url)
    bad = [PYTHON, "-c", "import sys; sys.exit(1)", "{dest}"]
    options = ("--store", url, "--retries", "0", "--on-failure", "allow")
    allowed = bundle(tmp_path / "out", bad, *options)
    assert (allowed.returncode, allowed.stdout) == (0, good.stdout)
    assert f"{tmp_path / 'out'} is left as it is: {PYTHON!r} failed with exit code 1" in allowed.stderr
    assert (tmp_path / "out" / "file").read_text() == "built"
    none = bundle(tmp_path / "none", bad, *options)
    assert (none.returncode, none.stdout) == (0, "")
    assert json.loads(bundle(tmp_path / "none", bad, *options, "--json").stdout)["directory"] is None
    # A mistake is one all the same.
    assert "give {dest}" in complaint(bundle(tmp_path / "out", ["true"], *options), 2)


def test_a_store_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    where = ("--store", "s3://bucket/x?endpoint_url=http://127.0.0.1:1&region=us-east-1")
    options = (*where, "--timeout", "0.5", "--retries", "0")
    environment = {**ENVIRONMENT, **{name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}}
    blocked = bundle(tmp_path / "out", script(tmp_path, FILL), *options, env=environment)
    assert blocked.returncode == 7, blocked.stderr
    allowed = bundle(tmp_path / "out", script(tmp_path, FILL), *options, "--on-failure", "allow", env=environment)
    assert allowed.returncode == 0, allowed.stderr
    assert runs(tmp_path) == 0


@pytest.mark.parametrize(
    ("words", "options", "says"),
    [
        (["true"], (), "give {dest} in its place"),
        (["no-such-program", "{dest}"], (), "there is no program 'no-such-program'"),
        (["true", "{dest}"], ("--max-archive-size", "much"), "is not a size"),
        (["true", "{dest}"], ("-o", "timeout=1"), "name it with --store URL"),
        (["true", "{dest}"], ("--create",), "name it with --store URL"),
        (["true", "{dest}"], ("--store", "memory://x"), "give a folder"),
        (["true", "{dest}"], ("--timeout", "0"), "0"),
        (["true", "{dest}"], ("--retries", "-1"), "-1"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], options: tuple[str, ...], says: str) -> None:
    assert says in complaint(bundle(tmp_path / "out", words, *options), 2)


def test_a_dest_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot put a bundle at" in complaint(bundle(tmp_path / "file" / "x", script(tmp_path, FILL)), 1)


def test_what_is_read_only_is_put_in_place_or_removed(tmp_path: Path) -> None:
    """Without the rights of root, who may write there all the same."""
    drop = [program("setpriv"), "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    line = [
        *drop,
        *PKGSTORE,
        "bundle",
        "--name",
        "app",
        "--dest",
        str(tmp_path / "out"),
        "--retries",
        "0",
        "--",
        "sh",
        "-c",
    ]
    for text, code in (
        ("mkdir $0/a $0/b && ln -s a $0/c && chmod 0 $0/b && exit 1", 1),
        ("mkdir $0/a && touch $0/a/file && chmod -R a-w $0", 0),
    ):
        done = subprocess.run([*line, text, "{dest}"], env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert (done.returncode, "cannot" in done.stderr) == (code, False), done
    assert (tmp_path / "out" / "a" / "file").exists()
    assert len(os.listdir(Place(tmp_path / "out").folder)) == 2


# -- how it ends ------------------------------------------------------------------------------------------------------

HANG = """
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
open(os.environ["PIDS"] + ".new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(os.environ["PIDS"] + ".new", os.environ["PIDS"])
child.wait()
"""


def alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pkgstore.bundle.commands._ENDS_WITHIN", 0.1)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    real_clock = time.monotonic
    # Its time is over once it has started what it starts.
    monkeypatch.setattr(
        "pkgstore.bundle.commands.time.monotonic", lambda: real_clock() + 1000 * (tmp_path / "pids").exists()
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(CommandFailed, match="was ended, as it took longer than the 900 s it had left"):
        run_command(script(tmp_path, HANG), tmp_path / "out", {}, 900)
    pids = [int(each) for each in (tmp_path / "pids").read_text().split()]
    until(lambda: not any(map(alive, pids)))


def test_what_a_command_leaves_running_does_not_change_the_directory_later(tmp_path: Path) -> None:
    text = HANG.replace("child.wait()", "")
    assert bundle(tmp_path / "out", script(tmp_path, text), env={**ENVIRONMENT, "PIDS": str(tmp_path / "pids")}).stdout
    until(lambda: not any(alive(int(each)) for each in (tmp_path / "pids").read_text().split()))


def test_a_command_that_became_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sudo` does, whose processes others cannot end: what it has done counts."""

    def killpg(group: int, number: int) -> None:
        asked.append(number)
        raise PermissionError(1, "Operation not permitted")

    asked: list[int] = []
    monkeypatch.setattr("pkgstore.bundle.commands.os.killpg", killpg)
    run_command(["true"], tmp_path, {}, 60)
    assert asked == [signal.SIGKILL]


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (40, "40")])
def test_a_command_that_a_signal_ended(tmp_path: Path, number: int, name: str) -> None:
    with pytest.raises(CommandFailed, match=f"failed with signal {name}:"):
        run_command(["sh", "-c", f"kill -{number} $$"], tmp_path, {}, 60)


@pytest.mark.parametrize(("command", "code"), [(["mkdir", "{dest}/a"], 0), (["sh", "-c", "exit 3", "{dest}"], 1)])
def test_where_the_parent_ignores_the_ends_of_children(tmp_path: Path, command: list[str], code: int) -> None:
    line = [*PKGSTORE, "bundle", "--name", "app", "--dest", str(tmp_path / "out"), "--retries", "0", "--", *command]
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [PYTHON, "-c", ignoring, *line], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done
    assert ("failed with exit code 3" in done.stderr) == bool(code)


def test_its_time_is_that_of_all_tries(url: str, tmp_path: Path) -> None:
    hang = [PYTHON, "-c", "import time; time.sleep(1000)", "{dest}"]
    said = bundle(tmp_path / "out", hang, "--store", url, "--timeout", "0.5", "--retries", "1000").stderr
    assert said.count("it is tried again") == 0
    assert "was ended, as it took longer than the " in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    text = HANG.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n", "")
    command = [*PKGSTORE, "bundle", "--name", "app", "--dest", str(tmp_path / "out"), "--", *script(tmp_path, text)]
    pids = tmp_path / "pids"
    with subprocess.Popen(command, env={**ENVIRONMENT, "PIDS": str(pids)}, stderr=subprocess.PIPE) as process:
        until(pids.exists)
        process.send_signal(number)
        process.wait(30)
    assert process.returncode == code
    until(lambda: not any(alive(int(each)) for each in pids.read_text().split()))
    assert os.listdir(Place(tmp_path / "out").folder) == ["lock"]


def test_what_a_killed_command_left_running_keeps_its_folder_until_it_ends(tmp_path: Path) -> None:
    text = """
open(dest + "/half", "w").close()
if not os.path.exists(os.environ["PIDS"]):
    open(os.environ["PIDS"] + ".new", "w").write(str(os.getpid()))
    os.rename(os.environ["PIDS"] + ".new", os.environ["PIDS"])
    os.read(int(os.environ["GATE"]), 1)
"""
    dest, pids = tmp_path / "out", tmp_path / "pids"
    command = script(tmp_path, text)
    gate, key = os.pipe()
    environment = {**ENVIRONMENT, "PIDS": str(pids), "GATE": str(gate)}
    try:
        line = [*PKGSTORE, "bundle", "--name", "app", "--dest", str(dest), "--", *command]
        os.set_inheritable(gate, True)
        with subprocess.Popen(line, env=environment, pass_fds=[gate], stderr=subprocess.DEVNULL) as process:
            until(pids.exists)
            process.kill()
        orphan = int(pids.read_text())
        (part,) = (name for name in os.listdir(Place(dest).folder) if name.endswith(".part"))
        # Another takes over at once, and leaves the folder that somebody still writes to.
        assert bundle(dest, command, env=environment).returncode == 0
        assert runs(tmp_path) == 2
        assert alive(orphan)
        assert part in os.listdir(Place(dest).folder)
    finally:
        os.close(key)
        os.close(gate)
    until(lambda: not alive(orphan))
    assert bundle(dest, [*command, "another"], env=environment).returncode == 0
    assert sorted(name for name in os.listdir(Place(dest).folder) if "." in name) == []
