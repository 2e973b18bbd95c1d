"""The hierarchy of errors."""

import errno
import pickle

import pytest

import pkgstore
from pkgstore import Blob, StoreError

BUILT_IN = {
    pkgstore.NotFound: (FileNotFoundError, errno.ENOENT),
    pkgstore.Exists: (FileExistsError, errno.EEXIST),
    pkgstore.Denied: (PermissionError, errno.EACCES),
    pkgstore.InvalidKey: (ValueError, None),
    pkgstore.QuotaExceeded: (OSError, errno.EDQUOT),
    pkgstore.Full: (OSError, errno.ENOSPC),
    pkgstore.Unavailable: (OSError, errno.EIO),
    pkgstore.Corrupt: (OSError, errno.EBADMSG),
    pkgstore.Unsupported: (StoreError, None),
    pkgstore.LockTimeout: (TimeoutError, errno.ETIMEDOUT),
    pkgstore.Misconfigured: (ValueError, None),
}


def test_every_public_error_is_covered() -> None:
    public = {getattr(pkgstore, name) for name in pkgstore.__all__}
    errors = {each for each in public if isinstance(each, type) and issubclass(each, Exception)}
    assert errors == {StoreError, *BUILT_IN}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda each: each.__name__)
def test_an_error_is_also_the_built_in_one(kind: type[StoreError]) -> None:
    built_in, number = BUILT_IN[kind]
    error = kind("what, where, what to do", key="a/b")
    assert isinstance(error, StoreError)
    assert isinstance(error, built_in)
    assert str(error) == "what, where, what to do"
    assert error.key == "a/b"
    assert getattr(error, "errno", None) == number


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda each: each.__name__)
def test_errors_travel_between_processes(kind: type[StoreError]) -> None:
    error = pickle.loads(pickle.dumps(kind("message", key="a")))
    assert (type(error), str(error), error.key) == (kind, "message", "a")
    assert getattr(error, "errno", None) == BUILT_IN[kind][1]


def test_exists_carries_what_is_there() -> None:
    blob = Blob("a", 1, 2.0, "t", {"sha256": "0"})
    error = pickle.loads(pickle.dumps(pkgstore.Exists("message", key="a", blob=blob, identical=True)))
    assert (error.blob, error.identical, error.errno) == (blob, True, errno.EEXIST)
