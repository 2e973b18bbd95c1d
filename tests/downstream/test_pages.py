"""What pypiserver shows: pages, redirects, JSON, search."""

from __future__ import annotations

import hashlib
import json
import xmlrpc.client
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.downstream.conftest import OPEN
from tests.packages import sdist, wheel, wheel_name
from tests.servers import path_of, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.downstream.conftest import Index

REDIRECTS = (301, 302, 303)


def test_the_welcome_page_counts_and_names_itself(start: Callable[..., Index]) -> None:
    index = start(*OPEN)
    assert "serving 0 packages" in index.get("/").text
    for version in ("1.0", "1.1"):
        assert index.upload(f"counted-{version}.tar.gz", b"x").status == 200
    for _ in range(6):
        assert "serving 2 packages" in index.get("/").text
    page = index.get("/", {"Host": "packages.example:8080"}).text
    assert "--index-url http://packages.example:8080/simple/" in page
    assert 'href="/packages/"' in page
    assert 'href="/simple/"' in page


def test_a_welcome_page_of_ones_own(start: Callable[..., Index], tmp_path: Path) -> None:
    template = tmp_path / "welcome.html"
    template.write_text("<p>{{URL}}|{{VERSION}}|{{NUMPKGS}}|{{PACKAGES}}|{{SIMPLE}}</p>")
    index = start(*OPEN, "--welcome", str(template))
    url, version, count, packages, simple = index.get("/", {"Host": "h"}).text.strip()[3:-4].split("|")
    assert (url, count, packages, simple) == ("http://h/", "0", "/packages/", "/simple/")
    assert version[0].isdigit()


def test_what_a_client_sends_is_escaped(index: Index) -> None:
    assert "<alert>" not in index.get("/?<alert>Red</alert>").text
    answer = index.remove("<alert>Red</alert>", "1.0")
    assert answer.status == 404
    assert "<alert>" not in answer.text
    assert "alert" in answer.text


@pytest.mark.parametrize("path", ["/favicon.ico", "/packages/absent-1.0.zip", "/simple/absent/", "/absent/json"])
def test_what_is_not_found(index: Index, path: str) -> None:
    assert index.get(path).status == 404


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/packages", "/packages/"),
        ("/simple", "/simple/"),
        ("/simple/foobar", "/simple/foobar/"),
        ("/simple/FooBar/", "/simple/foobar/"),
        ("/simple/Foo.Bar/", "/simple/foo-bar/"),
        ("/simple/foo_bar/", "/simple/foo-bar/"),
        ("/simple/foo--_.bar/", "/simple/foo-bar/"),
        ("/Foo_Bar/json", "/foo-bar/json"),
        ("/foobar", "/simple/foobar/"),
        ("/foobar/", "/simple/foobar/"),
    ],
)
def test_redirects(index: Index, path: str, to: str) -> None:
    answer = index.get(path)
    assert answer.status in REDIRECTS
    assert urlsplit(answer.headers["Location"]).path == to


def test_what_is_not_here_may_be_elsewhere(start: Callable[..., Index]) -> None:
    index = start(*OPEN, "--fallback-url", "http://elsewhere.invalid/simple")
    answer = index.get("/simple/absent/")
    assert answer.status in REDIRECTS
    assert answer.headers["Location"] == "http://elsewhere.invalid/simple/absent/"


def test_the_simple_pages(index: Index) -> None:
    names = [
        "paged-1.0.tar.gz",
        "paged-1.10.zip",
        "paged-1.9.zip",
        "pagedother-1.0.zip",
        "paged.dot-1.0.zip",
        "Paged-2.0.zip",
    ]
    for name in names:
        assert index.upload(name, name.encode()).status == 200
    links = index.files("paged")
    assert list(links) == ["paged-1.0.tar.gz", "paged-1.9.zip", "paged-1.10.zip", "Paged-2.0.zip"]
    for name, link in links.items():
        assert link.endswith(f"#sha256={hashlib.sha256(name.encode()).hexdigest()}")
        assert index.get(path_of(link)).body == name.encode()
    assert list(index.files("paged-dot")) == ["paged.dot-1.0.zip"]
    projects = [each for each in index.get("/simple/").links if "page" in each]
    assert projects == sorted(["paged", "pagedother", "paged-dot"])
    assert index.get("/simple/").links["paged"] == "paged/"


def test_spellings_of_a_name_are_one_project(index: Index) -> None:
    names = ["spelled-out-1.0.tar.gz", "spelled_out-1.0-py2.7.egg", wheel_name("spelled.out")]
    for name in names:
        assert index.upload(name, b"x").status == 200
    assert sorted(index.files("spelled-out")) == sorted(names)
    assert [each for each in index.get("/simple/").links if "spelled" in each] == ["spelled-out"]


def test_the_page_of_all_packages(index: Index) -> None:
    for name in ("all_two-1.0.tar.gz", "all-one-1.0.tar.gz"):
        assert index.upload(name, name.encode()).status == 200
    links = {text.rpartition("/")[2]: link for text, link in index.get("/packages/").links.items() if "all" in text}
    assert sorted(links) == ["all-one-1.0.tar.gz", "all_two-1.0.tar.gz"]
    for name, link in links.items():
        assert "#sha256=" in link
        assert index.get(path_of(link)).body == name.encode()


def test_folders_are_served_and_what_starts_with_a_dot_is_not(start: Callable[..., Index], tmp_path: Path) -> None:
    shown = {"flat-1.0.zip": b"flat", "sub/deeper/nested-1.0.zip": b"nested"}
    hidden = [".dot-1.0.zip", ".dir/inside-1.0.zip", "sub/.dot2-1.0.zip", "README.txt", ".htpasswd"]
    for name in [*shown, *hidden]:
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shown.get(name, b"hidden"))
    index = start(*OPEN, "--disable-fallback")
    assert sorted(index.get("/packages/").links) == sorted(shown)
    assert sorted(index.get("/simple/").links) == ["flat", "nested"]
    for name, data in shown.items():
        assert index.get(f"/packages/{name}").body == data
        project = name.rpartition("/")[2].partition("-")[0]
        assert path_of(index.files(project)[name.rpartition("/")[2]]) == f"/packages/{name}"
    for name in hidden:
        assert index.get(f"/packages/{name}").status == 404
    for project in ("dot", "inside", "dot2", "readme", "readme-txt"):
        assert index.files(project) == {}


def test_a_file_put_into_the_folder_appears_and_disappears(index: Index) -> None:
    index.put("byhand-1.0.zip", b"by hand")
    assert index.get("/packages/byhand-1.0.zip").body == b"by hand"
    # Ours may take two seconds to list a file that was put outside its project's folder.
    until(lambda: all("byhand-1.0.zip" in index.files("byhand") for _ in range(6)), within=20 if index.ours else 1)
    (index.root / "byhand-1.0.zip").unlink()
    for _ in range(6):
        assert index.files("byhand") == {}
        assert index.get("/packages/byhand-1.0.zip").status == 404


def test_json(index: Index) -> None:
    for name in ("jsonic-1.0.zip", "jsonic-1.10.zip", "jsonic-1.10.tar.gz", "jsonicX-2.0.zip"):
        assert index.upload(name, b"x").status == 200
    answer = index.get("/jsonic/json")
    assert answer.headers["Content-Type"] == "application/json"
    document = json.loads(answer.text)
    assert document["info"] == {"version": "1.10"}
    assert {version: len(files) for version, files in document["releases"].items()} == {"1.0": 1, "1.10": 2}
    for files in document["releases"].values():
        for file in files:
            assert file["url"].startswith(index.url)
            assert index.get(urlsplit(file["url"]).path).body == b"x"


def test_search(index: Index) -> None:
    for name in ("findme-1.0.tar.gz", "findme-too-2.0.1.tar.gz", "other-3.0.tar.gz"):
        assert index.upload(name, b"x").status == 200
    query = "<methodCall><methodName>search</methodName><params><string>findme</string></params></methodCall>"
    found = xmlrpc.client.loads(index.request("POST", "/RPC2", {"Content-Type": "text/xml"}, query.encode()).text)[0][0]
    assert sorted((each["name"], each["version"]) for each in found) == [("findme", "1.0"), ("findme-too", "2.0.1")]


@pytest.mark.parametrize("query", ["<not-xml", '<!DOCTYPE x [<!ENTITY a "b">]><methodCall>&a;</methodCall>'])
def test_a_search_that_is_no_xml_or_not_safe(index: Index, query: str) -> None:
    assert index.request("POST", "/RPC2", {"Content-Type": "text/xml"}, query.encode()).status == 400


@pytest.mark.parametrize("algorithm", ["md5", "sha512", "off"])
def test_hash_algorithms(start: Callable[..., Index], algorithm: str) -> None:
    index = start(*OPEN, "--hash-algo", algorithm)
    data = sdist("hashed")
    assert index.upload("hashed-1.0.tar.gz", data).status == 200
    fragment = index.files("hashed")["hashed-1.0.tar.gz"].partition("#")[2]
    assert fragment == ("" if algorithm == "off" else f"{algorithm}={hashlib.new(algorithm, data).hexdigest()}")


def test_behind_a_proxy(index: Index) -> None:
    assert index.upload("proxied-1.0.zip", b"x").status == 200
    headers = {"X-Forwarded-Host": "outside.example/pypi/"}
    assert 'href="/pypi/packages/"' in index.get("/", headers).text
    (link,) = index.get("/simple/proxied/", headers).links.values()
    assert link.startswith("/pypi/packages/")


def test_below_a_path(start: Callable[..., Index]) -> None:
    index = start(*OPEN, "--server-base-url", "/pypi", ready="/pypi/health")
    assert index.get("/health").status == 404
    index.put("based/based-1.0.zip", b"x")
    (link,) = index.get("/pypi/simple/based/").links.values()
    assert path_of(link) == "/pypi/packages/based/based-1.0.zip"
    assert index.get(path_of(link)).body == b"x"


def test_health(index: Index, start: Callable[..., Index]) -> None:
    assert (index.get("/health").status, index.get("/health").text) == (200, "Ok")
    other = start(*OPEN, "--health-endpoint", "/alive", ready="/alive")
    assert other.get("/alive").text == "Ok"


# -- downloads --------------------------------------------------------------------------------------------------------


def test_downloads(index: Index) -> None:
    data = wheel("loaded", payload=1_000_000)
    assert index.upload(wheel_name("loaded"), data).status == 200
    path = path_of(index.files("loaded")[wheel_name("loaded")])
    whole = index.get(path)
    assert (whole.status, whole.body) == (200, data)
    assert whole.headers["Content-Type"] == "application/octet-stream"
    assert whole.headers["Content-Length"] == str(len(data))
    assert "Last-Modified" in whole.headers
    assert "Content-Encoding" not in whole.headers
    head = index.request("HEAD", path)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
    part = index.get(path, {"Range": "bytes=100-199"})
    assert (part.status, part.body) == (206, data[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(data)}"
    assert index.get(path, {"Range": "bytes=-10"}).body == data[-10:]
    assert index.get(path, {"Range": f"bytes={len(data)}-"}).status == 416
    assert index.get(path, {"If-Modified-Since": whole.headers["Last-Modified"]}).status == 304


def test_how_long_downloads_may_be_kept(index: Index, start: Callable[..., Index]) -> None:
    other = start(*OPEN, "--cache-control", "86400")
    for each, expected in (
        (index, "public, max-age=31536000, immutable" if index.ours else None),
        (other, "public, max-age=86400"),
    ):
        each.put("kept/kept-1.0.zip", b"x")
        # Different: a file that cannot be replaced may be kept for ever, unless the option says otherwise.
        assert each.get("/packages/kept/kept-1.0.zip").headers.get("Cache-Control") == expected


def test_the_type_of_a_compressed_file(index: Index) -> None:
    index.put("packed/packed-1.0.tar.gz", sdist("packed"))
    kind = index.get("/packages/packed/packed-1.0.tar.gz").headers["Content-Type"]
    # Different: the bytes are those of a gzip file, and no tar file.
    assert kind == ("application/gzip" if index.ours else "application/x-tar")


@pytest.mark.parametrize(
    "path", ["../secret-1.0.zip", "%2e%2e/secret-1.0.zip", "..%2fsecret-1.0.zip", "x/../../secret-1.0.zip"]
)
def test_nothing_outside_is_served(index: Index, path: str) -> None:
    (index.root.parent / "secret-1.0.zip").write_bytes(b"SECRET")
    answer = index.get(f"/packages/{path}")
    assert answer.status in (403, 404)
    assert b"SECRET" not in answer.body
