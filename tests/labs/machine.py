"""A second kernel to kill: User-Mode Linux, with this machine's files as its root and a disk image of its own.

What it runs writes to standard output, which arrives here. Killing the machine is a power cut: its page cache is gone,
and its disk image holds what had been flushed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pkgstore
from tests import needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PROJECT = Path(__file__).parents[2]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Disk:
    """A disk image with a file system, and the folder that guests mount it under."""

    image: Path
    kind: str

    @classmethod
    def make(cls, folder: Path, kind: str, size: int = 400 << 20) -> Disk:
        """Make an empty one of a kind that the guest's kernel has: ext4 or xfs."""
        mkfs = needs.program(f"mkfs.{kind}")
        image = folder / "disk.img"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run([mkfs, "-q", "-F" if kind == "ext4" else "-f", str(image)], check=True)
        return cls(image, kind)


@contextlib.contextmanager
def running(
    disk: Disk, script: Path, *arguments: str, memory: int = 512, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Boot a machine that runs a Python script with the disk mounted on /mnt/disk; kill it at the end if it still runs.

    The script's standard output is the process's. ``memory`` is in MiB. A guest that needs modules of its kernel loads
    them from `modules`. The files of this machine are for reading only there, but for what lies on the disk.
    """
    needs.root()
    kernel = needs.program("linux.uml")
    search = os.pathsep.join([str(Path(pkgstore.__file__).parents[1]), str(_PROJECT)])
    command = shlex.join([sys.executable, "-B", str(script), *arguments])
    variables = {"PATH": _PATH, "PYTHONPATH": search, **(environment or {})}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    init = disk.image.with_suffix(".init")
    init.write_text(f"""#!/bin/sh
export {exports}
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t tmpfs tmpfs /mnt && mkdir /mnt/disk
mount -t {disk.kind} /dev/ubda /mnt/disk || {{ echo "cannot mount the disk"; halt -f; }}
{command} 2>&1
umount /mnt/disk
halt -f
""")
    init.chmod(0o755)
    boot = [kernel, f"mem={memory}M", f"ubd0={disk.image}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]
    boot += [f"init={init}", "con=null", "con0=fd:0,fd:1", "quiet"]
    process = subprocess.Popen(
        boot, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        cut(process)
        process.stdout.close()  # type: ignore[union-attr]


def cut(process: subprocess.Popen[bytes]) -> None:
    """Pull the plug."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lines(process: subprocess.Popen[bytes], seconds: float) -> Iterator[list[str]]:
    """Yield the words of each whole line of a machine's output; fail when it has said nothing more for too long."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    for line in process.stdout:
        if time.monotonic() > deadline:
            raise AssertionError(f"the machine still runs after {seconds} s")
        if line.endswith(b"\n"):
            yield line.decode(errors="replace").split()
