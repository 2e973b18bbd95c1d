"""The archives of bundles: what goes in comes out, always the same, and what an enemy made does no harm."""

from __future__ import annotations

import io
import os
import random
import shutil
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from pkgstore import extras
from pkgstore.bundle import archives
from pkgstore.bundle.archives import EPOCH, TooLarge, pack, unpack
from pkgstore.errors import Corrupt, Misconfigured
from pkgstore.testing.processes import Talk, Worker, workers
from tests.servers import peak_memory
from tests.trees import told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MiB = 1 << 20
LIMIT = 64 * MiB
SEED = os.environ.get("PKGSTORE_SEED") or str(random.randrange(1 << 32))


def zstd() -> Any:
    return extras.zstd()


def no_tick() -> None:
    pass


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with all that there can be in one."""
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a" / "module.py").write_text("VALUE = 1\n")
    (root / "a.txt").write_bytes(b"")
    (root / "a" / "b" / "block").write_bytes(bytes(512))
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "a" / "b" / "up").symlink_to("../../run")
    (root / "down").symlink_to("a/b/block")
    (root / "nowhere").symlink_to("missing")
    (root / ("n" * 200)).write_text("long")
    (root / "a" / ("l" * 150)).symlink_to("b/" + "m" * 150)
    (root / "été").write_text("not ascii")
    (root / os.fsdecode(b"not utf-8 \xff")).write_text("neither")
    return root


def packed(tree: Path, limit: int = LIMIT) -> bytes:
    file = io.BytesIO()
    pack(str(tree), file, limit)
    return file.getvalue()


def unpacked(data: bytes, folder: Path, limit: int = LIMIT) -> Path:
    folder.mkdir()
    unpack(io.BytesIO(data), str(folder), limit, no_tick)
    return folder


def settled(tree: Path) -> dict[str, object]:
    """Return what a directory is to be like when it comes out of an archive."""
    found = told(tree)
    return {name: (*value[:2], float(EPOCH)) if isinstance(value, tuple) else value for name, value in found.items()}


# -- what goes in comes out -------------------------------------------------------------------------------------------


def test_a_directory_comes_out_as_it_went_in(tree: Path, tmp_path: Path) -> None:
    assert told(unpacked(packed(tree), tmp_path / "out")) == settled(tree)


def test_the_same_directory_has_the_same_archive(tree: Path, tmp_path: Path) -> None:
    first = packed(tree)
    for path in tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (tree / "run").chmod(0o700)
    copy = unpacked(first, tmp_path / "copy")
    (copy / "later").mkdir()  # which changes the order in which the file system lists
    (copy / "later").rmdir()
    assert packed(tree) == packed(copy) == first


def test_every_tar_reads_it(tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(zstd().decompress(packed(tree)))) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names)) == len(told(tree))


def test_modes_are_those_that_the_umask_gives(tree: Path, tmp_path: Path) -> None:
    data = packed(tree)
    before = os.umask(0o077)
    try:
        out = unpacked(data, tmp_path / "out")
    finally:
        os.umask(before)
    assert {oct(path.lstat().st_mode & 0o777) for path in out.rglob("*") if not path.is_symlink()} == {"0o700", "0o600"}


def test_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert told(unpacked(packed(tmp_path / "empty"), tmp_path / "out")) == {}


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", "a/..", "../../x", "."])
def test_links_that_could_lead_outside_are_not_packed(tmp_path: Path, target: str) -> None:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(target)
    if target == ".":
        packed(tmp_path / "tree")
        return
    with pytest.raises(Misconfigured, match="the build made a link 'link' to"):
        packed(tmp_path / "tree")


def test_pipes_are_not_packed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Misconfigured, match="a pipe or a device"):
        packed(tmp_path)


def test_a_file_that_shrinks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    real = tarfile.TarInfo.tobuf

    def tobuf(info: tarfile.TarInfo, *args: Any) -> bytes:
        os.truncate(tmp_path / "file", 10)
        return real(info, *args)

    monkeypatch.setattr(tarfile.TarInfo, "tobuf", tobuf)
    with pytest.raises(OSError, match="became shorter"):
        packed(tmp_path)


def test_the_limit_is_of_what_is_packed_and_of_what_comes_out(tmp_path: Path) -> None:
    (tmp_path / "zeros").mkdir()
    (tmp_path / "noise").mkdir()
    (tmp_path / "zeros" / "file").write_bytes(bytes(MiB))
    (tmp_path / "noise" / "file").write_bytes(random.Random(SEED).randbytes(MiB))
    whole = MiB + 3 * 512
    for name in ("zeros", "noise"):
        with pytest.raises(TooLarge):
            packed(tmp_path / name, whole - 1)
    data = packed(tmp_path / "zeros", whole)
    assert len(data) < 2000
    unpacked(data, tmp_path / "out", whole)
    with pytest.raises(TooLarge):
        unpacked(data, tmp_path / "too large", whole - 1)
    written = sum(path.stat().st_size for path in (tmp_path / "too large").iterdir())
    assert written <= whole


def turn_over(talk: Talk, folder: str) -> int:
    """Pack a large directory, and unpack it again; return by how much the memory of this process grew at most."""
    before = peak_memory(os.getpid())
    with open(f"{folder}/archive", "wb") as file:
        pack(f"{folder}/large", file, 1 << 30)
    os.mkdir(f"{folder}/out")
    with open(f"{folder}/archive", "rb") as file:
        unpack(file, f"{folder}/out", 1 << 30, no_tick)
    return peak_memory(os.getpid()) - before


def test_memory_is_constant(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "file").touch()
    os.truncate(tmp_path / "large" / "file", 256 * MiB)
    for number in range(3000):
        (tmp_path / "large" / f"{number}").touch()
    with workers(1) as (worker,):
        assert isinstance(worker, Worker)
        assert worker.run(turn_over, str(tmp_path)) < 32 * MiB
    assert (tmp_path / "out" / "file").stat().st_size == 256 * MiB


# -- what an enemy made -----------------------------------------------------------------------------------------------


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> bytes:
    """Return one entry of an archive, as raw bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def folder(name: str) -> bytes:
    return entry(name, tarfile.DIRTYPE)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return entry(name, kind, linkname=target)


def pax(**fields: str) -> bytes:
    info = tarfile.TarInfo("x")
    info.pax_headers = fields
    return info.tobuf(tarfile.PAX_FORMAT)


END = bytes(1024)
HOSTILE = {
    "up": entry("../out-of-it", data=b"x"),
    "up within": folder("a") + entry("a/../../out-of-it", data=b"x"),
    "absolute": entry("/tmp/out-of-it", data=b"x"),
    "dot": entry("./x", data=b"x"),
    "itself": folder("."),
    "no name": entry("", data=b"x"),
    "empty step": folder("a") + entry("a//x", data=b"x"),
    "no folder": entry("a/x", data=b"x"),
    "folder left": folder("a") + folder("b") + entry("a/x", data=b"x"),
    "file as folder": entry("a", data=b"x") + entry("a/x", data=b"x"),
    "twice": entry("a", data=b"1") + entry("a", data=b"2"),
    "not sorted": entry("b") + entry("a"),
    "folder twice": folder("a") + folder("a"),
    "link outside": link("a", "../out-of-it"),
    "absolute link": link("a", "/etc/passwd"),
    "empty link": link("a", ""),
    "link down and up": folder("d") + link("a", "d/../../out-of-it"),
    "through a link": link("a", ".") + entry("a/x", data=b"x"),
    "over a link": link("a", "b") + entry("a", data=b"x"),
    "folder over a link": folder("d") + link("a", "d") + folder("a") + entry("a/x", data=b"x"),
    "hard link": entry("b", data=b"x") + link("a", "b", tarfile.LNKTYPE),
    "hard link outside": link("a", "/etc/passwd", tarfile.LNKTYPE),
    "device": entry("a", tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": entry("a", tarfile.BLKTYPE),
    "pipe": entry("a", tarfile.FIFOTYPE),
    "sparse": entry("a", tarfile.GNUTYPE_SPARSE, data=bytes(512)),
    "contiguous": entry("a", tarfile.CONTTYPE, data=b"x"),
    "old file": entry("a", tarfile.AREGTYPE, data=b"x"),
    "pax": pax(path="../out-of-it"),
    "global pax": entry("a", tarfile.XGLTYPE, data=b"18 path=../outside\n"),
    "long name outside": entry("../" * 60 + "x", data=b"x"),
    "huge long name": entry("a", tarfile.GNUTYPE_LONGNAME, size=1 << 40),
    "negative long name": entry("a", tarfile.GNUTYPE_LONGNAME, size=-1),
    "negative size": entry("a", size=-512),
    "long names without end": entry("a", tarfile.GNUTYPE_LONGNAME, data=b"x\0") * 2,
    "name too long": entry("n" * 300, data=b"x"),
    "checksum": folder("a").replace(b"a", b"b", 1),
    "no header": b"x" * 512,
    "cut short": entry("a", data=b"x" * 1000)[:-600],
    "more than it has": entry("a", size=1 << 30),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_corrupt_and_writes_nothing_outside(kind: str, tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    # Whatever went before it is not enough for it to be whole.
    data = zstd().compress(HOSTILE[kind] + END)
    with pytest.raises(Corrupt, match="the archive is damaged, or none of a bundle: ") as caught:
        unpack(io.BytesIO(data), str(inside), LIMIT, no_tick)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if inside not in path.parents] == [
        tmp_path / "a",
        tmp_path / "a" / "b",
        inside,
    ]


STRANGE = {
    "nothing": b"",
    "no zstd": b"PK\x03\x04" + bytes(100),
    "no tar": zstd().compress(b"hello" * 1000),
    "no end": zstd().compress(entry("a", data=b"x")),
    "half an end": zstd().compress(entry("a", data=b"x") + bytes(100)),
    "more behind it": zstd().compress(entry("a", data=b"x") + END + b"more"),
    "a dictionary": b"\x28\xb5\x2f\xfd\x23\x01\x00\x00\x00\x05" + bytes(20),
    "a huge window": b"\x28\xb5\x2f\xfd\x04\xf8" + b"\x01\x00\x00" + bytes(4),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_archive_is_corrupt(kind: str, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="the archive is damaged, or none of a bundle: "):
        unpacked(STRANGE[kind], tmp_path / "out")


def test_a_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    compressor = zstd().ZstdCompressor()
    parts = [compressor.compress(entry("bomb", size=1 << 40))]
    parts += [compressor.compress(bytes(16 * MiB)) for _ in range(8)]
    data = b"".join([*parts, compressor.flush()])
    assert len(data) < 100_000
    with pytest.raises(TooLarge):
        unpacked(data, tmp_path / "out", MiB)
    assert (tmp_path / "out" / "bomb").stat().st_size <= MiB


def test_many_small_ones_stop_at_the_limit_too(tmp_path: Path) -> None:
    data = zstd().compress(b"".join(entry(f"{number:05}") for number in range(3000)) + END)
    with pytest.raises(TooLarge):
        unpacked(data, tmp_path / "out", MiB)
    assert len(list((tmp_path / "out").iterdir())) <= MiB // 512


def test_what_is_cut_short_or_has_a_bit_changed_is_never_taken_for_another(tree: Path, tmp_path: Path) -> None:
    print(f"PKGSTORE_SEED={SEED}")
    chance = random.Random(SEED)
    whole = packed(tree)
    expected = settled(tree)

    def outcome(data: bytes, name: str) -> object:
        try:
            return told(unpacked(data, tmp_path / name))
        except (Corrupt, TooLarge):
            return None

    for stop in [0, 1, 3, 4, 8, len(whole) - 1, len(whole) - 4, *chance.sample(range(len(whole)), 60)]:
        assert outcome(whole[:stop], f"cut-{stop}-{chance.random()}") is None, f"cut at {stop}"
    for place in [*range(12), *range(len(whole) - 6, len(whole)), *chance.sample(range(len(whole)), 150)]:
        bit = 1 << chance.randrange(8)
        data = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
        assert outcome(data, f"bit-{place}-{chance.random()}") in (None, expected), f"bit {bit} of byte {place}"


FIELDS = [(0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)]
NAMES = [b"..", b"../x", b"/etc/x", b"a/../..", b".", b"", b"\xff\xfe", b"a\0b", b"a//b", b"a/x/y"]


def spoilt(chance: random.Random, whole: bytes) -> bytes:
    """Return an archive of which headers were changed, with sums that are right again; some are damaged otherwise."""
    data = bytearray(whole)
    for _ in range(chance.randrange(1, 4)):
        at = 512 * chance.randrange(len(data) // 512)
        kind = chance.randrange(4)
        offset, size = chance.choice(FIELDS)
        if kind == 0:
            data[at + offset : at + offset + size] = chance.randbytes(size)
        elif kind == 1:
            data[at + chance.randrange(512)] = chance.randrange(256)
        elif kind == 2:
            offset = chance.choice([0, 157])
            data[at + offset : at + offset + 100] = chance.choice(NAMES).ljust(100, b"\0")
        else:
            data[at + 156] = chance.choice(b"0123456789LKSxgN\0V")
        data[at + 148 : at + 156] = b"%06o\0 " % (256 + sum(data[at : at + 148]) + sum(data[at + 156 : at + 512]))
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    packed = bytearray(zstd().compress(bytes(data)))
    if chance.random() < 0.1:
        packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
    return bytes(packed)


def test_whatever_is_in_it_nothing_gets_outside(tmp_path: Path) -> None:
    print(f"PKGSTORE_SEED={SEED}")
    chance = random.Random(SEED)
    whole = folder("a") + entry("a/x", data=b"x" * 700) + link("a/z", "../b") + entry("b" * 150, data=b"y")
    whole += folder("c") + entry("c/run", data=b"1", mode=0o755) + END
    outcomes = set()
    for number in range(int(os.environ.get("PKGSTORE_INPUTS", "1500"))):
        inside = tmp_path / "deep" / "in"
        inside.mkdir(parents=True)
        try:
            unpack(io.BytesIO(spoilt(chance, whole)), str(inside), 4 * MiB, no_tick)
            outcomes.add("taken")
        except (Corrupt, TooLarge) as exc:
            outcomes.add(type(exc).__name__)
        assert (os.listdir(tmp_path), os.listdir(tmp_path / "deep")) == (["deep"], ["in"]), number
        for path in inside.rglob("*"):
            assert not path.is_symlink() or path.resolve().is_relative_to(inside), (number, path)
        shutil.rmtree(tmp_path / "deep")
    assert {"taken", "Corrupt"} <= outcomes


def test_what_this_host_cannot_hold_is_no_fault_of_the_archive(tree: Path, tmp_path: Path) -> None:
    """As names that its file system takes for one, or a path that becomes too long below another dest."""
    data = packed(tree)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run").touch()
    with pytest.raises(FileExistsError):
        unpack(io.BytesIO(data), str(tmp_path / "out"), LIMIT, no_tick)


# -- mutants ----------------------------------------------------------------------------------------------------------


def no_links_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_leads_outside", lambda name, target: False)


def dots_are_looked_at_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """As most do who look only at the path that the words spell."""

    def leads_outside(name: str, target: str) -> bool:
        return os.path.normpath(os.path.join(os.path.dirname(name), target)).startswith(("..", "/"))

    monkeypatch.setattr(archives, "_leads_outside", leads_outside)


@pytest.mark.parametrize("mutant", [no_links_are_looked_at, dots_are_looked_at_as_text])
def test_without_the_rule_for_links_one_leads_outside(
    mutant: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = zstd().compress(link("a", ".") + link("b", "a/..") + END)
    with pytest.raises(Corrupt):
        unpacked(data, tmp_path / "out")
    mutant(monkeypatch)
    assert (unpacked(data, tmp_path / "mutant") / "b").resolve() == tmp_path


def test_without_the_package_it_says_which_extra_has_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.delattr("backports.zstd", raising=False)
    with pytest.raises(Misconfigured, match=r"pip install 'pkgstore\[archive\]'"):
        packed(tree)
