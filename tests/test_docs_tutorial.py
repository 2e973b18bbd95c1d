"""The README and the tutorial do what they say: their commands are run, in order, and their output is compared."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from pkgstore.cli.failures import EXIT_CODES
from tests.command import PKGSTORE

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"

# Run elsewhere: they make environments of their own, or are the tests that are running.
ELSEWHERE = {
    "python -m pip install '.[all]'",
    "python -m pip install '.[all]' && pkgstore demo",
    "python -m pip install nox && nox -s tests",
    "pkgstore demo",
    "python -m pip install gunicorn",
}
PORT = "8080"


class Block(NamedTuple):
    """A block of code. ``expected`` is the block of text that follows it, if one does."""

    language: str
    text: str
    expected: str | None


class Command(NamedTuple):
    line: str
    expected: str


def blocks(path: Path) -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", path.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, text, expected or None) for language, text, expected in found if language != "text"]


def commands(block: Block) -> list[Command]:
    first, *rest = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not first
    split = (each.split("\n", 1) for each in rest)
    return [Command(line, expected) for line, expected in split]


def assert_alike(shown: str, expected: str) -> None:
    """Compare an output with what is printed in the text, where `…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.rstrip().split("…"))
    assert re.fullmatch(pattern, shown.rstrip(), re.DOTALL), f"expected:\n{expected}\nshown:\n{shown}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to work in, with the commands that the texts use beside it."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    python = [sys.executable]
    for name, words in {"python": python, "pkgstore": PKGSTORE, "twine": [*python, "-m", "twine"]}.items():
        (scripts / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (scripts / name).chmod(0o755)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


class Shell:
    """Runs commands in one folder, without configuration that would lead pip or twine elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = str(free_port())
        self._servers: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "PATH": f"{folder.parent / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder.parent),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_NO_CACHE_DIR": "1",
        }

    def run(self, command: Command) -> None:
        line, expected = (text.replace(PORT, self._port) for text in command)
        environment = dict(self._environment)
        if line.startswith("pkgstore serve "):
            assert not expected
            self._serve(line)
            return
        if f":{self._port}/" in line:
            environment = {name: value for name, value in environment.items() if name != "PIP_FIND_LINKS"}
            environment["PIP_CONFIG_FILE"] = os.devnull
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            check=False,
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if " download " in line else subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, f"{line}\n{result.stdout}"
        assert_alike(result.stdout, expected)

    def run_python(self, block: Block) -> str:
        return subprocess.run(
            [sys.executable, "-c", block.text],
            check=True,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def end(self) -> None:
        for server in self._servers:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(30)
            finally:
                server.kill()
                server.wait()

    def _serve(self, line: str) -> None:
        with (self._folder.parent / "log").open("wb") as log:
            server = subprocess.Popen(
                shlex.split(line), cwd=self._folder, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        self._servers.append(server)
        deadline = time.monotonic() + 30
        while True:
            assert server.poll() is None, (self._folder.parent / "log").read_text()
            assert time.monotonic() < deadline, "no server came up"
            try:
                socket.create_connection(("127.0.0.1", int(self._port)), timeout=10).close()
            except ConnectionRefusedError:
                time.sleep(0.05)
            else:
                return


@pytest.fixture
def shell(folder: Path) -> Iterator[Shell]:
    shell = Shell(folder)
    yield shell
    shell.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_tutorial(shell: Shell) -> None:
    ran = 0
    for block in blocks(TUTORIAL):
        if block.language == "python":
            assert block.expected
            assert_alike(shell.run_python(block), block.expected)
            ran += 1
            continue
        assert block.language == "console"
        for command in commands(block):
            if command.line not in ELSEWHERE:
                shell.run(command)
                ran += 1
    assert ran > 15


def test_the_example_of_the_readme(shell: Shell, folder: Path) -> None:
    (example,) = (block for block in blocks(README) if block.language == "python")
    refused = "'six/six-1.17.0.tar.gz' is already in …\nTrue\n['six/six-1.17.0.tar.gz']\n"
    assert_alike(shell.run_python(example), f"{sha256(b'bytes, a path, or an open file').hexdigest()}\n{refused}")
    assert_alike(shell.run_python(example), refused)
    assert (folder / "packages" / "six" / "six-1.17.0.tar.gz").is_file()


def test_the_commands_of_the_readme(shell: Shell, folder: Path) -> None:
    rest = [
        command.line
        for block in blocks(README)
        if block.language == "console"
        for command in commands(block)
        if command.line not in ELSEWHERE
    ]
    init, serve, gunicorn = (line.replace("/srv/packages", str(folder / "packages")) for line in rest)
    shell.run(Command(init, "Made a store at …"))
    shell.run(Command(f"{serve} -i 127.0.0.1", ""))
    assert gunicorn.startswith("gunicorn --bind :8080 ")
    shell.run(Command(f"python -m {gunicorn} --check-config", ""))
    assert (folder / "packages" / ".pkgstore" / "store.json").is_file()


def test_the_password_file_of_the_index_page(folder: Path) -> None:
    lines = (ROOT / "docs" / "how-to" / "pypiserver.md").read_text().splitlines()
    (line,) = (line.strip() for line in lines if line.startswith("    python -c "))
    words = shlex.split(line)
    assert words.pop(0) == "python"
    subprocess.run([sys.executable, "-W", "ignore", *words], check=True, cwd=folder, input="secret\n", text=True)
    check = "from passlib.apache import HtpasswdFile as F; f = F('htpasswd'); print(f.check_password('ann', 'secret'))"
    command = [sys.executable, "-W", "ignore", "-c", check]
    assert subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE, text=True).stdout == "True\n"


def test_exit_codes_are_the_same_everywhere() -> None:
    in_help = re.findall(r"^  (\d+) +(.*)$", EXIT_CODES, re.MULTILINE)
    in_tutorial = dict(re.findall(r"^\| (\d+) \| (.*?) \|$", TUTORIAL.read_text(), re.MULTILINE))
    assert len(in_help) == 11
    for code, meaning in in_help[:-1]:
        assert in_tutorial[code] == meaning
    assert set(in_tutorial) == {code for code, _ in in_help} | {"141"}


@pytest.mark.parametrize("page", [README, TUTORIAL], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []
