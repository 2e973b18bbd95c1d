"""What the commands have in common: how they fail, how they open a store, how they print."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

import pkgstore
from pkgstore import config
from pkgstore.cli.failures import LocalError, leave_pipe, local, reported, settle_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pkgstore import Blob, Store

_DECIDED = ("create", "readonly")


class Command(click.Command):
    """A command whose errors are one line, and an exit code."""

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

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"there is no command {args[0]!r}: {config.suggest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def on_a_store(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument URL and the option -o, as ``url`` and ``options``."""
    option = click.option(
        "-o",
        "options",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parsed,
        help="An option of the store, such as timeout=5; may be given several times.",
    )
    return click.argument("url")(option(function))


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
            raise click.BadParameter(f"whether to {name} is up to the command", ctx, param)
        if name in options:
            raise click.BadParameter(f"{name!r} is given twice", ctx, param)
        options[name] = text
    return options


def opened(url: str, options: dict[str, str], **decided: bool) -> Store:
    """Open a store; ``decided`` are the options that the command decides."""
    if config.split_url(url)[0].scheme == "memory":
        raise pkgstore.Misconfigured(
            f"{url} lives in one Python process, and would be gone when this command ends: give a folder"
        )
    return pkgstore.open(url, **options, **decided)


def put_line(line: str) -> None:
    """Print one line on stdout."""
    if sys.stdout is not None:
        with local("write", "standard output"):
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
