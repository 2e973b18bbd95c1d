"""Encrypted stores, as their users see them: with keys, without, and on the medium itself."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore import Corrupt, Denied, Exists, Misconfigured, NotFound, QuotaExceeded, Unsupported, reopening
from pkgstore.crypt import keyring
from pkgstore.crypt.segments import stored_size
from pkgstore.verify import Checked, verify
from tests.command import complaint, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pkgstore import Store

SECRET = b"the very words that nobody is to read " * 3000
DIGEST = hashlib.sha256(SECRET).hexdigest()


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    keyring.make(str(tmp_path / "ring"))
    return tmp_path / "ring"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path, ring: Path) -> Iterator[Store]:
    with pkgstore.open(root, keyring=ring) as store:
        yield store


# -- on the medium ----------------------------------------------------------------------------------------------------


def test_nothing_on_the_medium_tells_the_plaintext(store: Store, root: Path, tmp_path: Path) -> None:
    store.publish("six/six-1.0.tar.gz", SECRET, digests={"md5": None})
    store.set_quota("1G")
    with pkgstore.open(root, keyring=tmp_path / "ring", catalog=tmp_path / "catalog") as known:
        known.stat("six/six-1.0.tar.gz")
        known.warm(share=True)
    told = [SECRET[:20], DIGEST.encode(), bytes.fromhex(DIGEST), hashlib.md5(SECRET).digest()]
    found = 0
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                content = file.read()
            content += b"".join(os.getxattr(path, each) for each in os.listxattr(path))
            if content[:2] == b"\x1f\x8b":
                content += gzip.decompress(content)
            assert not [each for each in told if each in content], path
            found += 1
    assert found >= 4


def test_the_shared_catalog_is_read_with_the_keys(store: Store, root: Path, ring: Path, tmp_path: Path) -> None:
    store.publish("a", SECRET)
    with pkgstore.open(root, keyring=ring, catalog=tmp_path / "one") as known:
        known.stat("a")
        known.warm(share=True)
    with pkgstore.open(root, keyring=ring, catalog=tmp_path / "two") as known:
        assert known._catalog is not None
        assert [(each.key, each.digests) for each in known._catalog.known()] == [("a", {"sha256": DIGEST})]


def test_sizes_and_digests_are_those_of_the_plaintext(store: Store, root: Path) -> None:
    blob = store.publish("a/b", SECRET, digests={"sha256": DIGEST, "md5": None}, size=len(SECRET))
    assert (blob.size, blob.digests["sha256"]) == (len(SECRET), DIGEST)
    assert blob == store.stat("a/b") == next(store.list()) == store.adopt("a/b")
    assert (root / "a" / "b").stat().st_size == stored_size(len(SECRET))
    assert store.usage() == pkgstore.Usage(1, len(SECRET))
    with pytest.raises(Exists) as caught:
        store.publish("a/b", SECRET)
    assert caught.value.identical
    with pytest.raises(Corrupt):
        store.publish("c", SECRET, digests={"md5": "0" * 32})
    with pytest.raises(Corrupt):
        store.publish("c", SECRET, size=5)
    assert [each.key for each in store.list()] == ["a/b"]


def test_the_quota_is_of_plaintext_as_listings_are(store: Store) -> None:
    store.set_quota(10)
    store.publish("a", b"12345")
    store.publish("b", b"12345")
    with pytest.raises(QuotaExceeded):
        store.publish("c", b"1")
    store.delete("a")
    store.publish("b", b"1", replace=True)
    assert store.usage().bytes == store.usage(recount=True).bytes == 1


def test_a_blob_is_bound_to_its_key_in_the_whole_store(store: Store, root: Path) -> None:
    tenant = store.scope("tenant/")
    tenant.publish("a", b"1")
    assert (tenant.read("a"), store.read("tenant/a"), tenant.encrypted) == (b"1", b"1", True)
    (root / "tenant" / "b").write_bytes((root / "tenant" / "a").read_bytes())
    with pytest.raises(Corrupt, match="segment 0|record"):
        tenant.read("b")


def test_a_plain_file_that_was_put_there_by_hand(store: Store, root: Path) -> None:
    (root / "hand").write_bytes(SECRET)
    with pytest.raises(Corrupt, match="does not begin as a sealed blob does: it is damaged, or was put there by other"):
        store.read("hand")
    assert [(each.key, each.digests) for each in store.list()] == [("hand", {})]
    with pytest.raises(Corrupt):
        store.adopt("hand")
    store.delete("hand")
    assert list(store.list()) == []


# -- without keys -----------------------------------------------------------------------------------------------------


def test_without_a_keyring(store: Store, root: Path) -> None:
    store.publish("a/b", SECRET)
    key_id = store.driver.keyring.active.id  # type: ignore[attr-defined]
    with pkgstore.open(root) as blind:
        assert blind.encrypted
        assert [(each.key, each.size, each.digests) for each in blind.list()] == [("a/b", len(SECRET), {})]
        assert blind.usage().bytes == len(SECRET)
        for call in (blind.read, blind.open, blind.adopt):
            with pytest.raises(
                Denied, match=f"under the key {key_id}, and no keyring was given; give its file"
            ) as caught:
                call("a/b")
            assert caught.value.key == "a/b"
        with pytest.raises(Denied, match="the store is encrypted, and no keyring was given"):
            blind.publish("c", b"1")
        with pytest.raises(NotFound):
            blind.read("c")
        blind.delete("a/b")
    assert list(store.list()) == []


def test_with_a_keyring_that_has_other_keys(store: Store, root: Path, tmp_path: Path) -> None:
    store.publish("a", SECRET)
    keyring.make(str(tmp_path / "other"))
    with (
        pkgstore.open(root, keyring=tmp_path / "other") as other,
        pytest.raises(Denied, match=r"which the keyring .*/other does not hold; add that key"),
    ):
        other.read("a")


def test_ciphertext_is_verified_without_keys(store: Store, root: Path, tmp_path: Path) -> None:
    store.publish("a", SECRET)
    stored = (root / "a").read_bytes()
    with pkgstore.open(root, ciphertext=True) as raw:
        blob = raw.stat("a")
        assert (blob.size, dict(blob.digests)) == (len(stored), {"sha256": hashlib.sha256(stored).hexdigest()})
        assert raw.read("a") == stored
        for change in (lambda: raw.publish("b", b""), lambda: raw.delete("a")):
            with pytest.raises(Denied, match="open for reading only"):
                change()
        with open(root / "a", "r+b") as file:
            file.seek(1000)
            file.write(bytes([stored[1000] ^ 1]))
        with pytest.raises(Corrupt):
            raw.read("a")
    with pytest.raises(Misconfigured, match="a catalog is of plaintext"):
        pkgstore.open(root, ciphertext=True, catalog=tmp_path / "catalog")
    with (
        pkgstore.open(tmp_path / "plain"),
        pytest.raises(Misconfigured, match="is not encrypted: leave out ciphertext="),
    ):
        pkgstore.open(tmp_path / "plain", ciphertext=True)
    with pytest.raises(NotFound):
        pkgstore.open(tmp_path / "absent", ciphertext=True)


def flip(path: Path, at: int) -> bytes:
    """Change a bit of a file; return what it holds then."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return bytes(data)


HEADER, SEGMENT, RECORD = 3, 70_000, -5
"""Where bits are changed."""


@pytest.mark.parametrize("at", [HEADER, SEGMENT, RECORD])
def test_a_corrupt_blob_is_kept_aside_whole(store: Store, root: Path, ring: Path, at: int) -> None:
    store.publish("a", SECRET)
    store.publish("good", SECRET)
    raw = (root / "a").read_bytes()
    damaged = flip(root / "a", at)
    seen: list[Checked] = []
    report = verify(store, quarantine=True, progress=seen.append)
    assert (report.good, report.corrupt, report.quarantined, report.unreadable) == (1, 1, 1, 0)
    assert [blob.key for blob in store.list()] == ["good"]
    kept = root / seen[0].kept_as
    assert kept.read_bytes() == damaged  # and so are the segments that do open
    note = kept.with_suffix(".json").read_text()
    assert DIGEST not in note
    assert json.loads(note)["found"] == {"sha256": hashlib.sha256(damaged).hexdigest()}
    assert json.loads(note)["digests"] == {"sha256": hashlib.sha256(raw).hexdigest()}
    keyring.add(str(ring), activate=True)
    assert (store.reencrypt().failed, kept.read_bytes()) == ([], damaged)
    kept.rename(root / "a")
    flip(root / "a", at)
    assert store.read("a") == SECRET


@pytest.mark.parametrize("at", [HEADER, SEGMENT, RECORD])
def test_a_repair_is_made_where_the_digests_are_known(store: Store, root: Path, tmp_path: Path, at: int) -> None:
    store.publish("a", SECRET)
    damaged = flip(root / "a", at)
    seen: list[Checked] = []
    with pkgstore.open(tmp_path / "plain", keyring=None) as plain:
        plain.publish("a", SECRET)
        report = verify(store, repair_from=plain, progress=seen.append)
    assert (report.corrupt, report.repaired) == (1, int(at == SEGMENT))
    if at == SEGMENT:
        assert store.read("a") == SECRET
    else:
        assert seen[0].says.endswith("its digests are lost with it, so that no copy can be told to be the same")
        assert seen[0].remedy == "delete it and publish it again, or mirror it here"
        assert (root / "a").read_bytes() == damaged


def test_verify_without_keys(store: Store, root: Path) -> None:
    store.publish("a", SECRET)
    store.publish("b", SECRET)
    flip(root / "a", SEGMENT)
    seen: list[Checked] = []
    with pkgstore.open(root, ciphertext=True) as raw:
        report = verify(raw, progress=seen.append)
        assert (report.good, report.corrupt, seen[0].key) == (1, 1, "a")
    with pkgstore.open(root) as without:
        report = verify(without, progress=seen.append)
    assert (report.corrupt, report.unreadable) == (1, 1)  # what is damaged, is so for those who have the key, too
    assert seen[-1].remedy == "see to what is denied, and verify the blob again"
    assert "ciphertext=true" in seen[-1].says


# -- which stores are encrypted ---------------------------------------------------------------------------------------


def test_the_variable(root: Path, ring: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PKGSTORE_KEYRING_FILE", str(ring))
    with pkgstore.open(root) as store:
        assert store.encrypted
        store.publish("a", b"1")
    for none in (None, "none"):
        with pkgstore.open(root, keyring=none) as blind, pytest.raises(Denied):
            blind.read("a")
        with pkgstore.open(tmp_path / f"plain {none}", keyring=none) as plain:
            assert not plain.encrypted
    with pkgstore.open(f"file://{root}?keyring={ring}", readonly=True) as store:
        assert store.read("a") == b"1"


def test_a_store_that_is_not_encrypted_is_not_taken_for_one_that_is(root: Path, ring: Path) -> None:
    """Also when somebody has made it look so: what is to be secret is never published in the clear."""
    pkgstore.open(root).close()
    with pytest.raises(Misconfigured, match=f"is not encrypted, and the keyring {ring} is given: say keyring=none"):
        pkgstore.open(root, keyring=ring)


def test_a_store_is_encrypted_from_its_beginning(root: Path, ring: Path) -> None:
    root.mkdir()
    (root / "a").write_bytes(b"1")
    with pytest.raises(Misconfigured, match="there are files at .* already, which would not be encrypted"):
        pkgstore.open(root, keyring=ring)
    assert not (root / ".pkgstore" / "store.json").exists()


def test_an_encrypted_store_is_not_opened_by_who_knows_of_no_encryption(store: Store, root: Path) -> None:
    document = json.loads((root / ".pkgstore" / "store.json").read_text())
    assert document == {"format": 2, "id": store.id, "encryption": "aes-256-gcm-stream-1"}
    for wrong in (
        {**document, "encryption": "rot13"},
        {**document, "format": 1},
        {**document, "format": [2]},
        {"format": 2, "id": store.id},
    ):
        (root / ".pkgstore" / "store.json").write_text(json.dumps(wrong))
        with pytest.raises(Misconfigured, match="use a pkgstore that knows it"):
            pkgstore.open(root)


def test_without_the_library(root: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = {"cryptography"}
    monkeypatch.setattr("pkgstore.opening.find_spec", lambda name: None if name in absent else find(name))
    with pytest.raises(Misconfigured, match=r"python -m pip install 'pkgstore\[crypt\]'"):
        pkgstore.open(root, keyring=ring)


def test_the_library_is_loaded_for_keys_alone(root: Path, ring: Path) -> None:
    code = (
        "import sys, pkgstore; url, ring = sys.argv[1:]; s = pkgstore.open(url, keyring=None); s.publish('a', b'1');"
        "print('cryptography' in sys.modules); e = pkgstore.open(url + '2', keyring=ring); e.publish('a', b'1');"
        "print('cryptography' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code, root, ring], check=True, capture_output=True, text=True)
    assert shown.stdout.split() == ["False", "True"]


# -- beside the rest --------------------------------------------------------------------------------------------------


def test_paths_are_of_plaintext_or_not_there(store: Store, root: Path, ring: Path, tmp_path: Path) -> None:
    store.publish("a", SECRET)
    with pytest.raises(Unsupported, match="keeps no files on this host that are not encrypted: read 'a' with open"):
        store.local_path("a")
    with pkgstore.open(root, keyring=ring, cache=tmp_path / "cache") as cached:
        path = cached.local_path("a")
        assert path.is_relative_to(tmp_path / "cache")
        assert path.read_bytes() == SECRET == cached.read("a")
    with pkgstore.open(root, cache=tmp_path / "cache") as blind, pytest.raises(Denied):
        blind.read("a")


def test_children_after_fork(store: Store) -> None:
    store.publish("a", SECRET)
    child = os.fork()
    if child == 0:
        try:
            store.publish("b", store.read("a"))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert store.read("b") == SECRET


def test_a_store_that_is_sent_to_another_process(
    root: Path, ring: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has the same keyring there, by its path: no key is in the pickle."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PKGSTORE_KEYRING_FILE", ring.name)
    secret = keyring.held(str(ring)).by_id.popitem()[1].reveal()
    with pkgstore.open(root) as store, pkgstore.open(root, ciphertext=True) as raw:
        store.publish("a", SECRET)
        texts = [pickle.dumps(each) for each in (store, raw)]
    assert not any(secret in text or base64.b64encode(secret) in text for text in texts)
    monkeypatch.delenv("PKGSTORE_KEYRING_FILE")
    monkeypatch.chdir("/")
    try:
        assert pickle.loads(texts[0]).read("a") == SECRET
        assert pickle.loads(texts[1]).read("a") == (root / "a").read_bytes()
    finally:
        reopening._close_all()


def test_the_commands(root: Path, ring: Path) -> None:
    made = json.loads(run("init", root, "-o", f"keyring={ring}", "--json").stdout)
    assert (made["created"], made["encrypted"]) == (True, True)
    assert run("put", root, "a", "-", "-o", f"keyring={ring}", input="words").returncode == 0
    assert run("get", root, "a", "-", "-o", f"keyring={ring}").stdout == "words"
    assert "no keyring was given" in complaint(run("get", root, "a", "-"), 5)
    assert "not known: it is sealed with the blob" in run("stat", root, "a").stdout
    environment = {**os.environ, "PKGSTORE_KEYRING_FILE": str(ring)}
    assert run("doctor", root, env=environment).returncode == 0
    assert run("ls", root, "-o", "ciphertext=true", "--json").stdout.count('"sha256"') == 1
