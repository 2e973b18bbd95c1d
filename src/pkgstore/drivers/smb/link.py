"""One connection to a share: logged on with the store's credentials, with a deadline for every request.

Requests are pipelined, at most `IN_FLIGHT` at a time. When an answer does not come in time, the socket is shut, so that
all who wait for the connection learn at once that it is lost.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import struct
import sys
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from smbprotocol.connection import Connection, Dialects
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from pkgstore.drivers.smb.errors import NO_SUCH_SHARE, SMBError, lost, refused
from pkgstore.drivers.smb.messages import close
from pkgstore.errors import Denied, Misconfigured, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

IN_FLIGHT = 8
REQUEST = 1 << 20
"""Bytes that one request reads or writes at most."""

_CREDITS_EACH = 17  # of 64 KiB each: what a request of 1 MiB takes, and one for a close
_WHO = "set PKGSTORE_SMB_USERNAME and PKGSTORE_SMB_PASSWORD, or get a Kerberos ticket (kinit)"

# Its worker threads log lost connections as errors, with tracebacks; whoever called is told by an exception.
logging.getLogger("smbprotocol").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Settings:
    """Where and who. ``timeout`` is in seconds."""

    server: str
    port: int
    share: str
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    encrypt: bool
    timeout: float

    @property
    def where(self) -> str:
        """The server's address, for messages."""
        return f"{self.server}:{self.port}"


class Answer(NamedTuple):
    """What the server answered to one request: its body, when ``status`` is 0."""

    status: int
    body: bytes

    def checked(self) -> bytes:
        """Return the body. Raises `SMBError` for any status but success."""
        if self.status:
            raise refused(self.status)
        return self.body


class Exchange(NamedTuple):
    """Requests on their way, sent together."""

    requests: list[Any]


class Link:
    """A connection to a share. Raises `SMBError` when there is none to be had, and `Misconfigured`.

    ``known`` says that the share was there before; ``stalled`` is called when the server has not answered in time.
    """

    def __init__(self, settings: Settings, *, known: bool, stalled: Callable[[], None]) -> None:
        self.settings = settings
        self._abandoned = False
        self._stalled = stalled
        self._waiting: set[Any] = set()
        self._inside: set[int] = set()
        self._orphans: deque[bytes] = deque()
        self._connection = Connection(uuid.uuid4(), settings.server, settings.port, require_signing=True)
        with self._deadline():
            self._connect(known)
            granted = self._grow()
        self._socket: socket.socket = self._connection.transport._sock
        seconds = int(settings.timeout)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))
        self._permits = threading.BoundedSemaphore(granted)

    @property
    def alive(self) -> bool:
        """Whether requests may be sent: the connection is open, and this process's own."""
        return not self._abandoned and bool(self._connection.transport.connected)

    @property
    def dialect(self) -> int:
        """The version of the protocol, such as 0x0311."""
        return int(self._connection.dialect)

    @property
    def encrypted(self) -> bool:
        return bool(self._session.encrypt_data or self._tree.encrypt_data)

    @property
    def most_read(self) -> int:
        return min(REQUEST, int(self._connection.max_read_size))

    @property
    def most_written(self) -> int:
        return min(REQUEST, int(self._connection.max_write_size))

    # -- requests -----------------------------------------------------------------------------------------------------

    def call(self, *messages: Any) -> list[Answer]:
        """Send requests together, each related to the first, and return their answers."""
        with contextlib.suppress(IndexError):
            while True:
                self._exchange(close(self._orphans.popleft()))
        return self._exchange(*messages)

    def begin(self, *messages: Any, wait: bool = True) -> Exchange | None:
        """Send requests together, to be ended by `end`.

        Who has begun others must not ``wait`` for room, as those it would wait for may wait for them: None, then.
        """
        self._check()
        me = threading.get_ident()
        self._inside.add(me)
        try:
            return self._begin(*messages, wait=wait)
        finally:
            self._inside.discard(me)

    @property
    def interrupted(self) -> bool:
        """Whether this code runs within a request of this thread, or of the library's own, as a finaliser may."""
        return threading.get_ident() in self._inside or threading.current_thread() is self._connection._t_worker

    def _begin(self, *messages: Any, wait: bool) -> Exchange | None:
        if not self._permits.acquire(timeout=self.settings.timeout if wait else 0):
            if not wait:
                return None
            raise self._too_late()
        try:
            ids = self._session.session_id, self._tree.tree_connect_id
            requests = self._connection.send_compound(list(messages), *ids, related=len(messages) > 1)
        except (SMBException, OSError) as exc:
            self._permits.release()
            self.drop()
            raise lost(f"the connection to {self.settings.where} is lost") from exc
        except BaseException:
            self._permits.release()
            self.drop()
            raise
        self._waiting.update(requests)
        return Exchange(requests)

    def end(self, exchange: Exchange) -> list[Answer]:
        """Wait for the answers to what `begin` sent. Raises `SMBError` when they do not come."""
        deadline = time.monotonic() + self.settings.timeout
        me = threading.get_ident()
        self._inside.add(me)
        try:
            return [self._answer(request, deadline) for request in exchange.requests]
        finally:
            self._inside.discard(me)
            self._waiting.difference_update(exchange.requests)
            self._permits.release()

    def forget(self, file_id: bytes) -> None:
        """Have a handle closed by whoever sends the next request; takes no lock, so that a finaliser may call it."""
        self._orphans.append(file_id)

    def drop(self) -> None:
        """Shut the connection; all who wait for an answer get an error at once."""
        with contextlib.suppress(OSError, AttributeError):  # it is shut, or was never open
            self._connection.transport._sock.shutdown(socket.SHUT_RDWR)
        if self._connection.transport is not None:
            self._connection.disconnect(close=False)
        for request in list(self._waiting):
            request.response_event.set()

    def abandon(self) -> None:
        """Close the socket that a child has from its parent, and leave the connection to the parent."""
        self._abandoned = True
        self._socket.close()

    def _exchange(self, *messages: Any) -> list[Answer]:
        exchange = self.begin(*messages)
        assert exchange is not None
        return self.end(exchange)

    def _answer(self, request: Any, deadline: float) -> Answer:
        # The library takes off what has passed since, and waits for the whole seconds of that.
        left = max(1, math.ceil(deadline - time.monotonic())) + 0.5
        try:
            response = self._connection.receive(request, timeout=left, resolve_symlinks=False)
        except SMBResponseException as exc:
            return Answer(exc.status, b"")
        except Exception as exc:
            if time.monotonic() >= deadline:
                self._stalled()
                raise self._too_late() from exc
            self.drop()
            raise lost(f"the connection to {self.settings.where} was lost before the answer came") from exc
        return Answer(0, response["data"].get_value())

    def _check(self) -> None:
        # Where the interpreter is shutting down, the library's thread stands still, and no answer comes.
        if not self.alive or sys.is_finalizing():
            raise lost(f"the connection to {self.settings.where} is lost")

    def _too_late(self, seconds: float = 0.0) -> SMBError:
        return lost(f"{self.settings.where} did not answer within {seconds or self.settings.timeout:g} s")

    # -- connecting ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _deadline(self) -> Any:
        """Shut the socket when what is done within takes too long: the library waits for some answers without limit."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.drop()

        seconds = self.settings.timeout / 2  # so that a second try is over when the first request would be
        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except BaseException as exc:
            self.drop()
            if late.is_set():
                raise self._too_late(seconds) from exc
            raise
        finally:
            timer.cancel()

    def _connect(self, known: bool) -> None:
        settings = self.settings
        try:
            self._connection.connect(timeout=settings.timeout)
            self._log_on()
            share = rf"\\{settings.server}\{settings.share}"
            self._tree = TreeConnect(self._session, share)
            self._tree.connect()
        except StoreError:
            raise
        except SMBResponseException as exc:
            if exc.status == NO_SUCH_SHARE and not known:
                raise Misconfigured(
                    f"there is no share {settings.share!r} at {settings.where}: correct the URL, or have it served"
                ) from None
            error = refused(exc.status)
            raise SMBError(error.kind, f"{settings.where}: {error}", error.remedy, exc.status) from exc
        except SMBAuthenticationError as exc:
            raise SMBError(Denied, f"no way to log on to {settings.where}", _WHO) from exc
        except ValueError as exc:
            cause = exc.__cause__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else "it does not speak SMB"
            raise lost(
                f"no connection to {settings.where} ({reason})", "check the server's name and port, and that it runs"
            ) from exc
        except (SMBException, OSError, struct.error) as exc:
            raise lost(f"the connection to {settings.where} was lost while it was set up") from exc

    def _log_on(self) -> None:
        settings, connection = self.settings, self._connection
        if settings.encrypt and not connection.supports_encryption:
            raise Misconfigured(
                f"{settings.where} cannot encrypt (SMB {connection.dialect:#06x}): leave out encrypt=true, or enable"
                " SMB 3 on the server"
            )
        self._session = Session(connection, settings.username, settings.password, require_encryption=settings.encrypt)
        try:
            self._session.connect()
        except SMBException as exc:
            if isinstance(exc, (SMBResponseException, SMBAuthenticationError)) or not connection.transport.connected:
                raise
            raise SMBError(
                Denied, f"{settings.where} let us in as a guest only, without signatures on what is sent", _WHO
            ) from exc

    def _grow(self) -> int:
        """Ask for credits enough for `IN_FLIGHT` requests; return for how many there are."""
        wanted = IN_FLIGHT * _CREDITS_EACH
        try:
            granted = self._connection.echo(self._session.session_id, int(self.settings.timeout), wanted)
        except (SMBException, OSError) as exc:
            self.drop()
            raise lost(f"the connection to {self.settings.where} was lost while it was set up") from exc
        return max(1, min(wanted, int(granted)) // _CREDITS_EACH)

    @property
    def is_modern(self) -> bool:
        """Whether the server tells the name under which a file is stored."""
        return self.dialect >= int(Dialects.SMB_3_1_1)
