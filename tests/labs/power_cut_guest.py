"""What runs inside the machine that is killed: `write SEED [without-fsync]`, then, after the cut, `check LOG`.

`write` announces each operation before it starts (TRY, or GONE for a delete) and acknowledges it when it has returned
(DONE, or DELETED), each with the key and the sha256 of the body. The writers also contend for the generations of one
document, as a ledger is written: each is published once, by whoever comes first (NEXT, and TOOK for the winner).
`check` reads those lines, and says what became of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from pathlib import Path

import pkgstore

STORE = "/mnt/disk/store"
STAGING = Path(STORE, ".pkgstore", "tmp")
LEDGER = "ledger/"
WRITERS = 3
SIZES = (10, 1_000, 50_000, 300_000, 5_000_000)
WEIGHTS = (30, 30, 30, 9, 1)


def write(seed: str) -> None:
    """Publish, replace and delete, in several processes, until the plug is pulled."""
    for writer in range(WRITERS):
        if os.fork() == 0:
            _write(writer, random.Random(f"{seed}-{writer}"))
    os.wait()


def _write(writer: int, choose: random.Random) -> None:
    store = pkgstore.open(STORE)
    mine: list[str] = []
    count = generation = 0
    while True:
        if choose.random() < 0.2:
            generation = _take_next(store, generation, choose)
            continue
        body = choose.randbytes(choose.choices(SIZES, WEIGHTS)[0])
        digest = hashlib.sha256(body).hexdigest()
        what = choose.random()
        if what < 0.15 and mine:
            key = mine.pop(choose.randrange(len(mine)))
            _say("GONE", key, "-")
            store.delete(key)
            _say("DELETED", key, "-")
            continue
        replace = what < 0.3 and bool(mine)
        if replace:
            key = choose.choice(mine)
        else:
            key = f"project-{choose.randrange(30)}/{writer}-{count}"
            count += 1
            mine.append(key)
        _say("TRY", key, digest)
        store.publish(key, body, replace=replace)
        _say("DONE", key, digest)


def _take_next(store: pkgstore.Store, generation: int, choose: random.Random) -> int:
    """Publish the first generation from here on that nobody has taken; return the next one's number."""
    while True:
        key, body = f"{LEDGER}{generation:06}.json", choose.randbytes(200)
        digest = hashlib.sha256(body).hexdigest()
        generation += 1
        _say("NEXT", key, digest)
        try:
            store.publish(key, body)
        except pkgstore.Exists:
            continue
        _say("TOOK", key, digest)
        return generation


def _say(*words: str) -> None:
    os.write(1, (" ".join(words) + "\n").encode())


def check(log: Path) -> dict[str, int]:
    """Return what of the log still holds, and what does not."""
    allowed: dict[str, set[str | None]] = {}
    taken: set[str] = set()
    acknowledged = twice = 0
    for what, key, digest in json.loads(log.read_text()):
        if key in taken:
            twice += what == "TOOK"
            continue
        after = None if what in ("GONE", "DELETED") else digest
        if what in ("DONE", "DELETED", "TOOK"):
            acknowledged += 1
            taken |= {key} if what == "TOOK" else set()
            allowed[key] = {after}
        else:
            allowed.setdefault(key, {None}).add(after)
    there: dict[str, str] = {}
    found = {"acknowledged": acknowledged, "twice": twice, "lost": 0, "torn": 0, "mismatched": 0, "leftovers": 0}
    try:
        store = pkgstore.open(STORE, create=False)
    except pkgstore.NotFound:
        return {**found, "lost": acknowledged}
    for blob in store.list():
        with store.open(blob.key, verify=False) as reader:
            there[blob.key] = hashlib.sha256(reader.read()).hexdigest()
        found["torn"] += there[blob.key] not in allowed.get(blob.key, ())
        found["mismatched"] += blob.digests.get("sha256") != there[blob.key]
    found["lost"] = sum(there.get(key) not in states for key, states in allowed.items())
    # Whoever was told that a generation is taken went on to the next one, and relies on it.
    generations = sorted(key for key in there if key.startswith(LEDGER))
    found["lost"] += len(generations) and int(generations[-1][len(LEDGER) :][:6]) + 1 - len(generations)
    store.publish("after-the-cut", b"")
    found["leftovers"] = len(list(STAGING.iterdir()))
    return found


if __name__ == "__main__":
    if "without-fsync" in sys.argv:
        os.fsync = lambda _: None  # type: ignore[assignment]
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        print("FOUND", json.dumps(check(Path(sys.argv[2]))).replace(" ", ""), flush=True)
