"""What S3 servers for tests are made of: processes on free loopback ports, ended by their ids whatever happens."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REGION = "us-east-1"
_NOTHING_FROM_OUTSIDE = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
_READY_WITHIN = 60.0
_ENDED_WITHIN = 10.0
_PORT_TAKEN = re.compile("already in use|address in use|not available on 127|could not bind to", re.IGNORECASE)


@dataclass(frozen=True)
class Endpoint:
    """An S3 server that runs. ``processes`` are its process ids; each leads a process group of its own."""

    name: str
    url: str
    access_key: str
    secret_key: str
    processes: tuple[int, ...]
    region: str = REGION

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, secret_key: str | None = None, *, read_timeout: float = 30.0) -> Any:
        """Return botocore's client of the server, which does not try twice, with this or the endpoint's secret key."""
        return client(self.url, self.access_key, secret_key or self.secret_key, read_timeout=read_timeout)

    def create_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def stop(self) -> None:
        """Make every process stand still, as a server does that hangs: its connections stay open."""
        for pid in self.processes:
            os.killpg(pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let every process go on."""
        for pid in self.processes:
            os.killpg(pid, signal.SIGCONT)


class PortTaken(Exception):
    """Another process was faster to take a port."""


class Processes:
    """The processes that make one server, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CEPH_"))}
        self.env = {**inherited, "HOME": str(folder), "TMPDIR": str(folder)}

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self.running.values())

    def start(self, *command: str | Path, **env: str) -> None:
        """Start a process that goes on until the end."""
        name = f"{len(self.running)}-{Path(command[0]).name}"
        with self._log(name).open("wb") as output:
            self.running[name] = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.folder,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def listen(self, port: int) -> bool:
        """Return whether it is one of these processes that takes connections at a port, and not somebody else's."""
        sockets = _listening(port)
        for folder in (Path(f"/proc/{pid}/fd") for pid in self.ids):
            with contextlib.suppress(OSError):  # it has closed one meanwhile, or has ended
                if any(os.readlink(each) in sockets for each in folder.iterdir()):
                    return True
        return False

    def run(self, *command: str | Path, **env: str) -> None:
        """Run a process to its end. Raises AssertionError, with what it printed, when it fails."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_READY_WITHIN,
            check=False,
        )
        assert done.returncode == 0, f"{command[0]} failed:\n{(done.stdout + done.stderr).decode(errors='replace')}"

    def until(self, ready: Callable[[], object]) -> None:
        """Wait until a condition holds. Raises PortTaken, or AssertionError when it fails for another reason."""
        deadline = time.monotonic() + _READY_WITHIN
        while not ready():
            for name, process in self.running.items():
                if _has_ended(process.pid):
                    output = self._log(name).read_text(errors="replace")
                    if _PORT_TAKEN.search(output):
                        raise PortTaken
                    raise AssertionError(f"{name} ended with {process.wait()}:\n{output}")
            assert time.monotonic() < deadline, f"the server did not get ready:\n{self._logs()}"
            time.sleep(0.02)

    def end(self) -> None:
        """End every process, with all that it has started in its group."""
        left = [process for process in self.running.values() if process.returncode is None]
        for process in reversed(left):
            os.killpg(process.pid, signal.SIGTERM)
            os.killpg(process.pid, signal.SIGCONT)
        deadline = time.monotonic() + _ENDED_WITHIN
        for process in left:
            while not _has_ended(process.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _logs(self) -> str:
        return "\n".join(f"{name}:\n{self._log(name).read_text(errors='replace')}" for name in self.running)


def server(launch: Callable[[Processes], Endpoint]) -> Callable[[Path], contextlib.AbstractContextManager[Endpoint]]:
    """Make a context manager, which takes a folder, of what starts a server. Taken ports make it start again."""

    @contextlib.contextmanager
    @functools.wraps(launch)
    def serving(folder: Path) -> Iterator[Endpoint]:
        for attempt in range(5):
            processes = Processes(folder / str(attempt))
            try:
                endpoint = launch(processes)
            except PortTaken:
                processes.end()
                continue
            except BaseException:
                processes.end()
                raise
            try:
                yield endpoint
            finally:
                processes.end()
            return
        raise AssertionError(f"{launch.__name__}: each time another process took a port first")

    return serving


def client(url: str, access_key: str, secret_key: str, service: str = "s3", read_timeout: float = 30.0) -> Any:
    """Return botocore's client of a service at ``url``, which takes nothing from the environment."""
    session = botocore.session.Session(session_vars=_NOTHING_FROM_OUTSIDE)
    return session.create_client(
        service,
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            proxies={},
            connect_timeout=5,
            read_timeout=read_timeout,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            signature_version="s3v4" if service == "s3" else "v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def answers(url: str, access_key: str, secret_key: str) -> bool:
    """Return whether an S3 server lists its buckets."""
    try:
        client(url, access_key, secret_key).list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


def listens(port: int) -> bool:
    """Return whether somebody takes connections at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int, *offsets: int) -> list[int]:
    """Return distinct ports that are free now, and so is each port that lies one of ``offsets`` above one of them."""
    with contextlib.ExitStack() as taken:
        found: list[int] = []
        while len(found) < count:
            with contextlib.ExitStack() as candidate:
                port = _take(candidate, 0)
                try:
                    for offset in offsets:
                        _take(candidate, port + offset)
                except (OSError, OverflowError):
                    continue
                found.append(port)
                taken.push(candidate.pop_all())
        return found


def packaged(name: str) -> str:
    """Return the path of a program that a Python package brings: the one beside this Python, or else on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else needs.program(name)


def _listening(port: int) -> set[str]:
    """Return the sockets that take connections at a port, as the descriptors of processes are named in /proc."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


def _take(stack: contextlib.ExitStack, port: int) -> int:
    probe = stack.enter_context(socket.socket())
    probe.bind(("127.0.0.1", port))
    return int(probe.getsockname()[1])


def _has_ended(pid: int) -> bool:
    """Return whether a child has ended, and leave it unreaped: until then, nobody else can get its process id."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
