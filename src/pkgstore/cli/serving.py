"""`serve`: from its command line to pypiserver's."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import click

import pkgstore
from pkgstore import config
from pkgstore.cli.base import Command, check_not_inside_another, put_line, split_url
from pkgstore.cli.failures import local

if TYPE_CHECKING:
    from collections.abc import Sequence

_HIGHEST_PORT = 65535


class ServeCommand(Command):
    """A command whose own options stand before the URL, and those of pypi-server after it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            raise click.UsageError(
                f"there is no option {exc.option_name} before the URL: the options of pypi-server go after the URL", ctx
            ) from None


def run(
    url: str, options: dict[str, str], *, create: bool, before: str | None = None, arguments: Sequence[str]
) -> None:
    """Serve the store at ``url`` until interrupted, ``before`` that of another URL, if any.

    ``arguments`` are options of `pypi-server run`.

    Raises `StoreError`, and `LocalError` when the address cannot be listened on.
    """
    parts, _ = split_url(url)
    try:
        from pkgstore.integrations import pypiserver
    except ModuleNotFoundError as exc:
        if exc.name != "pypiserver":
            raise
        raise pkgstore.Misconfigured("serving needs pypiserver: pip install 'pkgstore[pypiserver]'") from exc
    if "--create" in arguments:
        raise click.UsageError("--create goes before the URL: what follows the URL is for pypi-server")
    if {"-h", "--help"} & set(arguments):
        put_line("These options of pypi-server go after URL. It takes neither package_directory nor --backend here:")
        put_line("the packages are in the store.\n")
    if create:
        check_not_inside_another(url)
    _check_address(arguments)
    # A store in memory is new wherever it is opened.
    decided = {"create": "yes" if create or parts.scheme == "memory" else "no"}
    with local("serve", config.without_secrets(url)):
        place = with_options(url, {**options, **decided})
        pypiserver.serve(place if before is None else [place, before], arguments)


def with_options(url: str, options: dict[str, str]) -> str:
    """Return a store's URL with options in its query."""
    parts, query = config.split_url(url)
    return f"{parts.scheme}://{parts.netloc}{quote(parts.path)}?{urlencode({**query, **options})}"


def _check_address(arguments: Sequence[str]) -> None:
    """Raise when the address that the options name cannot be listened on, so that this is the one thing said of it.

    Options that pypi-server does not understand are left for it to refuse.
    """
    from pypiserver.config import get_parser  # type: ignore[import-untyped]

    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            options = get_parser().parse_args(["run", os.sep, *arguments])
    except (SystemExit, OSError):
        return
    if not 0 <= options.port <= _HIGHEST_PORT:
        raise pkgstore.Misconfigured(f"there is no port {options.port}: give one up to {_HIGHEST_PORT}")
    with local("listen on", f"port {options.port} of {options.host}"):
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
