"""SMB shares (Samba, Windows, NAS): ``smb://server/share/prefix``.

A blob is staged in `.pkgstore/tmp`, flushed, and linked to its name: a hard link never replaces, on any server, where a
rename that is not to replace does so on Samba when two meet. Digests are an extended attribute of the file. Every
request has a deadline; connections are this process's own, and carry the store's own credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkgstore import config, keys
from pkgstore.config import without_secrets
from pkgstore.errors import InvalidKey, Misconfigured

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from pkgstore.drivers.smb.driver import SMBDriver

_PORT = 445
_USERNAME = "PKGSTORE_SMB_USERNAME"
_PASSWORD = "PKGSTORE_SMB_PASSWORD"
_SHORTEST_TIMEOUT = 1.0
_MOST_CONNECTIONS = 64


def connect(
    url: SplitResult,
    *,
    create: bool,
    timeout: float = 60.0,
    username: str = "",
    password: str = "",
    encrypt: object = False,
    connections: object = 4,
) -> SMBDriver:
    """Return the driver for ``smb://server[:port]/share`` or a folder of the share. Nothing is sent yet.

    ``create``
        make the folder where there is none; a share is never made
    ``timeout``
        seconds that one request may go without an answer, at least one; setting up a connection may take half of it
    ``username``, ``password``
        who the store is to the server, such as ``user``, ``DOMAIN\\\\user`` or ``user@realm``; else what the variables
        ``PKGSTORE_SMB_USERNAME`` and ``PKGSTORE_SMB_PASSWORD`` say, or the files that these with ``_FILE`` at their end
        name; without any, the Kerberos ticket of this process
    ``encrypt``
        refuse to talk to the server unencrypted; a share that demands encryption has it in any case
    ``connections``
        how many connections a process keeps, from 2 to 64

    Raises `Misconfigured`.
    """
    from pkgstore.drivers.smb.driver import SMBDriver
    from pkgstore.drivers.smb.link import Settings
    from pkgstore.drivers.smb.pool import Pool

    server, port, share, prefix = _place(url)
    user, secret = _credentials(username, password)
    settings = Settings(
        server=server,
        port=port,
        share=share,
        username=user,
        password=secret,
        encrypt=config.boolean("encrypt", encrypt),
        timeout=max(_SHORTEST_TIMEOUT, config.seconds("timeout", timeout)),
    )
    return SMBDriver(Pool(settings, _count(connections)), prefix, create=create)


def _place(url: SplitResult) -> tuple[str, int, str, str]:
    """Return the server, its port, the share, and the prefix in it without a slash at its end."""
    shown = without_secrets(url.geturl())
    if "@" in url.netloc:
        raise Misconfigured(f"{shown} names somebody: a URL says where, not who; set {_USERNAME} and {_PASSWORD}")
    try:
        server, port = url.hostname, url.port or _PORT
    except ValueError:
        raise Misconfigured(f"{shown} has a port that is no number: write smb://server:445/share") from None
    share, _, prefix = url.path.removeprefix("/").partition("/")
    if not server or not share:
        raise Misconfigured(f"{shown} names no share: write smb://server/share or smb://server/share/folder")
    prefix = prefix.removesuffix("/")
    try:
        keys.check(share)
        keys.check_prefix(f"{prefix}/" if prefix else "")
    except InvalidKey as exc:
        raise Misconfigured(f"the folder in {shown} cannot be used: {exc}") from None
    return server, port, share, prefix


def _credentials(username: object, password: object) -> tuple[str | None, str | None]:
    if not isinstance(username, str) or not isinstance(password, str):
        raise Misconfigured("the options username and password are text: give both, or neither")
    if not username and not password:
        username, password = config.secret(_USERNAME) or "", config.secret(_PASSWORD) or ""
    if bool(username) != bool(password):
        raise Misconfigured(f"there is a name without a password, or the reverse: set {_USERNAME} and {_PASSWORD}")
    return username or None, password or None


def _count(connections: object) -> int:
    try:
        number = int(str(connections))
    except ValueError:
        number = 0
    if not 2 <= number <= _MOST_CONNECTIONS:
        raise Misconfigured(f"the option connections={connections!r} is not a number from 2 to {_MOST_CONNECTIONS}")
    return number
