"""Commands that take old packages out of a store, and put them back."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

import pkgstore
from pkgstore import keys
from pkgstore.cli.base import (
    Command,
    Group,
    blob_fields,
    json_option,
    on_a_store,
    opened,
    put_json,
    put_line,
    size_text,
    when,
)
from pkgstore.cli.progress import Meter, may_show

if TYPE_CHECKING:
    from pkgstore import Store
    from pkgstore.prune import Pruned


@click.command(cls=Command, short_help="Take old versions of packages out of the store; a dry run, unless --yes.")
@on_a_store
@click.option("--keep", metavar="N", type=click.IntRange(min=1), help="Only what is not among the N newest versions.")
@click.option("--older-than", metavar="AGE", help="Only what has not changed for so long, or since: 90d, 2026-01-31.")
@click.option("--pre-releases", is_flag=True, help="Only pre-releases that a final release has followed.")
@click.option("--scope", default="", metavar="PREFIX", help="Only below PREFIX, such as tenant/.")
@click.option("--yes", is_flag=True, help="Do it.")
@click.option("--keep-trash", metavar="AGE", help="For how long it can be undeleted (default: 30d).")
@click.option("--no-trash", is_flag=True, help="Delete it at once; it cannot be undeleted.")
@json_option('{"key", "size", "project", "version", "why", "outcome"} for each file')
def prune(
    url: str,
    options: dict[str, str],
    keep: int | None,
    older_than: str | None,
    pre_releases: bool,
    scope: str,
    yes: bool,
    keep_trash: str | None,
    no_trash: bool,
    as_json: bool,
) -> None:
    """Move versions of packages to the trash: those that every rule given lets go.

    With --keep 5 --older-than 90d, a version goes when it is not among the newest five of its project, and has not
    changed for 90 days. The newest version of a project never goes, nor its newest final release, nor what is no wheel
    or source distribution by its name.

    Without --yes nothing is changed: what would go is shown. What is pruned comes back with `pkgstore undelete`; its
    room is free once `pkgstore trash empty` has removed it.
    """
    # It is imported here, as it imports more than other commands need.
    from pkgstore.prune import prune as prune_store
    from pkgstore.trash import KEPT_FOR

    if no_trash and keep_trash is not None:
        raise click.UsageError("--no-trash keeps nothing: leave out --keep-trash")
    if keep is None and older_than is None and not pre_releases:
        raise click.UsageError("nothing says what may go: give --keep, --older-than or --pre-releases, or several")
    found: list[Pruned] = []
    try:
        with (
            opened(url, options, create=False, readonly=not yes) as whole,
            Meter("prune", "blobs", shown=may_show(as_json=as_json)) as meter,
        ):

            def done(each: Pruned) -> None:
                found.append(replace(each, key=scope + each.key))
                meter.advance(1)

            prune_store(
                whole.scope(scope) if scope else whole,
                keep=keep,
                older_than=older_than,
                pre_releases=pre_releases,
                dry_run=not yes,
                keep_trash=None if no_trash else keep_trash or KEPT_FOR,
                progress=done,
            )
    finally:  # what was done before an error, too
        found.sort(key=lambda each: each.key)
        if as_json:
            for each in found:
                put_json(**asdict(each))
        elif found:
            _put_table(found)
    if not as_json:
        put_line(_summary(found, done=yes, no_trash=no_trash))
    corrupt = [each.key for each in found if each.outcome == "corrupt"]
    if corrupt:
        raise pkgstore.Corrupt(
            f"{', '.join(map(keys.shown, corrupt))} in {whole.where} stayed, as the bytes are not those that were"
            " published: delete it, or restore it from a copy",
            key=corrupt[0],
        )


def _put_table(found: list[Pruned]) -> None:
    """Show the files, by project and version."""
    from packaging.version import Version

    last = None
    for each in sorted(found, key=lambda each: (each.project, Version(each.version), each.key)):
        if (each.project, each.version) != last:
            last = each.project, each.version
            put_line(f"{each.project} {each.version}: {each.why}")
        fate = "" if each.outcome == "chosen" else f"  {_FATES[each.outcome]}"
        put_line(f"  {each.size:>14,}  {each.key}{fate}")


_FATES = {
    "trashed": "in the trash",
    "deleted": "deleted",
    "changed": "left alone: another version is there by now, or none",
    "corrupt": "left alone: its bytes are not those that were published",
}


def _summary(found: list[Pruned], *, done: bool, no_trash: bool) -> str:
    gone = [each for each in found if each.outcome in ("chosen", "trashed", "deleted")]
    what = f"{_counted(len(gone), 'file')} of {_counted(len({(e.project, e.version) for e in gone}), 'version')}"
    size = size_text(sum(each.size for each in gone))
    if not gone:
        return "Nothing to prune." if not found else "Nothing was pruned."
    if not done:
        return f"{what}, {size}, would go: with --yes, they do."
    if no_trash:
        return f"Deleted {what}, {size}."
    return f"Moved {what}, {size}, to the trash: `pkgstore undelete` puts them back, `pkgstore trash empty` makes room."


@click.command(cls=Command, short_help="Put blobs from the trash back.")
@on_a_store
@click.argument("key", nargs=-1, required=True)
@click.option("--sha256", metavar="HEX", help="Of several versions of KEY, this one; else the one that went last.")
@json_option("each blob that is published")
def undelete(url: str, options: dict[str, str], key: tuple[str, ...], sha256: str | None, as_json: bool) -> None:
    """Publish blobs from the trash again, each with its signature and metadata, if they went with it.

    It exits with 4 when somebody has published the key meanwhile. See `pkgstore trash list` for what is there.
    """
    from pkgstore.trash import undelete as put_back

    if sha256 is not None and len(key) > 1:
        raise click.UsageError("--sha256 is of one key: give one")
    for each in key:
        keys.check(each)
    with opened(url, options, create=False) as store:
        for each in key:
            for blob in put_back(store, each, sha256=sha256 and sha256.lower()):
                if as_json:
                    put_json(**blob_fields(blob))
                else:
                    put_line(f"Published {blob.key} again: {size_text(blob.size)}.")


def discarded(store: Store, key: str) -> bool:
    """Move what is at a key to the trash; False when nothing is there."""
    from pkgstore.trash import KEPT_FOR, discard

    try:
        while not discard(store, store.stat(key), why="deleted by hand", keep=KEPT_FOR):
            pass  # another version took its place meanwhile
    except pkgstore.NotFound:
        return False
    return True


@click.group(cls=Group, no_args_is_help=False, short_help="Show what is in the trash, and empty it.")
def trash() -> None:
    """Show what is in the trash, and empty it."""


@trash.command("list")
@on_a_store
@json_option(
    '{"key", "size", "mtime", "tag", "digests", "goes_with", "goes_with_tag", "why", "trashed", "until", "name"} for'
    " each"
)
def list_(url: str, options: dict[str, str], as_json: bool) -> None:
    """List what is in the trash: when it went, until when it is kept, its size, its key, and why it went."""
    from pkgstore.trash import trashed

    with (
        opened(url, options, create=False, readonly=True) as store,
        Meter("trash list", "blobs", shown=may_show(as_json=as_json)) as meter,
    ):
        found = []
        for item in trashed(store):
            meter.advance(1)
            found.append(item)
    found.sort(key=lambda each: (each.key, each.trashed))
    for each in found:
        if as_json:
            put_json(**asdict(each))
        else:
            why = each.why if each.why.isprintable() else keys.shown(each.why)
            put_line(f"{when(each.trashed)}  kept until {when(each.until)}  {each.size:>12}  {each.key}  {why}")
    if not as_json:
        size = size_text(sum(each.size for each in found))
        put_line(f"{_counted(len(found), 'blob')} in the trash of {store.where}, {size}.")


@trash.command()
@on_a_store
@click.option("--all", "everything", is_flag=True, help="Also what is to be kept for longer.")
@json_option('{"blobs", "bytes"}')
def empty(url: str, options: dict[str, str], everything: bool, as_json: bool) -> None:
    """Remove from the trash, for good, what has been there for as long as it was to be kept."""
    from pkgstore.trash import empty as empty_trash

    with (
        opened(url, options, create=False, readonly=False) as store,
        Meter("trash empty", shown=may_show(as_json=as_json)),
    ):
        gone = empty_trash(store, everything=everything)
    if as_json:
        put_json(**asdict(gone))
    else:
        put_line(f"Removed {_counted(gone.blobs, 'blob')}, {size_text(gone.bytes)}, from the trash of {store.where}.")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
