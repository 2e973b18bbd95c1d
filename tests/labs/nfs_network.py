"""Inside the machine: the kernel's NFS server, and two clients of it that share nothing but the network.

The clients are network namespaces with a mount each, /mnt/a and /mnt/b; EXPORT is the server's own view. Whoever opens
a file below a mount is a process of that client.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pkgstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pkgstore import Store

CLIENTS = {"a": 1, "b": 2}
_NUMBERS = {**CLIENTS, "twin": 3}
EXPORT = Path("/mnt/disk/export")
SMALL = EXPORT / "small"
LEASE = 10
# One port at all, as the kernel tells it to one rpcbind for all namespaces. Locks wait until a grace period is over.
_LOCKD = "nlm_tcpport=4045 nlm_udpport=4045 nlm_timeout=3 nlm_grace_period=3"
_FINIT_MODULE = 313  # of x86-64, the only architecture of User-Mode Linux


def run(*command: str | Path, check: bool = True) -> None:
    """Run a command of the system. Raises CalledProcessError, with what it said."""
    subprocess.run([str(word) for word in command], check=check, stdin=subprocess.DEVNULL)


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for a condition. Raises TimeoutError, saying what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)


def set_up(version: str) -> None:
    """Start the server, and mount its export on both clients."""
    _mount("tmpfs", "/run")
    for folder in ("/dev/shm", "/run/rpcbind", "/run/netns", "/mnt/tmp"):
        Path(folder).mkdir(exist_ok=True)
    _mount("tmpfs", "/dev/shm")
    _mount("tmpfs", "/mnt/tmp")
    _load(lockd=_LOCKD, nfsv3="", nfsv4="", nfsd="", veth="", sch_netem="")
    run("ip", "link", "set", "lo", "up")
    for client in CLIENTS:
        _add_client(client, f"client-{client}")
    _state_of_nfs()
    run("rpcbind")
    run("rpc.statd", "--no-notify")
    EXPORT.mkdir(exist_ok=True)
    SMALL.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", SMALL)
    _mount("nfsd", "/proc/fs/nfsd")
    for name in ("nfsv4leasetime", "nfsv4gracetime"):
        Path("/proc/fs/nfsd", name).write_text(f"{LEASE}")
    export()
    run("rpc.mountd")
    start_server(version)
    if version != "3":
        Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")  # there are no clients yet that could claim anything
    for client in CLIENTS:
        if version == "3":
            _serve_locks(client)
        mount(client, version)


def _mount(kind: str, folder: str) -> None:
    run("mount", "-t", kind, kind, folder)


def _load(**modules: str) -> None:
    """Load modules of this kernel, by name with their parameters, and what they depend on.

    Without modprobe, which looks in a folder of the machine that this one is booted from.
    """
    release = os.uname().release
    folder = Path("/usr/lib/uml/modules", release)
    libc = ctypes.CDLL(None, use_errno=True)
    paths: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        paths[Path(path).stem] = [*reversed(needed.split()), path]
    for module, parameters in modules.items():
        for path in paths[module]:
            own = parameters if Path(path).stem == module else ""
            with (folder / path).open("rb") as file:
                if libc.syscall(_FINIT_MODULE, file.fileno(), own.encode(), 0) and ctypes.get_errno() != errno.EEXIST:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def _add_client(client: str, identifier: str) -> None:
    number = _NUMBERS[client]
    run("ip", "netns", "add", client)
    run("ip", "link", "add", f"v{client}", "type", "veth", "peer", "name", f"e{client}", "netns", client)
    run("ip", "addr", "add", f"10.99.{number}.1/24", "dev", f"v{client}")
    run("ip", "link", "set", f"v{client}", "up")
    inside = ("ip", "-n", client)
    run(*inside, "addr", "add", f"10.99.{number}.2/24", "dev", f"e{client}")
    run(*inside, "link", "set", f"e{client}", "up")
    run(*inside, "link", "set", "lo", "up")
    # Clients of one id are taken for one that was started again, whose locks are gone.
    run("ip", "netns", "exec", client, "sh", "-c", f"echo {identifier} > /sys/fs/nfs/net/nfs_client/identifier")


def _state_of_nfs() -> None:
    _mount("tmpfs", "/var/lib/nfs")
    for name in ("rpc_pipefs", "sm", "sm.bak", "v4recovery", "nfsdcltrack"):
        Path("/var/lib/nfs", name).mkdir()
    for name in ("etab", "rmtab", "state"):
        Path("/var/lib/nfs", name).touch()


def _serve_locks(client: str) -> None:
    """Start what NFS 3 needs at a client for locks, with state of its own."""
    state = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/nfs && cd /var/lib/nfs && mkdir sm sm.bak"
    start = "touch state && rpcbind && rpc.statd --no-notify"
    run("nsenter", f"--net=/run/netns/{client}", "unshare", "-m", "sh", "-c", f"{state} && {start}")


def export(number: int = 0) -> None:
    """Offer EXPORT, and SMALL in it, to all. Clients that know EXPORT by another number have stale handles."""
    options = "rw,no_root_squash,no_subtree_check,insecure,sync"
    run("exportfs", "-o", f"{options},fsid={number}", f"*:{EXPORT}")
    run("exportfs", "-o", f"{options},fsid=7", f"*:{SMALL}")
    run("exportfs", "-f")


def start_server(version: str) -> None:
    """Serve, by this version alone: those before the fourth have locks, and a grace period, of their own."""
    run("rpc.nfsd", "--no-nfs-version", "4" if version == "3" else "3", "8")


def stop_server() -> None:
    """Stop serving, and forget what clients have open and locked."""
    run("rpc.nfsd", "0")


def mount(client: str, version: str, *, point: str = "", small: bool = False, options: str = "") -> Path:
    """Mount the export on a client, with the defaults of its kernel unless told otherwise; return where."""
    folder = Path(point or (f"/mnt/small-{client}" if small else f"/mnt/{client}"))
    folder.mkdir(exist_ok=True)
    exported = (SMALL if small else EXPORT) if version == "3" else Path("/small" if small else "/")
    given = f"vers={version},proto=tcp{options and ','}{options}"
    server = f"10.99.{_NUMBERS[client]}.1:{exported}"
    run("nsenter", f"--net=/run/netns/{client}", "mount", "-t", "nfs", "-o", given, server, folder)
    return folder


@contextlib.contextmanager
def twin(version: str) -> Iterator[None]:
    """Have a third client, `twin`, that the server takes for client a, as it has the same identifier."""
    _add_client("twin", "client-a")
    try:
        point = mount("twin", version)
        try:
            yield
        finally:
            run("umount", "--force", "--lazy", point)
    finally:
        run("ip", "netns", "del", "twin")


@contextlib.contextmanager
def bad_network(delay: str = "5ms", loss: str = "1%") -> Iterator[None]:
    """Delay and lose packets, both ways, between the server and both clients."""
    for client in CLIENTS:
        netem = ("root", "netem", "delay", delay, "loss", loss)
        run("tc", "qdisc", "add", "dev", f"v{client}", *netem)
        run("tc", "-n", client, "qdisc", "add", "dev", f"e{client}", *netem)
    try:
        yield
    finally:
        for client in CLIENTS:
            run("tc", "qdisc", "del", "dev", f"v{client}", "root")
            run("tc", "-n", client, "qdisc", "del", "dev", f"e{client}", "root")


def cut_off(client: str) -> None:
    """Take a client's cable away."""
    run("ip", "link", "set", f"v{client}", "down")


def connect(client: str) -> None:
    """Give it back."""
    run("ip", "link", "set", f"v{client}", "up")


def requests(client: str, operation: str) -> int:
    """Return how many requests of a kind a client has sent to the server."""
    _, _, own = Path("/proc/self/mountstats").read_text().partition(f" mounted on /mnt/{client} ")
    for line in own.partition("\ndevice ")[0].splitlines():
        name, _, counts = line.strip().partition(": ")
        if name == operation:
            return int(counts.split()[0])
    raise LookupError(operation)


def on(client: str, url: str) -> str:
    """Return the URL of the same store on one client."""
    return url.replace("/mnt/a/", f"/mnt/{client}/")


def at_server(url: str, key: str = "") -> Path:
    """Return the path of a store, or of a blob in it, on the server's own disk."""
    path = url.removeprefix("nfs://")
    assert path.startswith(("/mnt/a/", "/mnt/b/")), url
    return Path(EXPORT, *Path(path).parts[3:], key)


def open_on_either(url: str, **options: Any) -> Store:
    """Open a store on the one client or the other, by this process's number; make it, where there is none."""
    if not options.get("readonly"):
        options.setdefault("create", True)
    return pkgstore.open(on("ab"[os.getpid() % 2], url), **options)
