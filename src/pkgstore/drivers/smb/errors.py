"""What an SMB server's status codes mean to us."""

from __future__ import annotations

from pkgstore.driver import MediumError
from pkgstore.errors import Denied, Exists, Full, InvalidKey, NotFound, StoreError, Unavailable

NO_MORE_FILES = 0x80000006
INVALID_INFO_CLASS = 0xC0000003
INVALID_PARAMETER = 0xC000000D
NO_SUCH_FILE = 0xC000000F
INVALID_DEVICE_REQUEST = 0xC0000010
END_OF_FILE = 0xC0000011
ACCESS_DENIED = 0xC0000022
NAME_INVALID = 0xC0000033
NAME_NOT_FOUND = 0xC0000034
COLLISION = 0xC0000035
PATH_NOT_FOUND = 0xC000003A
SHARING_VIOLATION = 0xC0000043
EAS_NOT_SUPPORTED = 0xC000004F
EA_TOO_LARGE = 0xC0000050
NO_SUCH_EA = 0xC0000051
NO_EAS = 0xC0000052
DELETE_PENDING = 0xC0000056
IS_A_DIRECTORY = 0xC00000BA
NOT_SUPPORTED = 0xC00000BB
NO_SUCH_SHARE = 0xC00000CC
NOT_EMPTY = 0xC0000101
NOT_A_DIRECTORY = 0xC0000103
TOO_MANY_LINKS = 0xC0000265

NOT_OFFERED = {
    0xC0000002,  # NOT_IMPLEMENTED
    INVALID_INFO_CLASS,
    INVALID_PARAMETER,
    INVALID_DEVICE_REQUEST,
    NOT_SUPPORTED,
}
"""What servers answer to a request that they do not know."""

NO_ATTRIBUTES = {*NOT_OFFERED, ACCESS_DENIED, EAS_NOT_SUPPORTED, EA_TOO_LARGE, NO_SUCH_EA, NO_EAS}
"""What servers answer where a file has no extended attributes, or cannot have any."""

MISSING = {NAME_NOT_FOUND, PATH_NOT_FOUND, NO_SUCH_FILE}
"""What servers answer where a name, or the folder that it would be in, is not there."""

_WHO = "correct what PKGSTORE_SMB_USERNAME and PKGSTORE_SMB_PASSWORD say, or the files that these with _FILE name"
_MODES = "check what this account may do on the share and on the files, and whether the share is read-only"
_LATER = "check that the server runs and can be reached"

_KNOWN: dict[int, tuple[type[StoreError], str, str]] = {
    ACCESS_DENIED: (Denied, "the server denies access", _MODES),
    0xC0000061: (Denied, "the server asks for a privilege that the account does not have", _MODES),
    0xC00000A2: (Denied, "the medium is write-protected", _MODES),
    0xC0000121: (Denied, "the file cannot be deleted, as it is read-only or in use", _MODES),
    0xC000006A: (Denied, "the server does not accept the password", _WHO),
    0xC000006D: (Denied, "the server does not accept the user name and the password", _WHO),
    0xC000006E: (Denied, "the account is restricted", _WHO),
    0xC000006F: (Denied, "the account may not log on at this time", _WHO),
    0xC0000071: (Denied, "the account's password has expired", _WHO),
    0xC0000072: (Denied, "the account is disabled", _WHO),
    0xC000015B: (Denied, "the account may not log on over the network", _WHO),
    0xC0000224: (Denied, "the account's password must be changed", _WHO),
    0xC0000234: (Denied, "the account is locked", _WHO),
    NAME_NOT_FOUND: (NotFound, "there is no such file", ""),
    PATH_NOT_FOUND: (NotFound, "there is no such folder", ""),
    NO_SUCH_FILE: (NotFound, "there is no such file", ""),
    0xC0000225: (NotFound, "there is no such file", ""),
    IS_A_DIRECTORY: (NotFound, "it is a folder", ""),
    NOT_A_DIRECTORY: (NotFound, "a file is where a folder would be", ""),
    DELETE_PENDING: (NotFound, "it is being deleted", ""),
    COLLISION: (Exists, "the name is taken", ""),
    0xC0000044: (Full, "a quota of the server is used up", "free some space or enlarge the quota"),
    0xC000007F: (Full, "the medium has no space left", "free some space or enlarge the medium"),
    0xC0000802: (Full, "a quota of the server is used up", "free some space or enlarge the quota"),
    TOO_MANY_LINKS: (Full, "the file has too many links", "remove some"),
    NAME_INVALID: (InvalidKey, "the server cannot hold this name", "choose another key"),
    0xC0000039: (InvalidKey, "the server cannot hold this path", "choose another key"),
    0xC000003B: (InvalidKey, "the server cannot hold this path", "choose another key"),
    0xC0000106: (InvalidKey, "the name is too long for the server", "choose another key"),
    SHARING_VIOLATION: (
        Unavailable,
        "another client has the file open and shares it with nobody",
        "see on the server who that is",
    ),
    NO_SUCH_SHARE: (Unavailable, "the share is gone", "check that it is still served"),
}


class SMBError(MediumError):
    """What an SMB server answered, or that it did not: ``status`` is its code, and 0 when there was no answer."""

    def __init__(self, kind: type[StoreError], message: str, remedy: str = "", status: int = 0) -> None:
        super().__init__(kind, message, remedy)
        self.status = status


def refused(status: int) -> SMBError:
    """Return the error for a status code; one that is not known here leaves the outcome open: `Unavailable`."""
    kind, message, remedy = _KNOWN.get(status, (Unavailable, f"the server answers with status {status:#010x}", _LATER))
    return SMBError(kind, message, remedy, status)


def lost(reason: str, remedy: str = _LATER) -> SMBError:
    """Return the error for a request that got no answer."""
    return SMBError(Unavailable, reason, remedy)
