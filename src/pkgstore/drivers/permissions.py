"""Who may write to a store's folder: owners, groups and modes, and what to change where they are wrong."""

from __future__ import annotations

import contextlib
import os
import stat
from shlex import quote
from typing import TYPE_CHECKING

from pkgstore import keys
from pkgstore.driver import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKED_AT = 1000


def examine(root: str, status: os.stat_result, *, on_nfs: bool) -> Iterator[Finding]:
    """Say whether this process may write to ``root``, whose status is given, and who else; and what would help."""
    control = os.path.join(root, keys.CONTROL)
    own = [root, control, os.path.join(control, "tmp"), os.path.join(control, "digests")]
    here = [path for path in own if os.path.isdir(path)]
    refused = [path for path in here if not _may_write(path)] or [
        path for path in _folders(root) if not _may_write(path)
    ]
    who = f"this process, {os.geteuid()}:{os.getegid()} with the groups {_numbers(os.getgroups())},"
    if refused:
        path = refused[0]
        others = f" (and not to {len(refused) - 1} others)" if len(refused) > 1 else ""
        says = f"{path} is {_owned(os.stat(path))}: {who} may not write there{others}."
        yield Finding("permissions", "error", says, _let_write(root, os.stat(path), on_nfs=on_nfs))
    else:
        yield Finding("permissions", "ok", f"{root} is {_owned(status)}: {who} may write there.")
    yield _sharing(root, status, here)


def _sharing(root: str, status: os.stat_result, here: list[str]) -> Finding:
    path = quote(root)
    if status.st_mode & stat.S_IWOTH:
        says = f"Every user of this host may write to {root}: any of them can change what was published."
        return Finding("sharing", "warning", says, f"chmod -R o-w {path}")
    if not status.st_mode & stat.S_IWGRP:
        says = f"Its group, {status.st_gid}, may not write to {root}: only the user {status.st_uid} may."
        remedy = f"If others are to write: chmod -R g+rwX {path} && chmod g+s {path}, and have them in that group."
        return Finding("sharing", "note", says, remedy)
    closed = [path for path in here if not os.stat(path).st_mode & stat.S_IWGRP]
    if closed:
        says = (
            f"The group {status.st_gid} may write to {root}, but not to {closed[0]}: its other members cannot publish."
        )
        return Finding("sharing", "warning", says, f"chmod -R g+rwX {path}")
    if not status.st_mode & stat.S_ISGID:
        says = f"The group {status.st_gid} may write to {root}, but what others make there is of their own groups."
        return Finding("sharing", "warning", says, f"chmod g+s {path}, for the folders in it too.")
    return Finding("sharing", "ok", f"The group {status.st_gid} may write to {root} too.")


def _let_write(root: str, status: os.stat_result, *, on_nfs: bool) -> str:
    uid, gid, path = os.geteuid(), os.getegid(), quote(root)
    if uid == 0:
        return (
            f"The server does not let root write (root_squash): run as {status.st_uid}:{status.st_gid}, in Kubernetes"
            f" with securityContext.runAsUser: {status.st_uid} and runAsGroup: {status.st_gid}; or export it with"
            " no_root_squash."
        )
    if status.st_gid in (gid, *os.getgroups()):
        return f"This user is in its group {status.st_gid}: chmod -R g+rwX {path} && chmod g+rwxs {path}"
    by_hand = f"chown -R {uid}:{gid} {path}, or chgrp -R {gid} {path} && chmod -R g+rwX {path} && chmod g+rwxs {path}"
    if on_nfs:
        return f"On the server: {by_hand}. (The fsGroup of Kubernetes changes no files of an NFS share.)"
    return f"In Kubernetes, set securityContext.fsGroup: {gid}; elsewhere, {by_hand}"


def _may_write(path: str) -> bool:
    return os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def _folders(root: str) -> list[str]:
    """Return the folders in ``root`` itself, the first thousand."""
    found: list[str] = []
    with contextlib.suppress(PermissionError), os.scandir(root) as entries:
        for each in entries:
            if len(found) == _LOOKED_AT:
                break
            if each.is_dir(follow_symlinks=False) and each.name != "lost+found":
                found.append(each.path)
    return sorted(found)


def _owned(status: os.stat_result) -> str:
    return f"owned by {status.st_uid}:{status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}"


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"
