"""How a store is named: URLs, plain paths, options and variables, as people write them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_WHO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+://)(?!/).*@", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_SPAN = 1e11
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_WHO_OPTIONS = {"password", "username"}
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def split_url(url: str | os.PathLike[str]) -> tuple[SplitResult, dict[str, str]]:
    """Return a store's URL, split, with its path decoded and its variables expanded; and the options of its query.

    A plain path becomes a `file:` URL. Raises `Misconfigured`.
    """
    text = os.fspath(url)
    if not isinstance(text, str):
        raise TypeError(f"a store is named by a str or a path, not {type(text).__name__}")
    if not text:
        raise Misconfigured("the store's URL is empty: give a path, or a URL such as file:///srv/packages")
    if isinstance(url, os.PathLike) or not _SCHEME.match(text):
        path = expand(os.path.expanduser(text))
        return SplitResult("file", "", os.path.abspath(path), "", ""), {}
    parts = urlsplit(text)
    if parts.fragment:
        raise Misconfigured(f"{without_secrets(text)!r} holds a '#': write it as %23 in a URL")
    try:
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise Misconfigured(
            f"the options of {without_secrets(text)!r} are not name=value pairs joined by '&'"
        ) from None
    options = dict(query)
    if len(options) != len(query):
        raise Misconfigured(f"{without_secrets(text)!r} gives an option twice")
    return parts._replace(path=expand(unquote(parts.path)), query=""), options


def without_secrets(url: str) -> str:
    """Return a URL for people to read: without its options and its fragment, and without who is named before an `@`."""
    return _WHO.sub(r"\1**redacted**@", url).partition("?")[0].partition("#")[0]


def expand(text: str) -> str:
    """Put environment variables in the place of ``${NAME}``. Raises `Misconfigured` for one that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if not os.environ.get(name):
            raise Misconfigured(f"{text!r} names the variable {name!r}, which is not set")
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def secret(name: str) -> str | None:
    """Return a secret from the variable ``name``, or from the file that ``name`` with ``_FILE`` at its end names.

    None when neither is set. Raises `Misconfigured` for a file that cannot be read, and when both are set.
    """
    value, path = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if value and path:
        raise Misconfigured(f"{name} and {name}_FILE are both set: keep one")
    if not path:
        return value or None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read().strip()
    except OSError as exc:
        raise Misconfigured(f"{name}_FILE names {path}, which cannot be read ({exc.strerror}): correct it") from exc
    if "\ufffd" in text:
        raise Misconfigured(f"{name}_FILE names {path}, which cannot be read (it is not text): correct it")
    return text or None


def boolean(name: str, value: object) -> bool:
    """Return an option that is on or off. Raises `Misconfigured`."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise Misconfigured(f"the option {name}={value!r} is neither true nor false")


def seconds(name: str, value: object) -> float:
    """Return an option that is a time of zero seconds or more. Raises `Misconfigured`."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise Misconfigured(f"the option {name}={value!r} is not a number of seconds")
    return number


def span(name: str, value: object) -> float:
    """Return an option that is a span of time, in seconds: `90d`, `12h`, `2w`; a number of seconds, or a timedelta.

    Raises `Misconfigured`.
    """
    if hasattr(value, "total_seconds"):
        number = value.total_seconds()
    else:
        match = _SPAN.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        number = float(match[1]) * _SPANS[match[2]] if match else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < _LONGEST_SPAN:
        raise Misconfigured(f"the option {name}={value!r} is no span of time, such as 90d, 12h or 2w")
    return float(number)


def size(name: str, value: object) -> int:
    """Return an option that is a number of bytes: `1073741824`, `500M`, `1Gi`. Raises `Misconfigured`."""
    if type(value) is int and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or (match[3] and not match[2]):
        raise Misconfigured(f"the option {name}={value!r} is not a size, such as 500M or 1Gi")
    unit = 1024 if match[3] else 1000
    return int(float(match[1]) * unit ** " KMGT".index(match[2].upper() or " "))


def check_options(options: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise `Misconfigured` for an option that is not known, and name the nearest that is."""
    known = sorted(known)
    for name in options:
        if name not in known:
            raise Misconfigured(f"there is no option {name!r} here: {suggest(name, known)}")


def check_says_where(options: Iterable[str]) -> None:
    """Raise `Misconfigured` for an option, out of a URL or a command line, that says who: others can see it there."""
    for name in options:
        if name in _WHO_OPTIONS:
            raise Misconfigured(
                f"{name}= says who, and stands where others can see it: leave it out, and set a variable such as"
                f" PKGSTORE_SMB_{name.upper()}, or one with _FILE at its end"
            )


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names what was probably meant, or else what there is."""
    from difflib import get_close_matches

    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
