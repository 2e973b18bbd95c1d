"""How far a run has come, in a file of JSON lines, so that the next goes on from there."""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, Any, Self

from pkgstore import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pkgstore.verify.checking import Checked

_FORMAT = 1


class Journal:
    """The file at ``path``, of a run that does what ``wanted`` says. ``seed`` is what was asked for, if anything.

    Without a path, nothing is kept. A context manager.

    ``through`` is the last key that an earlier run has done, ``counts`` what it has counted, and ``seed`` its seed.
    They are empty where there was none, or where it had come to its end. Lines that a crash has cut off are dropped.
    """

    def __init__(self, path: str | os.PathLike[str] | None, wanted: Mapping[str, Any], seed: str | None) -> None:
        self.path = os.fspath(os.devnull if path is None else path)
        self.through = ""
        self.counts: dict[str, Any] = {}
        self.seed = seed
        self._wanted = {"format": _FORMAT, **wanted}
        self._end = 0
        self._is_kept = path is not None
        self._file = open(self.path, "a+b")  # noqa: SIM115
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if not self._is_kept:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"{self.path} is in use by another verification: name another file") from None

    def _read(self) -> None:
        lines, end = [], 0
        self._file.seek(0)
        for line in self._file:
            try:
                fields = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                fields = None
            if not isinstance(fields, dict):
                break
            end += len(line)
            lines.append((fields, end))
        if not lines or lines[0][0].get("format") != _FORMAT:
            if self._file.seek(0, os.SEEK_END):
                raise Misconfigured(f"{self.path} is no journal of a verification: name another file")
            return
        if "finished" in lines[-1][0]:
            return
        self._check(lines[0][0])
        for fields, end in lines:
            if "through" in fields:
                self.through, self.counts, self._end = fields["through"], fields["counts"], end

    def _check(self, fields: dict[str, Any]) -> None:
        seed = fields.pop("seed", None)
        if fields != self._wanted or self.seed not in (None, seed):
            raise Misconfigured(
                f"{self.path} is the journal of another verification, of another store, scope, sample or seed: remove"
                " it, or name another file"
            )
        self.seed = seed

    def begin(self, seed: str) -> None:
        """Go on, or begin, with a seed."""
        if self._is_kept:
            self._file.truncate(self._end)
        if not self._end:
            self._write({**self._wanted, "seed": seed})

    def note(self, one: Checked) -> None:
        """Write down what is wrong with a blob, if anything."""
        if one.says:
            self._write({"key": one.key, "problem": one.found, "did": one.did, "says": one.says})

    def keep(self, through: str, counts: Mapping[str, Any]) -> None:
        """Write down that all is done up to a key; it survives a crash."""
        self._write({"through": through, "counts": counts})
        self._file.flush()
        if self._is_kept:
            os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Write down that all is done: the next run begins anew."""
        self._write({"finished": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def _write(self, fields: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(fields).encode() + b"\n")
