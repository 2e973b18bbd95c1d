"""What the tests of archives share: a store of all sorts of blobs, keys to sign and to seal with, and tar files."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from typing import TYPE_CHECKING

from pkgstore import archive
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path

    from pkgstore import Store

    Tar = list[tuple[tarfile.TarInfo, bytes]]

SIZES = (0, 1, 511, 512, 513, 5_000, 70_000)


def bodies(seed: int = 0, count: int = 14) -> dict[str, bytes]:
    """Return blobs of sizes at which tar is at its edges, under keys of all lengths, some not ASCII."""
    chance = random.Random(seed)
    found = {
        f"project-{number % 3}/file-{number}-1.0-py3-none-any.whl": chance.randbytes(SIZES[number % len(SIZES)])
        for number in range(count)
    }
    found[f"{'d' * 150}/{'f' * 120}.whl"] = b"a long key"
    found["münchen/größe 1.0.tar.gz"] = b"not ASCII"
    return found


def fill(store: Store, blobs: dict[str, bytes]) -> None:
    for key, body in blobs.items():
        store.publish(key, body)


def contents(store: Store) -> dict[str, bytes]:
    return {blob.key: store.read(blob.key) for blob in store.list()}


def exported(store: Store, **how: object) -> bytes:
    """Return an archive of a store; not packed, unless ``how`` says otherwise."""
    target = io.BytesIO()
    archive.export(store, target, **{"format": "tar", **how})  # type: ignore[arg-type]
    return target.getvalue()


def restored(data: bytes, store: Store, **how: object) -> archive.Restored:
    return archive.restore(io.BytesIO(data), store, **how)  # type: ignore[arg-type]


def taken_apart(data: bytes) -> Tar:
    """Return the members of a tar file, as Python reads them."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(info, file.read() if (file := tar.extractfile(info)) else b"") for info in tar.getmembers()]


def put_together(members: Tar) -> bytes:
    """Return a tar file of such members."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, body in members:
            tar.addfile(info, io.BytesIO(body))
    return target.getvalue()


def member(name: str, body: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Return one member; ``fields`` are set on its header."""
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, body


def signing_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """Return the files of a new Ed25519 key and of its public half, made with OpenSSL."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    subprocess.run([needs.program("openssl"), "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run([needs.program("openssl"), "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def sealing_key(folder: Path, name: str = "seal") -> Path:
    """Return the file of a new key to seal with."""
    path = folder / name
    path.write_text(os.urandom(32).hex() + "\n")
    return path
