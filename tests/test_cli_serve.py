"""`pkgstore serve`: what it passes on, and how it fails. What is served has tests of its own."""

import http.client
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pkgstore
from pkgstore.cli import app
from pkgstore.config import split_url
from tests.command import ENVIRONMENT, PKGSTORE, complaint, run


def test_help_is_ours_before_the_url_and_pypi_servers_after_it(tmp_path: Path) -> None:
    ours = run("serve", "--help", env={**ENVIRONMENT, "COLUMNS": "200"})
    assert "pkgstore serve URL --help" in ours.stdout
    theirs = run("serve", tmp_path / "store", "--help")
    assert theirs.returncode == 0
    assert "--overwrite" in theirs.stdout


def test_options_after_the_url_are_passed_on_as_they_are(tmp_path: Path) -> None:
    code = """
import sys
from pkgstore.integrations import pypiserver
pypiserver.serve = lambda url, argv: print(url, list(argv))
from pkgstore.cli import main
main()
"""
    words = ["-p", "80", "--help", "--", "-o", "x", "--version", "--json"]
    command = [sys.executable, "-c", code, "serve", "-o", "timeout=1", "/a b", *words]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert shown.stdout == f"file:///a%20b?timeout=1 {words}\n"


def test_options_of_the_store_become_part_of_its_url() -> None:
    url = app.with_options("/srv/ä 100%/x?y#z", {"timeout": "1&2"})
    parts, options = split_url(url)
    assert (parts.path, options) == ("/srv/ä 100%/x?y#z", {"timeout": "1&2"})
    assert split_url(app.with_options("memory://name?readonly=1", {"timeout": "5"}))[1] == {
        "readonly": "1",
        "timeout": "5",
    }
    assert app.with_options("relative", {}) == "relative"


def test_without_pypiserver_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pypiserver'] = None; from pkgstore.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "serve", tmp_path / "store"], check=False, capture_output=True, text=True
    )
    assert "pip install 'pkgstore[pypiserver]'" in complaint(result, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    assert "did you mean 'timeout'?" in complaint(run("serve", "-o", "timeot=1", tmp_path / "store"), 2)
    (tmp_path / "file").touch()
    complaint(run("serve", tmp_path / "file"), 2)


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run("serve", tmp_path / "store", "-i", "127.0.0.1", "-p", port)
    assert result.returncode == 1
    *_, last = result.stderr.splitlines()  # after what the server says of itself
    assert last == f"pkgstore: cannot serve {tmp_path}/store: Address already in use"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_when_told_to(tmp_path: Path, number: signal.Signals) -> None:
    with pkgstore.open(tmp_path / "store") as store:
        store.publish("six/six-1.0.tar.gz", b"body")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*PKGSTORE, "serve", str(tmp_path / "store"), "-i", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "log").open("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            page = until_served(port, "/simple/six/")
            process.send_signal(number)
            process.wait(30)
        finally:
            process.kill()
        log.seek(0)
        assert "Traceback" not in log.read()
    assert "six-1.0.tar.gz" in page
    assert process.returncode in (0, 128 + number)


def until_served(port: int, path: str) -> str:
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except OSError:
            assert time.monotonic() < deadline, "no server came up"
            time.sleep(0.05)
        finally:
            connection.close()
