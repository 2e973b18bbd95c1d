"""A race on a share: eight processes, each with two connections to a Samba that serves a folder of this machine's disk.

With PKGSTORE_LABS set to ``full``, for 200 keys of each size.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.smb_server import PASSWORD, samba

FULL = os.environ.get("PKGSTORE_LABS") == "full"
WITHIN = 1500.0 if FULL else 250.0


@pytest.mark.timeout(WITHIN + 60)
def test_a_race_on_a_share() -> None:
    keys, reads, kills = (200, 1000, 8) if FULL else (20, 100, 4)
    options = ["--processes=8", f"--keys={keys}", "--sizes=1,8Mi", f"--reads={reads}", f"--kills={kills}"]
    with samba() as server:
        url = server.url("pkg/race", connections="2")
        done = subprocess.run(
            [sys.executable, "-m", "pkgstore.testing.race", url, *options],
            env={**os.environ, "PKGSTORE_SMB_USERNAME": server.user, "PKGSTORE_SMB_PASSWORD": PASSWORD},
            stdout=subprocess.PIPE,
            text=True,
            timeout=WITHIN,
            check=False,
        )
    print(f"\n{done.stdout}")
    assert done.returncode == 0
    assert "every promise kept" in done.stdout
