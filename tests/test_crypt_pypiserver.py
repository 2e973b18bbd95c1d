"""pypiserver on an encrypted store: clients notice nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pkgstore
from pkgstore.crypt import keyring
from tests.packages import wheel, wheel_name
from tests.servers import gunicorn, pkgstore_app
from tests.test_pypiserver_clients import pip_install, run, twine

if TYPE_CHECKING:
    from pathlib import Path


def test_upload_and_install(tmp_path: Path) -> None:
    root, ring, home = tmp_path / "store", tmp_path / "ring", tmp_path / "home"
    home.mkdir()
    keyring.make(str(ring))
    name = wheel_name("sealed")
    data = wheel("sealed", payload=300_000)
    (home / name).write_bytes(data)
    app = pkgstore_app(f"file://{root}?keyring={ring}", "--disable-fallback")
    with gunicorn(app, tmp_path / "log", "--threads", "4") as index:
        assert twine(index, home, str(home / name)).returncode == 0
        assert twine(index, home, str(home / name)).returncode == 1
        with pkgstore.open(root, keyring=ring) as store:
            sha256 = store.stat(f"sealed/{name}").digests["sha256"]
        assert f"{name}#sha256={sha256}" in index.get("/simple/sealed/").body.decode()
        required = home / "requirements.txt"
        required.write_text(f"sealed==1.0 --hash=sha256:{sha256}\n")
        installed = pip_install(index, home, home / "target", "--require-hashes", "-r", str(required))
        assert installed.returncode == 0, installed
        part = index.get(f"/packages/sealed/{name}", headers={"Range": "bytes=100000-100099"})
        assert part.body == data[100_000:100_100]
    shown = run(home, sys.executable, "-c", f"import sys; sys.path.insert(0, {str(home / 'target')!r}); import sealed")
    assert shown.returncode == 0, shown
    assert b"sealed" not in (root / "sealed" / name).read_bytes()
