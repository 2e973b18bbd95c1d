"""The SMB driver against the conformance kit, on Samba: with extended attributes and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.smb_medium import SMBConformance, smb

if TYPE_CHECKING:
    import pkgstore

__all__ = ["smb"]


@pytest.mark.xdist_group("smb")
class TestSMB(SMBConformance):
    """On a share as Samba serves it by default."""

    large = 128 << 20
    examples = 8


@pytest.mark.xdist_group("smb-plain")
class TestSMBWithoutAttributes(SMBConformance):
    """On a share without extended attributes, over encrypted connections: digests lie beside the blobs."""

    share = "plain"
    options = {"encrypt": "true", "connections": "2"}  # noqa: RUF012
    large = 64 << 20
    examples = 4

    def test_a_truncated_blob_is_corrupt(self, url: str, store: pkgstore.Store, rng: Any) -> None:
        """What lies beside is bound to a file's size: of a file that was cut, it says nothing, nor anything wrong."""
        store.publish("a", rng.randbytes(1000))
        self.truncate(url, "a")
        assert store.stat("a").digests == {}
        assert store.stat("a").size == 999
