"""A tiny, real wheel, for the demo to upload."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = "pkgstore-demo"
MODULE = "pkgstore_demo"
VERSION = "1.0"
FILENAME = f"{MODULE}-{VERSION}-py3-none-any.whl"
GREETING = "Hello from a package that came through pkgstore."


def build_wheel(folder: Path, greeting: str = GREETING) -> Path:
    """Write the wheel of a package that prints ``greeting`` to ``folder``, and return its path."""
    metadata = f"{MODULE}-{VERSION}.dist-info"
    files = {
        f"{MODULE}/__init__.py": "",
        f"{MODULE}/__main__.py": f"print({greeting!r})\n",
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: {VERSION}\nSummary: A greeting\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: pkgstore\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},{_record_digest(text)},{len(text.encode())}\n" for name, text in files.items())
    files[f"{metadata}/RECORD"] = f"{record}{metadata}/RECORD,,\n"
    folder.mkdir()
    path = folder / FILENAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


def _record_digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
