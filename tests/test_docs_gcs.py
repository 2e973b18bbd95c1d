"""docs/how-to/gcs.md does what it says, on our fake: its commands and programs are run, in order."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pkgstore
from tests import gcs_servers
from tests.servers import call, create_app
from tests.test_docs_s3 import (
    Session,
    assert_messages_exist,
    assert_options_are_told,
    assert_replicas_share,
    gunicorn_app,
    run,
    table,
)
from tests.test_docs_tutorial import Command, blocks, commands, folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gcs_servers import GCS

__all__ = ["folder"]

pytestmark = pytest.mark.xdist_group("gcs")

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "gcs.md"
STORE = "gs://packages/pypi"
TO_PUBLISH = ["storage.objects.get", "storage.objects.list", "storage.objects.create"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    with gcs_servers.our_fake(tmp_path_factory.mktemp("gcs")) as fake:
        yield fake


@pytest.fixture
def here(server: GCS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GCS:
    """The fake in the place of Google, with the bucket of the page, empty, and one account."""
    server.control("reset")
    server.control("bucket", name="packages")
    for name in [name for name in os.environ if name.startswith(("PKGSTORE_GCS_", "GOOGLE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.origin)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    log_in(server, monkeypatch)
    return server


def log_in(server: GCS, monkeypatch: pytest.MonkeyPatch, permissions: list[str] | None = None) -> None:
    """Give the account of the variable these permissions, or all."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", server.file(server.account(permissions=permissions)))


@pytest.fixture
def session(here: GCS, folder: Path) -> Session:
    return Session(folder, {"/run/secrets/packages.json": here.file(here.document())})


def put_by_hand(server: GCS, name: str, content: bytes) -> None:
    """Make an object as other tools do, without metadata of ours."""
    token = server.identity("token", email=gcs_servers.ACCOUNT)
    head = (
        f'--x\r\nContent-Type: application/json\r\n\r\n{{"name": "{name}"}}\r\n--x\r\nContent-Type: text/plain\r\n\r\n'
    )
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "multipart/related; boundary=x"}
    target = "/upload/storage/v1/b/packages/o?uploadType=multipart"
    answer = server.server.request("POST", target, headers, head.encode() + content + b"\r\n--x--\r\n")
    assert answer.status == 200, answer


def test_the_page(session: Session, here: GCS) -> None:
    put_by_hand(here, "pypi/demo/", b"")
    by_hand = next(number for number, block in enumerate(blocks(PAGE)) if "adopt" in block.text)
    assert by_hand == len(blocks(PAGE)) - 1, "what the page puts there by hand is put there before its last program"
    assert run(session, blocks(PAGE)[:by_hand]) > 8
    put_by_hand(here, "pypi/demo/demo-2.0.tar.gz", b"by hand\n")
    assert run(session, blocks(PAGE)[by_hand:]) == 1


def test_credentials_in_files(session: Session, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pkgstore.open(STORE) as store:
        store.publish("demo/demo-1.0.tar.gz", b"a package\n")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    (block,) = (block for block in blocks(PAGE) if "PKGSTORE_GCS_" in block.text)
    with_file = Session(folder, session.names)
    for command in commands(block):
        with_file.run(command)
    refused = "pkgstore: …no credentials were found…\nexit code 5"
    Session(folder, session.names).run(Command(f'{commands(block)[-1].line} || echo "exit code $?"', refused))


def test_permissions_to_publish_and_read(here: GCS, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(here, monkeypatch, TO_PUBLISH)
    large = b"1" * (9 << 20)  # in a session
    with pkgstore.open(STORE) as store:
        assert len(list(store.driver.scan(".pkgstore/probe/"))) == 2
        for key, body in {"a/large": large, "a/small": b"1"}.items():
            store.publish(key, body)
            with pytest.raises(pkgstore.Exists):
                store.publish(key, body)
            assert store.read(key) == body
        assert [blob.key for blob in store.list()] == ["a/large", "a/small"]
        for change in (store.delete, lambda key: store.publish(key, b"2", replace=True)):
            with pytest.raises(pkgstore.Denied, match=r"lacks storage\.objects\.delete"):
                change("a/small")
        put_by_hand(here, "pypi/a/by-hand", b"1")
        assert store.adopt("a/by-hand").digests
        assert not store.stat("a/by-hand").digests


@pytest.mark.parametrize("more", [[], ["storage.objects.delete"]])
def test_health_needs_deleting(here: GCS, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    log_in(here, monkeypatch, [*TO_PUBLISH, *more])
    with pkgstore.open(STORE) as store:
        answer = call(create_app(store, "-P", ".", "-a", "."), "GET", "/health")
        assert answer.status == (200 if more else 503)
        assert len(list(store.list(".health/"))) == (0 if more else 1)


def test_three_replicas(here: GCS, tmp_path: Path) -> None:
    pkgstore.open(STORE).close()
    assert_replicas_share(gunicorn_app(PAGE, tmp_path), tmp_path)


def test_the_options_are_all_told() -> None:
    assert_options_are_told(PAGE, "gs")


def test_the_permissions_are_all_told() -> None:
    told = {name for row in table(PAGE, "| permission |") for name in re.findall(r"`([\w.]+)`", row[0])}
    assert told == {f"storage.objects.{verb}" for verb in ("get", "list", "create", "delete", "update")}


def test_the_messages_exist() -> None:
    assert_messages_exist(PAGE, "drivers/gcs")
