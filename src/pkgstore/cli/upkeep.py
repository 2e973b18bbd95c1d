"""Commands for whoever runs a store: what its medium keeps to, and what dead writers left there."""

from __future__ import annotations

import json

import click

import pkgstore
from pkgstore.cli.base import Command, json_option, on_a_store, opened, put_json, put_line, when
from pkgstore.driver import Probed


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
        if not isinstance(store.driver, Probed):
            raise pkgstore.Unsupported(f"there is nothing to probe at {store.where}: its driver finds out as it works")
    if as_json:
        put_json(**found)
        return
    for endpoint, findings in found.items():
        put_line(f"{endpoint}")
        for name, value in findings.items():
            put_line(f"  {name:<16} {value if isinstance(value, str) else json.dumps(value)}")
