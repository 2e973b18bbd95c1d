"""pypiserver's backend over a store.

Uploads lie at `<normalised project>/<file>`, so that a project's page needs one listing of one folder, which is always
as the medium is now. Package files that lie elsewhere are found by a `StrayIndex`, and looked at when they are used.
"""

from __future__ import annotations

import contextlib
import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote

from pypiserver.backend import Backend  # type: ignore[import-untyped]
from pypiserver.bottle_wrapper import HTTPError, request  # type: ignore[import-untyped]
from pypiserver.core import PkgFile  # type: ignore[import-untyped]
from pypiserver.pkg_helpers import normalize_pkgname  # type: ignore[import-untyped]

from pkgstore import keys
from pkgstore.errors import Corrupt, Exists, NotFound
from pkgstore.hashing import CHUNK, is_digest
from pkgstore.integrations._pypi_http import check_form
from pkgstore.integrations._pypi_index import StrayIndex, own_key, package_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pkgstore.driver import Blob
    from pkgstore.store import Store

_RECORDED = {"md5", "blake2b"}
_REMEMBERED = 1 << 16
_SAFE_IN_PATH = "/!$&'()*+,;=@~"
_FORM_DIGESTS = {"sha256_digest": ("sha256", 64), "md5_digest": ("md5", 32), "blake2_256_digest": ("blake2_256", 64)}


class StoredFile(PkgFile):  # type: ignore[misc]
    """A package file, as pypiserver knows it, with the blob that it is."""

    def __init__(self, blob: Blob, name: str, version: str, digest: str | None) -> None:
        super().__init__(name, version, fn=blob.key, relfn=blob.key)
        self.relfn_unix = quote(blob.key, safe=_SAFE_IN_PATH)
        self.digest = digest
        self.blob = blob


class StoreBackend(Backend):  # type: ignore[misc]
    """A store as a backend of pypiserver.

    ``config`` is the server's configuration; what it says of overwriting is asked for at each upload, because it is not
    there yet when the backend is made.
    """

    def __init__(self, config: Any, store: Store) -> None:
        super().__init__(config)
        self._config = config
        self._store = store
        self._strays = StrayIndex(store)
        self._computed = lru_cache(maxsize=_REMEMBERED)(self._compute)

    # -- what is there ------------------------------------------------------------------------------------------------

    def get_all_packages(self) -> Iterator[StoredFile]:
        return self._files(self._store.list())

    def find_project_packages(self, project: str) -> Iterator[StoredFile]:
        name = normalize_pkgname(project)
        return (file for file in self._files(self._blobs_of(name)) if file.pkgname_norm == name)

    def find_version(self, name: str, version: str) -> Iterator[StoredFile]:
        files = self.find_project_packages(name)
        return (file for file in files if file.pkgname == name and file.version == version)

    def exists(self, filename: str) -> bool:
        return bool(self._places(filename))

    def digest(self, pkg: StoredFile) -> str | None:
        if self.hash_algo is None:
            return None
        try:
            return str(self._computed(pkg.blob.key, pkg.blob.tag))
        except NotFound:
            return None

    # -- changes ------------------------------------------------------------------------------------------------------

    def add_package(self, filename: str, stream: BinaryIO) -> None:
        """Publish an upload, once its form is whole and it has the digests that this declares. Raises HTTPError."""
        check_form()
        package = package_at(filename)
        if package is None:
            raise HTTPError(400, f"Bad filename: {filename}")
        expected = _declared_digests(filename)
        blake2 = expected.pop("blake2_256", None)
        body = cast("BinaryIO", _Checked(filename, stream, blake2)) if blake2 else stream
        if self.hash_algo in _RECORDED:
            expected.setdefault(self.hash_algo, None)
        own = own_key(package.project, filename)
        try:
            if not self._config.overwrite:
                self._store.publish(own, body, digests=expected)
                return
            for key in self._places(filename) or [own]:
                stream.seek(0)
                self._store.publish(key, body, digests=expected, replace=True)
        except Exists:
            raise duplicate(filename) from None
        except Corrupt as exc:
            raise HTTPError(400, str(exc)) from exc

    def remove_package(self, pkg: StoredFile) -> None:
        """Delete a file, once the form that asks for it is whole. Raises HTTPError."""
        check_form()
        self._store.delete(pkg.blob.key)

    # -- how ----------------------------------------------------------------------------------------------------------

    def _blobs_of(self, project: str) -> Iterator[Blob]:
        folder = f"{project}/"
        if keys.is_valid(project):
            yield from self._store.list(folder)
        for key in self._strays.of(project):
            if not key.startswith(folder):
                with contextlib.suppress(NotFound):
                    yield self._store.stat(key)

    def _files(self, blobs: Iterable[Blob]) -> Iterator[StoredFile]:
        for blob in blobs:
            package = package_at(blob.key)
            if package:
                known = blob.digests.get(self.hash_algo) if self.hash_algo else None
                digest = f"{self.hash_algo}={known}" if known else None
                yield StoredFile(blob, package.name, package.version, digest)

    def _places(self, filename: str) -> list[str]:
        """Return the keys under which a file of that name is there now."""
        package = package_at(filename)
        if package is None:
            return []
        strays = (key for key in self._strays.of(package.project) if key.rpartition("/")[2] == filename)
        candidates = dict.fromkeys([own_key(package.project, filename), filename, *strays])
        return [key for key in candidates if self._is_there(key)]

    def _is_there(self, key: str) -> bool:
        try:
            self._store.stat(key)
        except NotFound:
            return False
        return True

    def _compute(self, key: str, _tag: str) -> str:
        """Return the digest of a blob that came without, by reading it; new for every version, which the tag tells.

        It is recorded where that can be, and remembered here for as long as this process lives.
        """
        if self.hash_algo == "sha256":
            return f"sha256={self._store.adopt(key).digests['sha256']}"
        hasher = hashlib.new(self.hash_algo, usedforsecurity=False)
        with self._store.open(key, verify=False) as reader:
            while chunk := reader.read(CHUNK):
                hasher.update(chunk)
        return f"{self.hash_algo}={hasher.hexdigest()}"


def duplicate(filename: str) -> HTTPError:
    """Return the answer to an upload of a name that is taken: 409, or the 400 that twine takes for the same."""
    status = 400 if "twine" in request.headers.get("User-Agent", "") else 409
    return HTTPError(status, f"Package {filename!r} already exists!\n  You may start server with `--overwrite` option.")


def _declared_digests(filename: str) -> dict[str, str | None]:
    """Return the digests that the upload's form declares for its package file, by algorithm. Raises HTTPError."""
    content = request.files.get("content")
    if content is None or content.raw_filename != filename:
        return {}
    found: dict[str, str | None] = {}
    for field, (algorithm, length) in _FORM_DIGESTS.items():
        values = request.POST.getall(field)
        if len(values) > 1 or not all(isinstance(value, str) for value in values):
            raise HTTPError(400, f"the field {field} is to be given once, and as text: nothing was published")
        value = "".join(values).strip().lower()
        if value and (len(value) != length or not is_digest("sha256", value.ljust(64, "0"))):
            raise HTTPError(400, f"the field {field} is no digest: that is {length} hexadecimal digits")
        if value:
            found[algorithm] = value
    return found


class _Checked:
    """An upload's body that raises `Corrupt` at its end when it does not have the blake2_256 that is expected."""

    def __init__(self, filename: str, stream: BinaryIO, expected: str) -> None:
        self._filename = filename
        self._stream = stream
        self._expected = expected
        self._hash = hashlib.blake2b(digest_size=32)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        self._hash = hashlib.blake2b(digest_size=32)
        return self._stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        if not data and size and self._hash.hexdigest() != self._expected:
            raise Corrupt(
                f"the body of {self._filename!r} has blake2_256 {self._hash.hexdigest()}, not {self._expected} as"
                " expected; nothing was published: send it again",
                key=self._filename,
            )
        return data
