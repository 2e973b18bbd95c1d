"""What the tests inside the machine share: a plugin of pytest."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

import pytest

import pkgstore
from tests.labs import nfs_network as network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore import Store


@pytest.fixture
def version() -> str:
    """The version of NFS."""
    return os.environ["PKGSTORE_NFS"]


@pytest.fixture
def url() -> Iterator[str]:
    """The URL, on client a, of a store that is not made yet."""
    name = uuid.uuid4().hex
    (network.EXPORT / name).mkdir()
    yield f"nfs:///mnt/a/{name}/store"
    shutil.rmtree(network.EXPORT / name, ignore_errors=True)  # clients remove what they put aside a moment later


@pytest.fixture
def a(url: str) -> Iterator[Store]:
    """A store on client a."""
    with pkgstore.open(url, create=True) as store:
        yield store


@pytest.fixture
def b(a: Store, url: str) -> Iterator[Store]:
    """The same store on client b."""
    with pkgstore.open(network.on("b", url)) as store:
        yield store
