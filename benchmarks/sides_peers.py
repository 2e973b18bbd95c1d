"""The peers as sides of a comparison. Each is imported when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sides import Side

if TYPE_CHECKING:
    from pathlib import Path


class Obstore(Side):
    """obstore's LocalStore: exclusive; no fsync, no digest."""

    def __init__(self, folder: Path) -> None:
        import obstore
        from obstore.store import LocalStore

        super().__init__(folder)
        self._obstore = obstore
        self._store = LocalStore(folder, mkdir=True)

    def publish(self, name: str, body: bytes) -> None:
        self._obstore.put(self._store, name, body, mode="create")

    def read(self, name: str) -> bytes:
        return bytes(self._obstore.get(self._store, name).bytes())


class OpenDAL(Side):
    """OpenDAL's fs service: exclusive, written in place; the file is flushed and its folder is not; no digest."""

    def __init__(self, folder: Path) -> None:
        import opendal

        super().__init__(folder)
        self._operator = opendal.Operator("fs", root=str(folder))

    def publish(self, name: str, body: bytes) -> None:
        self._operator.write(name, body, if_not_exists=True)

    def read(self, name: str) -> bytes:
        return self._operator.read(name)  # type: ignore[no-any-return]


class Fsspec(Side):
    """fsspec's local file system: overwrites, in place; no fsync, no digest."""

    def __init__(self, folder: Path) -> None:
        import fsspec

        super().__init__(folder)
        self._fs = fsspec.filesystem("file", auto_mkdir=True)

    def publish(self, name: str, body: bytes) -> None:
        self._fs.pipe_file(f"{self.folder}/{name}", body)

    def read(self, name: str) -> bytes:
        return self._fs.cat_file(f"{self.folder}/{name}")  # type: ignore[no-any-return]


class Zarr(Side):
    """zarr's LocalStore: exclusive, but the caller is not told who won; no fsync, no digest."""

    def __init__(self, folder: Path) -> None:
        import asyncio

        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import LocalStore

        super().__init__(folder)
        self._prototype = default_buffer_prototype()
        self._run = asyncio.Runner().run
        self._store: Any = self._run(LocalStore.open(folder))

    def publish(self, name: str, body: bytes) -> None:
        self._run(self._store.set_if_not_exists(name, self._prototype.buffer.from_bytes(body)))

    def read(self, name: str) -> bytes:
        return self._run(self._store.get(name, self._prototype)).to_bytes()  # type: ignore[no-any-return]


class MinimalKV(Side):
    """minimalkv's file-system store: overwrites, in place; no fsync, no digest."""

    def __init__(self, folder: Path) -> None:
        import minimalkv

        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._store = minimalkv.get_store_from_url(f"hfs://{folder}")

    def publish(self, name: str, body: bytes) -> None:
        self._store.put(name, body)

    def read(self, name: str) -> bytes:
        return self._store.get(name)  # type: ignore[no-any-return]
