"""What a store may hold, and what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pkgstore import QuotaExceeded, holder
from pkgstore.testing.sources import Stream
from pkgstore.testing.suite.harness import Harness, held

if TYPE_CHECKING:
    from pkgstore import Store

LIMIT = 3000


class QuotaTests(Harness):
    """Nothing goes beyond a limit, and what the ledger says is what is there."""

    def test_a_quota(self, url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(holder, "LOOK", 0.0)
        tenant = store.scope("tenant/")
        store.publish("tenant-old/a", bytes(1000))
        store.set_quota(LIMIT)
        tenant.set_quota(blobs=1)
        tenant.publish("a", bytes(1000))
        kept = {"tenant-old/a": bytes(1000), "tenant/a": bytes(1000)}
        for refused in (bytes(1001), Stream(bytes(1001))):
            with pytest.raises(QuotaExceeded) as caught:
                store.publish("b", refused)
            assert "its limit is 3,000, of which 2,000 are used" in str(caught.value)
            assert held(store) == kept
            self.assert_nothing_staged(url)
        with pytest.raises(QuotaExceeded, match="its limit is 1, of which 1"):
            tenant.publish("b", b"")
        store.publish("b", Stream(bytes(1000)))
        with pytest.raises(QuotaExceeded):
            store.publish("c", b"1")
        store.delete("b")
        store.publish("tenant/a", bytes(500), replace=True)
        assert held(store) == {"tenant-old/a": bytes(1000), "tenant/a": bytes(500)}
        usage, scoped = store.usage(), tenant.usage()
        assert (usage.bytes, usage.blobs, usage.limit) == (1500, 2, LIMIT)
        assert (scoped.bytes, scoped.blobs, scoped.blob_limit) == (500, 1, 1)
        counted = store.usage(recount=True)
        assert (counted.bytes, counted.blobs) == (1500, 2)
        store.close()
        with self.open_store(url) as again:
            if self.shared:
                assert again.usage().reserved == 0
                assert again.usage().bytes == 1500
        self.assert_nothing_staged(url)
