"""Archives of a store: tar files that can be trusted, to keep, to move and to restore from.

An archive is a tar stream, packed with zstd or gzip or not at all, that any tar unpacks to the packages in their
layout. Each blob comes with its line of the manifest, and the whole manifest comes last, so that one pass over a pipe
is enough to write an archive, and to verify each blob of it before it is visible. It may be signed and sealed.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from pkgstore.archive import packing, sealing, signing
from pkgstore.archive.base import Base
from pkgstore.archive.exporting import Export, Exported
from pkgstore.archive.items import Limits
from pkgstore.archive.local import Rewound, check_target, spool
from pkgstore.archive.publishing import Outcome
from pkgstore.archive.restoring import Restore, Restored, Verification
from pkgstore.archive.walking import Walk
from pkgstore.errors import Corrupt, Denied, Misconfigured
from pkgstore.outfile import write_all, written

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from pkgstore import Store
    from pkgstore.archive.local import Readable

    Path = str | os.PathLike[str]

__all__ = ["Export", "Exported", "Limits", "Outcome", "Restored", "export", "restore", "stream", "verify"]


def export(
    store: Store,
    target: Path | BinaryIO,
    *,
    format: packing.Format | None = None,  # noqa: A002
    since: Path | Readable | None = None,
    sign_key: Path | None = None,
    encrypt_key: Path | None = None,
    replace: bool = False,
    jobs: int = 8,
    progress: Callable[[int], object] | None = None,
) -> Exported:
    """Write an archive of all blobs of a store, or of a scope of one, to ``target``; return what was done.

    ``target`` is a path, which gets its name only when the archive is whole and durable, or a binary file. ``format``
    is ``tar.zst``, ``tar.gz`` or ``tar``; unless given, the path's suffix says it, and for a file it is ``tar.zst``.
    ``replace`` lets the archive take the place of a file that is there.

    ``since`` is an earlier archive, or its manifest: only blobs that are new or changed are written, and those that are
    gone are named. ``sign_key`` is a file with an Ed25519 private key, in PEM; ``encrypt_key`` one with 32 bytes, as
    they are, in hexadecimal or in base64. The archive at ``since`` has to be of the same store and scope, whole, and
    signed and sealed with the same keys; a manifest by itself is neither.

    Blobs that are there from beginning to end are in it, each in one version; those that come or go meanwhile are or
    are not. ``jobs`` are read at a time, and ``progress`` is called with the bytes of each that was written.

    Raises `Corrupt` for a blob that does not have its digest, `Misconfigured` for a key or an earlier archive that is
    of no use, FileExistsError and other OSErrors for the file, and what `Store.list` and `Store.open` raise.
    """
    form = format or ("tar.zst" if _is_file(target) else packing.format_of(str(target)))
    with (
        stream(
            store, form, since=since, sign_key=sign_key, encrypt_key=encrypt_key, jobs=jobs, progress=progress
        ) as archive,
        _target(target, replace=replace) as file,
    ):
        for chunk in archive.chunks():
            write_all(file, chunk)
    return archive.report


@contextmanager
def stream(
    store: Store,
    format: packing.Format = "tar.zst",  # noqa: A002
    *,
    since: Path | Readable | None = None,
    sign_key: Path | None = None,
    encrypt_key: Path | None = None,
    jobs: int = 8,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Export]:
    """Yield an archive of a store as a file to read from, for `Store.publish` of another store; see `export`."""
    if format not in packing.FORMATS:
        raise Misconfigured(f"there is no format {format!r}: choose one of {', '.join(packing.FORMATS)}")
    signer = None if sign_key is None else signing.signer(sign_key)
    key = None if encrypt_key is None else sealing.read_key(encrypt_key)
    with ExitStack() as stack:
        base = None if since is None else stack.enter_context(_base(since, signer, key))
        yield stack.enter_context(
            Export(store, format, base=base, signer=signer, key=key, jobs=jobs, progress=progress)
        )


def restore(
    source: Path | Readable,
    store: Store,
    *,
    verify_key: Path | None = None,
    decrypt_key: Path | None = None,
    replace: bool = False,
    apply_changes: bool = False,
    any_base: bool = False,
    strip: int = 0,
    limits: Limits | None = None,
    executor: Executor | None = None,
    jobs: int = 8,
    told: Callable[[Outcome], object] = lambda _: None,
) -> Restored:
    """Publish what an archive holds in a store, or in a scope of one; return what was done.

    ``source`` is a path or a binary file, read once from where it stands: an archive of ours, or any tar file, plain or
    packed with gzip or zstd. Each blob is verified before it is visible, as the archive's manifest has it; nothing was
    verified of other tar files but that they are whole. Blobs that the store has already are the same, or else in
    conflict and stay, unless ``replace`` says otherwise. After an interruption, the same call again does the rest.

    ``apply_changes`` does to the store what was done since the base of an incremental archive: deletes and replaces,
    where the store still has what the base had. It deletes nothing where anything was damaged or refused, nor where the
    store has none, or less than half, of the other blobs of that base, unless ``any_base``.

    With ``verify_key``, a file with an Ed25519 public key in PEM, all is refused that is not signed with it; with
    ``decrypt_key``, a file of a key, all that is not sealed with it. ``strip`` leaves out so many folders at the
    beginning of the names in tar files of others. ``told`` is called with each `Outcome`, in this thread.

    ``executor`` does what can be spread, or else ``jobs`` threads: it publishes the blobs of up to 8 MiB, and looks at
    those that the archive leaves to its base. At most twice ``jobs`` of them are with it at a time, and 24 MiB. Larger
    ones are published in this thread, as they are read. Another process gets blobs and store by pickle.

    Raises `Corrupt` for an archive that is not whole, or passes the ``limits``; `Denied` for one that is not signed or
    sealed as was asked; OSErrors of the file, and what `Store.publish` raises of the store as a whole. Blobs that are
    restored by then are whole, and stay.
    """
    with _source(source) as file, _walk(file, verify_key, decrypt_key, strip, limits) as walk:
        return Restore(
            walk,
            store,
            told,
            replace=replace,
            apply_changes=apply_changes,
            any_base=any_base,
            executor=executor,
            jobs=jobs,
        ).run()


def verify(
    source: Path | Readable,
    *,
    verify_key: Path | None = None,
    decrypt_key: Path | None = None,
    strip: int = 0,
    limits: Limits | None = None,
    told: Callable[[Outcome], object] = lambda _: None,
) -> Restored:
    """Read an archive to its end, as `restore` does, and restore nothing; return what was found."""
    with _source(source) as file, _walk(file, verify_key, decrypt_key, strip, limits) as walk:
        return Verification(walk, told).run()


def _walk(file: Readable, verify_key: Path | None, decrypt_key: Path | None, strip: int, limits: Limits | None) -> Walk:
    if strip < 0:
        raise Misconfigured(f"{strip} folders cannot be left out: let there be 0 or more")
    checker = None if verify_key is None else signing.checker(verify_key)
    key = None if decrypt_key is None else sealing.read_key(decrypt_key)
    return Walk(file, checker=checker, key=key, strip=strip, limits=limits)


@contextmanager
def _base(since: Path | Readable, signer: signing.Signer | None, key: bytes | None) -> Iterator[Base]:
    """Yield what an earlier archive, or its manifest, says of the store as it was then.

    Who signs or seals answers for the base, too: it has to be signed and sealed with the same keys, and be whole.
    """
    with _source(since) as source:
        file = Rewound(source, len(sealing.MAGIC))
        if file.first.startswith(b"{"):
            if signer is not None or key is not None:
                raise Misconfigured(
                    "a manifest by itself is neither signed nor sealed: give the earlier archive itself"
                )
            with spool() as copy:
                yield Base.read(file, copy)
            return
        checker = None if signer is None else signer.checker()
        with Walk(file, checker=checker, key=key, limits=Limits(ratio=math.inf)) as walk:
            try:
                report = Verification(walk, lambda _: None).run()
            except (Denied, Corrupt) as exc:
                raise type(exc)(f"the earlier archive cannot be built upon: {exc}") from exc
            base = walk.as_base()
            if report.damaged:
                raise Corrupt(f"the earlier archive has {report.damaged:,} damaged blobs: give one that is whole")
            yield base


@contextmanager
def _source(source: Path | Readable) -> Iterator[Readable]:
    if _is_file(source):
        yield cast("Readable", source)
    else:
        with open(cast("Path", source), "rb", buffering=0) as file:
            yield cast("Readable", file)


@contextmanager
def _target(target: Path | BinaryIO, *, replace: bool) -> Iterator[BinaryIO]:
    if _is_file(target):
        yield cast("BinaryIO", target)
    else:
        check_target(cast("Path", target))
        with written(cast("Path", target), replace=replace) as file:
            yield file


def _is_file(given: object) -> bool:
    return callable(getattr(given, "read", None)) or callable(getattr(given, "write", None))
