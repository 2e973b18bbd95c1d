"""The grammar of keys."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkgstore import InvalidKey, keys

VALID = [
    "six",
    "six/six-1.17.0-py2.py3-none-any.whl",
    "a/b/c/d",
    ".hidden",
    "..two-dots",
    "with space/in it",
    "plus+percent%hash#at@tilde~(1)[2]{3}",
    unicodedata.normalize("NFC", "café/naïve"),
    "日本語/パッケージ",
    "emoji/📦",
    "a" * 255,
    "/".join(["a" * 255] * 4),
    "console",
    "com",
    "x/lost+found",
    ".pkgstore2",
]

INVALID = {
    "": "empty",
    "/a": "empty segment",
    "a/": "empty segment",
    "a//b": "empty segment",
    ".": "segment '.'",
    "a/../b": "segment '..'",
    "../../etc/passwd": "segment '..'",
    "a\x00b": "character",
    "a\nb": "character",
    "a\x7fb": "character",
    "a\x85b": "character",
    "a\\b": "character",
    "a:b": "character",
    'a"b': "character",
    "a*": "character",
    "a?b": "character",
    "<a>": "character",
    "a|b": "character",
    "a\ud800b": "character",
    "a.": "dot or a space",
    "a /b": "dot or a space",
    "a" * 256: "longer than 255 bytes",
    "é" * 128: "longer than 255 bytes",
    "/".join(["a" * 250] * 5): "longer than 1024 bytes",
    unicodedata.normalize("NFD", "café"): "normalisation form C",
    "con": "device name",
    "NUL.txt": "device name",
    "a/com1": "device name",
    "a/LPT³.log": "device name",
    ".pkgstore": "reserved",
    ".pkgstore/store.json": "reserved",
    "a/.PkgStore/b": "reserved",
    "lost+found": "file system",
    "Lost+Found/a": "file system",
}


@pytest.mark.parametrize("key", VALID, ids=[f"{n}-{keys.shown(key)[:40]}" for n, key in enumerate(VALID)])
def test_valid(key: str) -> None:
    assert keys.check(key) == key
    assert keys.is_valid(key)


@pytest.mark.parametrize("key", INVALID, ids=[f"{n}-{keys.shown(key)[:40]}" for n, key in enumerate(INVALID)])
def test_invalid(key: str) -> None:
    with pytest.raises(InvalidKey, match=INVALID[key]) as caught:
        keys.check(key)
    assert caught.value.key == key
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("key", [None, b"six", 3])
def test_only_strings_are_keys(key: object) -> None:
    with pytest.raises(TypeError, match="a key is a str"):
        keys.check(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["", "a/", "a/b/"])
def test_valid_prefix(prefix: str) -> None:
    assert keys.check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "a/../", ".pkgstore/", "a\n/"])
def test_invalid_prefix(prefix: str) -> None:
    with pytest.raises(InvalidKey):
        keys.check_prefix(prefix)


@given(st.text(max_size=40))
def test_whatever_passes_is_safe_on_any_medium(text: str) -> None:
    if not keys.is_valid(text):
        return
    assert text.encode().decode() == text
    assert unicodedata.normalize("NFC", text) == text
    for segment in text.split("/"):
        assert segment not in ("", ".", "..")
        assert segment.casefold() != ".pkgstore"
        assert not set(segment) & set('\\:*?"<>|')
        assert not any(unicodedata.category(each) == "Cc" for each in segment)
        assert segment[-1] not in ". "
