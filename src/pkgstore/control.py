"""Blobs of the store's own, in a folder below `.pkgstore/`: as durable and as verified as those of its users.

No listing shows them, no quota counts them, and no key of a user's can name them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from pkgstore import keys
from pkgstore.bodies import PublishBody
from pkgstore.errors import Denied
from pkgstore.hashing import wanted
from pkgstore.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pkgstore.bodies import BodyLike
    from pkgstore.calls import Calls
    from pkgstore.driver import Blob


class Control:
    """The blobs of one folder below `.pkgstore/`, each named by its path there. Made by `Store.control`.

    Errors are those of a store, and name the whole path.
    """

    def __init__(self, calls: Calls, folder: str, *, readonly: bool) -> None:
        self._calls = calls
        self._folder = f"{keys.CONTROL}/{folder}/"
        self._readonly = readonly

    def put(self, name: str, body: BodyLike, *, digests: Mapping[str, str | None] | None = None) -> Blob:
        """Write ``body`` to ``name``, once, with the digests that are expected; as `Store.publish` does."""
        path = self._writable("publish", name)
        with PublishBody(path, body, None, wanted(digests)) as source:
            return self._calls.put(path, path, source, exclusive=True)

    def open(self, name: str) -> Reader:
        """Open a blob for reading, verified on the way out. Raises `NotFound`."""
        path = self._folder + name
        blob, stream = self._calls.call("open", path, lambda: self._calls.driver.open(path))

        def reopen(start: int) -> BinaryIO:
            return self._calls.call("read", path, lambda: self._calls.driver.open(path, start, tag=blob.tag))[1]

        return Reader(
            blob,
            stream,
            reopen,
            lambda exc: self._calls.translated("read", path, exc),
            blob.digests.get("sha256"),
            f"{path} in {self._calls.where}",
        )

    def list(self, prefix: str = "") -> Iterator[tuple[str, Blob]]:
        """Yield names that start with ``prefix`` (empty, or ending with `/`), sorted, each with its blob."""
        for page in self._calls.scan(self._folder + prefix):
            for blob in page:
                yield blob.key[len(self._folder) :], blob

    def delete(self, name: str) -> None:
        """Delete a blob; silent when it is absent."""
        path = self._writable("delete", name)
        self._calls.call("delete", path, lambda: self._calls.driver.delete(path), changes=True)

    def _writable(self, verb: str, name: str) -> str:
        path = self._folder + name
        if self._readonly:
            raise Denied(f"cannot {verb} {path!r}: {self._calls.where} is open for reading only", key=path)
        return path
