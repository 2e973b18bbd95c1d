"""What a driver's test class tells the kit about its medium."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import pkgstore
from pkgstore import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store

MiB = 1 << 20


class Harness:
    """Override what differs for a medium. A test that needs a hook which is not there is skipped, and says so."""

    open_store: ClassVar[Callable[..., Store]] = staticmethod(pkgstore.open)
    """Opens the store at a URL, with the options of `pkgstore.open`; a module's function, since workers call it."""

    shared: ClassVar[bool] = True
    """Whether other processes of this host that open the URL see the same blobs."""

    keeps_apart: ClassVar[bool] = True
    """Whether the medium keeps writers of one key apart. Where it does not, stores have a single writer by their
    operator's word, and are not raced in."""

    large: ClassVar[int] = 512 * MiB
    """Bytes of the blob that shows that memory stays flat; 0 for a medium that is itself memory of the process."""

    memory: ClassVar[int] = 64 * MiB
    """Bytes by which publishing or reading that blob may raise the memory of a process."""

    stepwise: ClassVar[int] = 3 * MiB
    """Bytes of a body that the medium takes in several steps, and makes visible by one more."""

    longest: ClassVar[int] = keys.LONGEST
    """Bytes of the longest key that the medium of the fixture `url` holds."""

    keeps_folders: ClassVar[bool] = False
    """Whether a folder that has become empty goes on to take its name, as on media that make folders of their own."""

    small: ClassVar[int] = 16 * MiB
    """Bytes that do not fit on the medium of the fixture `small_url`, which 1 MiB does."""

    @pytest.fixture
    def url(self) -> str:
        """The URL of a fresh store, that nobody else uses."""
        raise NotImplementedError("define a fixture `url` that returns the URL of a fresh store")

    @pytest.fixture
    def small_url(self) -> str:
        """The URL of a fresh store on a medium with little space."""
        pytest.skip("the harness has no fixture `small_url`")

    def tamper(self, url: str, key: str) -> None:
        """Change one byte of a blob on the medium, and nothing else, as a failing disk does."""
        raise NotImplementedError

    def truncate(self, url: str, key: str) -> None:
        """Take the last byte from a blob on the medium."""
        raise NotImplementedError

    def leftovers(self, url: str) -> list[str]:
        """Name what lies staged on the medium: by live writers, and by dead ones until it is reaped."""
        raise NotImplementedError

    # -- what the tests use -------------------------------------------------------------------------------------------

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with self.open_store(url) as store:
            yield store

    @pytest.fixture
    def rng(self) -> random.Random:
        """Chance, with its seed in the output of a test that fails; PKGSTORE_TEST_SEED sets it."""
        seed = os.environ.get("PKGSTORE_TEST_SEED") or random.SystemRandom().randbytes(6).hex()
        print(f"PKGSTORE_TEST_SEED={seed}")  # noqa: T201
        return random.Random(seed)

    def hook(self, name: str) -> Callable[..., Any]:
        """Return a hook of the harness, or skip the test."""
        if getattr(type(self), name) is getattr(Harness, name):
            pytest.skip(f"the harness has no {name}() hook")
        hook: Callable[..., Any] = getattr(self, name)
        return hook

    def need_other_processes(self) -> None:
        """Skip the test when other processes do not see the same blobs."""
        if not self.shared:
            pytest.skip("other processes do not see this medium's blobs")

    def need_racing_processes(self) -> None:
        """Skip the test when processes cannot race here for keys."""
        self.need_other_processes()
        self.need_writers_kept_apart()

    def need_writers_kept_apart(self) -> None:
        """Skip the test when the medium is for a single writer."""
        if not self.keeps_apart:
            pytest.skip("this medium does not keep racing writers apart, and is used with a single writer")

    def assert_nothing_staged(self, url: str) -> None:
        """Fail when something lies staged, where the harness can tell."""
        if type(self).leftovers is not Harness.leftovers:
            assert self.leftovers(url) == []


def held(store: Store, prefix: str = "") -> dict[str, bytes]:
    """Return all that a store holds, as its list and its readers show it."""
    return {blob.key: store.read(blob.key) for blob in store.list(prefix)}
