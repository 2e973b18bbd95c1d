"""The commands."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, BinaryIO, cast

import click

import pkgstore
from pkgstore import keys, outfile
from pkgstore.cli import (
    accounting,
    archiving,
    bundling,
    doctoring,
    files,
    keyring,
    pruning,
    serving,
    transferring,
    upkeep,
)
from pkgstore.cli.base import (
    Bytes,
    Group,
    blob_fields,
    check_not_inside_another,
    json_option,
    on_a_store,
    opened,
    put_json,
    put_line,
    size_text,
    when,
)
from pkgstore.cli.failures import EXIT_CODES, INTERRUPTED, report_usage
from pkgstore.cli.progress import Meter, may_show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pkgstore import Blob, Store

_CHUNK = 1 << 20


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code."""
    try:
        return cli.main(argv, "pkgstore", standalone_mode=False) or 0
    except click.ClickException as exc:
        return report_usage(exc)
    except click.Abort:
        return INTERRUPTED


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(pkgstore.__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Storage for package indexes: blobs that are published once, whole, and verified when they are read.

    URL is a folder such as /srv/packages, or nfs:///mnt/packages, smb://server/share/folder, s3://bucket/prefix or
    gs://bucket/prefix. To see it all at work: pkgstore demo.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


@cli.command()
@on_a_store
@json_option('{"url", "id", "created", "encrypted"}')
def init(url: str, options: dict[str, str], as_json: bool) -> None:
    """Make a store at URL, or say that there is one.

    Files that lie in the folder already stay as they are, and become its blobs. No store is made inside another. With
    -o keyring=FILE, all that is published there is encrypted; see pkgstore keys.
    """
    try:
        store = opened(url, options, create=False, readonly=False)
        created = False
    except pkgstore.NotFound:
        check_not_inside_another(url)
        store = opened(url, options, create=True, readonly=False)
        created = True
    with store:
        if as_json:
            put_json(url=store.where, id=store.id, created=created, encrypted=store.encrypted)
        else:
            what = "an encrypted store" if store.encrypted else "a store"
            put_line(f"{f'Made {what}' if created else f'There is {what} already'} at {store.where}, id {store.id}.")


@cli.command()
@on_a_store
@click.argument("key")
@click.argument("file", default="")
@click.option("--sha256", metavar="HEX", help="Refuse a body that has another digest.")
@click.option("--md5", metavar="HEX", help="Refuse a body that has another digest; and record this one too.")
@click.option("--size", metavar="BYTES", type=Bytes(min=0), help="Refuse a body of another length.")
@click.option("--replace", is_flag=True, help="Let this version take the place of an old one.")
@json_option("the blob")
def put(
    url: str,
    options: dict[str, str],
    key: str,
    file: str,
    sha256: str | None,
    md5: str | None,
    size: int | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Publish FILE (or standard input: -) as KEY.

    Of all who publish a key one wins; every other exits with 4, whatever its bytes.
    """
    file = files.named(file, sys.stdin)
    expected = {name: value for name, value in (("sha256", sha256), ("md5", md5)) if value is not None}
    with (
        opened(url, options, create=False) as store,
        files.source(file) as source,
        Meter(f"put {key}", "bytes", total=files.length(source), shown=may_show(as_json=as_json)) as meter,
    ):
        body = cast("BinaryIO", files.MeteredSource(source, meter))
        blob = store.publish(key, body, digests=expected, size=size, replace=replace)
    if as_json:
        put_json(**blob_fields(blob))
    else:
        put_line(f"Published {blob.key}: {size_text(blob.size)}, sha256 {blob.digests['sha256']}.")


@cli.command()
@on_a_store
@click.argument("key")
@click.argument("file", default="")
@click.option("-f", "--force", is_flag=True, help="Replace FILE, if it is there.")
@json_option("the blob")
def get(url: str, options: dict[str, str], key: str, file: str, force: bool, as_json: bool) -> None:
    """Write the blob KEY to FILE (or to standard output: -), verified.

    FILE has its name only once every byte is verified and on disk. On standard output, the last bytes of a corrupt
    blob are withheld, and the exit code is 8. If FILE is a folder, the blob's own name is used in it.
    """
    file = files.named(file, sys.stdout)
    to_stdout = file == files.STANDARD
    if to_stdout and as_json:
        raise click.UsageError("--json goes to standard output, and so would the blob: give a FILE")
    if os.path.isdir(file):
        file = os.path.join(file, key.rpartition("/")[2])
    with opened(url, options, create=False, readonly=True) as store, store.open(key) as reader:
        blob = reader.blob
        shown = may_show(as_json=as_json, writes_out=to_stdout)
        with (
            files.target(file, force=force) as target,
            Meter(f"get {key}", unit="bytes", total=blob.size, shown=shown) as meter,
        ):
            while chunk := reader.read(_CHUNK):
                outfile.write_all(target, chunk)
                meter.advance(len(chunk))
    if as_json:
        put_json(**blob_fields(blob))
    elif not to_stdout:
        sha256 = blob.digests.get("sha256")
        verified = f"verified: sha256 {sha256}" if sha256 else "not verified: the store has no digest of it"
        put_line(f"Wrote {file}: {size_text(blob.size)}, {verified}.")


@cli.command()
@on_a_store
@click.argument("prefix", default="")
@click.option("-l", "--long", "long_form", is_flag=True, help="Show size, time and sha256 as well.")
@json_option("one blob per line")
def ls(url: str, options: dict[str, str], prefix: str, long_form: bool, as_json: bool) -> None:
    """List the blobs below PREFIX, or all, sorted by key.

    PREFIX is a folder of keys, such as six/; without the slash it may also name one blob.
    """
    with (
        opened(url, options, create=False, readonly=True) as store,
        Meter("ls", "blobs", shown=may_show(as_json=as_json, writes_out=True)) as meter,
    ):
        for blob in _below(store, prefix):
            meter.advance(1)
            if as_json:
                put_json(**blob_fields(blob))
            elif long_form:
                sha256 = blob.digests.get("sha256", "-")
                put_line(f"{blob.size:>12}  {when(blob.mtime)}  {sha256:<64}  {blob.key}")
            else:
                put_line(blob.key)


def _below(store: Store, prefix: str) -> Iterator[Blob]:
    if not prefix or prefix.endswith("/"):
        yield from store.list(prefix)
        return
    empty = True
    for blob in store.list(f"{prefix}/"):
        empty = False
        yield blob
    if empty:
        yield store.stat(prefix)


@cli.command()
@on_a_store
@click.argument("key")
@json_option("the blob")
def stat(url: str, options: dict[str, str], key: str, as_json: bool) -> None:
    """Show what the store knows of the blob KEY."""
    with opened(url, options, create=False, readonly=True) as store:
        blob = store.stat(key)
    if as_json:
        put_json(**blob_fields(blob))
        return
    put_line(f"key     {blob.key}")
    put_line(f"size    {size_text(blob.size)}")
    put_line(f"mtime   {when(blob.mtime)}")
    put_line(f"tag     {blob.tag}")
    for name, value in blob.digests.items():
        put_line(f"{name:<7} {value}")
    if not blob.digests and store.encrypted:
        put_line("sha256  not known: it is sealed with the blob, which does not open here; get says why")
    elif not blob.digests:
        put_line("sha256  not recorded: the file was put there by other means")


@cli.command()
@on_a_store
@click.argument("key", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Do not mind keys that are not there.")
@click.option("--trash", is_flag=True, help="Move them to the trash: `pkgstore undelete` puts them back.")
@json_option('{"key", "deleted"} for each key')
def rm(url: str, options: dict[str, str], key: tuple[str, ...], force: bool, trash: bool, as_json: bool) -> None:
    """Delete blobs.

    A key that is not there does not keep the others from being deleted; the exit code is then 3.
    """
    for each in key:
        keys.check(each)
    missing: list[str] = []
    with opened(url, options, create=False) as store:
        for each in key:
            deleted = pruning.discarded(store, each) if trash else store.delete(each)
            if not deleted:
                missing.append(each)
            if as_json:
                put_json(key=each, deleted=deleted)
            elif deleted:
                put_line(f"Moved {each} to the trash." if trash else f"Deleted {each}.")
    if missing and not force:
        shown = ", ".join(keys.shown(each) for each in missing)
        raise pkgstore.NotFound(f"{shown} {'is' if len(missing) == 1 else 'are'} not in {store.where}", key=missing[0])


cli.add_command(accounting.usage)
cli.add_command(accounting.quota)
cli.add_command(archiving.export)
cli.add_command(archiving.restore)
cli.add_command(archiving.verify_archive)
cli.add_command(pruning.prune)
cli.add_command(pruning.undelete)
cli.add_command(pruning.trash)
cli.add_command(upkeep.leftovers)
cli.add_command(upkeep.probe)
cli.add_command(upkeep.warm)
cli.add_command(doctoring.doctor)
cli.add_command(transferring.mirror)
cli.add_command(transferring.verify)
cli.add_command(keyring.keys)
cli.add_command(bundling.bundle)


@cli.command(
    cls=serving.ServeCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[--create] [--before OLD] [-o NAME=VALUE]...",
    short_help="Serve the store as a package index, with pypiserver.",
)
@on_a_store
@click.option("--create", is_flag=True, help="Make a store where there is none.")
@click.option("--before", metavar="OLD", help="Read from the store at OLD what the one at URL has not (yet).")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PYPI-SERVER OPTIONS]...")
def serve(url: str, options: dict[str, str], create: bool, before: str | None, arguments: tuple[str, ...]) -> None:
    """Serve the store at URL as a package index, with pypiserver (extra: pkgstore[pypiserver]).

    There has to be a store, or else --create stands before URL, so that a volume that is not mounted is not served as
    an empty index.

    Everything after URL goes to pypi-server as it is; `pkgstore serve URL --help` shows what it takes. For example:

    \b
      pkgstore serve /srv/packages -p 8080 -P . -a .              everybody may upload
      pkgstore serve /srv/packages -p 8080 -P htpasswd -a update  password file; needs passlib
    """
    serving.run(url, options, create=create, before=before, arguments=arguments)


@cli.command(short_help="Show a package index at work: real uploads, real installs.")
@click.option("--keep", is_flag=True, help="Leave the demo's folder, to look at.")
def demo(keep: bool) -> None:
    """Show a package index at work: upload with twine, install with pip, hash-checked (extra: pkgstore[demo]).

    Everything happens in a temporary folder, on this machine, in less than a minute.
    """
    from pkgstore.cli.demo import play

    play(keep=keep)
