"""URLs, options, credentials, permissions and endpoints of S3 that cannot work: each is told apart."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import traceback
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import pkgstore
from pkgstore import Denied, Misconfigured, StoreError, Unavailable, errors
from tests.command import ENVIRONMENT, complaint, run
from tests.fault_proxy import FaultProxy, s3_error
from tests.s3_medium import BUCKET, PART, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.s3_medium import Servers

__all__ = ["servers"]

pytestmark = pytest.mark.xdist_group("ministack")

SECRET = "hunter2-is-the-secret-access-key"
NOWHERE = "http://127.0.0.1:1"
HTML = b"<html><body>It works!<br></body></html>"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but one key pair is known, and no service of this machine is asked for credentials."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "PKGSTORE_S3_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIASOMEBODY",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A server that gives canned answers, and nothing else."""
    with FaultProxy(1) as proxy:
        yield proxy


def refused(
    call: Callable[[], object],
    kind: type[StoreError],
    *phrases: str,
    secret: str = SECRET,
    log: pytest.LogCaptureFixture | None = None,
) -> str:
    """Return the message with which a call fails: one line that says all of ``phrases``, and the secret nowhere."""
    with pytest.raises(StoreError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert "\n" not in message
    for phrase in phrases:
        assert phrase in message
    told = ["".join(traceback.format_exception(caught.value)), log.text if log else ""]
    chain: BaseException | None = caught.value
    while chain is not None:
        told += [str(chain), repr(chain), repr(chain.args)]
        chain = chain.__cause__ or chain.__context__
    assert secret not in "\n".join(told)
    return message


def opened(url: str, **options: Any) -> Callable[[], object]:
    return lambda: pkgstore.open(url, **options)


def on_command_line(url: str, kind: type[StoreError], message: str, secret: str = SECRET, **variables: str) -> None:
    """`pkgstore ls` says the same in one line, and ends with the code of the error."""
    codes = {errors.Misconfigured: 2, errors.Denied: 5, errors.Unavailable: 7}
    named = {name: os.environ[name] for name in os.environ if name.startswith(("AWS_", "PKGSTORE_S3_"))}
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("AWS_")}
    result = run("ls", url, env={**environment, **named, **variables})
    assert complaint(result, codes[kind]) == message
    assert secret not in result.stderr + result.stdout


# -- URLs and options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "phrases"),
    [
        ("s3://", ["names no bucket: write s3://bucket/prefix"]),
        ("s3:///prefix", ["names no bucket"]),
        (f"s3://somebody:{SECRET}@bucket/x", ["credentials come from the AWS chain"]),
        ("s3://bucket:9000/x", ["the endpoint is endpoint_url="]),
        ("s3://bucket/../x", ["the prefix", "'..'"]),
        ("s3://bucket/a/../../x", ["the prefix", "'..'"]),
        ("s3://bucket/a//b", ["the prefix", "empty segment"]),
        ("s3://bucket/.pkgstore", ["the prefix", "reserved"]),
        ("s3://bucket/a%00b", ["the prefix", "character"]),
        ("s3://bucket/" + "p" * 1025, ["the prefix", "longer than"]),
        (f"s3://bad_bucket!/x?endpoint_url={NOWHERE}", ["the bucket's name cannot be one", "correct the URL"]),
        ("s3://bucket?endpoint_url=localhost:9000", ["is no URL: write https://host or http://host:port"]),
        ("s3://bucket?endpoint_url=ftp://host", ["is no URL"]),
        ("s3://bucket?endpoint_url=http://", ["correct endpoint_url"]),
        ("s3://bucket?endpoint_url=http://127.0.0.1:port", ["correct endpoint_url"]),
        (f"s3://bucket?endpoint_url=http://me:{SECRET}@127.0.0.1:1", ["names somebody", "the AWS chain"]),
        (f"s3://bucket?endpoint_url=ftp://me:{SECRET}@127.0.0.1:1", ["names somebody", "the AWS chain"]),
        (f"s3://bucket?region=no%20region&endpoint_url={NOWHERE}", ["'no region'", "correct endpoint_url, region"]),
        (f"s3://bucket?secret_key={SECRET}", ["there is no option 'secret_key' here"]),
        ("s3://bucket?endpoint=http://host", ["did you mean 'endpoint_url'?"]),
        ("s3://bucket?dialect=minoi", ["there is no S3 dialect 'minoi': did you mean 'minio'?"]),
        ("s3://bucket?part_size=1Mi", ["part_size='1Mi' is not between 5Mi and 5Gi"]),
        ("s3://bucket?part_size=6Gi", ["part_size='6Gi' is not between 5Mi and 5Gi"]),
        ("s3://bucket?part_size=large", ["part_size='large' is not a size, such as 500M or 1Gi"]),
        ("s3://bucket?part_size=-1", ["part_size='-1' is not a size"]),
        ("s3://bucket?single_writer=perhaps", ["single_writer='perhaps' is neither true nor false"]),
        ("s3://bucket?timeout=soon", ["timeout='soon' is not a number of seconds"]),
        (f"s3://bucket?profile=nobody&endpoint_url={NOWHERE}", ["(nobody)", "name a profile of ~/.aws/config"]),
    ],
)
def test_a_url_that_cannot_work(alone: None, caplog: pytest.LogCaptureFixture, url: str, phrases: list[str]) -> None:
    refused(opened(url), Misconfigured, *phrases, log=caplog)


def test_the_command_line_says_it_in_one_line(alone: None) -> None:
    for url in (f"s3://somebody:{SECRET}@bucket/x", f"s3://bucket?endpoint_url=http://me:{SECRET}@127.0.0.1:1"):
        on_command_line(url, Misconfigured, refused(opened(url, create=False), Misconfigured))


# -- credentials -------------------------------------------------------------------------------------------------------


def test_no_credentials(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    url = f"s3://bucket?endpoint_url={NOWHERE}"
    message = refused(opened(url, create=False), Denied, "no credentials were found", "set AWS_ACCESS_KEY_ID")
    on_command_line(url, Denied, message)


def test_half_of_the_aws_variables(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused(
        opened(f"s3://bucket?endpoint_url={NOWHERE}"), Denied, "are not complete", "set both the key id and the secret"
    )


@pytest.mark.parametrize("given", ["PKGSTORE_S3_ACCESS_KEY_ID", "PKGSTORE_S3_SECRET_ACCESS_KEY"])
def test_half_of_our_variables(alone: None, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(given, SECRET)
    refused(opened(f"s3://bucket?endpoint_url={NOWHERE}"), Misconfigured, "one is not set: set both, or neither")


class TestSecretFiles:
    """``PKGSTORE_S3_SECRET_ACCESS_KEY_FILE`` and the like."""

    @pytest.fixture(autouse=True)
    def key_id(self, alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PKGSTORE_S3_ACCESS_KEY_ID", "AKIASOMEBODY")

    def refused(self, monkeypatch: pytest.MonkeyPatch, path: Path, *phrases: str) -> None:
        monkeypatch.setenv("PKGSTORE_S3_SECRET_ACCESS_KEY_FILE", str(path))
        refused(opened(f"s3://bucket?endpoint_url={NOWHERE}"), Misconfigured, *phrases)

    def test_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        self.refused(monkeypatch, path, "PKGSTORE_S3_SECRET_ACCESS_KEY_FILE names", str(path), "No such file")

    def test_that_is_a_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.refused(monkeypatch, tmp_path, str(tmp_path), "cannot be read", "correct it")

    def test_that_is_no_text(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_bytes(SECRET.encode() + b"\xff")
        self.refused(monkeypatch, path, str(path), "it is not text")

    def test_that_is_empty(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text("\n")
        self.refused(monkeypatch, path, "one is not set: set both, or neither")

    def test_beside_the_variable(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PKGSTORE_S3_SECRET_ACCESS_KEY", SECRET)
        self.refused(monkeypatch, tmp_path / "secret", "are both set: keep one")

    def test_that_holds_the_secret(self, servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        endpoint = servers["ministack"]
        (tmp_path / "id").write_text(endpoint.access_key + "\n")
        (tmp_path / "secret").write_text(endpoint.secret_key + "\n")
        monkeypatch.delenv("PKGSTORE_S3_ACCESS_KEY_ID")
        monkeypatch.setenv("PKGSTORE_S3_ACCESS_KEY_ID_FILE", str(tmp_path / "id"))
        monkeypatch.setenv("PKGSTORE_S3_SECRET_ACCESS_KEY_FILE", str(tmp_path / "secret"))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-somebody-else")
        prefix = uuid.uuid4().hex
        with pkgstore.open(f"s3://{BUCKET}/{prefix}?endpoint_url={endpoint.url}") as store:
            store.publish("a", b"1")
            assert store.read("a") == b"1"


@pytest.mark.parametrize(
    ("key", "secret", "phrases"),
    [
        (None, SECRET, ["refuses the signature: the secret access key is wrong", "AWS_SECRET_ACCESS_KEY"]),
        ("AKIANOBODY", SECRET, ["does not know the access key id", "correct AWS_ACCESS_KEY_ID or the profile"]),
    ],
)
def test_wrong_credentials(
    servers: Servers, caplog: pytest.LogCaptureFixture, key: str | None, secret: str, phrases: list[str]
) -> None:
    endpoint, profile = servers["ministack"], uuid.uuid4().hex
    servers.profile(profile, key or endpoint.access_key, secret)
    url = servers.url("ministack", profile=profile)
    message = refused(opened(url, create=False), Denied, *phrases, log=caplog)
    on_command_line(url, Denied, message)


def test_wrong_credentials_are_told_of_by_stat_too(servers: Servers) -> None:
    """HEAD has no body to say why."""
    url, profile = servers.store("ministack"), uuid.uuid4().hex
    servers.profile(profile, servers["ministack"].access_key, SECRET)
    with pkgstore.open(url) as store:
        store.publish("a", b"1")
    store = pkgstore.open(url, timeout=1)
    with store:
        store.driver._bucket._access._profile = profile  # type: ignore[attr-defined]
        store.driver._bucket._access.renew()  # type: ignore[attr-defined]
        refused(lambda: store.stat("a"), Denied, "the secret access key is wrong")


# -- permissions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "call"),
    [
        ("s3:GetObject", lambda store: store.read("a")),
        ("s3:GetObject", lambda store: store.stat("a")),
        ("s3:PutObject", lambda store: store.publish("b", b"1")),
        ("s3:PutObject", lambda store: store.publish("b", bytes(PART + 1))),
        ("s3:ListBucket", lambda store: list(store.list())),
        ("s3:DeleteObject", lambda store: store.delete("a")),
    ],
    ids=["read", "stat", "publish", "publish in parts", "list", "delete"],
)
def test_a_permission_that_lacks_is_named(
    servers: Servers, caplog: pytest.LogCaptureFixture, action: str, call: Callable[[pkgstore.Store], object]
) -> None:
    url = servers.store("ministack")
    with pkgstore.open(url) as store:
        store.publish("a", b"1")
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    own = f"arn:aws:s3:::{BUCKET}" if action == "s3:ListBucket" else f"arn:aws:s3:::{BUCKET}/*/pypi/[ab]"
    own = own.replace("[ab]", "?")
    deny = {"Effect": "Deny", "Action": action, "Resource": own}
    key, secret = servers["ministack"].user({"Version": "2012-10-17", "Statement": [everything, deny]})  # type: ignore[attr-defined]
    profile = uuid.uuid4().hex
    servers.profile(profile, key, secret)
    with pkgstore.open(url.replace("profile=ministack", f"profile={profile}")) as store:
        refused(
            lambda: call(store), Denied, "the credentials may not do this", f"allow {action}", secret=secret, log=caplog
        )
    with pkgstore.open(url) as store:
        assert {blob.key for blob in store.list()} == {"a"}


# -- buckets -----------------------------------------------------------------------------------------------------------


def test_no_bucket(servers: Servers) -> None:
    url = servers.url("ministack").replace(f"s3://{BUCKET}/", "s3://no-such-bucket/")
    for create in (True, False):
        message = refused(
            opened(url, create=create), Misconfigured, "there is no bucket 'no-such-bucket' at", "make it"
        )
    on_command_line(url, Misconfigured, message)


def test_a_bucket_with_versions(servers: Servers) -> None:
    """Nothing of what a store does shows that old versions are kept."""
    endpoint, bucket = servers["ministack"], f"versioned-{uuid.uuid4().hex[:8]}"
    client = endpoint.client()
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    url = f"s3://{bucket}/x?endpoint_url={endpoint.url}&profile=ministack&part_size={PART}"
    with pkgstore.open(url) as store:
        for body in (b"1", bytes(PART + 1)):
            store.publish("a", body)
            with pytest.raises(pkgstore.Exists):
                store.publish("a", body)
            store.publish("a", body + b"2", replace=True)
            assert store.read("a") == body + b"2"
            store.delete("a")
            with pytest.raises(pkgstore.NotFound):
                store.read("a")
            store.publish("a", body + b"3")
            assert store.read("a") == body + b"3"
            assert [blob.size for blob in store.list()] == [len(body) + 1]
            store.delete("a")
            assert list(store.list()) == []
    versions = client.list_object_versions(Bucket=bucket, Prefix="x/a")
    assert len(versions["Versions"]) == 6, "the bucket does keep versions"


# -- endpoints ---------------------------------------------------------------------------------------------------------


def test_a_port_where_nothing_listens(alone: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"s3://bucket?endpoint_url=http://127.0.0.1:{port}&timeout=0.5"
    message = refused(
        opened(url, create=False), Unavailable, f"nothing listens at http://127.0.0.1:{port}", "check endpoint_url"
    )
    on_command_line(url, Unavailable, message)


def test_a_host_without_an_address(alone: None) -> None:
    refused(
        opened("s3://bucket?endpoint_url=http://no-such-host.invalid&timeout=0.5"),
        Unavailable,
        "the host of http://no-such-host.invalid has no address",
        "check endpoint_url and DNS",
    )


def test_a_server_that_never_answers(alone: None, proxy: FaultProxy) -> None:
    proxy.black_hole = True
    started = time.monotonic()
    refused(
        opened(f"s3://bucket?endpoint_url={proxy.url}&timeout=1"), Unavailable, "did not answer in time", "the network"
    )
    assert 1 <= time.monotonic() - started < 5
    assert proxy.faults["black hole"] == 1


def test_tls_to_a_port_that_has_none(alone: None, servers: Servers) -> None:
    place = servers["ministack"].url.replace("http:", "https:")
    refused(
        opened(f"s3://bucket?endpoint_url={place}&timeout=1"),
        Misconfigured,
        f"{place} does not speak TLS",
        "write http:// in endpoint_url",
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that a server made itself, with its key, in one file."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
    )
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(pem + secret)
    return path


@contextlib.contextmanager
def tls_server(certificate: Path) -> Iterator[int]:
    """Run a server on loopback that speaks TLS, and answers 404 as S3 does; yield its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    body = s3_error("NoSuchBucket", "there is none")
    reply = f"HTTP/1.1 404 Not Found\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(1 << 16)
                secure.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_no_tls_to_a_port_that_has_it(alone: None, certificate: Path) -> None:
    """Some servers answer in TLS, which is no HTTP; others just end the connection."""
    with tls_server(certificate) as port:
        refused(
            opened(f"s3://bucket?endpoint_url=http://127.0.0.1:{port}&timeout=0.5"),
            Unavailable,
            f"the connection to http://127.0.0.1:{port} broke",
            "whether endpoint_url should be https",
        )
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def alert() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(bytes.fromhex("15030100020246"))

        thread = threading.Thread(target=alert)
        thread.start()
        port = listener.getsockname()[1]
        refused(
            opened(f"s3://bucket?endpoint_url=http://127.0.0.1:{port}&timeout=0.5"),
            Misconfigured,
            f"http://127.0.0.1:{port} does not answer as HTTP does",
            "is it https",
        )
        thread.join()


def test_a_certificate_that_is_not_trusted(
    alone: None, certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with tls_server(certificate) as port:
        url = f"s3://bucket?endpoint_url=https://127.0.0.1:{port}&timeout=1"
        refused(opened(url), Misconfigured, "is not trusted", "self-signed", "in AWS_CA_BUNDLE")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        refused(opened(url), Misconfigured, "there is no bucket 'bucket'")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "absent.pem"))
        refused(opened(url), Misconfigured, "absent.pem", "correct AWS_CA_BUNDLE")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, HTML), (302, HTML), (400, HTML), (403, HTML), (404, HTML), (404, b"<html/>"), (404, b""), (405, HTML)],
    ids=["200", "302", "400", "403", "404", "404 well-formed", "404 empty", "405"],
)
def test_what_is_not_s3(alone: None, proxy: FaultProxy, status: int, body: bytes) -> None:
    fault = proxy.answer(status, body, headers={"Content-Type": "text/html", "Location": "/"})
    refused(
        opened(f"s3://bucket?endpoint_url={proxy.url}&timeout=1"),
        Misconfigured,
        proxy.url,
        "check endpoint_url: that it is an S3 endpoint",
    )
    assert fault.fired


@pytest.mark.parametrize(
    ("body", "kind", "part"),
    [
        (b"<html><body>Welcome</body></html>", Misconfigured, "a listing that is none of S3"),
        (HTML, Unavailable, "a listing that cannot be read"),
        (b"", Unavailable, "a listing that cannot be read"),
        (
            b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            Unavailable,
            "cut a listing off without saying how it goes on",
        ),
    ],
    ids=["page", "broken page", "nothing", "endless"],
)
def test_a_listing_that_is_none(
    through: tuple[FaultProxy, pkgstore.Store], body: bytes, kind: type[StoreError], part: str
) -> None:
    """It is not taken for an empty store."""
    proxy, store = through
    fault = proxy.answer(200, body, rb"^GET [^ ]*list-type=2")
    refused(lambda: list(store.list()), kind, part)
    assert fault.fired


# -- what the service answers ------------------------------------------------------------------------------------------


def error(code: str, message: str = "no", **fields: str) -> bytes:
    more = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    return s3_error(code, message).replace(b"</Error>", more.encode() + b"</Error>")


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "phrases"),
    [
        (
            301,
            error("PermanentRedirect"),
            {"x-amz-bucket-region": "eu-west-1"},
            Misconfigured,
            ["bucket 'bucket' lies in eu-west-1", "set region="],
        ),
        (
            400,
            error("AuthorizationHeaderMalformed", Region="eu-west-3"),
            {},
            Misconfigured,
            ["signed for another region", "lies in eu-west-3", "set region="],
        ),
        (
            403,
            error("RequestTimeTooSkewed", RequestTime="20200101T000000Z", ServerTime="2026-11-21T00:00:00Z"),
            {},
            Denied,
            ["clock differs too much", "here 20200101T000000Z, there 2026-11-21T00:00:00Z", "set the clock"],
        ),
        (400, error("ExpiredToken"), {}, Denied, ["the session token has expired", "renew the credentials"]),
        (403, error("InvalidObjectState"), {}, Misconfigured, ["archive class", "restore it", "lifecycle rules"]),
        (403, error("AccessDenied"), {}, Denied, ["may not do this", "allow s3:GetObject"]),
        (503, error("SlowDown"), {}, Unavailable, ["asks to slow down"]),
        (500, error("InternalError"), {}, Unavailable, ["an error of its own", "see its log"]),
        (507, b"", {}, errors.Full, ["no space left"]),
        (418, b"", {}, Misconfigured, ["refuses", "418"]),
    ],
    ids=["moved", "region", "clock", "expired", "archive", "denied", "slow", "internal", "full", "teapot"],
)
def test_what_a_refusal_means(
    alone: None,
    servers: Servers,
    status: int,
    body: bytes,
    headers: dict[str, str],
    kind: type[StoreError],
    phrases: list[str],
) -> None:
    """Opening a store, and GET and HEAD of a blob, say the same."""
    with FaultProxy(1) as proxy:
        fault = proxy.answer(status, body, headers=headers)
        refused(opened(f"s3://bucket?endpoint_url={proxy.url}&timeout=0.2"), kind, *phrases)
        assert fault.fired


@pytest.fixture
def through(servers: Servers) -> Iterator[tuple[FaultProxy, pkgstore.Store]]:
    """A proxy before ministack, and a store that is opened through it, with a blob ``a``."""
    with FaultProxy(servers["ministack"].port) as proxy:
        url = servers.store("ministack").replace(servers["ministack"].url, proxy.url)
        with pkgstore.open(url, timeout=1) as store:
            store.publish("a", b"1")
            yield proxy, store


def test_an_object_in_an_archive(through: tuple[FaultProxy, pkgstore.Store]) -> None:
    proxy, store = through
    fault = proxy.answer(403, error("InvalidObjectState"), rb"^GET .*/a HTTP")
    refused(lambda: store.read("a"), Misconfigured, "archive class", "restore it")
    assert fault.fired == 1


def test_an_object_that_is_locked(through: tuple[FaultProxy, pkgstore.Store]) -> None:
    proxy, store = through
    fault = proxy.answer(403, error("AccessDenied", "Object is WORM protected"), rb"^DELETE ")
    refused(lambda: store.delete("a"), Denied, "allow s3:DeleteObject")
    assert fault.fired == 1
    assert store.read("a") == b"1"


def test_an_expired_token_is_looked_up_again_once(through: tuple[FaultProxy, pkgstore.Store]) -> None:
    proxy, store = through
    fault = proxy.answer(400, error("ExpiredToken"), rb"^GET .*/a HTTP", times=1)
    assert store.read("a") == b"1"
    assert fault.fired == 1
    fault = proxy.answer(400, error("ExpiredToken"), rb"^(GET|PUT|POST) ")
    refused(lambda: store.read("a"), Denied, "has expired", "log in again")
    assert fault.fired == 2
    refused(lambda: store.publish("b", b"1"), Denied, "has expired")
    assert fault.fired == 4
    fault.stop()
    assert store.read("a") == b"1"


def test_the_file_of_credentials_is_read_again(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a login tool writes there while a store is open is found once the old token has expired."""
    endpoint, path = servers["ministack"], tmp_path / "credentials"
    lines = f"[mine]\naws_access_key_id = {{}}\naws_secret_access_key = {endpoint.secret_key}\n"
    path.write_text(lines.format(endpoint.access_key))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    with FaultProxy(endpoint.port) as proxy:
        old = rb"Credential=" + endpoint.access_key.encode()
        url = f"s3://{BUCKET}/{uuid.uuid4().hex}?endpoint_url={proxy.url}&profile=mine"
        with pkgstore.open(url, timeout=1) as store:
            store.publish("a", b"1")
            new_key, new_secret = endpoint.user(  # type: ignore[attr-defined]
                {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
            )
            path.write_text(lines.format(new_key).replace(endpoint.secret_key, new_secret))
            fault = proxy.answer(400, error("ExpiredToken"), lambda head: old in head)
            assert store.read("a") == b"1"
            assert fault.fired == 1
            store.publish("b", b"2")
            assert fault.fired == 1


def test_a_large_body_is_not_sent_twice_with_an_expired_token(through: tuple[FaultProxy, pkgstore.Store]) -> None:
    """It is told of, and the credentials are looked up for whoever comes next."""
    proxy, store = through
    store.driver._dialect_name = "seaweedfs"  # type: ignore[attr-defined]
    fault = proxy.answer(400, error("ExpiredToken"), rb"^PUT .*/a HTTP", times=1)
    access = store.driver._bucket._access  # type: ignore[attr-defined]
    before = access._now()
    refused(lambda: store.publish("a", bytes(2 * PART), replace=True), Denied, "has expired")
    assert fault.fired == 1
    assert access._now() is not before
    store.publish("a", bytes(2 * PART), replace=True)


def test_a_clock_that_is_wrong(through: tuple[FaultProxy, pkgstore.Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own opinion of what this machine signs, an hour ago."""
    import botocore.auth

    _, store = through
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda *args, **kw: now(*args, **kw) - timedelta(hours=1)
    )
    refused(lambda: store.read("a"), Denied, "clock", "set the clock")


def test_nothing_of_a_store_is_below_another_bucket(servers: Servers) -> None:
    """A prefix keeps its store apart from what else is in the bucket."""
    url = servers.store("ministack")
    client, prefix = servers["ministack"].client(), urlsplit(url).path.strip("/")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}x/a", Body=b"of another store")
    with pkgstore.open(url) as store:
        assert list(store.list()) == []
        store.publish("a", b"1")
    assert client.get_object(Bucket=BUCKET, Key=f"{prefix}x/a")["Body"].read() == b"of another store"
