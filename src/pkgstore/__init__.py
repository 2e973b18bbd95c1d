"""Storage for package indexes: one API over many media, with atomic write-once publish."""

from pkgstore.accounts import Usage
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
from pkgstore.opening import open_store as open
from pkgstore.reading import Reader
from pkgstore.store import Store

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
