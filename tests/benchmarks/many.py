# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store of millions of chunks: what it costs to open it, to look chunks up, to prune and to collect.

The chunks' bytes are not there (their packs are empty files); index, maps and restore points are real, and made by the
store's own writer: one machine for each million, two restore points each, of which the second has a tenth new chunks;
with `--days` so many such second ones, each with an index file of its own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
from pathlib import Path

from ansible_collections.stowage.esxi.plugins.module_utils.store import collect
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PAGE, Entry
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, DiskMap, Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store, pack_name
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Writer

MACHINE_CHUNKS = 1_000_000
PACK_CHUNKS = 128
LOOKUPS = 500_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("act", choices=["make", "lookup", "prune", "collect"])
    parser.add_argument("store")
    parser.add_argument("--chunks", type=int, default=10 * MACHINE_CHUNKS)
    parser.add_argument("--days", type=int, default=1)
    words = parser.parse_args()
    {"make": _make, "lookup": _lookup, "prune": _prune, "collect": _collect}[words.act](words)


def _make(words: argparse.Namespace) -> None:
    store = Store.create(LocalBackend(words.store))
    chance = random.Random(1)
    for number in range(-(-words.chunks // MACHINE_CHUNKS)):
        count = min(MACHINE_CHUNKS, words.chunks - number * MACHINE_CHUNKS)
        pages = [bytearray() for _page in range(-(-count // PAGE_SLOTS))]
        _point(store, f"machine{number}", pages, range(len(pages)), count, chance)
        for day in range(words.days):
            tenth = range(day % 10, len(pages), 10)
            for page in tenth:
                pages[page] = bytearray()
            _point(store, f"machine{number}", pages, tenth, count, chance)


def _point(store: Store, machine: str, pages: list[bytearray], fresh: range, count: int, chance: random.Random) -> None:
    """A restore point whose chunks on the fresh pages are new."""
    with Writer(store, machine, machine) as writer:
        made: list[Entry] = []
        for number in fresh:
            slots = min(PAGE_SLOTS, count - number * PAGE_SLOTS)
            pages[number] = bytearray(chance.randbytes(slots * SLOT_BYTES))
            for slot in range(slots):
                at = slot * SLOT_BYTES
                made.append(Entry(bytes(pages[number][at : at + 32]), b"", 64, 600_000, 1 << 20, 1, 0))
        for number, at in enumerate(range(0, len(made), PACK_CHUNKS)):
            name = f"{writer.id}-{900_000 + number:06d}"
            path = Path(store.name, pack_name(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            writer.entries[name] = made[at : at + PACK_CHUNKS]
        with writer.lane() as lane:
            names = []
            for page in pages:
                data = bytes(page)
                identity = store.identity.of(data)
                if identity not in writer.index and writer.claim(identity):
                    lane.add(identity, store.identity.check(data), data, PAGE)
                names.append(identity)
        disk = DiskMap("scsi0:0", count << 20, 1 << 20, tuple(names))
        writer.commit(Point(writer.point, machine, machine, writer.created_at, writer.id, (disk,)))


def _lookup(words: argparse.Namespace) -> None:
    before = _anonymous()
    begin = time.perf_counter()
    store = Store.open(LocalBackend(words.store))
    index = store.index()
    opened = time.perf_counter() - begin
    grown = _anonymous() - before
    count = sum(segment.count for segment in index.segments)
    chance = random.Random(2)
    each = LOOKUPS // len(index.segments)
    wanted = [one for segment in index.segments for one in itertools.islice(segment.ids(), each)]
    chance.shuffle(wanted)
    strange = [chance.randbytes(32) for _turn in range(LOOKUPS)]
    base = _anonymous()
    rates = []
    for batch, known in ((wanted, True), (strange, False)):
        begin = time.perf_counter()
        found = sum(map(index.__contains__, batch))
        rates.append(len(batch) / (time.perf_counter() - begin))
        if found != (len(batch) if known else 0):
            sys.exit(f"{found} of {len(batch)} chunks were found")
    begin = time.perf_counter()
    for identity in wanted:
        index.find(identity)
    places = len(wanted) / (time.perf_counter() - begin)
    grown += max(0, _anonymous() - base)
    print(
        f"{count} chunks in {len(index.segments)} index files: open {opened:.4f} s; look-ups a second: "
        f"{rates[0]:.0f} known, {rates[1]:.0f} unknown, {places:.0f} with their places; "
        f"{grown / count:.2f} bytes of memory a chunk"
    )


def _prune(words: argparse.Namespace) -> None:
    store = Store.open(LocalBackend(words.store))
    begin = time.perf_counter()
    gone = 0
    for number in range(10_000):
        points = store.points(f"machine{number}")
        if not points:
            break
        for point in points[:-1]:
            store.backend.delete(point.object_name)
            gone += 1
    print(f"{gone} restore points removed in {time.perf_counter() - begin:.2f} s")


def _collect(words: argparse.Namespace) -> None:
    store = Store.open(LocalBackend(words.store))
    begin = time.perf_counter()
    report = collect.run(store)
    print(
        f"{len(report.removed)} packs collected and {len(report.merged)} index files merged in"
        f" {time.perf_counter() - begin:.2f} s"
    )


def _anonymous() -> int:
    """Bytes of RssAnon."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
