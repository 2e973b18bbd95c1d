"""Three replicas on one bucket, killed and started again, under twine, pip and uv: nothing acknowledged is lost.

PKGSTORE_SOAK_SECONDS says for how long on each server (default 120); PKGSTORE_SEED repeats a run's choices.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sys
import threading
import time
import zipfile
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from tests.labs.replicas import Ledger, Replica, Upload, contents, environment, make_store, running, wait_for
from tests.s3_servers import SERVERS
from tests.test_pypiserver_clients import pip_install, run, twine, uv

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.servers import Server

    Client = Callable[..., subprocess.CompletedProcess[str]]

SECONDS = float(os.environ.get("PKGSTORE_SOAK_SECONDS", "120"))
SEED = os.environ.get("PKGSTORE_SEED") or str(random.randrange(1 << 32))
BUCKET = "packages"
OPTIONS = {"ministack": "", "seaweedfs": "&dialect=seaweedfs"}
REPLICAS = 3
BETWEEN_KILLS = (1.5, 3.5)
LONGEST_AIM = 2.0
AFTER_CONNECT = (0.0, 0.1)
ATTEMPTS = 12
GATED_TWINE = """
import sys, twine.commands.upload
from twine.__main__ import main
gate, mode = sys.argv[1:3]
del sys.argv[1:3]
open(gate, mode).close()
sys.exit(main())
"""
PROJECTS = 5
PAYLOADS = {0: 30, 200_000: 40, 3_000_000: 20, 12_000_000: 10}
OF_A_KILLED_SERVER = re.compile(
    "connection refused|connection reset|connection aborted|connection broken|connectionerror|incompleteread"
    "|closed connection|connection closed|connection error|error sending request|remote end closed"
    "|httperror: 503|status server error \\(503|503 server error",
    re.IGNORECASE,
)
WRONG_HASH = re.compile("do not match the hashes|hash mismatch", re.IGNORECASE)


@dataclass
class Soak:
    """One run: who uploads, installs, reads and kills, each in a thread, until ``stop`` is set."""

    replicas: list[Replica]
    folder: Path
    seed: str
    payloads: Mapping[int, int]
    target: Replica | None = None
    ledger: Ledger = field(default_factory=Ledger)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, seconds: float, *roles: Callable[[random.Random, Path], None]) -> None:
        """Let everybody work for so many seconds. What somebody raises ends the run, and is raised."""
        with ThreadPoolExecutor(len(roles)) as pool:
            try:
                working = []
                for number, role in enumerate(roles):
                    home = self.folder / f"{role.__name__}-{number}"
                    home.mkdir()
                    working.append(pool.submit(role, random.Random(f"{self.seed}-{number}"), home))
                wait(working, seconds, FIRST_EXCEPTION)
            finally:
                self.stop.set()
            for each in working:
                each.result()

    def publisher(self, choose: random.Random, home: Path) -> None:
        """Upload wheels of names of its own."""
        number = 0
        while not self.stop.is_set():
            number += 1
            name = f"{home.name}-{choose.randrange(PROJECTS)}", f"{choose.randrange(9)}.{number}"
            upload = self._made(choose, home / str(number), *name)
            self.ledger.offer(upload)
            self._upload(upload, home, choose.randrange(REPLICAS))

    def contenders(self, choose: random.Random, home: Path) -> None:
        """Upload two wheels of one name, with different bytes, through different replicas at one moment."""
        number = 0
        with ThreadPoolExecutor(2) as pool:
            while not self.stop.is_set():
                number += 1
                name = f"{home.name}-{choose.randrange(PROJECTS)}", f"{choose.randrange(9)}.{number}"
                both = [self._made(choose, home / f"{number}-{side}", *name) for side in range(2)]
                first = choose.randrange(REPLICAS)
                for upload in both:
                    self.ledger.offer(upload)
                gate = home / f"{number}-gate"
                os.mkfifo(gate)
                list(pool.map(self._upload, both, (home, home), (first, first + 1), (gate, gate), ("rb", "wb")))

    def pip(self, choose: random.Random, home: Path) -> None:
        """Install, and download, what was acknowledged, with pip."""
        for client, upload in zip(cycle([pip_installs, pip_downloads]), self._acknowledged(choose), strict=False):
            self._install(client, upload, home, choose)

    def uv(self, choose: random.Random, home: Path) -> None:
        """Install what was acknowledged, with uv."""
        for upload in self._acknowledged(choose):
            self._install(uv_installs, upload, home, choose)
            self.stop.wait(0.5)

    def reader(self, choose: random.Random, _home: Path) -> None:
        """Read pages and files, also of uploads that are under way."""
        while not self.stop.wait(0.2):
            upload = self.ledger.some_offered(choose)
            replica = choose.choice([each for each in self.replicas if each is not self.target])
            if upload is not None and self.ledger.look(replica, upload):
                self.ledger.count("looks")

    def killer(self, choose: random.Random, _home: Path) -> None:
        """Kill a replica that is up, as long as another one is, and start it again at once.

        It is killed soon after a client has come to it, other than the reader, who comes too often.
        """
        while not self.stop.wait(choose.uniform(*BETWEEN_KILLS)):
            up = [each for each in self.replicas if each.answers()]
            if len(up) > 1:
                self.target = choose.choice(up)
                deadline = time.monotonic() + LONGEST_AIM
                while not (aimed := self.target.serves()) and time.monotonic() < deadline:
                    self.stop.wait(0.005)
                self.stop.wait(choose.uniform(*AFTER_CONNECT))
                self.target.kill()
                self.target.start()
                self.ledger.count("kills")
                self.ledger.count("kills while serving" if aimed else "kills while idle")

    def _made(self, choose: random.Random, folder: Path, project: str, version: str) -> Upload:
        [payload] = choose.choices(list(self.payloads), list(self.payloads.values()))
        return Upload.make(folder, project, version, payload, choose.randrange(1 << 32))

    def _upload(self, upload: Upload, home: Path, first: int, gate: Path | None = None, mode: str = "") -> None:
        """Upload until somebody says what became of it; see that another replica knows of it at once."""
        for attempt in range(ATTEMPTS):
            server = self.replicas[(first + attempt) % REPLICAS].server
            if gate and not attempt:
                done = twine_through_gate(server, home, upload, gate, mode)
            else:
                done = twine(server, home, "--verbose", str(upload.path))
            said = " ".join((done.stdout + done.stderr).split())
            if done.returncode == 0:
                self.ledger.acknowledge(upload)
                self.ledger.look(self.replicas[(first + attempt + 1) % REPLICAS], upload)
                return
            if 'Received "5' in said:
                self.ledger.fail(upload)  # and twine has sent it again by itself
            if "already exists" in said:
                self.ledger.refuse(upload)
                return
            self.ledger.fail(upload)
            if not OF_A_KILLED_SERVER.search(said):
                self.ledger.fault(f"twine could not upload {upload.key}: {said[-1500:]}")
                return
            self.ledger.count("uploads retried")
        self.ledger.fault(f"{upload.key} was not uploaded in {ATTEMPTS} attempts: {said[-1500:]}")

    def _acknowledged(self, choose: random.Random) -> Iterator[Upload]:
        while not self.stop.wait(0.1):
            upload = self.ledger.some_acknowledged(choose)
            if upload is not None:
                yield upload

    def _install(self, client: Client, upload: Upload, home: Path, choose: random.Random) -> None:
        """Get a wheel by its hash, and compare what came."""
        name, first = client.__name__.replace("_", " "), choose.randrange(REPLICAS)
        for attempt in range(ATTEMPTS):
            target = home / f"target-{choose.randrange(1 << 64)}"
            requirements = required(home, upload, upload.sha256)
            done = client(self.replicas[(first + attempt) % REPLICAS].server, home, target, *requirements)
            if done.returncode == 0:
                self.ledger.count(name)
                if not came(upload, target):
                    self.ledger.fault(f"{name} other bytes than those of {upload.key}")
                shutil.rmtree(target)
                return
            said = " ".join((done.stdout + done.stderr).split())
            if WRONG_HASH.search(said) or not OF_A_KILLED_SERVER.search(said):
                self.ledger.fault(f"{name} no {upload.key}: {said[-1500:]}")
                return
            self.ledger.count("installs retried")
        self.ledger.fault(f"{name} no {upload.key} in {ATTEMPTS} attempts: {said[-1500:]}")


def twine_through_gate(
    server: Server, home: Path, upload: Upload, gate: Path, mode: str
) -> subprocess.CompletedProcess[str]:
    """Upload with a twine that waits at a named pipe, when it has started, for the one that opens its other end."""
    options = ["--non-interactive", "--disable-progress-bar", "--verbose", "-u", "a", "-p", "a"]
    options += ["--repository-url", f"{server.url}/", str(upload.path)]
    return run(home, sys.executable, "-c", GATED_TWINE, str(gate), mode, "upload", *options)


def pip_installs(server: Server, home: Path, target: Path, *requirements: str) -> subprocess.CompletedProcess[str]:
    return pip_install(server, home, target, "-vv", "--no-cache-dir", *requirements)


def pip_downloads(server: Server, home: Path, target: Path, *requirements: str) -> subprocess.CompletedProcess[str]:
    options = ["--isolated", "--disable-pip-version-check", "--retries", "0", "--no-deps", "--no-input", "-vv"]
    options += ["--no-cache-dir", "--index-url", f"{server.url}/simple/", "--dest", str(target)]
    return run(home, sys.executable, "-m", "pip", "download", *options, *requirements)


def uv_installs(server: Server, home: Path, target: Path, *requirements: str) -> subprocess.CompletedProcess[str]:
    place = ["--target", str(target), "--python", sys.executable, "--index-url", f"{server.url}/simple/"]
    return uv(home, "pip", "install", "--no-cache", "--no-deps", *place, *requirements)


def required(home: Path, upload: Upload, sha256: str) -> list[str]:
    """Return the options by which pip and uv take a wheel with this hash only."""
    file = home / "requirements.txt"
    file.write_text(f"{upload.project}=={upload.version} --hash=sha256:{sha256}\n")
    return ["--require-hashes", "-r", str(file)]


def came(upload: Upload, target: Path) -> bool:
    """Return whether a target has a wheel's own bytes, as a file or installed."""
    if (target / upload.name).exists():
        return (target / upload.name).read_bytes() == upload.path.read_bytes()
    with zipfile.ZipFile(upload.path) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/RECORD")]
        return all((target / name).is_file() and (target / name).read_bytes() == wheel.read(name) for name in names)


@contextlib.contextmanager
def soaking(server: str, folder: Path, seed: str, payloads: Mapping[int, int], *options: str) -> Iterator[Soak]:
    """Run a server and three replicas on one bucket of it. At the end, everything is compared with the ledger."""
    with SERVERS[server](folder / server) as endpoint:
        endpoint.create_bucket(BUCKET)
        url = f"s3://{BUCKET}/team/pypi?endpoint_url={endpoint.url}{OPTIONS[server]}"
        env = environment(endpoint, folder)
        make_store(url, env)
        with running(REPLICAS, url, folder, env, *options) as replicas:
            soak = Soak(replicas, folder, seed, payloads)
            yield soak
            wait_for(replicas)
            soak.ledger.close(replicas, contents(url, env))


@pytest.mark.timeout(2 * SECONDS + 240)
@pytest.mark.parametrize("server", OPTIONS)
def test_replicas_are_killed_and_nothing_acknowledged_is_lost(server: str, tmp_path: Path) -> None:
    with soaking(server, tmp_path, f"{SEED}-{server}", PAYLOADS) as soak:
        began = time.monotonic()
        soak.run(SECONDS, soak.publisher, soak.publisher, soak.contenders, soak.pip, soak.uv, soak.reader, soak.killer)
        seconds = time.monotonic() - began
        wait_for(soak.replicas)
        upload = soak.ledger.some_acknowledged(random.Random(SEED))
        assert upload is not None, soak.ledger.faults
        for number, client in enumerate((pip_installs, pip_downloads, uv_installs)):
            wrong = required(tmp_path, upload, "0" * 64)
            done = client(soak.replicas[number].server, tmp_path, tmp_path / "none", *wrong)
            assert done.returncode != 0, done
            assert WRONG_HASH.search(" ".join((done.stdout + done.stderr).split())), done
    counts = soak.ledger.counts
    print(f"\n{server}: seed {SEED}, {seconds:.0f} s, {dict(sorted(counts.items()))}")
    assert not soak.ledger.faults, "\n".join(soak.ledger.faults)
    for what in ("acknowledged", "refused", "kills", "looks", "pip installs", "uv installs"):
        assert counts[what], f"there were no {what}"


def test_without_a_condition_the_lab_reports_two_contents(tmp_path: Path) -> None:
    """A PUT that replaces what is there: both of two twines are told that they have published a name."""
    broken = tmp_path / "gunicorn.conf.py"
    broken.write_text("from pkgstore.drivers.s3 import driver\n\ndriver._ABSENT.clear()\n")
    with soaking("ministack", tmp_path, SEED, {7_000_000: 1}, "--config", str(broken)) as soak:

        def observer(_choose: random.Random, _home: Path) -> None:
            while not soak.stop.wait(0.1):
                if soak.ledger.contradictions():
                    soak.stop.set()

        soak.run(60, soak.contenders, observer)
    print(f"\nministack without a condition: seed {SEED}, {dict(soak.ledger.counts)}")
    assert any("was acknowledged with 2 contents" in fault for fault in soak.ledger.faults), soak.ledger.faults
