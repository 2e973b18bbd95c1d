"""What the conformance tests have to know of SMB shares: one server, and a folder of its own for every store."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests import needs
from tests.on_files import OnFiles
from tests.smb_server import PASSWORD, SMBServer, samba

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def smb() -> Iterator[SMBServer]:
    """Yield a server, with the credentials for it in the environment; it ends with the tests."""
    with samba() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PKGSTORE_SMB_USERNAME", server.user)
        patch.setenv("PKGSTORE_SMB_PASSWORD", PASSWORD)
        yield server


def fresh(server: SMBServer, share: str = "pkg", **options: str) -> str:
    """Return the URL of a folder that is not there yet."""
    return server.url(f"{share}/{next(_numbers)}/pypi", **options)


class SMBMedium(OnFiles):
    """A share that tells names of either case apart, as the keys of the kit need it."""

    share: ClassVar[str] = "cased"
    options: ClassVar[dict[str, str]] = {}
    staging = ("tmp", "trash")
    server: SMBServer

    @pytest.fixture
    def url(self, smb: SMBServer) -> str:  # type: ignore[override]
        type(self).server = smb
        return fresh(smb, self.share, **self.options)

    @pytest.fixture
    def small_url(self, smb: SMBServer) -> Iterator[str]:  # type: ignore[override]
        type(self).server = smb
        with needs.mounted("tmpfs", smb.folder / "small", "size=8m,mode=777"):
            yield smb.url("small")

    def path_of(self, url: str, key: str) -> Path:
        return self.server.path(url, key)
