"""Commands for the keys of encrypted stores."""

from __future__ import annotations

import click

from pkgstore.cli.base import Command, Group, json_option, on_a_store, opened, put_json, put_line
from pkgstore.cli.progress import Meter, may_show
from pkgstore.crypt import keyring
from pkgstore.keys import shown


@click.group(cls=Group)
def keys() -> None:
    """Make and change keyrings: files of keys, for stores that are encrypted.

    FILE is a keyring. Stores are told of it by the option keyring=FILE, or by the variable PKGSTORE_KEYRING_FILE.
    Whoever loses all copies of a keyring has lost the blobs.
    """


@keys.command(cls=Command)
@click.argument("file")
@json_option('{"keyring", "id"}')
def new(file: str, as_json: bool) -> None:
    """Make the keyring FILE, with one key, for its owner alone."""
    path = keyring.file_of(file)
    _told(path, keyring.make(path).id, "Made {path}, with the key {id}. Keep a copy of it elsewhere.", as_json=as_json)


@keys.command(cls=Command)
@click.argument("file")
@json_option('{"keyring", "id"}')
def rotate(file: str, as_json: bool) -> None:
    """Add a new key to FILE, and seal with it from now on; the old keys stay, to read what they sealed.

    Who has a copy of FILE cannot read new blobs until the copy is renewed. Where that matters, use add, copy FILE to
    every host, and then activate.
    """
    path = keyring.file_of(file)
    added = keyring.add(path, activate=True)
    _told(path, added.id, "Added the key {id} to {path}, which seals from now on.", as_json=as_json)


@keys.command(cls=Command)
@click.argument("file")
@json_option('{"keyring", "id"}')
def add(file: str, as_json: bool) -> None:
    """Add a new key to FILE, and go on sealing with the one that does now."""
    path = keyring.file_of(file)
    added = keyring.add(path, activate=False)
    _told(path, added.id, "Added the key {id} to {path}, which does not seal yet.", as_json=as_json)


@keys.command(cls=Command)
@click.argument("file")
@click.argument("key_id", metavar="ID")
@json_option('{"keyring", "id"}')
def activate(file: str, key_id: str, as_json: bool) -> None:
    """Seal with the key ID of FILE from now on."""
    path = keyring.file_of(file)
    keyring.activate(path, key_id)
    _told(path, key_id, "The key {id} of {path} seals from now on.", as_json=as_json)


@keys.command("list", cls=Command)
@click.argument("file")
@json_option('{"id", "created", "active"} for each key')
def list_keys(file: str, as_json: bool) -> None:
    """List the keys in FILE by their ids, the oldest first. The keys themselves are not shown."""
    held = keyring.held(keyring.file_of(file))
    for each in held.by_id.values():
        is_active = each.id == held.active
        if as_json:
            put_json(id=each.id, created=each.created, active=is_active)
        else:
            put_line(f"{each.id}  {each.created}{'  active' if is_active else ''}")


@keys.command(cls=Command)
@on_a_store
@click.option("--jobs", default=4, type=click.IntRange(1, 1000), help="How many blobs are worked at at a time.")
@json_option('{"renewed", "current", "gone", "failed"}, after {"key", "error", "message"} for each that failed')
def reencrypt(url: str, options: dict[str, str], jobs: int, as_json: bool) -> None:
    """Seal every blob of the store at URL anew, under the active key.

    What is under that key already is left alone: run it again after an interruption, or until nothing has failed. It
    may run while the store is in use. Then the old keys can be taken out of the keyring.
    """
    with (
        opened(url, options, create=False, readonly=False) as store,
        Meter("reencrypt", "blobs", shown=may_show(as_json=as_json)) as meter,
    ):
        result = store.reencrypt(jobs=jobs, progress=lambda *_: meter.advance(1))
    for key, error in result.failed:
        if as_json:
            put_json(key=key, error=type(error).__name__, message=str(error))
        else:
            put_line(f"failed  {shown(key)}: {error}")
    if as_json:
        put_json(renewed=result.renewed, current=result.current, gone=result.gone, failed=len(result.failed))
    else:
        put_line(
            f"{result.renewed:,} blobs encrypted anew, {result.current:,} were under the active key already,"
            f" {result.gone:,} gone meanwhile, {len(result.failed):,} failed."
        )
    if result.failed:
        key, error = result.failed[0]
        raise type(error)(f"{len(result.failed):,} blobs were not encrypted anew, {shown(key)} among them: see above")


def _told(path: str, key_id: str, says: str, *, as_json: bool) -> None:
    if as_json:
        put_json(keyring=path, id=key_id)
    else:
        put_line(says.format(path=path, id=key_id))
