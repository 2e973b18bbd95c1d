"""Examination of a folder, with or without a store in it: its mount, its space, who may write, and what files can do.

What is tried is tried below `.pkgstore/doctor/`, and nothing stays there. What it takes several processes to find out
is `pkgstore.doctor`'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

from pkgstore import keys
from pkgstore.driver import Finding
from pkgstore.drivers import permissions, posix
from pkgstore.drivers.mounts import Mount, mount_of
from pkgstore.drivers.staging import Staging
from pkgstore.drivers.tree import Tree, remove_empty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOT_WRITABLE = "write"
"""The finding, an error, after which nothing more can be tried."""

_IN_MEMORY = {"tmpfs", "ramfs"}
_LEAST_SHARE = 0.05
_LEAST_BYTES = 1 << 30
_LONGEST_CACHED = 60  # seconds, the kernel's own default of acregmax and acdirmax
_SKEW = 2.0
_TRIES = 100

# What an option of an NFS mount does, and the remedy.
_NFS_OPTIONS: dict[str, tuple[str, str]] = {
    "soft": ("a server that is slow to answer makes writes fail half way", "Mount it with `hard`."),
    "softerr": ("a server that is slow to answer makes writes fail half way", "Mount it with `hard`."),
    "nolock": ("locks of other hosts are not seen", "Mount it without `nolock`."),
    "nocto": (
        "what another host changed may be seen late, for as long as attributes are cached",
        "Mount it with `cto`.",
    ),
}


def examine(root: str, scheme: str) -> Iterator[Finding]:
    """Examine the folder ``root``, that a URL of ``scheme`` (file or nfs) names. Nothing is left there."""
    try:
        mount = mount_of(root)
        status = os.stat(root)
        space = os.statvfs(root)
    except OSError as exc:
        says = f"{root} cannot be looked at: {exc.strerror}."
        yield Finding("folder", "error", says, "Mount it, and let this user search the folders above it.")
        return
    yield from of_mount(mount, scheme, root)
    readonly = bool(space.f_flag & os.ST_RDONLY)
    yield from of_space(space)
    if not readonly:
        yield from permissions.examine(root, status, on_nfs=mount.is_nfs)
    yield from _tried(root, readonly=readonly)


# -- where it is ------------------------------------------------------------------------------------------------------


def of_mount(mount: Mount, scheme: str, root: str) -> Iterator[Finding]:
    """Say what ``root`` is mounted from, and what is wrong with that for a URL of this scheme."""
    options = ",".join(dict.fromkeys((*mount.options, *mount.super_options)))
    says = f"{root} is on {mount.point}, which is {mount.kind} from {mount.source}, with {options}"
    if scheme == "nfs" and not mount.is_nfs:
        remedy = "Mount the share; or say file: in the URL, if a local folder is what is meant."
        yield Finding("mount", "error", f"{says}: that is no NFS.", remedy)
    elif scheme == "file" and mount.is_network:
        better = "Say nfs: in the URL, which" if mount.is_nfs else "Make sure that it is mounted: file:"
        ending = (
            " notices a share that is not mounted." if mount.is_nfs else " takes an empty mount point for a folder."
        )
        yield Finding("mount", "warning", f"{says}: it is a network file system.", better + ending)
    elif mount.kind in _IN_MEMORY:
        remedy = "Mount a volume there, unless the store may be lost."
        yield Finding("mount", "warning", f"{says}: it is in memory, and gone after a restart.", remedy)
    elif mount.kind == "overlay":
        remedy = "Mount a volume there, unless the store may be lost."
        yield Finding("mount", "warning", f"{says}: it is a container's own layer, and gone with it.", remedy)
    else:
        yield Finding("mount", "ok", f"{says}.")
    yield from _nfs_remarks(mount) if mount.is_nfs else _local_remarks(mount)


def _local_remarks(mount: Mount) -> Iterator[Finding]:
    if mount.option("nobarrier") is not None or mount.option("barrier") == "0":
        says = "It is mounted without barriers: what was published can be lost when the power fails."
        yield Finding("mount-options", "warning", says, "Mount it without `nobarrier` and `barrier=0`.")


def _nfs_remarks(mount: Mount) -> Iterator[Finding]:
    version = mount.option("vers") or "unknown"
    if version in ("4.2", "unknown"):
        yield Finding("nfs-version", "ok" if version == "4.2" else "note", f"The NFS version is {version}.")
    else:
        says = f"The NFS version is {version}, which has no extended attributes: digests lie beside the files."
        yield Finding("nfs-version", "note", says, "Mount it with vers=4.2, if the server has that.")
    remarks = [(name, *_NFS_OPTIONS[name]) for name in _NFS_OPTIONS if mount.option(name) is not None]
    local_lock = mount.option("local_lock")
    if local_lock in ("all", "flock"):
        remarks.append((f"local_lock={local_lock}", "locks of other hosts are not seen", "Mount with local_lock=none."))
    for name in ("actimeo", "acregmin", "acregmax", "acdirmin", "acdirmax"):
        value = mount.option(name) or ""
        if value.isdecimal() and int(value) > _LONGEST_CACHED:
            says = f"what another host changed may be seen {value} seconds late"
            remarks.append((f"{name}={value}", says, f"Mount it without `{name}`, or with {_LONGEST_CACHED} at most."))
    for name, says, remedy in remarks:
        yield Finding("mount-options", "warning", f"It is mounted with {name}: {says}.", remedy)
    if mount.option("noac") is not None:
        says = "It is mounted with noac: every look at a file asks the server, which is slow."
        yield Finding("mount-options", "note", says, "Mount it without `noac`: pkgstore does not need it.")
    if not remarks:
        yield Finding("mount-options", "ok", "No mount option does harm.")


def of_space(found: os.statvfs_result) -> Iterator[Finding]:
    """Say how much room there is for this user."""
    if found.f_blocks == 0:
        yield Finding("space", "note", "The file system does not say how much space it has.")
    else:
        free, share = found.f_bavail * found.f_frsize, found.f_bavail / found.f_blocks
        says = f"{free >> 20:,} MiB are free, {share:.0%} of all"
        if free < _LEAST_BYTES or share < _LEAST_SHARE:
            yield Finding(
                "space", "warning" if free else "error", f"{says}.", "Free some space, or enlarge the file system."
            )
        else:
            yield Finding("space", "ok", f"{says}.")
    if found.f_files == 0:
        yield Finding("inodes", "ok", "The file system does not limit how many files there are.")
    else:
        share = found.f_favail / found.f_files
        says = f"{found.f_favail:,} more files can be made, {share:.0%} of all."
        if share < _LEAST_SHARE:
            yield Finding(
                "inodes",
                "warning" if found.f_favail else "error",
                says,
                "Remove some files, or make a file system with more inodes.",
            )
        else:
            yield Finding("inodes", "ok", says)


# -- what files can do ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def workplace(root: str) -> Iterator[str]:
    """Make a folder of our own in `.pkgstore/doctor`, and remove it with all that is in it at the end."""
    place = os.path.join(root, keys.CONTROL, "doctor")
    folder = os.path.join(place, os.urandom(8).hex())
    try:
        make_place(root, folder)
        yield folder
    finally:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
        leave_place(root)


def make_place(root: str, folder: str) -> None:
    """Make ``folder``, that lies below `.pkgstore` in ``root``, and what is missing above it, but never the root."""
    mode = os.stat(root).st_mode
    steps = [root]
    for name in os.path.relpath(folder, root).split(os.sep):
        steps.append(os.path.join(steps[-1], name))
    for _ in range(_TRIES):
        # Another doctor may remove at any moment what is empty.
        with contextlib.suppress(FileNotFoundError):
            for each in steps[1:]:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(each)
                    posix.share(each, mode, folder=True)
            return
    raise OSError(errno.EBUSY, f"{folder} was removed {_TRIES} times")


def leave_place(root: str) -> None:
    """Remove `.pkgstore/doctor` when it is empty, and `.pkgstore` too when no store is there."""
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(root, keys.CONTROL, "doctor"))
    if not os.path.lexists(os.path.join(root, keys.CONTROL, "store.json")):
        with contextlib.suppress(OSError):
            folder = os.open(root, posix.DIRECTORY)
            try:
                remove_empty(folder, keys.CONTROL)
            finally:
                os.close(folder)


def reap(root: str) -> None:
    """Remove what a trial that was interrupted left: staged files that nobody writes, and empty folders of doctors."""
    with contextlib.suppress(OSError):  # such as a folder that this user may not enter
        tree = Tree(root)
        try:
            Staging(os.path.join(root, keys.CONTROL, "tmp"), tree).reap()
        finally:
            tree.close()
    place = os.path.join(root, keys.CONTROL, "doctor")
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for name in os.listdir(place):
            with contextlib.suppress(OSError):  # in use, or a file
                os.rmdir(os.path.join(place, name))
        leave_place(root)


def _tried(root: str, *, readonly: bool) -> list[Finding]:
    found: list[Finding] = []
    try:
        with workplace(root) as folder:
            path = os.path.join(folder, "file")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                posix.write_all(fd, b"x" * 1024)
                found.append(Finding(NOT_WRITABLE, "ok", "Files can be written."))
                found.append(_attempt("flush", lambda: _flush(fd, folder)))
                found.append(_clock(fd))
                found += _owner(fd)
                found.append(_attempt("extended-attributes", lambda: _attributes(fd)))
            finally:
                os.close(fd)
            found += _names(path, folder)
    except OSError as exc:
        if readonly or exc.errno == errno.EROFS:
            remedy = "Mount it read-write; when it was, look at the kernel's log for why that ended."
            return [Finding(NOT_WRITABLE, "error", f"{root} is mounted read-only.", remedy)]
        remedy = "Free some space." if posix.is_full(exc) else "See what is said of permissions and of the mount."
        return [Finding(NOT_WRITABLE, "error", f"Nothing can be written to {root}: {exc.strerror}.", remedy)]
    return found


def _attempt(name: str, trial: Callable[[], Finding]) -> Finding:
    try:
        return trial()
    except OSError as exc:
        says = f"It failed: {exc.strerror}."
        return Finding(name, "error", says, "Look at the log of the kernel, and at the server or the disk.")


def _flush(fd: int, folder: str) -> Finding:
    start = time.monotonic()
    os.fsync(fd)
    posix.sync_folder(folder)
    took = (time.monotonic() - start) * 1000
    return Finding("flush", "ok", f"Files and folders can be flushed (fsync); one of each took {took:.1f} ms.")


def _clock(fd: int) -> Finding:
    before = time.time()
    os.utime(fd)  # by the clock of whoever keeps the file
    written, after = os.fstat(fd).st_mtime, time.time()
    skew = max(before - written, written - after, 0.0)
    if skew > _SKEW:
        ahead = "ahead of" if written > after else "behind"
        says = f"The clock that stamps files is {skew:.1f} s {ahead} this host's."
        return Finding("clock", "warning", says, "Keep the clocks of both set, by NTP.")
    return Finding("clock", "ok", "The clock that stamps files agrees with this host's, within 2 s.")


def _owner(fd: int) -> Iterator[Finding]:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        says = f"What {os.geteuid()} writes belongs to {status.st_uid}:{status.st_gid} there: the server maps users."
        remedy = "Nothing, when all who write are mapped to the same user; else export the share without mapping."
        yield Finding("ownership", "note", says, remedy)


def _attributes(fd: int) -> Finding:
    try:
        os.setxattr(fd, "user.pkgstore", b"x" * 50)
        kept = os.getxattr(fd, "user.pkgstore") == b"x" * 50
    except OSError as exc:
        if exc.errno not in posix.NO_ATTRIBUTES:
            raise
        kept = False
    if kept:
        return Finding("extended-attributes", "ok", "Files carry extended attributes: digests travel with them.")
    says = "Files carry no extended attributes: digests lie beside them, in `.pkgstore/digests`."
    return Finding("extended-attributes", "note", says)


def _names(path: str, folder: str) -> Iterator[Finding]:
    """Try both ways to give a file a name that must be free."""
    links = _attempt("hard-links", lambda: _exclusive("hard-links", "Hard links", lambda at: os.link(path, at), folder))
    opened = os.open(folder, posix.DIRECTORY)
    try:
        renames = _attempt(
            "rename",
            lambda: _exclusive(
                "rename",
                "Renames that never replace",
                lambda at: posix.rename_exclusive(path, opened, os.path.basename(at)),
                folder,
            ),
        )
    finally:
        os.close(opened)
    yield links
    yield renames
    if "ok" not in (links.level, renames.level):
        says = "Files can be given a free name neither by a link nor by a rename: two writers could both win a key."
        yield Finding("exclusive", "error", says, "Put the store on another file system: ext4, xfs, NFS.")


def _exclusive(name: str, what: str, give: Callable[[str], object], folder: str) -> Finding:
    taken, free = os.path.join(folder, f"{name}-taken"), os.path.join(folder, f"{name}-free")
    os.close(os.open(taken, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        try:
            give(taken)
        except FileExistsError:
            give(free)
            return Finding(name, "ok", f"{what} are there, and a name that is taken is refused.")
    except OSError as exc:
        if exc.errno not in posix.NO_HARD_LINKS:
            raise
        return Finding(name, "note", f"{what} are not there: {os.strerror(exc.errno)}.")
    says = f"{what} replace a file that is there: two writers could both win a key."
    return Finding(name, "error", says, "Put the store on another file system: ext4, xfs, NFS.")
