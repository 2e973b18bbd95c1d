"""docs/how-to/encrypt.md does what it says: its commands and programs are run, in order, on a folder."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pkgstore
from pkgstore.crypt.segments import HEADER, RECORD, SEGMENT, stored_size
from tests.command import run

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "encrypt.md"
REFERENCE = ROOT / "docs" / "reference" / "encryption.md"


def test_the_page(tmp_path: Path) -> None:
    places = {
        "/etc/pkgstore/keyring": f"{tmp_path}/ring",
        "s3://packages/pypi": f"file://{tmp_path}/store",
        "/srv/plain": f"{tmp_path}/plain",
        "/srv/encrypted": f"{tmp_path}/store",
    }
    text = PAGE.read_text()
    for name, place in places.items():
        assert name in text
        text = text.replace(name, place)
    for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(program, str(PAGE), "exec")
    with pkgstore.open(tmp_path / "plain") as plain:
        plain.publish("six/six-1.0.tar.gz", b"words", digests={"md5": None})
    lines = [line.removeprefix("    ").partition("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    commands = [line for line in lines if line.startswith("pkgstore ")]
    assert len(commands) == 6
    for number, command in enumerate(commands):
        program, *words = shlex.split(command)
        assert program == "pkgstore"
        done = run(*words, env={**os.environ, "PKGSTORE_KEYRING_FILE": ""})
        assert done.returncode == 0, done
        if number == 1:
            example = next(each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "old.list" in each)
            exec(compile("import pkgstore\n" + example, str(PAGE), "exec"), {})
    assert "six/six-1.0.tar.gz" in done.stdout
    assert str(stored_size(5)) in done.stdout
    with pkgstore.open(tmp_path / "store", keyring=tmp_path / "ring") as store:
        assert store.read("six/six-1.0.tar.gz") == b"words"
        assert set(store.stat("six/six-1.0.tar.gz").digests) == {"sha256", "md5"}


def test_the_figures_of_the_reference() -> None:
    text = REFERENCE.read_text()
    assert f"takes {HEADER + RECORD} bytes more there, and 16 for each {SEGMENT >> 10} KiB" in text
    assert f"| {RECORD} | the record, if it comes before |" in text
    assert f"{SEGMENT:,} bytes of plaintext each" in text
