"""Exit codes, and errors as one line, or as one JSON object."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from pkgstore import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first class that an error is an instance of decides.
_CODES: dict[type[errors.StoreError], int] = {
    errors.Misconfigured: 2,
    errors.InvalidKey: 2,
    errors.NotFound: 3,
    errors.Exists: 4,
    errors.Denied: 5,
    errors.Full: 6,
    errors.QuotaExceeded: 6,
    errors.Unavailable: 7,
    errors.LockTimeout: 7,
    errors.Corrupt: 8,
    errors.Unsupported: 9,
}
INTERRUPTED = 130
_OTHER = 1
_PIPE_CLOSED = 141

EXIT_CODES = """\b
Exit codes:
  0    done
  1    another error, such as a local file that cannot be read or written; or doctor found one
  2    a mistake in the command, the URL, an option or a key
  3    there is no such blob, or no store at this URL
  4    the key is taken
  5    permission denied, or the store is read-only
  6    the medium is full, or the quota is reached
  7    the medium does not answer, or a lock was not had in time
  8    bytes do not match their size or digest
  9    the medium cannot do that
  130  interrupted; 141: the reader of our output went away
"""


class LocalError(Exception):
    """A file of the user's own could not be read or written; its OSError is the cause."""


@contextlib.contextmanager
def local(action: str, path: str) -> Iterator[None]:
    """Say of any OSError but a store's that ``action`` failed on ``path``, in a `LocalError`."""
    try:
        yield
    except OSError as exc:
        # A closed pipe is no failure: see `leave_pipe`.
        if isinstance(exc, (errors.StoreError, BrokenPipeError)):
            raise
        raise LocalError(f"cannot {action} {path}: {exc.strerror or exc}") from exc


def reported(exc: Exception, *, as_json: bool) -> int:
    """Report an error on stderr, and return its exit code."""
    message = " ".join(str(exc).split())
    if as_json:
        fields: dict[str, Any] = {
            "error": type(exc.__cause__ if isinstance(exc, LocalError) else exc).__name__,
            "message": message,
            "key": getattr(exc, "key", None),
        }
        if isinstance(exc, errors.Exists):
            fields["identical"] = exc.identical
        _complain(json.dumps(fields))
    else:
        _complain(f"pkgstore: {message}")
    return next((code for kind, code in _CODES.items() if isinstance(exc, kind)), _OTHER)


def report_usage(exc: click.ClickException) -> int:
    """Report a mistake in the command line, and return its exit code."""
    message = " ".join(exc.format_message().split()).rstrip(".")
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    hint = f" (see `{context.command_path} --help`)" if context else ""
    _complain(f"pkgstore: {message[:1].lower()}{message[1:]}{hint}")
    return exc.exit_code


def settle_output() -> None:
    """Flush stdout after a failure; what cannot be written is dropped, so that the interpreter does not try again."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            leave_pipe()


def leave_pipe() -> int:
    """Give up writing to an output that nobody reads any more, silently; return the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return _PIPE_CLOSED


def _complain(line: str) -> None:
    click.echo(line, err=True)
