"""The demo's package index: a child process on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import time
from typing import TYPE_CHECKING

from pkgstore.cli.children import child
from pkgstore.cli.failures import LocalError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

_HOST = "127.0.0.1"
_READY_WITHIN = 20.0
_PAUSE = 0.05
_ANSWERS_WITHIN = 5.0


class Index:
    """``pkgstore serve store`` in ``folder``. ``arguments`` are what pkgstore is given."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._log = folder / "index.log"
        self._port = _free_port()
        self.url = f"http://{_HOST}:{self._port}/"
        self.arguments = ["serve", "store", "-i", _HOST, "-p", str(self._port), "-a", ".", "-P", "."]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the index, which is healthy when the block begins and has ended when it ends.

        Raises `LocalError` when it does not get there.
        """
        command = [sys.executable, "-m", "pkgstore", *self.arguments]
        with (
            self._log.open("wb") as log,
            # In a session of its own it does not see Ctrl-C, and serves until the demo ends it.
            child(
                command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, start_new_session=True
            ) as process,
        ):
            self._wait(process)
            yield

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while not self._is_healthy():
            if process.poll() is not None:
                raise LocalError(f"the demo failed: the index ended at once: {self._last_words()}")
            if time.monotonic() > deadline:
                raise LocalError(f"the demo failed: no healthy index after {_READY_WITHIN:.0f} s: {self._last_words()}")
            time.sleep(_PAUSE)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=_ANSWERS_WITHIN)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
