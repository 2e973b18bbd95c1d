"""What the conformance tests have to know of SMB shares: one server, and a folder of its own for every store."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, ClassVar

import pytest

from pkgstore.testing.suite.harness import Harness
from tests import needs
from tests.smb_server import PASSWORD, SMBServer, samba

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class SMBMedium(Harness):
    """A share that tells names of either case apart, as the keys of the kit need it."""

    share: ClassVar[str] = "cased"
    options: ClassVar[dict[str, str]] = {}
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

    def tamper(self, url: str, key: str) -> None:
        path = self.server.path(url, key)
        status = path.stat()
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def truncate(self, url: str, key: str) -> None:
        path = self.server.path(url, key)
        os.truncate(path, path.stat().st_size - 1)

    def leftovers(self, url: str) -> list[str]:
        folders = [self.server.path(url, f".pkgstore/{name}") for name in ("tmp", "trash")]
        return sorted(path.name for folder in folders if folder.exists() for path in folder.iterdir())
