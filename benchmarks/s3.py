"""Blobs in a bucket, against other clients of S3, at a stand-in endpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from measure import Row, Sample, duration, take_turns, workers
from settings import GIB, KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from measure import Worker
    from settings import Settings

ENDPOINT = (
    "a stand-in, `benchmarks/s3_endpoint.py`: one Python process on loopback, on the cores that its clients have too;"
    " it keeps what it is sent in memory, and checks no signatures, nor checksums of what is large"
)

_ENDPOINT = Path(__file__).with_name("s3_endpoint.py")
_SMALL = KIB
_LARGE = 64 * MIB
_PER_TURN = 100
_THREADS = 16
_LISTINGS = 5
_CACHED_SIZES = {MIB: 20, 16 * MIB: 5}

OURS, CACHED = "s3-pkgstore", "s3-pkgstore-cached"
"""Our sides: the second has a cache and a catalog, in its folder."""

_FLOOR = "s3-floor"
_NAMES = {
    "s3-obstore": "obstore",
    "s3-boto3": "boto3",
    "s3-boto3-transfer": "boto3's transfer manager",
    "s3-s3fs": "s3fs",
}
_PUT = "overwrites"
_GET = "nothing is verified"


def small(settings: Settings) -> Iterator[Row]:
    """Publish and read 1 KiB at a time, and read it from many threads."""
    sides = _sides(settings, "s3-obstore", "s3-boto3", "s3-s3fs", _FLOOR)
    with _started(settings, sides) as started:
        puts, gets = (
            take_turns(
                {name: partial(worker, do, size=_SMALL, count=_PER_TURN) for name, worker in started.items()},
                settings.rounds,
            )
            for do in ("publish", "read")
        )
        threads = take_turns(
            {
                name: partial(worker, "read_in_threads", size=_SMALL, count=_PER_TURN // 4, threads=_THREADS)
                for name, worker in started.items()
                if name != "s3-s3fs"
            },
            settings.rounds,
        )
    yield from _rows("S3: publish 1 KiB", puts, {}, _PUT, "s3-publish-small")
    yield from _rows("S3: read 1 KiB", gets, {"s3-boto3": 3, "s3-obstore": 0.4}, _GET, "s3-read-small")
    what = f"S3: read 1 KiB, {_THREADS} threads of one process"
    yield from _rows(what, threads, {"s3-boto3": 3}, _GET, "s3-read-threads")


def large(settings: Settings) -> Iterator[Row]:
    """Publish and read 64 MiB at a time. What was published is removed, untimed, before the next."""
    with _started(settings, _sides(settings, *_NAMES, _FLOOR)) as started:
        puts = take_turns(
            {name: partial(worker, "publish", size=_LARGE, count=1, drop=True) for name, worker in started.items()},
            settings.big_rounds,
        )
        gets = take_turns(
            {name: partial(worker, "read", size=_LARGE, count=1) for name, worker in started.items()},
            settings.big_rounds,
        )
    for what, samples, note, plot in (
        ("publish", puts, _PUT, "s3-publish-large"),
        ("read", gets, _GET, "s3-read-large"),
    ):
        peers = [name for name in samples if name in _NAMES]
        best = min(peers, key=lambda name: samples[name].median, default=_FLOOR)
        yield from _rows(f"S3: {what} 64 MiB", samples, {best: 1.0} if peers else {}, note, plot)


def listing(settings: Settings) -> Iterator[Row]:
    """List a bucket."""
    count = settings.listed
    with _started(settings, _sides(settings, "s3-obstore", "s3-boto3", _FLOOR), listed=count) as started:
        samples = take_turns(
            {name: partial(worker, "list", prefix="listed/", count=count) for name, worker in started.items()},
            min(_LISTINGS, settings.big_rounds),
        )
    targets = {"s3-boto3": 5.0, "s3-obstore": 1 / 3, _FLOOR: 0.5}
    yield from _rows(
        f"S3: list {count:,} keys", samples, targets, "", "s3-list", "ElementTree, no dates: twice its time is allowed"
    )


def cache(settings: Settings) -> Iterator[Row]:
    """Read through a cache that has the blob, against a plain file: the same one, as how it lies in memory matters."""
    apart = replace(settings, folder=settings.folder / "cached")
    with _started(apart, dict.fromkeys((CACHED, "floor"), settings.python)) as started:
        ours, floor = started[CACHED], started["floor"]
        for size, count in _CACHED_SIZES.items():
            ours("read", size=size, count=1)
            (entry,) = [each for each in (ours.folder / "cache/sha256").glob("*/*") if each.stat().st_size == size]
            os.link(entry, floor.folder / f"read/{size}.whl")
            asked = {"stat": partial(ours, "stat_one", size=size, count=count)}
            for do in ("read", "path"):
                asked[f"our {do}"] = partial(ours, do, size=size, count=count)
                asked[f"plain {do}"] = partial(floor, do, size=size, count=count)
            samples = take_turns(asked, settings.rounds)
            head = f"of which a HEAD of the endpoint, as `stat`: {duration(samples['stat'].median)}"
            for do, what, against in (
                ("read", f"read {size // KIB} KiB, verified", "open + read + SHA-256"),
                ("path", f"`local_path` + read {size // KIB} KiB", "open + read"),
            ):
                mine, plain = samples[f"our {do}"], samples[f"plain {do}"]
                yield Row(f"S3, cache hit: {what}", mine, f"a plain file: {against}", plain, note=head)


def memory(settings: Settings) -> Iterator[Row]:
    """Publish a stream of 1 GiB, or of 5 with ``--full``, and read it; the endpoint keeps it in the run's folder."""
    size = settings.huge_in_bucket
    free = shutil.disk_usage(settings.folder).free
    if free < 2 * size + 2 * GIB:  # the endpoint's copy, and the one that pkgstore makes of a stream to know its digest
        raise OSError(f"{settings.folder} has {free / GIB:.1f} GiB free: this needs {2 * size / GIB + 2:.1f}")
    with endpoint(settings.folder, 0) as url:
        for do, what, arguments in (("peak_of_publish", "publish", {"size": size}), ("peak_of_read", "read", {})):
            with workers(settings.folder, {OURS: settings.python}, env=environment(settings, url)) as sides:
                peak = Sample(sides[OURS][0](do, **arguments))
            yield Row(
                f"S3: peak memory above idle: {what} {size / GIB:.3g} GiB",
                peak,
                at_most=128,
                unit="MiB",
                figure=peak.median / MIB,
                shown=lambda value: f"{value / MIB:.1f} MiB",
            )


def _rows(
    what: str,
    samples: Mapping[str, Sample],
    targets: Mapping[str, float],
    note: str,
    plot: str,
    of_floor: str = "signed by hand, one socket; only the digest is computed",
) -> Iterator[Row]:
    for name, sample in samples.items():
        if name == OURS:
            continue
        against = "smallest program" if name == _FLOOR else _NAMES[name]
        remark = of_floor if name == _FLOOR else note
        yield Row(what, samples[OURS], against, sample, at_least=targets.get(name), note=remark, plot=plot)


def _sides(settings: Settings, *others: str) -> dict[str, str]:
    sides = {OURS: settings.python}
    for name in others:
        if name == _FLOOR:
            sides[name] = settings.python
        elif settings.peers is not None:
            sides[name] = str(settings.peers)
    return sides


@contextlib.contextmanager
def _started(settings: Settings, sides: Mapping[str, str], listed: int = 0) -> Iterator[dict[str, Worker]]:
    """Start an endpoint that keeps everything in memory, and a worker for each side."""
    with (
        tempfile.TemporaryDirectory(dir=in_memory()) as folder,
        endpoint(Path(folder), listed) as url,
        workers(settings.folder, sides, env=environment(settings, url)) as started,
    ):
        yield {name: worker for name, (worker,) in started.items()}


def environment(settings: Settings, url: str) -> dict[str, str]:
    """Return what AWS's tools need to find the endpoint, and nothing of this machine's own."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "of-no-use",
        "AWS_SECRET_ACCESS_KEY": "of-no-use-either",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "TMPDIR": str(settings.folder),
    }


def in_memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def endpoint(folder: Path, listed: int) -> Iterator[str]:
    """Serve S3 until the block ends; yield the endpoint's URL."""
    command = [sys.executable, str(_ENDPOINT), str(folder), str(listed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the S3 endpoint ended with {process.wait()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
