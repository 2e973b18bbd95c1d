"""Commands for what a store holds, and may hold."""

from __future__ import annotations

import click

from pkgstore import Misconfigured, Usage, config
from pkgstore.cli.base import Command, json_option, on_a_store, opened, put_json, put_line, size_text
from pkgstore.cli.progress import Meter, may_show

_FIELDS = '{"blobs", "bytes", "reserved", "limit", "blob_limit", "available"}'
_NONE = "none"


@click.command(cls=Command)
@on_a_store
@click.option("--scope", default="", metavar="PREFIX", help="Only what lies below PREFIX, such as tenant/.")
@click.option("--recount", is_flag=True, help="Count the blobs, and set the ledger of the quota right.")
@json_option(_FIELDS)
def usage(url: str, options: dict[str, str], scope: str, recount: bool, as_json: bool) -> None:
    """Tell how many blobs there are, and their bytes: where there is a quota, as its ledger says."""
    with (
        opened(url, options, create=False, readonly=not recount) as store,
        Meter("usage", shown=may_show(as_json=as_json)),
    ):
        found = (store.scope(scope) if scope else store).usage(recount=recount)
    if as_json:
        put_usage(found)
        return
    line = f"{found.blobs:,} {'blob' if found.blobs == 1 else 'blobs'}, {size_text(found.bytes)}"
    if found.limit is not None:
        line += f" of {found.limit:,}; {found.reserved:,} reserved, {found.available:,} available"
    if found.blob_limit is not None:
        line += f"; {found.blob_limit:,} {'blob' if found.blob_limit == 1 else 'blobs'} at most"
    put_line(line)


@click.command(cls=Command)
@on_a_store
@click.option("--bytes", "size", metavar="SIZE", help="At most so much, such as 500M or 10Gi; none for no limit.")
@click.option("--blobs", metavar="N", help="At most so many blobs; none for no limit.")
@click.option("--scope", default="", metavar="PREFIX", help="Only below PREFIX, such as tenant/.")
@json_option(_FIELDS)
def quota(url: str, options: dict[str, str], size: str | None, blobs: str | None, scope: str, as_json: bool) -> None:
    """Set the quota of a store, or of a scope: it holds for all who publish there, on any host.

    A limit that is not given stays as it is. The first time, all blobs are counted, and publishers wait meanwhile.
    """
    if size is None and blobs is None:
        raise click.UsageError("nothing is set: give --bytes SIZE or --blobs N; `pkgstore usage` shows what is set")
    with opened(url, options, create=False, readonly=False) as whole, Meter("quota", shown=may_show(as_json=as_json)):
        store = whole.scope(scope) if scope else whole
        old = store.usage()
        store.set_quota(
            old.limit if size is None else None if size == _NONE else config.size("bytes", size),
            blobs=old.blob_limit if blobs is None else None if blobs == _NONE else _number(blobs),
        )
        new = store.usage()
    if as_json:
        put_usage(new)
        return
    limits = {"bytes": new.limit, "blobs": new.blob_limit}
    at_most = [f"{limit:,} {what}" for what, limit in limits.items() if limit is not None]
    may = f"may hold {' and '.join(at_most)}" if at_most else "has no limit"
    put_line(f"{store.where} {may}; {new.bytes:,} bytes are there.")


def put_usage(found: Usage) -> None:
    """Write a usage as JSON."""
    put_json(
        blobs=found.blobs,
        bytes=found.bytes,
        reserved=found.reserved,
        limit=found.limit,
        blob_limit=found.blob_limit,
        available=found.available,
    )


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise Misconfigured(f"the option blobs={text!r} is no number of blobs")
    return int(text)
