"""Archives that mean harm, or came to harm: nothing lands outside, nothing unverified, and never a traceback."""

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import io
import os
import random
import struct
import subprocess
import tarfile
import tracemalloc
import uuid
from typing import TYPE_CHECKING

import pytest
from backports import zstd

import pkgstore
from pkgstore import Store, StoreError, archive
from pkgstore.archive import manifest
from pkgstore.archive.tarring import ending, header, padding
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.archives import Tar

INPUTS = 100_000 if os.environ.get("PKGSTORE_LABS") == "full" else 2_000
MANIFEST = ".pkgstore/archive/manifest.jsonl"
GOOD = {"good/a.whl": b"good", "good/z.whl": b"also good"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store, beside which nothing may change."""
    (tmp_path / "beside").write_bytes(b"beside")
    with pkgstore.open(tmp_path / "place" / "store") as store:
        yield store
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "place"]
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["store"]
    assert (tmp_path / "beside").read_bytes() == b"beside"
    everything = [path for path in (tmp_path / "place" / "store").rglob("*") if ".pkgstore" not in path.parts]
    assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in everything)


@pytest.fixture(scope="module")
def ours() -> bytes:
    """A good archive."""
    with pkgstore.open(f"memory://{uuid.uuid4()}") as made:
        fill(made, bodies(count=6))
        return exported(made)


def around(*hostile: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a tar file of somebody else's, with such members between two good ones."""
    (first, a), (last, z) = GOOD.items()
    return put_together([member(first, a), *hostile, member(last, z)])


# -- tar files of others -----------------------------------------------------------------------------------------------

REFUSED = {
    "traversal": member("../beside", b"x"),
    "traversal within": member("a/../../beside", b"x"),
    "traversal at the end": member("a/..", b"x"),
    "absolute": member("/etc/passwd", b"x"),
    "absolute, twice": member("//etc/passwd", b"x"),
    "backslashes": member("..\\beside", b"x"),
    "a drive": member("C:/beside", b"x"),
    "a control character": member("a\nb", b"x"),
    "an escape sequence": member("\x1b]0;x\x07", b"x"),
    "no name": member("", b"x"),
    "a dot": member("./.", b"x"),
    "too long": member("a/" * 600 + "b", b"x"),
    "not normalised": member("u\u0308", b"x"),
    "a device name": member("a/nul.whl", b"x"),
    "symbolic link": member("link", type=tarfile.SYMTYPE, linkname="../../beside"),
    "symbolic link with a body": member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": member("link", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "character device": member("zero", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": member("disk", type=tarfile.BLKTYPE, devmajor=8),
    "named pipe": member("pipe", type=tarfile.FIFOTYPE),
    "unknown kind": member("what", b"x", type=b"Z"),
    "duplicate": member("good/a.whl", b"evil"),
    "duplicate by another name": member("./good/a.whl", b"evil"),
    "larger than allowed": member("large", bytes(2000)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_member_that_is_refused(store: Store, name: str) -> None:
    outcomes: list[archive.Outcome] = []
    limits = archive.Limits(blob=1000)
    found = restored(around(REFUSED[name]), store, limits=limits, told=outcomes.append)
    assert (found.new, found.refused, found.left_out) == (2, 1, 0)
    (refused,) = [each for each in outcomes if each.fate == "refused"]
    assert refused.key.isprintable()
    assert refused.why.isprintable()
    assert contents(store) == GOOD


def test_a_link_and_what_is_below_it(store: Store) -> None:
    link = member("good/link", type=tarfile.SYMTYPE, linkname="..")
    restored(around(link, member("good/link/beside", b"in a folder of that name")), store)
    assert contents(store) == {**GOOD, "good/link/beside": b"in a folder of that name"}


@pytest.mark.parametrize("name", [".pkgstore/store.json", "./.pkgstore/x", "a/.pkgstore/y", "lost+found/#1"])
def test_control_files_are_left_out(store: Store, name: str) -> None:
    found = restored(around(member(name, b"{}")), store)
    assert (found.new, found.left_out, found.refused) == (2, 1, 0)
    assert pkgstore.open(store.where).id == store.id


def test_a_name_that_is_no_utf8(store: Store) -> None:
    data = around(member("caf\udce9", b"x"))
    assert restored(data, store).refused == 1
    info = tarfile.TarInfo("caf\udce9")
    with_gnu = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + bytes(1024)
    assert restored(with_gnu, store).refused == 1


@pytest.mark.parametrize("form", ["gnu", "posix", "oldgnu"])
def test_sparse_files_are_refused(store: Store, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "place" / "sparse"
    folder.mkdir()
    with (folder / "hole").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    subprocess.run(["tar", "--sparse", "-cf", folder / "x.tar", f"--format={form}", "-C", folder, "hole"], check=True)
    data = (folder / "x.tar").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(pkgstore.Corrupt, match="sparse"):
        restored(data, store)
    assert contents(store) == {}


def extended(kind: bytes, text: bytes) -> bytes:
    """Return an extended header."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(text)
    return info.tobuf(tarfile.USTAR_FORMAT) + text + bytes(-len(text) % 512)


def plain(name: str, body: bytes = b"") -> bytes:
    return member(name, body)[0].tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


SOUND = plain("a", b"body")
END = bytes(1024)
BROKEN = {
    "nothing": b"",
    "no tar": b"PNG and so on" * 100,
    "one byte": b"\0",
    "a text": b"#!/bin/sh\n" * 200,
    "zeros": bytes(10240),
    "an empty tar": END,
    "no end": SOUND,
    "half an end": SOUND + bytes(512),
    "an end with a hole": SOUND + bytes(512) + SOUND + END,
    "a header that is none": SOUND + b"\xff" * 512 + END,
    "a checksum that is wrong": SOUND[:148] + b"0000000\0" + SOUND[156:] + END,
    "cut in a header": SOUND + SOUND[:100],
    "cut in a body": plain("a", bytes(2000))[:1024],
    "larger than itself": member("a", b"", size=1 << 40)[0].tobuf(tarfile.GNU_FORMAT) + END,
    "larger than anything": SOUND[:124] + b"\xff" * 12 + SOUND[136:] + END,
    "something behind the end": SOUND + END + SOUND,
    "something behind much of the end": SOUND + END + bytes(1 << 16) + b"x",
    "two archives": SOUND + END + SOUND + END,
    "an endless extended header": extended(b"x", b"9999999 comment=" + b"a" * (2 << 20)) + SOUND + END,
    "an endless name": extended(b"L", b"a" * (2 << 20)) + SOUND + END,
    "a chain of extended headers": extended(b"x", b"13 comment=a\n") * 5000 + SOUND + END,
    "a chain of names": extended(b"L", b"a\0") * 5000 + SOUND + END,
    "an extended header without an end": extended(b"x", b"99 path=a\n") + SOUND + END,
    "an extended header of no length": extended(b"x", b"0 path=a\n") + SOUND + END,
    "an extended header without a name": extended(b"x", b"6 =aa\n") + SOUND + END,
    "an extended header for nothing": extended(b"x", b"10 path=a\n") + END,
    "a size below nothing": extended(b"x", b"11 size=-5\n") + SOUND + END,
    "a size that is no number": extended(b"x", b"12 size=\xd9\xa3\n") + SOUND + END,
    "a size beyond all": extended(b"x", b"28 size=9999999999999999999\n") + SOUND + END,
    "a head that is none": plain(".pkgstore/archive/head.json", b"{}\n") + END,
    "a head of another format": plain(
        ".pkgstore/archive/head.json", b'{"base":null,"pkgstore-archive":2,"scope":"","store":"x"}\n'
    )
    + END,
    "a head without an end": plain(
        ".pkgstore/archive/head.json", b'{"base":null,"pkgstore-archive":1,"scope":"","store":"x"}'
    )
    + END,
    "a head that is too long": plain(".pkgstore/archive/head.json", b"[" * 100_000) + END,
    "a head that nests": plain(".pkgstore/archive/head.json", b"[" * 16_000 + b"\n") + END,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_corrupt(store: Store, name: str) -> None:
    data = BROKEN[name]
    for packed in (data, gzip.compress(data), zstd.compress(data)):
        with pytest.raises(pkgstore.Corrupt) as caught:
            restored(packed, store)
        assert str(caught.value).count("\n") == 0
    assert contents(store).items() <= {"a": b"body"}.items()


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_packed_archive_that_is_cut_or_changed(store: Store, ours: bytes, pack: Callable[[bytes], bytes]) -> None:
    data = pack(ours)
    for at in (3, 20, len(data) // 2, len(data) - 9, len(data) - 1):
        with pytest.raises(pkgstore.Corrupt):
            restored(data[:at], store)
    for at in (len(data) // 3, len(data) // 2):
        spoilt = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        with contextlib.suppress(pkgstore.Corrupt):
            restored(spoilt, store)
        assert contents(store).items() <= bodies(count=6).items()
    with pytest.raises(pkgstore.Corrupt):
        restored(data + b"junk", store)


def test_several_frames_are_one_stream(store: Store, ours: bytes) -> None:
    """As parallel tools write them."""
    half = len(ours) // 2
    for pack in (gzip.compress, zstd.compress):
        data = pack(ours[:half]) + pack(b"") * 1000 + pack(ours[half:])
        assert archive.verify(io.BytesIO(data)).blobs == 8
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"skip"
    assert restored(skippable + zstd.compress(ours), store).new == 8


@pytest.mark.parametrize(("magic", "name"), [(b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"PK\3\4", "zip")])
def test_other_packings_are_named(store: Store, magic: bytes, name: str) -> None:
    with pytest.raises(pkgstore.Misconfigured, match=name):
        restored(magic + bytes(600), store)


# -- bombs -------------------------------------------------------------------------------------------------------------


def bomb(level: int = 9, size: int = 96 << 20) -> bytes:
    """Return a blob of zeros, packed, that would be ``size`` bytes."""
    target = io.BytesIO()
    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=level) as file:
        file.write(member("zeros", size=size)[0].tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.write(END)
    return target.getvalue()


def test_bombs(store: Store) -> None:
    data = bomb()
    with_zstd = zstd.compress(gzip.decompress(data))
    for packed in (data, with_zstd):
        tracemalloc.start()
        try:
            with pytest.raises(pkgstore.Corrupt, match="200 times"):
                restored(packed, store)
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()
    for ratio in (float("nan"), -1, 0):
        with pytest.raises(pkgstore.Misconfigured, match="allow 1 or more"):
            archive.Limits(ratio=ratio)
    with pytest.raises(pkgstore.Corrupt, match="10,000,000 bytes"):
        restored(data, store, limits=archive.Limits(total=10_000_000))
    assert contents(store) == {}
    found = archive.verify(io.BytesIO(data), limits=archive.Limits(ratio=2000))
    assert (found.blobs, found.bytes) == (1, 96 << 20)


def test_a_bomb_in_an_extended_header(store: Store) -> None:
    """Of which Python's own reader takes three times its size into memory."""
    text = b"99999999 comment=" + b"a" * 99_999_980 + b"\n"
    data = gzip.compress(extended(b"x", text) + SOUND + END, 1)
    del text
    tracemalloc.start()
    try:
        with pytest.raises(pkgstore.Corrupt, match="extended headers"):
            restored(data, store)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


# -- our own, spoilt ---------------------------------------------------------------------------------------------------


def replaced(members: Tar, number: int, body: bytes | None = None, **fields: object) -> Tar:
    info, old = members[number]
    changed = copy.copy(info)
    for name, value in fields.items():
        setattr(changed, name, value)
    body = old if body is None else body
    changed.size = len(body)
    return [*members[:number], (changed, body), *members[number + 1 :]]


def spoilt_in_some_way(members: Tar) -> Iterator[tuple[str, Tar]]:
    last = len(members) - 1
    text = members[last][1]
    lines = text.splitlines(keepends=True)
    comment = members[2][0].pax_headers["comment"]
    yield "a blob left out", members[:2] + members[3:]
    yield "the last blob left out", members[: last - 1] + members[last:]
    yield "two blobs in each other's place", [*members[:2], members[3], members[2], *members[4:]]
    yield "a blob twice", [*members[:3], members[2], *members[3:]]
    yield "the manifest left out", members[:last]
    yield "the manifest too early", [*members[:3], members[last]]
    yield "something behind the manifest", [*members, member("evil", b"evil")]
    yield "a blob of nobody's", [*members[:3], member("evil", b"evil"), *members[3:]]
    yield "a link", [*members[:3], member("evil", type=tarfile.SYMTYPE, linkname="/etc"), *members[3:]]
    yield "a folder", [*members[:3], member("evil", type=tarfile.DIRTYPE), *members[3:]]
    yield "another name", replaced(members, 2, name="evil")
    yield "another size", replaced(members, 2, body=members[2][1] + b"x")
    yield "a line that is none", replaced(members, 2, pax_headers={"comment": "- {}"})
    yield "no line", replaced(members, 2, pax_headers={})
    yield "a line with spaces", replaced(members, 2, pax_headers={"comment": comment.replace(":", ": ")})
    yield "a line with more", replaced(members, 2, pax_headers={"comment": comment[:-1] + ',"z":""}'})
    yield "a line that nests", replaced(members, 2, pax_headers={"comment": "- " + "[" * 9000})
    yield "a line with a long number", replaced(members, 2, pax_headers={"comment": '- {"size":' + "9" * 9000 + "}"})
    yield "a manifest that is shorter", replaced(members, last, body=text[: len(text) // 2])
    yield "a manifest without its last line", replaced(members, last, body=b"".join(lines[:-1]))
    yield "a manifest with another last line", replaced(members, last, body=text.replace(b'"kept":0', b'"kept":1'))
    yield "a manifest with more behind", replaced(members, last, body=text + lines[-1])
    yield (
        "a manifest with a blob more",
        replaced(members, last, body=b"".join([*lines[:-1], lines[-2].replace(b'"key":"', b'"key":"zz'), lines[-1]])),
    )
    yield "a manifest with another blob", replaced(members, last, body=b"".join([*lines[:1], *lines[2:3], *lines[2:]]))
    yield "no end of a line", replaced(members, last, body=text[:-1])


def test_our_own_with_other_members(tmp_path: Path) -> None:
    blobs = {f"blob-{number}": bytes([number]) * 700 for number in range(5)}
    with pkgstore.open(tmp_path / "whole") as whole:
        fill(whole, blobs)
        members = taken_apart(exported(whole))
    assert archive.verify(io.BytesIO(put_together(members))).blobs == 5
    count = 0
    for what, changed in spoilt_in_some_way(members):
        count += 1
        with pkgstore.open(f"memory://{uuid.uuid4()}") as store:
            assert isinstance(outcome_of(put_together(changed), store), pkgstore.Corrupt), what
            assert contents(store).items() <= blobs.items(), what
            with pytest.raises(pkgstore.Corrupt):
                archive.verify(io.BytesIO(put_together(changed)))
    assert count == 25


def forged(
    *blobs: tuple[str, bytes],
    base: str | None = None,
    replaces: str | None = None,
    md5: str | None = None,
    more: bytes = b"",
    counted: tuple[int, int] = (0, 0),
) -> bytes:
    """Return an archive that is consistent in itself, of blobs that no exporter would put together so.

    ``more`` are lines of the manifest behind those of the blobs, and ``counted`` how many are kept and deleted.
    """
    head = manifest.Head("store", "", base).line()
    running, totals = manifest.Running(), manifest.Totals()
    running.add(head)
    text = head + b"\n"
    data = header(manifest.HEAD, len(text), "- ") + text + padding(len(text))
    for key, body in blobs:
        digests = {"sha256": hashlib.sha256(body).hexdigest()} | ({"md5": md5} if md5 else {})
        entry = manifest.Entry(key, len(body), digests, replaces)
        totals.count(entry)
        text += entry.line() + b"\n"
        data += header(key, len(body), f"- {entry.line().decode()}") + body + padding(len(body))
    totals.kept, totals.deleted = counted
    text += more + totals.line() + b"\n"
    data += header(manifest.MANIFEST, len(text), "- ") + text + padding(len(text))
    return data + ending(len(data))


def test_what_is_consistent_in_itself_is_not_trusted_for_that(store: Store) -> None:
    assert restored(forged(("a", b"1"), ("b", b"2")), store).new == 2
    for blobs in (
        [("c", b"3"), ("c", b"other")],
        [("c", b"3"), ("c", b"3")],
        [("c", b"3"), ("a", b"4")],
        [("c", b"3"), ("../d", b"4")],
        [("c", b"3"), (".pkgstore/store.json", b"{}")],
        [("c", b"3"), ("/etc/passwd", b"4")],
        [("c", b"3"), ("d/../../e", b"4")],
    ):
        data = forged(*blobs)
        with pytest.raises(pkgstore.Corrupt):
            restored(data, store)
        with pytest.raises(pkgstore.Corrupt):
            archive.verify(io.BytesIO(data))
        assert contents(store) == {"a": b"1", "b": b"2", "c": b"3"}


def test_there_is_one_way_to_write_a_line() -> None:
    digest = "0" * 64
    good = f'{{"key":"a","sha256":"{digest}","size":1}}'
    assert manifest.parsed(good.encode()) == manifest.Entry("a", 1, {"sha256": digest})
    for line in (
        good.replace('"key":"a"', '"key":"a","key":"a"'),
        good.replace('"key":"a"', '"deleted":"a","key":"a"'),
        good.replace('"a"', '"\\u0061"'),
        good.replace('"key":"a",', "").replace("}", ',"key":"a"}'),
        good.replace(":1}", ":1.0}"),
        good.replace(":1}", ":true}"),
        good.replace(":1}", ": 1}"),
        good.replace(digest, digest[:-1]),
        good.replace(digest, digest[:-1] + "A"),
        good.replace("sha256", "md5"),
        good.replace("}", ',"replaces":"x"}'),
        good.replace("}", ',"":""}'),
        good + " ",
        f"[{good}]",
        "null",
    ):
        with pytest.raises(ValueError, match="."):
            manifest.parsed(line.encode())


def test_a_manifest_that_lies_about_the_base(store: Store) -> None:
    """Lines after the blobs that no exporter writes."""
    blob, base = ("b", b"body"), "0" * 64
    good = b'{"deleted":"a","sha256":"' + b"0" * 64 + b'","size":1}\n'
    for more, deleted in (
        (good.replace(b'"a"', b'"../a"'), 1),
        (good + good, 2),
        (good.replace(b":1}", b":-1}"), 1),
        (good.replace(b"0000", b"gggg", 1), 1),
        (good.replace(b"deleted", b"removed"), 1),
        (good, 2),
        (b"\n", 0),
    ):
        with pytest.raises(pkgstore.Corrupt):
            restored(forged(blob, base=base, more=more, counted=(0, deleted)), store)
    assert restored(forged(blob, base=base, more=good, counted=(0, 1)), store).same == 1
    kept = good.replace(b"deleted", b"kept")
    assert restored(forged(blob, base=base, more=kept, counted=(1, 0)), store).missing == 1
    assert restored(forged(blob, base=base, replaces="1" * 64), store).same == 1
    for data, says in (
        (forged(blob, more=good, counted=(0, 1)), "there is none"),
        (forged(blob, more=kept, counted=(1, 0)), "there is none"),
        (forged(blob, replaces="1" * 64), "there is none"),
        (forged(blob, base=base, more=kept + good, counted=(1, 1)), "'a' twice"),
        (forged(blob, base=base, more=good.replace(b'"a"', b'"b"'), counted=(0, 1)), "'b' twice"),
        (forged(blob, base=base, more=kept.replace(b'"a"', b'"b"'), counted=(1, 0)), "'b' twice"),
        (forged(blob, base=base, more=kept.replace(b"sha256", b'replaces":"%b","sha256' % (b"1" * 64))), "malformed"),
    ):
        with pytest.raises(pkgstore.Corrupt, match=says):
            restored(data, store, apply_changes=True)
    assert contents(store) == {"b": b"body"}


def test_every_digest_of_the_manifest_is_looked_at(store: Store) -> None:
    for report in (
        archive.verify(io.BytesIO(forged(("a", b"1"), md5="0" * 32))),
        restored(forged(("a", b"1"), md5="0" * 32), store),
    ):
        assert report.damaged == 1
    assert contents(store) == {}


def test_a_blob_whose_bytes_are_others_is_told_and_the_others_are_restored(store: Store, ours: bytes) -> None:
    victim = "project-1/file-4-1.0-py3-none-any.whl"
    at = ours.index(bodies(count=6)[victim])
    data = ours[: at + 100] + bytes([ours[at + 100] ^ 1]) + ours[at + 101 :]
    for report in (restored(data, store), archive.verify(io.BytesIO(data))):
        assert report.damaged == 1
    assert contents(store) == {key: body for key, body in bodies(count=6).items() if key != victim}
    assert restored(ours, store).new == 1


@pytest.mark.timeout(3600 if INPUTS > 2_000 else 120)
def test_a_flipped_bit_is_seen_or_does_no_harm(tmp_path: Path) -> None:
    """At every kind of place: headers, extended headers, bodies, what fills them up, the manifest, the end."""
    blobs = {"a/one.whl": os.urandom(600), "a/two.whl": os.urandom(40), "b": b""}
    with pkgstore.open(f"memory://{uuid.uuid4()}") as whole:
        fill(whole, blobs)
        data = bytearray(exported(whole))
    seen = harmless = 0
    with pkgstore.open(f"memory://{uuid.uuid4()}") as store:
        for at in range(0, len(data), 1 if INPUTS > 2_000 else 5):
            data[at] ^= 1 << at % 8
            try:
                report = restored(bytes(data), store, jobs=1)
            except StoreError:
                seen += 1
            else:
                if report.damaged:
                    seen += 1
                else:
                    harmless += 1
                    assert contents(store) == blobs or report.has_manifest is False, at
            data[at] ^= 1 << at % 8
            assert contents(store).items() <= blobs.items() or at < 2048, at
            for key in contents(store):
                store.delete(key)
    assert seen > 2 * harmless / 3
    assert harmless


def record(name: str, value: str) -> bytes:
    """Return one record of an extended header."""
    text = f" {name}={value}\n".encode()
    length = len(text) + 1
    return b"%d%b" % (length if length < 10 else length + 1, text)


def spliced(data: bytes, before: int, more: bytes) -> bytes:
    """Return an archive with more blocks before the extended header of a member."""
    at = [start for start in range(0, len(data), 512) if data[start : start + 13] == b"././@PaxHeade"][before]
    return data[:at] + more + data[at:]


SPLICED = {
    "a name for all": extended(b"g", record("path", "evil")),
    "a size for all": extended(b"g", record("size", "0")),
    "a name before": extended(b"x", record("path", "evil")),
    "a long name": extended(b"L", b"evil\0"),
    "a long link": extended(b"K", b"evil\0"),
    "an attribute": extended(b"x", record("SCHILY.xattr.user.x", "1")),
    "nothing much": extended(b"g", b""),
}


@pytest.mark.parametrize("what", SPLICED)
def test_a_signed_archive_has_the_headers_that_were_written(store: Store, tmp_path: Path, what: str) -> None:
    """Others would have tar unpack something else, and the signature is of the manifest only."""
    folder = tmp_path / "place" / "store" / ".pkgstore"
    private, public = signing_keys(folder)
    with pkgstore.open(f"memory://{uuid.uuid4()}") as made:
        fill(made, bodies(count=6))
        data = exported(made, sign_key=private)
    assert archive.verify(io.BytesIO(data), verify_key=public).signature == "good"
    count = data.count(b"././@PaxHeader")
    assert count == 10
    for before in range(count):
        spoilt = spliced(data, before, SPLICED[what])
        renamed = before == 0 and what in ("a name before", "a long name")  # then it has no head
        refusal = pkgstore.Denied if renamed else pkgstore.Corrupt
        with pytest.raises(refusal, match="not (as pkgstore writes it|signed)"):
            restored(spoilt, store, verify_key=public)
        if not renamed:
            with pytest.raises(pkgstore.Corrupt, match="not as pkgstore writes it"):
                archive.verify(io.BytesIO(spoilt))


def test_no_byte_of_a_header_may_differ(tmp_path: Path) -> None:
    """Not those that the checksum covers, either, if it is made right again: modes, owners, times."""
    private, public = signing_keys(tmp_path)
    with pkgstore.open(f"memory://{uuid.uuid4()}") as whole:
        fill(whole, {"a": b"a" * 512, "d" * 120: b""})
        data = exported(whole, sign_key=private)
    headers, at = [], 0
    while data[at : at + 512] != bytes(512):
        length = (int(data[at + 124 : at + 135], 8) + 511) // 512 * 512
        headers += [(start, at) for start in range(at, at + 512 + (length if data[at + 156 : at + 157] == b"x" else 0))]
        at += 512 + length
    assert len(headers) > 8 * 512
    for place, block in headers:
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << place % 7
        for mended in (False, True):
            if mended and not block + 148 <= place < block + 156:
                checksummed(spoilt, block)
            failure = None
            try:
                archive.verify(io.BytesIO(spoilt), verify_key=public)
            except (pkgstore.Corrupt, pkgstore.Denied) as exc:
                failure = exc
            assert failure is not None, f"byte {place}, in the header at {block}"


def test_headers_are_the_same_in_every_python() -> None:
    """Archives of one are read by another, and compared with what it would write."""
    line = "- " + manifest.Entry("k", 1, {"sha256": "0" * 64}).line().decode()
    names = [("a", 1), ("d" * 90 + "/" + "f" * 90, 512), ("münchen/größe 1.0.tar.gz", 0), ("large", 9 << 30)]
    found = hashlib.sha256(b"".join(header(name, size, line) for name, size in names)).hexdigest()
    assert found == "ae9ebef8634d8b0783b1707d3bb6dbb9fc936dafee311a652ecec137cc3dc130"


# -- fuzzing -----------------------------------------------------------------------------------------------------------


def checksummed(data: bytearray, at: int) -> None:
    """Make the checksum of the block at ``at`` right, so that what was done to it is believed."""
    block = data[at : at + 512]
    if len(block) == 512:
        block[148:156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(block)


def a_bit(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    text[at] ^= 1 << chance.randrange(8)


def some_bytes(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    text[at : at + chance.randrange(1, 64)] = chance.randbytes(chance.randrange(64))


def cut(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    del text[at:]


def less(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    del text[at : at + chance.choice((1, 3, 512, 1024))]


def more(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    text[at:at] = chance.randbytes(chance.choice((1, 512)))


def blocks_again(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    block = at // 512 * 512
    text[block:block] = text[block : block + 512 * chance.randrange(1, 6)]


def blocks_of_another(chance: random.Random, text: bytearray, at: int, others: list[bytes]) -> None:
    block = at // 512 * 512
    text[block:block] = chance.choice(others)[: 512 * chance.randrange(1, 12)]


def kind(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    block = at // 512 * 512
    text[block + 156 : block + 157] = chance.choice((b"0", b"1", b"2", b"5", b"x", b"g", b"L", b"S", b"\0"))
    checksummed(text, block)


def size(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    block = at // 512 * 512
    field = chance.choice((b"77777777777\0", b"\x80" + bytes(7) + b"\xff" * 4, b"-1\0", b"\xff" * 12, bytes(12)))
    text[block + 124 : block + 124 + len(field)] = field
    checksummed(text, block)


def name(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    block = at // 512 * 512
    new = chance.choice((b"../../x", b"/x", b".pkgstore/store.json", b"\xff\xfe", b"nul", b"a" * 100))
    text[block : block + len(new)] = new
    checksummed(text, block)


def digits(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    block = at // 512 * 512
    places = [place for place in range(block, min(block + 512, len(text))) if 48 <= text[place] <= 57]
    for place in places[: chance.randrange(1, 20)]:
        text[place] = chance.choice(b"0123456789-e.")


def behind(chance: random.Random, text: bytearray, at: int, _: list[bytes]) -> None:
    text += chance.choice((bytes(512), bytes(10240), b"x", bytes(text[:1024])))


MUTATIONS = (
    a_bit,
    some_bytes,
    cut,
    less,
    more,
    blocks_again,
    blocks_of_another,
    kind,
    size,
    name,
    digits,
    behind,
)


def mutated(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Return ``data`` after something was done to it, once or several times."""
    text = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if text:
            chance.choice(MUTATIONS)(chance, text, chance.randrange(len(text)), others)
    return bytes(text)


@pytest.mark.timeout(3600 if INPUTS > 2_000 else 120)
def test_a_fuzzer(tmp_path: Path) -> None:
    """No input makes it fail in another way than those that are documented, or publishes what was not verified."""
    seed = int(os.environ.get("PKGSTORE_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PKGSTORE_SEED={seed}")
    chance = random.Random(seed)
    blobs = {key: body for key, body in bodies(count=6).items() if len(body) < 1000}
    private, public = signing_keys(tmp_path)
    key = sealing_key(tmp_path)
    with pkgstore.open(f"memory://{uuid.uuid4()}") as whole:
        fill(whole, blobs)
        unsigned = exported(whole)
        kinds: list[tuple[bytes, dict[str, object]]] = [
            (unsigned, {}),
            (exported(whole, sign_key=private), {"verify_key": public}),
            (exported(whole, encrypt_key=key), {"decrypt_key": key}),
            (exported(whole, format="tar.gz"), {}),
            (exported(whole, format="tar.zst"), {}),
            (put_together([member(name, body) for name, body in blobs.items()]), {}),
        ]
    others = [data for data, _ in kinds]
    # Without its head, an archive is somebody else's, of which nothing can be verified, unless a key is asked for.
    head = unsigned[: unsigned.index(b"PaxHeader", 1024) - 4]
    heads = [head, b"", b"", others[3][:16], others[4][:16], b""]
    raised = passed = 0
    with pkgstore.open(f"memory://{uuid.uuid4()}") as store:
        for number in range(INPUTS):
            which = chance.randrange(len(kinds))
            data, how = kinds[which]
            changed = mutated(chance, data, others)
            verified = which != len(kinds) - 1 and changed.startswith(heads[which])
            if which == 0 and chance.random() < 0.5:
                changed = zstd.compress(changed)
            failure = outcome_of(changed, store, limits=archive.Limits(total=1 << 20), jobs=1, **how)
            assert failure is None or isinstance(failure, StoreError), f"PKGSTORE_SEED={seed}, input {number}"
            assert "\n" not in str(failure)
            raised, passed = raised + (failure is not None), passed + (failure is None)
            shown = contents(store)
            assert not verified or shown.items() <= blobs.items(), f"PKGSTORE_SEED={seed}, input {number}"
            for each in shown:
                assert pkgstore.keys.is_valid(each)
                store.delete(each)
    assert min(raised, passed) > INPUTS // 50


def outcome_of(data: bytes, store: Store, **how: object) -> Exception | None:
    """Return what a restore raises, if anything."""
    try:
        restored(data, store, **how)
    except Exception as exc:  # noqa: BLE001 - judged by the caller
        return exc
    return None
