"""The command that builds a directory once, and puts it in place wherever the same is wanted."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import click

import pkgstore
from pkgstore.cli.base import (
    Command,
    check_not_inside_another,
    json_option,
    opened,
    options_option,
    put_json,
    put_line,
    split_url,
)
from pkgstore.cli.failures import LocalError, local

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pkgstore.bundle import Bundle

_log = logging.getLogger("pkgstore")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LARGEST_SECRET = 1 << 16
_STORE_TIMEOUT = 60.0


@click.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    options_metavar="--name NAME --dest FOLDER [OPTIONS] --",
    short_help="Build a directory once, and put it in place wherever the same is wanted.",
)
@click.option("--name", required=True, help="What the bundle is called, such as my-app.")
@click.option("--dest", required=True, metavar="FOLDER", help="Where it goes: a symbolic link that is replaced whole.")
@click.option("--store", "url", metavar="URL", help="Where its archive is kept; without, each host builds its own.")
@click.option("--create", is_flag=True, help="Make a store where there is none.")
@options_option
@click.option("--input", "inputs", metavar="FILE", multiple=True, help="A file on which the result depends, too.")
@click.option("--secret", "secrets", metavar="NAME=FILE", multiple=True, help="A variable for COMMAND, out of a file.")
@click.option("--python", metavar="PROGRAM", help="The interpreter that it is for; by default the one of COMMAND.")
@click.option("--max-archive-size", default="1Gi", show_default=True, metavar="SIZE", help="Larger ones are not kept.")
@click.option("--retries", default=3, show_default=True, type=click.IntRange(0, 1000), help="How many more tries.")
@click.option(
    "--timeout", default=600.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds for it all."
)
@click.option(
    "--on-failure",
    type=click.Choice(["block", "allow"]),
    default="block",
    show_default=True,
    help="Fail; or warn, leave --dest as it is, and exit with 0.",
)
@json_option('{"directory", "dest", "key"}')
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def bundle(
    name: str,
    dest: str,
    url: str | None,
    create: bool,
    options: dict[str, str],
    inputs: tuple[str, ...],
    secrets: tuple[str, ...],
    python: str | None,
    max_archive_size: str,
    retries: int,
    timeout: float,
    on_failure: Literal["block", "allow"],
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Have FOLDER lead to what COMMAND makes: kept from before, fetched from the store, or built now, by one for all.

    {dest} in COMMAND stands for the directory that it fills. COMMAND runs without a shell, and what it prints goes to
    standard error; the directory that FOLDER leads to is printed on standard output. For example:

    \b
      pkgstore bundle --store s3://packages/bundles --name my-app --dest /srv/packages -- \\
          pip install --target {dest} -r requirements.txt
    """
    from pathlib import Path

    from pkgstore.bundle import identity, make

    identity.check_command(command)
    if url is None and (options or create):
        raise click.UsageError("-o and --create are about a store: name it with --store URL")
    variables = dict(map(_secret, secrets))
    wanted = make(
        None,
        name,
        [*identity.inputs_of(command), *map(Path, inputs)],
        facts=identity.facts_of(python, command),
        max_archive_size=max_archive_size,
        retries=retries,
        timeout=timeout,
    )
    try:
        directory: Path | None = wanted.at(dest) or _ensured(wanted, dest, url, options, create, command, variables)
    except (pkgstore.StoreError, LocalError) as exc:
        if on_failure == "block" or isinstance(exc, (pkgstore.Misconfigured, pkgstore.InvalidKey)):
            raise
        _log.warning("%s is left as it is: %s", dest, exc)
        directory = Path(dest).resolve() if os.path.isdir(dest) else None
    if as_json:
        put_json(directory=directory and str(directory), dest=os.path.abspath(dest), key=url and wanted.key)
    elif directory:
        put_line(str(directory))


def _ensured(
    wanted: Bundle,
    dest: str,
    url: str | None,
    options: dict[str, str],
    create: bool,
    command: Sequence[str],
    variables: Mapping[str, str],
) -> Path:
    from pkgstore.bundle.commands import CommandFailed, run
    from pkgstore.bundle.places import Deadline

    deadline = Deadline(wanted.timeout, f"the bundle {wanted.name!r}")

    def build(folder: Path) -> None:
        run(command, folder, variables, deadline.left)

    try:
        with local("put a bundle at", dest):
            if url is None:
                return wanted.ensure(dest, build)
            if create:
                check_not_inside_another(url)
            if "timeout" not in split_url(url)[1]:
                options = {"timeout": str(min(_STORE_TIMEOUT, wanted.timeout)), **options}
            with opened(url, options, create=create) as store:
                deadline.check()
                return replace(wanted.in_store(store), timeout=deadline.left).ensure(dest, build)
    except CommandFailed as exc:
        raise LocalError(str(exc)) from exc


def _secret(option: str) -> tuple[str, str]:
    """Return a variable's name, and what is in the file that is its value."""
    name, equals, path = option.partition("=")
    if not (equals and path and _VARIABLE.fullmatch(name)):
        raise click.UsageError("--secret takes NAME=FILE, the name of a variable and of the file that holds its value")
    problem = ""
    try:
        with open(path, encoding="utf-8") as file:
            value = file.read(_LARGEST_SECRET + 1).rstrip("\r\n")
    except OSError as exc:
        problem = exc.strerror or "it cannot be read"
    except UnicodeDecodeError:
        problem = "it is not text"
    else:
        problem = "it is no variable's value" if len(value) > _LARGEST_SECRET or "\0" in value else ""
    if problem:
        raise pkgstore.Misconfigured(f"--secret {name} names {path}, which cannot be taken ({problem}): correct it")
    return name, value
