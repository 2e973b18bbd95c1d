"""Getting to know all that a catalog lacks, many at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pkgstore.errors import Misconfigured, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pkgstore.catalog.rows import Catalog
    from pkgstore.driver import Blob

_BEYOND = "\U0010ffff"


def warmed(
    catalog: Catalog, pages: Iterable[Sequence[Blob]], prefix: str, ask: Callable[[Blob], Blob], jobs: int
) -> Iterator[tuple[Blob, bool]]:
    """Yield every blob of a listing of ``prefix``, which comes in pages, and whether it had to be asked for.

    ``ask`` returns what the medium knows of a blob, and the catalog learns it meanwhile; ``jobs`` of them run at a
    time, in threads. Blobs that are gone by then are left out, and what the catalog knows of keys that are not listed
    is dropped. Raises `Unavailable` when the catalog keeps nothing, and what ``ask`` raises but for `NotFound`.
    """
    if jobs < 1:
        raise Misconfigured(f"{jobs} requests at a time are none: let there be 1 or more")

    def asked(blob: Blob) -> Blob | None:
        try:
            return ask(blob)
        except NotFound:  # deleted since it was listed
            return None

    def check() -> None:
        if catalog.misses != misses:
            raise Unavailable(catalog.trouble)

    last, misses = prefix, catalog.misses
    with ThreadPoolExecutor(jobs, thread_name_prefix="pkgstore-warming") as pool:
        for page in pages:
            catalog.drop_between(last, page[-1].key, [blob.key for blob in page])
            last = page[-1].key
            filled = catalog.fill(page)
            answers = pool.map(asked, [blob for blob in filled if not blob.digests])
            for blob in filled:
                if blob.digests:
                    yield blob, False
                elif next(answers) is not None:
                    yield blob, True
            check()
    catalog.drop_between(last, prefix + _BEYOND, [])
    check()
