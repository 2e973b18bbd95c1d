"""What the conformance tests have to know of S3 servers: one bucket each, and a prefix of its own for every store."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

import pkgstore
from pkgstore.testing.conformance import DriverConformance
from tests.s3_servers import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.endpoints import Endpoint

MiB = 1 << 20
BUCKET = "packages"
PART = 5 * MiB

_DIALECTS = {"ministack", "seaweedfs", "ceph"}
_numbers = itertools.count(1)


class Servers:
    """The S3 servers that a test process has started, and the credentials by which other processes find them."""

    def __init__(self, start: Callable[[str], Endpoint], credentials: Path) -> None:
        self._start = start
        self._credentials = credentials
        self._known: dict[str, Endpoint] = {}
        self._identities: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> Endpoint:
        if name not in self._known:
            found = self._known[name] = self._start(name)
            self.profile(name, found.access_key, found.secret_key)
            found.create_bucket(BUCKET)
        return self._known[name]

    def profile(self, name: str, access_key: str, secret_key: str) -> None:
        """Write credentials down, for whoever opens a URL with this profile."""
        with self._credentials.open("a") as file:
            file.write(f"[{name}]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")

    def url(self, name: str, **options: str) -> str:
        """Return the URL of a new and empty prefix."""
        options = {"endpoint_url": self[name].url, "profile": name, "part_size": str(PART), **options}
        if name in _DIALECTS:
            options.setdefault("dialect", name)
        query = "&".join(f"{option}={value}" for option, value in options.items())
        return f"s3://{BUCKET}/{next(_numbers)}/pypi?{query}"

    def store(self, name: str, **options: str) -> str:
        """Return the URL of a new store, made with what was found of the server when its first one was made."""
        url = self.url(name, **options)
        client, prefix = self[name].client(), urlsplit(url).path.strip("/")
        document = f"{prefix}/.pkgstore/store.json"
        if name not in self._identities:
            pkgstore.open(url).close()
            self._identities[name] = json.load(client.get_object(Bucket=BUCKET, Key=document)["Body"])
        identity = {**self._identities[name], "id": uuid.uuid4().hex}
        client.put_object(Bucket=BUCKET, Key=document, Body=json.dumps(identity).encode())
        return url


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Yield the servers, each started when it is first asked for; all end with the tests."""
    folder = tmp_path_factory.mktemp("s3")
    credentials = folder / "credentials"
    credentials.touch(mode=0o600)
    settings = {"AWS_SHARED_CREDENTIALS_FILE": str(credentials), "AWS_CONFIG_FILE": os.devnull}
    with pytest.MonkeyPatch.context() as patch, shared(folder) as start:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        yield Servers(start, credentials)


class S3Conformance(DriverConformance):
    """The conformance tests on a server, whose name a subclass gives."""

    server: ClassVar[str]
    options: ClassVar[dict[str, str]] = {}
    stepwise = 2 * PART + 7
    large = 256 * MiB
    memory = 128 * MiB
    longest = 1024 - len("9999/pypi/")
    examples = 4

    @pytest.fixture
    def url(self, servers: Servers) -> str:  # type: ignore[override]
        self.endpoint = servers[self.server]
        return servers.store(self.server, **self.options)

    def test_no_store_is_made_unasked(self, servers: Servers) -> None:  # type: ignore[override]
        """At a prefix where there is none, as there is at that of the fixture."""
        super().test_no_store_is_made_unasked(servers.url(self.server, **self.options))

    def tamper(self, url: str, key: str) -> None:
        self._rewrite(url, key, lambda data: bytes([data[0] ^ 1]) + data[1:])

    def truncate(self, url: str, key: str) -> None:
        self._rewrite(url, key, lambda data: data[:-1])

    def _rewrite(self, url: str, key: str, change: Callable[[bytes], bytes]) -> None:
        """Put other bytes in the place of an object's, under the same metadata."""
        client = self.endpoint.client()
        name = f"{urlsplit(url).path.strip('/')}/{key}"
        found = client.get_object(Bucket=BUCKET, Key=name)
        data = change(found["Body"].read())
        client.put_object(Bucket=BUCKET, Key=name, Body=data, Metadata=found["Metadata"])


def option(url: str, name: str) -> str:
    """Return an option of a URL."""
    return parse_qs(urlsplit(url).query)[name][0]
