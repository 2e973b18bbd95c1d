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
from pkgstore.cli import serving
from pkgstore.config import split_url
from tests.command import ENVIRONMENT, PKGSTORE, complaint, run


def taken_port(taken: socket.socket) -> str:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return str(taken.getsockname()[1])


def test_help_is_ours_before_the_url_and_pypi_servers_after_it(tmp_path: Path) -> None:
    ours = run("serve", "--help", env={**ENVIRONMENT, "COLUMNS": "200"})
    assert "pkgstore serve URL --help" in ours.stdout
    theirs = run("serve", tmp_path / "store", "--help")
    assert theirs.returncode == 0
    assert theirs.stdout.startswith("These options of pypi-server go after URL.")
    assert "--overwrite" in theirs.stdout
    assert "the options of pypi-server go after the URL" in complaint(run("serve", "-p", "80", tmp_path), 2)
    assert "--create goes before the URL" in complaint(run("serve", tmp_path, "--create"), 2)


def test_options_after_the_url_are_passed_on_as_they_are(tmp_path: Path) -> None:
    code = """
import sys
from pkgstore.integrations import pypiserver
pypiserver.serve = lambda url, argv: print(url, list(argv))
from pkgstore.cli import main
main()
"""
    words = ["-p", "80", "--help", "--", "-o", "x", "--version", "--json"]
    for own, create in (([], "no"), (["--create"], "yes")):
        command = [sys.executable, "-c", code, "serve", *own, "-o", "timeout=1", "/a b", *words]
        shown = subprocess.run(command, check=True, capture_output=True, text=True)
        assert shown.stdout.splitlines()[-1] == f"file:///a%20b?timeout=1&create={create} {words}"


def test_options_of_the_store_become_part_of_its_url() -> None:
    url = serving.with_options("/srv/ä 100%/x?y#z", {"timeout": "1&2"})
    parts, options = split_url(url)
    assert (parts.path, options) == ("/srv/ä 100%/x?y#z", {"timeout": "1&2"})
    assert split_url(serving.with_options("memory://name?readonly=1", {"timeout": "5"}))[1] == {
        "readonly": "1",
        "timeout": "5",
    }


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


def test_serving_makes_no_store(tmp_path: Path) -> None:
    for url in (tmp_path / "typo" / "deep", tmp_path, f"{tmp_path.as_uri()}?create=yes"):
        assert "pkgstore init" in complaint(run("serve", url, "-i", "127.0.0.1", "-p", "0"), 3)
        assert list(tmp_path.iterdir()) == []
    assert "is a plain path" in complaint(run("serve", f"{tmp_path}/x?timeout=5", "-i", "127.0.0.1", "-p", "0"), 2)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    pkgstore.open(tmp_path / "store").close()
    with socket.socket() as taken:
        port = taken_port(taken)
        line = complaint(run("serve", tmp_path / "store", "-i", "127.0.0.1", "-p", port), 1)
    assert line == f"cannot listen on port {port} of 127.0.0.1: Address already in use"


def test_an_address_that_is_none(tmp_path: Path) -> None:
    pkgstore.open(tmp_path / "store").close()
    assert "no port 99999" in complaint(run("serve", tmp_path / "store", "-p", "99999"), 2)
    line = complaint(run("serve", tmp_path / "store", "-i", "no host", "-p", "0"), 1)
    assert line.startswith("cannot listen on port 0 of no host: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_when_told_to(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "store" / "six").mkdir(parents=True)
    (tmp_path / "store" / "six" / "six-1.0.tar.gz").write_bytes(b"body")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*PKGSTORE, "serve", "--create", str(tmp_path / "store"), "-i", "127.0.0.1", "-p", str(port)]
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


def test_serve_makes_no_store_inside_another(tmp_path: Path) -> None:
    pkgstore.open(tmp_path / "outer").close()
    inner = tmp_path / "outer" / "inner"
    command = [*PKGSTORE, "serve", "--create", str(inner), "-i", "127.0.0.1", "-p", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"lies inside the store {tmp_path / 'outer'}" in done.stderr
    assert not inner.exists()


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
