"""Sealed blobs: what was done to them on the medium is noticed, and before a byte of it is returned."""

from __future__ import annotations

import hashlib
import hmac
import io
import uuid
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pkgstore.bodies import PublishBody
from pkgstore.crypt import segments
from pkgstore.crypt.driver import SealedDriver
from pkgstore.crypt.keyring import Keyring, Secret
from pkgstore.crypt.segments import HEADER, RECORD, SEGMENT, TAG, Cipher, Header, SealError, plain_size, stored_size
from pkgstore.drivers import memory
from pkgstore.drivers.memory import MemoryDriver
from pkgstore.errors import Corrupt, Denied, Unsupported
from pkgstore.hashing import wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from pkgstore.driver import Blob

STORE = "5a" * 16
SIZE = 2 * SEGMENT + 1000
DATA = hashlib.shake_256(b"data").digest(SIZE)
OTHER = hashlib.shake_256(b"other").digest(SIZE)
BORDERS = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1, 3 * SEGMENT]


class Ring(Keyring):
    """A keyring without a file."""

    def __init__(self, *secrets: Secret) -> None:
        self.path = "ring"
        self.secrets = {each.id: each for each in secrets}

    @property
    def active(self) -> Secret:
        return next(iter(self.secrets.values()))

    def find(self, key_id: str) -> Secret:
        if key_id not in self.secrets:
            raise SealError(Denied, f"there is no key {key_id}")
        return self.secrets[key_id]


ONE, TWO = (Secret(bytes([number]) * 32, "") for number in (1, 2))


class Once(io.RawIOBase):
    """A stream that cannot be rewound, and holds no more than was asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._file = io.BytesIO(data)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(size)


class Near(MemoryDriver):
    """A medium that can be damaged."""

    def __init__(self) -> None:
        super().__init__(memory._Space())

    def stored(self, key: str) -> bytes:
        return self._space.blobs[key][1]

    def damage(self, key: str, data: bytes, by: str = "") -> None:
        blob, _, token = self._space.blobs[by or key]
        self._space.blobs[key] = (type(blob)(key, len(data), blob.mtime, uuid.uuid4().hex, blob.digests), data, token)


class Far(Near):
    """Such a medium behind requests: it wants digests before the first byte, and its streams go one way."""

    streams = False
    spool_digests = frozenset({"md5"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0

    def put(
        self, key: str, body: Any, size: int | None, *, digests: Mapping[str, str], exclusive: bool, token: str
    ) -> Blob:
        blob = super().put(key, body, size, digests=digests, exclusive=exclusive, token=token)
        data = self.stored(key)
        assert size == len(data)
        assert digests == {name: hashlib.new(name, data).hexdigest() for name in ("sha256", "md5")}
        return blob

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, tag: str | None = None
    ) -> tuple[Blob, BinaryIO]:
        blob = super().open(key, tag=tag)[0]
        data = self.stored(key)[start:stop]
        self.fetched += len(data)
        return blob, cast("BinaryIO", Once(data))


@pytest.fixture(params=[Near, Far])
def medium(request: pytest.FixtureRequest) -> Near:
    made: Near = request.param()
    return made


def sealed(medium: Near, *secrets: Secret, store: str = STORE) -> SealedDriver:
    return SealedDriver(medium, store, Ring(*(secrets or (ONE,))))


def publish(driver: SealedDriver, key: str, data: bytes, *, exclusive: bool = False) -> Blob:
    with PublishBody(key, data, None, wanted({"md5": None})) as source:
        known = {} if driver.streams else source.spool()
        with source.attempt() as body:
            token = uuid.uuid4().hex
            return driver.put(key, body, len(data), digests=known, exclusive=exclusive, token=token)


def read(driver: SealedDriver, key: str, start: int = 0, stop: int | None = None, step: int = SEGMENT) -> bytes:
    """Return a range of a blob; what a stream yielded before it raised is in the error's ``got``."""
    blob, stream = driver.open(key, start, stop)
    got = b""
    with stream:
        wish = (blob.size if stop is None else stop) - start
        try:
            while len(got) < wish and (data := stream.read(min(step, wish - len(got)))):
                got += data
        except SealError as exc:
            exc.got = got  # type: ignore[attr-defined]
            raise
    return got


def refused(driver: SealedDriver, key: str, kind: type[Exception] = Corrupt) -> bytes:
    """Assert that a blob does not open, or not to its end; return what was read before."""
    with pytest.raises(SealError) as caught:
        read(driver, key)
    assert caught.value.kind is kind
    return getattr(caught.value, "got", b"")


# -- the format -------------------------------------------------------------------------------------------------------


def expanded(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256, as RFC 5869 has it."""
    extracted = hmac.digest(salt, secret, "sha256")
    blocks = [b""]
    while sum(map(len, blocks)) < length:
        blocks.append(hmac.digest(extracted, blocks[-1] + info + bytes([len(blocks)]), "sha256"))
    return b"".join(blocks)[:length]


def by_hand(secret: bytes, salt: bytes, store: str, key: str, data: bytes, *, record_last: bool) -> bytes:
    """Return a sealed blob, made from its description in the documentation."""
    key_id = hmac.digest(secret, b"pkgstore key id", "sha256")[:8]
    header = b"pkgstore" + bytes([1, record_last]) + key_id + salt
    info = b"pkgstore sealed blob" + header + bytes([len(store)]) + store.encode() + key.encode()
    derived = expanded(secret, salt, info, 39)
    aead, prefix = AESGCM(derived[:32]), derived[32:]
    digests = hashlib.sha256(data).digest() + hashlib.md5(data).digest() + bytes(64)
    record = aead.encrypt(prefix + bytes(4) + b"\2", len(data).to_bytes(8, "big") + b"\3" + digests, None)
    parts = [data[at : at + 65536] for at in range(0, max(1, len(data)), 65536)]
    body = b"".join(
        aead.encrypt(prefix + number.to_bytes(4, "big") + bytes([number == len(parts) - 1]), part, None)
        for number, part in enumerate(parts)
    )
    return header + (body + record if record_last else record + body)


@pytest.mark.parametrize("size", BORDERS)
def test_a_blob_is_sealed_as_documented(medium: Near, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments.os, "urandom", lambda count: bytes(range(count)))  # the salt
    data = OTHER[:size] + bytes(size - len(OTHER[:size]))
    publish(sealed(medium), "six/six-1.0.tar.gz", data)
    expected = by_hand(b"\1" * 32, bytes(range(32)), STORE, "six/six-1.0.tar.gz", data, record_last=medium.streams)
    assert medium.stored("six/six-1.0.tar.gz") == expected
    assert len(expected) == stored_size(size)


def test_a_known_answer() -> None:
    """What was sealed by the first version that did is read by every other."""
    assert hashlib.sha256(by_hand(b"\1" * 32, bytes(range(32)), STORE, "a", DATA, record_last=True)).hexdigest() == (
        "a38a336eb0b7e956c2c9752014fb675d7076824fc3555ef330ac96538822c1d9"
    )
    medium = Near()
    publish(sealed(medium), "a", b"")
    medium.damage("a", bytes.fromhex(ANSWER))
    assert read(sealed(medium), "a") == b"hello"
    assert sealed(medium).stat("a").digests["sha256"] == hashlib.sha256(b"hello").hexdigest()


ANSWER = (
    "706b6773746f726501011f94f8e05c822a29000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1ffa8df2e1f2"
    "c5c98d2904cf84369ded058006aacff2a7d5178bbfb0ad02194c430ca91750c5d2e3036337039beb6283c0447c1bafe657449a916bc2a2"
    "571c9f117fb5f68f13677473c0e15c788080f75ede1e6f0ebf6f407b208acf478d13b3999d4ee61a88539daacbfb9d72eabde626574db0"
    "b445c462bea81e70aa3914fa769ca891591c15b101ee5e13e60822d033b18e6c574711082310e3ff0eabef"
)


@pytest.mark.parametrize("size", BORDERS)
def test_what_was_published_is_read(medium: Near, size: int) -> None:
    data = (DATA + OTHER)[:size]
    driver = sealed(medium)
    digests = {name: hashlib.new(name, data).hexdigest() for name in ("sha256", "md5")}
    blob = publish(driver, "a", data)
    assert (blob.size, blob.digests) == (size, digests)
    assert blob == driver.stat("a") == driver.open("a")[0]
    assert read(driver, "a") == data
    assert [(each.key, each.size) for each in driver.scan("")] == [("a", size)]
    assert len(data) < 16 or data[:16] not in medium.stored("a")


@given(st.integers(0, 1 << 50))
def test_sizes_are_told_from_sizes(size: int) -> None:
    assert plain_size(stored_size(size)) == size
    assert 0 <= plain_size(size) <= size


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_range(data: st.DataObject) -> None:
    size = data.draw(st.one_of(st.sampled_from(BORDERS), st.integers(0, 3 * SEGMENT)))
    content = (DATA + OTHER)[:size]
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.one_of(st.none(), st.integers(start, size)))
    step = data.draw(st.sampled_from([1000, SEGMENT, 1 << 20]))
    for medium in (Near(), Far()):
        driver = sealed(medium)
        publish(driver, "a", content)
        assert read(driver, "a", start, stop, step) == content[start:stop]


def test_a_range_fetches_the_segments_that_it_needs() -> None:
    medium = Far()
    driver = sealed(medium)
    publish(driver, "a", DATA)
    for start, stop, count in (
        (0, 1, 1),
        (SEGMENT, SEGMENT + 1, 1),
        (SEGMENT - 1, SEGMENT + 1, 2),
        (SIZE - 1, SIZE, 1),
    ):
        medium.fetched = 0
        assert read(driver, "a", start, stop) == DATA[start:stop]
        assert medium.fetched <= HEADER + RECORD + count * (SEGMENT + TAG)


def test_a_seekable_stream() -> None:
    driver = sealed(Near())
    publish(driver, "a", DATA)
    _, stream = driver.open("a", 5)
    assert (stream.seekable(), stream.tell()) == (True, 5)
    oracle = io.BytesIO(DATA)
    for offset, whence in ((0, 0), (-10, 2), (SEGMENT - 3, 0), (100, 1), (-SEGMENT, 1), (SIZE + 5, 0), (-SIZE, 2)):
        oracle.seek(stream.tell())
        assert stream.seek(offset, whence) == oracle.seek(offset, whence)
        for count in (5, 3):  # a raw stream may return less at the end of a segment
            data = stream.read(count)
            assert data == oracle.read(len(data))
            assert data or not oracle.read(1)
    assert stream.seek(0) == 0
    buffer = bytearray(SIZE)
    assert stream.readinto(buffer) == SEGMENT  # type: ignore[attr-defined]
    assert buffer[:SEGMENT] == DATA[:SEGMENT]
    assert stream.read() == DATA[SEGMENT:]
    stream.close()


@pytest.mark.parametrize("wrong", [{"md5": "0" * 32}, {"sha256": "0" * 64}])
def test_a_body_is_judged_before_it_is_visible(medium: Near, wrong: dict[str, str | None]) -> None:
    driver = sealed(medium)
    with PublishBody("a", DATA, None, wanted(wrong)) as source, source.attempt() as body:
        digests = {"sha256": hashlib.sha256(DATA).hexdigest()}
        with pytest.raises(Corrupt, match="as expected"):
            driver.put("a", body, SIZE, digests=digests, exclusive=True, token="0" * 32)
    assert list(medium.scan("")) == []


class Failing(io.RawIOBase):
    """A stream that fails once, at a certain byte, and can then be read on."""

    def __init__(self, data: bytes, at: int) -> None:
        super().__init__()
        self._file, self._fails_at = io.BytesIO(data), at

    def read(self, size: int | None = -1, /) -> bytes:
        here = self._file.tell()
        if here == self._fails_at:
            self._fails_at = -1
            raise TimeoutError
        assert size is not None
        return self._file.read(min(size, self._fails_at - here) if here < self._fails_at else min(size, 5000))


@pytest.mark.parametrize("at", [HEADER + RECORD, HEADER + RECORD + 10, HEADER + RECORD + SEGMENT + TAG, SIZE])
def test_a_medium_that_fails_within_a_segment(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come of the segment is kept, whether the stream is read on or opened anew."""
    medium = Far()
    driver = sealed(medium)
    publish(driver, "a", DATA)
    stored = medium.stored("a")
    monkeypatch.setattr(Far, "open", lambda self, key, *_, tag=None: (self.stat(key), Failing(stored, at)))
    _, stream = driver.open("a")
    got = b""
    failed = 0
    while len(got) < SIZE:
        try:
            got += stream.read(3000)
        except TimeoutError:
            failed += 1
    assert (got, failed) == (DATA, 1)


def test_equal_blobs_are_not_seen_to_be_equal(medium: Near) -> None:
    driver = sealed(medium)
    for key in ("a", "b", "a"):
        before = medium.stored(key) if key in medium._space.blobs else b""
        publish(driver, key, DATA)
        assert medium.stored(key)[HEADER:] != before[HEADER:]
    assert medium.stored("a")[HEADER + RECORD :] != medium.stored("b")[HEADER + RECORD :]
    assert hashlib.sha256(DATA).hexdigest() not in medium.stat("a").digests.values()


def test_a_nonce_is_used_once(medium: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, bytes]] = []
    nonce = Cipher._nonce

    def noted(self: Cipher, number: int, kind: int) -> bytes:
        used.append((id(self._cipher), nonce(self, number, kind)))
        return used[-1][1]

    monkeypatch.setattr(Cipher, "_nonce", noted)
    publish(sealed(medium), "a", DATA)
    assert len(used) == len(set(used)) == 4
    assert {len(each) for _, each in used} == {12}


def test_a_blob_with_more_segments_than_there_are_nonces() -> None:
    cipher = Cipher(ONE, Header.new(ONE.id, record_last=True), STORE, "a")
    cipher.seal((1 << 32) - 1, b"", last=True)
    with pytest.raises(SealError, match="larger than") as caught:
        cipher.seal(1 << 32, b"", last=True)
    assert caught.value.kind is Unsupported


@pytest.mark.parametrize("step", [1, 7, 1000, SEGMENT, SEGMENT + 1, 1 << 20])
def test_bodies_are_cut_alike_in_whatever_pieces_they_come(step: int) -> None:
    data = DATA if step > 7 else DATA[: SEGMENT + 10]
    source = io.BytesIO(data)
    cut = [(bytes(part), last) for part, last in segments.cut(lambda: source.read(step))]
    assert b"".join(part for part, _ in cut) == data
    assert {len(part) for part, _ in cut[:-1]} == {SEGMENT}
    assert [last for _, last in cut] == [False] * (len(cut) - 1) + [True]


# -- attacks: each fails when what was done is not noticed ------------------------------------------------------------


def split(data: bytes, *, record_last: bool) -> tuple[bytes, bytes, list[bytes]]:
    """Return a sealed blob's header, its record and its segments."""
    header, rest = data[:HEADER], data[HEADER:]
    record, body = (rest[-RECORD:], rest[:-RECORD]) if record_last else (rest[:RECORD], rest[RECORD:])
    return header, record, [body[at : at + SEGMENT + TAG] for at in range(0, len(body), SEGMENT + TAG)]


def joined(header: bytes, record: bytes, parts: list[bytes], *, record_last: bool) -> bytes:
    body = b"".join(parts)
    return header + (body + record if record_last else record + body)


def attack_by_reordering(medium: Near) -> None:
    driver, how = sealed(medium), {"record_last": medium.streams}
    publish(driver, "a", DATA)
    header, record, parts = split(medium.stored("a"), **how)
    for changed in (
        [parts[1], parts[0], parts[2]],
        [parts[0], parts[0], parts[2]],
        [parts[1], parts[1], parts[2]],
    ):
        medium.damage("a", joined(header, record, changed, **how))
        assert refused(driver, "a") in (b"", DATA[:SEGMENT])


def attack_by_dropping_or_adding_segments(medium: Near) -> None:
    driver, how = sealed(medium), {"record_last": medium.streams}
    publish(driver, "a", DATA)
    header, record, parts = split(medium.stored("a"), **how)
    for changed in (
        parts[:1],
        parts[:2],
        parts[1:],
        parts[2:],
        [parts[0], parts[2]],
        [*parts, parts[2]],
        [],
        parts * 2,
    ):
        medium.damage("a", joined(header, record, changed, **how))
        assert refused(driver, "a") == b""


def attack_by_moving_to_another_key(medium: Near) -> None:
    driver = sealed(medium)
    publish(driver, "a", DATA)
    publish(driver, "b", DATA)
    medium.damage("b", medium.stored("a"))
    assert refused(driver, "b") == b""


def attack_by_moving_to_another_store(medium: Near) -> None:
    publish(sealed(medium), "a", DATA)
    assert refused(sealed(medium, store="5b" * 16), "a") == b""


def attack_by_mixing_versions(medium: Near) -> None:
    driver, how = sealed(medium), {"record_last": medium.streams}
    publish(driver, "a", OTHER)
    _, record, old = split(medium.stored("a"), **how)
    publish(driver, "a", DATA)
    header, new_record, new = split(medium.stored("a"), **how)
    for number in range(3):
        mixed = [*new[:number], old[number], *new[number + 1 :]]
        medium.damage("a", joined(header, new_record, mixed, **how))
        assert refused(driver, "a") == DATA[: number * SEGMENT]
    medium.damage("a", joined(header, record, new, **how))
    assert refused(driver, "a") == b""


def attack_by_calling_a_segment_the_last(medium: Near) -> None:
    cipher = Cipher(ONE, Header.new(ONE.id, record_last=medium.streams), STORE, "a")
    for last in (True, False):
        segment = cipher.seal(1, DATA[:100], last=last)
        assert cipher.open(1, segment, last=last) == DATA[:100]
        with pytest.raises(SealError):
            cipher.open(1, segment, last=not last)


def attack_by_passing_a_record_for_a_segment(medium: Near) -> None:
    cipher = Cipher(ONE, Header.new(ONE.id, record_last=medium.streams), STORE, "a")
    for last in (True, False):
        with pytest.raises(SealError):
            cipher.open(0, cipher.seal_record(0, {}), last=last)


ATTACKS: list[Callable[[Near], None]] = [
    attack_by_reordering,
    attack_by_dropping_or_adding_segments,
    attack_by_moving_to_another_key,
    attack_by_moving_to_another_store,
    attack_by_mixing_versions,
    attack_by_calling_a_segment_the_last,
    attack_by_passing_a_record_for_a_segment,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attacks(medium: Near, attack: Callable[[Near], None]) -> None:
    attack(medium)


# -- mutants: constructions of which each lets an attack through ------------------------------------------------------


def without_last(self: Cipher, number: int, kind: int) -> bytes:
    return self._prefix + number.to_bytes(4, "big") + bytes([kind & 2])


def without_number(self: Cipher, number: int, kind: int) -> bytes:
    return self._prefix + bytes(4) + bytes([kind])


def without_kind(self: Cipher, number: int, kind: int) -> bytes:
    return self._prefix + number.to_bytes(4, "big") + bytes([kind & 1])


def not_bound(**left_out: str) -> Callable[..., None]:
    original = Cipher.__init__

    def init(self: Cipher, secret: Secret, header: Header, store: str, key: str) -> None:
        bound = {"store": store, "key": key, **left_out}
        original(self, secret, header, **bound)

    return init


def same_salt(key_id: str, *, record_last: bool) -> Header:
    return Header(key_id, bytes(32), record_last)


@pytest.mark.parametrize(
    ("target", "name", "mutant", "lets_through"),
    [
        (Cipher, "_nonce", without_last, attack_by_calling_a_segment_the_last),
        (Cipher, "_nonce", without_number, attack_by_reordering),
        (Cipher, "_nonce", without_kind, attack_by_passing_a_record_for_a_segment),
        (Cipher, "__init__", not_bound(key=""), attack_by_moving_to_another_key),
        (Cipher, "__init__", not_bound(store=""), attack_by_moving_to_another_store),
        (Header, "new", same_salt, attack_by_mixing_versions),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_mutants_are_caught(
    medium: Near,
    monkeypatch: pytest.MonkeyPatch,
    target: type,
    name: str,
    mutant: Any,
    lets_through: Callable[[Near], None],
) -> None:
    monkeypatch.setattr(target, name, staticmethod(mutant) if target is Header else mutant)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        lets_through(medium)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_any_changed_bit(medium: Near) -> None:
    driver = sealed(medium)
    publish(driver, "a", DATA)
    good = medium.stored("a")
    first = HEADER if medium.streams else HEADER + RECORD
    places = {*range(HEADER), *range(len(good) - 3, len(good)), len(good) - RECORD, len(good) - RECORD - 1}
    places |= {HEADER + each for each in (0, 8, 9, 50, RECORD - 1, RECORD)}
    places |= {first + number * (SEGMENT + TAG) + each for number in range(3) for each in (-1, 0, 1, 999, 1000, 1015)}
    for at in sorted(places):
        for bit in (1, 128):
            medium.damage("a", good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
            is_id = 10 <= at < 18
            got = refused(driver, "a", Denied if is_id else Corrupt)
            number = (at - first) // (SEGMENT + TAG) if first <= at < first + SIZE + 3 * TAG else 0
            assert got == DATA[: number * SEGMENT], "whole segments, and none of the one that was changed"
            if at < HEADER:
                assert driver.stat("a").digests == {}


def test_any_length(medium: Near) -> None:
    driver = sealed(medium)
    publish(driver, "a", DATA)
    good = medium.stored("a")
    borders = [0, 1, HEADER, HEADER + TAG, HEADER + RECORD, HEADER + RECORD + TAG, len(good) - RECORD, len(good)]
    borders += [HEADER + front + number * (SEGMENT + TAG) for front in (0, RECORD) for number in (1, 2)]
    for length in sorted({each + by for each in borders for by in (-1, 0, 1, TAG)} - {len(good), -1}):
        medium.damage("a", (good + bytes(100))[:length])
        assert refused(driver, "a") == b"", length
        assert driver.stat("a").digests == {}
        assert driver.stat("a").size == plain_size(length)
        assert [each.size for each in driver.scan("")] == [plain_size(length)]
    medium.damage("a", good)
    assert read(driver, "a") == DATA


def test_a_buffer_is_left_alone_by_what_does_not_open(medium: Near) -> None:
    driver = sealed(medium)
    publish(driver, "a", DATA)
    good = medium.stored("a")
    at = len(good) // 2
    medium.damage("a", good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    _, stream = driver.open("a", SEGMENT + 10)
    buffer = bytearray(100)
    for _ in range(2):  # and not by another try either
        with pytest.raises((SealError, io.UnsupportedOperation)), stream:
            stream.readinto(buffer)  # type: ignore[attr-defined]
        assert buffer == bytes(100)
        _, stream = driver.open("a", SEGMENT + 10)
    stream.close()


def test_what_does_not_open_does_not_open_later(medium: Near) -> None:
    driver = sealed(medium)
    publish(driver, "a", DATA)
    stored = bytearray(medium.stored("a"))
    stored[len(stored) // 2] ^= 1
    medium.damage("a", bytes(stored))
    _, stream = driver.open("a")
    with stream:
        assert stream.read(SEGMENT) == DATA[:SEGMENT]
        for _ in range(3):
            with pytest.raises(SealError, match="segment 1 is not what was sealed there"):
                stream.read(SEGMENT)


def test_a_header_that_names_another_key_of_the_keyring(medium: Near) -> None:
    publish(sealed(medium, ONE), "a", DATA)
    good = medium.stored("a")
    medium.damage("a", good[:10] + bytes.fromhex(TWO.id) + good[18:])
    assert refused(sealed(medium, ONE, TWO), "a") == b""


def test_a_key_that_is_missing(medium: Near) -> None:
    publish(sealed(medium, ONE), "a", DATA)
    with pytest.raises(SealError, match=ONE.id) as caught:
        read(sealed(medium, TWO), "a")
    assert caught.value.kind is Denied
    assert sealed(medium, TWO).stat("a").size == SIZE
    assert read(sealed(medium, TWO, ONE), "a") == DATA


def test_a_whole_older_version_opens(medium: Near) -> None:
    """As documented: who can write to the medium can bring back what was there, as with a backup."""
    driver = sealed(medium)
    publish(driver, "a", OTHER)
    old = medium.stored("a")
    publish(driver, "a", DATA)
    medium.damage("a", old)
    assert read(driver, "a") == OTHER


def test_a_version_that_is_replaced_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range needs two requests of a far medium: both are of one version, and the newest is looked for again."""
    medium = Far()
    driver = sealed(medium)
    publish(driver, "a", DATA)
    original = Far.open
    changes = iter([OTHER, DATA])

    def replaced(self: Far, key: str, start: int = 0, *args: Any, **options: Any) -> Any:
        if start and (data := next(changes, None)):
            publish(driver, "a", data)
        return original(self, key, start, *args, **options)

    tag = driver.stat("a").tag
    monkeypatch.setattr(Far, "open", replaced)
    assert read(driver, "a", SEGMENT, SEGMENT + 10) == DATA[SEGMENT : SEGMENT + 10]
    with pytest.raises(FileNotFoundError):
        driver.open("a", SEGMENT, tag=tag)
