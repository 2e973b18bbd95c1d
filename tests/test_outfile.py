"""Files of the user's own: whole and durable under their name, or not there, also where a thread writes them."""

from __future__ import annotations

import errno
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from pkgstore.outfile import write_all, written
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def is_no_thread_left() -> bool:
    return not any(thread.name.startswith("pkgstore") for thread in threading.enumerate())


@pytest.mark.parametrize("size", [0, 1, 4 * MIB, 4 * MIB + 1, 20 * MIB + 7])
def test_what_is_written_is_there(tmp_path: Path, size: int) -> None:
    """Also when the bytes come in pieces of any length, in a buffer that is used again at once."""
    chance = random.Random(size)
    body = chance.randbytes(size)
    buffer = bytearray(2 * MIB)
    with written(tmp_path / "file", replace=False) as file:
        at = 0
        while at < size:
            piece = body[at : at + chance.randrange(1, len(buffer))]
            buffer[: len(piece)] = piece
            write_all(file, memoryview(buffer)[: len(piece)])
            buffer[:] = bytes(len(buffer))
            at += len(piece)
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == body
    assert os.listdir(tmp_path) == ["file"]
    assert is_no_thread_left()


def test_a_medium_that_is_full(tmp_path: Path) -> None:
    with needs.mounted("tmpfs", tmp_path / "small", "size=12m") as folder:
        with pytest.raises(OSError) as found, written(folder / "file", replace=False) as file:  # noqa: PT011, PT012
            for _ in range(64):
                write_all(file, bytes(MIB))
        assert found.value.errno == errno.ENOSPC
        assert os.listdir(folder) == []
        assert is_no_thread_left()


def test_a_failure_that_only_the_last_write_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the block, whose writes are over by then, knows nothing."""
    (tmp_path / "file").write_bytes(b"old")

    def fails(_: int, start: int, __: int) -> None:
        if start:  # with the sixteenth MiB
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("pkgstore.drivers.posix.start_writing_back", fails)
    text = os.strerror(errno.EIO)
    with pytest.raises(OSError, match=text), written(tmp_path / "file", replace=True) as file:  # noqa: PT012
        for _ in range(16):
            write_all(file, bytes(MIB))
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), written(tmp_path / "file", replace=False) as file:  # noqa: PT012
        for _ in range(12):
            write_all(file, bytes(MIB))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    assert is_no_thread_left()
