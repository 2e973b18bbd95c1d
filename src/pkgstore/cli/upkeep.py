"""Commands for whoever runs a store: what its medium keeps to, and what dead writers left there."""

from __future__ import annotations

import json

import click

import pkgstore
from pkgstore.cli.base import Command, json_option, on_a_store, opened, put_json, put_line, when
from pkgstore.cli.progress import Meter, may_show
from pkgstore.driver import Probed, of_medium


@click.command(cls=Command)
@on_a_store
@click.option("--remove", is_flag=True, help="Remove those that safely can be.")
@json_option('{"key", "began", "name", "removed", "kept_because"} for each')
def leftovers(url: str, options: dict[str, str], remove: bool, as_json: bool) -> None:
    """List what dead writers left unfinished: uploads that take room, and that nobody sees."""
    count = removed = 0
    with opened(url, options, create=False, readonly=not remove) as store:
        for each in store.leftovers(remove=remove):
            count += 1
            gone = remove and not each.kept_because
            removed += gone
            if as_json:
                put_json(key=each.key, began=each.began, name=each.name, removed=gone, kept_because=each.kept_because)
            else:
                fate = "removed" if gone else f"kept: {each.kept_because}" if each.kept_because else "may be removed"
                put_line(f"{when(each.began)}  {each.key}  {fate}")
        if not as_json:
            put_line(f"{count:,} left in {store.where}, {removed:,} removed.")


@click.command(cls=Command)
@on_a_store
@json_option("what was found")
def probe(url: str, options: dict[str, str], as_json: bool) -> None:
    """Find out again, by trial, what the medium of a store keeps to; the store remembers it."""
    with opened(url, {**options, "probe": "true"}, create=False, readonly=False) as store:
        found = store.probed
        if not isinstance(of_medium(store.driver), Probed):
            raise pkgstore.Unsupported(f"there is nothing to probe at {store.where}: its driver finds out as it works")
    if as_json:
        put_json(**found)
        return
    for endpoint, findings in found.items():
        put_line(f"{endpoint}")
        for name, value in findings.items():
            put_line(f"  {name:<16} {value if isinstance(value, str) else json.dumps(value)}")


@click.command(cls=Command)
@on_a_store
@click.option("--catalog", metavar="FILE", help="The catalog, as in the option catalog= of whoever uses it.")
@click.option("--jobs", default=16, type=click.IntRange(1, 1000), help="How many requests are under way at a time.")
@click.option("--share", is_flag=True, help="Keep a copy of the catalog in the store, for those who have none yet.")
@json_option('{"blobs", "asked", "shared"}')
def warm(url: str, options: dict[str, str], catalog: str | None, jobs: int, share: bool, as_json: bool) -> None:
    """Have a catalog know the digests of every blob, so that no listing need ask for them.

    It asks for what is not known yet, and so goes on where an earlier run was cut short.
    """
    if catalog is not None:
        if "catalog" in options:
            raise click.UsageError("the catalog is given twice: leave out --catalog or -o catalog=")
        options = {**options, "catalog": catalog}
    with (
        opened(url, options, create=False, readonly=not share) as store,
        Meter("warm", "blobs", shown=may_show(as_json=as_json)) as meter,
    ):
        asked = store.warm(jobs=jobs, share=share, progress=lambda _: meter.advance(1))
    if as_json:
        put_json(blobs=meter.done, asked=asked, shared=share)
    else:
        put_line(f"{meter.done:,} blobs, of which {asked:,} had to be asked for{'; shared' if share else ''}.")
