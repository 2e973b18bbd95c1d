"""The errors that pkgstore raises.

::

    StoreError
    ├── NotFound       (FileNotFoundError)   no such blob, or no store at this address
    ├── Exists         (FileExistsError)     the key is taken; publishing never overwrites unasked
    ├── Denied         (PermissionError)     credentials, modes, a read-only medium or store
    ├── InvalidKey     (ValueError)          outside the key grammar, or the medium cannot hold it
    ├── QuotaExceeded  (OSError)             the store's own limit would be passed
    ├── Full           (OSError)             the medium has no space left
    ├── Unavailable    (OSError)             the medium did not answer; the only error that is retried
    ├── Corrupt        (OSError)             bytes do not match their size or digest
    ├── Unsupported                          this medium cannot keep that promise
    ├── LockTimeout    (TimeoutError)        a lock or lease was not had in time
    └── Misconfigured  (ValueError)          a URL, option or setting that cannot work

Each also derives from the built-in error that Python code would expect, with its ``errno`` set, so that code
written for files works unchanged. A message is one line: what failed, where, and what to do.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pkgstore.driver import Blob


class StoreError(Exception):
    """Base of every error that pkgstore raises on purpose.

    ``key`` is the key that the call was about, as its caller named it, or None.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class _WithNumber(StoreError, OSError):
    """An error with the ``errno`` that a file system would give."""

    code: ClassVar[int]

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message, key=key)
        self.errno = self.code


class NotFound(_WithNumber, FileNotFoundError):
    """There is no such blob, or no store at this address."""

    code = errno.ENOENT


class Exists(_WithNumber, FileExistsError):
    """The key is taken.

    ``blob`` is what is there (None when it was deleted again meanwhile), and ``identical`` says whether its bytes
    are those of the refused body.
    """

    code = errno.EEXIST

    def __init__(
        self, message: str, *, key: str | None = None, blob: Blob | None = None, identical: bool = False
    ) -> None:
        super().__init__(message, key=key)
        self.blob = blob
        self.identical = identical


class Denied(_WithNumber, PermissionError):
    """Credentials, file modes or a read-only medium forbid it."""

    code = errno.EACCES


class InvalidKey(StoreError, ValueError):
    """The key breaks the grammar of `pkgstore.keys`, or the medium cannot hold it beside what is there."""


class QuotaExceeded(_WithNumber):
    """The store's own limit would be passed.

    ``needed`` is how many bytes there is no room for; ``limit`` and ``used`` are the bytes of the store, or of the
    scope, that has none. Used is what is reserved, too.
    """

    code = errno.EDQUOT

    def __init__(
        self, message: str, *, key: str | None = None, limit: int | None = None, used: int = 0, needed: int = 0
    ) -> None:
        super().__init__(message, key=key)
        self.limit = limit
        self.used = used
        self.needed = needed


class Full(_WithNumber):
    """The medium has no space left."""

    code = errno.ENOSPC


class Unavailable(_WithNumber):
    """The medium did not answer, or answered that it could not; the only error that the store retries."""

    code = errno.EIO


class Corrupt(_WithNumber):
    """Bytes do not match the size or digest that goes with them."""

    code = errno.EBADMSG


class Unsupported(StoreError):
    """The medium cannot keep the promise that was asked of it."""


class LockTimeout(_WithNumber, TimeoutError):
    """A lock or lease was not had in time."""

    code = errno.ETIMEDOUT


class Misconfigured(StoreError, ValueError):
    """A URL, option or setting that cannot work."""
