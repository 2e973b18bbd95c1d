"""The conformance kit, unchanged, on encrypted stores; but for reading what is damaged, which no option allows."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from pkgstore import Corrupt
from pkgstore.testing.suite.contract import ContractTests
from pkgstore.testing.suite.harness import Harness
from pkgstore.testing.suite.outages import OutageTests
from pkgstore.testing.suite.reading import ReadingTests
from tests.local_medium import LocalConformance
from tests.s3_medium import BUCKET, S3Conformance, servers
from tests.sealed import open_sealed, ring_of
from tests.test_memory_conformance import TestMemory as MemoryConformance

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from pkgstore import Store
    from tests.s3_medium import Servers

__all__ = ["servers"]


class Sealed(Harness):
    """What is different when a store is encrypted."""

    open_store = staticmethod(open_sealed)

    @pytest.mark.parametrize("size", [1, 100_000, 5 << 20])
    def test_a_changed_byte_is_corrupt(self, url: str, store: Store, rng: random.Random, size: int) -> None:
        """Nothing is returned of a segment that was changed, whether the reader is to verify or not."""
        store.publish("a", rng.randbytes(size))
        self.tamper(url, "a")
        for verify in (True, False):
            with pytest.raises(Corrupt) as caught, store.open("a", verify=verify) as reader:
                reader.readall()
            assert caught.value.key == "a"


class TestSealedLocal(Sealed, LocalConformance):
    """In a folder."""

    large = 128 << 20
    examples = 8


class TestSealedMemory(Sealed, MemoryConformance):
    """In this process's memory."""

    examples = 8

    @pytest.fixture
    def url(self, url_of_memory: str) -> Iterator[str]:
        yield url_of_memory
        ring_of(url_of_memory).unlink()

    url_of_memory = MemoryConformance.url


@pytest.fixture(scope="module")
def encrypted(servers: Servers) -> tuple[Any, dict[str, Any]]:
    """A client, and what says that a store is encrypted, and was found of the server already."""
    client = servers["ministack"].client()
    prefix = urlsplit(servers.store("ministack")).path.strip("/")
    found = json.load(client.get_object(Bucket=BUCKET, Key=f"{prefix}/.pkgstore/store.json")["Body"])
    return client, {**found, "format": 2, "encryption": "aes-256-gcm-stream-1"}


@pytest.mark.xdist_group("ministack")
class TestSealedMinistack(Sealed, ReadingTests, ContractTests, OutageTests):
    """On S3: ciphertext whose size and digests are declared before its first byte, in one request and in parts.

    That part of the kit for which it makes a difference.
    """

    server = "ministack"
    stepwise, longest, memory = S3Conformance.stepwise, S3Conformance.longest, S3Conformance.memory
    tamper, truncate, _rewrite = S3Conformance.tamper, S3Conformance.truncate, S3Conformance._rewrite
    large = 64 << 20
    endpoint: Any

    @pytest.fixture
    def url(self, servers: Servers, encrypted: tuple[Any, dict[str, Any]]) -> str:  # type: ignore[override]
        client, identity = encrypted
        self.endpoint = servers[self.server]
        url = servers.url(self.server)
        document = json.dumps({**identity, "id": uuid.uuid4().hex}).encode()
        client.put_object(Bucket=BUCKET, Key=f"{urlsplit(url).path.strip('/')}/.pkgstore/store.json", Body=document)
        return url
