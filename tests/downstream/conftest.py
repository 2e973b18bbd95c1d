"""The two indexes that each test is run against, under gunicorn with two workers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers import Server, gunicorn, pkgstore_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[2]
OPEN = ("-a", ".", "-P", ".")


@dataclass(frozen=True)
class Index(Server):
    """An index that runs. ``ours`` says which of the two it is; ``root`` is where its packages lie."""

    ours: bool
    root: Path

    def put(self, name: str, data: bytes = b"") -> None:
        """Put a file into the packages' folder by hand."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def stored(self, name: str) -> bytes | None:
        """Return the bytes of the file of that name, wherever it lies; None when there is none."""
        found = [path for path in self.root.rglob(name) if ".pkgstore" not in path.parts]
        assert len(found) <= 1, found
        return found[0].read_bytes() if found else None


@pytest.fixture(params=["pkgstore", "pypiserver"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def started(kind: str, folder: Path, *options: str, ready: str = "/health") -> Iterator[Index]:
    """Run an index over the folder `packages` in ``folder``, with options of `pypi-server run`."""
    root = folder / "packages"
    root.mkdir(exist_ok=True)
    app, path = pkgstore_app(root, *options, anonymous=False), None
    if kind == "pypiserver":
        app, path = f"tests.downstream.stock:create_app({', '.join(map(repr, (str(root), *options)))})", REPOSITORY
    with gunicorn(app, folder / "log", ready=ready, path=path) as server:
        yield Index(**vars(server), ours=kind == "pkgstore", root=root)


@pytest.fixture
def start(kind: str, tmp_path: Path) -> Iterator[Callable[..., Index]]:
    """Start an index with other options; before that, files may be put into `packages` in the test's folder."""
    with contextlib.ExitStack() as stack:

        def start(*options: str, ready: str = "/health") -> Index:
            running = contextlib.contextmanager(started)(kind, tmp_path, *options, ready=ready)
            return stack.enter_context(running)

        yield start


@pytest.fixture(scope="module")
def index(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index without passwords and without a fallback, which the tests of a module share: names are theirs alone."""
    yield from started(kind, tmp_path_factory.mktemp(kind), *OPEN, "--disable-fallback")
