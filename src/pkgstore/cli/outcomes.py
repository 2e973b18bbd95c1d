"""What the commands for archives tell: each blob that is out of order, a report, and the error that it amounts to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pkgstore
from pkgstore.cli.base import put_json, put_line

if TYPE_CHECKING:
    from pkgstore.archive import Outcome, Restored

_SHOWN = {"conflict", "damaged", "refused", "withheld", "missing"}
_MOST_KEYS = 3


class Told:
    """Prints what is out of order as it comes, and remembers the first keys for the error at the end.

    ``report`` counts what was told, of which the archive's own report is not had when it ends early.
    """

    def __init__(self, *, as_json: bool) -> None:
        from pkgstore.archive import Restored

        self.report = Restored()
        self.count = 0
        self._as_json = as_json
        self._first: dict[str, list[str]] = {}

    def __call__(self, outcome: Outcome) -> None:
        self.count += 1
        self.report.count(outcome)
        if outcome.fate not in _SHOWN:
            return
        first = self._first.setdefault(outcome.fate, [])
        if len(first) < _MOST_KEYS:
            first.append(outcome.key)
        if self._as_json:
            put_json(key=outcome.key, fate=outcome.fate, why=outcome.why)
        else:
            put_line(f"{outcome.fate:<9} {outcome.key}: {outcome.why}")

    def judge(self, report: Restored) -> None:
        """Raise the error, if any, that what was told amounts to."""
        for fate, kind, one, more, says in (
            ("damaged", pkgstore.Corrupt, "is", "are", "damaged in the archive: take another copy"),
            ("refused", pkgstore.InvalidKey, "was", "were", "refused, and not restored: see above"),
            (
                "withheld",
                pkgstore.Misconfigured,
                "was",
                "were",
                "not deleted: see above why; --any-base is for stores that are to have little of the base",
            ),
            (
                "conflict",
                pkgstore.Exists,
                "is",
                "are",
                "there in another version, which stays: look at both, or give --replace",
            ),
            ("missing", pkgstore.NotFound, "is", "are", "not there: restore the base of the archive first"),
        ):
            count = getattr(report, fate)
            if count:
                names = ", ".join(self._first[fate]) + (", ..." if count > len(self._first[fate]) else "")
                members = f"{count:,} {'member' if count == 1 else 'members'} of the archive"
                raise kind(f"{members} {one if count == 1 else more} {says}: {names}", key=self._first[fate][0])


def blobs_text(count: int) -> str:
    return "1 blob" if count == 1 else f"{count:,} blobs"


def counts_text(report: Restored) -> str:
    """Return how many blobs have had which fate, as people read it."""
    counts = {
        "new": report.new,
        "the same": report.same,
        "replaced": report.replaced,
        "deleted": report.deleted,
        "in conflict": report.conflict,
        **bad_counts(report),
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name == "new")


def bad_counts(report: Restored) -> dict[str, int]:
    """Return how many members were not as they should be, by what is said of them."""
    return {
        "damaged": report.damaged,
        "refused": report.refused,
        "not deleted": report.withheld,
        "left out": report.left_out,
        "missing": report.missing,
    }


def trust_text(report: Restored) -> str:
    """Return what is known of an archive's origin."""
    if not report.has_manifest:
        return "no manifest: of unverified origin"
    return {"good": "signature good", "unchecked": "signed, not checked", "none": "not signed"}[report.signature]
