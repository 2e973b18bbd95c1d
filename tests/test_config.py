"""URLs, plain paths, options and variables."""

from pathlib import Path

import pytest

import pkgstore
from pkgstore import Misconfigured, config


@pytest.mark.parametrize(
    ("url", "scheme", "netloc", "path"),
    [
        ("file:///srv/packages", "file", "", "/srv/packages"),
        ("file:///srv/my%20packages/%23", "file", "", "/srv/my packages/#"),
        ("/srv/packages", "file", "", "/srv/packages"),
        ("/srv/odd?name#here%20", "file", "", "/srv/odd?name#here%20"),
        (Path("/srv/packages"), "file", "", "/srv/packages"),
        ("memory://name", "memory", "name", ""),
    ],
)
def test_split_url(url: str | Path, scheme: str, netloc: str, path: str) -> None:
    parts, options = config.split_url(url)
    assert (parts.scheme, parts.netloc, parts.path, options) == (scheme, netloc, path, {})


def test_relative_paths_and_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home-of-nobody")
    assert config.split_url("packages")[0].path == str(tmp_path / "packages")
    assert config.split_url("~/packages")[0].path == "/home-of-nobody/packages"


def test_variables_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "ann")
    monkeypatch.delenv("NOBODY", raising=False)
    assert config.split_url("file:///storage/${WHO}/x")[0].path == "/storage/ann/x"
    assert config.split_url("/storage/${WHO}")[0].path == "/storage/ann"
    with pytest.raises(Misconfigured, match="'NOBODY', which is not set"):
        config.split_url("/storage/${NOBODY}")


def test_options_of_the_query() -> None:
    assert config.split_url("file:///srv?readonly=true&timeout=5")[1] == {"readonly": "true", "timeout": "5"}


@pytest.mark.parametrize(
    "url",
    ["", "file:///srv?readonly", "file:///srv?timeout=1&timeout=2", "file:///srv#part", "file://host/srv", "file:srv"],
)
def test_urls_that_cannot_work(url: str) -> None:
    with pytest.raises(Misconfigured):
        pkgstore.open(url, create=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"raedonly": True}, "there is no option 'raedonly' here: did you mean 'readonly'?"),
        (
            {"colour": "red"},
            (
                "there is no option 'colour' here: known are cache, cache_negative, cache_size, catalog, ciphertext,"
                " create, keyring, probe, readonly, timeout"
            ),
        ),
        ({"readonly": "perhaps"}, "neither true nor false"),
        ({"timeout": "soon"}, "not a number of seconds"),
        ({"timeout": -1}, "not a number of seconds"),
        ({"timeout": "nan"}, "not a number of seconds"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        pkgstore.open("memory://", **options)
    assert message in str(caught.value)


def test_a_url_says_where_and_not_who() -> None:
    for name in ("username", "password"):
        with pytest.raises(Misconfigured, match=f"^{name}= says who, .*PKGSTORE_SMB_{name.upper()}") as caught:
            pkgstore.open(f"smb://127.0.0.1:1/share?{name}=abra")
        assert "abra" not in str(caught.value)


def test_an_option_of_the_call_wins_over_the_query(tmp_path: Path) -> None:
    pkgstore.open(tmp_path).close()
    with pkgstore.open(f"file://{tmp_path}?readonly=true", readonly=False) as store:
        store.publish("a", b"")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("flie:///srv", "no driver serves flie: URLs: did you mean 'file'?"),
        ("gopher://x", "no driver serves gopher: URLs: known are file, gs, memory, nfs, s3, smb"),
    ],
)
def test_unknown_scheme(url: str, message: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        pkgstore.open(url)
    assert str(caught.value) == message


def test_memory_has_no_path() -> None:
    with pytest.raises(Misconfigured, match="has a path"):
        pkgstore.open("memory://name/path")
