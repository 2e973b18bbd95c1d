"""What the commands have in common: how they fail, how they open a store, how they print."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

import pkgstore
from pkgstore import config, keys
from pkgstore.cli.failures import LocalError, leave_pipe, local, reported, settle_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from urllib.parse import SplitResult

    from pkgstore import Blob, Store

_DECIDED = ("create", "readonly")
_LIKE_OPTIONS = re.compile(r"\?[a-z]+=")


class Command(click.Command):
    """A command whose errors are one line, and an exit code."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _printing():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
            if sys.stdout is not None:
                with local("write", "standard output"):
                    sys.stdout.flush()
        except BrokenPipeError:
            ctx.exit(leave_pipe())
        except (pkgstore.StoreError, LocalError) as exc:
            settle_output()
            ctx.exit(reported(exc, as_json=ctx.params.get("as_json", False)))


class Group(click.Group):
    """Commands, of which the nearest is suggested for one that is mistyped."""

    command_class = Command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _printing():
            return super().make_context(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"there is no command {args[0]!r}: {config.suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class Bytes(click.IntRange):
    """A size, on the command line."""

    name = "number of bytes"


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Fail as commands do where Click prints the help or the version, while it reads the command line."""
    try:
        with local("write", "standard output"):
            yield
    except BrokenPipeError:
        _leave(leave_pipe())
    except LocalError as exc:
        settle_output()
        _leave(reported(exc, as_json=False))


def _leave(code: int) -> NoReturn:
    raise click.exceptions.Exit(code) from None


def options_option(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option -o, as ``options``."""
    return click.option(
        "-o",
        "options",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parsed,
        help="An option of the store, such as timeout=5; may be given several times.",
    )(function)


def on_a_store(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument URL and the option -o, as ``url`` and ``options``."""
    return click.argument("url")(options_option(function))


def json_option(shows: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the option --json, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {shows}; errors are JSON too, on stderr.")


def _parsed(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", ctx, param)
        if name in _DECIDED:
            raise click.BadParameter(f"{name!r} is for the command to decide, and cannot be given", ctx, param)
        if name in options:
            raise click.BadParameter(f"{name!r} is given twice", ctx, param)
        options[name] = text
    try:
        config.check_says_where(options)
    except pkgstore.Misconfigured as exc:
        raise click.BadParameter(str(exc), ctx, param) from None
    return options


def opened(url: str, options: dict[str, str], **decided: bool) -> Store:
    """Open a store; ``decided`` are the options that the command decides. It may ask for reading only, not for more."""
    if not decided.get("readonly", True):
        del decided["readonly"]
    parts, _ = split_url(url)
    if parts.scheme == "memory":
        raise pkgstore.Misconfigured(
            f"{config.without_secrets(url)} lives in one Python process, and would be gone when this command ends:"
            " give a folder"
        )
    return pkgstore.open(url, **options, **decided)


def split_url(url: str) -> tuple[SplitResult, dict[str, str]]:
    """Return the parts and the options of a store's URL.

    Raises `Misconfigured`, also for what a command would decide without a look at it, and for options after a path.
    """
    parts, query = config.split_url(url)
    for name in _DECIDED:
        config.boolean(name, query.get(name, True))
    found = _LIKE_OPTIONS.search(url)
    if found and not query:
        raise pkgstore.Misconfigured(
            f"{url!r} is a plain path, where {found.group()!r} is part of a name: options need a URL, such as"
            " file:///srv/packages?timeout=5"
        )
    return parts, query


def check_not_inside_another(url: str) -> None:
    """Raise `Misconfigured` when a store at ``url`` would lie in the folder of another."""
    parts, _ = split_url(url)
    if parts.scheme != "file" or os.path.isfile(os.path.join(parts.path, keys.CONTROL, "store.json")):
        return
    root = os.path.realpath(parts.path)
    outer = root
    while outer != (outer := os.path.dirname(outer)):
        if os.path.isfile(os.path.join(outer, keys.CONTROL, "store.json")):
            raise pkgstore.Misconfigured(
                f"{root} lies inside the store {outer}, whose blobs would be those of both: choose a folder outside,"
                " or use that store"
            )


def put_line(line: str) -> None:
    """Print one line on stdout. Raises `LocalError`."""
    with local("write", "standard output"):
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        sys.stdout.write(f"{line}\n")


def put_json(**fields: Any) -> None:
    """Print one JSON object on stdout, in one line."""
    put_line(json.dumps(fields))


def blob_fields(blob: Blob) -> dict[str, Any]:
    """Return what --json shows of a blob; the names are stable."""
    return {
        "key": blob.key,
        "size": blob.size,
        "mtime": blob.mtime,
        "tag": blob.tag,
        "digests": dict(blob.digests),
    }


def when(mtime: float) -> str:
    """Return a time for people, in UTC."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(mtime))
    except (OverflowError, ValueError, OSError):
        return f"@{mtime:.0f}"  # beyond the calendar of the C library


def size_text(size: int) -> str:
    """Return a size for people."""
    return "1 byte" if size == 1 else f"{size:,} bytes"
