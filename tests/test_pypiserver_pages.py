"""The index's pages: complete, current, and without hashing or walking the store for each of them."""

from __future__ import annotations

import hashlib
import json
import threading
import xmlrpc.client
from typing import TYPE_CHECKING

import pytest

import pkgstore
from tests.packages import form, sdist, wheel, wheel_name
from tests.servers import call, create_app, gunicorn, key_of, path_of, pkgstore_app, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Answer, Server

OPEN = ("-a", ".", "-P", ".")
PLACES = [
    "foo-bar-0.1.tar.gz",
    "legacy/foo_bar-0.2-py3-none-any.whl",
    "legacy/deep/er/Foo.Bar-0.3.zip",
    "Foo_Bar/foo_bar-0.4.tar.gz",
    "other/foo-bar-0.5.tar.gz",
    "foo-bar/foo_bar-0.6.tar.gz",
    "foo-bar/archive/foo_bar-0.7.tar.gz",
    "with space/foo_bar-0.8.tar.gz",
    "50%23/foo_bar-0.9.tar.gz",
    "größe/foo_bar-1.0.tar.gz",
    "foo-bar/foo_bar-1.1+local.2.tar.gz",
]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(root: Path, key: str, data: bytes) -> None:
    """Put a file on the medium by hand."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def page(app: object, project: str) -> Answer:
    return call(app, "GET", f"/simple/{project}/")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for key in PLACES:
        put(root, key, key.encode())
    for key in (
        ".hidden-1.0.zip",
        ".git/foo_bar-9.0.zip",
        "foo-bar/.old/foo_bar-9.1.zip",
        "foo-bar/README.md",
        ".htpasswd",
    ):
        put(root, key, b"hidden")
    return root


@pytest.fixture(scope="module")
def index(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gunicorn(pkgstore_app(root, "--disable-fallback"), tmp_path_factory.mktemp("index") / "log") as server:
        yield server


def test_files_are_found_wherever_they_lie(index: Server) -> None:
    links = index.files("foo-bar")
    assert sorted(key_of(link) for link in links.values()) == sorted(PLACES)
    assert index.get("/simple/foo-bar/").text.count("<a ") == len(PLACES)
    for link in links.values():
        answer = index.get(path_of(link))
        assert answer.body == key_of(link).encode()
        assert link.endswith(f"#sha256={sha256(answer.body)}")


def test_the_other_pages_show_the_same_files(index: Server) -> None:
    listed = index.get("/packages/").links.values()
    assert sorted(key_of(link) for link in listed) == sorted(PLACES)
    for link in listed:
        assert index.get(path_of(link)).status == 200
    assert index.get("/simple/").links == {"foo-bar": "foo-bar/"}
    assert f"serving {len(PLACES)} packages" in index.get("/").text
    releases = json.loads(index.get("/foo-bar/json").text)["releases"]
    assert sum(len(files) for files in releases.values()) == len(PLACES)
    search = xmlrpc.client.dumps(({"name": "foo"},), "search").encode()
    found = xmlrpc.client.loads(index.request("POST", "/RPC2", {"Content-Type": "text/xml"}, search).text)[0][0]
    assert len(found) == sum("foo" in key.rpartition("/")[2] for key in PLACES)


@pytest.mark.parametrize(
    "key", ["late-1.0.zip", "late/late-1.0.zip", "sub/late-1.0.zip", "Late/late-1.0.zip", "late/x/late-1.0.zip"]
)
def test_a_file_put_there_by_hand_appears(tmp_path: Path, key: str) -> None:
    with gunicorn(pkgstore_app(tmp_path / "store", "--disable-fallback"), tmp_path / "log", workers=1) as index:
        assert index.files("late") == {}
        put(tmp_path / "store", key, b"late")
        if key.startswith("late/"):
            assert list(index.files("late")) == ["late-1.0.zip"]
        until(lambda: list(index.files("late")) == ["late-1.0.zip"], within=15)
        (tmp_path / "store" / key).unlink()
        assert index.files("late") == {}


def test_files_put_there_by_hand_are_removed_and_their_names_free_again(tmp_path: Path) -> None:
    root = tmp_path / "store"
    for key in ("gone-1.0.zip", "sub/gone-1.0.tar.gz", "gone/gone-1.0-py3-none-any.whl", "gone-1.1.zip"):
        put(root, key, b"x")
    with gunicorn(pkgstore_app(root, "--disable-fallback"), tmp_path / "log") as index:
        assert index.remove("gone", "2.0").status == 404
        assert index.remove("gone", "1.0").status == 200
        for _ in range(4):
            assert list(index.files("gone")) == ["gone-1.1.zip"]
            assert index.remove("gone", "1.0").status == 404
        assert index.upload("gone-1.0.zip", b"new").status == 200
        assert sorted(index.files("gone")) == ["gone-1.0.zip", "gone-1.1.zip"]
    assert not (root / "sub").exists()


def test_a_removal_names_the_project_as_its_files_do(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, *OPEN)
        store.publish("a-b/a_b-1.0.zip", b"x")
        for name, status in (("a-b", 404), ("a_b", 200)):
            headers, body = form({":action": "remove_pkg", "name": name, "version": "1.0"})
            assert call(app, "POST", "/", headers, body).status == status


def test_a_file_of_another_project_in_a_projects_folder(tmp_path: Path) -> None:
    put(tmp_path, "one/one-1.0.zip", b"one")
    put(tmp_path, "one/two-1.0.zip", b"two")
    app = create_app(tmp_path, *OPEN)
    for project, key in (("one", "one/one-1.0.zip"), ("two", "one/two-1.0.zip")):
        assert [key_of(link) for link in page(app, project).links.values()] == [key]


def test_many_projects_whose_names_begin_alike(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        app = create_app(store, *OPEN, "--disable-fallback")
        for project in ("pip", "pip-tools", "pip2", "p"):
            store.publish(f"{project}/{wheel_name(project)}", wheel(project))
        for project in ("pip", "pip-tools", "pip2", "p"):
            assert list(page(app, project).links) == [wheel_name(project)]


@pytest.mark.parametrize(
    "project", ["%2e%2e", "..", "a:b", "con", "aux", "x" * 300, "%00", "%ff", "-", "%C3%A9", "%2f", "a%20b", "%3Ca%3E"]
)
def test_odd_projects_are_not_found(index: Server, project: str) -> None:
    answer = index.get(f"/simple/{project}/")
    assert answer.status in (301, 302, 303, 400, 404)
    assert "Traceback" not in answer.text


# -- digests ----------------------------------------------------------------------------------------------------------


def test_a_recorded_digest_is_not_computed_again(tmp_path: Path) -> None:
    """What is shown for a file whose bytes were changed since is still what was recorded."""
    data = b"x" * 1000
    with gunicorn(pkgstore_app(tmp_path / "store"), tmp_path / "log") as index:
        assert index.upload("known-1.0.zip", data).status == 200
        with (tmp_path / "store" / "known" / "known-1.0.zip").open("r+b") as file:
            file.write(b"y")
        assert index.files("known")["known-1.0.zip"].endswith(f"#sha256={sha256(data)}")
        assert f"#sha256={sha256(data)}" in index.get("/packages/").text


def test_a_file_without_digest_is_read_once_for_all_processes(tmp_path: Path) -> None:
    put(tmp_path, "hand-1.0.zip", b"by hand")
    with pkgstore.open(tmp_path) as store:
        assert sha256(b"by hand") in page(create_app(store, *OPEN), "hand").text
        assert store.stat("hand-1.0.zip").digests["sha256"] == sha256(b"by hand")
    with pkgstore.open(tmp_path) as again:
        forbid_reading(again)
        assert sha256(b"by hand") in page(create_app(again, *OPEN), "hand").text


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "sha512"])
def test_a_digest_that_cannot_be_recorded_is_remembered(tmp_path: Path, algorithm: str) -> None:
    put(tmp_path, "hand-1.0.zip", b"by hand")
    pkgstore.open(tmp_path).close()
    with pkgstore.open(tmp_path, readonly=True) as store:
        app = create_app(store, *OPEN, "--hash-algo", algorithm)
        fragment = f"#{algorithm}={hashlib.new(algorithm, b'by hand').hexdigest()}"
        assert fragment in page(app, "hand").text
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "open", reading_is_forbidden)
            assert fragment in page(app, "hand").text
        put(tmp_path, "hand-1.0.zip", b"another version")
        assert hashlib.new(algorithm, b"another version").hexdigest() in page(app, "hand").text


@pytest.mark.parametrize("algorithm", ["md5", "blake2b"])
def test_digests_of_the_algorithm_asked_for_are_recorded_by_uploads(tmp_path: Path, algorithm: str) -> None:
    data = sdist("other")
    with gunicorn(pkgstore_app(tmp_path / "store", "--hash-algo", algorithm), tmp_path / "log") as index:
        assert index.upload("other-1.0.tar.gz", data).status == 200
        digest = hashlib.new(algorithm, data).hexdigest()
        assert index.files("other")["other-1.0.tar.gz"].endswith(f"#{algorithm}={digest}")
    with pkgstore.open(tmp_path / "store") as store:
        assert store.stat("other/other-1.0.tar.gz").digests == {"sha256": sha256(data), algorithm: digest}
        forbid_reading(store)
        app = create_app(store, *OPEN, "--hash-algo", algorithm)
        assert digest in page(app, "other").text


def test_no_digests_when_they_are_off(tmp_path: Path) -> None:
    with pkgstore.open(tmp_path) as store:
        store.publish("plain/plain-1.0.zip", b"x")
        put(tmp_path, "plain-1.1.zip", b"y")
        forbid_reading(store)
        links = page(create_app(store, *OPEN, "--hash-algo", "off"), "plain").links
        assert links == {
            name: f"/packages/{key}" for key in ("plain/plain-1.0.zip", "plain-1.1.zip") if (name := key[-13:])
        }


def test_a_file_that_goes_away_meanwhile_is_shown_without_digest(tmp_path: Path) -> None:
    put(tmp_path, "fleeting/fleeting-1.0.zip", b"x")
    with pkgstore.open(tmp_path) as store:

        def gone(key: str) -> pkgstore.Blob:
            raise pkgstore.NotFound("gone", key=key)

        store.adopt = gone  # type: ignore[method-assign]
        assert page(create_app(store, *OPEN), "fleeting").links == {
            "fleeting-1.0.zip": "/packages/fleeting/fleeting-1.0.zip"
        }


def reading_is_forbidden(key: str, **_options: object) -> pkgstore.Reader:
    raise AssertionError(f"{key} was read")


def forbid_reading(store: pkgstore.Store) -> None:
    store.open = reading_is_forbidden  # type: ignore[method-assign]


# -- what a page costs ------------------------------------------------------------------------------------------------


def test_pages_do_not_walk_the_store_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkgstore.integrations._pypi_index._NOT_OFTENER", 3600.0)
    with pkgstore.open(tmp_path) as store:
        for number in range(20):
            store.publish(f"p{number}/p{number}-1.0.zip", b"x")
        app, walks, listed = create_app(store, *OPEN), [], store.list

        def counting(prefix: str = "") -> Iterator[pkgstore.Blob]:
            walks.append(prefix)
            return listed(prefix)

        store.list = counting  # type: ignore[method-assign]
        for number in range(20):
            assert page(app, f"p{number}").status == 200
        assert walks.count("") == 1
        assert len(walks) == 21


def test_pages_wait_for_the_first_listing_and_tell_when_it_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "slow-1.0.zip", b"x")
    with pkgstore.open(tmp_path) as store:
        app, listed, release = create_app(store, *OPEN), store.list, threading.Event()

        def slow(prefix: str = "") -> Iterator[pkgstore.Blob]:
            if not prefix:
                assert release.wait(60)
            return listed(prefix)

        store.list = slow  # type: ignore[method-assign]
        with monkeypatch.context() as patch:
            patch.setattr("pkgstore.integrations._pypi_index._LONGEST_WAIT", 0.01)
            answer = page(app, "slow")
            # No redirect to another index meanwhile, which would let a stranger's package in.
            assert answer.status == 503
            assert "try again" in answer.text
            assert "Retry-After" in answer.headers
        release.set()
        assert list(page(app, "slow").links) == ["slow-1.0.zip"]


def test_a_listing_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    put(tmp_path, "failing-1.0.zip", b"x")
    with pkgstore.open(tmp_path) as store:
        app, listed = create_app(store, *OPEN), store.list

        def failing(prefix: str = "") -> Iterator[pkgstore.Blob]:
            if not prefix:
                raise pkgstore.Denied("the folder cannot be read")
            return listed(prefix)

        store.list = failing  # type: ignore[method-assign]
        assert page(app, "failing").status == 403
        store.list = listed  # type: ignore[method-assign]
        assert list(page(app, "failing").links) == ["failing-1.0.zip"]
