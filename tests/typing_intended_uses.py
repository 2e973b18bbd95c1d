"""How pkgstore is meant to be used, for the type checker alone: never run."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import assert_type

import pkgstore
from pkgstore import Blob, Driver, Reader, Store, Usage, archive
from pkgstore.drivers.local import LocalDriver
from pkgstore.drivers.memory import MemoryDriver
from pkgstore.spread import spread
from pkgstore.transfer import mirror
from pkgstore.verify import verify

with pkgstore.open("file:///srv/packages", readonly=True, timeout=5) as store:
    assert_type(store, Store)
    assert_type(store.publish("a", b"1"), Blob)
    store.publish("b", bytearray(b"1"))
    store.publish("c", memoryview(b"1"))
    store.publish("d", Path("d"), digests={"sha256": "0" * 64, "md5": None})
    store.publish("e", io.BytesIO(b"1"), size=1, replace=True)
    store.publish("f", sys.stdin.buffer)
    with open("g", "rb") as file:
        store.publish("g", file)
    with store.open("a") as reader:
        assert_type(reader, Reader)
        store.publish("h", reader)
        assert_type(reader.read(), bytes)
        assert_type(reader.blob, Blob)
    assert_type(store.read("a"), bytes)
    assert_type(store.stat("a").digests.get("sha256"), str | None)
    assert_type(store.list("a/"), Iterator[Blob])
    assert_type(store.usage(), Usage)
    assert_type(store.adopt("a"), Blob)
    assert_type(store.local_path("a"), Path)
    assert_type(store.url("a", expires=60), str)
    assert_type(store.scope("tenant/"), Store)
    assert_type(store.delete("a"), bool)
    assert_type(store.delete("a", tag=store.stat("a").tag), bool)
    assert_type(store.set_quota("10Gi", blobs=1000), None)
    assert_type(store.usage(recount=True).available, int | None)
    assert_type(store.get_or_publish("a", lambda: b"1"), Blob)
    assert_type(store.warm(), int)
    assert_type(store.bundle("app", ["1", b"2", Path("3")]).ensure("packages", Path.touch), Path)

with pkgstore.open("packages") as store, pkgstore.open("backups") as backups:
    assert_type(archive.export(store, Path("full.tar.zst"), sign_key="key.pem"), archive.Exported)
    archive.export(store, sys.stdout.buffer, format="tar.gz", since="full.tar.zst")
    with archive.stream(store, "tar.zst") as body:
        assert_type(backups.publish("full.tar.zst", body), Blob)
    with backups.open("full.tar.zst") as reader:
        assert_type(archive.restore(reader, store, told=print), archive.Restored)
    assert_type(archive.verify("full.tar.zst", limits=archive.Limits(blob=1 << 30)).blobs, int)

pkgstore.open("s3://bucket/pypi", cache="/var/cache/pkgstore", cache_size="20Gi", catalog="/var/cache/pkgstore.sqlite")

pkgstore.open(Path("packages"))

with pkgstore.open(["s3://bucket/pypi", Path("packages")]) as pair, ThreadPoolExecutor() as pool:
    assert_type(pair, Store)
    assert_type(mirror(pair, store, delete=True, executor=pool).copied, int)
    assert_type(verify(store, sample=0.05, repair_from=pair, quarantine=True).wrong, int)
    assert_type(spread(pair.stat, ["a", "b"], executor=pool), Generator[Blob, None, None])

try:
    store.publish("a", b"1")
except pkgstore.Exists as exc:
    assert_type(exc.blob, Blob | None)
    assert_type(exc.identical, bool)


def drivers(local: LocalDriver, memory: MemoryDriver) -> list[Driver]:
    """Both are drivers, as the protocol has it."""
    return [local, memory]
