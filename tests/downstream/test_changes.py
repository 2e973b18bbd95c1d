"""What changes pypiserver's packages: uploads, removals, and who may do them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1
from typing import TYPE_CHECKING

import pytest

from tests.downstream.conftest import OPEN
from tests.packages import form, upload_form, wheel, wheel_name
from tests.servers import path_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.downstream.conftest import Index

NAMES = [
    "pytz-2008b.tar.gz",
    "mechanize-0.1.11.zip",
    "jQuery-1.8.2.min-0.5.tgz",
    "foo-3.0.8-py2.7.egg",
    "greenlet-0.3.4-py3.1-win-amd64.egg",
    "package-1.3.7+build.11.e0f985a.zip",
    "package-1-2013.02.17.dev123.tar.bz2",
    "Twisted-11.0.0.tar.xz",
    "name_underscore-0.1.0-py3-none-any.whl",
    "built-1.0-1-cp311-cp311-linux_x86_64.whl",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("signed", [False, True])
def test_uploads(index: Index, name: str, signed: bool) -> None:
    name = f"{'s' if signed else 'u'}{name}"
    files = {"content": (name, name.encode())}
    if signed:
        files["gpg_signature"] = (f"{name}.asc", b"signature")
    headers, body = form({":action": "file_upload"}, **files)
    answer = index.request("POST", "/", headers, body)
    assert (answer.status, answer.body) == (200, b"")
    assert index.stored(name) == name.encode()
    assert index.stored(f"{name}.asc") == (b"signature" if signed else None)
    assert name in [text.rpartition("/")[2] for text in index.get("/packages/").links]


def test_an_upload_through_one_worker_is_at_once_visible_through_the_other(index: Index) -> None:
    for number in range(10):
        name = f"shared-1.{number}.zip"
        assert index.upload(name, name.encode()).status == 200
        for _ in range(6):
            link = index.files("shared")[name]
            assert index.get(path_of(link)).body == name.encode()
            assert index.upload(name, b"again").status == 409


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Missing ':action' field!"),
        ({":action": "dance"}, "Unsupported ':action' field: dance"),
        ({":action": "file_upload"}, "Missing 'content' file-field!"),
        ({":action": "doc_upload"}, "Missing 'content' file-field!"),
        ({":action": "remove_pkg"}, "Missing 'name'/'version' fields"),
        ({":action": "remove_pkg", "name": "x"}, "Missing 'name'/'version' fields"),
        ({":action": "remove_pkg", "version": "1"}, "Missing 'name'/'version' fields"),
    ],
)
def test_forms_that_lack_something(index: Index, fields: dict[str, str], said: str) -> None:
    headers, body = form({"unused": "x", **fields})
    answer = index.request("POST", "/", headers, body)
    assert answer.status == 400
    assert said in answer.text.replace("&#039;", "'")


@pytest.mark.parametrize("action", ["verify", "submit"])
def test_actions_that_do_nothing(index: Index, action: str) -> None:
    headers, body = form({":action": action})
    assert index.request("POST", "/", headers, body).status == 200


def test_documentation_is_looked_at_and_not_kept(index: Index) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "hello")
    for data, status in ((archive.getvalue(), 200), (b"no zip file", 400)):
        headers, body = form({":action": "doc_upload", "name": "x"}, content=("docs-1.0.zip", data))
        assert index.request("POST", "/", headers, body).status == status
    assert index.stored("docs-1.0.zip") is None


@pytest.mark.parametrize(
    "name", ["setup.py", "x.exe", "pip.txt", "a b-1.0.zip", "dir/x-1.0.zip", "../x-1.0.zip", "ü-1.0.zip"]
)
def test_names_that_are_refused(index: Index, name: str) -> None:
    answer = index.upload(name, b"x")
    assert answer.status == 400
    assert "Bad filename" in answer.text


def test_a_signature_of_another_file(index: Index) -> None:
    files = {"content": ("unrelated-1.0.zip", b"x"), "gpg_signature": ("else-1.0.zip.asc", b"y")}
    headers, body = form({":action": "file_upload"}, **files)
    assert index.request("POST", "/", headers, body).status == 400
    assert index.stored("unrelated-1.0.zip") is None


@pytest.mark.parametrize(("agent", "status"), [("", 409), ("twine/6.0", 400)])
def test_a_name_is_uploaded_once(index: Index, agent: str, status: int) -> None:
    name = f"once-1.{status}.zip"
    assert index.upload(name, b"first").status == 200
    answer = index.upload(name, b"second", agent=agent)
    assert answer.status == status
    assert f"Package '{name}' already exists!" in answer.text.replace("&#039;", "'")
    assert index.stored(name) == b"first"


@pytest.mark.parametrize("place", ["", "some/where/"])
def test_a_name_that_lies_in_the_folder_is_taken(start: Callable[..., Index], tmp_path: Path, place: str) -> None:
    path = tmp_path / "packages" / place / "taken-1.0.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    index = start(*OPEN)
    assert index.upload("taken-1.0.zip", b"second").status == 409
    assert index.stored("taken-1.0.zip") == b"first"


def test_overwriting(start: Callable[..., Index]) -> None:
    index = start(*OPEN, "--overwrite")
    index.put("flat-1.0.zip", b"flat")
    for data in (b"first", b"second"):
        for name in ("over-1.0.zip", "flat-1.0.zip"):
            assert index.upload(name, data).status == 200
            assert index.stored(name) == data
            assert index.get(path_of(index.files(name.partition("-")[0])[name])).body == data


def test_a_race_for_one_name(index: Index) -> None:
    bodies = [os.urandom(300_000) for _ in range(8)]
    for round_ in range(3):
        name = f"raced-1.{round_}.zip"
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda body, name=name: index.upload(name, body).status, bodies))
        assert set(answers) <= {200, 409}
        # Different: pypiserver looks whether the name is free, and writes then; several may win.
        assert answers.count(200) == 1 if index.ours else answers.count(200) >= 1
        if index.ours:
            assert index.stored(name) == bodies[answers.index(200)]


@pytest.mark.parametrize("field", ["sha256_digest", "md5_digest", "blake2_256_digest"])
def test_digests_that_are_wrong(index: Index, field: str) -> None:
    name = f"digest_{field}-1.0.zip"
    answer = index.upload(name, b"x", **{field: "0" * (32 if "md5" in field else 64)})
    # Different: pypiserver does not look at them.
    assert answer.status == (400 if index.ours else 200)
    assert (index.stored(name) is None) == index.ours


def test_a_name_that_would_never_be_listed(index: Index) -> None:
    answer = index.upload(".dot-1.0.zip", b"x")
    # Different: pypiserver takes the file, and never shows it.
    assert answer.status == (400 if index.ours else 200)
    assert index.get("/packages/.dot-1.0.zip").status == 404


def test_an_upload_that_is_cut_short(index: Index) -> None:
    headers, body = upload_form("cut-1.0.zip", os.urandom(200_000))
    connection = index.connect()
    connection.request("POST", "/", body[:150_000], headers | {"Content-Length": str(len(body))})
    connection.sock.shutdown(1)
    answer = connection.getresponse()
    # Different: pypiserver keeps what came.
    assert answer.status == (400 if index.ours else 200)
    connection.close()
    assert (index.stored("cut-1.0.zip") is None) == index.ours


# -- removals ---------------------------------------------------------------------------------------------------------


def test_removals(index: Index) -> None:
    kept = ["removed-2.0.zip", "removed_not-1.0.zip"]
    gone = ["removed-1.0.zip", "removed-1.0.tar.gz", "removed-1.0-py3-none-any.whl", "removed-1.0.zip.asc"]
    for name in [*kept, *gone[:3]]:
        assert index.upload(name, b"x").status == 200
    index.put(f"removed/{gone[3]}", b"signature")
    assert index.remove("removed", "1.0").status == 200
    for _ in range(4):
        assert list(index.files("removed")) == ["removed-2.0.zip"]
    assert [index.stored(name) for name in kept] == [b"x", b"x"]
    assert [index.stored(name) for name in gone] == [None] * 4
    answer = index.remove("removed", "1.0")
    assert answer.status == 404
    assert "removed (1.0) not found" in answer.text
    assert index.upload(gone[0], b"new").status == 200


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"a:{{SHA}}{b64encode(sha1(b'a').digest()).decode()}\n")
    return path


def statuses(index: Index, user: str | None) -> dict[str, int]:
    """Return what each kind of request is answered with."""
    index.put("locked/locked-1.0.zip", b"x")
    name = f"locked-2.{len(list((index.root).rglob('*.zip')))}.zip"
    return {
        "list": index.request("GET", "/simple/", user=user).status,
        "page": index.request("GET", "/simple/locked/", user=user).status,
        "packages": index.request("GET", "/packages/", user=user).status,
        "json": index.request("GET", "/locked/json", user=user).status,
        "download": index.request("GET", "/packages/locked/locked-1.0.zip", user=user).status,
        "update": index.upload(name, b"x", user=user).status,
        "welcome": index.request("GET", "/", user=user).status,
        "health": index.request("GET", "/health", user=user).status,
    }


LISTS = {"list", "page", "packages", "json"}


@pytest.mark.parametrize(
    ("actions", "locked"),
    [
        ("update", {"update"}),
        ("download", {"download"}),
        ("list", LISTS),
        ("update, download, list", {"update", "download", *LISTS}),
    ],
)
def test_passwords(start: Callable[..., Index], passwords: Path, actions: str, locked: set[str]) -> None:
    index = start("-P", str(passwords), "-a", actions)
    for user, refused in (None, 401), ("a:wrong", 403), ("a:a", 200):
        assert statuses(index, user) == {
            kind: refused if kind in locked else 200 for kind in [*LISTS, "download", "update", "welcome", "health"]
        }
    assert "Basic" in (index.upload("x-1.0.zip", b"x").headers.get("WWW-Authenticate") or "") or "update" not in locked


def test_without_options_nobody_may_upload(start: Callable[..., Index]) -> None:
    index = start()
    assert index.upload("nobody-1.0.zip", b"x").status == 401
    assert index.upload("nobody-1.0.zip", b"x", user="a:a").status == 403
    assert index.get("/simple/").status == 200


# -- clients ----------------------------------------------------------------------------------------------------------


def test_twine_uploads_and_pip_installs(start: Callable[..., Index], passwords: Path, tmp_path: Path) -> None:
    index = start("-P", str(passwords), "-a", "update,download,list")
    path = tmp_path / wheel_name("clients")
    path.write_bytes(wheel("clients"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TWINE_"))}
    environ |= {"HOME": str(tmp_path), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}

    def run(*command: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", *command], env=environ, capture_output=True, check=False
        ).returncode

    twine = ("twine", "upload", "--non-interactive", "--repository-url", f"{index.url}/", "-u", "a", str(path))
    pip = ("pip", "install", "--isolated", "--no-deps", "--retries", "0", "--disable-pip-version-check", "--no-input")
    assert run(*twine, "-p", "wrong") != 0
    assert run(*twine, "-p", "a") == 0
    assert run(*twine, "-p", "a") != 0
    for credentials, code in (("", 1), ("a:a@", 0)):
        url = f"http://{credentials}127.0.0.1:{index.port}/simple/"
        assert run(*pip, "--target", str(tmp_path / "target"), "--index-url", url, "clients") == code
    assert (tmp_path / "target" / "clients" / "__init__.py").exists()
