"""docs/how-to/s3.md does what it says, on a server: its commands and programs are run, in order."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
import sys
from base64 import b64encode
from dataclasses import asdict
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pkgstore
from pkgstore import opening, registry
from pkgstore.drivers.s3 import dialects, probe
from tests import s3_servers
from tests.packages import wheel, wheel_name
from tests.servers import call, create_app, gunicorn
from tests.test_docs_tutorial import Block, Command, Shell, assert_alike, blocks, commands, folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.s3_servers import Ministack

__all__ = ["folder"]

pytestmark = pytest.mark.xdist_group("docs_s3")

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "s3.md"
REFERENCE = ROOT / "docs" / "reference" / "s3.md"
REGION = "eu-central-1"

# What the page does with the tools of AWS.
AWS = f"""\
#!{sys.executable}
import json, re, sys
from pathlib import Path
from botocore.session import Session

client = Session().create_client("s3", region_name="{REGION}")
tool, verb, *words = sys.argv[1:]
if (tool, verb) == ("s3", "cp"):
    source, target = words
    bucket, key = re.fullmatch("s3://([^/]+)/(.+)", target).groups()
    client.put_object(Bucket=bucket, Key=key, Body=Path(source).read_bytes())
else:
    assert tool == "s3api"
    given = dict(zip(words[::2], words[1::2], strict=True))
    values = {{name: json.loads(Path(value[7:]).read_text()) if value.startswith("file://") else value
              for name, value in given.items()}}
    names = {{name: name[2:].replace("-", " ").title().replace(" ", "") for name in values}}
    getattr(client, verb.replace("-", "_"))(**{{names[name]: value for name, value in values.items()}})
"""


class Session(Shell):
    """A shell in which `export` holds for what follows, and in which ``names`` of the page stand for what is here."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.names = names

    def run(self, command: Command) -> None:
        command = Command(*map(self.meant, command))
        if command.line.startswith("export "):
            assert not command.expected
            self._environment |= dict(word.split("=", 1) for word in shlex.split(command.line)[1:])
        else:
            super().run(command)

    def run_python(self, block: Block) -> str:
        return super().run_python(block._replace(text=self.meant(block.text)))

    def meant(self, text: str) -> str:
        for name, here in self.names.items():
            text = text.replace(name, here)
        return text


def run(session: Session, page: list[Block]) -> int:
    """Run the commands and programs of a page, in order; return how many there were."""
    ran = 0
    for block in page:
        if block.language == "json":
            continue
        if block.language == "python":
            assert block.expected
            assert_alike(session.run_python(block), block.expected)
            ran += 1
            continue
        assert block.language == "console"
        for command in commands(block):
            session.run(command)
            ran += 1
    return ran


def table(page: Path, header: str) -> list[list[str]]:
    """Return the cells of the rows of the table whose first line starts like this."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(header)) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.split("|")[1:-1]])
    return rows


def assert_options_are_told(page: Path, scheme: str) -> None:
    told = {name for row in table(page, "| option |") for name in re.findall(r"`(\w+)`", row[0])}
    assert told == opening._OPTIONS | registry.own_options(registry.find(scheme))


def messages(*places: str) -> list[str]:
    """Return the texts that a part of pkgstore may say, with `…` for what is put into them."""
    found = []
    for place in places:
        path = ROOT / "src" / "pkgstore" / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (each.value if isinstance(each, ast.Constant) else "…" for each in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def assert_messages_exist(page: Path, *places: str) -> None:
    said = messages("opening.py", "reading.py", *places)
    rows = table(page, "| message |")
    assert len(rows) > 15
    for message in (message for row in rows for message in re.findall(r"`([^`]+)`", row[0])):
        for part in filter(None, re.split(r" ?… ?|; ", message)):
            assert any(part in text for text in said), f"nothing says {part!r}, of {message!r}"


def gunicorn_app(page: Path, folder: Path) -> str:
    """Return the app that a page runs, with a password file that knows ann and her password, which is `secret`."""
    (line,) = re.findall(r"^    (gunicorn .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    digest = b64encode(sha1(b"secret").digest()).decode()
    (folder / "htpasswd").write_text(f"ann:{{SHA}}{digest}\n")
    app = shlex.split(line)[-1]
    assert '"htpasswd"' in app
    return app.replace("htpasswd", str(folder / "htpasswd"))


def assert_replicas_share(app: str, folder: Path) -> None:
    """Run three replicas of an index; what one takes, the others serve, and refuse."""
    filename, data = wheel_name("demo"), wheel("demo")
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(gunicorn(app, folder / f"{name}.log", workers=1)) for name in "abc"]
        assert replicas[0].upload(filename, data, user="ann:secret").status == 200
        assert replicas[1].upload(filename, data, user="ann:secret").status == 409
        assert replicas[1].upload(filename, data).status == 401
        for replica in replicas:
            (link,) = replica.files("demo").values()
            assert replica.get(link.partition("#")[0]).body == data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    with s3_servers.ministack(tmp_path_factory.mktemp("s3") / "ministack") as endpoint:
        yield endpoint


@pytest.fixture
def here(server: Ministack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ministack]:
    """The server in the place of AWS, with the buckets of the page, empty."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "PKGSTORE_S3_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    log_in(monkeypatch, server.access_key, server.secret_key)
    s3 = server.client()
    s3.create_bucket(Bucket="packages", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.create_bucket(Bucket="mirror")
    yield server
    for bucket in ("packages", "mirror"):
        for each in s3.list_objects_v2(Bucket=bucket).get("Contents", ()):
            s3.delete_object(Bucket=bucket, Key=each["Key"])
        s3.delete_bucket(Bucket=bucket)


def log_in(monkeypatch: pytest.MonkeyPatch, access_key: str, secret_key: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)


@pytest.fixture
def session(here: Ministack, folder: Path) -> Session:
    """A shell for the page, with its secrets, its tools and its files."""
    secrets = folder.parent / "secrets"
    secrets.mkdir()
    (secrets / "s3-key-id").write_text(f"{here.access_key}\n")
    (secrets / "s3-secret").write_text(f"{here.secret_key}\n")
    tool = folder.parent / "bin" / "aws"
    tool.write_text(AWS)
    tool.chmod(0o755)
    (folder / "lifecycle.json").write_text(json.dumps(document("Rules")))
    return Session(folder, {"https://s3.example.com": here.url, "/run/secrets": str(secrets)})


def document(field: str) -> dict[str, Any]:
    """Return the JSON document of the page that has this field."""
    documents = [json.loads(block.text) for block in blocks(PAGE) if block.language == "json"]
    (found,) = (each for each in documents if field in each)
    return dict(found)


def may_also(*actions: str, on: str = "pypi/*") -> dict[str, Any]:
    """Return the policy of the page, with more in it."""
    policy = document("Statement")
    policy["Statement"].append({"Effect": "Allow", "Action": actions, "Resource": f"arn:aws:s3:::packages/{on}"})
    return policy


def test_the_page(session: Session, here: Ministack) -> None:
    assert run(session, blocks(PAGE)) > 20
    (rule,) = here.client().get_bucket_lifecycle_configuration(Bucket="packages")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


def test_credentials_in_files(session: Session, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pkgstore.open("s3://packages/pypi", region=REGION) as store:
        store.publish("demo/demo-1.0.tar.gz", b"a package\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with_files = Session(folder, session.names)
    (block,) = (block for block in blocks(PAGE) if "PKGSTORE_S3_" in block.text)
    for command in commands(block):
        with_files.run(command)
    nobody = Command(
        commands(block)[-1].line + ' || echo "exit code $?"', "pkgstore: …no credentials were found…\nexit code 5"
    )
    Session(folder, session.names).run(nobody)


def test_the_policy_publishes_and_reads(here: Ministack, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://packages/pypi?region={REGION}"
    log_in(monkeypatch, *here.user(may_also("s3:DeleteObject", "s3:AbortMultipartUpload")))
    with pkgstore.open(url) as store:
        store.publish("a/gone", b"")
        store.delete("a/gone")
    log_in(monkeypatch, *here.user(document("Statement")))
    large = b"1" * (9 << 20)  # in parts
    with pkgstore.open(url) as store:
        store.publish("a/small", b"1")
        store.publish("a/large", large)
        for body in (b"1", large):
            with pytest.raises(pkgstore.Exists):
                store.publish("a/small" if len(body) == 1 else "a/large", body)
        assert store.read("a/large") == large
        assert [blob.key for blob in store.list()] == ["a/large", "a/small"]
        with pytest.raises(pkgstore.NotFound):
            store.stat("a/absent")
        with pytest.raises(pkgstore.Denied, match="allow s3:DeleteObject"):
            store.delete("a/small")
        with pytest.raises(pkgstore.Denied, match="allow s3:ListBucketMultipartUploads"):
            list(store.leftovers())


def test_the_policy_alone_makes_a_store(
    here: Ministack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the right to delete: deletes count as unconditional, and what the probe made stays, and is told."""
    log_in(monkeypatch, *here.user(document("Statement")))
    with pkgstore.open(f"s3://packages/pypi?region={REGION}") as store:
        (found,) = store.probed.values()
        assert found["put"]
        assert not found["delete"]
        assert "may not delete" in found["delete_reason"]
        left = [blob.key for blob in store.driver.scan(".pkgstore/probe/")]
        assert left
        assert all(f"pypi/{key}, left by a probe" in caplog.text for key in left)
        store.publish("a/a", b"1")
        with pytest.raises(pkgstore.Exists):
            store.publish("a/a", b"2")


@pytest.mark.parametrize("allowed", [True, False])
def test_health_needs_deleting(here: Ministack, monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    url = f"s3://packages/pypi?region={REGION}"
    pkgstore.open(url).close()
    policy = may_also("s3:DeleteObject", on="pypi/.health/*") if allowed else document("Statement")
    log_in(monkeypatch, *here.user(policy))
    with pkgstore.open(url) as store:
        answer = call(create_app(store, "-P", ".", "-a", "."), "GET", "/health")
        assert answer.status == (200 if allowed else 503)
        assert len(list(store.list(".health/"))) == (0 if allowed else 1)


def test_three_replicas(here: Ministack, tmp_path: Path) -> None:
    pkgstore.open("s3://packages/pypi", region=REGION).close()
    assert_replicas_share(gunicorn_app(PAGE, tmp_path), tmp_path)


def test_a_folder_behind_a_mount_becomes_the_same_store(here: Ministack, tmp_path: Path) -> None:
    with pkgstore.open(tmp_path / "mount") as mounted:
        mounted.publish("demo/demo-1.0.tar.gz", b"a package\n")
    for path in (tmp_path / "mount").rglob("*"):
        if path.is_file():
            key = f"pypi/{path.relative_to(tmp_path / 'mount').as_posix()}"
            here.client().put_object(Bucket="packages", Key=key, Body=path.read_bytes())
    here.client().put_object(Bucket="packages", Key="pypi/demo/", Body=b"")
    with pkgstore.open("s3://packages/pypi", region=REGION) as store:
        assert store.id == mounted.id
        assert [blob.key for blob in store.list()] == ["demo/demo-1.0.tar.gz"]
        assert store.read("demo/demo-1.0.tar.gz") == b"a package\n"


def test_a_versioned_bucket(here: Ministack) -> None:
    s3 = here.client()
    s3.create_bucket(Bucket="versioned")
    s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    with pkgstore.open("s3://versioned/pypi") as store:
        for body in (b"1", b"2"):
            store.publish("a/a", body)
            with pytest.raises(pkgstore.Exists):
                store.publish("a/a", b"3")
            store.delete("a/a")
        assert list(store.list()) == []
    versions = s3.list_object_versions(Bucket="versioned", Prefix="pypi/a/")
    assert (len(versions["Versions"]), len(versions["DeleteMarkers"])) == (2, 2)


def test_the_options_are_all_told() -> None:
    assert_options_are_told(PAGE, "s3")


def test_the_dialects_are_all_told() -> None:
    names = {each.name for each in dialects._ALL} - {"generic"}
    (row,) = (row for row in table(PAGE, "| option |") if row[0] == "`dialect`")
    assert set(re.findall(r"`(\w+)`", row[1])) == names
    services = [
        *table(REFERENCE, "| service | dialect | addressing | region | "),
        *table(REFERENCE, "| service | dialect | addressing | region to"),
    ]
    assert {row[1].strip("`") for row in services} - {""} == names
    relied_on = re.search(r"relied on only where the dialect says so too: (.*?)\.", REFERENCE.read_text(), re.DOTALL)
    assert relied_on
    assert set(re.findall(r"`(\w+)`", relied_on[1])) == {each.name for each in dialects._ALL if each.completes_once}


def test_what_a_store_remembers_is_told() -> None:
    (example,) = re.findall(r"^    (\{\"format\".*?\}\}\})$", REFERENCE.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = json.loads(example)["probed"].values()
    assert found == asdict(probe.Found(**found))


def test_the_messages_exist() -> None:
    assert_messages_exist(PAGE, "drivers/s3")
