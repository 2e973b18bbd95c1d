"""A store against a plain dictionary: Hypothesis looks for calls after which they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pkgstore import Exists, InvalidKey, NotFound
from pkgstore.testing.sources import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkgstore import Reader, Store

# Few names, so that keys meet; and names that sort otherwise with a slash after them than without.
SEGMENTS = st.sampled_from(["a", "b", "a-b", "a.b", "a0", "é", "x y", "B"])
KEYS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)
PREFIXES = st.lists(SEGMENTS, max_size=2).map(lambda parts: "".join(f"{part}/" for part in parts))
CONTENTS = (
    st.sampled_from([b"one", b"two"]) | st.binary(max_size=40) | st.integers(0, 2_500_000).map(lambda size: bytes(size))
)


class StoreMachine(RuleBasedStateMachine):
    """Two views of one store, and the dictionary that both have to equal. ``opener`` and ``url`` say which store."""

    opener: Callable[..., Store]
    url: str
    keeps_folders: bool = False
    published: set[str]  # every key that a run has published, of this machine's store

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, bytes] = {}
        self.tags: dict[str, dict[str, bytes]] = {}
        self.readers: list[tuple[Reader, bytes]] = []
        self.store = type(self).opener(self.url)
        self.opened = [self.store]

    @initialize()
    def empty(self) -> None:
        left = -1
        while blobs := list(self.store.list()):
            assert len(blobs) != left, f"{blobs[0].key!r} cannot be deleted"
            left = len(blobs)
            for blob in blobs:
                self.store.delete(blob.key)

    def teardown(self) -> None:
        for reader, _ in self.readers:
            reader.close()
        for store in self.opened:
            store.close()

    @rule(key=KEYS, data=CONTENTS, scope=PREFIXES, streamed=st.booleans())
    def publish(self, key: str, data: bytes, scope: str, streamed: bool) -> None:
        body: Any = Stream(data) if streamed else data
        full = scope + key
        try:
            blob = self._view(scope).publish(key, body)
        except Exists as exc:
            self._check_refusal(exc, key, full, data)
        except InvalidKey:
            assert self._is_in_the_way(full)
        else:
            assert full not in self.model
            assert blob.key == key
            self._published(full, data, blob.tag)

    @rule(key=KEYS, data=CONTENTS)
    def replace(self, key: str, data: bytes) -> None:
        try:
            blob = self.store.publish(key, data, replace=True)
        except InvalidKey:
            assert self._is_in_the_way(key)
        else:
            self._published(key, data, blob.tag)

    @rule(key=KEYS, scope=PREFIXES)
    def delete(self, key: str, scope: str) -> None:
        self._view(scope).delete(key)
        self.model.pop(scope + key, None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete_one_that_is_there(self, data: Any) -> None:
        self.delete(data.draw(st.sampled_from(sorted(self.model))), "")

    @rule(key=KEYS, scope=PREFIXES)
    def look(self, key: str, scope: str) -> None:
        view, full = self._view(scope), scope + key
        if full not in self.model:
            for verb in (view.stat, view.open, view.read):
                try:
                    verb(key)
                except NotFound:
                    continue
                raise AssertionError(f"{full!r} is there, and was never published, or was deleted")
            return
        assert view.read(key) == self.model[full]
        blob = view.stat(key)
        assert (blob.key, blob.size) == (key, len(self.model[full]))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), start=st.integers(0, 3_000_000), count=st.integers(0, 70_000))
    def read_a_range(self, data: Any, start: int, count: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        start %= len(self.model[key]) + 2
        with self.store.open(key) as reader:
            assert reader.seek(start) == start
            got = b""
            while len(got) < count and (chunk := reader.read(count - len(got))):
                got += chunk
            assert got == self.model[key][start : start + count]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def keep_a_reader(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        self.readers.append((self.store.open(key), self.model[key]))

    @precondition(lambda self: self.readers)
    @rule()
    def read_to_the_end(self) -> None:
        reader, expected = self.readers.pop(0)
        with reader:
            assert reader.readall() == expected

    @rule(prefix=PREFIXES, scope=PREFIXES)
    def list_below(self, prefix: str, scope: str) -> None:
        full = scope + prefix
        expected = sorted(key for key in self.model if key.startswith(full))
        listed = list(self._view(scope).list(prefix))
        assert [scope + blob.key for blob in listed] == expected
        assert [blob.size for blob in listed] == [len(self.model[key]) for key in expected]

    @rule()
    def reopen(self) -> None:
        old = self.store
        self.store = type(self).opener(self.url)
        self.opened.append(self.store)
        assert self.store.id == old.id
        if not self.readers:
            old.close()

    @invariant()
    def usage_is_right(self) -> None:
        usage = self.store.usage()
        assert (usage.blobs, usage.bytes) == (len(self.model), sum(map(len, self.model.values())))

    def _view(self, scope: str) -> Store:
        return self.store.scope(scope) if scope else self.store

    def _published(self, key: str, data: bytes, tag: str) -> None:
        self.model[key] = data
        self.published.add(key)
        assert self.tags.setdefault(key, {}).setdefault(tag, data) == data
        assert self.store.stat(key).tag == tag

    def _check_refusal(self, refusal: Exists, key: str, full: str, data: bytes) -> None:
        assert full in self.model
        assert refusal.key == key
        assert refusal.identical is (data == self.model[full])
        assert refusal.blob is not None
        assert refusal.blob.size == len(self.model[full])

    def _is_in_the_way(self, key: str) -> bool:
        """Say whether a blob has the name of one of the key's folders, or has the key for one of its own."""
        if self.keeps_folders and any(other.startswith(f"{key}/") for other in self.published):
            return True
        return any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in self.model)
