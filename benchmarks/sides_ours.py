"""pkgstore as a side of a comparison, on a folder and in a bucket."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlencode

from measure import timed
from sides import MIB, Side
from sides_s3 import BUCKET, InBucket

_REST_WITHIN = 10.0


class Ours(Side):
    """pkgstore on a folder."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        import pkgstore

        super().__init__(folder)
        self.store = pkgstore.open(url or folder)

    def publish(self, name: str, body: bytes) -> None:
        self.store.publish(name, body)

    def read(self, name: str) -> bytes:
        return self.store.read(name)

    def do_stream(self, size: int, count: int) -> list[float]:
        name = self._there(size)
        buffer = bytearray(256 << 10)
        times = []
        for _ in range(count):
            began = time.perf_counter()
            with self.store.open(name) as reader:
                while reader.readinto(buffer):
                    pass
            times.append(time.perf_counter() - began)
        return times

    def do_path(self, size: int, count: int) -> list[float]:
        name = self._there(size)
        times = []
        for _ in range(count):
            began = time.perf_counter()
            with open(self.store.local_path(name), "rb", buffering=0) as file:
                file.read()
            times.append(time.perf_counter() - began)
        return times

    # -- quota --------------------------------------------------------------------------------------------------------

    def do_set_quota(self, size: int) -> list[float]:
        self.store.set_quota(size)
        return []

    def do_usage(self, blobs: int, count: int) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            usage = self.store.usage()
            times.append(time.perf_counter() - began)
            assert usage.blobs == blobs, f"{usage.blobs} blobs counted, not {blobs}"
        return times

    def do_wait_for_rest(self) -> list[float]:
        """Return when no publisher has anything in hand of the quota."""
        deadline = time.monotonic() + _REST_WITHIN
        while self.store.usage().reserved:
            assert time.monotonic() < deadline, f"bytes are in hand after {_REST_WITHIN:.0f} s of rest"
            time.sleep(0.05)
        return []

    # -- growth -------------------------------------------------------------------------------------------------------

    def do_fill(self, first: int, last: int, step: int, files: int) -> list[float]:
        """Publish the files of the projects ``first``, ``first + step``, …, below ``last``; ``files`` each."""
        began = time.perf_counter()
        for project in range(first, last, step):
            for version in range(files):
                name = f"project-{project:06}/project_{project:06}-{version}.0-py3-none-any.whl"
                self.store.publish(name, b"%d %d" % (project, version))
        return [time.perf_counter() - began]

    def do_stat(self, projects: int, files: int, count: int) -> list[float]:
        times = []
        for number in range(count):
            project = number * 7919 % projects
            name = f"project-{project:06}/project_{project:06}-{number % files}.0-py3-none-any.whl"
            began = time.perf_counter()
            self.store.stat(name)
            times.append(time.perf_counter() - began)
        return times

    def do_list(self, prefix: str, count: int) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            for _blob in self.store.list(prefix):
                pass
            times.append(time.perf_counter() - began)
        return times

    def do_go_through(self, count: int) -> dict[str, list[float]]:
        """Export all blobs to a file, verify that, and verify the store; return the seconds of each, by its name."""
        from pkgstore import archive
        from pkgstore.verify import verify

        file = self.folder.with_suffix(".tar.zst")
        verbs = {
            "export": lambda: archive.export(self.store, file, replace=True),
            "verify-archive": lambda: archive.verify(file),
            "verify": lambda: verify(self.store),
        }
        times = {name: [timed(verb) for _ in range(count)] for name, verb in verbs.items()}
        file.unlink()
        return times

    # -- memory -------------------------------------------------------------------------------------------------------

    def do_peak_of_publish(self, size: int) -> list[float]:
        """Return the bytes of memory above idle that publishing a stream of ``size`` bytes took, at its peak."""
        self.publish("idle", b"")
        before = _reset_peak()
        self.store.publish("huge", Zeros(size))  # type: ignore[arg-type]
        return [float(_peak() - before)]

    def do_peak_of_read(self) -> list[float]:
        """Likewise, reading it in pieces of 1 MiB."""
        self.read("idle")
        before = _reset_peak()
        with self.store.open("huge") as reader:
            while reader.read(MIB):
                pass
        return [float(_peak() - before)]

    def do_peak_of_export(self) -> list[float]:
        """Likewise, exporting the store to a file."""
        from pkgstore import archive

        before = _reset_peak()
        archive.export(self.store, self.folder.with_name("huge.tar.zst"))
        return [float(_peak() - before)]

    def do_peak_of_mirror(self) -> list[float]:
        """Likewise, copying the store to another one."""
        import pkgstore
        from pkgstore.transfer import mirror

        with pkgstore.open(self.folder.with_name("mirrored")) as copy:
            before = _reset_peak()
            mirror(self.store, copy)
            return [float(_peak() - before)]


class Encrypted(Ours):
    """pkgstore on a folder, encrypted. Its keyring lies beside the folder."""

    def __init__(self, folder: Path) -> None:
        from pkgstore.crypt import keyring

        path = folder.with_suffix(".keyring")
        keyring.make(str(path))
        super().__init__(folder, f"file://{folder.resolve()}?{urlencode({'keyring': path.resolve()})}")


class OursInBucket(InBucket, Ours):
    """pkgstore in a bucket."""

    def __init__(self, folder: Path, url: str = f"s3://{BUCKET}") -> None:
        super().__init__(folder, url)

    def drop(self, name: str) -> None:
        self.store.delete(name)

    def list(self, prefix: str) -> int:
        return sum(1 for _ in self.store.list(prefix))

    def do_stat_one(self, size: int, count: int) -> list[float]:
        name = self._there(size)
        return [timed(lambda: self.store.stat(name)) for _ in range(count)]

    def do_copy(self, folder: str) -> list[float]:
        """Publish all that the store in a folder has."""
        import pkgstore

        with pkgstore.open(folder) as source:
            for blob in source.list():
                self.store.publish(blob.key, source.local_path(blob.key))
        return []


class CachedInBucket(OursInBucket):
    """The same with a cache and a catalog, which lie in the side's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, cached_url(folder))

    def do_warm(self) -> list[float]:
        """Have the catalog know every blob."""
        assert self.store.warm(), "there was nothing to learn"
        return []


def cached_url(folder: Path) -> str:
    """Return the URL of the bucket, with the cache and the catalog that lie in a folder."""
    place = folder.resolve()
    return f"s3://{BUCKET}?{urlencode({'cache': place / 'cache', 'catalog': place / 'catalog.sqlite'})}"


class Zeros:
    """A stream that cannot tell its size, nor be rewound."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int, /) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10
