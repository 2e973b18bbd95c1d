"""The GCS driver against the conformance kit, on two servers that differ in what they keep to."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from pkgstore.testing.conformance import DriverConformance
from tests import gcs_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore import Store
    from pkgstore.testing.faults import When
    from tests.gcs_servers import GCS


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    with gcs_servers.our_fake(tmp_path_factory.mktemp("gcs")) as server:
        server.account()
        yield server


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    with gcs_servers.fake_gcs_server(tmp_path_factory.mktemp("fake-gcs-server")) as server:
        yield server


class GCSConformance(DriverConformance):
    """The conformance tests, each on a bucket of its own."""

    stepwise = 20 << 20  # two chunks of a resumable session


@pytest.mark.xdist_group("gcs")
class TestGCSFake(GCSConformance):
    """Our own fake: as strict as the service, with bearer tokens."""

    server: GCS

    @pytest.fixture
    def url(self, fake: GCS, monkeypatch: pytest.MonkeyPatch) -> str:
        type(self).server = fake
        monkeypatch.setenv("PKGSTORE_GCS_CREDENTIALS_FILE", fake.file(fake.document()))
        return fake.url()

    def tamper(self, url: str, key: str) -> None:
        self.server.control("tamper", bucket=urlsplit(url).netloc, name=key)

    def truncate(self, url: str, key: str) -> None:
        self.server.control("tamper", bucket=urlsplit(url).netloc, name=key, truncate=True)


@pytest.mark.xdist_group("gcs")
class TestFakeGCSServer(GCSConformance):
    """fake-gcs-server: no XML API under its own address, and sessions that keep to no precondition."""

    large = 64 << 20
    examples = 8

    @pytest.fixture
    def url(self, emulator: GCS) -> str:
        return emulator.url(credentials="anonymous")

    @pytest.mark.xfail(strict=True, reason="fake-gcs-server deletes whatever version is there")
    def test_delete_of_one_version(self, store: Store) -> None:
        super().test_delete_of_one_version(store)

    @pytest.mark.xfail(strict=True, reason="fake-gcs-server deletes whatever version is there")
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_delete_repeated_spares_what_is_newer(self, store: Store, when: When) -> None:
        super().test_a_delete_repeated_spares_what_is_newer(store, when)
