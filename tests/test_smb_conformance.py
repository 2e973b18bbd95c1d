"""The SMB driver against the conformance kit, on Samba: with extended attributes and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pkgstore.testing.conformance import DriverConformance
from pkgstore.testing.suite.basics import BasicTests
from pkgstore.testing.suite.crashes import CrashTests
from pkgstore.testing.suite.outages import OutageTests
from pkgstore.testing.suite.races import RaceTests
from pkgstore.testing.suite.reading import ReadingTests
from tests.smb_medium import SMBMedium, smb

if TYPE_CHECKING:
    import pkgstore

__all__ = ["smb"]


@pytest.mark.xdist_group("smb")
class TestSMB(SMBMedium, DriverConformance):
    """On a share as Samba serves it by default, but for the case of names."""

    large = 128 << 20
    examples = 4


@pytest.mark.xdist_group("smb-plain")
class TestSMBWithoutAttributes(SMBMedium, BasicTests, ReadingTests, OutageTests, RaceTests, CrashTests):
    """On a share without extended attributes, over encrypted connections: digests lie beside the blobs.

    That part of the kit for which it makes a difference.
    """

    share = "plain"
    options = {"encrypt": "true", "connections": "2"}  # noqa: RUF012
    large = 64 << 20

    def test_a_truncated_blob_is_corrupt(self, url: str, store: pkgstore.Store, rng: Any) -> None:
        """What lies beside is bound to a file's size: of a file that was cut, it says nothing, nor anything wrong."""
        store.publish("a", rng.randbytes(1000))
        self.truncate(url, "a")
        assert store.stat("a").digests == {}
        assert store.stat("a").size == 999
