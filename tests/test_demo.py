"""`pkgstore demo`: it goes through, fails in one line, and leaves nothing behind: no folder, no process."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pkgstore.cli import demo_wheel
from tests import needs
from tests.command import ENVIRONMENT, PKGSTORE, complaint

BLOB = f"{demo_wheel.PROJECT}/{demo_wheel.FILENAME}"


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """The folder for temporary files; no process may be at work in it in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield folder
    assert at_work_in(folder) == []


def at_work_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append(int(process.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def environment(temporary: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which any influence from outside would break the demo."""
    hostile = {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple/",
        "PIP_NO_INDEX": "1",
        "TWINE_REPOSITORY": "nowhere",
        "TWINE_CERT": "/nowhere",
        "PYPISERVER_OVERWRITE": "1",
        "HOME": "/nonexistent",
    }
    return {**ENVIRONMENT, **hostile, "TMPDIR": str(temporary), "COLUMNS": "80", **variables}


def play(temporary: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PKGSTORE, "demo", *options],
        check=False,
        capture_output=True,
        text=True,
        env=environment(temporary, **variables),
        timeout=120,
    )


def test_the_demo(temporary: Path) -> None:
    result = play(temporary)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    for said in (
        "/health says",
        f"the store has it as {BLOB}",
        demo_wheel.GREETING,
        "already exists",
        "refused; what was published first is unchanged",
        f"    └── {demo_wheel.FILENAME}",
        "        sha256 ",
        "byte for byte",
        "What this showed",
    ):
        assert said in result.stdout
    assert list(temporary.iterdir()) == []


def test_what_the_demo_keeps(temporary: Path) -> None:
    result = play(temporary, "--keep")
    assert result.returncode == 0, result.stderr
    (folder,) = temporary.iterdir()
    assert result.stderr == f"pkgstore: the demo's folder is kept: {folder}\n"
    assert (folder / "store" / BLOB).read_bytes() == (folder / "copy.whl").read_bytes()
    assert (folder / "installed" / demo_wheel.MODULE / "__main__.py").is_file()


def test_the_demo_as_a_user_without_rights(tmp_path: Path) -> None:
    needs.root()
    # May read this installation, wherever it lies, and nothing more.
    nobody = [needs.program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    nobody += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    with tempfile.TemporaryDirectory() as temporary:
        os.chown(temporary, 65534, 65534)
        result = subprocess.run(
            [*nobody, *PKGSTORE, "demo"],
            check=False,
            capture_output=True,
            text=True,
            env=environment(Path(temporary)),
            timeout=120,
            cwd="/",
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert os.listdir(temporary) == []


@pytest.mark.parametrize("said", ["pkgstore serve", "/health", "twine upload", "pip install", "pkgstore get"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing(temporary: Path, number: signal.Signals, said: str) -> None:
    with subprocess.Popen(
        [*PKGSTORE, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(temporary, PYTHONUNBUFFERED="1"),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(said in line for line in process.stdout)
        process.send_signal(number)
        process.wait(60)
        complaint = process.stderr.read()
    assert process.returncode == 128 + number
    assert complaint.strip() == ""
    assert list(temporary.iterdir()) == []


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def before(folder: Path) -> dict[str, str]:
    """Return the variables that make Python look in a folder first."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


def fake(folder: Path, module: str, code: str) -> dict[str, str]:
    """Put a program in the place of ``python -m module``; return the variables that make it so."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").touch()
    (folder / module / "__main__.py").write_text(code)
    return before(folder)


@pytest.mark.parametrize(
    ("module", "code", "reason"),
    [
        ("twine", "raise SystemExit('HTTPError: 500')", "twine could not upload: HTTPError: 500"),
        ("twine", "", "cannot stat 'pkgstore-demo/"),
        ("pip", "raise SystemExit('THESE PACKAGES DO NOT MATCH THE HASHES')", "pip could not install: THESE PACKAGES"),
        ("pip", "", "the installed package does not run"),
    ],
)
def test_a_client_that_fails(temporary: Path, tmp_path: Path, module: str, code: str, reason: str) -> None:
    result = play(temporary, **fake(tmp_path / "fakes", module, code))
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr or "is not in" in result.stderr
    assert list(temporary.iterdir()) == []


def test_an_index_that_takes_duplicates(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "sitecustomize.py").write_text(
        "import sys\nif 'serve' in sys.orig_argv:\n    sys.argv.append('--overwrite')\n"
    )
    result = play(temporary, **before(tmp_path / "fakes"))
    assert complaint(result, 1) == "the demo failed: a second upload of the same name was not refused"
    assert list(temporary.iterdir()) == []


def test_a_second_upload_that_fails_for_another_reason(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "sitecustomize.py").write_text(
        "import sys\nif sys.orig_argv[-1].startswith('other/'):\n    raise SystemExit('out of order')\n"
    )
    result = play(temporary, **before(tmp_path / "fakes"))
    assert "not as a duplicate: SystemExit: out of order" in complaint(result, 1)
    assert list(temporary.iterdir()) == []


def test_an_index_that_does_not_start(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "sitecustomize.py").write_text(
        "import sys\nif 'serve' in sys.orig_argv:\n    raise SystemExit('no server today')\n"
    )
    result = play(temporary, **before(tmp_path / "fakes"))
    assert complaint(result, 1).endswith("the index ended at once: SystemExit: no server today")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("module", ["twine", "pip", "pypiserver"])
def test_what_is_not_installed(temporary: Path, module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from pkgstore.cli import main; main(['demo'])"
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment(temporary)
    )
    assert f"needs {module}, which is not installed" in complaint(result, 2)
    assert result.stdout == ""


def test_no_room_for_its_folder(tmp_path: Path) -> None:
    code = "import tempfile; tempfile.tempdir = '/nonexistent'; from pkgstore.cli import main; main(['demo'])"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert "/nonexistent" in complaint(result, 1)
