"""The grammar of keys: the only place that says which names a blob may have.

A key is `/`-separated segments of 1 to 255 bytes each, 1,024 bytes in all, in UTF-8 and normalisation form C. What
any supported medium could misread is refused on every medium, so that a store can move between them: empty, `.` and
`..` segments, control characters, the characters ``\\ : * ? " < > |``, a trailing dot or space, and the device names of
Windows. `.pkgstore` (this library's control folder) and a leading `lost+found` (the file system's own) are reserved.
"""

from __future__ import annotations

import re
import unicodedata

from pkgstore.errors import InvalidKey

CONTROL = ".pkgstore"

LONGEST = 1024
_MAX_SEGMENT = 255
_MAX_SHOWN = 200
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|\ud800-\udfff]')
_PLAIN_SEGMENT = r"(?!con|prn|aux|nul|com|lpt|lost)[0-9a-z_](?:[0-9a-z_+.-]*[0-9a-z_+-])?"
_PLAIN = re.compile(f"{_PLAIN_SEGMENT}(?:/{_PLAIN_SEGMENT})*", re.IGNORECASE | re.ASCII)
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:\..*)?", re.IGNORECASE | re.DOTALL)


def check(key: str) -> str:
    """Return ``key`` when it is a valid key.

    Raises `InvalidKey`, saying what to change, and TypeError for anything but a string.
    """
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {type(key).__name__}")
    problem = _problem(key)
    if problem:
        raise InvalidKey(f"the key {shown(key)} is not valid: {problem}", key=key)
    return key


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` when it is a valid prefix: empty, or a valid key followed by one `/`.

    Raises `InvalidKey`, and TypeError for anything but a string.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix is a str, not {type(prefix).__name__}")
    if prefix and not prefix.endswith("/"):
        raise InvalidKey(f'the prefix {shown(prefix)} is not valid: end it with "/", or leave it empty', key=prefix)
    if prefix:
        problem = _problem(prefix[:-1])
        if problem:
            raise InvalidKey(f"the prefix {shown(prefix)} is not valid: {problem}", key=prefix)
    return prefix


def is_valid(key: str) -> bool:
    """Say whether ``key`` is a valid key, for names that a medium reports."""
    return _problem(key) is None


def shown(key: str) -> str:
    """Return ``key`` quoted for a message: one printable line of bounded length."""
    text = ascii(key)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(key)} characters)"


def _problem(key: str) -> str | None:
    if len(key) <= _MAX_SEGMENT and _PLAIN.fullmatch(key):  # as nearly all are
        return None
    if not key:
        return "it is empty"
    forbidden = _FORBIDDEN.search(key)
    if forbidden:
        return f"it holds the character {forbidden.group()!a}, which not every medium can keep"
    if len(key.encode()) > LONGEST:
        return f"it is longer than {LONGEST} bytes"
    if not unicodedata.is_normalized("NFC", key):
        return "it is not in Unicode normalisation form C; pass unicodedata.normalize('NFC', key)"
    segments = key.split("/")
    if segments[0].casefold() == "lost+found":
        return "'lost+found' belongs to the file system"
    for segment in segments:
        problem = _segment_problem(segment)
        if problem:
            return problem
    return None


def _segment_problem(segment: str) -> str | None:
    if not segment:
        return "it has an empty segment (a leading, trailing or doubled '/')"
    if segment in (".", ".."):
        return f"it has the segment {segment!r}"
    if len(segment.encode()) > _MAX_SEGMENT:
        return f"one of its segments is longer than {_MAX_SEGMENT} bytes"
    if segment[-1] in ". ":
        return f"its segment {shown(segment)} ends with a dot or a space"
    if segment.casefold() == CONTROL:
        return f"{CONTROL!r} is reserved for pkgstore itself"
    if _DEVICE.fullmatch(segment):
        return f"its segment {shown(segment)} is a device name on Windows"
    return None
