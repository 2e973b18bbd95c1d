"""Keyrings: files of keys, of which one is for sealing, and all are for opening.

A file is JSON: ``{"format": 1, "active": ID, "keys": [{"id": ID, "created": TIME, "key": BASE64}, …]}``. An id is
computed from its key, so that no key can stand under the id of another. Others than the owner and the group must have
no access to it. It is read again when it has changed, so that a process need not be restarted for a new key.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hmac
import json
import os
import stat
import time
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from pkgstore.config import expand
from pkgstore.crypt.segments import SealError
from pkgstore.errors import Denied, Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FORMAT = 1
_LENGTH = 32
_ID = 8
_LARGEST = 1 << 20
_OTHERS = stat.S_IRWXO | stat.S_IWGRP


class Secret:
    """A key that no message, repr or traceback shows. ``id`` is its public name, 16 hexadecimal digits."""

    __slots__ = ("_reveal", "created", "id")

    _reveal: Callable[[], bytes]

    def __init__(self, key: bytes, created: str) -> None:
        self.id = hmac.digest(key, b"pkgstore key id", "sha256")[:_ID].hex()
        self.created = created
        self._reveal = lambda: key

    def reveal(self) -> bytes:
        """Return the 32 bytes themselves."""
        return self._reveal()

    def __repr__(self) -> str:
        return f"<key {self.id}>"


class Keys(NamedTuple):
    """What a keyring holds: its keys by id, in the order in which they came, and the id of the one for sealing."""

    active: str
    by_id: dict[str, Secret]


class Keyring:
    """The keys in the file at ``path``. Safe to share between threads, and to use in children after fork."""

    def __init__(self, path: str) -> None:
        """Read the file. Raises `Misconfigured` when it cannot be read, is none, or is open to others."""
        self.path = path
        self._last = _read(path)  # one value, since other threads may read the file anew at any moment

    @property
    def active(self) -> Secret:
        """The key for sealing, as the file now says. Raises as reading it does."""
        keys = self._now()
        return keys.by_id[keys.active]

    def find(self, key_id: str) -> Secret:
        """Return a key, for opening. Raises `SealError`, of kind `Denied`, that names one that is not there."""
        found = self._last[0].by_id.get(key_id) or self._now().by_id.get(key_id)
        if found is None:
            raise SealError(
                Denied,
                f"it is sealed under the key {key_id}, which the keyring {self.path} does not hold",
                "add that key to the keyring",
            )
        return found

    def _now(self) -> Keys:
        keys, version = self._last
        if version != _version(_status(self.path)):
            keys, version = self._last = _read(self.path)
        return keys

    def __repr__(self) -> str:
        return f"<keyring {self.path}>"


class NoKeyring:
    """What a store has that was opened without a keyring: no key for anything."""

    @property
    def active(self) -> Secret:
        raise SealError(Denied, "the store is encrypted, and no keyring was given", _GIVE_ONE)

    def find(self, key_id: str) -> Secret:
        remedy = f"{_GIVE_ONE}; the option ciphertext=true shows and verifies what lies there, without keys"
        raise SealError(Denied, f"it is sealed under the key {key_id}, and no keyring was given", remedy)


_GIVE_ONE = "give its file with keyring=, or in PKGSTORE_KEYRING_FILE"


def file_of(path: str | os.PathLike[str]) -> str:
    """Return the path that the option `keyring` names, with its variables expanded. Raises `Misconfigured`."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a keyring is named by a str or a path, not {type(text).__name__}")
    if not text or "\0" in text:
        raise Misconfigured(
            f"the keyring {text!r} is not the path of a file: name the one that `pkgstore keys new` made"
        )
    return os.path.abspath(os.path.expanduser(expand(text)))


# -- making and changing files ----------------------------------------------------------------------------------------


def held(path: str) -> Keys:
    """Return what is in the keyring at ``path``. Raises `Misconfigured`."""
    return _read(path)[0]


def make(path: str) -> Secret:
    """Make a keyring with one key, for its owner alone; return the key. Raises `Misconfigured`."""
    secret = _new()
    try:
        _write(path, Keys(secret.id, {secret.id: secret}), replaced=None)
    except FileExistsError:
        raise Misconfigured(
            f"{path} is there already: choose another name, or add a key with `pkgstore keys rotate`"
        ) from None
    except OSError as exc:
        raise _unusable(path, exc) from exc
    return secret


def add(path: str, *, activate: bool) -> Secret:
    """Add a new key to the keyring at ``path``; return it. Old keys stay, for opening. Raises `Misconfigured`."""
    secret = _new()
    with _locked(path) as keys:
        by_id = {**keys.by_id, secret.id: secret}
        _write(path, Keys(secret.id if activate else keys.active, by_id), replaced=os.stat(path))
    return secret


def activate(path: str, key_id: str) -> None:
    """Seal with the key ``key_id`` from now on. Raises `Misconfigured` when the keyring at ``path`` has no such key."""
    with _locked(path) as keys:
        if key_id not in keys.by_id:
            raise Misconfigured(f"the keyring {path} holds no key {key_id}: it holds {', '.join(keys.by_id)}")
        _write(path, keys._replace(active=key_id), replaced=os.stat(path))


def _new() -> Secret:
    return Secret(os.urandom(_LENGTH), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[Keys]:
    """Be the only one who changes a keyring; yield what it holds."""
    path = os.path.realpath(path)
    try:
        while True:
            with _opened(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # else another has replaced it meanwhile
                    yield held(path)
                    return
    except Misconfigured:
        raise
    except OSError as exc:
        raise _unusable(path, exc) from exc


def _opened(path: str) -> BinaryIO:
    """Return the file, open for writing where that is allowed: on NFS, only then can it be locked."""
    try:
        return open(path, "r+b", buffering=0)
    except PermissionError:
        return open(path, "rb", buffering=0)


def _write(path: str, keys: Keys, *, replaced: os.stat_result | None) -> None:
    """Write a keyring, durably and in one step: a new file, or in the place of one, with its owner and mode.

    Who has locked a keyring removes what one that was killed has left beside it.
    """
    packed = _packed(keys)
    if len(packed) > _LARGEST:
        raise Misconfigured(
            f"the keyring {path} holds {len(keys.by_id) - 1} keys, and has no room for another: take old ones out of it"
            " once nothing is sealed under them (`pkgstore keys reencrypt`)"
        )
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{os.urandom(8).hex() if replaced is None else 'new'}")
    if replaced is not None:
        _remove(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            if replaced is not None:
                status = os.fstat(descriptor)
                if (status.st_uid, status.st_gid) != (replaced.st_uid, replaced.st_gid):
                    os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode))
            file.write(packed)
            file.flush()
            os.fsync(descriptor)
        if replaced is None:
            os.link(temporary, path)  # which replaces nothing
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _packed(keys: Keys) -> bytes:
    entries = [
        {"id": each.id, "created": each.created, "key": base64.b64encode(each.reveal()).decode()}
        for each in keys.by_id.values()
    ]
    return json.dumps({"format": _FORMAT, "active": keys.active, "keys": entries}, indent=1).encode() + b"\n"


# -- reading files ----------------------------------------------------------------------------------------------------


def _read(path: str) -> tuple[Keys, tuple[int, ...]]:
    # No frame that raises holds what was read: tracebacks may be shown with the values of local variables.
    status = _status(path)
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"the keyring {path} is not a regular file: name the file that `pkgstore keys new` made")
    if status.st_mode & _OTHERS:
        raise Misconfigured(
            f"the keyring {path} is open to others (its mode is {stat.S_IMODE(status.st_mode):04o}): chmod 600 {path}"
        )
    found = _parsed(path)
    if isinstance(found, str):
        raise Misconfigured(f"the keyring {path} {found}")
    return found, _version(status)


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as exc:
        raise _unusable(path, exc) from exc


def _unusable(path: str, exc: OSError) -> Misconfigured:
    return Misconfigured(
        f"the keyring {path} cannot be used ({exc.strerror}): check its path, owner and mode, or make one with"
        " `pkgstore keys new`"
    )


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _parsed(path: str) -> Keys | str:
    """Return what a keyring holds, or what is wrong with it."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_LARGEST))
        form, active, entries = document["format"], document["active"], document["keys"]
        secrets = [(Secret(base64.b64decode(each["key"], validate=True), each["created"]), each) for each in entries]
        for secret, each in secrets:
            if (
                len(secret.reveal()) != _LENGTH
                or not isinstance(each["id"], str)
                or not isinstance(each["created"], str)
            ):
                raise ValueError
    except OSError as exc:
        return f"cannot be read ({exc.strerror}): check its owner and mode"
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        return "is not one: restore it from a copy, or make another with `pkgstore keys new`"
    if form != _FORMAT:
        return f"is of format {form!r}: use a pkgstore that knows it"
    wrong = [each["id"] for secret, each in secrets if secret.id != each["id"]]
    if wrong:
        return f"holds another key under the id {wrong[0][:16]!r} than belongs there: restore it from a copy"
    by_id = {secret.id: secret for secret, _ in secrets}
    if not isinstance(active, str) or active not in by_id:
        return "holds no key under the id that it calls active: correct that, or restore it from a copy"
    return Keys(active, by_id)
