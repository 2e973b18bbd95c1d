"""``pkgstore demo``: a package index on a store of its own, used by the real clients, from upload to installation."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import html
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pkgstore
from pkgstore.cli.children import child
from pkgstore.cli.demo_index import Index
from pkgstore.cli.demo_wheel import FILENAME, GREETING, MODULE, PROJECT, VERSION, build_wheel
from pkgstore.cli.failures import LocalError
from pkgstore.cli.narrator import Narrator

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEEDED = {
    "pypiserver": "pip install 'pkgstore[demo]'",
    "twine": "pip install 'pkgstore[demo]'",
    "pip": "python -m ensurepip",
}
_PREFIX = "pkgstore-demo-"
_TIMEOUT = 60
_TAG = re.compile("<[^>]*>")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def play(*, keep: bool) -> None:
    """Run the demo.

    Raises `LocalError` when a step does not do what it should, and `Misconfigured` when a client is not installed.
    """
    for module, remedy in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise pkgstore.Misconfigured(f"the demo needs {module}, which is not installed here: {remedy}")
    try:
        with _folder(keep=keep) as folder:
            _Demo(folder).play()
    except OSError as exc:
        if isinstance(exc, (pkgstore.StoreError, BrokenPipeError)):
            raise
        raise LocalError(f"the demo could not go on: {exc}") from exc


@contextlib.contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    if not keep:
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
            yield Path(name)
        return
    name = tempfile.mkdtemp(prefix=_PREFIX)
    try:
        yield Path(name)
    finally:
        sys.stderr.write(f"pkgstore: the demo's folder is kept: {name}\n")


class _Demo:
    """The steps. Commands run in ``folder``, and see neither configuration, caches nor proxies of the user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder / "store"
        self._key = f"{PROJECT}/{FILENAME}"
        self._environment = _environment(folder)
        self._tell = Narrator()

    def play(self) -> None:
        tell = self._tell
        tell.title(f"A package index on a pkgstore, in {self._folder}")

        tell.step("A store: a folder that knows that it is one")
        self._pkgstore("init", "store")

        tell.step("The index: pypiserver, on that store")
        index = Index(self._folder, self._environment)
        tell.command("pkgstore", *index.arguments)
        with index.running():
            tell.shows("/health says that the store can be read and written")
            wheel = self._upload(index)
            self._install(index, wheel)
            self._upload_again(index, wheel)

        tell.step("What lies on disk: plain files, at their own names")
        with pkgstore.open(self._root, readonly=True) as store:
            tell.tree(self._root, store)
        if any((self._root / ".pkgstore" / "tmp").glob("*")):
            raise LocalError("the demo failed: something was left in the staging folder")
        tell.shows("nothing half-written was left behind")

        tell.step("And back out, verified")
        self._pkgstore("get", "store", self._key, "copy.whl")
        if not filecmp.cmp(wheel, self._folder / "copy.whl", shallow=False):
            raise LocalError("the demo failed: what `pkgstore get` wrote is not what was uploaded")
        tell.shows("byte for byte the file that was uploaded")

        tell.summary(
            [
                "twine uploads to this index and pip installs from it, unchanged, with the hash checked on the way",
                "a name is published once: the second upload lost, and the first is still there",
                "blobs are plain files that any tool can read, and carry their sha256",
            ],
            "Next: docs/tutorial.md, or `pkgstore serve --create FOLDER` with a folder of your own.",
        )

    def _upload(self, index: Index) -> Path:
        self._tell.step("A wheel, uploaded with twine")
        wheel = build_wheel(self._folder / "dist")
        result = self._twine(index, wheel)
        if result.returncode:
            raise LocalError(f"the demo failed: twine could not upload: {_last_line(result)}")
        if self._stored_digest() != _sha256(wheel):
            raise LocalError("the demo failed: the store does not hold the file that twine uploaded")
        self._tell.shows(f"the store has it as {self._key}, with the sha256 of the file")
        return wheel

    def _install(self, index: Index, wheel: Path) -> None:
        self._tell.step("Installed with pip, from that index, with its hash required")
        requirement = f"{PROJECT}=={VERSION} --hash=sha256:{_sha256(wheel)}"
        (self._folder / "requirements.txt").write_text(f"{requirement}\n")
        self._tell.output(f"requirements.txt: {requirement}")
        arguments = ["--index-url", f"{index.url}simple/", "--no-deps", "--target", "installed"]
        arguments += ["--require-hashes", "-r", "requirements.txt"]
        self._tell.command("pip", "install", *arguments)
        quiet = ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore"]
        result = self._python("-m", "pip", "--isolated", "install", *quiet, *arguments)
        if result.returncode:
            raise LocalError(f"the demo failed: pip could not install: {_last_line(result)}")
        self._tell.command("python", "-m", MODULE)
        result = self._python("-m", MODULE, PYTHONPATH=str(self._folder / "installed"))
        if result.returncode or result.stdout.strip() != GREETING:
            raise LocalError(f"the demo failed: the installed package does not run: {_last_line(result)}")
        self._tell.output(GREETING)
        self._tell.shows("the hash matched, and the installed package runs")

    def _upload_again(self, index: Index, wheel: Path) -> None:
        self._tell.step("The same name again, with other bytes: this has to be refused")
        other = build_wheel(self._folder / "other", greeting="I am not the package that you tested.")
        result = self._twine(index, other)
        if not result.returncode:
            raise LocalError("the demo failed: a second upload of the same name was not refused")
        reasons = [line for line in _lines(result) if "already exist" in line]
        if not reasons:
            raise LocalError(f"the demo failed: the second upload did, but not as a duplicate: {_last_line(result)}")
        for line in [*reasons[:1], *(line for line in _lines(result) if "HTTPError" in line)]:
            self._tell.output(_TAG.sub("", html.unescape(line)))
        if self._stored_digest() != _sha256(wheel):
            raise LocalError("the demo failed: the second upload changed what was published")
        self._tell.shows("refused; what was published first is unchanged")

    def _stored_digest(self) -> str | None:
        with pkgstore.open(self._root, readonly=True) as store:
            return store.stat(self._key).digests.get("sha256")

    def _twine(self, index: Index, wheel: Path) -> subprocess.CompletedProcess[str]:
        path = str(wheel.relative_to(self._folder))
        self._tell.command("twine", "upload", "--repository-url", index.url, path)
        (self._folder / "pypirc").touch()
        arguments = ["--config-file", "pypirc", "--non-interactive", "--verbose", "--disable-progress-bar"]
        arguments += ["--username", "demo", "--password", "demo", "--repository-url", index.url]
        return self._python("-m", "twine", "upload", *arguments, path)

    def _pkgstore(self, *arguments: str) -> None:
        self._tell.command("pkgstore", *arguments)
        result = self._python("-m", "pkgstore", *arguments)
        if result.returncode:
            raise LocalError(f"the demo failed: `pkgstore {arguments[0]}` did: {_last_line(result)}")
        self._tell.output(_last_line(result))

    def _python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        pipe = subprocess.PIPE
        environment = {**self._environment, **variables}
        with child(
            command, cwd=self._folder, env=environment, stdout=pipe, stderr=pipe, text=True, errors="replace"
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise LocalError(f"the demo failed: {arguments[1]} took longer than {_TIMEOUT} seconds") from None
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _environment(folder: Path) -> dict[str, str]:
    own = ("PIP_", "TWINE_", "PYPISERVER_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(own) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "COLUMNS": "200",
        "HOME": str(folder),
        "NETRC": os.devnull,
        "NO_COLOR": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PYTHONUTF8": "1",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    said = _ESCAPE.sub("", f"{result.stdout}\n{result.stderr}")
    return [line.strip() for line in said.splitlines() if line.strip()]


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = _lines(result)
    return lines[-1] if lines else f"it said nothing, and exited with {result.returncode}"
