"""One side of a comparison, in a process of its own: does what it is told on stdin, and answers with the times.

``python worker.py SIDE FOLDER`` answers each line ``{"do": name, ...arguments}`` with a line of JSON: seconds for each
repetition. Sides are imported only when they are asked for, so that the peers' environment need not have pkgstore.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import sides_peers
import sides_s3
from sides import Floor

if TYPE_CHECKING:
    from sides import Side

_PEERS = {
    "obstore": sides_peers.Obstore,
    "OpenDAL": sides_peers.OpenDAL,
    "fsspec": sides_peers.Fsspec,
    "zarr": sides_peers.Zarr,
    "minimalkv": sides_peers.MinimalKV,
    "s3-boto3": sides_s3.Boto3,
    "s3-boto3-transfer": sides_s3.Boto3Transfer,
    "s3-obstore": sides_s3.Obstore,
    "s3-s3fs": sides_s3.S3fs,
    "s3-floor": sides_s3.FloorInBucket,
}


def _side(name: str, folder: Path) -> Side:
    if name in ("pkgstore", "pkgstore-quota"):
        from sides_ours import Ours

        return Ours(folder)
    if name == "pkgstore-encrypted":
        from sides_ours import Encrypted

        return Encrypted(folder)
    if name == "s3-pkgstore":
        from sides_ours import OursInBucket

        return OursInBucket(folder)
    if name == "s3-pkgstore-cached":
        from sides_ours import CachedInBucket

        return CachedInBucket(folder)
    if name.startswith("archive-"):
        import sides_archives

        return sides_archives.Archives(folder) if name == "archive-pkgstore" else sides_archives.TarAndZstd(folder)
    return Floor(folder) if name == "floor" else _PEERS[name](folder)


def main() -> None:
    """Answer what is asked on stdin until it ends."""
    side = _side(sys.argv[1], Path(sys.argv[2]))
    print("ready", flush=True)
    for line in sys.stdin:
        arguments = json.loads(line)
        print(json.dumps(getattr(side, f"do_{arguments.pop('do')}")(**arguments)), flush=True)


if __name__ == "__main__":
    main()
