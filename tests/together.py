"""What tests of many processes at one store have in common: the stores, and a way to tell each other what happens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore.testing.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pkgstore import Store


@dataclass(frozen=True)
class Notes:
    """What happens in several processes, told by empty files in a folder."""

    folder: Path

    def put(self, what: str, by: object = None) -> None:
        """Say that something happens, once more or, with ``by``, to the one that this names."""
        (self.folder / f"{what}.{os.urandom(8).hex() if by is None else by}").touch()

    def count(self, what: str) -> int:
        return len(list(self.folder.glob(f"{what}.*")))

    def until(self, what: str, times: int = 1) -> None:
        until(lambda: self.count(what) >= times, f"{what!r}")


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    (tmp_path / "notes").mkdir()
    return Notes(tmp_path / "notes")


@pytest.fixture
def local(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture(params=["local", pytest.param("ministack", marks=pytest.mark.xdist_group("ministack"))])
def url(request: pytest.FixtureRequest) -> str:
    """A store that processes can share."""
    name = "local" if request.param == "local" else "servers"
    found: Any = request.getfixturevalue(name)
    return found if isinstance(found, str) else found.store(request.param)


@pytest.fixture
def store() -> Iterator[Store]:
    with pkgstore.open("memory://") as store:
        yield store
