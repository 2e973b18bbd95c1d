"""docs/how-to/encrypt.md does what it says: its commands and programs are run, in order, on a folder."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

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
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with pkgstore.open(tmp_path / "plain") as plain:
        plain.publish("six/six-1.0.tar.gz", b"words", digests={"md5": None})
    lines = [line.removeprefix("    ").partition("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    commands = [line for line in lines if line.startswith("pkgstore ")]
    assert len(commands) == 8
    told = ""
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "pkgstore"
        done = run(*words, env={**os.environ, "PKGSTORE_KEYRING_FILE": ""})
        assert done.returncode == 0, done
        told += done.stdout
    assert f"{stored_size(5)}  " in told
    assert "1 copied, 0 same" in told
    assert f"1 good, 0 corrupt; {stored_size(5)} bytes read" in told
    for program in programs:
        names: dict[str, Any] = {}
        exec(compile("import pkgstore\n" + program, str(PAGE), "exec"), names)
        for each in names.values():
            if isinstance(each, pkgstore.Store):
                assert each.encrypted
                assert each.read("six/six-1.0.tar.gz") == b"words"
                each.close()
    with pkgstore.open(tmp_path / "store", keyring=tmp_path / "ring") as store:
        assert store.read("six/six-1.0.tar.gz") == b"words"
        assert set(store.stat("six/six-1.0.tar.gz").digests) == {"sha256", "md5"}


def test_the_figures_of_the_reference() -> None:
    text = REFERENCE.read_text()
    assert f"takes {HEADER + RECORD} bytes more there, and 16 for each {SEGMENT >> 10} KiB" in text
    assert f"| {RECORD} | the record, if it comes before |" in text
    assert f"{SEGMENT:,} bytes of plaintext each" in text
