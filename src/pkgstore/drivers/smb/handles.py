"""Open files and folders of a share."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pkgstore.drivers.smb import messages
from pkgstore.drivers.smb.errors import DELETE_PENDING, SHARING_VIOLATION, SMBError, lost
from pkgstore.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pkgstore.drivers.smb.link import Answer, Link

_T = TypeVar("_T")

_PATIENCE = 5.0
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.1
_PASSING = {DELETE_PENDING, SHARING_VIOLATION}


class OtherCase(SMBError):
    """What lies there is called otherwise: its name differs in the case of letters. ``there`` is that name."""

    def __init__(self, there: str) -> None:
        super().__init__(NotFound, f"it differs only in case from {there!r}, which is there", "choose another key")
        self.there = there


class Handle:
    """A handle on ``link``; a context manager, which closes it."""

    __slots__ = ("id", "link")

    def __init__(self, link: Link, file_id: bytes) -> None:
        self.link = link
        self.id = file_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def do(self, message: Any) -> bytes:
        """Send one request, made with this handle's id; return the body of its answer. Raises `SMBError`."""
        (answer,) = self.link.call(message)
        return answer.checked()

    def close(self) -> None:
        """Close it. Whatever the server answers, it is closed then, and also when the connection is lost."""
        if self.link.interrupted:
            self.link.forget(self.id)
            return
        with contextlib.suppress(SMBError):
            self.link.call(messages.close(self.id))

    def release(self) -> None:
        """Close it. Raises `SMBError` when it was lost before, and with it what it kept others from."""
        self.do(messages.close(self.id))

    def discard(self) -> None:
        """Have the file removed when the last handle on it is closed, and close this one."""
        deleted, _ = self.link.call(messages.set_deleted(self.id), messages.close())
        deleted.checked()


def opened(link: Link, create: Any, *queries: Any) -> tuple[Handle, list[Answer]]:
    """Open a file or folder, and ask for more of it at once. Raises `SMBError` when it cannot be opened."""
    first, *rest = link.call(create, *queries)
    return Handle(link, messages.file_id(first.checked())), rest


def looked_at(link: Link) -> list[Any]:
    """Return the requests whose answers `seen` reads."""
    return [messages.query_all(), *([messages.query_true_name()] if link.is_modern else [])]


def seen(link: Link, answers: Sequence[Answer], names: Sequence[str]) -> messages.Found:
    """Return what the server says of what was opened as ``names``, the last segments of its path.

    Raises `OtherCase` when it is stored under another name.
    """
    found = messages.found(answers[0].checked())
    path = found.path
    if link.is_modern and not answers[1].status:
        path = messages.true_name(answers[1].body)
    true = path.split("\\")[-len(names) :] if names else []
    if true != list(names):
        raise OtherCase("/".join(true))
    return found


def patiently(function: Callable[[], _T], timeout: float) -> _T:
    """Call again while something passing is in the way: a folder being removed, a file that another has just named."""
    deadline = time.monotonic() + min(_PATIENCE, timeout)
    pause = _FIRST_PAUSE
    while True:
        try:
            return function()
        except SMBError as exc:
            if exc.status not in _PASSING:
                raise
            if time.monotonic() > deadline:
                raise lost(f"another client is in the way: {exc}", "see on the server who has it open") from exc
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
