"""The command that examines a store and its medium."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from dataclasses import asdict

import click

import pkgstore
from pkgstore import config
from pkgstore.cli.base import Command, json_option, on_a_store, put_json, put_line, split_url
from pkgstore.cli.failures import local

_FAILED = 1


@click.command(cls=Command, short_help="Examine a store and its medium: what holds, and what to do.")
@on_a_store
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=0.0,
    help="How long to wait for a doctor on a second host, to see locks between hosts.",
)
@json_option('{"url", "ok", "findings": [{"name", "level", "says", "remedy"}]}')
@click.pass_context
def doctor(ctx: click.Context, url: str, options: dict[str, str], wait: float, as_json: bool) -> None:
    """Examine the store at URL and its medium, and say what holds, what does not, and what to do about it.

    A folder is examined also when no store is in it. What is tried is tried below .pkgstore/doctor/, and nothing is
    left there. The exit code is 1 when something that is needed does not hold.

    For a folder that several hosts share, run it on two of them at the same time, with --wait 60.
    """
    # Heavier than other commands: it starts processes.
    from pkgstore.doctor import examine

    parts, _ = split_url(url)
    where = config.without_secrets(parts.geturl())
    if parts.scheme == "memory":
        raise pkgstore.Misconfigured(
            f"{where} lives in one Python process, and has no medium to examine: give a folder"
        )
    found = []
    with local("examine", where), contextlib.closing(examine(url, wait=wait, **options)) as findings:
        for each in findings:
            found.append(asdict(each))
            if not as_json:
                put_line(f"{each.level:<7}  {each.name:<19}  {each.says}")
                if each.remedy:
                    put_line(f"{'':<7}  {'':<19}  -> {each.remedy}")
    counts = Counter(each["level"] for each in found)
    if as_json:
        put_json(url=where, ok=not counts["error"], findings=found)
    else:
        put_line(f"{where}: {_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}.")
    if counts["error"]:
        with local("write", "standard output"):
            sys.stdout.flush()
        ctx.exit(_FAILED)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
