"""docs/how-to/bundle.md does what it says, and tells of every option."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click

from pkgstore.cli import bundling
from tests.test_docs_tutorial import blocks

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "bundle.md"


def test_the_program(tmp_path: Path) -> None:
    (program,) = (block for block in blocks(PAGE) if block.language == "python")
    (tmp_path / "requirements.txt").write_text("six\n")
    for _ in range(2):
        shown = subprocess.run(
            [sys.executable, "-c", program.text], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert (shown.stdout, shown.stderr) == ("hello\n", "")
    assert (tmp_path / "hello").is_symlink()


def test_the_options() -> None:
    text = PAGE.read_text()
    for option in bundling.bundle.params:
        if not isinstance(option, click.Option) or option.name in ("options", "as_json"):
            continue
        name = option.opts[0]
        assert f"{name} " in text or f"{name}`" in text, name
        if option.show_default:
            default = f"{option.default:g}" if isinstance(option.default, float) else option.default
            assert f"| `{name} {default}` |" in text
    assert set(re.findall(r"(?<=`)--[a-z-]+", text)) <= {
        *(each for option in bundling.bundle.params for each in option.opts),
        "--requirement",
        "--constraint",
    }
