"""Storage for package indexes: one API over many media, with atomic write-once publish."""

from pkgstore.driver import Blob, Driver
from pkgstore.errors import (
    Corrupt,
    Denied,
    Exists,
    Full,
    InvalidKey,
    LockTimeout,
    Misconfigured,
    NotFound,
    QuotaExceeded,
    StoreError,
    Unavailable,
    Unsupported,
)
from pkgstore.reading import Reader
from pkgstore.store import Store, Usage
from pkgstore.store import open_store as open

__version__ = "0.1.0"

__all__ = [
    "Blob",
    "Corrupt",
    "Denied",
    "Driver",
    "Exists",
    "Full",
    "InvalidKey",
    "LockTimeout",
    "Misconfigured",
    "NotFound",
    "QuotaExceeded",
    "Reader",
    "Store",
    "StoreError",
    "Unavailable",
    "Unsupported",
    "Usage",
    "open",
]
