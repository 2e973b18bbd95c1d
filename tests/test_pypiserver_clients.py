"""The clients that people use, against the index: twine, pip and uv."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from uv import find_uv_bin

import pkgstore
from tests.packages import sdist, wheel, wheel_name
from tests.servers import gunicorn, path_of, pkgstore_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def index(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("index") / "log"
    with gunicorn(pkgstore_app(root, "--disable-fallback"), log, "--threads", "4") as server:
        yield server


def run(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a client that knows of nothing but its command line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "TWINE_", "XDG_"))}
    environ = {**kept, "HOME": str(home), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring", "NO_COLOR": "1"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


def twine(index: Server, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--non-interactive", "--disable-progress-bar", "-u", "a", "-p", "a", "--repository-url", f"{index.url}/"]
    return run(home, sys.executable, "-m", "twine", "upload", *options, *arguments)


def pip_install(index: Server, home: Path, target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--isolated", "--disable-pip-version-check", "--retries", "0", "--no-deps", "--target", str(target)]
    options += ["--no-input", "--index-url", f"{index.url}/simple/"]
    return run(home, sys.executable, "-m", "pip", "install", *options, *arguments)


def uv(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(home, find_uv_bin(), "--no-config", "--no-progress", *arguments)


def made(folder: Path, project: str, version: str = "1.0", **options: int) -> Path:
    """Write a wheel to a folder, and return its path."""
    path = folder / wheel_name(project, version)
    path.write_bytes(wheel(project, version, **options))
    return path


def version_in(target: Path, module: str) -> str:
    return (target / module / "__init__.py").read_text().splitlines()[0].partition(" = ")[2].strip("'")


def test_what_twine_uploads_pip_and_uv_install(index: Server, root: Path, tmp_path: Path) -> None:
    path = made(tmp_path, "round-trip", payload=2_000_000)
    uploaded = twine(index, tmp_path, str(path))
    assert uploaded.returncode == 0, uploaded
    with pkgstore.open(root) as store:
        assert store.stat(f"round-trip/{path.name}").digests["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    installed = pip_install(index, tmp_path, tmp_path / "pip", "round-trip")
    assert installed.returncode == 0, installed
    place = ["--target", str(tmp_path / "uv"), "--python", sys.executable, "--index-url", f"{index.url}/simple/"]
    synced = uv(tmp_path, "pip", "install", "--no-deps", *place, "round-trip")
    assert synced.returncode == 0, synced
    assert version_in(tmp_path / "pip", "round_trip") == version_in(tmp_path / "uv", "round_trip") == "1.0"


def test_several_files_at_once_by_twine(index: Server, root: Path, tmp_path: Path) -> None:
    path = made(tmp_path, "several")
    source = tmp_path / "several-1.0.tar.gz"
    source.write_bytes(sdist("several"))
    assert twine(index, tmp_path, str(path), str(source)).returncode == 0
    assert sorted(index.files("several")) == sorted([path.name, source.name])
    assert sorted(each.name for each in (root / "several").iterdir()) == sorted([path.name, source.name])


def test_twine_is_told_of_a_duplicate(index: Server, tmp_path: Path) -> None:
    path = made(tmp_path, "again")
    before = path.read_bytes()
    assert twine(index, tmp_path, str(path)).returncode == 0
    path.write_bytes(wheel("again", seed=1))
    refused = twine(index, tmp_path, "--verbose", str(path))
    assert refused.returncode == 1
    assert "400" in refused.stdout
    assert "already exists" in " ".join(refused.stdout.split())
    assert index.upload(path.name, path.read_bytes(), agent="twine/7.0.0").status == 400
    assert index.get(path_of(index.files("again")[path.name])).body == before


@pytest.mark.parametrize("agent", ["twine/7.0.0", "other/1.0"])
def test_a_duplicate_is_what_twine_skips(index: Server, tmp_path: Path, agent: str) -> None:
    """Its option --skip-existing is for PyPI alone by now; what it takes for a duplicate is asked of its own code."""
    name = wheel_name("skipped", f"1.{len(agent)}")
    assert index.upload(name, b"first").status == 200
    answer = index.upload(name, b"second", agent=agent)
    code = (
        "import sys; from types import SimpleNamespace as Response; from twine.commands.upload import skip_upload;"
        "response = Response(status_code=int(sys.argv[1]), reason='', text=sys.argv[2]);"
        "sys.exit(not skip_upload(response, True, None))"
    )
    for text, status in ((answer.text, 0), ("no", 0 if answer.status == 409 else 1)):
        assert run(tmp_path, sys.executable, "-c", code, str(answer.status), text).returncode == status


def test_of_racing_twines_one_wins(index: Server, root: Path, tmp_path: Path) -> None:
    paths = []
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        paths.append(made(folder, "raced", seed=seed, payload=500_000))
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda path: twine(index, tmp_path, str(path)).returncode, paths))
    assert sorted(codes) == [0, 1, 1, 1]
    with pkgstore.open(root) as store:
        assert store.read(f"raced/{wheel_name('raced')}") == paths[codes.index(0)].read_bytes()


def test_uv_publishes(index: Server, tmp_path: Path) -> None:
    path = made(tmp_path, "from-uv")
    publish = ["publish", "--publish-url", f"{index.url}/", "-u", "a", "-p", "a"]
    assert uv(tmp_path, *publish, str(path)).returncode == 0
    checked = uv(tmp_path, *publish, "--check-url", f"{index.url}/simple/", str(path))
    assert checked.returncode == 0, checked
    path.write_bytes(wheel("from-uv", seed=1))
    assert uv(tmp_path, *publish, str(path)).returncode != 0
    assert index.get(path_of(index.files("from-uv")[path.name])).body == wheel("from-uv")


def test_pip_requires_the_hash_that_was_published(index: Server, tmp_path: Path) -> None:
    path = made(tmp_path, "hashed")
    assert twine(index, tmp_path, str(path)).returncode == 0
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    for digest, code in ((right, 0), ("0" * 64, 1)):
        requirements = tmp_path / "requirements.txt"
        requirements.write_text(f"hashed==1.0 --hash=sha256:{digest}\n")
        target = tmp_path / f"target{code}"
        done = pip_install(index, tmp_path, target, "--require-hashes", "-r", str(requirements))
        assert done.returncode == code, done
        assert target.exists() == (code == 0)


def test_pip_installs_what_was_put_there_by_hand_in_a_flat_folder(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    root.mkdir()
    for version in ("1.0", "1.10", "1.9"):
        made(root, "by-hand", version)
    with gunicorn(pkgstore_app(root), tmp_path / "log") as index:
        assert pip_install(index, tmp_path, tmp_path / "new", "by-hand").returncode == 0
        assert pip_install(index, tmp_path, tmp_path / "old", "by-hand<1.9").returncode == 0
        assert twine(index, tmp_path, str(root / wheel_name("by-hand", "1.9"))).returncode == 1
    assert version_in(tmp_path / "new", "by_hand") == "1.10"
    assert version_in(tmp_path / "old", "by_hand") == "1.0"


def test_an_index_that_asks_for_a_password_for_everything(tmp_path: Path) -> None:
    """Of twine, of pip for the page as well as for the download, and of uv."""
    file = tmp_path / "htpasswd"
    file.write_text("a:{SHA}hvfkN/qlp/zhXR3cuerq6jd2Z7g=\n")
    options = ("-P", str(file), "-a", "download,list,update")
    with gunicorn(pkgstore_app(tmp_path / "store", *options, anonymous=False), tmp_path / "log") as index:
        assert twine(index, tmp_path, str(made(tmp_path, "guarded"))).returncode == 0
        assert pip_install(index, tmp_path, tmp_path / "refused", "guarded").returncode != 0
        where = f"http://a:a@127.0.0.1:{index.port}/simple/"
        assert pip_install(index, tmp_path, tmp_path / "pip", "--index-url", where, "guarded").returncode == 0
        target = ["--target", str(tmp_path / "uv"), "--cache-dir", str(tmp_path / "cache"), "--python", sys.executable]
        done = uv(tmp_path, "pip", "install", *target, "--index-url", where, "guarded")
        assert done.returncode == 0, done
    assert not (tmp_path / "refused").exists()
    assert version_in(tmp_path / "pip", "guarded") == version_in(tmp_path / "uv", "guarded") == "1.0"


def test_pip_takes_a_second_install_from_its_cache(index: Server, root: Path, tmp_path: Path) -> None:
    path = made(tmp_path, "cached", payload=1_000_000)
    assert twine(index, tmp_path, str(path)).returncode == 0
    cache = ["--cache-dir", str(tmp_path / "cache"), "--trusted-host", "127.0.0.1"]
    assert pip_install(index, tmp_path, tmp_path / "first", *cache, "cached").returncode == 0
    second = pip_install(index, tmp_path, tmp_path / "second", *cache, "cached")
    assert second.returncode == 0
    assert "Using cached" in second.stdout


def test_uv_reads_the_metadata_of_a_wheel_by_ranges(index: Server, tmp_path: Path) -> None:
    """It takes the file's end alone, which it would not do were ranges not offered."""
    path = made(tmp_path, "ranged", payload=8_000_000)
    assert twine(index, tmp_path, str(path)).returncode == 0
    requirement = tmp_path / "requirements.in"
    requirement.write_text("ranged\n")
    where = ["--index-url", f"{index.url}/simple/", "--python", sys.executable, "--cache-dir", str(tmp_path / "cache")]
    done = uv(tmp_path, "pip", "compile", *where, str(requirement))
    assert done.returncode == 0, done
    assert "ranged==1.0" in done.stdout
    assert sum(each.stat().st_size for each in (tmp_path / "cache").rglob("*") if each.is_file()) < 4_000_000


def test_many_pips_at_once_get_the_right_bytes(index: Server, tmp_path: Path) -> None:
    path = made(tmp_path, "crowded", payload=3_000_000)
    assert twine(index, tmp_path, str(path)).returncode == 0
    targets = [tmp_path / f"target{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        installs = [
            pool.submit(pip_install, index, tmp_path, target, "--no-cache-dir", "crowded") for target in targets
        ]
        assert [install.result().returncode for install in installs] == [0] * 4
    for target in targets:
        assert version_in(target, "crowded") == "1.0"


def test_a_damaged_wheel_is_not_installed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with gunicorn(pkgstore_app(root), tmp_path / "log") as index:
        path = made(tmp_path, "damaged", payload=2_000_000)
        assert twine(index, tmp_path, str(path)).returncode == 0
        stored = root / "damaged" / path.name
        with stored.open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"damage")
        assert pip_install(index, tmp_path, tmp_path / "target", "damaged").returncode != 0
    assert not (tmp_path / "target").exists()
