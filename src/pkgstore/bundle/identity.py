"""Which bundle is wanted: a digest of all that decides what a build makes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import file_digest, sha256
from typing import TYPE_CHECKING, TypeAlias

from pkgstore.bundle import interpreter
from pkgstore.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Input: TypeAlias = "str | bytes | os.PathLike[str]"

_FORMAT = 1
_LENGTH = 32
_ANSWERS_WITHIN = 60.0
_LARGEST_HEAD = 4096
_OPTION = re.compile(r"(?:-[rc]|--requirements?|--constraints?|--overrides?)", re.ASCII)
_JOINED = re.compile(rf"(?:-[rc]|{_OPTION.pattern}=)(?P<file>.+)", re.DOTALL)
_LINE = re.compile(r"\s*(?:-[rc]\s*|--(?:requirement|constraint)[\s=]\s*)(?P<file>\S.*)")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*t?")
_SCRIPT = re.compile(r"#![ \t]*(?:\S*/env[ \t]+(?:-S[ \t]+)?)?(?P<program>\S+)")
_TRAMPOLINE = re.compile(r"#!/bin/sh\n'''exec' (?P<quote>\"?)(?P<program>.+?)(?P=quote) ")
_WHO = re.compile(r"https?://[^/\s@]*@|[a-z][a-z0-9+.-]*://[^/\s@:]*:[^/\s@]*@", re.IGNORECASE)


def digest(name: str, inputs: Iterable[Input], facts: dict[str, str]) -> str:
    """Return the digest of a bundle's name, its inputs, and the facts of an interpreter, as 32 hexadecimal digits.

    A path stands for what is in the file, wherever it lies. Raises `Misconfigured` for one that cannot be read.
    """
    told = json.dumps([_FORMAT, name, [_told(each) for each in inputs], facts], sort_keys=True)
    return sha256(told.encode(errors="surrogateescape")).hexdigest()[:_LENGTH]


def _told(value: Input) -> tuple[str, str]:
    if isinstance(value, str):
        return "text", value
    if isinstance(value, bytes):
        return "bytes", sha256(value).hexdigest()
    try:
        with open(value, "rb") as file:
            return "file", file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise Misconfigured(
            f"the input {os.fspath(value)!r} cannot be read ({exc.strerror}): correct its name or its mode"
        ) from exc


def inputs_of(command: Sequence[str]) -> list[Input]:
    """Return what decides what a command makes: its words, and the requirement files that they name.

    Files that those name with ``-r`` and ``-c`` are among them. What is no file (a URL, a folder after the ``-r`` of
    another program) is left to the command itself.
    """
    files: dict[str, None] = {}
    for word, following in zip(command, [*command[1:], ""], strict=True):
        joined = _JOINED.fullmatch(word)
        named = following if _OPTION.fullmatch(word) else joined["file"] if joined else ""
        _follow(named, files)
    return [*command, *map(_Path, files)]


class _Path(os.PathLike[str]):
    def __init__(self, path: str) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return self._path


def _follow(path: str, files: dict[str, None]) -> None:
    """Add a requirement file, and those that it names, each once."""
    path = os.path.realpath(path)
    if not os.path.isfile(path) or path in files:
        return
    files[path] = None
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as exc:
        raise Misconfigured(f"the requirement file {path} cannot be read ({exc.strerror}): correct its mode") from exc
    for line in text.replace("\\\n", "").splitlines():
        found = _LINE.fullmatch(_COMMENT.sub("", line))
        if found:
            _follow(os.path.join(os.path.dirname(path), found["file"].strip().strip("\"'")), files)


def check_command(command: Sequence[str]) -> None:
    """Raise `Misconfigured` for a command that cannot fill a directory, or that tells everybody a secret."""
    for word in command:
        if _WHO.search(word):
            raise Misconfigured(
                "a word of the command is a URL that says who: every user of this host can read it there; give it"
                " by a variable, such as --secret PIP_INDEX_URL=FILE"
            )
    if not any("{dest}" in word for word in command):
        raise Misconfigured(
            "the command does not say where the directory goes: give {dest} in its place, as in"
            " pip install --target {dest} six"
        )
    if shutil.which(command[0]) is None:
        raise Misconfigured(f"there is no program {command[0]!r}: install it, or correct PATH")


def facts_of(python: str | None, command: Sequence[str]) -> dict[str, str]:
    """Return the facts of ``python``, or else of the interpreter that a command runs under, or else of this one.

    Raises `Misconfigured` for one that does not answer.
    """
    program = python or _interpreter_of(shutil.which(command[0]) or "")
    if program is None or os.path.realpath(program) == os.path.realpath(sys.executable):
        return interpreter.facts()
    try:
        shown = subprocess.run(
            [program, "-I", interpreter.__file__],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_ANSWERS_WITHIN,
        )
        found: dict[str, str] = json.loads(shown.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        raise Misconfigured(
            f"{program} does not tell its version, which the bundle is for: name a Python interpreter with --python"
        ) from exc
    return found


def _interpreter_of(program: str) -> str | None:
    """Return the Python interpreter that a program is, or that its first lines name; None where there is none."""
    if _PYTHON.fullmatch(os.path.basename(program)):
        return program
    try:
        with open(program, "rb") as file:
            head = file.read(_LARGEST_HEAD).decode("utf-8", "surrogateescape")
    except OSError:  # that it cannot be run is for whoever runs it to say
        return None
    found = _TRAMPOLINE.match(head) or _SCRIPT.match(head)
    if found and _PYTHON.fullmatch(os.path.basename(found["program"])):
        return shutil.which(found["program"])
    return None
