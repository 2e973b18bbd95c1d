"""`export`, `restore` and `verify-archive`: what they do, print and exit with."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

import pkgstore
from tests.archives import bodies, contents, fill, member, put_together, sealing_key, signing_keys
from tests.command import ENVIRONMENT, PKGSTORE, complaint, run

if TYPE_CHECKING:
    from pathlib import Path

CHANGED, DELETED = sorted(bodies())[2:4]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with pkgstore.open(tmp_path / "store") as store:
        fill(store, bodies())
    return tmp_path / "store"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    pkgstore.open(tmp_path / "new").close()
    return tmp_path / "new"


def held(root: Path) -> dict[str, bytes]:
    with pkgstore.open(root, create=False) as store:
        return contents(store)


def test_there_and_back(root: Path, new: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tar.zst"
    said = run("export", root, file)
    size = sum(map(len, bodies().values()))
    assert said.stdout.startswith(f"Wrote {file}: 16 blobs, {size:,} bytes; manifest sha256 ")
    assert said.stderr == ""
    said = run("verify-archive", file)
    assert said.stdout == f"{file} is whole: 16 blobs, {size:,} bytes; not signed.\n"
    said = run("restore", file, new)
    assert said.stdout == f"Restored 16 blobs, {size:,} bytes, to file://{new}: 16 new; not signed.\n"
    assert held(new) == bodies()
    assert "0 new, 16 the same" in run("restore", file, new).stdout


def test_through_a_pipe(root: Path, new: Path) -> None:
    with subprocess.Popen([*PKGSTORE, "export", root, "-"], stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        said = run("restore", "-", new, "--json", stdin=process.stdout)
    assert process.returncode == 0
    report = json.loads(said.stdout)
    assert (report["new"], report["has_manifest"], report["signature"]) == (16, True, "none")
    assert held(new) == bodies()


def test_a_pipe_that_breaks(root: Path, new: Path) -> None:
    """The exporter ends in the middle of it: what was restored stays, and the reader says so."""
    data = run("export", root, "-", "--format", "tar", text=False).stdout
    result = run("restore", "-", new, input=data[:20_000], text=False)
    assert result.returncode == 8
    assert b"is cut short; take another copy" in result.stderr
    assert held(new).items() < bodies().items()


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.gz", "x.tar.zst"])
def test_json(root: Path, tmp_path: Path, name: str) -> None:
    report = json.loads(run("export", root, tmp_path / name, "--json").stdout)
    assert report == {
        "blobs": 16,
        "bytes": sum(map(len, bodies().values())),
        "kept": 0,
        "deleted": 0,
        "vanished": 0,
        "size": (tmp_path / name).stat().st_size,
        "base": None,
        "sha256": json.loads(run("verify-archive", tmp_path / name, "--json").stdout)["sha256"],
    }


def test_increments(root: Path, new: Path, tmp_path: Path) -> None:
    base, file = tmp_path / "0.tar.zst", tmp_path / "1.tar.zst"
    run("export", root, base)
    with pkgstore.open(root) as store:
        store.publish(CHANGED, b"changed", replace=True)
        store.delete(DELETED)
    assert ": 1 blob, 7 bytes, 14 kept from its base, 1 deleted since; manifest" in (
        run("export", root, file, "--since", base).stdout
    )
    result = run("restore", file, new, "--json")
    assert result.returncode == 3
    assert json.loads(result.stderr)["error"] == "NotFound"
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["fate"] for each in lines[:-1]] == ["missing"] * 14
    assert lines[-1]["missing"] == 14
    assert run("restore", base, new).returncode == 4  # the newer version is there already
    assert run("restore", base, new, "--replace").returncode == 0
    assert "replaced, 1 deleted;" in run("restore", file, new, "--apply-changes").stdout
    assert held(new) == held(root)


def test_signed_and_sealed(root: Path, new: Path, tmp_path: Path) -> None:
    private, public = signing_keys(tmp_path)
    key = sealing_key(tmp_path)
    file = tmp_path / "x.tar.zst"
    assert run("export", root, file, "--sign", private, "--encrypt-key-file", key).returncode == 0
    assert "is sealed" in complaint(run("restore", file, new), 5)
    plain = tmp_path / "plain.tar.zst"
    run("export", root, plain)
    assert "is not signed" in complaint(run("restore", plain, new, "--verify-key", public), 5)
    assert held(new) == {}
    said = run("restore", file, new, "--verify-key", public, "--decrypt-key-file", key).stdout
    assert said.endswith("16 new; signature good.\n")
    assert run("verify-archive", file, "--decrypt-key-file", key).stdout.endswith("; signed, not checked.\n")
    incremental = run("export", root, tmp_path / "y.tar", "--since", file, "--encrypt-key-file", key, "--json")
    assert json.loads(incremental.stdout)["kept"] == 16


def test_into_a_store_and_from_it(root: Path, new: Path, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    pkgstore.open(backups).close()
    assert run("export", root, "daily/1.tar.zst", "--into", backups).returncode == 0
    assert "already in" in complaint(run("export", root, "daily/1.tar.zst", "--into", backups), 4)
    assert run("export", root, "daily/1.tar.zst", "--into", backups, "--force").returncode == 0
    assert run("verify-archive", "daily/1.tar.zst", "--from", backups).returncode == 0
    assert run("restore", "daily/1.tar.zst", new, "--from", backups).returncode == 0
    assert held(new) == bodies()
    assert "is not in" in complaint(run("restore", "daily/2.tar.zst", new, "--from", backups), 3)


def test_scopes_and_a_store_that_is_made(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tgz"
    run("export", root, file, "--scope", "project-1/")
    missing = tmp_path / "not" / "there"
    assert "pkgstore init" in complaint(run("restore", file, missing), 3)
    assert run("restore", file, missing, "--create", "--scope", "tenant/").returncode == 0
    assert held(missing) == {
        key.replace("project-1/", "tenant/"): body for key, body in bodies().items() if key.startswith("project-1/")
    }


def test_what_was_done_is_told_also_where_it_ends_early(root: Path, new: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    run("export", root, file)
    with pkgstore.open(new) as store:
        store.set_quota(blobs=3)
    said = run("restore", file, new, "--jobs", "1")
    assert said.returncode == 6
    assert said.stdout == f"Stopped after 3 blobs, to file://{new}: 3 new.\n"
    report = json.loads(run("restore", file, new, "--jobs", "1", "--json").stdout.splitlines()[-1])
    assert (report["new"], report["same"]) == (0, 3)


def test_what_is_withheld_is_told(root: Path, new: Path, tmp_path: Path) -> None:
    base, file = tmp_path / "0.tar", tmp_path / "1.tar"
    run("export", root, base)
    with pkgstore.open(root) as store:
        store.delete(CHANGED)
        store.delete(DELETED)
    run("export", root, file, "--since", base)
    with pkgstore.open(new) as store:
        for key in (CHANGED, DELETED):
            store.publish(key, bodies()[key])
    command = ("restore", file, new, "--apply-changes")
    said = run(*command)
    assert said.returncode == 2
    assert "0 new, 2 not deleted, 14 missing;" in said.stdout
    assert "has 0 of the base's 14 other blobs" in said.stdout
    assert said.stderr.startswith("pkgstore: 2 members of the archive were not deleted: see above why")
    said = run(*command, "--any-base")
    assert said.returncode == 3
    assert "2 deleted" in said.stdout
    assert held(new) == {}


def test_a_damaged_archive_is_not_called_whole(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    run("export", root, file)
    file.write_bytes(file.read_bytes().replace(b"a long key", b"a l0ng key"))
    said = run("verify-archive", file)
    assert said.returncode == 8
    assert f"{file} is damaged: 16 blobs, " in said.stdout
    assert "1 damaged; not signed.\n" in said.stdout
    assert "allow 1 or more" in complaint(run("verify-archive", file, "--max-ratio", "nan"), 2)


def test_a_folder_for_temporary_files_that_is_full(root: Path, new: Path, tmp_path: Path) -> None:
    """Files may not be larger than so much there, as if it were."""
    import resource

    file = tmp_path / "x.tar"
    file.write_bytes(put_together([member(f"{'d' * 200}/{'f' * 200}/{number}", b"") for number in range(9000)]))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    says = f"in the folder for temporary files, {tempfile.gettempdir()}"
    said = run("verify-archive", file, preexec_fn=limited)
    assert says in complaint(said, 1)
    code = "from pkgstore.archive.local import spool; file = spool(); [file.write(bytes(1 << 18)) for _ in range(9)]"
    spooled = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, preexec_fn=limited
    )
    assert spooled.returncode == 1
    assert f"File too large, {says}" in spooled.stderr.splitlines()[-1]


def test_a_tar_of_a_folder(root: Path, new: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "czf", tmp_path / "x.tgz", "-C", tmp_path, "store"], check=True)
    said = run("restore", tmp_path / "x.tgz", new, "--strip-components", "1")
    assert said.returncode == 0
    assert said.stdout.endswith("16 new, 1 left out; no manifest: of unverified origin.\n")
    assert held(new) == bodies()


def test_what_is_out_of_order_is_told(new: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(put_together([member("../evil", b"x"), member("a", b"archive's"), member("b", b"b")]))
    with pkgstore.open(new) as store:
        store.publish("a", b"mine")
    result = run("restore", file, new)
    assert result.returncode == 2
    assert result.stdout.splitlines()[:2] == [
        "refused   '../evil': the key '../evil' is not valid: it has the segment '..'",
        "conflict  a: the store has another version, which stays",
    ]
    assert result.stderr.startswith(
        "pkgstore: 1 member of the archive was refused, and not restored: see above: '../evil'"
    )
    assert held(new) == {"a": b"mine", "b": b"b"}
    file.write_bytes(put_together([member("a", b"archive's")]))
    assert "1 member of the archive is there in another version" in run("restore", file, new).stderr
    assert run("restore", file, new, "--replace").returncode == 0
    assert held(new) == {"a": b"archive's", "b": b"b"}


def test_limits(new: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(put_together([member("a", bytes(5000)), member("b", b"b")]))
    assert "larger than allowed: 5,000 of 1,000 bytes" in run("restore", file, new, "--max-blob", "1k").stdout
    assert "1,000 bytes" in complaint(run("verify-archive", file, "--max-total", "1k"), 8)
    assert "max-total='x'" in complaint(run("verify-archive", file, "--max-total", "x"), 2)
    assert held(new) == {"b": b"b"}


def test_mistakes(root: Path, new: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    assert ".tar.zst" in complaint(run("export", root, tmp_path / "x"), 2)
    assert "--json goes to standard output" in complaint(run("export", root, "-", "--json"), 2)
    assert "cannot be read" in complaint(run("export", root, file, "--sign", tmp_path / "none"), 2)
    assert "pkgstore init" in complaint(run("export", tmp_path / "none", file), 3)
    assert "would lie in the store at" in complaint(run("export", root, root / "x.tar"), 2)
    assert "would lie in the store at" in complaint(run("export", root, "x.tar", cwd=root), 2)
    assert "No such file" in complaint(run("restore", file, new), 1)
    assert "No such file" in complaint(run("export", root, file, "--since", tmp_path / "none.tar"), 1)
    assert not file.exists()
    file.write_bytes(b"mine")
    assert "it is there already" in complaint(run("export", root, file), 1)
    assert file.read_bytes() == b"mine"
    assert run("export", root, file, "--force").returncode == 0
    assert "no good at byte" in complaint(run("restore", "-", new, input="text\n" * 200), 8)


def test_without_the_extra_one_line_says_what_to_install(root: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['backports'] = None; from pkgstore.cli import main; main(sys.argv[1:])"
    for name, returncode in (("x.tar.zst", 2), ("x.tar.gz", 0)):
        command = [sys.executable, "-c", code, "export", root, tmp_path / name]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == returncode, result.stderr
        if returncode:
            assert "pip install 'pkgstore[archive]'" in complaint(result, 2)
    sealed = tmp_path / "sealed.tar"
    key = sealing_key(tmp_path)
    run("export", root, sealed, "--encrypt-key-file", key)
    code = code.replace("backports", "cryptography.exceptions")
    command = [sys.executable, "-c", code, "verify-archive", sealed, "--decrypt-key-file", key]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "pip install 'pkgstore[archive]'" in complaint(result, 2)
