"""The S3 servers for tests start, check signatures, and leave nothing running."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from tests import s3_servers
from tests.endpoints import client, free_ports, listens

if TYPE_CHECKING:
    from collections.abc import Iterator


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def alive(groups: tuple[int, ...]) -> list[str]:
    """Return the processes, by what /proc says of them, that are in one of the groups and have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, group = stat.rpartition(")")[2].split()[:3]
        if int(group) in groups and state != "Z":
            found.append(stat)
    return found


@pytest.mark.parametrize("name", s3_servers.SERVERS)
def test_a_server(name: str, tmp_path: Path) -> None:
    with s3_servers.SERVERS[name](tmp_path / name) as server:
        assert len(alive(server.processes)) >= len(server.processes) >= 1
        server.create_bucket("bucket")
        s3 = server.client()
        s3.put_object(Bucket="bucket", Key="some/key", Body=b"1" * 1000)
        assert s3.get_object(Bucket="bucket", Key="some/key")["Body"].read() == b"1" * 1000
        for verb, options in (("get_object", {}), ("put_object", {"Body": b"2"})):
            with pytest.raises(ClientError) as caught:
                getattr(server.client("wrong"), verb)(Bucket="bucket", Key="some/key", **options)
            assert code(caught) == "SignatureDoesNotMatch"
        with pytest.raises(ClientError) as caught:
            client(server.url, "AKIANOBODY", "wrong").get_object(Bucket="bucket", Key="some/key")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert s3.get_object(Bucket="bucket", Key="some/key")["Body"].read() == b"1" * 1000
    assert alive(server.processes) == []
    assert not listens(server.port)


def test_a_server_ends_when_its_test_fails(tmp_path: Path) -> None:
    def failing() -> None:
        with s3_servers.rclone(tmp_path / "rclone") as server:
            processes.extend(server.processes)
            server.stop()
            raise ZeroDivisionError

    processes: list[int] = []
    with pytest.raises(ZeroDivisionError):
        failing()
    assert processes
    assert alive(tuple(processes)) == []


def test_a_server_that_does_not_start_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_servers, "packaged", lambda _: "/bin/false")
    with pytest.raises(AssertionError, match="0-false ended with 1"), s3_servers.rclone(tmp_path / "rclone"):
        pass


@pytest.mark.parametrize("name", ["rclone", "seaweedfs"])  # one that has one port, and one that has several
def test_a_port_that_another_process_takes_is_given_up(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [taken] = free_ports(1, 10000)
    given: list[list[int]] = []

    def first_one_taken(count: int, *offsets: int) -> list[int]:
        given.append(free_ports(count, *offsets))
        return given[-1] if len(given) > 1 else [taken, *given[-1][1:]]

    monkeypatch.setattr(s3_servers, "free_ports", first_one_taken)
    with socket.create_server(("127.0.0.1", taken)), s3_servers.SERVERS[name](tmp_path / name) as server:
        assert server.port != taken
        assert len(given) == 2


class TestRunning:
    """What fixtures share for a whole session."""

    def test_a_server_is_started_once(self, tmp_path: Path) -> None:
        with s3_servers.shared(tmp_path) as running:
            first = running("rclone")
            assert running("rclone") is first
        assert alive(first.processes) == []

    def test_a_server_stands_still_and_goes_on(self, tmp_path: Path) -> None:
        with s3_servers.shared(tmp_path) as running:
            server = running("rclone")
            server.stop()
            with pytest.raises(ReadTimeoutError):
                server.client(read_timeout=0.2).list_buckets()
            server.cont()
            assert server.client().list_buckets()["Buckets"] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_servers.Ministack]:
    with s3_servers.ministack(tmp_path_factory.mktemp("ministack")) as server:
        server.create_bucket("bucket")
        server.client().put_object(Bucket="bucket", Key="a", Body=b"1")
        yield server


@pytest.mark.xdist_group("ministack")
class TestMinistack:
    """Users with policies of their own."""

    @pytest.mark.parametrize(
        ("denied", "verb", "options"),
        [
            ("s3:PutObject", "put_object", {"Key": "a"}),
            ("s3:GetObject", "get_object", {"Key": "a"}),
            ("s3:DeleteObject", "delete_object", {"Key": "a"}),
            ("s3:ListBucket", "list_objects_v2", {}),
            ("s3:AbortMultipartUpload", "abort_multipart_upload", {"Key": "a", "UploadId": "1"}),
        ],
    )
    def test_a_user_may_do_what_its_policy_allows(
        self, server: s3_servers.Ministack, denied: str, verb: str, options: dict[str, str]
    ) -> None:
        everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        user = server.user(
            {"Version": "2012-10-17", "Statement": [everything, {**everything, "Effect": "Deny", "Action": denied}]}
        )
        with pytest.raises(ClientError) as caught:
            getattr(client(server.url, *user), verb)(Bucket="bucket", **options)
        assert code(caught) == "AccessDenied"
        assert client(server.url, *user).head_bucket(Bucket="bucket") if denied != "s3:ListBucket" else True
        assert server.client().get_object(Bucket="bucket", Key="a")["Body"].read() == b"1"


def test_free_ports_are_free_with_their_offsets() -> None:
    ports = free_ports(20, 10000)
    assert len({*ports, *(port + 10000 for port in ports)}) == 40
    assert not any(listens(port) or listens(port + 10000) for port in ports)


def test_nothing_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\nregion = eu-west-1\n")
    for name, value in {"CONFIG_FILE": str(tmp_path / "config"), "PROFILE": "nobody", "ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with s3_servers.rclone(tmp_path / "rclone") as server:
        assert server.client().list_buckets()["Buckets"] == []
    assert os.environ["AWS_PROFILE"] == "nobody"
