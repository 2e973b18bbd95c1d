"""Samba on a free port of loopback, run as an ordinary user, with its shares in a folder of the test."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "correct horse"

_NOBODY = 65534
_READY_WITHIN = 30.0

_GLOBAL = """\
[global]
workgroup = WORKGROUP
netbios name = PKGTEST
server role = standalone server
smb ports = {port}
interfaces = 127.0.0.1/8
bind interfaces only = yes
disable netbios = yes
disable spoolss = yes
load printers = no
printcap name = /dev/null
dns proxy = no
map to guest = never
restrict anonymous = 2
server min protocol = SMB2_10
server multi channel support = no
passdb backend = tdbsam:{folder}/private/passdb.tdb
private dir = {folder}/private
lock directory = {folder}/lock
state directory = {folder}/state
cache directory = {folder}/cache
pid directory = {folder}/pid
ncalrpc dir = {folder}/ncalrpc
log file = {folder}/log/smbd.log
max log size = 0
log level = 1
"""

_SHARES = {
    "pkg": "read only = no",
    "readonly": "read only = yes",
    "encrypted": "read only = no\nserver smb encrypt = required",
    "plain": "read only = no\ncase sensitive = yes\nea support = no",
    "cased": "read only = no\ncase sensitive = yes",
    "small": "read only = no",
}
_FOLDER_OF = {"readonly": "pkg", "encrypted": "pkg", "cased": "pkg"}
_FOLDERS = ("private", "lock", "state", "cache", "pid", "ncalrpc", "log")


@dataclass
class SMBServer:
    """A server that runs. Its shares serve folders below ``folder``; ``pid`` leads its process group."""

    port: int
    folder: Path
    user: str
    pid: int

    def url(self, path: str, **options: str) -> str:
        """Return the URL of a share and a folder in it."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"smb://127.0.0.1:{self.port}/{path}" + (f"?{query}" if query else "")

    def path(self, url: str, key: str) -> Path:
        """Return where a key of a store lies on this host."""
        share, _, prefix = url.partition("?")[0].split("/", 3)[3].partition("/")
        return self.folder / _FOLDER_OF.get(share, share) / prefix / key

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server's processes stand still until the block ends; their connections stay open."""
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def samba(settings: str = "") -> Iterator[SMBServer]:
    """Run a server until the block ends; ``settings`` are lines for its global section.

    It runs as the user of this process, or as nobody when that is root. Its folder lies where nobody may go, too.
    """
    smbd, pdbedit = needs.program("smbd"), needs.program("pdbedit")
    uid = _NOBODY if os.geteuid() == 0 else os.getuid()
    with tempfile.TemporaryDirectory(prefix="pkgstore-smb-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        for each in (*_FOLDERS, *_SHARES):
            (folder / each).mkdir()
            os.chown(folder / each, uid, -1)
        for _ in range(5):
            port = _free_port()
            config = folder / "smb.conf"
            config.write_text(_GLOBAL.format(port=port, folder=folder) + settings + _shares(folder))
            user = _add_user(pdbedit, config, uid)
            process = _start(
                [smbd, "--foreground", "--no-process-group", f"--configfile={config}"], uid, folder / "out"
            )
            try:
                if _is_ready(process, port, folder):
                    yield SMBServer(port, folder, user, process.pid)
                    return
            finally:
                _end(process)
    raise AssertionError("the server could not have any of five ports")


def _shares(folder: Path) -> str:
    return "".join(
        f"[{name}]\npath = {folder / _FOLDER_OF.get(name, name)}\n{lines}\n" for name, lines in _SHARES.items()
    )


def _start(command: list[str], uid: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a process that leads a process group of its own."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **_become(uid),
        )


def _become(uid: int) -> dict[str, Any]:
    return {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 else {}


def _add_user(pdbedit: str, config: Path, uid: int) -> str:
    """Let the user log on by `PASSWORD`; return what it is called."""
    name = pwd.getpwuid(uid).pw_name
    done = subprocess.run(
        [pdbedit, "-s", str(config), "-a", "-u", name, "-t"],
        input=f"{PASSWORD}\n{PASSWORD}\n".encode(),
        capture_output=True,
        timeout=_READY_WITHIN,
        check=False,
        **_become(uid),
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return name


def _is_ready(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    """Wait until the server takes connections. False when another process has the port."""
    deadline = time.monotonic() + _READY_WITHIN
    while process.poll() is None:
        assert time.monotonic() < deadline, f"the server did not get ready:\n{_logs(folder)}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process.poll() is None
        time.sleep(0.02)
    logs = _logs(folder)
    assert "in use" in logs, f"the server ended:\n{logs}"
    return False


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in (folder / "out", *(folder / "log").iterdir()))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and all that it has started, which are in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
