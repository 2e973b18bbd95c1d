"""Downloads through the index: one look-up, the right bytes or none, and what HTTP caches need."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import socket
from dataclasses import replace
from email.utils import formatdate
from http.client import IncompleteRead
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

import pkgstore
from tests.packages import sdist, wheel, wheel_name
from tests.servers import call, create_app, gunicorn, peak_memory, pkgstore_app, serve, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

NAME = wheel_name("big")
PATH = f"/packages/big/{NAME}"
DATA = wheel("big", payload=3_000_000)
ETAG = f'"{hashlib.sha256(DATA).hexdigest()}"'
MANY_DIGITS = "9" * 5000
FOREVER = "public, max-age=31536000, immutable"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    with pkgstore.open(root) as store:
        store.publish(f"big/{NAME}", DATA)
        store.publish("empty/empty-1.0.zip", b"")
    return root


@pytest.fixture(scope="module")
def index(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gunicorn(pkgstore_app(root), tmp_path_factory.mktemp("index") / "log") as server:
        yield server


def test_a_download_carries_what_caches_need(index: Server, root: Path) -> None:
    answer = index.get(PATH)
    assert answer.status == 200
    assert answer.body == DATA
    written = (root / "big" / NAME).stat().st_mtime
    expected = {
        "Content-Length": str(len(DATA)),
        "Content-Type": "application/octet-stream",
        "ETag": ETAG,
        "Last-Modified": formatdate(int(written), usegmt=True),
        "Accept-Ranges": "bytes",
        "Cache-Control": FOREVER,
    }
    assert {name: answer.headers[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("typed-1.0.tar.gz", "application/gzip"),
        ("typed-1.0.tgz", "application/gzip"),
        ("typed-1.0.tar.bz2", "application/x-bzip2"),
        ("typed-1.0.tar.xz", "application/x-xz"),
        ("typed-1.0.zip", "application/zip"),
        ("typed-1.0-py3-none-any.whl", "application/octet-stream"),
        ("typed-1.0.tar.gz.asc", "text/plain"),
    ],
)
def test_content_types(index: Server, root: Path, name: str, kind: str) -> None:
    (root / "typed").mkdir(exist_ok=True)
    (root / "typed" / name).write_bytes(sdist("typed"))
    answer = index.get(f"/packages/typed/{name}")
    assert answer.body == sdist("typed")
    assert answer.headers["Content-Type"].partition(";")[0] == kind
    assert "Content-Encoding" not in answer.headers


def test_head_is_get_without_the_body(index: Server) -> None:
    got, head = index.get(PATH), index.request("HEAD", PATH)
    assert (head.status, head.body) == (200, b"")
    names = ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Accept-Ranges", "Cache-Control")
    assert [head.headers[name] for name in names] == [got.headers[name] for name in names]
    assert index.request("HEAD", "/packages/big/absent-1.0.zip").status == 404


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000000-2999999", 1_000_000, 3_000_000),
        (f"bytes={len(DATA) - 5}-", len(DATA) - 5, len(DATA)),
        ("bytes=-22", len(DATA) - 22, len(DATA)),
        ("bytes=-99999999", 0, len(DATA)),
        ("bytes=5-99999999", 5, len(DATA)),
        pytest.param(f"bytes=5-{MANY_DIGITS}", 5, len(DATA), id="many digits"),
        pytest.param(f"bytes=-{MANY_DIGITS}", 0, len(DATA), id="many digits of a suffix"),
        pytest.param(f"bytes={'5'.zfill(5000)}-9", 5, 10, id="many zeros"),
    ],
)
def test_a_range_is_served(index: Server, asked: str, start: int, stop: int) -> None:
    answer = index.get(PATH, {"Range": asked})
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.body == DATA[start:stop]


def test_random_ranges_make_up_the_file(index: Server) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    cuts = sorted(random.Random(seed).sample(range(1, len(DATA)), 12))
    edges = [0, *cuts, len(DATA)]
    parts = [
        index.get(PATH, {"Range": f"bytes={start}-{stop - 1}", "If-Range": ETAG})
        for start, stop in itertools.pairwise(edges)
    ]
    assert {part.status for part in parts} == {206}
    assert b"".join(part.body for part in parts) == DATA


@pytest.mark.parametrize(
    "asked",
    [
        f"bytes={len(DATA)}-",
        f"bytes={len(DATA)}-{len(DATA) + 5}",
        "bytes=-0",
        pytest.param(f"bytes={MANY_DIGITS}-", id="many digits"),
        pytest.param(f"bytes={MANY_DIGITS[:3000]}-{MANY_DIGITS}", id="twice many digits"),
    ],
)
def test_a_range_outside_is_not_satisfiable(index: Server, asked: str) -> None:
    answer = index.get(PATH, {"Range": asked})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize("asked", ["bytes=1-2,5-6", "bytes=-", "bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=", "²-3"])
def test_a_range_that_is_not_understood_gets_the_whole(index: Server, asked: str) -> None:
    answer = index.get(PATH, {"Range": asked})
    assert (answer.status, answer.body) == (200, DATA)


def test_a_range_of_another_version_gets_the_whole(index: Server) -> None:
    modified = index.get(PATH).headers["Last-Modified"]
    for condition, status in ((ETAG, 206), (modified, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("nonsense", 200)):
        answer = index.get(PATH, {"Range": "bytes=0-9", "If-Range": condition})
        assert answer.status == status, condition
        assert answer.body == (DATA[:10] if status == 206 else DATA)


def test_an_empty_file(index: Server) -> None:
    answer = index.get("/packages/empty/empty-1.0.zip")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
    assert index.get("/packages/empty/empty-1.0.zip", {"Range": "bytes=0-"}).status == 416


def test_what_the_client_has_is_not_sent_again(index: Server) -> None:
    modified = index.get(PATH).headers["Last-Modified"]
    for headers, status in (
        ({"If-None-Match": ETAG}, 304),
        ({"If-None-Match": f'"other", W/{ETAG}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": "Thu, 01 Jan 1998 00:00:00 GMT"}, 200),
        ({"If-Modified-Since": "nonsense"}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": modified}, 200),
        ({"If-None-Match": ETAG, "Range": "bytes=0-9"}, 304),
    ):
        for method in ("GET", "HEAD"):
            answer = index.request(method, PATH, headers)
            assert answer.status == status, headers
            assert answer.headers["ETag"] == ETAG
            assert answer.headers["Cache-Control"] == FOREVER
            assert answer.body == (DATA if (method, status) == ("GET", 200) else b"")


@pytest.mark.parametrize("mtime", [3e11, -1e11, float(1 << 62)])
def test_a_time_that_http_cannot_write_is_left_out(mtime: float) -> None:
    """It is outside the years 1 to 9999, as some media allow."""
    path, date = "/packages/old/old-1.0.zip", "Fri, 20 Nov 2026 00:00:00 GMT"
    with pkgstore.open("memory://") as store:
        store.publish("old/old-1.0.zip", b"0123")
        app, driver = create_app(store, "-a", ".", "-P", "."), store.driver
        stat, open_ = driver.stat, driver.open

        def opened(key: str, *args: int, **options: str | None) -> tuple[pkgstore.Blob, object]:
            blob, stream = open_(key, *args, **options)  # type: ignore[arg-type]
            return replace(blob, mtime=mtime), stream

        driver.stat = lambda key: replace(stat(key), mtime=mtime)  # type: ignore[method-assign]
        driver.open = opened  # type: ignore[method-assign, assignment]
        for method, headers, status, body in (
            ("GET", {}, 200, b"0123"),
            ("HEAD", {}, 200, b""),
            ("GET", {"If-Modified-Since": date}, 200, b"0123"),
            ("GET", {"Range": "bytes=1-2"}, 206, b"12"),
            ("GET", {"Range": "bytes=1-2", "If-Range": date}, 200, b"0123"),
        ):
            answer = call(app, method, path, headers)
            assert (answer.status, answer.body) == (status, body)
            assert "Last-Modified" not in answer.headers
            assert "ETag" in answer.headers
        assert list(call(app, "GET", "/simple/old/").links) == ["old-1.0.zip"]


def test_the_tag_of_a_version_changes_with_it(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, "-a", ".", "-P", ".", "--overwrite")
        tags = set()
        for data in (b"one", b"two"):
            store.publish("tag/tag-1.0.zip", data, replace=True)
            tags.add(call(app, "GET", "/packages/tag/tag-1.0.zip").headers["ETag"])
        (tmp_path / "tag" / "hand-1.0.zip").write_bytes(b"by hand")
        tags.add(call(app, "GET", "/packages/tag/hand-1.0.zip").headers["ETag"])
        assert len(tags) == 3
        assert all(re.fullmatch(r'"[!#-~]+"', tag) for tag in tags)


def test_cache_control(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish("age/age-1.0.zip", b"x")
        for arguments, expected in (
            ((), FOREVER),
            (("--overwrite",), "public, no-cache"),
            (("--cache-control", "86400"), "public, max-age=86400"),
            (("--overwrite", "--cache-control", "60"), "public, max-age=60"),
        ):
            app = create_app(store, "-a", ".", "-P", ".", *arguments)
            assert call(app, "GET", "/packages/age/age-1.0.zip").headers["Cache-Control"] == expected
        app = create_app(store, "-a", "download", "-P", "x", auther=lambda _user, _password: True)
        answer = call(app, "GET", "/packages/age/age-1.0.zip", {"Authorization": "Basic YTph"})
        assert answer.headers["Cache-Control"] == FOREVER.replace("public", "private")


def test_a_download_asks_for_a_password_where_it_should(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish("closed/closed-1.0.zip", b"x")
        app = create_app(store, "-a", "download", "-P", "x", auther=lambda user, _password: user == "a")
        for header, status in ({}, 401), ({"Authorization": "Basic YTph"}, 200), ({"Authorization": "Basic Yjph"}, 403):
            for path in ("/packages/closed/closed-1.0.zip", "/packages/closed/absent-1.0.zip"):
                answer = call(app, "GET", path, header)
                assert answer.status == (404 if status == 200 and "absent" in path else status)
                assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_a_download_lists_nothing(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish("one/one-1.0.zip", b"x")
        (tmp_path / "two-1.0.zip").write_bytes(b"y")
        app = create_app(store, "-a", ".", "-P", ".")

        def failing(prefix: str = "") -> NoReturn:
            raise AssertionError(f"listed {prefix!r}")

        store.list = failing  # type: ignore[method-assign, assignment]
        assert call(app, "GET", "/packages/one/one-1.0.zip").body == b"x"
        assert call(app, "GET", "/packages/two-1.0.zip").body == b"y"
        assert call(app, "GET", "/packages/three-1.0.zip").status == 404


# -- what is not served -----------------------------------------------------------------------------------------------


def test_nothing_outside_the_store_is_served(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / "in-1.0.zip").write_bytes(b"inside")
    (tmp_path / "out-1.0.zip").write_bytes(b"SECRET")
    (root / "link-1.0.zip").symlink_to(tmp_path / "out-1.0.zip")
    (root / "linked").symlink_to(tmp_path)
    with gunicorn(pkgstore_app(root), tmp_path / "log", workers=1) as index:
        assert index.get("/packages/in-1.0.zip").body == b"inside"
        for path in (
            "../out-1.0.zip",
            "%2e%2e/out-1.0.zip",
            "..%2fout-1.0.zip",
            "%2e%2e%2fout-1.0.zip",
            "..%5cout-1.0.zip",
            "x/../../out-1.0.zip",
            "x/%2e%2e/%2e%2e/out-1.0.zip",
            f"{tmp_path}/out-1.0.zip",
            f"%2f{tmp_path}/out-1.0.zip",
            "in-1.0.zip/../../out-1.0.zip",
            "in-1.0.zip%00",
            "./in-1.0.zip",
            "/in-1.0.zip",
            "",
        ):
            answer = index.get(f"/packages/{path}")
            assert b"SECRET" not in answer.body
            assert (answer.status == 404) or (path == "" and answer.status == 200), path
        for path in ("link-1.0.zip", "linked/out-1.0.zip"):
            answer = index.get(f"/packages/{path}")
            assert answer.status == 403
            assert b"SECRET" not in answer.body
        assert "link-1.0.zip" not in index.get("/packages/").text


@pytest.mark.parametrize(
    "key",
    [".htpasswd", ".pkgstore/store.json", ".pkgstore/x-1.0.zip", ".dot-1.0.zip", ".dir/x-1.0.zip", "a/.b/x-1.0.zip",
     "README.md", "sub/notes.txt", "big"],
)  # fmt: skip
def test_what_is_not_listed_is_not_served(index: Server, root: Path, key: str) -> None:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"not for clients")
    assert index.get(f"/packages/{key}").status == 404
    assert index.request("HEAD", f"/packages/{key}").status == 404
    assert key not in index.get("/packages/").links


# -- what goes wrong on the way ---------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    """Change one byte of a file, as a bad disk does: neither its size nor its time tells."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("server", ["gunicorn", "threaded gunicorn", "auto", "wsgiref"])
def test_a_damaged_file_is_never_sent_whole(tmp_path: Path, server: str) -> None:
    root = tmp_path / "store"
    with pkgstore.open(root) as store:
        for name, size in (("small", 1000), ("large", 3_000_000)):
            store.publish(f"bad/{name}-1.0.zip", os.urandom(size))
            flip(root / "bad" / f"{name}-1.0.zip", size // 2)
    log = tmp_path / "log"
    options = ["-a", ".", "-P", ".", "--server", server]
    context = {
        "gunicorn": lambda: gunicorn(pkgstore_app(root), log),
        "threaded gunicorn": lambda: gunicorn(pkgstore_app(root), log, "--threads", "4"),
    }.get(server, lambda: serve(root, log, *options))
    with context() as index:
        answer = index.get("/packages/bad/small-1.0.zip")
        assert answer.status == 500
        assert "sha256" in answer.text
        assert "Traceback" not in answer.text
        with pytest.raises(IncompleteRead):
            index.get("/packages/bad/large-1.0.zip")
        assert index.get("/health").status == 200


def open_files(worker: int) -> int:
    """Return how many blobs a worker has open."""
    count = 0
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        try:
            count += "-1.0" in str(entry.readlink())
        except FileNotFoundError:
            continue
    return count


@pytest.mark.parametrize("options", [(), ("--threads", "4")])
def test_a_client_that_goes_away_leaves_no_file_open(tmp_path: Path, options: tuple[str, ...]) -> None:
    root = tmp_path / "store"
    with pkgstore.open(root) as store:
        store.publish("long/long-1.0.zip", os.urandom(30_000_000))
    with gunicorn(pkgstore_app(root), tmp_path / "log", *options, workers=1) as index:
        (worker,) = index.workers()
        for header in ("", "Range: bytes=10-\r\n"):
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", index.port), timeout=60) as connection:
                    connection.sendall(f"GET /packages/long/long-1.0.zip HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
                    assert connection.recv(1000)
                    until(lambda: open_files(worker) == 1)
                until(lambda: open_files(worker) == 0)
        for headers in ({"Range": "bytes=30000000-"}, {"If-None-Match": "*"}, {"Range": "bytes=1-2"}):
            assert index.get("/packages/long/long-1.0.zip", headers).status in (206, 304, 416)
            until(lambda: open_files(worker) == 0)
        assert index.request("HEAD", "/packages/long/long-1.0.zip").status == 200
        until(lambda: open_files(worker) == 0)


def test_a_large_download_takes_little_memory(tmp_path: Path) -> None:
    root = tmp_path / "store"
    size = 256 << 20
    with pkgstore.open(root) as store:
        store.publish("huge/huge-1.0.zip", bytes(size))
    with gunicorn(pkgstore_app(root), tmp_path / "log", workers=1) as index:
        (worker,) = index.workers()
        assert index.request("HEAD", "/packages/huge/huge-1.0.zip").status == 200
        before = peak_memory(worker)
        connection = index.connect()
        connection.request("GET", "/packages/huge/huge-1.0.zip")
        response = connection.getresponse()
        received = 0
        while chunk := response.read(1 << 20):
            received += len(chunk)
        assert received == size
        assert peak_memory(worker) - before < 32 << 20
        connection.close()
