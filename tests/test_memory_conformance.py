"""The memory driver against the conformance kit."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from pkgstore.drivers import memory
from pkgstore.testing.conformance import DriverConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class TestMemory(DriverConformance):
    """In this process's memory."""

    shared = False
    large = 0

    @pytest.fixture
    def url(self) -> Iterator[str]:
        name = uuid.uuid4().hex
        yield f"memory://{name}"
        memory._spaces.pop(name, None)

    def tamper(self, url: str, key: str) -> None:
        self.rewrite(url, key, lambda data: bytes([data[0] ^ 1]) + data[1:])

    def truncate(self, url: str, key: str) -> None:
        self.rewrite(url, key, lambda data: data[:-1])

    def rewrite(self, url: str, key: str, change: Callable[[bytes], bytes]) -> None:
        blobs = memory._spaces[url.removeprefix("memory://")].blobs
        blob, data, token = blobs[key]
        blobs[key] = (blob, change(data), token)
