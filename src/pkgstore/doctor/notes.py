"""What the doctors that run at one time leave for each other to read: who they are, and what they see."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from typing import Any

_LONGEST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Host:
    """Who a run is: the host by its name, its boot and its network namespace, and what the NFS server calls it."""

    name: str
    boot: str
    network: str
    nfs_client: str
    process: str

    @classmethod
    def this(cls) -> Host:
        """Return this process's own."""
        unique = _first_line("/sys/fs/nfs/net/nfs_client/identifier")
        if unique in ("", "(null)"):
            unique = _first_line("/sys/module/nfs/parameters/nfs4_unique_id")
        name = os.uname().nodename
        return cls(
            name=name,
            boot=_first_line("/proc/sys/kernel/random/boot_id"),
            network=str(os.stat("/proc/self/ns/net").st_ino),
            nfs_client=f"{unique}/{name}" if unique else name,
            process=str(os.getpid()),
        )

    def is_same_host(self, other: Host) -> bool:
        """Say whether one kernel, in one network namespace, runs both: one NFS client."""
        return (self.boot, self.network) == (other.boot, other.network)

    def __str__(self) -> str:
        where = f"boot {self.boot[:8]}, network namespace {self.network}, process {self.process}"
        return f"{self.name} ({where}, NFS client id {self.nfs_client!r})"


@dataclass(frozen=True, slots=True)
class Note:
    """What a run says of itself: how far it has counted, whether it holds the lock or was refused it, what it has seen
    of other runs (the number of each), and of which it has found out what there was to find.
    """

    host: Host
    count: int
    holds: bool
    refused: bool
    seen: dict[str, int]
    judged: list[str]

    @classmethod
    def parsed(cls, data: bytes) -> Note | None:
        """Return what a document says; None for one that is none of ours."""
        try:
            document: dict[str, Any] = json.loads(data)
            named = {each.name: _shown(document["host"][each.name]) for each in fields(Host)}
            seen = {str(run): int(count) for run, count in document["seen"].items()}
            judged = [str(run) for run in document["judged"]]
            return cls(
                Host(**named),
                int(document["count"]),
                document["holds"] is True,
                document["refused"] is True,
                seen,
                judged,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def _first_line(path: str) -> str:
    """Return the first line of a file of the kernel's; nothing where it has no such file."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _shown(value: object) -> str:
    """Return what another process wrote, fit to be shown."""
    return "".join(char if char.isprintable() else "?" for char in str(value)[:_LONGEST_SHOWN])
