"""Replicas of one index, to kill and to start again, and the ledger of what their clients were told.

Each replica is a gunicorn in a process group of its own, always at the same port of this host.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from tests.packages import wheel, wheel_name
from tests.servers import Server, path_of, pkgstore_app, until

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

    from tests.endpoints import Endpoint

_READY_WITHIN = 60.0
_ANSWERS_WITHIN = 2.0
_ESTABLISHED = "01"
_RECENT = 12
_CONTENTS = """
import hashlib, json, sys
import pkgstore
with pkgstore.open(sys.argv[1], create=False) as store:
    found = {blob.key: hashlib.sha256(store.read(blob.key)).hexdigest() for blob in store.list()}
print(json.dumps(found))
"""


def environment(endpoint: Endpoint, home: Path) -> dict[str, str]:
    """Return the environment of who may use an endpoint: nobody else knows its credentials."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PKGSTORE_"))}
    files = {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull, "HOME": str(home)}
    keys = {"AWS_ACCESS_KEY_ID": endpoint.access_key, "AWS_SECRET_ACCESS_KEY": endpoint.secret_key}
    return {**kept, **files, **keys}


def make_store(url: str, env: Mapping[str, str]) -> None:
    """Make an empty store beforehand: the probe of its medium may take longer than a replica waits for an answer."""
    _python(env, "import sys, pkgstore; pkgstore.open(sys.argv[1]).close()", url)


def contents(url: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 of every blob by its key, as a process finds them that opens the store anew."""
    found: dict[str, str] = json.loads(_python(env, _CONTENTS, url))
    return found


def _python(env: Mapping[str, str], code: str, url: str) -> str:
    command = [sys.executable, "-c", code, url]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Replica:
    """One replica. ``server`` is the process that runs now."""

    server: Server

    def __init__(self, number: int, url: str, log: Path, env: Mapping[str, str], options: tuple[str, ...]) -> None:
        self.number = number
        self._log = log
        self._env = env
        # Bound and never listening: the port stays ours between two processes, and refuses connections.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        where = ["--bind", f"127.0.0.1:{self._port.getsockname()[1]}", "--workers", "1", "--threads", "8"]
        self._command = [sys.executable, "-m", "gunicorn", *where, *options, pkgstore_app(url, "--disable-fallback")]

    def start(self) -> None:
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.server = Server(process, self._port.getsockname()[1], self._log)

    def kill(self) -> None:
        """Kill the server and its workers. Raises AssertionError when it has ended by itself."""
        process = self.server.process
        ended = process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert ended is None, f"replica {self.number} ended by itself with {ended}:\n{self._log.read_text()[-4000:]}"

    def answers(self) -> bool:
        """Return whether it is up, and its store healthy."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=_ANSWERS_WITHIN)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def serves(self) -> bool:
        """Return whether a client has a connection to it."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(row[3] == _ESTABLISHED and int(row[1].rpartition(":")[2], 16) == self.server.port for row in rows)

    def close(self) -> None:
        self._port.close()


@contextlib.contextmanager
def running(count: int, url: str, folder: Path, env: Mapping[str, str], *options: str) -> Iterator[list[Replica]]:
    """Run replicas of a store, started all at once, until the block ends. ``options`` are gunicorn's."""
    with contextlib.ExitStack() as stack:
        replicas = []
        for number in range(count):
            replica = Replica(number, url, folder / f"replica-{number}.log", env, options)
            stack.callback(replica.close)
            replica.start()
            stack.callback(replica.kill)
            replicas.append(replica)
        wait_for(replicas)
        yield replicas


def wait_for(replicas: list[Replica]) -> None:
    """Wait until all are up."""
    until(lambda: all(each.answers() for each in replicas), _READY_WITHIN)


@dataclass(frozen=True)
class Upload:
    """A wheel to be uploaded. Several of one name differ in ``seed``, and so in their bytes."""

    project: str
    version: str
    path: Path
    sha256: str

    @classmethod
    def make(cls, folder: Path, project: str, version: str, payload: int, seed: int) -> Upload:
        folder.mkdir(parents=True)
        data = wheel(project, version, payload=payload, seed=seed)
        path = folder / wheel_name(project, version)
        path.write_bytes(data)
        return cls(project, version, path, hashlib.sha256(data).hexdigest())

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def key(self) -> str:
        return f"{self.project}/{self.name}"


class Ledger:
    """What was offered to the replicas, and what they answered. ``faults`` are what must never have been seen."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._offered: dict[str, list[Upload]] = defaultdict(list)
        self._acknowledged: dict[str, list[Upload]] = defaultdict(list)
        self._refused: set[str] = set()
        self._failed: set[str] = set()

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def fault(self, what: str) -> None:
        with self._lock:
            self.faults.append(what)

    def offer(self, upload: Upload) -> None:
        """Note an upload, before it is sent for the first time."""
        with self._lock:
            self._offered[upload.key].append(upload)

    def acknowledge(self, upload: Upload) -> None:
        with self._lock:
            self.counts["acknowledged"] += 1
            self._acknowledged[upload.key].append(upload)

    def refuse(self, upload: Upload) -> None:
        """Note that its name was said to be taken."""
        with self._lock:
            self.counts["refused"] += 1
            self._refused.add(upload.key)

    def fail(self, upload: Upload) -> None:
        """Note an attempt whose outcome is not known."""
        with self._lock:
            self._failed.add(upload.key)

    def some_offered(self, choose: random.Random) -> Upload | None:
        with self._lock:
            recent = list(self._offered.values())[-_RECENT:]
        return choose.choice(recent)[0] if recent else None

    def some_acknowledged(self, choose: random.Random) -> Upload | None:
        with self._lock:
            recent = list(self._acknowledged.values())[-_RECENT:]
        return choose.choice(recent)[0] if recent else None

    def contradictions(self) -> dict[str, int]:
        """Return the keys that were acknowledged with more than one content, and with how many."""
        with self._lock:
            told = {key: len({each.sha256 for each in uploads}) for key, uploads in self._acknowledged.items()}
        return {key: count for key, count in told.items() if count > 1}

    def look(self, replica: Replica, upload: Upload) -> bool:
        """Read the page and the file of an upload's name at a replica; return whether it answered both.

        What was acknowledged before must be there, with the bytes that were acknowledged; what else is there must be
        whole.
        """
        with self._lock:
            acknowledged = list(self._acknowledged.get(upload.key, ()))
        where = f"{upload.key} at replica {replica.number}"
        try:
            page = replica.server.get(f"/simple/{upload.project}/")
            link = page.links.get(upload.name) if page.status == 200 else None
            answer = replica.server.get(path_of(link)) if link else page
        except (OSError, HTTPException):
            return False
        if answer.status == 503:
            self.count("503 to a reader")
            return False
        if link is None:
            if page.status not in (200, 404):
                self.fault(f"the page of {where} was answered with {page.status}")
            elif acknowledged:
                self.fault(f"lost: {where} is acknowledged, and not listed")
            return True
        if answer.status != 200:
            self.fault(f"{where} is listed, and was answered with {answer.status}")
            return True
        digest = hashlib.sha256(answer.body).hexdigest()
        if link.partition("#")[2] != f"sha256={digest}":
            self.fault(f"{where} has other bytes than its page says")
        self._judge(where, upload.key, digest)
        return True

    def close(self, replicas: list[Replica], found: Mapping[str, str]) -> None:
        """Compare all with what is there in the end. ``found`` are the digests on the medium, by key."""
        for key, count in self.contradictions().items():
            self.fault(f"{key} was acknowledged with {count} contents")
        for key, uploads in self._offered.items():
            self._close(key, found.get(key))
            for replica in replicas:
                if not self.look(replica, uploads[0]):
                    self.fault(f"{key} could not be read at replica {replica.number}, which is up")
        for key in found:
            if key not in self._offered and not key.startswith(".health/"):
                self.fault(f"{key} is on the medium, and nobody offered it")

    def _close(self, key: str, found: str | None) -> None:
        acknowledged = key in self._acknowledged
        if key in self._refused and not acknowledged and key not in self._failed:
            self.fault(f"{key} was refused to all who offered it, though no attempt had failed")
        if found is not None:
            self._judge(f"{key} on the medium", key, found)
        elif acknowledged:
            self.fault(f"lost: {key} is acknowledged, and not on the medium")
        elif key in self._refused:
            self.fault(f"{key} was refused as a duplicate, and is not on the medium")

    def _judge(self, where: str, key: str, digest: str) -> None:
        with self._lock:
            offered = {upload.sha256 for upload in self._offered[key]}
            acknowledged = {upload.sha256 for upload in self._acknowledged.get(key, ())}
        if digest not in offered:
            self.fault(f"{where} has bytes that nobody offered")
        elif acknowledged and digest not in acknowledged:
            self.fault(f"{where} has other bytes than were acknowledged")
