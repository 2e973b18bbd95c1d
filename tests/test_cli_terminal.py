"""What a terminal shows, and what nothing else is shown: bars for long work."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pkgstore
from tests.command import ENVIRONMENT, PKGSTORE, complaint, run


class Terminal:
    """A pseudo-terminal; ``end`` is for the child."""

    def __init__(self) -> None:
        self._ours, self.end = os.openpty()
        self.shown = ""

    def wait_for(self, pattern: str) -> None:
        """Read until what was shown matches. Fails after half a minute."""
        deadline = time.monotonic() + 30
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, f"{pattern!r} is not in {self.shown!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 1 << 16).decode()

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.end)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with pkgstore.open(tmp_path / "store") as store:
        store.publish("a", b"body")
    return tmp_path / "store"


def environment() -> dict[str, str]:
    return {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUTF8": "1"}


def test_a_long_put_shows_how_far_it_is(root: Path, terminal: Terminal) -> None:
    command = [*PKGSTORE, "put", str(root), "b/c", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=terminal.end, stderr=terminal.end, env=environment()
    ) as process:
        assert process.stdin is not None
        process.stdin.write(bytes(3 << 20))
        process.stdin.flush()
        terminal.wait_for(r"put b/c .*3\.1 MB")
        assert process.poll() is None
        process.stdin.close()
        terminal.wait_for("Published b/c: 3,145,728 bytes")
    assert process.returncode == 0


# Shows a bar at once, or not at all.
IMPATIENT = [
    sys.executable,
    "-c",
    """
import threading
from pkgstore.cli import main
class Now:
    def __init__(self, _, function):
        self.start = function
    def cancel(self):
        pass
    join = cancel
threading.Timer = Now
main()
""",
]


@pytest.mark.parametrize(
    ("command", "outputs"),
    [
        (["put", "ROOT", "b/c", "FILE"], {"terminal", "file"}),
        (["put", "ROOT", "b/c", "FILE", "--json"], set()),
        (["get", "ROOT", "a", "OUT"], {"terminal", "file"}),
        (["get", "ROOT", "a", "OUT", "--json"], set()),
        (["get", "ROOT", "a", "-"], {"file"}),
        (["ls", "ROOT"], {"file"}),
        (["ls", "ROOT", "--json"], set()),
        (["usage", "ROOT"], {"terminal", "file"}),
        (["usage", "ROOT", "--json"], set()),
    ],
)
def test_a_bar_spoils_no_output(root: Path, tmp_path: Path, command: list[str], outputs: set[str]) -> None:
    for name, shows in ((name, name in outputs) for name in ("terminal", "file", "pipe")):
        (tmp_path / "source").write_bytes(b"body")
        places = {"ROOT": str(root), "FILE": str(tmp_path / "source"), "OUT": str(tmp_path / f"out-{name}")}
        words = [places.get(word, word).replace("b/c", f"b/{name}") for word in command]
        terminal = Terminal()
        with (tmp_path / "stdout").open("wb") as file:
            stdout = {"terminal": terminal.end, "file": file.fileno(), "pipe": subprocess.PIPE}[name]
            subprocess.run([*IMPATIENT, *words], check=True, stdout=stdout, stderr=terminal.end, env=environment())
        os.write(terminal.end, b"the end")
        terminal.wait_for("the end$")
        terminal.close()
        assert ("\u2501" in terminal.shown) == shows, (name, terminal.shown)


def test_short_work_shows_no_bar(root: Path, terminal: Terminal) -> None:
    with subprocess.Popen(
        [*PKGSTORE, "stat", root, "a"], stdout=terminal.end, stderr=terminal.end, env=environment()
    ) as process:
        terminal.wait_for("sha256  [0-9a-f]{64}\r\n")
    assert process.returncode == 0
    assert terminal.shown.startswith("key     a\r\n")


@pytest.mark.parametrize("command", ["put", "get"])
def test_a_terminal_is_used_only_when_asked_for(root: Path, terminal: Terminal, command: str) -> None:
    result = run(command, root, "a", stdin=terminal.end) if command == "put" else None
    if result is None:
        result = run(command, root, "a", stdout=terminal.end)
    assert "or - to use the terminal" in complaint(result, 2)
