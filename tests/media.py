"""Several media at once, for what is done between two stores: fresh stores on each, and how to damage a blob there."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace as copy_with
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import pkgstore
from pkgstore.drivers import memory
from tests import gcs_servers
from tests.s3_medium import BUCKET, servers
from tests.smb_medium import fresh, smb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gcs_servers import GCS
    from tests.s3_medium import Servers
    from tests.smb_server import SMBServer

__all__ = ["MEDIA", "Media", "gcs", "media", "servers", "smb"]

MEDIA = ["memory", "local", "s3", "gcs", "smb"]
SERVER = "ministack"

_numbers = itertools.count(1)


class Media:
    """What a test needs of the media; a server is started when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder

    def url(self, medium: str) -> str:
        """Return the URL of a new store, which is there."""
        if medium == "s3":
            return self._s3.store(SERVER)
        url = self.new(medium)
        pkgstore.open(url).close()
        return url

    def new(self, medium: str) -> str:
        """Return a URL for a new store, which is not there yet."""
        if medium == "memory":
            return f"memory://{uuid.uuid4().hex}"
        if medium == "local":
            return f"file://{self._folder}/{next(_numbers)}/store"
        if medium == "s3":
            return self._s3.url(SERVER)
        if medium == "gcs":
            return self._gcs.url("/pypi")
        return fresh(self._smb, "cased")

    def damage(self, medium: str, url: str, key: str) -> None:
        """Flip a bit of a blob on its medium, behind the back of the store."""
        if medium == "memory":
            blobs = memory._spaces[urlsplit(url).netloc].blobs
            blob, data, token = blobs[key]
            blobs[key] = (copy_with(blob, tag=f"{blob.tag}+"), _flipped(data), token)
        elif medium == "s3":
            client, name = self._s3[SERVER].client(), f"{urlsplit(url).path.strip('/')}/{key}"
            found = client.get_object(Bucket=BUCKET, Key=name)
            data = _flipped(found["Body"].read())
            client.put_object(Bucket=BUCKET, Key=name, Body=data, Metadata=found["Metadata"])
        elif medium == "gcs":
            self._gcs.control("tamper", bucket=urlsplit(url).netloc, name=f"pypi/{key}")
        else:
            path = self._smb.path(url, key) if medium == "smb" else Path(urlsplit(url).path, key)
            with path.open("r+b") as file:
                data = file.read()
                file.seek(0)
                file.write(_flipped(data))

    @property
    def _s3(self) -> Servers:
        return self._asked_for("servers")

    @property
    def _gcs(self) -> GCS:
        return self._asked_for("gcs")

    @property
    def _smb(self) -> SMBServer:
        return self._asked_for("smb")

    def _asked_for(self, fixture: str) -> Any:
        return self._request.getfixturevalue(fixture)


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    """Yield our own fake, with credentials for it in the environment, where other tests would find them, too."""
    folder = tmp_path_factory.mktemp("gcs")
    with gcs_servers.our_fake(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PKGSTORE_GCS_CREDENTIALS", server.file(server.account()))
        yield server


@pytest.fixture
def media(request: pytest.FixtureRequest, tmp_path: Path) -> Media:
    """Return the media."""
    return Media(request, tmp_path)
