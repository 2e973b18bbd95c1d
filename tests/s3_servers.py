"""S3 servers for tests, each a context manager that takes a folder and yields an `Endpoint`.

Those that come from Python packages are always there: they belong to the tests' dependencies. Ceph comes from Debian.
All of them check signatures.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import sys
import uuid
from configparser import ConfigParser
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests import needs
from tests.endpoints import REGION, Endpoint, Processes, answers, client, free_ports, packaged, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ACCESS_KEY = "AKIAPKGSTORETESTS"
SECRET_KEY = "a-secret-for-servers-on-loopback"

_SEAWEEDFS_ROLES = ("s3", "master", "volume", "filer", "admin")
_SWIFT_RINGS = """
import sys
from swift.common.ring import RingBuilder
for role, port in zip(sys.argv[1::2], sys.argv[2::2]):
    ring = RingBuilder(4, 1, 0)
    ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "one", "weight": 1})
    ring.rebalance()
    ring.get_ring().save(f"{role}.ring.gz")
"""
_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass(frozen=True)
class Ministack(Endpoint):
    """A ministack that runs. It judges each request by the policies of the user whose access key signed it."""

    def user(self, policy: Mapping[str, Any]) -> tuple[str, str]:
        """Make a user who may do what an IAM policy document allows, and return its access key and secret key."""
        return _make_user(self.url, policy)


@server
def ministack(processes: Processes) -> Endpoint:
    """Run ministack, which checks signatures and policies. Its root user's signatures alone go unchecked."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    processes.start(
        packaged("ministack"),
        AUTH="true",
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(port),
        SERVICES="s3,iam",
        S3_PERSIST="1",
        S3_DATA_DIR=str(processes.folder / "data"),
        STATE_DIR=str(processes.folder / "state"),
        LOG_LEVEL="WARNING",
    )
    processes.until(lambda: processes.listen(port) and answers(url, "test", "test"))
    return Ministack("ministack", url, *_make_user(url, _ALL), processes.ids)


@server
def moto(processes: Processes) -> Endpoint:
    """Run moto, which checks signatures from its fourth request on: the first three make the user."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    processes.start(packaged("moto_server"), "-H", "127.0.0.1", "-p", str(port), INITIAL_NO_AUTH_ACTION_COUNT="3")
    processes.until(lambda: processes.listen(port))
    return Endpoint("moto", url, *_make_user(url, _ALL), processes.ids)


@server
def seaweedfs(processes: Processes) -> Endpoint:
    """Run SeaweedFS: master, volume server, filer and S3 gateway in one process."""
    ports = dict(zip(_SEAWEEDFS_ROLES, free_ports(5, 10000), strict=True))  # gRPC is at the port 10000 above each
    identity = {
        "name": "pkgstore",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (processes.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (processes.folder / "data").mkdir()
    processes.start(
        packaged("weed"),
        "mini",
        f"-dir={processes.folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{role}.port={port}" for role, port in ports.items()),
        f"-s3.config={processes.folder / 's3.json'}",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
    )
    return _ready("seaweedfs", ports["s3"], processes)


@server
def juicefs(processes: Processes) -> Endpoint:
    """Run JuiceFS's gateway over SQLite and a folder."""
    port, metrics = free_ports(2)
    program, database = packaged("juicefs"), f"sqlite3://{processes.folder}/meta.db"
    processes.run(program, "format", "--no-update", "--bucket", f"{processes.folder}/data/", database, "pkgstore")
    processes.start(
        program,
        "gateway",
        "--multi-buckets",
        "--keep-etag",
        "--object-meta",
        "--no-banner",
        "--no-usage-report",
        *("--log", processes.folder / "juicefs.log"),
        *("--cache-dir", processes.folder / "cache"),
        *("--metrics", f"127.0.0.1:{metrics}"),
        database,
        f"127.0.0.1:{port}",
        MINIO_ROOT_USER=ACCESS_KEY,
        MINIO_ROOT_PASSWORD=SECRET_KEY,
    )
    return _ready("juicefs", port, processes)


@server
def rclone(processes: Processes) -> Endpoint:
    """Run `rclone serve s3` over a folder."""
    [port] = free_ports(1)
    data = processes.folder / "data"
    data.mkdir()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    processes.start(packaged("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, data)
    return _ready("rclone", port, processes)


@server
def swift(processes: Processes) -> Endpoint:
    """Run OpenStack Swift with its S3 API: one account, container, object and proxy server each, one replica."""
    folder, roles = processes.folder, ("account", "container", "object", "proxy")
    _needs_attributes(folder)
    ports = dict(zip(roles, free_ports(len(roles)), strict=True))
    (folder / "devices" / "one").mkdir(parents=True)
    _write(
        folder / "swift.conf",
        {
            "swift-hash": {"swift_hash_path_suffix": "pkgstore"},
            "storage-policy:0": {"name": "only", "default": "yes"},
            "swift-constraints": {"max_header_size": 16384},
        },
    )
    for role in roles:
        sections = _swift_proxy() if role == "proxy" else _swift_storage(role)
        _write(folder / f"{role}.conf", {"DEFAULT": _swift(folder, ports[role]), **sections})
    addresses = [word for role in roles[:3] for word in (role, str(ports[role]))]
    processes.run(sys.executable, "-c", _SWIFT_RINGS, *addresses)
    for role in roles:
        processes.start(packaged(f"swift-{role}-server"), folder / f"{role}.conf", SWIFT_DIR=str(folder))
    processes.until(lambda: all(map(processes.listen, ports.values())))
    return _ready("swift", ports["proxy"], processes, access_key="account:user")


def _swift(folder: Path, port: int) -> dict[str, object]:
    return {
        "bind_ip": "127.0.0.1",
        "bind_port": port,
        "bind_timeout": 1,
        "workers": 0,
        "user": getpass.getuser(),
        "swift_dir": folder,
        "devices": folder / "devices",
        "mount_check": "false",
        "disable_fallocate": "true",
        "log_address": folder / "no-syslog-here",
        "log_level": "WARNING",
    }


def _swift_storage(role: str) -> dict[str, dict[str, object]]:
    name = f"{role}-server"
    return {"pipeline:main": {"pipeline": name}, f"app:{name}": {"use": f"egg:swift#{role}"}}


def _swift_proxy() -> dict[str, dict[str, object]]:
    """Return the proxy's pipeline, in the order that the S3 API demands, and the settings of its parts."""
    settings: dict[str, dict[str, object]] = {
        "catch_errors": {},
        "gatekeeper": {},
        "cache": {"use": "egg:swift#memcache", "memcache_servers": "127.0.0.1:1"},
        "listing_formats": {},
        "s3api": {"location": REGION, "s3_acl": "false"},
        "tempauth": {"user_account_user": f"{SECRET_KEY} .admin"},
        "copy": {},
        "slo": {},
        "dlo": {},
        "versioned_writes": {"allow_object_versioning": "true"},
        "symlink": {},
    }
    return {
        "pipeline:main": {"pipeline": " ".join([*settings, "proxy-server"])},
        "app:proxy-server": {
            "use": "egg:swift#proxy",
            "account_autocreate": "true",
            "allow_account_management": "true",
        },
        **{f"filter:{name}": {"use": f"egg:swift#{name}", **values} for name, values in settings.items()},
    }


@server
def ceph(processes: Processes) -> Endpoint:
    """Run Ceph's object gateway on one monitor and one OSD, whose objects are in memory."""
    programs = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    ceph, authtool, mon, osd, monmaptool, radosgw, admin = map(needs.program, programs)
    folder, cluster = processes.folder, str(uuid.uuid4())
    port, mon_port = free_ports(2)
    _write(folder / "ceph.conf", _ceph(folder, cluster, port, mon_port))
    processes.env["CEPH_CONF"] = str(folder / "ceph.conf")

    (folder / "keyring").touch()
    for name in ("mon.", "client.admin", "client.rgw"):
        allowed = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        processes.run(authtool, folder / "keyring", "--gen-key", "-n", name, *allowed)
    address = f"[v2:127.0.0.1:{mon_port}]"
    processes.run(monmaptool, "--create", "--addv", "one", address, "--fsid", cluster, folder / "monmap")
    processes.run(mon, "--mkfs", "-i", "one", "--monmap", folder / "monmap", "--keyring", folder / "keyring")
    processes.start(mon, "-f", "-i", "one")
    processes.until(lambda: processes.listen(mon_port))
    disk = str(uuid.uuid4())
    (folder / "osd").mkdir()
    processes.run(ceph, "osd", "new", disk, "0")
    processes.run(osd, "-i", "0", "--mkfs", "--osd-uuid", disk)
    processes.start(osd, "-f", "-i", "0")
    user = ("--uid", "pkgstore", "--display-name", "pkgstore", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
    processes.run(admin, "user", "create", *user)
    processes.start(radosgw, "-f", "-n", "client.rgw")
    return _ready("ceph", port, processes)


def _ceph(folder: Path, cluster: str, port: int, mon_port: int) -> dict[str, dict[str, object]]:
    """Return the settings: no authentication between the daemons, one copy of all, and few placement groups."""
    everywhere: dict[str, object] = {
        "fsid": cluster,
        "mon host": f"v2:127.0.0.1:{mon_port}/0",
        "public network": "127.0.0.0/8",
        "cluster network": "127.0.0.0/8",
        "keyring": folder / "keyring",
        "run dir": folder,
        "crash dir": folder,
        "log file": folder / "$name.log",
        "admin socket": "",
        "auth cluster required": "none",
        "auth service required": "none",
        "auth client required": "none",
        "osd pool default size": 1,
        "osd pool default min size": 1,
        "osd pool default pg num": 4,
        "osd pool default pgp num": 4,
        "osd pool default pg autoscale mode": "off",
        "osd crush chooseleaf type": 0,
        "mon max pg per osd": 1000,
        "mon data avail crit": 1,
        "paxos propose interval": 0.05,
    }
    return {
        "global": everywhere,
        "mon.one": {"mon data": folder / "mon", "mon initial members": "one"},
        "osd.0": {"osd data": folder / "osd", "osd objectstore": "memstore", "memstore device bytes": 4 << 30},
        "client.rgw": {
            "rgw data": folder / "rgw",
            "rgw frontends": f"beast endpoint=127.0.0.1:{port}",
            "ms mon client mode": "crc",  # the gateway insists on encryption otherwise, which needs authentication
        },
    }


SERVERS: Mapping[str, Callable[[Path], contextlib.AbstractContextManager[Endpoint]]] = {
    each.__name__: each for each in (ministack, moto, seaweedfs, ceph, swift, juicefs, rclone)
}


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[Callable[[str], Endpoint]]:
    """Yield a function that returns the server of a name, which it starts at the first call. All end with the block."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Endpoint] = {}

        def running(name: str) -> Endpoint:
            if name not in started:
                started[name] = stack.enter_context(SERVERS[name](folder / name))
            return started[name]

        yield running


def _ready(name: str, port: int, processes: Processes, access_key: str = ACCESS_KEY) -> Endpoint:
    url = f"http://127.0.0.1:{port}"
    processes.until(lambda: processes.listen(port) and answers(url, access_key, SECRET_KEY))
    return Endpoint(name, url, access_key, SECRET_KEY, processes.ids)


def _make_user(url: str, policy: Mapping[str, Any]) -> tuple[str, str]:
    """Make a user in a server that has IAM, as its root user, with three requests."""
    iam, name = client(url, "test", "test", "iam"), f"user-{uuid.uuid4()}"
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def _write(path: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
    """Write a configuration file."""
    config = ConfigParser(interpolation=None)
    config.read_dict(sections)
    with path.open("w") as file:
        config.write(file)


def _needs_attributes(folder: Path) -> None:
    try:
        os.setxattr(folder, "user.pkgstore", b"1")
    except OSError as exc:
        needs.missing(f"the file system of {folder} has no extended attributes: {exc.strerror}")
