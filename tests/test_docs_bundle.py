"""docs/how-to/bundle.md does what it says, and tells of every option."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pkgstore.bundle.places import Place
from pkgstore.cli import bundling
from tests.test_bundle_command import bundle, script
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


@pytest.mark.parametrize("interrupted", [False, True])
def test_old_ones_are_removed_as_the_page_says(tmp_path: Path, interrupted: bool) -> None:
    (text,) = (block.text for block in blocks(PAGE) if block.language == "sh")
    dest = tmp_path / "packages"
    command = script(tmp_path, "open(dest + '/lock', 'w')\nopen(dest + '/file', 'w')\n")
    for word in ("1", "2", "3"):
        assert bundle(dest, [*command, word]).returncode == 0
    current = dest.resolve().name
    for _ in range(2):
        line = text.replace("rm -rf", "true") if interrupted else text
        subprocess.run(["sh", "-ec", line.replace("/srv/", f"{tmp_path}/")], check=True, timeout=30)
        assert dest.resolve().name == current
        assert sorted(os.listdir(dest)) == ["file", "lock"]
    if interrupted:
        assert bundle(dest, [*command, "4"]).returncode == 0  # which removes what is left
    assert set(os.listdir(Place(dest).folder)) == {"lock", current, dest.resolve().name}
