"""Commands for backups: to export a store, to restore one, and to look whether an archive is good."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

import pkgstore
from pkgstore import config, outfile
from pkgstore.cli import files
from pkgstore.cli.base import Command, json_option, on_a_store, opened, put_json, put_line, size_text
from pkgstore.cli.outcomes import Told, bad_counts, blobs_text, counts_text, trust_text
from pkgstore.cli.progress import Meter, may_show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore.archive import Limits

_FORMATS = ("tar.zst", "tar.gz", "tar")
_REPORT = "what is out of order, one per line, and then a report"


@click.command(cls=Command, short_help="Write an archive of a store: a backup.")
@on_a_store
@click.argument("file", default="")
@click.option("--into", metavar="URL", help="FILE is a key of the store at URL, where the archive is published.")
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Unless given, the suffix of FILE says it.")
@click.option("--scope", default="", metavar="PREFIX", help="Only what lies below PREFIX, such as tenant/.")
@click.option("--since", metavar="FILE", help="Only what is new or changed since this archive, or its manifest.")
@click.option("--sign", "sign_key", metavar="FILE", help="Sign with the Ed25519 private key in this PEM file.")
@click.option("--encrypt-key-file", "encrypt_key", metavar="FILE", help="Seal it with the 32-byte key in this file.")
@click.option("-f", "--force", is_flag=True, help="Replace FILE, if it is there.")
@json_option("a report")
def export(
    url: str,
    options: dict[str, str],
    file: str,
    into: str | None,
    form: str | None,
    scope: str,
    since: str | None,
    sign_key: str | None,
    encrypt_key: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write an archive of the store at URL to FILE (or to standard output: -), while publishers go on.

    FILE ends with .tar.zst, .tar.gz, .tgz or .tar, and has its name only once it is whole and on disk. Any tar unpacks
    it to the packages in their layout. Needs pkgstore[archive] for zstd, keys and signatures.
    """
    from pkgstore import archive
    from pkgstore.archive.local import check_target
    from pkgstore.archive.packing import format_of

    file = files.named(file, sys.stdout)
    to_stdout = file == files.STANDARD and into is None
    if to_stdout and as_json:
        raise click.UsageError("--json goes to standard output, and so would the archive: give a FILE")
    if into is None and not to_stdout:
        check_target(file)
    chosen: Any = form or ("tar.zst" if to_stdout else format_of(file))
    with (
        opened(url, options, create=False, readonly=True) as whole,
        Meter("export", "bytes", shown=may_show(as_json=as_json, writes_out=to_stdout)) as meter,
        _read_locally(since) as base,
        archive.stream(
            whole.scope(scope) if scope else whole,
            chosen,
            since=base,
            sign_key=sign_key,
            encrypt_key=encrypt_key,
            progress=meter.advance,
        ) as stream,
    ):
        if into is not None:
            with opened(into, {}, create=False) as store:
                store.publish(file, cast("BinaryIO", stream), replace=force)
        else:
            with files.target(file, force=force) as target:
                for chunk in stream.chunks():
                    outfile.write_all(target, chunk)
    report = stream.report
    if as_json:
        put_json(**asdict(report))
    elif not to_stdout:
        since_then = f", {report.kept:,} kept from its base, {report.deleted:,} deleted since" if since else ""
        vanished = f"; {report.vanished:,} vanished meanwhile" if report.vanished else ""
        put_line(
            f"Wrote {file}: {blobs_text(report.blobs)}, {size_text(report.bytes)}{since_then}{vanished};"
            f" manifest sha256 {report.sha256}."
        )


def _reading_an_archive(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of all who read an archive."""
    for option in reversed(
        [
            click.option("--verify-key", metavar="FILE", help="Refuse what is not signed with this public key (PEM)."),
            click.option("--decrypt-key-file", "decrypt_key", metavar="FILE", help="The key that it was sealed with."),
            click.option(
                "--strip-components",
                "strip",
                default=0,
                type=click.IntRange(min=0),
                metavar="N",
                help="Leave out N leading folders of the names in a tar file of others.",
            ),
            click.option("--max-ratio", default=200.0, metavar="N", help="Unpack to at most N times its size (200)."),
            click.option("--max-total", metavar="SIZE", help="Unpack to at most so much in all, such as 500Gi."),
            click.option("--max-blob", metavar="SIZE", help="Refuse blobs that are larger."),
        ]
    ):
        function = option(function)
    return function


@click.command(cls=Command, short_help="Publish what an archive holds.")
@click.argument("file")
@on_a_store
@click.option("--from", "whence", metavar="URL", help="FILE is a key of the store at URL.")
@click.option("--create", is_flag=True, help="Make a store where there is none.")
@click.option("--scope", default="", metavar="PREFIX", help="Publish below PREFIX, such as tenant/.")
@click.option("--replace", is_flag=True, help="Let the archive's version take the place of what the store has.")
@click.option("--apply-changes", is_flag=True, help="Delete and replace what was deleted and replaced since the base.")
@click.option("--any-base", is_flag=True, help="Delete, too, where the store has little of what the base had.")
@click.option("--jobs", default=8, type=click.IntRange(1, 1000), help="How many blobs are under way at a time.")
@_reading_an_archive
@json_option(_REPORT)
def restore(
    file: str,
    url: str,
    options: dict[str, str],
    whence: str | None,
    create: bool,
    scope: str,
    replace: bool,
    apply_changes: bool,
    any_base: bool,
    jobs: int,
    as_json: bool,
    **reading: Any,
) -> None:
    """Publish what the archive FILE (or standard input: -) holds in the store at URL.

    FILE is what `pkgstore export` wrote, or any tar file of a folder of packages, plain, .gz or .zst. Each blob is
    verified before it is visible. What the store has already stays as it is; after an interruption, the same command
    does the rest.
    """
    from pkgstore import archive

    with (
        opened(url, options, create=create, readonly=False) as whole,
        _read(file, whence, "restore", as_json=as_json) as source,
    ):
        store = whole.scope(scope) if scope else whole
        where = store.where
        told = Told(as_json=as_json)
        try:
            report = archive.restore(
                source,
                store,
                replace=replace,
                apply_changes=apply_changes,
                any_base=any_base,
                jobs=jobs,
                told=told,
                **_given(reading),
            )
        except pkgstore.StoreError:
            if told.count:
                if as_json:
                    put_json(**asdict(told.report))
                else:
                    put_line(f"Stopped after {blobs_text(told.count)}, to {where}: {counts_text(told.report)}.")
            raise
    if as_json:
        put_json(**asdict(report))
    else:
        put_line(
            f"Restored {blobs_text(report.blobs)}, {size_text(report.bytes)}, to {where}: {counts_text(report)};"
            f" {trust_text(report)}."
        )
    told.judge(report)


@click.command("verify-archive", cls=Command, short_help="Test an archive, without restoring it.")
@click.argument("file")
@click.option("--from", "whence", metavar="URL", help="FILE is a key of the store at URL.")
@_reading_an_archive
@json_option(_REPORT)
def verify_archive(file: str, whence: str | None, as_json: bool, **reading: Any) -> None:
    """Read the archive FILE (or standard input: -) to its end, as restore does, and restore nothing."""
    from pkgstore import archive

    with _read(file, whence, "verify-archive", as_json=as_json) as source:
        report = archive.verify(source, told=(told := Told(as_json=as_json)), **_given(reading))
    if as_json:
        put_json(**asdict(report))
    else:
        bad = ", ".join(f"{count:,} {name}" for name, count in bad_counts(report).items() if count)
        how = "damaged" if report.damaged else "whole"
        put_line(
            f"{file} is {how}: {blobs_text(report.blobs)}, {size_text(report.bytes)}{bad and ', '}{bad};"
            f" {trust_text(report)}."
        )
    told.judge(report)


def _given(reading: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `_reading_an_archive` as `pkgstore.archive` takes them."""
    from pkgstore.archive import Limits

    sizes = {}
    for name in ("total", "blob"):
        text = reading.pop(f"max_{name}")
        sizes[name] = None if text is None else config.size(f"max-{name}", text)
    limits: Limits = Limits(ratio=reading.pop("max_ratio"), **sizes)
    return {**reading, "limits": limits}


@contextmanager
def _read(file: str, whence: str | None, what: str, *, as_json: bool) -> Iterator[Any]:
    """Open an archive, and show how far it is read."""
    shown = may_show(as_json=as_json)
    if whence is not None:
        with (
            opened(whence, {}, create=False, readonly=True) as store,
            store.open(file) as reader,
            Meter(what, "bytes", total=reader.blob.size, shown=shown) as meter,
        ):
            yield files.MeteredSource(cast("BinaryIO", reader), meter)
    else:
        with (
            files.source(file) as source,
            Meter(what, "bytes", total=files.length(source), shown=shown) as meter,
        ):
            yield files.MeteredSource(source, meter)


@contextmanager
def _read_locally(path: str | None) -> Iterator[Any]:
    if path is None:
        yield None
    else:
        with files.source(path) as source:
            yield source
