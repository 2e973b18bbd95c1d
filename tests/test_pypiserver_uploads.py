"""Uploads through the index: one winner, whole or not at all, and as declared."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

import pytest

import pkgstore
from tests import needs
from tests.packages import form, sdist, upload_form, wheel, wheel_name
from tests.servers import call, create_app, gunicorn, key_of, path_of, peak_memory, pkgstore_app, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server

TWINE = "twine/7.0.0 requests/2.34"
KNOWN_FLAT = "flat-1.0.tar.gz"
KNOWN_NESTED = "nested-1.0.tar.gz"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    (root / KNOWN_FLAT).write_bytes(sdist("flat"))
    (root / "team" / "old").mkdir(parents=True)
    (root / "team" / "old" / KNOWN_NESTED).write_bytes(sdist("nested"))
    return root


@pytest.fixture(scope="module")
def index(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gunicorn(pkgstore_app(root), tmp_path_factory.mktemp("index") / "log") as server:
        yield server


@pytest.fixture
def store(root: Path) -> Iterator[pkgstore.Store]:
    with pkgstore.open(root) as store:
        yield store


def message(answer: object) -> str:
    """Return what an error page says, in one line, unescaped as far as needed."""
    text = getattr(answer, "text", "")
    return " ".join(text.partition("<pre>")[2].partition("</pre>")[0].replace("&#039;", "'").split())


def test_an_upload_lies_at_its_project_and_file_name(index: Server, store: pkgstore.Store) -> None:
    data = wheel("Layout_Of.Names")
    assert index.upload("Layout_Of.Names-1.0-py3-none-any.whl", data).status == 200
    assert store.read("layout-of-names/Layout_Of.Names-1.0-py3-none-any.whl") == data


def test_an_upload_is_at_once_visible_through_every_worker(index: Server) -> None:
    for number in range(5):
        name = wheel_name("visible", f"1.{number}")
        data = wheel("visible", f"1.{number}")
        assert index.upload(name, data).status == 200
        for _ in range(8):
            assert index.get(path_of(index.files("visible")[name])).body == data


def test_an_upload_is_at_once_visible_through_another_replica(
    index: Server, root: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with gunicorn(pkgstore_app(root), tmp_path / "log", workers=1) as replica:
        assert "replica" not in replica.get("/simple/").links
        for number in range(5):
            name = wheel_name("replica", f"1.{number}")
            uploaded, other = (index, replica) if number % 2 else (replica, index)
            assert uploaded.upload(name, wheel("replica")).status == 200
            assert name in other.files("replica")
            assert other.upload(name, wheel("replica")).status == 409
        assert replica.remove("replica", "1.0").status == 200
        assert wheel_name("replica", "1.0") not in index.files("replica")


@pytest.mark.parametrize(("agent", "status"), [("", 409), ("uv/0.13", 409), (TWINE, 400)])
@pytest.mark.parametrize("identical", [True, False])
def test_a_duplicate_is_refused(index: Server, store: pkgstore.Store, agent: str, status: int, identical: bool) -> None:
    name = wheel_name("duplicate", f"{status}.{len(agent)}.{int(identical)}")
    first = wheel("duplicate")
    assert index.upload(name, first).status == 200
    answer = index.upload(name, first if identical else wheel("duplicate", seed=1), agent=agent)
    assert answer.status == status
    assert f"Package '{name}' already exists!" in message(answer)
    assert store.read(f"duplicate/{name}") == first


@pytest.mark.parametrize("name", [KNOWN_FLAT, KNOWN_NESTED])
def test_a_name_that_lies_anywhere_in_the_store_is_refused(index: Server, root: Path, name: str) -> None:
    before = sorted(path for path in root.rglob(name))
    assert index.upload(name, sdist("other")).status == 409
    assert sorted(path for path in root.rglob(name)) == before


def test_a_flat_file_put_there_by_hand_a_moment_ago_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However old the list of such files is."""
    monkeypatch.setattr("pkgstore.integrations._pypi_index._NOT_OFTENER", 3600.0)
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, "-a", ".", "-P", ".", "--disable-fallback")
        assert call(app, "GET", "/simple/justnow/").status == 404
        (tmp_path / "justnow-1.0.tar.gz").write_bytes(b"by hand")
        headers, body = upload_form("justnow-1.0.tar.gz", b"x")
        assert call(app, "POST", "/", headers, body).status == 409


def test_of_sixteen_racing_uploads_exactly_one_wins(index: Server, store: pkgstore.Store) -> None:
    for round_ in range(4):
        name = wheel_name("raced", f"1.{round_}")
        bodies = [wheel("raced", payload=100_000, seed=seed) for seed in range(16)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda body, name=name: index.upload(name, body).status, bodies))
        assert sorted(answers) == [200] + [409] * 15
        assert store.read(f"raced/{name}") == bodies[answers.index(200)]


@pytest.mark.parametrize(("agent", "status"), [("", 409), (TWINE, 400)])
def test_a_race_is_decided_in_the_store_and_not_by_a_look_before(tmp_path: Path, agent: str, status: int) -> None:
    """The other upload comes between the look and the publishing."""
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, "-a", ".", "-P", ".")
        publish = store.publish

        def late(key: str, body: object, **options: object) -> pkgstore.Blob:
            publish(key, b"the rival's")
            return publish(key, body, **options)  # type: ignore[arg-type]

        store.publish = late  # type: ignore[method-assign, assignment]
        headers, body = upload_form("late-1.0.tar.gz", b"ours")
        answer = call(app, "POST", "/", headers | {"User-Agent": agent}, body)
        assert answer.status == status
        assert "Package 'late-1.0.tar.gz' already exists!" in message(answer)
        assert store.read("late/late-1.0.tar.gz") == b"the rival's"


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "blake2_256"])
@pytest.mark.parametrize("size", [10, 6_000_000])
def test_the_digests_of_the_form_are_checked(
    index: Server, store: pkgstore.Store, root: Path, algorithm: str, size: int
) -> None:
    data = os.urandom(size)
    digests = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "blake2_256": hashlib.blake2b(data, digest_size=32).hexdigest(),
    }
    project = f"checked-{algorithm}-{size}".replace("_", "-")
    name = f"{project.replace('-', '_')}-1.0.tar.gz"
    wrong = "0" * len(digests[algorithm])
    answer = index.upload(name, data, **{f"{algorithm}_digest": wrong})
    assert answer.status == 400
    assert digests[algorithm] in message(answer)
    assert wrong in message(answer)
    assert index.files(project) == {}
    assert not any((root / ".pkgstore" / "tmp").iterdir())
    # All together, in capitals, with one that the client left empty.
    fields = {f"{each}_digest": value.upper() for each, value in digests.items() if each != "md5"}
    assert index.upload(name, data, md5_digest="", **fields).status == 200
    assert store.stat(f"{project}/{name}").digests["sha256"] == digests["sha256"]


@pytest.mark.parametrize("field", ["sha256_digest", "md5_digest", "blake2_256_digest"])
def test_what_cannot_be_a_digest_is_refused(index: Server, field: str) -> None:
    answer = index.upload("malformed-1.0.tar.gz", b"x", **{field: "not-hexadecimal"})
    assert answer.status == 400
    assert field in message(answer)
    assert index.files("malformed") == {}


@pytest.mark.parametrize("field", ["sha256_digest", "md5_digest", "blake2_256_digest"])
def test_a_digest_is_given_once_and_as_text(index: Server, field: str) -> None:
    """Which of two is meant cannot be told, and a file is not looked into."""
    right = {
        "sha256_digest": hashlib.sha256(b"x"),
        "md5_digest": hashlib.md5(b"x", usedforsecurity=False),
        "blake2_256_digest": hashlib.blake2b(b"x", digest_size=32),
    }[field].hexdigest()
    headers, body = upload_form("twice-1.0.tar.gz", b"x", **{field: right})
    _, nothing = form({})
    for values in ({field: "0" * len(right)}, {field: right}, {field: ""}):
        _, before = form(values)
        answer = index.request("POST", "/", headers, before.removesuffix(nothing) + body)
        assert answer.status == 400
        assert field in message(answer)
    headers, body = form(
        {":action": "file_upload"}, content=("twice-1.0.tar.gz", b"x"), **{field: ("", right.encode())}
    )
    answer = index.request("POST", "/", headers, body)
    assert answer.status == 400
    assert field in message(answer)
    assert index.files("twice") == {}


def test_digests_are_those_of_the_package_and_not_of_its_signature(index: Server) -> None:
    data, signature = sdist("signed"), b"-----BEGIN PGP SIGNATURE-----"
    fields = {":action": "file_upload", "sha256_digest": hashlib.sha256(data).hexdigest()}
    names = ("signed-1.0.tar.gz", data), ("signed-1.0.tar.gz.asc", signature)
    headers, body = form(fields, content=names[0], gpg_signature=names[1])
    assert index.request("POST", "/", headers, body).status == 200
    links = index.files("signed")
    assert {name: index.get(path_of(link)).body for name, link in links.items()} == dict(names)


def test_a_signature_of_something_else_is_refused(index: Server) -> None:
    headers, body = form(
        {":action": "file_upload"}, content=("mine-1.0.tar.gz", b"x"), gpg_signature=("yours-1.0.tar.gz.asc", b"y")
    )
    assert index.request("POST", "/", headers, body).status == 400
    assert index.files("mine") == {}


@pytest.mark.parametrize(
    "name", ["README.md", "x/y-1.0.tar.gz", "../up-1.0.tar.gz", ".dot-1.0.tar.gz", "a b-1.0.tar.gz", "con-1.0.tar.gz"]
)
def test_what_is_no_name_of_a_package_is_refused(index: Server, store: pkgstore.Store, name: str) -> None:
    before = list(store.list())
    answer = index.upload(name, b"x")
    assert answer.status == 400
    assert message(answer)
    assert list(store.list()) == before


def test_overwriting_replaces_a_file_where_it_lies(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "store"
    own.mkdir()
    (own / "old").mkdir()
    (own / "old" / KNOWN_FLAT).write_bytes(b"old")
    with gunicorn(pkgstore_app(own, "--overwrite"), tmp_path / "log") as index:
        for name, key in ((KNOWN_FLAT, f"old/{KNOWN_FLAT}"), ("new-1.0.tar.gz", "new/new-1.0.tar.gz")):
            for data in (b"first", b"second"):
                digest = hashlib.sha256(data).hexdigest()
                assert index.upload(name, data, sha256_digest=digest).status == 200
                links = index.files(name.partition("-")[0])
                assert list(links) == [name]
                assert key_of(links[name]) == key
                assert links[name].endswith(f"#sha256={digest}")
                answer = index.get(path_of(links[name]))
                assert answer.body == data
                assert answer.headers["Cache-Control"] == "public, no-cache"
    assert [path.name for path in own.iterdir() if path.is_dir()].count("flat") == 0


def test_overwriting_replaces_every_copy(tmp_path: Path) -> None:
    places = ["copied/copied-1.0.zip", "copied-1.0.zip", "sub/copied-1.0.zip"]
    with pkgstore.open(tmp_path) as store:
        for place in places:
            store.publish(place, b"old")
        app = create_app(store, "-a", ".", "-P", ".", "--overwrite")
        digest = hashlib.blake2b(b"new", digest_size=32).hexdigest()
        headers, body = upload_form("copied-1.0.zip", b"new", blake2_256_digest=digest)
        assert call(app, "POST", "/", headers, body).status == 200
        assert [store.read(place) for place in places] == [b"new"] * 3


def test_overwriting_checks_digests_and_leaves_what_was_there(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, "-a", ".", "-P", ".", "--overwrite")
        store.publish("kept/kept-1.0.tar.gz", b"kept")
        headers, body = upload_form("kept-1.0.tar.gz", b"bad", blake2_256_digest="0" * 64)
        assert call(app, "POST", "/", headers, body).status == 400
        assert store.read("kept/kept-1.0.tar.gz") == b"kept"


# -- what dies on the way ---------------------------------------------------------------------------------------------


def send_part(index: Server, headers: dict[str, str], body: bytes, count: int) -> socket.socket:
    """Send the head of an upload and the first ``count`` bytes of its body; return the open connection."""
    connection = socket.create_connection(("127.0.0.1", index.port), timeout=60)
    lines = ["POST / HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[:count])
    return connection


@pytest.mark.parametrize("missing", [1, 20, 60, 200_000])
def test_an_upload_whose_client_dies_leaves_nothing(index: Server, store: pkgstore.Store, missing: int) -> None:
    """Even where only the end of the form is missing, or it could be read as one of a shorter file."""
    project = f"cut{missing}"
    headers, body = upload_form(f"{project}-1.0.tar.gz", os.urandom(400_000))
    with send_part(index, headers, body, len(body) - missing) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] == b"400"
    assert list(store.list(f"{project}/")) == []
    assert index.files(project) == {}


@pytest.mark.parametrize("missing", [3, 4, 5, 60, 20_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_form_without_its_end_is_refused_though_its_length_agrees(missing: int, chunked: bool) -> None:
    """Whatever stands between may have cut it, and told the length of what is left."""
    with pkgstore.open("memory://") as store:
        app = create_app(store, "-a", ".", "-P", ".")

        def send(headers: dict[str, str], body: bytes) -> int:
            if chunked:
                headers = headers | {"Transfer-Encoding": "chunked", "Content-Length": ""}
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            answer = call(app, "POST", "/", headers, body)
            assert answer.status == 200 or "closing boundary" in message(answer)
            return answer.status

        headers, body = upload_form("cut-1.0.tar.gz", os.urandom(40_000))
        assert send(headers, body[:-missing]) == 400
        assert list(store.list()) == []
        # The delimiter is all there without its line's end.
        assert send(headers, body[:-2]) == 200
        headers, body = form({":action": "remove_pkg", "name": "cut", "version": "1.0"})
        # Whatever of the boundary is left would be the end of the version, but for this.
        assert send(headers, body[:-4]) == 400
        assert [blob.key for blob in store.list()] == ["cut/cut-1.0.tar.gz"]
        assert send(headers, body) == 200
        assert list(store.list()) == []


def test_a_form_without_its_end_is_refused_by_a_server(index: Server, root: Path) -> None:
    headers, body = upload_form("endless-1.0.tar.gz", os.urandom(400_000))
    answer = index.request("POST", "/", headers, body[:-200_000])
    assert answer.status == 400
    assert "closing boundary" in message(answer)
    assert index.files("endless") == {}
    assert not any((root / ".pkgstore" / "tmp").iterdir())


def test_the_type_of_a_form_is_of_either_case() -> None:
    with pkgstore.open("memory://") as store:
        headers, body = upload_form("cased-1.0.tar.gz", b"x")
        kind = headers["Content-Type"].replace("multipart/form-data", "Multipart/Form-Data")
        app = create_app(store, "-a", ".", "-P", ".")
        assert call(app, "POST", "/", headers | {"Content-Type": kind}, body).status == 200
        assert store.read("cased/cased-1.0.tar.gz") == b"x"


@pytest.mark.parametrize(
    "kind", ["", "; boundary=", '; boundary=""', "; boundary=\xe9", "; boundary=other", "; boundary=" + "b" * 300]
)
def test_a_form_without_its_boundary_is_refused(kind: str) -> None:
    with pkgstore.open("memory://") as store:
        app = create_app(store, "-a", ".", "-P", ".")
        _, body = upload_form("bare-1.0.tar.gz", b"x")
        answer = call(app, "POST", "/", {"Content-Type": f"multipart/form-data{kind}"}, body)
        assert answer.status == 400
        assert message(answer)
        assert list(store.list()) == []


@pytest.mark.parametrize("name", ["nul-1.0.tar.gz\0.exe", "nul\0-1.0.tar.gz", "\0"])
def test_a_name_with_a_nul_is_refused_in_one_line(index: Server, name: str) -> None:
    answer = index.upload(name, b"x")
    assert answer.status == 400
    assert "form cannot be read" in message(answer)
    assert index.files("nul") == {}


@pytest.mark.parametrize("length", ["abc", "5, 3", "-5", "+5", "1_000", pytest.param("9" * 5000, id="many digits")])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pkgstore.open("memory://") as store:
        app = create_app(store, "-a", ".", "-P", ".")
        headers, body = upload_form("length-1.0.tar.gz", b"x")
        answer = call(app, "POST", "/", headers | {"Content-Length": length}, body)
        assert answer.status == 400
        assert "Content-Length" in message(answer)


def test_a_large_upload_takes_little_memory(tmp_path: Path) -> None:
    size = 128 << 20
    with gunicorn(pkgstore_app(tmp_path / "store"), tmp_path / "log", workers=1) as index:
        (worker,) = index.workers()
        assert index.upload("small-1.0.tar.gz", b"x").status == 200
        before = peak_memory(worker)
        assert index.upload("large-1.0.tar.gz", bytes(size)).status == 200
        assert peak_memory(worker) - before < 48 << 20
        assert index.request("HEAD", "/packages/large/large-1.0.tar.gz").headers["Content-Length"] == str(size)


def test_a_removal_that_is_cut_short_removes_nothing(index: Server) -> None:
    """Version 1.0 must not go because version 1.0.1 was to go."""
    assert index.upload("removal-1.0.tar.gz", b"x").status == 200
    body = b":action=remove_pkg&name=removal&version=1.0.1"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with send_part(index, headers, body, len(body) - 2) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] == b"400"
    assert list(index.files("removal")) == ["removal-1.0.tar.gz"]


def test_an_upload_in_progress_is_neither_listed_nor_served(index: Server, store: pkgstore.Store) -> None:
    data = os.urandom(3_000_000)
    headers, body = upload_form("progress-1.0.tar.gz", data)
    with send_part(index, headers, body, len(body) // 2) as connection:
        for _ in range(10):
            assert index.files("progress") == {}
            assert index.get("/packages/progress/progress-1.0.tar.gz").status == 404
        connection.sendall(body[len(body) // 2 :])
        assert connection.recv(65536).split()[1] == b"200"
    assert store.read("progress/progress-1.0.tar.gz") == data


def test_a_server_killed_while_it_publishes_leaves_nothing(tmp_path: Path) -> None:
    root, data = tmp_path / "store", os.urandom(32_000_000)
    staging = root / ".pkgstore" / "tmp"
    headers, body = upload_form("killed-1.0.tar.gz", data)
    for round_ in range(3):
        with gunicorn(pkgstore_app(root), tmp_path / f"log{round_}") as index:
            with contextlib.ExitStack() as connections, ThreadPoolExecutor(1) as pool:
                connection = connections.enter_context(send_part(index, headers, body, 0))
                sent = pool.submit(connection.sendall, body)
                until(lambda: any(path.stat().st_size > 1_000_000 for path in existing(staging)))
                for worker in index.workers():
                    os.kill(worker, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    sent.result()
            with pkgstore.open(root, create=False) as store:
                assert list(store.list()) == []
            until(lambda index=index: index.get("/health").status == 200)
            assert index.files("killed") == {}
    with gunicorn(pkgstore_app(root), tmp_path / "log") as index:
        assert index.upload("killed-1.0.tar.gz", data).status == 200
        assert index.get(path_of(index.files("killed")["killed-1.0.tar.gz"])).body == data
        assert list(staging.iterdir()) == []


def existing(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if path.exists()]
    return []


# -- what the store refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (pkgstore.Denied, 403),
        (pkgstore.Full, 507),
        (pkgstore.QuotaExceeded, 507),
        (pkgstore.Unavailable, 503),
        (pkgstore.LockTimeout, 503),
        (pkgstore.InvalidKey, 400),
        (pkgstore.Corrupt, 400),
        (pkgstore.Unsupported, 501),
        (pkgstore.Misconfigured, 500),
    ],
)
def test_a_stores_error_becomes_a_status_and_one_line(error: type[pkgstore.StoreError], status: int) -> None:
    with pkgstore.open("memory://") as store:
        app = create_app(store, "-a", ".", "-P", ".")

        def failing(*_args: object, **_options: object) -> NoReturn:
            raise error("the medium said no: do something")

        store.publish = failing  # type: ignore[method-assign]
        headers, body = upload_form("failing-1.0.tar.gz", b"x")
        answer = call(app, "POST", "/", headers, body)
        assert answer.status == status
        assert message(answer) == "the medium said no: do something"
        assert ("Retry-After" in answer.headers) == (status == 503)
        assert "Traceback" not in answer.text


def test_a_store_for_reading_only_refuses_uploads(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with pkgstore.open(root) as store:
        store.publish("there/there-1.0.tar.gz", b"there")
    with gunicorn(pkgstore_app(f"file://{root}?readonly=true"), tmp_path / "log") as index:
        answer = index.upload("more-1.0.tar.gz", b"x")
        assert answer.status == 403
        assert "reading only" in message(answer)
        assert index.remove("there", "1.0").status == 403
        assert list(index.files("there")) == ["there-1.0.tar.gz"]


def test_a_full_medium_is_told_and_what_fits_is_taken(tmp_path: Path) -> None:
    with (
        needs.mounted("tmpfs", tmp_path / "small", "size=4m") as root,
        gunicorn(pkgstore_app(root), tmp_path / "log") as index,
    ):
        answer = index.upload("big-1.0.tar.gz", os.urandom(8_000_000))
        assert answer.status == 507
        assert "free some space" in message(answer)
        assert index.files("big") == {}
        assert index.upload("small-1.0.tar.gz", os.urandom(1_000_000)).status == 200


def test_a_full_folder_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pkgstore.open("memory://") as store:
        app = create_app(store, "-a", ".", "-P", ".")

        def failing(*_args: object, **_options: object) -> NoReturn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("pypiserver.bottle_wrapper.bottle.TemporaryFile", failing)
        headers, body = upload_form("big-1.0.tar.gz", os.urandom(300_000))
        answer = call(app, "POST", "/", headers, body)
        assert answer.status == 507
        assert "temporary files" in message(answer)


def test_a_medium_that_is_gone_is_told(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    with gunicorn(pkgstore_app(f"file://{root}?timeout=0"), tmp_path / "log", workers=1) as index:
        root.rename(tmp_path / "away")
        answer = index.upload("gone-1.0.tar.gz", b"x")
        assert answer.status == 503
        assert "is gone" in message(answer)
        assert int(answer.headers["Retry-After"]) > 0
        for path in ("/simple/", "/packages/gone/gone-1.0.tar.gz", "/simple/gone/"):
            assert index.get(path).status == 503
        (tmp_path / "away").rename(root)
        assert index.upload("gone-1.0.tar.gz", b"x").status == 200
