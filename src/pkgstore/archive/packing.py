"""Compression: zstd and gzip, of streams, in bounded memory, also where the stream is hostile."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal, Protocol

from pkgstore.errors import Corrupt, Misconfigured
from pkgstore.extras import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Format = Literal["tar", "tar.gz", "tar.zst"]

SUFFIXES: dict[str, Format] = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".tar.zst": "tar.zst"}
FORMATS: tuple[Format, ...] = ("tar.zst", "tar.gz", "tar")

_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60)))
_GZIP = b"\x1f\x8b"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
LONGEST_MAGIC = 6

_LEVEL = 3
_WORKERS = 2
_JOB = 1 << 20
_WINDOW_LOG = 27  # what the zstd command takes unasked
_AT_ONCE = 1 << 20
_FIRST_STEP = 1 << 12
_GRACE = 64 << 20


def format_of(name: str) -> Format:
    """Return the format that the name of a file asks for. Raises `Misconfigured`."""
    for suffix, form in SUFFIXES.items():
        if name.endswith(suffix):
            return form
    raise Misconfigured(
        f"{name} does not say which format it is to have: end it with {', '.join(SUFFIXES)}, or give one"
    )


def packed(chunks: Iterable[bytes], form: Format) -> Iterator[bytes]:
    """Yield what ``chunks`` yield, in this format."""
    if form == "tar":
        yield from chunks
        return
    encoder = zlib.compressobj(wbits=31) if form == "tar.gz" else _zstd_encoder()
    for chunk in chunks:
        data = encoder.compress(chunk)
        if data:
            yield data
    yield encoder.flush()


def unpacked(chunks: Iterable[bytes], first: bytes, ratio: float, total: int | None) -> Iterator[bytes]:
    """Yield what ``chunks`` hold, which begin with ``first``, at most a MiB at a time.

    Raises `Corrupt`, also when more than ``total`` bytes come out, or more than ``ratio`` for each that went in.
    """
    for magic, name in _OTHERS.items():
        if first.startswith(magic):
            raise Misconfigured(f"the archive is packed with {name}: unpack it, and give the tar file")
    taken = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks:
            taken += len(chunk)
            yield chunk

    if first.startswith(_ZSTD):
        data = _frames(counted(), _zstd_decoder, "zstd")
    elif first.startswith(_GZIP):
        data = _frames(counted(), _Gunzip, "gzip")
    else:
        data = counted()
    given = 0
    for piece in data:
        given += len(piece)
        if total is not None and given > total:
            raise Corrupt(
                f"the archive holds more than the {total:,} bytes that are allowed: raise the limit, or refuse it"
            )
        if given > _GRACE and given > ratio * taken:
            raise Corrupt(
                f"the archive unpacks to more than {ratio:g} times its size, as bombs do: allow more if you trust it"
            )
        yield piece


class _Encoder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Decoder(Protocol):
    """One frame of zstd, or one member of gzip. Keeps what it was given and has not used, while it is in the frame."""

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def _frames(chunks: Iterable[bytes], new: Callable[[], _Decoder], name: str) -> Iterator[bytes]:
    decoder: _Decoder | None = None
    step = _FIRST_STEP
    try:
        for chunk in chunks:
            view, at = memoryview(chunk), 0
            while at < len(view) or (decoder is not None and not decoder.needs_input):
                if decoder is None:
                    # What lies behind the end of a frame is copied: little, so that many small ones cost no more.
                    decoder, step = new(), _FIRST_STEP
                piece = view[at : at + step] if decoder.needs_input else view[:0]
                at += len(piece)
                step = min(2 * step, _AT_ONCE)
                data = decoder.decompress(piece, _AT_ONCE)
                if decoder.eof:
                    at -= len(decoder.unused_data)
                    decoder = None
                if data:
                    yield data
    except _errors(name) as exc:
        reason = " ".join(str(exc).split()).rstrip(".")
        raise Corrupt(f"the archive is damaged: {name} says {reason!r}; take another copy") from None
    if decoder is not None:
        raise Corrupt(f"the archive is cut short: its {name} stream has no end; take another copy")


class _Gunzip:
    """`zlib.decompressobj`, with the manners of a decoder of zstd."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self._is_full = False

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._is_full = len(found) == max_length
        return found

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._is_full and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _zstd_encoder() -> _Encoder:
    module = zstd()
    name = module.CompressionParameter
    encoder: _Encoder = module.ZstdCompressor(
        options={
            name.compression_level: _LEVEL,
            name.checksum_flag: 1,
            name.nb_workers: _WORKERS,
            name.job_size: _JOB,
        }
    )
    return encoder


def _zstd_decoder() -> _Decoder:
    module = zstd()
    decoder: _Decoder = module.ZstdDecompressor(options={module.DecompressionParameter.window_log_max: _WINDOW_LOG})
    return decoder


def _errors(name: str) -> type[Exception]:
    error: type[Exception] = zlib.error if name == "gzip" else zstd().ZstdError
    return error
