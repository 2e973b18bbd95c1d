"""Pruning: what may go, by the rules; and that it goes, comes back, and is gone from an index meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from packaging.version import Version

import pkgstore
from pkgstore import Blob, Denied, Misconfigured, config
from pkgstore import prune as pruning
from pkgstore.cli.app import run as run_here
from pkgstore.prune import Choice, Pruned, Rules, choose, moment, prune, release_of
from pkgstore.trash import discard, empty, trashed, undelete
from tests.command import complaint, run
from tests.packages import sdist, wheel, wheel_name
from tests.servers import gunicorn, pkgstore_app
from tests.test_pypiserver_clients import pip_install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

DAY = 86400.0
NOW = 1_800_000_000.0


def blob(key: str, age: float = 0.0) -> Blob:
    return Blob(key, 10, NOW - age * DAY, "t")


def six(version: str, age: float = 0.0) -> Blob:
    return blob(f"six/six-{version}-py3-none-any.whl", age)


def chosen(blobs: Iterable[Blob], **rules: Any) -> list[str]:
    return [each.blob.key for each in choose(blobs, Rules(**rules))]


def versions(blobs: Iterable[Blob], **rules: Any) -> list[str]:
    return [each.version for each in choose(blobs, Rules(**rules))]


# -- what a file is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "release"),
    [
        ("six/six-1.17.0-py2.py3-none-any.whl", ("", "six", "1.17.0")),
        ("six-1.17.0-py2.py3-none-any.whl", ("", "six", "1.17.0")),
        ("six/six-1.17.0.tar.gz", ("", "six", "1.17.0")),
        ("team/six/six-1.17.0.zip", ("team/", "six", "1.17.0")),
        ("team/six-1.17.0.zip", ("team/", "six", "1.17.0")),
        ("Foo.Bar/foo_bar-1.0-1-py3-none-any.whl", ("", "foo-bar", "1.0")),
        ("foo-bar/Foo_Bar-2.0+local.1-py3-none-any.whl", ("", "foo-bar", "2.0+local.1")),
        ("a/zope.interface-5.0.tar.gz", ("a/", "zope-interface", "5.0")),
        ("six/six-1.0-1.tar.gz", ("", "six", "1.0.post1")),
        ("foo-2/foo-2-1.tar.gz", ("", "foo-2", "1")),
        ("foo/foo-2-1.tar.gz", ("", "foo", "2.post1")),
        ("foo/foo-bar-1.tar.gz", ("foo/", "foo-bar", "1")),
    ],
)
def test_the_version_that_a_file_belongs_to(key: str, release: tuple[str, str, str]) -> None:
    found = release_of(key)
    assert found is not None
    assert (found.root, found.project, str(found.version)) == release


@pytest.mark.parametrize(
    "key",
    [
        "README",
        "six/index.html",
        "six/six.tar.gz",
        "six/six-1.0.tar.bz2",
        "six/six-1.0.exe",
        "six/six-1.0-py3.8.egg",
        "six/six-not.a.version.tar.gz",
        "six/six-1.0.whl",
        "six/six-x-py3-none-any.whl",
        "six/-1.0.tar.gz",
        "foo-2-1.tar.gz",
        "dumps/data-2024-01-05.tar.gz",
        "six/six-1.0-py3-none-any.whl.asc",
    ],
)
def test_what_is_no_package_file(key: str) -> None:
    assert release_of(key) is None


# -- the rules --------------------------------------------------------------------------------------------------------


def test_the_newest_are_kept_in_the_order_of_pep_440() -> None:
    blobs = [six(each) for each in ("1.10", "1.9", "1.2", "1.10.post1", "1.11rc1", "1.0", "1!0.1")]
    assert sorted(versions(blobs, keep=3), key=Version) == ["1.0", "1.2", "1.9", "1.10"]


def test_a_version_goes_with_all_its_files_and_theirs() -> None:
    files = [
        "six/six-1.0-py2-none-any.whl",
        "six/six-1.0-py3-none-any.whl",
        "six/six-1.0.0.tar.gz",
    ]
    others = [
        "six/six-1.0-py3-none-any.whl.asc",
        "six/six-1.0-py3-none-any.whl.metadata",
        "six/six-1.0.0.tar.gz.provenance",
    ]
    found = choose(
        [*map(blob, files), *map(blob, others), six("2.0"), blob("six/six-2.0-py3-none-any.whl.asc")], Rules(1)
    )
    assert [each.blob.key for each in found] == files
    assert [each.key for choice in found for each in choice.companions] == others
    assert {choice.version for choice in found} <= {"1.0", "1.0.0"}


def test_a_version_is_as_old_as_its_newest_file() -> None:
    blobs = [six("1.0", 100), blob("six/six-1.0.tar.gz", 1), six("0.9", 100), six("2.0", 100)]
    assert versions(blobs, before=NOW - 90 * DAY) == ["0.9"]


def test_pre_releases_go_when_a_final_release_has_followed() -> None:
    blobs = [six(each) for each in ("1.0a1", "1.0.dev3", "1.0", "1.1rc1", "1.1.post1.dev1", "0.9")]
    assert sorted(versions(blobs, pre_releases=True)) == ["1.0.dev3", "1.0a1"]
    assert versions([six("1.0a1"), six("1.0a2")], pre_releases=True) == []


def test_every_rule_has_to_agree() -> None:
    blobs = [six("3.0"), six("2.0", 10), six("1.0", 100), six("1.0rc1", 100), six("2.0rc1", 10)]
    assert versions(blobs, keep=2, before=NOW - 50 * DAY) == ["1.0", "1.0rc1"]
    assert versions(blobs, keep=2, pre_releases=True) == ["1.0rc1", "2.0rc1"]
    assert versions(blobs, keep=2, before=NOW - 50 * DAY, pre_releases=True) == ["1.0rc1"]


def test_the_newest_never_goes_nor_the_newest_final() -> None:
    blobs = [six("1.0", 900), six("2.0rc1", 800), six("2.0rc2", 700)]
    assert versions(blobs, keep=1, before=NOW) == ["2.0rc1"]
    assert versions([six("1.0rc1", 900)], keep=1, before=NOW) == []


def test_projects_are_apart_and_so_are_indexes() -> None:
    keys = ["a/a-1.0.tar.gz", "a-2.0.tar.gz", "b/b-1.0.tar.gz", "team/a/a-1.0.tar.gz", "team/a-0.5.tar.gz"]
    assert chosen(map(blob, keys), keep=1) == ["a/a-1.0.tar.gz", "team/a-0.5.tar.gz"]


def test_why() -> None:
    blobs = [six("3.0"), six("2.0"), six("1.0rc1", 100), six("2.1rc1", 100)]
    moment = datetime.fromtimestamp(NOW - 100 * DAY, UTC)
    reasons = {each.version: each.why for each in choose(blobs, Rules(1, NOW - DAY, True))}
    assert reasons["1.0rc1"] == f"not the newest, last changed {moment:%Y-%m-%d}, a pre-release before 3.0"
    assert choose(blobs, Rules(3))[0].why == "not among the 3 newest"


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_a_number_that_is_none(keep: Any) -> None:
    with pytest.raises(Misconfigured, match="is no number of versions: let it be 1 or more"):
        Rules(keep)


def test_no_rules() -> None:
    with pytest.raises(Misconfigured, match="nothing says what may go"):
        Rules()


NUMBERS = st.sampled_from([1, 2, 10])
VERSIONS = st.builds(
    lambda epoch, release, pre, post, dev, local: f"{epoch}{release}{pre}{post}{dev}{local}",
    st.sampled_from(["", "", "1!"]),
    st.builds(lambda major, minor: f"{major}.{minor}", st.integers(0, 1), NUMBERS),
    st.sampled_from(["", "", "a1", "rc2"]),
    st.sampled_from(["", "", "", ".post1"]),
    st.sampled_from(["", "", "", ".dev1"]),
    st.sampled_from(["", "", "", "+one", "+2"]),
)
SUFFIXES = ["-py3-none-any.whl", ".tar.gz", ".zip", "-py3-none-any.whl.asc", ".txt"]


@st.composite
def files_of_few_versions(draw: st.DrawFn) -> list[tuple[str, str, str, int]]:
    """Draw files, of which several are often of one version: project, version, suffix, and age in days."""
    some = st.sampled_from(draw(st.lists(VERSIONS, min_size=1, max_size=8, unique=True)))
    each = st.tuples(st.sampled_from(["a", "b_c"]), some, st.sampled_from(SUFFIXES), st.integers(0, 200))
    return draw(st.lists(each, max_size=25))


FILES = files_of_few_versions()
RULES = st.builds(
    lambda keep, days, pre: Rules(keep, None if days is None else NOW - days * DAY, pre),
    st.sampled_from([1, 1, 2, 5]),
    st.none() | st.integers(0, 200) | st.integers(50, 150),
    st.sampled_from([False, False, True]),
)


def at_leisure(blobs: list[Blob], rules: Rules) -> set[str]:
    """Return what may go, worked out blob by blob, straight from what is said of the rules."""
    files = {}
    for each in blobs:
        name = each.key.rpartition("/")[2]
        if not name.endswith((".asc", ".txt")):
            project, _, rest = name.removesuffix(".zip").removesuffix(".tar.gz").partition("-")
            files[each.key] = (project, Version(rest.removesuffix("-py3-none-any.whl")), each.mtime)
    gone = set()
    for key, (project, version, _) in files.items():
        all_of_it = {other for owner, other, _ in files.values() if owner == project}
        finals = {other for other in all_of_it if not (other.pre or other.dev is not None)}
        newest_file = max(mtime for owner, other, mtime in files.values() if (owner, other) == (project, version))
        newer = {other for other in all_of_it if other > version}
        if not newer or (version in finals and not newer & finals):
            continue
        if rules.keep is not None and len(newer) < rules.keep:
            continue
        if rules.before is not None and not newest_file < rules.before:
            continue
        if rules.pre_releases and (version in finals or not newer & finals):
            continue
        gone.add(key)
    return gone


def check_policy(**how: Any) -> None:
    @settings(deadline=None, print_blob=True, database=None, **how)
    @given(FILES, RULES)
    def check(files: list[tuple[str, str, str, int]], rules: Rules) -> None:
        ages = {f"{project}/{project}-{version}{suffix}": age for project, version, suffix, age in files}
        blobs = [blob(key, age) for key, age in ages.items()]
        assert {each.blob.key for each in choose(blobs, rules)} == at_leisure(blobs, rules)

    check()


def test_the_policy_is_what_is_said_of_it() -> None:
    check_policy(max_examples=300)


def in_the_order_of_strings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pruning, "sorted", lambda found, **how: sorted(found, **{"key": str, **how}), raising=False)


def the_newest_final_may_go(patch: pytest.MonkeyPatch) -> None:
    def to_go(found: dict[Version, Any], rules: Rules) -> list[tuple[Version, str]]:
        return [(each, "") for each in sorted(found, reverse=True)[rules.keep :]]

    patch.setattr(pruning, "_to_go", to_go)


def any_rule_is_enough(patch: pytest.MonkeyPatch) -> None:
    original = pruning._to_go

    def to_go(found: Any, rules: Rules) -> list[tuple[Version, str]]:
        given_rules = [Rules(rules.keep), *([] if rules.before is None else [Rules(before=rules.before)])]
        return list({each: (each, why) for one in given_rules for each, why in original(found, one)}.values())

    patch.setattr(pruning, "_to_go", to_go)


def as_old_as_the_oldest_file(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pruning._Files, "changed", property(lambda self: min(each.mtime for each in self.blobs)))


@pytest.mark.parametrize(
    "mistake", [in_the_order_of_strings, the_newest_final_may_go, any_rule_is_enough, as_old_as_the_oldest_file]
)
def test_a_policy_with_a_mistake_is_caught(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        check_policy(max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True)


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 90 * DAY), ("12h", 12 * 3600), ("1.5 D", 1.5 * DAY), ("2w", 14 * DAY), ("5m", 300), (60, 60), ("7s", 7)],
)
def test_spans(text: str, seconds: float) -> None:
    assert config.span("x", text) == seconds
    assert moment("x", text, NOW) == NOW - seconds


@pytest.mark.parametrize(
    "bad", ["", "90", "d", "-1d", "1y", "90dd", -1, float("inf"), float("nan"), True, None, "9" * 20 + "w"]
)
def test_what_is_no_span(bad: Any) -> None:
    with pytest.raises(Misconfigured, match=r"the option older_than=.* is no span of time, such as 90d, 12h or 2w"):
        moment("older_than", bad, NOW)


def test_dates() -> None:
    assert moment("x", timedelta(days=2), NOW) == NOW - 2 * DAY
    day = datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("x", "2026-01-31", NOW) == moment("x", day, NOW) == day.timestamp()
    assert moment("x", "2026-01-31T02:00:00+02:00", NOW) == day.timestamp()
    assert moment("x", datetime(2026, 1, 31), NOW) == day.timestamp()  # noqa: DTZ001 - taken as UTC
    with pytest.raises(Misconfigured, match="is no date, such as 2026-01-31"):
        moment("older_than", "2026-02-30", NOW)


# -- doing it ---------------------------------------------------------------------------------------------------------


FILES_OF_SIX = [
    *(f"six/six-{version}-py3-none-any.whl" for version in ("1.0", "1.1", "1.2rc1", "1.2")),
    "six/six-1.0-py3-none-any.whl.asc",
    "six/six-1.0.tar.gz",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with some versions of a project, and a file of another kind."""
    with pkgstore.open(tmp_path / "store") as store:
        for key in (*FILES_OF_SIX, "six/NOTES.txt"):
            store.publish(key, key.encode())
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[pkgstore.Store]:
    with pkgstore.open(root) as store:
        yield store


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return all files in a folder, with their bytes and times."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_a_dry_run_changes_nothing(root: Path) -> None:
    before = tree(root)
    with pkgstore.open(root, readonly=True) as store:
        found = prune(store, keep=1)
    assert {each.outcome for each in found} == {"chosen"}
    assert {each.version for each in found} == {"1.0", "1.1", "1.2rc1"}
    assert tree(root) == before


def test_what_is_pruned_is_what_a_dry_run_tells(store: pkgstore.Store) -> None:
    told = []
    dry = prune(store, keep=1)
    done = prune(store, keep=1, dry_run=False, progress=told.append)
    assert [each.key for each in done] == [each.key for each in dry]
    assert sorted(told, key=lambda each: each.key) == done
    assert {each.outcome for each in done} == {"trashed"}
    assert [blob.key for blob in store.list()] == ["six/NOTES.txt", "six/six-1.2-py3-none-any.whl"]
    assert sorted(each.key for each in trashed(store)) == [each.key for each in done]
    assert {each.why for each in trashed(store)} == {"pruned: not the newest"}
    assert [blob.key for blob in undelete(store, FILES_OF_SIX[0])] == [FILES_OF_SIX[0], f"{FILES_OF_SIX[0]}.asc"]
    assert prune(store, keep=2, dry_run=False) == []


def test_without_trash(store: pkgstore.Store) -> None:
    found = prune(store, keep=1, dry_run=False, keep_trash=None)
    assert {each.outcome for each in found} == {"deleted"}
    assert list(trashed(store)) == []
    assert len(list(store.list())) == 2


def test_what_is_replaced_meanwhile_stays(store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = FILES_OF_SIX[0]
    original = choose

    def slow(blobs: Iterable[Blob], rules: Rules) -> list[Choice]:
        found = original(blobs, rules)
        store.publish(key, b"new", replace=True)
        return found

    monkeypatch.setattr(pruning, "choose", slow)
    for keep_trash in ("1d", None):
        outcomes = {each.key: each.outcome for each in prune(store, keep=1, dry_run=False, keep_trash=keep_trash)}
        assert outcomes[key] == "changed"
        assert store.read(key) == b"new"


def test_a_corrupt_file_stays(root: Path) -> None:
    path = root / FILES_OF_SIX[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    shown = run("prune", root, "--keep", "1", "--yes")
    assert f"'{FILES_OF_SIX[0]}' in file://{root} stayed" in complaint(shown, 8)
    assert f"{FILES_OF_SIX[0]}  left alone: its bytes are not" in shown.stdout
    assert path.exists()
    assert not (root / FILES_OF_SIX[1]).exists()


def test_reading_only(root: Path) -> None:
    with pkgstore.open(root, readonly=True) as store, pytest.raises(Denied, match="open for reading only"):
        prune(store, keep=1, dry_run=False)


def test_without_packaging_one_line_says_what_to_install(
    store: pkgstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "packaging.version", None)
    with pytest.raises(Misconfigured, match=r"pip install 'pkgstore\[prune\]'"):
        prune(store, keep=1)


def test_a_scope_is_pruned_for_itself(store: pkgstore.Store) -> None:
    scope = store.scope("team/")
    for version in ("3.0", "4.0"):
        scope.publish(f"six/six-{version}.tar.gz", b"1")
    assert [each.key for each in prune(scope, keep=1, dry_run=False)] == ["six/six-3.0.tar.gz"]
    assert [each.key for each in trashed(store)] == ["team/six/six-3.0.tar.gz"]


def test_by_processes(store: pkgstore.Store) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = prune(store, keep=1, dry_run=False, executor=pool)
        assert [each.outcome for each in found] == ["trashed"] * 5
        assert len(list(trashed(store, executor=pool))) == 5
        assert empty(store, everything=True, executor=pool).blobs == 5
    assert len(list(store.list())) == 2


# -- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands(root: Path) -> None:
    before = tree(root)
    shown = run("prune", root, "--keep", "2")
    assert shown.returncode == 0, shown
    assert shown.stdout == (
        "six 1.0: not among the 2 newest\n"
        "              28  six/six-1.0-py3-none-any.whl\n"
        "              32  six/six-1.0-py3-none-any.whl.asc\n"
        "              18  six/six-1.0.tar.gz\n"
        "six 1.1: not among the 2 newest\n"
        "              28  six/six-1.1-py3-none-any.whl\n"
        "4 files of 2 versions, 106 bytes, would go: with --yes, they do.\n"
    )
    assert tree(root) == before
    done = run("prune", root, "--keep", "2", "--yes").stdout
    assert "  six/six-1.0.tar.gz  in the trash\n" in done
    assert done.splitlines()[-1].startswith("Moved 4 files of 2 versions, 106 bytes, to the trash: ")
    assert run("prune", root, "--keep", "2", "--yes").stdout == "Nothing to prune.\n"
    there = run("trash", "list", root).stdout.splitlines()
    assert len(there) == 5
    assert there[0].endswith("28  six/six-1.0-py3-none-any.whl  pruned: not among the 2 newest")
    assert there[-1] == f"4 blobs in the trash of file://{root}, 106 bytes."
    back = run("undelete", root, "six/six-1.0-py3-none-any.whl")
    assert back.stdout == (
        "Published six/six-1.0-py3-none-any.whl again: 28 bytes.\n"
        "Published six/six-1.0-py3-none-any.whl.asc again: 32 bytes.\n"
    )
    assert "is already in" in complaint(run("undelete", root, "six/six-1.0-py3-none-any.whl"), 4)
    assert "is not in the trash of" in complaint(run("undelete", root, "a"), 3)
    kept = run("trash", "empty", root)
    assert kept.stdout == f"Removed 0 blobs, 0 bytes, from the trash of file://{root}.\n"
    assert json.loads(run("trash", "empty", root, "--all", "--json").stdout) == {"blobs": 4, "bytes": 106}
    assert run("trash", "list", root).stdout == f"0 blobs in the trash of file://{root}, 0 bytes.\n"


def test_the_commands_as_json(root: Path) -> None:
    arguments = ("prune", root, "--pre-releases", "--json")
    for more, outcome in (((), "chosen"), (("--yes",), "trashed")):
        (line,) = run(*arguments, *more).stdout.splitlines()
        assert json.loads(line) == {
            "key": "six/six-1.2rc1-py3-none-any.whl",
            "size": 31,
            "project": "six",
            "version": "1.2rc1",
            "why": "a pre-release before 1.2",
            "outcome": outcome,
        }
    (line,) = run("trash", "list", root, "--json").stdout.splitlines()
    item = json.loads(line)
    assert item["until"] == item["trashed"] + 30 * DAY
    assert item["digests"]["sha256"] == hashlib.sha256(item["key"].encode()).hexdigest()
    (line,) = run(
        "undelete", root, item["key"], "--sha256", item["digests"]["sha256"].upper(), "--json"
    ).stdout.splitlines()
    assert json.loads(line)["digests"] == item["digests"]


@pytest.mark.parametrize("error", [pkgstore.Unavailable("it does not answer"), KeyboardInterrupt()])
def test_what_was_done_before_it_ended_is_shown(
    root: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As who asks for no trash could not tell otherwise what is gone."""

    def broken(store: pkgstore.Store, *, progress: Callable[[Pruned], object], **_: object) -> None:
        progress(Pruned("six-1.0.tar.gz", 18, "six", "1.0", "a test", "deleted"))
        raise error

    monkeypatch.setattr(pruning, "prune", broken)
    line = ["prune", str(root), "--keep", "1", "--scope", "six/", "--yes", "--no-trash"]
    assert run_here(line) == (130 if isinstance(error, KeyboardInterrupt) else 7)
    assert "              18  six/six-1.0.tar.gz  deleted\n" in capsys.readouterr().out
    run_here([*line, "--json"])
    assert json.loads(capsys.readouterr().out)["key"] == "six/six-1.0.tar.gz"


def test_a_reason_is_shown_in_one_printable_line(root: Path) -> None:
    with pkgstore.open(root) as store:
        discard(store, store.stat("six/NOTES.txt"), why="\x1b[2J\n", keep=DAY)
    assert run("trash", "list", root).stdout.splitlines()[0].endswith(r"  six/NOTES.txt  '\x1b[2J\n'")


def test_rm_to_the_trash(root: Path) -> None:
    shown = run("rm", root, "six/NOTES.txt", "absent", "--trash")
    assert "absent' is not in" in complaint(shown, 3)
    assert shown.stdout == "Moved six/NOTES.txt to the trash.\n"
    assert not (root / "six/NOTES.txt").exists()
    assert run("undelete", root, "six/NOTES.txt").returncode == 0
    assert (root / "six/NOTES.txt").read_bytes() == b"six/NOTES.txt"


def test_options_of_the_commands(root: Path) -> None:
    assert "give --keep, --older-than or --pre-releases" in complaint(run("prune", root), 2)
    assert "--no-trash keeps nothing" in complaint(
        run("prune", root, "--keep", "1", "--no-trash", "--keep-trash", "1d"), 2
    )
    assert "is no span of time" in complaint(run("prune", root, "--older-than", "90"), 2)
    assert "is no span of time" in complaint(run("prune", root, "--keep", "1", "--keep-trash", "long"), 2)
    assert "--sha256 is of one key" in complaint(run("undelete", root, "a", "b", "--sha256", "0" * 64), 2)
    assert "missing command" in complaint(run("trash"), 2)
    assert "there is no command 'lst'" in complaint(run("trash", "lst", root), 2)
    assert run("prune", root, "--older-than", "1d", "--yes").stdout == "Nothing to prune.\n"
    assert run("prune", root, "--keep", "1", "--scope", "none/", "--yes").stdout == "Nothing to prune.\n"
    (last,) = run("prune", root, "--keep", "3", "--scope", "six/", "--yes", "--json").stdout.splitlines()[-1:]
    assert json.loads(last)["key"] == "six/six-1.0.tar.gz"
    assert run("undelete", root, "six/six-1.0.tar.gz", "six/six-1.0-py3-none-any.whl").returncode == 0
    done = run("prune", root, "--keep", "1", "--no-trash", "--yes").stdout
    assert done.splitlines()[-1] == "Deleted 5 files of 3 versions, 137 bytes."


def test_files_that_are_old(root: Path) -> None:
    old = datetime(2020, 1, 2, tzinfo=UTC).timestamp()
    for version in ("1.0", "1.1", "1.2"):
        os.utime(root / f"six/six-{version}-py3-none-any.whl", (old, old))
    found = run("prune", root, "--older-than", "2020-06-01").stdout
    assert found.splitlines()[0] == "six 1.1: last changed 2020-01-02"
    assert found.splitlines()[-1].startswith("1 file of 1 version, ")


# -- an index ---------------------------------------------------------------------------------------------------------


def test_an_index_loses_what_is_pruned_and_has_it_back(tmp_path: Path) -> None:
    root = tmp_path / "store"
    old, new = wheel_name("round-trip", "1.0"), wheel_name("round-trip", "2.0")
    with (
        pkgstore.open(root) as store,
        gunicorn(pkgstore_app(root, "--disable-fallback"), tmp_path / "log", "--threads", "2") as index,
    ):
        for name, data in (
            (old, wheel("round-trip", "1.0")),
            (new, wheel("round-trip", "2.0")),
            ("round-trip-1.0.tar.gz", sdist("round-trip", "1.0")),
        ):
            assert index.upload(name, data).status == 200
        page = index.files("round-trip")
        assert set(page) == {old, new, "round-trip-1.0.tar.gz"}
        assert len(prune(store, keep=1, dry_run=False)) == 2
        assert set(index.files("round-trip")) == {new}
        assert index.get(page[old].partition("#")[0]).status == 404
        refused = pip_install(index, tmp_path, tmp_path / "none", "round-trip==1.0")
        assert refused.returncode != 0
        assert "No matching distribution" in refused.stderr
        undelete(store, f"round-trip/{old}")
        assert index.files("round-trip")[old] == page[old]
        installed = pip_install(index, tmp_path, tmp_path / "some", "round-trip==1.0")
        assert installed.returncode == 0, installed
        assert "VERSION = '1.0'" in (tmp_path / "some" / "round_trip" / "__init__.py").read_text()
