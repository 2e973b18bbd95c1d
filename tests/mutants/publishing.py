"""Mutants that publish wrongly: more than one winner, half a blob, a replaced blob that is gone for a moment."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

from pkgstore.driver import Blob
from pkgstore.drivers.local import LocalDriver
from pkgstore.drivers.staging import Staged, Staging
from tests.mutants.registry import mutant, patch

if TYPE_CHECKING:
    from collections.abc import Iterator


# -- exclusivity ------------------------------------------------------------------------------------------------------


@mutant(
    test_racing_processes_have_one_winner="keys had more than one winner",
    test_racing_threads_have_one_winner="len(winners) == 1",
)
def stat_then_rename() -> None:
    """Looks whether the name is free, and writes and renames if it is, as most programs do."""
    original = LocalDriver.put

    def put(self: LocalDriver, key: str, body: Any, size: Any, *, exclusive: bool, **options: Any) -> Blob:
        if exclusive and os.path.exists(os.path.join(self.root, key)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
        return original(self, key, body, size, exclusive=False, **options)

    patch(LocalDriver, "put", put)


@mutant(test_a_key_is_published_once="DID NOT RAISE", test_racing_threads_have_one_winner="len(winners) == 1")
def always_replaces() -> None:
    """Takes no notice of `exclusive`."""

    def publish(self: Staging, staged: Staged, folder: int, name: str) -> None:
        os.replace(staged.path, name, dst_dir_fd=folder)

    patch(Staging, "publish", publish)


@mutant(
    test_a_token_that_took_effect_has_won="FileExistsError",
    test_publish_recovers="is already in",
    test_a_winner_that_was_not_told_and_a_rival="is already in",
)
def tokens_ignored() -> None:
    """Tells a publisher whose first reply was lost that the key is taken, by itself."""
    original = LocalDriver._winner

    def winner(self: LocalDriver, staged: Staged, folder: int, name: str, key: str, token: str) -> Blob:
        return original(self, staged, folder, name, key, "0" * 32)

    patch(LocalDriver, "_winner", winner)


# -- all or nothing ---------------------------------------------------------------------------------------------------


@mutant(
    test_an_upload_in_progress_is_not_visible="held(store) == {}",
    test_a_killed_publisher_leaves_nothing_at_the_name="publisher was killed",
)
def writes_in_place() -> None:
    """Writes to the final name, from the first byte on."""

    def put(self: LocalDriver, key: str, body: Any, size: Any, *, digests: Any, exclusive: bool, token: str) -> Blob:
        path = os.path.join(self.root, key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if exclusive and os.path.exists(path):
            while body.read():
                pass
            body.finish()
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
        with open(path, "wb") as file:
            while chunk := body.read():
                file.write(chunk)
                file.flush()
            found = body.finish()
        blob = self.stat(key)
        return Blob(key, blob.size, blob.mtime, blob.tag, found)

    patch(LocalDriver, "put", put)


@mutant(test_an_upload_in_progress_is_not_visible="held(store) == {}")
def staging_is_listed() -> None:
    """Stages among the blobs."""
    original = Staging.__init__

    def init(self: Staging, folder: str, *args: Any) -> None:
        original(self, os.path.join(os.path.dirname(os.path.dirname(folder)), "tmp"), *args)

    patch(Staging, "__init__", init)


@mutant(test_a_wrong_digest_publishes_nothing="held(store) == {}", test_a_body_has_the_size_declared="== {}")
def judged_too_late() -> None:
    """Asks what the body should have been when it is visible."""
    original = LocalDriver.put

    class Unjudged:
        def __init__(self, body: Any) -> None:
            self.read = body.read

        def finish(self) -> dict[str, str]:
            return {"sha256": "0" * 64}

    def put(self: LocalDriver, key: str, body: Any, size: Any, **options: Any) -> Blob:
        blob = original(self, key, Unjudged(body), size, **options)
        return Blob(blob.key, blob.size, blob.mtime, blob.tag, body.finish())

    patch(LocalDriver, "put", put)


@mutant(test_a_wrong_digest_publishes_nothing="self.leftovers(url) == []")
def failures_leave_their_staging() -> None:
    """Leaves what it staged for a publish that failed."""
    original = Staging.stage

    @contextlib.contextmanager
    def stage(self: Staging) -> Iterator[Staged]:
        with original(self) as staged:
            try:
                yield staged
            except BaseException:
                os.link(staged.path, f"{staged.path}-left")
                raise

    patch(Staging, "stage", stage)


@mutant(test_readers_see_whole_versions_while_one_is_replaced="was seen absent")
def replaces_by_deleting() -> None:
    """Removes the old version before the new one has the name."""

    def replace(self: LocalDriver, staged: Staged, folder: int, name: str, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        os.rename(staged.path, name, dst_dir_fd=folder)

    patch(LocalDriver, "_replace", replace)
