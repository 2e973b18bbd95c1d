"""The S3 driver against the conformance kit, on real servers."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.s3_medium import S3Conformance, servers

__all__ = ["servers"]


@pytest.mark.xdist_group("ministack")
class TestMinistack(S3Conformance):
    """Where the completion of multipart uploads is exclusive too: large bodies go up in parts."""

    server = "ministack"


@pytest.mark.xdist_group("seaweedfs")
class TestSeaweedFS(S3Conformance):
    """A distributed store, whose completions race: large bodies go up by one PUT."""

    server = "seaweedfs"
    keeps_folders = True


@pytest.mark.xdist_group("ceph")
class TestCeph(S3Conformance):
    """What many providers run. It ignores conditions on completions and deletes."""

    server = "ceph"


@pytest.mark.xdist_group("moto")
class TestMoto(S3Conformance):
    """A simulation. It judges conditions apart from writes, so that racing writers can both win: most often those of
    large bodies, on a busy machine those of small ones too."""

    server = "moto"
    keeps_apart = False
    options: ClassVar[dict[str, str]] = {"single_writer": "true"}
    stepwise = 300_000
