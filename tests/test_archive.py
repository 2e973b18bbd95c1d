"""Archives, made and restored: what goes in comes out, byte by byte, on every medium, in every format."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

import pkgstore
from pkgstore import Store, archive
from pkgstore.archive import sealing
from pkgstore.archive.tarring import header
from tests import needs
from tests.archives import (
    bodies,
    contents,
    exported,
    fill,
    member,
    put_together,
    restored,
    sealing_key,
    signing_keys,
    taken_apart,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMATS = {"x.tar": b"././@PaxHeader", "x.tgz": b"\x1f\x8b", "x.tar.gz": b"\x1f\x8b", "x.tar.zst": b"\x28\xb5\x2f\xfd"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with pkgstore.open(tmp_path / "store") as store:
        fill(store, bodies())
        yield store


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    with pkgstore.open(tmp_path / "empty") as store:
        yield store


@pytest.fixture
def unasked(tmp_path: Path) -> Iterator[Store]:
    """Another empty store."""
    with pkgstore.open(tmp_path / "unasked") as store:
        yield store


@pytest.mark.parametrize("name", FORMATS)
def test_a_round_trip(store: Store, empty: Store, tmp_path: Path, name: str) -> None:
    report = archive.export(store, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(FORMATS[name])
    assert report.size == (tmp_path / name).stat().st_size
    assert (report.blobs, report.bytes) == (16, sum(map(len, bodies().values())))
    found = archive.restore(tmp_path / name, empty)
    assert (found.new, found.same, found.conflict, found.has_manifest) == (16, 0, 0, True)
    assert found.sha256 == report.sha256
    assert contents(empty) == bodies()


def test_headers_are_as_python_makes_them() -> None:
    """Byte by byte: the format is theirs. At all lengths at which a field of it gets longer."""
    chance = random.Random(1)
    names = ["a", "ü", "a/b.whl", *("x" * length for length in (99, 100, 101, 155, 300)), "y/" * 60 + "é"]
    sizes = [0, 1, 8**11 - 1, 8**11, 1 << 40, *(chance.randrange(1 << 30) for _ in range(5))]
    for comment in ["-", "é", *("c" * length for length in (*range(78, 92), *range(980, 994), *range(9976, 9990)))]:
        for name in names:
            for size in sizes:
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.pax_headers = size, 315532800, {"comment": comment}
                assert header(name, size, comment) == info.tobuf(tarfile.PAX_FORMAT), (name, size, len(comment))


def test_every_digest_is_kept(store: Store, empty: Store) -> None:
    store.publish("with-md5", b"body", digests={"md5": None})
    restored(exported(store), empty)
    assert empty.stat("with-md5").digests == store.stat("with-md5").digests
    assert "md5" in empty.stat("with-md5").digests


def test_a_large_blob_is_streamed(store: Store, empty: Store) -> None:
    body = bytes(range(256)) * (20 << 12)  # beyond what is held in memory
    store.publish("large", body)
    assert restored(exported(store, format="tar.zst"), empty).new == 17
    assert empty.read("large") == body


def test_the_same_blobs_make_the_same_archive(store: Store, tmp_path: Path) -> None:
    """Whatever the order of publishing, and the time; but for the store's id in the head, whatever the medium."""
    with pkgstore.open("memory://archive-same") as other:
        fill(other, dict(reversed(bodies().items())))
        assert exported(store, jobs=1) == exported(store) == exported(store, jobs=3)
        first, second = taken_apart(exported(store)), taken_apart(exported(other))
        assert first[0][1] == second[0][1].replace(other.id.encode(), store.id.encode()) != second[0][1]
        assert [(info.name, body) for info, body in first[1:-1]] == [(info.name, body) for info, body in second[1:-1]]


def test_an_empty_store(empty: Store, unasked: Store) -> None:
    assert restored(exported(empty, format="tar.zst"), unasked) == archive.Restored(
        has_manifest=True, sha256=archive.verify(io.BytesIO(exported(empty))).sha256
    )


def test_a_file_without_a_digest(store: Store, empty: Store, tmp_path: Path) -> None:
    """Put there by hand, small and large, in a store that may not be written to."""
    (tmp_path / "store" / "by-hand").write_bytes(b"by hand")
    large = bytes(5 << 20)
    (tmp_path / "store" / "large-by-hand").write_bytes(large)
    with pkgstore.open(tmp_path / "store", readonly=True) as reading:
        assert restored(exported(reading), empty).new == 18
    assert (empty.read("by-hand"), empty.read("large-by-hand")) == (b"by hand", large)


def test_a_file_that_is_written_to_meanwhile(store: Store, tmp_path: Path) -> None:
    """In place, after its digest was computed: nobody else could tell."""
    path = tmp_path / "store" / "by-hand"
    path.write_bytes(bytes(5 << 20))
    with pkgstore.open(tmp_path / "store", readonly=True) as reading, archive.stream(reading, "tar", jobs=1) as stream:
        data = b""
        while b"by-hand" not in data:
            data += stream.read(1 << 20)
        with path.open("r+b") as file:
            file.seek(-1, io.SEEK_END)
            file.write(b"x")
        with pytest.raises(pkgstore.Corrupt, match="changed while it was read"):
            list(stream.chunks())


def test_a_large_blob_that_is_lost_in_the_middle(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("large", bytes(5 << 20))
    real = pkgstore.Reader.read

    def read(self: pkgstore.Reader, size: int | None = -1, /) -> bytes:
        if self.name == "large" and self.tell() > 2 << 20:
            raise pkgstore.NotFound("large was replaced while it was read")
        return real(self, size)

    monkeypatch.setattr(pkgstore.Reader, "read", read)
    with pytest.raises(pkgstore.Unavailable, match="export again"):
        archive.export(store, tmp_path / "x.tar.zst")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_blob_that_is_corrupt_in_the_store_leaves_no_archive(store: Store, tmp_path: Path) -> None:
    (tmp_path / "store" / "project-0" / "file-3-1.0-py3-none-any.whl").write_bytes(b"x" * 512)
    with pytest.raises(pkgstore.Corrupt, match=r"file-3-1\.0"):
        archive.export(store, tmp_path / "x.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_target_that_is_there_stays(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        archive.export(store, tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == b"mine"
    archive.export(store, tmp_path / "x.tar", replace=True)
    assert archive.verify(tmp_path / "x.tar").blobs == 16


@pytest.mark.parametrize(
    "name", ["x.tar", "project-1/x.tar", ".pkgstore-0.part.tar", ".pkgstore/x.tar", "../link/x.tar"]
)
def test_a_target_in_the_store_itself_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    """It would be a package, and its own temporary file one in it."""
    (tmp_path / "link").symlink_to(tmp_path / "store" / "project-1")
    with pytest.raises(pkgstore.Misconfigured, match="would lie in the store at"):
        archive.export(store, tmp_path / "store" / name)
    with pytest.raises(pkgstore.Misconfigured, match="would lie in the store at"):
        archive.export(store.scope("project-2/"), tmp_path / "store" / name)
    assert contents(store) == bodies()


def test_a_format_that_nothing_says(store: Store, tmp_path: Path) -> None:
    with pytest.raises(pkgstore.Misconfigured, match=r"\.tar\.zst"):
        archive.export(store, tmp_path / "backup")
    with pytest.raises(pkgstore.Misconfigured, match="no format 'rar'"):
        archive.export(store, io.BytesIO(), format="rar")  # type: ignore[arg-type]


def test_into_another_store_and_from_there(store: Store, empty: Store, unasked: Store) -> None:
    with archive.stream(store, "tar.zst") as body:
        blob = unasked.publish("backups/1.tar.zst", body)
    assert blob.size == body.report.size
    with unasked.open("backups/1.tar.zst") as reader:
        assert archive.restore(reader, empty).new == 16
    assert contents(empty) == bodies()


def test_a_scope(store: Store, empty: Store) -> None:
    data = exported(store.scope("project-1/"))
    restored(data, empty.scope("tenant/"))
    assert contents(empty) == {
        key.replace("project-1/", "tenant/"): body for key, body in bodies().items() if key.startswith("project-1/")
    }


# -- what is there already ---------------------------------------------------------------------------------------------


def test_the_same_stays_and_a_conflict_is_told(store: Store, empty: Store) -> None:
    same, other = "project-1/file-1-1.0-py3-none-any.whl", "project-2/file-2-1.0-py3-none-any.whl"
    empty.publish(same, bodies()[same])
    empty.publish(other, b"another version")
    empty.publish("mine", b"mine")
    before = empty.stat(same)
    outcomes: list[archive.Outcome] = []
    found = restored(exported(store), empty, told=outcomes.append)
    assert (found.new, found.same, found.conflict) == (14, 1, 1)
    assert [each.key for each in outcomes if each.fate == "conflict"] == [other]
    assert (empty.stat(same), empty.read(other), empty.read("mine")) == (before, b"another version", b"mine")
    found = restored(exported(store), empty, replace=True)
    assert (found.new, found.same, found.replaced, found.conflict) == (0, 15, 1, 0)
    assert contents(empty) == {**bodies(), "mine": b"mine"}


def rot(path: Path) -> None:
    """Change a byte of a file, and nothing that tells of it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("size", [100, 9 << 20])
def test_what_has_rotted_in_the_target_is_replaced(store: Store, empty: Store, tmp_path: Path, size: int) -> None:
    """When it is asked for; else it is compared by its recorded digest, and nothing is read."""
    store.publish("rotten", bytes(size))
    data = exported(store)
    restored(data, empty)
    rot(tmp_path / "empty" / "rotten")
    assert restored(data, empty).same == 17
    with pytest.raises(pkgstore.Corrupt):
        empty.read("rotten")
    found = restored(data, empty, replace=True)
    assert (found.same, found.replaced, found.damaged) == (16, 1, 0)
    assert contents(empty) == contents(store)
    assert restored(data, empty, replace=True).same == 17


def test_a_large_blob_of_somebody_else_s_tar_is_replaced(empty: Store) -> None:
    """It has no digest to be compared by, and can be read once."""
    large = bytes(range(256)) * (9 << 12)
    data = put_together([member("large", large)])
    empty.publish("large", bytes(len(large)))
    assert restored(data, empty).conflict == 1
    assert restored(data, empty, replace=True).replaced == 1
    assert empty.read("large") == large


def test_a_key_that_lies_below_a_blob_is_refused(store: Store, empty: Store) -> None:
    empty.publish("project-1", b"in the way")
    found = restored(exported(store), empty)
    assert (found.refused, found.new) == (5, 11)


def test_the_store_being_full_ends_it(store: Store, empty: Store) -> None:
    empty.set_quota(1000)
    with pytest.raises(pkgstore.QuotaExceeded):
        restored(exported(store), empty)


# -- a cut, while publishers go on -------------------------------------------------------------------------------------


def test_what_changes_meanwhile(store: Store, empty: Store) -> None:
    """A blob is replaced, one deleted, one comes: each after the first bytes of the archive were read."""
    keys = sorted(bodies())
    for number in range(40):  # more than is looked at ahead
        store.publish(f"z/{number:02}", b"old")
    with archive.stream(store, "tar", jobs=1) as stream:
        data = stream.read(512)
        store.publish("z/38", b"newer", replace=True)
        store.delete("z/39")
        store.publish("zz/late", b"late")
        while more := stream.read(1 << 16):
            data += more
    assert stream.report.vanished in (0, 1)
    found = restored(data, empty)
    assert found.new == stream.report.blobs
    shown = contents(empty)
    assert shown["z/38"] in (b"old", b"newer")
    assert shown.get("z/39", b"old") == b"old"
    assert [key for key in keys if shown[key] != bodies()[key]] == []
    assert [number for number in range(38) if shown[f"z/{number:02}"] != b"old"] == []


def test_what_vanishes_is_counted(store: Store, empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = sorted(bodies())[3]
    listed = list(store.list())
    store.delete(gone)
    monkeypatch.setattr(store, "list", lambda: iter(listed))
    target = io.BytesIO()
    assert archive.export(store, target, format="tar").vanished == 1
    assert restored(target.getvalue(), empty).new == 15


# -- increments --------------------------------------------------------------------------------------------------------


def test_increments_give_the_final_state(store: Store, empty: Store, tmp_path: Path) -> None:
    base, first, second = tmp_path / "0.tar.zst", tmp_path / "1.tar.gz", tmp_path / "2.tar"
    archive.export(store, base)
    changed, deleted = "project-0/file-3-1.0-py3-none-any.whl", "project-1/file-1-1.0-py3-none-any.whl"
    store.publish(changed, bytes(len(bodies()[changed])), replace=True)  # of the same length
    store.delete(deleted)
    store.publish("new/1", b"new")
    report = archive.export(store, first, since=base)
    assert (report.blobs, report.kept, report.deleted) == (2, 14, 1)
    assert report.base == archive.verify(base).sha256
    store.publish("new/2", b"newer")
    store.delete("new/1")
    report = archive.export(store, second, since=first)
    assert (report.blobs, report.kept, report.deleted) == (1, 15, 1)

    outcomes: list[archive.Outcome] = []
    assert archive.restore(second, empty, told=outcomes.append).missing == 15
    assert archive.restore(base, empty).new == 16
    found = archive.restore(first, empty, apply_changes=True)
    assert (found.new, found.replaced, found.deleted, found.conflict, found.missing) == (1, 1, 1, 0, 0)
    found = archive.restore(second, empty, apply_changes=True)
    assert (found.new, found.same, found.deleted, found.missing) == (0, 1, 1, 0)
    assert contents(empty) == contents(store)
    assert archive.restore(second, empty, apply_changes=True).deleted == 0


def test_changes_are_applied_when_asked_and_to_the_base_s_versions_only(store: Store, empty: Store) -> None:
    base = exported(store)
    changed, deleted, edited, both = sorted(bodies())[2:6]
    store.publish(changed, b"changed", replace=True)
    store.publish(both, b"changed", replace=True)
    store.delete(deleted)
    store.delete(edited)
    data = exported(store, since=io.BytesIO(base))
    restored(base, empty)
    found = restored(data, empty)
    assert (found.replaced, found.deleted, found.conflict) == (0, 0, 2)
    assert contents(empty) == bodies()
    empty.publish(edited, b"edited here", replace=True)
    empty.publish(both, b"edited here", replace=True)
    found = restored(data, empty, apply_changes=True)
    assert (found.replaced, found.deleted, found.conflict) == (1, 1, 2)
    assert (empty.read(edited), empty.read(both)) == (b"edited here", b"edited here")


def test_what_others_change_before_it_is_deleted_stays(
    store: Store, empty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = exported(store)
    key = min(bodies())
    store.delete(key)
    data = exported(store, since=io.BytesIO(base))
    restored(base, empty)
    delete = empty.delete

    def publish_and_delete(key: str, **options: str) -> bool:
        empty.publish(key, b"newer", replace=True)
        return delete(key, **options)

    monkeypatch.setattr(empty, "delete", publish_and_delete)
    found = restored(data, empty, apply_changes=True)
    assert (found.deleted, found.conflict, empty.read(key)) == (0, 1, b"newer")


def test_a_manifest_is_enough_of_a_base(store: Store, empty: Store, tmp_path: Path) -> None:
    """As tar unpacks it. It is what the archive itself would be, as a base."""
    data = exported(store)
    (text,) = [body for info, body in taken_apart(data) if info.name == ".pkgstore/archive/manifest.jsonl"]
    (tmp_path / "manifest.jsonl").write_bytes(text)
    store.publish("new", b"new")
    assert exported(store, since=tmp_path / "manifest.jsonl") == exported(store, since=io.BytesIO(data))
    for spoilt in (text[:-1], text[:-60], b"{}\n", text + text):
        with pytest.raises(pkgstore.Misconfigured, match="earlier manifest"):
            exported(store, since=io.BytesIO(spoilt))
    with pytest.raises(pkgstore.Misconfigured, match="no manifest"):
        exported(store, since=io.BytesIO(put_together([member("a", b"body")])))


def test_a_base_that_knows_what_has_vanished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted between being listed and being looked at, changed or not."""
    base = exported(store)
    listed = list(store.list())
    store.delete(listed[0].key)
    monkeypatch.setattr(store, "list", lambda: iter(listed))
    target = io.BytesIO()
    report = archive.export(store, target, format="tar", since=io.BytesIO(base))
    assert (report.deleted, report.kept, report.vanished) in ((1, 15, 0), (0, 16, 0))


def test_a_base_of_another_store_or_scope_is_refused(store: Store, empty: Store, tmp_path: Path) -> None:
    """All of the store would be taken for deleted."""
    whole, part = exported(store), exported(store.scope("project-1/"))
    for base, of in (
        (whole, empty),
        (part, store),
        (whole, store.scope("project-1/")),
        (part, store.scope("project/")),
    ):
        with pytest.raises(
            pkgstore.Misconfigured, match="is of the store .*and this is .*: give one of the same store"
        ):
            exported(of, since=io.BytesIO(base))
        text = taken_apart(base)[-1][1]
        with pytest.raises(pkgstore.Misconfigured, match="is of the store"):
            exported(of, since=io.BytesIO(text))
    assert exported(store.scope("project-1/"), since=io.BytesIO(part))


def test_nothing_is_deleted_where_the_base_is_not(store: Store, empty: Store) -> None:
    """As the archive has all of the base for deleted, or the store is not the one that the base was restored to."""
    base = exported(store)
    gone, *others = sorted(bodies())
    store.delete(gone)
    data = exported(store, since=io.BytesIO(base))
    for key in (gone, *others[:7]):
        empty.publish(key, bodies()[key])
    outcomes: list[archive.Outcome] = []
    found = restored(data, empty, apply_changes=True, told=outcomes.append)
    assert (found.deleted, found.withheld, found.missing) == (0, 1, 8)
    assert outcomes[-1] == archive.Outcome(gone, "withheld", outcomes[-1].why)
    assert "has 7 of the base's 15 other blobs" in outcomes[-1].why
    assert restored(data, empty).withheld == 0
    empty.publish(others[7], bodies()[others[7]])
    assert restored(data, empty, apply_changes=True).deleted == 1
    assert gone not in contents(empty)


def test_a_store_that_was_emptied(store: Store, empty: Store) -> None:
    base = exported(store)
    for key in bodies():
        store.delete(key)
    data = exported(store, since=io.BytesIO(base))
    restored(base, empty)
    assert restored(data, empty, apply_changes=True).withheld == 16
    assert contents(empty) == bodies()
    assert restored(data, empty, apply_changes=True, any_base=True).deleted == 16
    assert contents(empty) == {}


def test_what_was_replaced_counts_as_there(store: Store, empty: Store) -> None:
    base = exported(store)
    gone, *others = sorted(bodies())
    store.delete(gone)
    for key in others:
        store.publish(key, b"changed", replace=True)
    restored(base, empty)
    found = restored(exported(store, since=io.BytesIO(base)), empty, apply_changes=True)
    assert (found.replaced, found.deleted, found.withheld) == (15, 1, 0)


def test_nothing_is_deleted_where_something_is_damaged_or_refused(store: Store, empty: Store) -> None:
    """It may be what takes the place of the others, under another name."""
    base = exported(store)
    gone = min(bodies())
    store.delete(gone)
    store.publish("new", b"it came instead")
    data = exported(store, since=io.BytesIO(base))
    restored(base, empty)
    found = restored(data.replace(b"it came instead", b"it comes instead"[:15]), empty, apply_changes=True)
    assert (found.damaged, found.deleted, found.withheld) == (1, 0, 1)
    limits = archive.Limits(blob=80_000)
    assert restored(data, empty, apply_changes=True, limits=limits).deleted == 1
    empty.publish(gone, bodies()[gone])
    found = restored(data, empty, apply_changes=True, any_base=True, limits=archive.Limits(blob=10))
    assert (found.refused, found.deleted, found.withheld) == (1, 0, 1)


def test_keys_that_are_too_long_below_a_scope_are_refused(store: Store, empty: Store) -> None:
    base = exported(store)
    scope = empty.scope("/".join(["s" * 200] * 4) + "/")
    found = restored(exported(store, since=io.BytesIO(base)), scope)
    assert (found.refused, found.missing) == (1, 15)


def test_a_base_of_what_compresses_well(store: Store) -> None:
    store.publish("zeros", bytes(80 << 20))
    data = exported(store, format="tar.zst")
    with pytest.raises(pkgstore.Corrupt, match="200 times"):
        archive.verify(io.BytesIO(data))
    assert archive.export(store, io.BytesIO(), since=io.BytesIO(data)).kept == 17


def test_a_damaged_base_is_refused(store: Store) -> None:
    data = exported(store)
    at = data.index(b"a long key")
    with pytest.raises(pkgstore.Corrupt, match="earlier archive has 1 damaged"):
        exported(store, since=io.BytesIO(data[:at] + b"A" + data[at + 1 :]))
    with pytest.raises(pkgstore.Corrupt, match="cannot be built upon: .* cut short"):
        exported(store, since=io.BytesIO(data[:at]))


def test_who_signs_signs_for_the_base(store: Store, tmp_path: Path) -> None:
    (private, _), (other, _) = signing_keys(tmp_path), signing_keys(tmp_path, "other")
    good = exported(store, sign_key=private)
    for base in (exported(store), exported(store, sign_key=other)):
        with pytest.raises(pkgstore.Denied, match="cannot be built upon: the archive is not signed"):
            exported(store, since=io.BytesIO(base), sign_key=private)
    assert exported(store, since=io.BytesIO(good), sign_key=private)
    text = taken_apart(good)[-1][1]
    for how in ({"sign_key": private}, {"encrypt_key": sealing_key(tmp_path)}):
        with pytest.raises(pkgstore.Misconfigured, match="give the earlier archive itself"):
            exported(store, since=io.BytesIO(text), **how)


# -- signatures and seals ----------------------------------------------------------------------------------------------


def test_a_signed_archive(store: Store, empty: Store, unasked: Store, tmp_path: Path) -> None:
    private, public = signing_keys(tmp_path)
    data = exported(store, sign_key=private)
    assert data == exported(store, sign_key=private)
    assert restored(data, empty, verify_key=public).signature == "good"
    assert restored(data, empty).signature == "unchecked"
    assert restored(exported(store), empty).signature == "none"
    _, other = signing_keys(tmp_path, "other")
    plain = put_together([member("a", b"body")])
    for refused, key in ((exported(store), public), (data, other), (plain, public)):
        with pytest.raises(pkgstore.Denied, match="signed"):
            restored(refused, unasked, verify_key=key)
        assert contents(unasked) == {}


def test_a_signature_holds_for_one_archive(store: Store, unasked: Store, tmp_path: Path) -> None:
    """Members of another archive, signed with the same key, are refused before they are visible."""
    private, public = signing_keys(tmp_path)
    first = taken_apart(exported(store, sign_key=private))
    store.delete(min(bodies()))
    second = taken_apart(exported(store, sign_key=private))
    for members in ([*first[:3], *second[3:]], [first[0], *first[2:]], first[:-2] + first[-1:]):
        with pytest.raises((pkgstore.Denied, pkgstore.Corrupt)):
            restored(put_together(members), unasked, verify_key=public)
    assert set(contents(unasked)) <= {info.name for info, _ in first[:-2]}
    shorter = [*first[:3], second[-1]]
    with pytest.raises(pkgstore.Corrupt):
        restored(put_together(shorter), unasked)


@pytest.mark.parametrize("form", ["tar", "tar.zst"])
def test_a_sealed_archive(store: Store, empty: Store, unasked: Store, tmp_path: Path, form: str) -> None:
    key, other = sealing_key(tmp_path), sealing_key(tmp_path, "other")
    data = exported(store, format=form, encrypt_key=key)
    assert b"project-1" not in data
    assert data != exported(store, format=form, encrypt_key=key)
    assert restored(data, empty, decrypt_key=key).new == 16
    assert contents(empty) == bodies()
    with pytest.raises(pkgstore.Denied, match="another key"):
        restored(data, unasked, decrypt_key=other)
    with pytest.raises(pkgstore.Denied, match="is sealed"):
        restored(data, unasked)
    with pytest.raises(pkgstore.Denied, match="not sealed"):
        restored(exported(store), unasked, decrypt_key=key)
    store.publish("new", b"new")
    assert archive.export(store, io.BytesIO(), since=io.BytesIO(data), encrypt_key=key).blobs == 1
    with pytest.raises(pkgstore.Denied, match="built upon: the archive is not sealed"):
        exported(store, since=io.BytesIO(exported(store)), encrypt_key=key)


def test_segments_cannot_be_cut_moved_or_changed(store: Store, unasked: Store, tmp_path: Path) -> None:
    key = sealing_key(tmp_path)
    data = exported(store, encrypt_key=key)
    head, segment = 16 + 8 + 32, (1 << 16) + 16
    pieces = [data[at : at + segment] for at in range(head, len(data), segment)]
    assert len(pieces) > 2
    spoilt = [
        data[: head + segment],
        data[:-1],
        data[:head],
        data[: head - 1],
        data + b"x",
        data[:head] + b"".join([pieces[1], pieces[0], *pieces[2:]]),
        data[:head] + b"".join([pieces[0], pieces[0], *pieces[1:]]),
        data[:head] + b"".join(pieces[1:]),
        *(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (30, head, head + segment, len(data) - 1)),
    ]
    for each in spoilt:
        with pytest.raises(pkgstore.Corrupt):
            restored(each, unasked, decrypt_key=key)
    assert contents(unasked).items() <= bodies().items()


def test_no_byte_of_a_segment_that_is_not_in_its_place_is_given_out() -> None:
    key, data = bytes(range(32)), random.Random(1).randbytes(200_000)
    whole = b"".join(sealing.sealed([data[:70_000], data[70_000:]], key))
    pieces = [whole[at : at + (1 << 16) + 16] for at in range(56, len(whole), (1 << 16) + 16)]
    assert len(pieces) == 4

    def opened(*parts: bytes) -> bytes:
        source, given = io.BytesIO(whole[:56] + b"".join(parts)), b""
        try:
            for chunk in sealing.unsealed(source.read, key):
                given += chunk
        except pkgstore.Corrupt:
            return given
        pytest.fail("it was taken for whole")

    assert b"".join(sealing.unsealed(io.BytesIO(whole).read, key)) == data
    first = data[: 1 << 16]
    assert opened(pieces[1], pieces[0], *pieces[2:]) == b""
    assert opened(*pieces[1:]) == b""
    assert opened(pieces[0], pieces[0], *pieces[1:]) == first
    assert opened(pieces[0], *pieces[2:]) == first
    assert opened(*pieces[:3]) == data[: 2 << 16]
    assert opened(*pieces, pieces[3]) == data[: 3 << 16]
    assert opened(*pieces[:3], pieces[3][:-1]) == data[: 3 << 16]
    other = b"".join(sealing.sealed([data], key))
    assert opened(other[56:]) == b""
    assert b"".join(sealing.unsealed(io.BytesIO(b"".join(sealing.sealed([], key))).read, key)) == b""


@pytest.mark.parametrize("write", ["hex", "base64", "raw"])
def test_how_a_key_may_be_written(store: Store, empty: Store, tmp_path: Path, write: str) -> None:
    commands = {"hex": ["-hex", "32"], "base64": ["-base64", "32"], "raw": ["32"]}
    (tmp_path / "key").write_bytes(
        subprocess.run([needs.program("openssl"), "rand", *commands[write]], check=True, capture_output=True).stdout
    )
    assert restored(exported(store, encrypt_key=tmp_path / "key"), empty, decrypt_key=tmp_path / "key").new == 16


def test_keys_that_are_none(store: Store, tmp_path: Path) -> None:
    private, public = signing_keys(tmp_path)
    rsa, locked, junk = tmp_path / "rsa.pem", tmp_path / "locked.pem", tmp_path / "junk"
    subprocess.run([needs.program("openssl"), "genpkey", "-algorithm", "rsa", "-quiet", "-out", rsa], check=True)
    subprocess.run(
        [needs.program("openssl"), "pkey", "-in", private, "-aes256", "-passout", "pass:x", "-out", locked], check=True
    )
    junk.write_bytes(b"secret" * 5000)
    for path, says in ((rsa, "not of Ed25519"), (locked, "password"), (public, "no private key"), (junk, "too large")):
        with pytest.raises(pkgstore.Misconfigured, match=says) as caught:
            exported(store, sign_key=path)
        assert "secret" not in str(caught.value)
    for path, says in ((private, "no public key"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(pkgstore.Misconfigured, match=says):
            archive.verify(io.BytesIO(exported(store)), verify_key=path)
    for text, says in ((b"secret", "no key of 32 bytes"), (b"secret" * 5 + b"!\n", "32 printable characters")):
        junk.write_bytes(text)
        with pytest.raises(pkgstore.Misconfigured, match=says) as caught:
            exported(store, encrypt_key=junk)
        assert "secret" not in str(caught.value)


# -- other tars --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [["-cf"], ["-czf"], ["--zstd", "-cf"], ["-cf", "--format=posix"], ["--format=ustar", "-cf"]]
)
def test_a_tar_of_a_folder_restores(store: Store, empty: Store, tmp_path: Path, options: list[str]) -> None:
    """The backup that people have today: GNU tar, of the store's own folder or of one like it."""
    if "ustar" in "".join(options):  # which has no room for such a name
        store.delete(f"{'d' * 150}/{'f' * 120}.whl")
    file = tmp_path / "backup"
    flag = [each for each in options if each.startswith("-") and not each.startswith("--")]
    subprocess.run(
        ["tar", *[each for each in options if each not in flag], *flag, file, "-C", tmp_path / "store", "."], check=True
    )
    found = archive.restore(file, empty)
    assert (found.has_manifest, found.new, found.refused) == (False, len(contents(store)), 0)
    assert found.left_out >= 1  # .pkgstore/store.json
    assert contents(empty) == contents(store)
    assert empty.id != store.id


def test_leading_folders_are_left_out(store: Store, empty: Store, tmp_path: Path) -> None:
    file = tmp_path / "backup.tgz"
    subprocess.run(["tar", "czf", file, "-C", tmp_path, "store"], check=True)
    assert archive.restore(file, empty, strip=1).new == 16
    assert contents(empty) == bodies()
    with pytest.raises(pkgstore.Misconfigured, match="-1 folders"):
        archive.verify(file, strip=-1)
    with pytest.raises(pkgstore.Misconfigured, match="leave out --strip-components"):
        restored(exported(store), empty, strip=1)


def test_the_folders_that_are_left_out_are_judged_too(empty: Store) -> None:
    names = (".pkgstore/a", "top/.pkgstore/a", "../a", "top/../a", "top//a", "top/./a", "/top/a", "top/a/b", "./top/c")
    outcomes: list[archive.Outcome] = []
    data = put_together([member(name, b"x") for name in names])
    restored(data, empty, strip=1, told=outcomes.append)
    assert set(contents(empty)) == {"a/b", "c"}
    assert {each.key for each in outcomes if each.fate == "left out"} == {"'.pkgstore/a'", "'top/.pkgstore/a'"}


@pytest.mark.parametrize("name", FORMATS)
def test_tar_unpacks_it_to_the_packages(store: Store, tmp_path: Path, name: str) -> None:
    archive.export(store, tmp_path / name)
    (tmp_path / "out").mkdir()
    said = subprocess.run(["tar", "xf", tmp_path / name, "-C", tmp_path / "out"], check=True, capture_output=True)
    assert said.stderr == b""
    shutil.rmtree(tmp_path / "out" / ".pkgstore")
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in paths} == bodies()
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644}


def test_headers_that_only_large_blobs_have() -> None:
    """Beyond 8 GiB, where the size has no room in the header."""
    from pkgstore.archive.tarring import Members, header

    text = header("a" * 200, 9 << 30, "comment")
    chunks = iter([text, bytes(1 << 20)])
    found = next(iter(Members(chunks)))
    assert (found.name, found.size, found.comment) == ("a" * 200, 9 << 30, "comment")
    info = tarfile.TarInfo("b")
    info.size = 9 << 30
    found = next(iter(Members(iter([info.tobuf(tarfile.GNU_FORMAT)]))))
    assert (found.name, found.size) == ("b", 9 << 30)


def test_the_last_line_of_the_manifest_counts(store: Store) -> None:
    text = taken_apart(exported(store))[-1][1]
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {"pkgstore-archive": 1, "base": None, "store": store.id, "scope": ""}
    assert [line["key"] for line in lines[1:-1]] == sorted(bodies())
    assert lines[-1] == {"end": {"blobs": 16, "bytes": sum(map(len, bodies().values())), "kept": 0, "deleted": 0}}
