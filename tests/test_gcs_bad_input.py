"""URLs, options, permissions and endpoints of Google Cloud Storage that cannot work: each is told apart."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import Denied, InvalidKey, Misconfigured, NotFound, StoreError, Unavailable
from pkgstore.drivers.gcs.errors import parsed, refusal
from tests import gcs_servers
from tests.gcs_servers import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.gcs_servers import GCS

pytestmark = pytest.mark.xdist_group("gcs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    with gcs_servers.our_fake(tmp_path_factory.mktemp("gcs")) as fake:
        yield fake


@pytest.fixture
def gcs(server: GCS, monkeypatch: pytest.MonkeyPatch) -> GCS:
    server.control("reset")
    monkeypatch.setenv("PKGSTORE_GCS_CREDENTIALS_FILE", server.file(server.account()))
    return server


def assert_one_line(error: BaseException) -> None:
    assert "\n" not in str(error)
    assert re.search(r"[;:] |is not a number of seconds", str(error)), "it says what to do"
    assert "ya29" not in str(error)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://", "names no bucket"),
        ("gs:///prefix", "names no bucket"),
        ("gs://Bucket", "in lower case"),
        ("gs://b", "names no bucket"),
        ("gs://bucket:80/x", "names no bucket"),
        ("gs://somebody:hunter2@bucket/x", "credentials are no part of a URL"),
        ("gs://bucket/../other", "the folder in gs://bucket/../other cannot be used: .*'..'"),
        ("gs://bucket/a//b", "empty segment"),
        ("gs://bucket//a", "empty segment"),
        ("gs://bucket/a\\b", "holds the character"),
        ("gs://bucket/.pkgstore", "reserved"),
        ("gs://bucket?endpoint_url=ftp://host", "is no address of a server"),
        ("gs://bucket?endpoint_url=host:80", "is no address of a server"),
        ("gs://bucket?endpoint_url=http://", "is no address of a server"),
        ("gs://bucket?endpoint_url=http://host:port", "is no address of a server"),
        ("gs://bucket?endpoint_url=http://localhost/storage", "without a path"),
        ("gs://bucket?endpoint_url=http://user:hunter2@localhost", "is no address of a server"),
        ("gs://bucket?project=a%20b", "is no name of a project"),
        ("gs://bucket?timeout=soon", "timeout"),
        ("gs://bucket?region=eu", "no option 'region'"),
    ],
)
def test_a_url_that_cannot_work(gcs: GCS, url: str, message: str) -> None:
    with pytest.raises(Misconfigured, match=message) as refused:
        pkgstore.open(url)
    assert_one_line(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_variable_of_emulators(gcs: GCS, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", scheme + gcs.origin.removeprefix("http://"))
    with pkgstore.open(f"gs://{gcs.bucket()}/x") as store:
        assert store.publish("a", b"1").size == 1
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://")
    with pytest.raises(Misconfigured, match="the variable STORAGE_EMULATOR_HOST is no address"):
        pkgstore.open("gs://bucket")


def test_a_bucket_that_is_not_there(gcs: GCS) -> None:
    with pytest.raises(
        Misconfigured, match="there is no bucket 'absent'; correct the URL, or make it: gcloud"
    ) as error:
        pkgstore.open(f"gs://absent?endpoint_url={gcs.origin}")
    assert_one_line(error.value)


def test_a_bucket_that_goes(gcs: GCS) -> None:
    url = gcs.url()
    with pkgstore.open(url) as store:
        gcs.control("drop_bucket", name=url.removeprefix("gs://").partition("?")[0])
        calls: list[Callable[[], object]] = [
            lambda: store.publish("a", b"1"),
            lambda: store.publish("a", bytes(9 << 20)),
            lambda: store.read("a"),
            lambda: store.stat("a"),
            lambda: list(store.list()),
            lambda: store.delete("a"),
        ]
        for call in calls:
            with pytest.raises(Misconfigured, match="there is no bucket"):
                call()


def test_no_store_is_made_when_it_must_be_there(gcs: GCS) -> None:
    with pytest.raises(NotFound, match="there is no store at"):
        pkgstore.open(gcs.url(), create=False)


@pytest.mark.parametrize("verb", ["get", "create", "list", "delete"])
def test_a_permission_that_lacks_is_named(gcs: GCS, verb: str) -> None:
    url = gcs.url()
    with pkgstore.open(url) as store:
        store.publish("a", b"1")
    every = {f"storage.objects.{each}" for each in ("get", "create", "list", "delete")}
    lacking = f"storage.objects.{verb}"
    gcs.account(permissions=sorted(every - {lacking}))
    calls: dict[str, Callable[[pkgstore.Store], object]] = {
        "get": lambda store: store.read("a"),
        "create": lambda store: store.publish("b", b"1"),
        "list": lambda store: list(store.list()),
        "delete": lambda store: store.delete("a"),
    }
    with (
        pytest.raises(Denied, match=f"{ACCOUNT} lacks {lacking}; grant a role that has it on the bucket") as error,
        pkgstore.open(url) as store,
    ):
        calls[verb](store)
    assert_one_line(error.value)


def test_requester_pays(gcs: GCS) -> None:
    gcs.control("set", payer="payer-1")
    with pytest.raises(Misconfigured, match="bills whoever asks; name the project to bill with project="):
        pkgstore.open(gcs.url())
    with pkgstore.open(gcs.url(project="payer-1")) as store:
        store.publish("a", bytes(9 << 20))
        assert len(store.read("a")) == 9 << 20


def test_keys_that_the_service_does_not_have(gcs: GCS) -> None:
    with pkgstore.open(gcs.url()) as store, pytest.raises(InvalidKey, match="no objects below .well-known/acme"):
        store.publish(".well-known/acme-challenge/x", b"1")
    with pkgstore.open(gcs.url("/" + "p" * 200)) as store:
        key = "/".join(["d" * 200] * 4 + ["e" * 20])
        assert store.publish(key[: 1024 - 201], b"1").size == 1
        with pytest.raises(InvalidKey, match="with its prefix it is longer than 1024 bytes; choose a shorter key"):
            store.publish(key + "x", b"1")


# -- endpoints --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def talking(answer: bytes | None) -> Iterator[str]:
    """Run a server that answers every connection with the same bytes; with None, it never answers."""
    ended = threading.Event()

    def serve() -> None:
        held = []
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            held.append(connection)
            if answer is not None:
                with contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    connection.sendall(answer)
                connection.close()
        for each in held:
            each.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def reply(status: str, body: bytes, kind: str = "text/html") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def opened(place: str, **options: Any) -> StoreError:
    """Return the error of opening a store at a server."""
    with pytest.raises(StoreError) as error:
        pkgstore.open("gs://bucket", endpoint_url=place, credentials="anonymous", timeout=1, **options)
    assert_one_line(error.value)
    return error.value


def test_a_port_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = opened(f"http://127.0.0.1:{port}")
    assert isinstance(error, Unavailable)
    assert "cannot reach" in str(error)
    assert "Connection refused; check the network and endpoint_url" in str(error)


def test_a_server_that_never_answers() -> None:
    start = time.monotonic()
    with talking(None) as place:
        error = opened(f"http://{place}")
    assert isinstance(error, Unavailable)
    assert "no answer in time" in str(error)
    assert time.monotonic() - start < 10


def test_tls_to_a_port_that_has_none(gcs: GCS) -> None:
    error = opened(gcs.origin.replace("http:", "https:"))
    assert isinstance(error, (Misconfigured, Unavailable))
    with talking(reply("400 Bad Request", b"")) as place:
        error = opened(f"https://{place}")
    assert isinstance(error, Misconfigured)
    assert "does not speak TLS; write http://" in str(error)


def test_what_is_not_the_service() -> None:
    for answer in (
        reply("200 OK", b"<html>hello</html>"),
        reply("404 Not Found", b"<html>nothing</html>"),
        reply("302 Found", b"<html>elsewhere</html>"),
        reply("405 Method Not Allowed", b""),
        b"220 mail.example ESMTP\r\n",
    ):
        with talking(answer) as place:
            error = opened(f"http://{place}")
        assert isinstance(error, Misconfigured), answer
        assert "Google Cloud Storage" in str(error) or "no bucket" in str(error)


# -- what the service answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind", "part"),
    [
        (429, "rateLimitExceeded", "slow", Unavailable, "fewer requests"),
        (403, "userRateLimitExceeded", "slow", Unavailable, "fewer requests"),
        (503, "backendError", "down", Unavailable, "answered 503 (down)"),
        (500, "internalError", "down", Unavailable, "answered 500"),
        (408, "timeout", "late", Unavailable, "answered 408"),
        (403, "dailyLimitExceeded", "much", Denied, "a quota of the project is used up"),
        (403, "retentionPolicyNotMet", "kept", Denied, "a retention policy"),
        (403, "accountDisabled", "The billing account is disabled", Denied, "The billing account is disabled"),
        (400, "invalid", 'Provided CRC32C "x" doesn\'t match calculated CRC32C', Unavailable, "damaged"),
        (400, "invalid", "Invalid bucket name", Misconfigured, "Invalid bucket name"),
        (404, "notFound", "No such object: a/b", NotFound, "no such object"),
        (404, "notFound", "The specified bucket does not exist.", Misconfigured, "no bucket"),
    ],
)
def test_what_a_refusal_means(status: int, reason: str, message: str, kind: type[StoreError], part: str) -> None:
    escaped = message.replace('"', '\\"')
    errors = f'[{{"reason": "{reason}", "message": "{escaped}"}}]'
    document = f'{{"error": {{"code": {status}, "message": "{escaped}", "errors": {errors}}}}}'
    error = refusal(parsed(status, document.encode()), bucket="bucket", account="account")
    assert error.kind is kind
    assert part in str(error)
    assert "\n" not in str(error)
    assert error.remedy or kind is NotFound


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'{"error": 5}', b"\xff", b"[" * 100_000, b'{"error": {}}'])
def test_a_refusal_in_no_known_form(content: bytes) -> None:
    assert parsed(500, content).passing
    error = refusal(parsed(418, content), bucket="bucket", account="account")
    assert error.kind is Misconfigured
    assert "418" in str(error)


def test_certificates_that_are_not_trusted(gcs: GCS, tmp_path: Any) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key: Any = serialization.load_pem_private_key(gcs_servers.private_key().encode(), None)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    certificate = builder.sign(key, hashes.SHA256())
    path = tmp_path / "both.pem"
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(pem + gcs_servers.private_key().encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        error = opened(f"https://127.0.0.1:{port}")
        thread.join()
    assert isinstance(error, Misconfigured)
    assert "is not trusted" in str(error)
