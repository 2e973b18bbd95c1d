"""A copy of a catalog in the store itself, so that a host which has none yet begins with it.

It is one blob below `.pkgstore/catalog/`: a line of JSON that names the format and the store, and one for each blob
that was known, compressed. It is replaced in one step, and read as every blob is, verified.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from itertools import islice
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from pkgstore import keys
from pkgstore.bodies import PublishBody
from pkgstore.driver import Blob
from pkgstore.errors import NotFound, StoreError, Unavailable
from pkgstore.hashing import ALGORITHMS, CHUNK, is_digest, wanted
from pkgstore.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkgstore.calls import Calls
    from pkgstore.catalog.rows import Catalog

_log = logging.getLogger("pkgstore")

SNAPSHOT = f"{keys.CONTROL}/catalog/snapshot.gz"
_FORMAT = 1
_LONGEST_LINE = 1 << 16
_AT_ONCE = 1000
_LARGEST = (1 << 63) - 1


def share(catalog: Catalog, calls: Calls) -> None:
    """Put a copy of all that is known of the store in the place of an earlier copy. Raises as a publish does."""
    misses = catalog.misses
    with TemporaryFile() as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed:
            packed.write(_line({"format": _FORMAT, "store": catalog.store}))
            for blob in catalog.known():
                packed.write(_line([blob.key, blob.tag, blob.size, blob.digests]))
        if catalog.misses != misses:
            raise Unavailable(catalog.trouble)
        file.seek(0)
        with PublishBody(SNAPSHOT, file, None, wanted(None)) as source:
            calls.put(SNAPSHOT, SNAPSHOT, source, exclusive=False)


def load(catalog: Catalog, calls: Calls) -> None:
    """Take the store's copy into a catalog. One that is not there, or is of no use, is logged and does no harm."""
    try:
        with TemporaryFile() as file:
            _fetch(calls, file)
            file.seek(0)
            with gzip.GzipFile(fileobj=file, mode="rb") as packed:
                blobs = _parsed(packed, catalog.store)
                while some := list(islice(blobs, _AT_ONCE)):
                    catalog.add(some)
    except NotFound:
        _log.debug("%s holds no catalog to begin with", calls.where)
    except (StoreError, OSError, EOFError, ValueError, RecursionError, zlib.error) as exc:
        _log.warning(
            "the catalog that %s holds is not used, and digests are asked for one by one: %s; replace it with"
            " `pkgstore warm --share`",
            calls.where,
            exc,
        )


def _fetch(calls: Calls, file: BinaryIO) -> None:
    """Copy the verified bytes of the copy in the store to a file. Raises as reading a blob does."""
    blob, stream = calls.call("read", SNAPSHOT, lambda: calls.driver.open(SNAPSHOT), retry=False)

    def reopen(start: int) -> BinaryIO:
        return calls.call("read", SNAPSHOT, lambda: calls.driver.open(SNAPSHOT, start, tag=blob.tag), retry=False)[1]

    def translate(exc: Exception) -> Exception:
        return calls.translated("read", SNAPSHOT, exc)

    with Reader(blob, stream, reopen, translate, blob.digests.get("sha256"), f"{SNAPSHOT} in {calls.where}") as reader:
        copyfileobj(reader, file, CHUNK)


def _line(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _parsed(lines: gzip.GzipFile, store: str) -> Iterator[Blob]:
    """Yield the blobs that a copy tells of. Raises ValueError for what is no copy, or another store's."""
    head = json.loads(lines.readline(_LONGEST_LINE))
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise ValueError("it is of another format")
    if head.get("store") != store:
        raise ValueError("it is another store's")
    while line := lines.readline(_LONGEST_LINE):
        match json.loads(line):
            case [str(key), str(tag), int(size), dict(digests)] if (
                keys.is_valid(key)
                and 0 <= size <= _LARGEST
                and digests
                and all(name in ALGORITHMS and is_digest(name, value) for name, value in digests.items())
            ):
                yield Blob(key, size, 0.0, tag, digests)
            case _:
                raise ValueError("one of its lines describes no blob")
