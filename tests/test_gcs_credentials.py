"""Credentials for Google Cloud Storage: where they are found, how they are renewed, and that none are shown."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import google.auth.credentials
import google.oauth2.credentials
import pytest
from google.auth.compute_engine import _metadata
from google.oauth2 import service_account

import pkgstore
from pkgstore import Denied, Misconfigured, NotFound, Unsupported
from pkgstore.drivers.gcs import signing, uploads
from pkgstore.testing.suite.harness import held
from tests import gcs_servers
from tests.gcs_servers import ACCOUNT, private_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.gcs_servers import GCS

pytestmark = pytest.mark.xdist_group("gcs")

VARIABLES = [
    "PKGSTORE_GCS_CREDENTIALS",
    "PKGSTORE_GCS_CREDENTIALS_FILE",
    "PKGSTORE_GCS_TOKEN",
    "PKGSTORE_GCS_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "STORAGE_EMULATOR_HOST",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    with gcs_servers.our_fake(tmp_path_factory.mktemp("gcs")) as fake:
        yield fake


@pytest.fixture
def gcs(server: GCS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GCS:
    """The fake, on a host without any credentials."""
    server.control("reset")
    server.account()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", True)
    return server


def works(url: str, **options: Any) -> bool:
    """Publish and read; return whether that works."""
    with pkgstore.open(url, **options) as store:
        store.publish("a", b"content")
        return held(store) == {"a": b"content"}


def federation(gcs: GCS, tmp_path: Path) -> dict[str, Any]:
    """Return the document of a workload identity federation, whose subject token lies in a file."""
    subject = tmp_path / "subject"
    subject.write_text("subject-token")
    gcs.identity("subject", token="subject-token", email=ACCOUNT)
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/provider",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{gcs.origin}/sts",
        "credential_source": {"file": str(subject)},
    }


GIVEN: dict[str, Callable[[GCS, Path], Any]] = {
    "path": lambda gcs, _: gcs.file(gcs.document()),
    "dict": lambda gcs, _: gcs.document(),
    "object": lambda gcs, _: service_account.Credentials.from_service_account_info(gcs.document()),
    "token object": lambda gcs, _: google.oauth2.credentials.Credentials(gcs.identity("token", email=ACCOUNT)),
    "federation": lambda gcs, folder: federation(gcs, folder),
    "gcsfs": lambda gcs, _: file_system(gcs),
    "gcsfs's credentials": lambda gcs, _: file_system(gcs).credentials,
}

SET: dict[str, Callable[[GCS, Path], str]] = {
    "PKGSTORE_GCS_CREDENTIALS": lambda gcs, _: gcs.file(gcs.document()),
    "PKGSTORE_GCS_CREDENTIALS ": lambda gcs, _: json.dumps(gcs.document()),
    "PKGSTORE_GCS_CREDENTIALS_FILE": lambda gcs, _: gcs.file(gcs.document()),
    "PKGSTORE_GCS_TOKEN": lambda gcs, _: gcs.identity("token", email=ACCOUNT),
    "PKGSTORE_GCS_TOKEN_FILE": lambda gcs, folder: token_file(gcs, folder),
    "GOOGLE_APPLICATION_CREDENTIALS": lambda gcs, _: gcs.file(gcs.document()),
    "GOOGLE_APPLICATION_CREDENTIALS ": lambda gcs, folder: gcs.file(federation(gcs, folder)),
}


def file_system(gcs: GCS) -> Any:
    from gcsfs.core import GCSFileSystem

    token = gcs.file(gcs.document())
    return GCSFileSystem(project="project", token=token, endpoint_url=gcs.origin, skip_instance_cache=True)


def token_file(gcs: GCS, folder: Path) -> str:
    path = folder / "token"
    path.write_text(gcs.identity("token", email=ACCOUNT) + "\n")
    return str(path)


@pytest.mark.parametrize("what", GIVEN)
def test_credentials_that_are_given(gcs: GCS, what: str, tmp_path: Path) -> None:
    assert works(gcs.url(), credentials=GIVEN[what](gcs, tmp_path))


def test_credentials_in_a_url_are_a_path(gcs: GCS) -> None:
    assert works(gcs.url(credentials=gcs.file(gcs.document())))


@pytest.mark.parametrize("what", SET)
def test_credentials_in_variables(gcs: GCS, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(what.strip(), SET[what](gcs, tmp_path))
    assert works(gcs.url())


def test_credentials_of_gcloud(gcs: GCS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gcloud").mkdir()
    (tmp_path / "gcloud" / "application_default_credentials.json").write_text(json.dumps(gcs.document()))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project")
    assert works(gcs.url())


@pytest.fixture
def machine(gcs: GCS, monkeypatch: pytest.MonkeyPatch) -> GCS:
    """The fake, as the metadata server of this host."""
    gcs.identity("machine_account", email=ACCOUNT)
    place = gcs.origin.removeprefix("http://")
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", place)
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)
    monkeypatch.setenv("GCE_METADATA_IP", place)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project")
    monkeypatch.delenv("NO_GCE_CHECK")
    return gcs


def test_the_machine_has_credentials(machine: GCS) -> None:
    assert works(machine.url())
    assert machine.identity("count") >= 1


def test_nothing_falls_to_anonymous_access(gcs: GCS) -> None:
    url = gcs.url()
    gcs.control("set", public=[url.removeprefix("gs://").partition("?")[0]])
    with pytest.raises(Denied, match="no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS"):
        pkgstore.open(url)
    assert gcs.seen("/storage/|^GET /bucket") == []


def test_anonymous_access_when_asked_for(gcs: GCS) -> None:
    url = gcs.url()
    with pkgstore.open(url, credentials=gcs.document()) as store:
        store.publish("a", b"content")
    with pytest.raises(Denied, match="the bucket is not open to all; give credentials"):
        pkgstore.open(url, credentials="anonymous")
    gcs.control("set", public=[url.removeprefix("gs://").partition("?")[0]])
    for options in ({"credentials": "anonymous"}, {"credentials": google.auth.credentials.AnonymousCredentials()}):
        with pkgstore.open(url, readonly=True, **options) as store:
            assert held(store) == {"a": b"content"}
            with pytest.raises(NotFound):
                store.stat("b")


@pytest.mark.parametrize("size", [10, uploads.CHUNK + 1], ids=["small", "large"])
def test_a_revoked_token_is_renewed(gcs: GCS, size: int) -> None:
    with pkgstore.open(gcs.url(), credentials=gcs.document()) as store:
        calls: list[Any] = [
            lambda: store.publish("a", bytes(size)),
            lambda: store.read("a"),
            lambda: store.stat("a"),
            lambda: list(store.list()),
            lambda: store.delete("a"),
        ]
        for call in calls:
            before = gcs.identity("count")
            gcs.identity("revoke")
            call()
            assert gcs.identity("count") == before + 1
        assert held(store) == {}


def test_a_token_that_expires_is_renewed_before(gcs: GCS) -> None:
    gcs.control("identity", what="set_lifetime", seconds=100)
    with pkgstore.open(gcs.url(), credentials=gcs.document()) as store:
        before = gcs.identity("count")
        store.publish("a", b"1")
        assert gcs.identity("count") > before, "google-auth takes a token of 100 s for expired already"


def test_threads_renew_a_token_once(gcs: GCS) -> None:
    with pkgstore.open(gcs.url(), credentials=gcs.document()) as store:
        store.publish("a", b"1")
        gcs.identity("revoke")
        before = gcs.identity("count")
        barrier = threading.Barrier(8)

        def read(_: int) -> bytes:
            barrier.wait()
            return store.read("a")

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(read, range(8))) == [b"1"] * 8
        assert gcs.identity("count") == before + 1


def test_a_token_is_renewed_after_fork(gcs: GCS) -> None:
    with pkgstore.open(gcs.url(), credentials=gcs.document()) as store:
        access = store.driver._client.access  # type: ignore[attr-defined]
        gcs.identity("revoke")
        with access._lock:  # as if another thread were renewing
            child = os.fork()
            if child == 0:
                try:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.alarm(20)  # should it wait for ever, for the lock
                    store.publish("child", b"1")
                    os._exit(0)
                finally:
                    os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert held(store) == {"child": b"1"}


def test_a_token_file_is_read_again(gcs: GCS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(gcs.identity("token", email=ACCOUNT))
    monkeypatch.setenv("PKGSTORE_GCS_TOKEN_FILE", str(path))
    with pkgstore.open(gcs.url()) as store:
        gcs.identity("revoke")
        with pytest.raises(Denied, match="the access token that was given is not accepted; give another"):
            store.publish("a", b"1")
        path.write_text(gcs.identity("token", email=ACCOUNT))
        store.publish("a", b"1")


def test_a_key_that_is_revoked_is_denied(gcs: GCS) -> None:
    with pkgstore.open(gcs.url(), credentials=gcs.document()) as store:
        gcs.account(key=1)
        gcs.identity("revoke")
        with pytest.raises(Denied, match="give no access token: invalid_grant: Invalid JWT Signature.; see that they"):
            store.publish("a", b"1")


def test_an_account_that_is_unknown_is_denied(gcs: GCS) -> None:
    with pytest.raises(Denied, match="invalid_grant"):
        pkgstore.open(gcs.url(), credentials=gcs.document("other@project.iam.gserviceaccount.com"))


def test_a_token_that_is_never_accepted(gcs: GCS, monkeypatch: pytest.MonkeyPatch) -> None:
    gcs.control("fault", match="/storage/v1|^GET /bucket", do="status", value=401, reason="authError", times=1000)
    with pytest.raises(Denied, match=f"does not accept the token of {ACCOUNT}, not even a new one; see that the key"):
        pkgstore.open(gcs.url(), credentials=gcs.document())
    assert gcs.control("fired") == 2, "refreshed once, and asked once more"


# -- signed URLs ------------------------------------------------------------------------------------------------------


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        data: bytes = answer.read()
        return data


def test_a_signed_url(gcs: GCS) -> None:
    with pkgstore.open(gcs.url("/pypi"), credentials=gcs.document()) as store:
        store.publish("a b/é+~%2F", b"content")
        url = store.url("a b/é+~%2F", expires=60)
        assert fetched(url) == b"content"
        assert url.startswith(gcs.origin)
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            fetched(url.replace("X-Goog-Expires=60", "X-Goog-Expires=6000"))
        refused.value.close()
        with pytest.raises(NotFound):
            store.url("absent", expires=60)
        for expires in (0, -1, 8 * 24 * 3600):
            with pytest.raises(Unsupported, match="ask for up to seven days"):
                store.url("a b/é+~%2F", expires=expires)


def test_credentials_that_cannot_sign(gcs: GCS, tmp_path: Path) -> None:
    with pkgstore.open(gcs.url(), credentials=federation(gcs, tmp_path)) as store:
        store.publish("a", b"content")
        with pytest.raises(Unsupported, match="belong to no service account"):
            store.url("a", expires=60)


def test_a_signed_url_without_a_key(machine: GCS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "_SIGNING_SERVICE", machine.origin)
    with pkgstore.open(machine.url()) as store:
        store.publish("a", b"content")
        assert fetched(store.url("a", expires=60)) == b"content"
        machine.control("fault", match="signBlob", do="status", value=403, message="Permission denied")
        with pytest.raises(Denied, match="Permission denied.*; enable the IAM Credentials API, and grant"):
            store.url("a", expires=60)
    assert len(machine.seen("signBlob")) == 2


def test_no_signed_url_for_nobody(gcs: GCS) -> None:
    url = gcs.url()
    with pkgstore.open(url, credentials=gcs.document()) as store:
        store.publish("a", b"1")
    gcs.control("set", public=[url.removeprefix("gs://").partition("?")[0]])
    with pkgstore.open(url, credentials="anonymous", readonly=True) as store, pytest.raises(Unsupported):
        store.url("a", expires=60)


# -- what can be no credentials ---------------------------------------------------------------------------------------


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (f"/nowhere/{SECRET}.json", "names no file that can be read"),
        (f'{{"private_key": "{SECRET}"}}', "is a path, or in Python a dict"),
        ({"type": "password", "password": SECRET}, "its 'type' is none of service_account, external_account"),
        ({"private_key": SECRET}, "its 'type' is none of"),
        ({"type": "service_account", "private_key": SECRET}, "service_account credentials that cannot be used"),
        (
            {"type": "service_account", "client_email": "a@b", "token_uri": "https://c", "private_key": SECRET},
            "fields are missing or damaged",
        ),
        ({"type": "external_account", "audience": SECRET}, "external_account credentials that cannot be used"),
        ({"type": "authorized_user", "refresh_token": SECRET}, "authorized_user credentials that cannot be used"),
        (5, "is a path, a dict, a credentials object of google-auth, or 'anonymous'"),
        (b"path", "is a path"),
    ],
    ids=range(10),
)
def test_what_can_be_no_credentials(gcs: GCS, given: object, message: str) -> None:
    with pytest.raises(Misconfigured, match=message) as refused:
        pkgstore.open(gcs.url(), credentials=given)
    assert_one_line_without(refused.value, SECRET)


@pytest.mark.parametrize(
    "content", [SECRET, "[]", "\x00\xff", f'{{"type": "service_account", "private_key": "{SECRET}"}}']
)
@pytest.mark.parametrize("name", VARIABLES[:2] + VARIABLES[4:5])
def test_a_file_that_holds_no_credentials(
    gcs: GCS, name: str, content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content.encode("latin-1"))
    monkeypatch.setenv(name, str(path))
    with pytest.raises(Misconfigured, match=f"the variable {name} ") as refused:
        pkgstore.open(gcs.url())
    assert_one_line_without(refused.value, SECRET)


@pytest.mark.parametrize("token", ["", "\n", "two\nlines", "ünïcode"])
def test_a_token_that_can_be_none(gcs: GCS, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("PKGSTORE_GCS_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(Misconfigured, match="the access token that was given is none"):
        pkgstore.open(gcs.url())


def test_variables_that_contradict_each_other(gcs: GCS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKGSTORE_GCS_TOKEN", SECRET)
    monkeypatch.setenv("PKGSTORE_GCS_CREDENTIALS", SECRET)
    with pytest.raises(Misconfigured, match="PKGSTORE_GCS_CREDENTIALS and PKGSTORE_GCS_TOKEN are set at once") as error:
        pkgstore.open(gcs.url())
    assert_one_line_without(error.value, SECRET)


@pytest.mark.parametrize("option", ["token", "private_key", "secret"])
def test_secrets_are_no_options(gcs: GCS, option: str) -> None:
    with pytest.raises(Misconfigured, match=f"no option '{option}'") as refused:
        pkgstore.open(gcs.url(**{option: SECRET}))
    assert_one_line_without(refused.value, SECRET)


def test_credentials_are_sent_encrypted_only(gcs: GCS) -> None:
    with pytest.raises(Misconfigured, match="would be sent credentials unencrypted"):
        pkgstore.open("gs://bucket", endpoint_url="http://192.0.2.1", credentials=gcs.document())


def test_nothing_shows_a_secret(gcs: GCS) -> None:
    with pkgstore.open(gcs.url(), credentials=gcs.document()) as store:
        client = store.driver._client  # type: ignore[attr-defined]
        token = client.access.token()
        shown = " ".join(map(repr, (store, store.driver, client, client.access)))
        assert token not in shown
        assert private_key()[40:80] not in shown


def assert_one_line_without(error: BaseException, secret: str) -> None:
    """Fail when an error, or what it came from, shows a secret."""
    import traceback

    assert "\n" not in str(error)
    own = [line for line in traceback.format_exception(error) if not line.startswith("  File")]
    assert secret not in "".join(own)
