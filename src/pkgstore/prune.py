"""Pruning: which versions of the packages in a store may go, and having them go.

What is pruned is a *version* of a project, with all its files, the wheels and the source distribution, and what goes
with them. Which project and version a file belongs to, its name says; what is no wheel and no source distribution by
its name is never touched.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from pkgstore import config, extras
from pkgstore.errors import Corrupt, Denied, Misconfigured
from pkgstore.spread import spread
from pkgstore.trash import KEPT_FOR, discard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor

    from packaging.version import Version

    from pkgstore.driver import Blob
    from pkgstore.store import Store

COMPANIONS = (".asc", ".metadata", ".provenance")
"""What the names of files end with that go with a package file: its signature, metadata and attestations."""

Outcome = Literal["chosen", "trashed", "deleted", "changed", "corrupt"]

_SDISTS = (".tar.gz", ".zip")


class Release(NamedTuple):
    """A version of a project. ``root`` is the folder of the index that it lies in, empty or with a slash at its end."""

    root: str
    project: str
    version: Version


@dataclass(frozen=True, slots=True)
class Rules:
    """Which versions may go: those of which every rule that is given says so.

    ``keep``          those that are not among so many newest versions of their project
    ``before``        those of which no file was written since, in seconds since the epoch
    ``pre_releases``  pre-releases and development releases, of whose project there is a newer final release
    """

    keep: int | None = None
    before: float | None = None
    pre_releases: bool = False

    def __post_init__(self) -> None:
        if self.keep is None and self.before is None and not self.pre_releases:
            raise Misconfigured("nothing says what may go: give keep, older_than or pre_releases, or several of them")
        if self.keep is not None and (type(self.keep) is not int or self.keep < 1):
            raise Misconfigured(f"keep={self.keep!r} is no number of versions: let it be 1 or more")


@dataclass(frozen=True, slots=True)
class Choice:
    """A package file that may go, with its companions; of which project and version, and why."""

    blob: Blob
    companions: tuple[Blob, ...]
    project: str
    version: str
    why: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a blob that was chosen.

    ``outcome`` is ``chosen`` (a dry run), ``trashed``, ``deleted`` (without trash), ``changed`` (another version was
    there by then, or none, and is left alone) or ``corrupt`` (it does not have its digest any more, and is left alone).
    """

    key: str
    size: int
    project: str
    version: str
    why: str
    outcome: Outcome


@dataclass
class _Files:
    """The package files of one version."""

    blobs: list[Blob] = field(default_factory=list)

    @property
    def changed(self) -> float:
        return max(blob.mtime for blob in self.blobs)


# -- the policy -------------------------------------------------------------------------------------------------------


def release_of(key: str) -> Release | None:
    """Return the version of a project that a blob is a file of, by its key; None when that is not clear.

    Names are read as packaging tools do. The folder that a file lies in, where it is its project's, decides what the
    name of an old source distribution leaves open; `six-1.0-1.tar.gz` alone could be of `six` or of `six-1-0`.
    """
    from packaging.utils import canonicalize_name, parse_wheel_filename

    folder, _, filename = key.rpartition("/")
    root, _, last = folder.rpartition("/")
    home = canonicalize_name(last) if last else ""
    found: tuple[str, Version] | None = None
    if filename.endswith(".whl"):
        with contextlib.suppress(ValueError):
            found = parse_wheel_filename(filename)[:2]
    else:
        suffix = next((each for each in _SDISTS if filename.endswith(each)), None)
        found = _sdist(filename.removesuffix(suffix), home) if suffix else None
    if found is None:
        return None
    project, version = found
    within = root if home == project else folder
    return Release(within and f"{within}/", project, version)


def _sdist(stem: str, home: str) -> tuple[str, Version] | None:
    """Return project and version of a source distribution, when there is one way to read its name."""
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    readings = []
    for at in (at for at, char in enumerate(stem) if char == "-" and at):
        try:
            reading = canonicalize_name(stem[:at]), Version(stem[at + 1 :])
        except InvalidVersion:
            continue
        if reading[0] == home:
            return reading
        readings.append(reading)
    return readings[0] if len(readings) == 1 else None


def choose(blobs: Iterable[Blob], rules: Rules) -> list[Choice]:
    """Return the package files that may go, by the rules, each with its companions; sorted by key.

    Never of the newest version of a project, nor of its newest final release.
    """
    projects: dict[tuple[str, str], dict[Version, _Files]] = defaultdict(lambda: defaultdict(_Files))
    companions: dict[str, list[Blob]] = defaultdict(list)
    for blob in blobs:
        suffix = next((each for each in COMPANIONS if blob.key.endswith(each)), None)
        if suffix:
            companions[blob.key.removesuffix(suffix)].append(blob)
        elif release := release_of(blob.key):
            projects[release.root, release.project][release.version].blobs.append(blob)
    chosen = [
        Choice(blob, tuple(companions[blob.key]), project, str(version), why)
        for (_, project), versions in projects.items()
        for version, why in _to_go(versions, rules)
        for blob in versions[version].blobs
    ]
    return sorted(chosen, key=lambda each: each.blob.key)


def _to_go(versions: dict[Version, _Files], rules: Rules) -> Iterable[tuple[Version, str]]:
    """Yield the versions of one project that may go, each with the reason."""
    order = sorted(versions, reverse=True)
    final = next((each for each in order if not each.is_prerelease), None)
    for place, version in enumerate(order):
        if place == 0 or version == final:
            continue
        reasons = []
        if rules.keep is not None:
            if place < rules.keep:
                continue
            reasons.append("not the newest" if rules.keep == 1 else f"not among the {rules.keep} newest")
        if rules.before is not None:
            changed = versions[version].changed
            if changed >= rules.before:
                continue
            reasons.append(f"last changed {datetime.fromtimestamp(changed, UTC):%Y-%m-%d}")
        if rules.pre_releases:
            if not version.is_prerelease or final is None or final < version:
                continue
            reasons.append(f"a pre-release before {final}")
        yield version, ", ".join(reasons)


def moment(name: str, value: str | float | timedelta | datetime, now: float) -> float:
    """Return the moment before which something is older than ``value``, in seconds since the epoch.

    That is a span of time, such as ``90d``, before ``now``, or a date or time, such as ``2026-01-31``, which is UTC
    unless it says another zone. Raises `Misconfigured`, with the option's name.
    """
    if isinstance(value, str) and re.match(r"\d{4}-", value.strip()):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise Misconfigured(f"the option {name}={value!r} is no date, such as 2026-01-31") from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return now - config.span(name, value)


# -- doing it ---------------------------------------------------------------------------------------------------------


def prune(
    store: Store,
    *,
    keep: int | None = None,
    older_than: str | float | timedelta | datetime | None = None,
    pre_releases: bool = False,
    dry_run: bool = True,
    keep_trash: str | float | timedelta | None = KEPT_FOR,
    executor: Executor | None = None,
    progress: Callable[[Pruned], object] | None = None,
) -> list[Pruned]:
    """Move versions of packages to the trash that the rules let go; return what became of each file, sorted by key.

    A version goes when every rule that is given says so: when it is not among the ``keep`` newest of its project, when
    none of its files was written since ``older_than`` (``"90d"`` ago, or a date, by this host's clock), and when it is
    a pre-release with a newer final release (``pre_releases``). The newest version of a project never goes, nor does
    its newest final release. A scope is pruned for itself.

    Nothing is changed unless ``dry_run`` is off. What is pruned can be undeleted for ``keep_trash``; with None it is
    deleted at once. A version that is published at the same moment stays. ``executor`` is what does the work, threads
    of its own unless given, and ``progress`` is called with each result, in this thread.

    Raises `Misconfigured` for rules that cannot be, or where the package ``packaging`` is missing, `Denied` for a store
    that is open for reading only, and what `Store.list` and `pkgstore.trash.discard` raise, but for `Corrupt`.
    """
    rules = Rules(keep, None if older_than is None else moment("older_than", older_than, time.time()), pre_releases)
    kept_for = None if keep_trash is None else config.span("keep_trash", keep_trash)
    if not dry_run and store.readonly:
        raise Denied(f"cannot prune {store.where}: it is open for reading only")
    with extras.needed("pruning", "prune"):
        import packaging.version  # noqa: F401
    choices = choose(store.list(), rules)
    do = partial(_carried_out, store, kept_for)
    results = map(_listed, choices) if dry_run else spread(do, choices, executor=executor)
    found = []
    for each in chain.from_iterable(results):
        found.append(each)
        if progress is not None:
            progress(each)
    return sorted(found, key=lambda each: each.key)


def _listed(choice: Choice) -> list[Pruned]:
    return [_result(choice, blob, "chosen") for blob in (*choice.companions, choice.blob)]


def _carried_out(store: Store, kept_for: float | None, choice: Choice) -> list[Pruned]:
    # The companions first: as long as its file is there, what an interruption left of them is found again.
    return [_result(choice, blob, _gone(store, kept_for, choice, blob)) for blob in (*choice.companions, choice.blob)]


def _gone(store: Store, kept_for: float | None, choice: Choice, blob: Blob) -> Outcome:
    if kept_for is None:
        return "deleted" if store.delete(blob.key, tag=blob.tag) else "changed"
    goes_with = None if blob is choice.blob else choice.blob
    try:
        done = discard(store, blob, why=f"pruned: {choice.why}", keep=kept_for, goes_with=goes_with)
    except Corrupt:
        return "corrupt"
    return "trashed" if done else "changed"


def _result(choice: Choice, blob: Blob, outcome: Outcome) -> Pruned:
    return Pruned(blob.key, blob.size, choice.project, choice.version, choice.why, outcome)
