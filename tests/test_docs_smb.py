"""docs/how-to/smb.md does what it says, on Samba with the settings that it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.smb_server import PASSWORD, samba
from tests.test_docs_s3 import Session, assert_options_are_told, run
from tests.test_docs_tutorial import blocks, folder

__all__ = ["folder"]

pytestmark = pytest.mark.xdist_group("smb")

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "smb.md"


def test_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PKGSTORE_SMB_USERNAME", "PKGSTORE_SMB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    (settings,) = (block.text for block in blocks(PAGE) if block.language == "ini")
    general, _, share = settings.partition("\n[pkg]\n")
    password = folder.parent / "password"
    password.write_text(f"{PASSWORD}\n")
    with samba(general.removeprefix("[global]\n")) as server:
        assert share.splitlines()[1:] == ["read only = no"]  # as the server of the tests has it
        names = {
            "smb://files.example.com/": server.url(""),
            "/run/secrets/smb-password": str(password),
            "=packages": f"={server.user}",
        }
        page = [block for block in blocks(PAGE) if block.language != "ini"]
        assert run(Session(folder, names), page) == 8


def test_the_options() -> None:
    assert_options_are_told(PAGE, "smb")
