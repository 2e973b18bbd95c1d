"""The driver of docs/how-to/write-a-driver.md works, and proves itself as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "write-a-driver.md"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page in a folder, and the package that they are, installed in its folder `installed`."""
    folder = tmp_path_factory.mktemp("project")
    for text in re.findall(
        r"^```(?:python|toml)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        name = re.match(r"# (\S+)\n", text)
        assert name, "every file on the page names itself in its first line"
        (folder / name.group(1)).write_text(text, encoding="utf-8")
    # Beside this installation, and with the pkgstore that is here.
    quiet = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    done = run(folder, "-m", "pip", "install", *quiet, "--no-deps", "--target", "installed", ".")
    assert done.returncode == 0, done.stderr
    return folder


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(project / "installed"), *sys.path])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_driver_passes(project: Path) -> None:
    # In memory where that can be, for speed: what is flushed to a disk is not what this tests.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        options = ["-q", "-ra", "-W", "error", "-p", "no:cacheprovider", f"--basetemp={folder}/tests"]
        done = run(project, "-m", "pytest", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    for hook in ("truncate() hook", "leftovers() hook", "fixture `small_url`"):
        assert f"the harness has no {hook}" in done.stdout


def test_the_race_on_it(project: Path) -> None:
    options = ["--keys=10", "--sizes=1,100Ki", "--reads=60", "--kills=2", "--processes=3"]
    done = run(project, "-m", "pkgstore.testing.race", f"sqlite://{project}/packages.db", *options)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "every promise kept" in done.stdout


def test_the_sizes_that_are_promised(project: Path) -> None:
    assert len((project / "pkgstore_sqlite.py").read_text(encoding="utf-8").splitlines()) < 150
    assert len((project / "test_pkgstore_sqlite.py").read_text(encoding="utf-8").splitlines()) < 30
