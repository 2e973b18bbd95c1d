"""Real wheels, sdists and upload forms, made here from nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import tarfile
import zipfile


def wheel_name(project: str, version: str = "1.0") -> str:
    """Return the file name of a pure Python wheel."""
    return f"{project.replace('-', '_')}-{version}-py3-none-any.whl"


def wheel(project: str, version: str = "1.0", *, payload: int = 0, seed: int = 0) -> bytes:
    """Return a wheel that pip installs. It holds one module, which says its version, and ``payload`` random bytes."""
    module = project.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"VERSION = {version!r}\nSEED = {seed}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if payload:
        files[f"{module}/payload.bin"] = random.Random(seed).randbytes(payload)
    record = [f"{info}/RECORD,,"]
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = "\n".join(record).encode() + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def sdist(project: str, version: str = "1.0") -> bytes:
    """Return a source distribution with its metadata, which twine uploads."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "none"\n',
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{project}-{version}/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue(), mtime=0)


def form(fields: dict[str, str], **files: tuple[str, bytes]) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a multipart form. Files are given as (file name, bytes), by field."""
    boundary = "----boundary-of-the-tests"
    parts = []
    for name, value in fields.items():
        parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode())
    for name, (filename, data) in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
        parts.append(f"{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode() + data)
    body = b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body


def upload_form(filename: str, data: bytes, **fields: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an upload."""
    return form({":action": "file_upload", **fields}, content=(filename, data))
