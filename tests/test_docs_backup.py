"""docs/how-to/backup.md does what it says: its commands and its program are run, in order."""

from __future__ import annotations

import re
from pathlib import Path

from pkgstore.cli import archiving
from tests.test_docs_s3 import Session, run
from tests.test_docs_tutorial import blocks, folder

__all__ = ["folder"]

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "how-to" / "backup.md"
REFERENCE = DOCS / "reference" / "archive.md"
SSH = "ssh backup.example.com 'cat > full.tar.zst'"


def test_the_page(folder: Path) -> None:
    place = folder.parent / "srv"
    names = {SSH: "cat > elsewhere.tar.zst", "/srv": str(place)}
    assert run(Session(folder, names), blocks(PAGE)) == 26
    assert (folder / "elsewhere.tar.zst").stat().st_size > 100


def test_the_options() -> None:
    """The reference has every option, and no other."""
    commands = (archiving.export, archiving.restore, archiving.verify_archive)
    options = {name for command in commands for each in command.params for name in each.opts if name.startswith("--")}
    rows = [line.split("|")[1] for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert {name for row in rows for name in re.findall(r"--[a-z-]+", row)} == options - {"--json"}
