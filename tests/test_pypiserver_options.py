"""How the index is started: options, several apps, several servers, fork."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from base64 import b64encode
from hashlib import sha1
from typing import TYPE_CHECKING

import pytest

import pkgstore
from tests.packages import upload_form, wheel, wheel_name
from tests.servers import call, create_app, gunicorn, path_of, pkgstore_app, pypiserver, serve

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.servers import Server

OPEN = ("-a", ".", "-P", ".")


def passwords(path: Path, **users: str) -> Path:
    """Write an htpasswd file."""
    lines = [f"{user}:{{SHA}}{b64encode(sha1(word.encode()).digest()).decode()}\n" for user, word in users.items()]
    path.write_text("".join(lines))
    return path


# -- the app ----------------------------------------------------------------------------------------------------------


def test_a_store_is_given_open_or_by_path_or_by_url(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish("here/here-1.0.zip", b"x")
        for given in (store, tmp_path, str(tmp_path), tmp_path.as_uri(), f"{tmp_path.as_uri()}?timeout=1"):
            assert call(create_app(given, *OPEN), "GET", "/simple/").links == {"here": "here/"}
        assert store.read("here/here-1.0.zip") == b"x"


def test_a_request_does_not_wait_long_for_a_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    really = pypiserver.open_store

    def opening(url: object, **options: object) -> pkgstore.Store:
        given.append(options.get("timeout"))
        return really(tmp_path, timeout=0)

    monkeypatch.setattr(pypiserver, "open_store", opening)
    app = create_app(tmp_path, *OPEN)
    create_app(f"file://{tmp_path}?timeout=60", *OPEN)
    assert given == [5.0, None]
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    answer = call(app, "GET", "/simple/six/")
    assert answer.status == 503
    assert f"the folder {tmp_path} is gone: check that its volume is mounted" in answer.text


def test_a_store_of_one_tenant_sees_no_other(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        for tenant in ("a", "b"):
            headers, body = upload_form("same-1.0.zip", tenant.encode())
            assert call(create_app(store.scope(f"{tenant}/"), *OPEN), "POST", "/", headers, body).status == 200
        for tenant in ("a", "b"):
            app = create_app(store.scope(f"{tenant}/"), *OPEN)
            assert call(app, "GET", "/packages/same/same-1.0.zip").body == tenant.encode()
            assert call(app, "GET", "/packages/b/same/same-1.0.zip").status == 404
            assert call(app, "GET", "/health").status == 200


def test_apps_in_one_process_do_not_share_anything(tmp_path: Path) -> None:
    apps = []
    for name, options in (
        ("one", ()),
        ("two", ("--overwrite", "--hash-algo", "md5")),
        ("three", ("--disable-fallback",)),
    ):
        with pkgstore.open(tmp_path / name) as store:
            store.publish(f"{name}/{name}-1.0.zip", b"x")
        apps.append(create_app(tmp_path / name, *OPEN, *options))
    one, two, three = apps
    for app, name in zip(apps, ("one", "two", "three"), strict=True):
        assert call(app, "GET", "/simple/").links == {name: f"{name}/"}
    assert [call(app, "GET", "/simple/absent/").status for app in apps] == [302, 302, 404]
    for app, status in ((one, 409), (two, 200)):
        name = "one" if app is one else "two"
        headers, body = upload_form(f"{name}-1.0.zip", b"again")
        assert call(app, "POST", "/", headers, body).status == status
    assert "#sha256=" in call(three, "GET", "/simple/three/").text
    assert "#md5=" in call(two, "GET", "/simple/two/").text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ovewrite"], "--overwrite"),
        (["--cache-controll=5"], "--cache-control"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["/absent"], "packages are in the store"),
        (["/tmp"], "packages are in the store"),
        (["--overwrite", "/tmp"], "packages are in the store"),
        (["--backend", "simple-dir"], "--backend"),
        (["--port", "8081"], "--port"),
        (["--server", "wsgiref"], "--server"),
        (["-v"], "--verbose"),
        (["--cache-control", "soon"], "--cache-control"),
        (["--hash-algo", "rot13"], "rot13"),
        (["-a", "everything"], "authenticat"),
        (["-a", "."], "password"),
        (["-P", "/absent/htpasswd"], "/absent/htpasswd"),
        (["--welcome", "/absent/welcome.html"], "/absent/welcome.html"),
    ],
)
def test_an_option_that_cannot_work_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(pkgstore.Misconfigured) as caught:
        create_app(tmp_path, *arguments)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_help_is_pypiservers_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        create_app(tmp_path, "--help")
    assert not caught.value.code
    assert "--disable-fallback" in capfd.readouterr().out


def test_a_check_of_passwords_of_ones_own(tmp_path: Path) -> None:
    def auther(user: str, password: str) -> bool:
        return (user, password) == ("a", "a")

    app = create_app(tmp_path, "-a", "update,list", "-P", "unused", auther=auther, overwrite=True)
    headers, body = upload_form("closed-1.0.zip", b"x")
    good, bad = {"Authorization": "Basic YTph"}, {"Authorization": "Basic YTpi"}
    for authorization, status in ({}, 401), (bad, 403), (good, 200), (good, 200):
        assert call(app, "POST", "/", headers | authorization, body).status == status
    for authorization, status in ({}, 401), (bad, 403), (good, 200):
        assert call(app, "GET", "/simple/", authorization).status == status
    assert call(app, "GET", "/packages/closed/closed-1.0.zip").status == 200


def test_a_body_is_not_read_before_the_password_is_right(tmp_path: Path) -> None:
    app = create_app(tmp_path, "-a", "update", "-P", "unused", auther=lambda _user, _password: False)
    headers, body = upload_form("closed-1.0.zip", b"x")
    promised = headers | {"Content-Length": str(len(body) + 10)}
    assert call(app, "POST", "/", promised, body).status == 401
    assert call(app, "POST", "/", promised | {"Authorization": "Basic YTph"}, body).status == 403


def test_an_htpasswd_file(tmp_path: Path) -> None:
    file = passwords(tmp_path / "htpasswd", ann="secret")
    with gunicorn(
        pkgstore_app(tmp_path / "store", "-P", str(file), "-a", "update,download", anonymous=False), tmp_path / "log"
    ) as index:
        for user, status in (None, 401), ("ann:wrong", 403), ("bob:secret", 403), ("ann:secret", 200):
            assert index.upload("closed-1.0.zip", b"x", user=user).status == status
        for user, status in (None, 401), ("ann:wrong", 403), ("ann:secret", 200):
            assert index.get("/packages/closed/closed-1.0.zip", user=user).status == status  # type: ignore[arg-type]
        assert list(index.files("closed")) == ["closed-1.0.zip"]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", id="sha1"),
        pytest.param("ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/", id="apr_md5"),
    ],
)
def test_an_htpasswd_file_guards_whatever_it_is_asked_to(tmp_path: Path, line: str) -> None:
    """In this process, where a warning is an error."""
    file = tmp_path / "htpasswd"
    file.write_text(f"{line}\n")
    app = create_app(tmp_path / "store", "-P", str(file), "-a", "download,list,update", "--disable-fallback")
    headers, body = upload_form("closed-1.0.zip", b"x")
    requests = [("POST", "/", headers, body)]
    for path in ("/simple/", "/simple/closed/", "/packages/", "/packages/closed/closed-1.0.zip", "/closed/json"):
        requests += [("GET", path, {}, b""), ("HEAD", path, {}, b"")]
    for method, path, fields, data in requests:
        for word, status in (None, 401), ("wrong", 403), ("secret", 200):
            given = {} if word is None else {"Authorization": f"Basic {b64encode(f'ann:{word}'.encode()).decode()}"}
            assert call(app, method, path, fields | given, data).status == status, (method, path, word)
    assert call(app, "GET", "/health").status == 200


def test_nothing_is_written_to_the_home_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = "import sys; from pkgstore.integrations.pypiserver import create_app; create_app(sys.argv[1])"
    environ = {**os.environ, "HOME": str(home)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], env=environ, check=True)
    assert list(home.iterdir()) == []


# -- gunicorn ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--preload",), ("--preload", "--threads", "4"), ("--threads", "4")])
def test_workers_that_are_forked_from_an_open_store(tmp_path: Path, options: tuple[str, ...]) -> None:
    with gunicorn(pkgstore_app(tmp_path / "store"), tmp_path / "log", *options) as index:
        for number in range(6):
            name = wheel_name("forked", f"1.{number}")
            assert index.upload(name, wheel("forked")).status == 200
            assert index.upload(name, wheel("forked")).status == 409
            for _ in range(4):
                assert index.get(path_of(index.files("forked")[name])).body == wheel("forked")
            assert index.get("/health").status == 200


def test_a_path_to_serve_below(tmp_path: Path) -> None:
    with gunicorn(
        pkgstore_app(tmp_path / "store", "--server-base-url", "/team/pypi"), tmp_path / "log", ready="/team/pypi/health"
    ) as index:
        data = wheel("based", payload=1_000_000)
        headers, body = upload_form(wheel_name("based"), data)
        assert index.request("POST", "/team/pypi/", headers, body).status == 200
        assert index.request("POST", "/team/pypi/", headers, body).status == 409
        link = index.files("based", "/team/pypi")[wheel_name("based")]
        assert link.startswith("/team/pypi/packages/based/")
        assert index.get(path_of(link)).body == data
        assert index.get(path_of(link), {"Range": "bytes=5-9"}).body == data[5:10]
        assert index.get(path_of(link), {"Range": "bytes=5-9"}).status == 206
        assert index.request("HEAD", path_of(link)).headers["Content-Length"] == str(len(data))
        assert index.get("/simple/").status == 404


# -- serve ------------------------------------------------------------------------------------------------------------

SERVERS = ["auto", "auto without waitress", "wsgiref", "gunicorn"]
CONCURRENT = [*SERVERS[:3], "gunicorn with threads"]


def served(tmp_path: Path, server: str, *options: str, ready: str = "/health") -> AbstractContextManager[Server]:
    """Serve a store. Without waitress, "auto" is the standard library's server."""
    environ = {}
    if server.endswith("without waitress"):
        blocked = tmp_path / "blocked"
        blocked.mkdir()
        (blocked / "waitress.py").write_text("raise ImportError\n")
        environ["PYTHONPATH"] = os.pathsep.join([str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])])
    if server == "gunicorn":
        environ["GUNICORN_CMD_ARGS"] = "--workers 2"
    if server == "gunicorn with threads":
        environ["GUNICORN_CMD_ARGS"] = "--workers 1 --threads 4"
    return serve(tmp_path / "store", tmp_path / "log", "--server", server.split()[0], *options, ready=ready, **environ)


@pytest.mark.parametrize("server", SERVERS)
def test_serving(tmp_path: Path, server: str) -> None:
    with served(tmp_path, server, *OPEN) as index:
        data = wheel("served", payload=2_000_000)
        assert index.upload(wheel_name("served"), data).status == 200
        assert index.upload(wheel_name("served"), data).status == 409
        path = path_of(index.files("served")[wheel_name("served")])
        assert index.get(path).body == data
        assert index.get(path, {"Range": "bytes=-7"}).body == data[-7:]
        head = index.request("HEAD", path)
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
        assert index.get(path, {"If-None-Match": head.headers["ETag"]}).status == 304


@pytest.mark.parametrize("server", CONCURRENT)
def test_an_upload_does_not_hold_up_downloads(tmp_path: Path, server: str) -> None:
    """However slowly its client sends."""
    with served(tmp_path, server, *OPEN) as index:
        assert index.upload("there-1.0.zip", b"there").status == 200
        headers, body = upload_form("slow-1.0.zip", bytes(1_000_000))
        lines = ["POST / HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection(("127.0.0.1", index.port), timeout=60) as upload:
            upload.sendall("\r\n".join([*lines, "", ""]).encode() + body[:500_000])
            for drop in range(500_000, 500_020):
                assert index.get("/packages/there/there-1.0.zip").body == b"there"
                assert index.files("slow") == {}
                upload.sendall(body[drop : drop + 1])
            assert index.get("/health").status == 200
            upload.sendall(body[500_020:])
            assert upload.recv(1000).split()[1] == b"200"
        assert list(index.files("slow")) == ["slow-1.0.zip"]


@pytest.mark.parametrize("server", SERVERS[:3])
def test_a_refused_upload_gets_its_answer(tmp_path: Path, server: str) -> None:
    """And not a connection that is reset while it still sends."""
    file = passwords(tmp_path / "htpasswd", ann="secret")
    with served(tmp_path, server, "-P", str(file)) as index:
        for user, status in (None, 401), ("ann:wrong", 403):
            assert index.upload("refused-1.0.zip", bytes(8_000_000), user=user).status == status


def test_serving_below_a_path_with_a_log(tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    with served(
        tmp_path, "auto", *OPEN, "--server-base-url", "/pypi", "-v", "--log-file", str(log),
        "--health-endpoint", "/up", ready="/pypi/up",
    ) as index:  # fmt: skip
        assert index.get("/pypi/simple/").status == 200
    assert "/pypi/simple/" in log.read_text()


def test_serving_tells_what_is_wrong(tmp_path: Path) -> None:
    code = "import sys; from pkgstore.integrations.pypiserver import serve; serve(sys.argv[1], sys.argv[2:])"
    for store, options, said in (
        (tmp_path, ["--ovewrite"], "did you mean '--overwrite'?"),
        (tmp_path, ["--backend", "simple-dir"], "--backend"),
        ("ftp://host/", [], "ftp"),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code, str(store), *options], capture_output=True, check=False, text=True
        )
        assert run.returncode == 1
        last = run.stderr.strip().splitlines()[-1]
        assert last.startswith("pkgstore.errors.Misconfigured: ")
        assert said in last
