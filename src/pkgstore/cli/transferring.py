"""Commands for whole stores: copying one, and reading one again."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import pkgstore
from pkgstore.cli.base import Command, json_option, on_a_store, opened, put_json, put_line, size_text
from pkgstore.cli.failures import local
from pkgstore.cli.progress import Meter, may_show

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore import Store
    from pkgstore.transfer import Mirrored, Transferred
    from pkgstore.verify import Checked, Verified

_SHOWN = ("conflict", "failed", "deleted", "replaced")


class Sample(click.ParamType[float]):
    """A share such as `5%`, or a number."""

    name = "sample"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            found = float(text[:-1]) / 100 if text.endswith("%") else int(text)
        except ValueError:
            found = 0
        if found <= 0 or (isinstance(found, float) and found > 1):
            self.fail(f"{text!r} is neither a share, such as 5%, nor a number of blobs, such as 200", param, ctx)
        return found


_jobs = click.option(
    "--jobs",
    default=16,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How many blobs are under way at a time.",
)
_scope = click.option("--scope", metavar="PREFIX", default="", help="Only what lies below it, such as team-a/.")


@click.command(cls=Command)
@click.argument("src")
@click.argument("dst")
@_scope
@click.option("--delete", is_flag=True, help="Delete from DST, in the end, what SRC has not.")
@click.option("--force", is_flag=True, help="Do so even if SRC is empty.")
@click.option("--replace", is_flag=True, help="Where both have other bytes under a key, let SRC win.")
@click.option("--create", is_flag=True, help="Make a store at DST where there is none.")
@click.option(
    "--watch",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Begin again so long after each end, until stopped.",
)
@_jobs
@json_option("one line per key that was not the same, and a summary")
def mirror(
    src: str,
    dst: str,
    scope: str,
    delete: bool,
    force: bool,
    replace: bool,
    create: bool,
    watch: float | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Copy every blob of the store SRC to the store DST, verified.

    Run it again to go on where it was cut short: what DST has already is skipped. DST keeps what it has under a key
    of other bytes, unless --replace; the exit code is then 4. If blobs failed, it is that of the first failure.
    Options of a store stand in its URL.
    """
    if force and not delete:
        raise click.UsageError("--force goes with --delete")
    with ExitStack() as stack:
        source = _scoped(stack.enter_context(opened(src, {}, create=False, readonly=True)), scope)
        target = _scoped(stack.enter_context(opened(dst, {}, create=create, readonly=False)), scope)
        while True:
            try:
                report, error = _mirrored(
                    source, target, as_json, delete=delete, force=force, replace=replace, jobs=jobs
                )
            except pkgstore.Unavailable as exc:
                if watch is None:
                    raise
                click.echo(f"pkgstore: {' '.join(str(exc).split())}; it goes on in {watch:g} s", err=True)
            else:
                _show_mirrored(report, as_json=as_json)
                if watch is None:
                    break
            with local("write", "standard output"):
                sys.stdout.flush()
            time.sleep(watch)
    if report.failed and error is not None:
        raise type(error)(f"{_blobs(report.failed)} not copied, the first because: {error}", key=error.key)
    if report.conflict:
        raise pkgstore.Exists(
            f"{_blobs(report.conflict)} at {target.where} with other bytes than at {source.where}: find out which are"
            " right, and delete the others, or run it with --replace"
        )


def _mirrored(source: Store, target: Store, as_json: bool, **how: Any) -> tuple[Mirrored, pkgstore.StoreError | None]:
    from pkgstore.transfer import mirror

    errors: list[pkgstore.StoreError] = []
    with Meter("mirror", "blobs", shown=may_show(as_json=as_json)) as meter:

        def take(outcome: Transferred) -> None:
            meter.advance(1)
            if outcome.error is not None and not errors:
                errors.append(outcome.error)
            if as_json and outcome.fate != "same":
                put_json(key=outcome.key, fate=outcome.fate, size=outcome.size, says=outcome.says)
            elif not as_json and outcome.fate in _SHOWN:
                put_line(f"{outcome.fate:<9} {outcome.key}{outcome.says and ': '}{outcome.says}")

        report = mirror(source, target, progress=take, **how)
    return report, errors[0] if errors else None


def _show_mirrored(report: Mirrored, *, as_json: bool) -> None:
    if as_json:
        put_json(**asdict(report))
        return
    counts = {name: count for name, count in asdict(report).items() if name != "bytes"}
    shown = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name in ("copied", "same"))
    put_line(f"{shown}; {size_text(report.bytes)} copied.")


@click.command(cls=Command)
@on_a_store
@_scope
@click.option("--sample", metavar="SHARE|N", type=Sample(), help="Read a share of the blobs only, such as 5%, or N.")
@click.option("--seed", metavar="TEXT", help="Of the sample: the same one chooses the same keys.")
@click.option("--repair-from", metavar="URL", help="Put that store's blob in the place of a corrupt one.")
@click.option("--quarantine", is_flag=True, help="Keep corrupt blobs aside; those not repaired are served no more.")
@click.option("--journal", metavar="FILE", help="Keep in FILE how far it is; go on from there when it is run again.")
@_jobs
@json_option("one line per blob that is wrong, and a summary")
def verify(
    url: str,
    options: dict[str, str],
    scope: str,
    sample: float | None,
    seed: str | None,
    repair_from: str | None,
    quarantine: bool,
    journal: str | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Read the blobs of a store again, and compare them with the digests recorded when they were published.

    If something is wrong, and has not been repaired, the exit code is 8.
    """
    from pkgstore import verify as verifying

    if seed is not None and sample is None:
        raise click.UsageError("--seed goes with --sample")
    changes = quarantine or repair_from is not None
    with ExitStack() as stack:
        store = _scoped(stack.enter_context(opened(url, options, create=False, readonly=not changes)), scope)
        other = None
        if repair_from is not None:
            other = _scoped(stack.enter_context(opened(repair_from, {}, create=False, readonly=True)), scope)
        with Meter("verify", "blobs", shown=may_show(as_json=as_json)) as meter, local("use", journal or "the journal"):
            report = verifying.verify(
                store,
                sample=sample,
                seed=seed,
                repair_from=other,
                quarantine=quarantine,
                journal=journal,
                jobs=jobs,
                progress=_shower(meter, as_json=as_json),
            )
    if as_json:
        put_json(**asdict(report))
    else:
        _show_verified(report)
    if report.wrong:
        raise pkgstore.Corrupt(
            f"{_blobs(report.wrong)} wrong in {store.where}, and not repaired: do as is said of each, and verify again"
        )


def _shower(meter: Meter, *, as_json: bool) -> Callable[[Checked], None]:
    def show(one: Checked) -> None:
        meter.advance(1)
        if not one.says:
            return
        if as_json:
            put_json(key=one.key, problem=one.found, did=one.did, says=one.says, remedy=one.remedy, kept_as=one.kept_as)
        else:
            kept = f"; kept as {one.kept_as}" if one.kept_as else ""
            put_line(f"{one.did or one.found:<11} {one.key}: {one.says}{kept}{one.remedy and '; '}{one.remedy}")

    return show


def _show_verified(report: Verified) -> None:
    counts = {name: count for name, count in asdict(report).items() if name not in ("bytes", "seed")}
    shown = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name in ("good", "corrupt"))
    put_line(f"{shown}; {size_text(report.bytes)} read{report.seed and f', sample seed {report.seed}'}.")


def _scoped(store: Store, scope: str) -> Store:
    return store.scope(scope) if scope else store


def _blobs(count: int) -> str:
    return "1 blob is" if count == 1 else f"{count:,} blobs are"
