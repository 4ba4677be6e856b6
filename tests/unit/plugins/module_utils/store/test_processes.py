# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Eight writers, a prune and a collection as processes of their own on one store, killed at random moments, round after
round: whatever was committed restores bit for bit, and verify finds nothing."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, prune, unfinished, writer
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import WriterRevoked
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Place
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Piece
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

from .benches import CHUNK, back_up, chunk, image, local, new_store, restored, sound
from .hashing import HashedFile, feed

WRITERS, KEEPERS = 8, 2
OBSERVE_SECONDS = 0.25
ROUND_SECONDS = 2.0

# Calls to the operating system, or processes of their own: of a store in a folder.
pytestmark = pytest.mark.folder


def wanted(seeds: list[int]) -> bytes:
    return b"".join(chunk(seed) if seed else bytes(CHUNK) for seed in seeds)


def write(root: Path, folder: Path, number: int, seed: int) -> None:
    """Backups of one machine's disk, one after the other; most chunks are other machines', too. Half of them come from
    far away, and some of these are cut."""
    chance = random.Random(seed)
    machine = f"vm-{number}"
    noted(folder)
    while True:
        store = Store.open(local(root))
        seeds = [chance.choice([0, chance.randrange(1, 30), chance.randrange(1, 200)]) for _ in range(12)]
        parent = (store.points(machine) or [None])[-1] if chance.random() < 0.7 else None
        disk = image(folder / f"{machine}.raw", seeds)
        with contextlib.suppress(WriterRevoked, ConnectionResetError):
            if chance.random() < 0.5:
                back_up(store, disk, machine=machine, parent=parent, facts={"seeds": seeds})
            else:
                source = Unsteady(disk)
                source.left = chance.choice([2, 4, 1000])
                facts, host = {"seeds": seeds}, f"esx{number % 2}"
                feed(store, source, machine=machine, host=host, parent=parent, facts=facts)


class Unsteady(HashedFile):
    """Is cut after so many chunks."""

    left = 0

    def chunks(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        for data in super().chunks(pieces):
            self.left -= 1
            if self.left < 0:
                raise ConnectionResetError("cut")
            yield data


def noted(folder: Path) -> None:
    """In this process, each chunk of an unfinished backup that is taken over leaves a sign."""
    adopt = writer.Writer.adopt

    def adopted(self: writer.Writer, identity: bytes, place: Place) -> None:
        with open(folder / "adopted", "ab") as file:
            file.write(b".")
        adopt(self, identity, place)

    setattr(writer.Writer, "adopt", adopted)  # noqa: B010  the process ends with its work


def keep(root: Path, folder: Path, number: int, seed: int) -> None:
    """Prunes and collections in turn."""
    chance = random.Random(seed)
    while True:
        store = Store.open(local(root))
        if chance.random() < 0.5:
            done = prune.run(store, Keep(last=chance.choice([1, 2, 3])), observe_seconds=OBSERVE_SECONDS).collected
        else:
            done = collect.run(store, observe_seconds=OBSERVE_SECONDS)
        with open(folder / "kept", "a", encoding="utf-8") as file:
            file.write(json.dumps(counts(done)) + "\n")


def counts(done: collect.Report | None) -> list[int]:
    return [len(done.given_up), len(done.removed), len(done.repacked), len(done.merged)] if done else [0] * 4


def child(work: Callable[..., None], root: Path, folder: Path, number: int, seed: int) -> None:
    try:
        work(root, folder, number, seed)
    except BaseException:
        (folder / f"failed-{os.getpid()}").write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(0)


def one_round(root: Path, folder: Path, seed: int) -> int:
    """Starts them, kills each at a moment of its own; returns how many it had to kill."""
    chance = random.Random(seed)
    context = multiprocessing.get_context("fork")
    crowd: list[tuple[float, Any]] = []
    for number in range(WRITERS + KEEPERS):
        work = write if number < WRITERS else keep
        process = context.Process(target=child, args=(work, root, folder, number, chance.randrange(1 << 30)))
        process.start()
        # A collection has to look twice before it does anything.
        life = (0.2 if number < WRITERS else 0.8) + chance.random()
        crowd.append((time.monotonic() + ROUND_SECONDS * life, process))
    killed = 0
    for moment, process in sorted(crowd, key=lambda one: one[0]):
        time.sleep(max(0.0, moment - time.monotonic()))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
    return killed


# Rounds of one store: each of them leaves the names of writers that were given up.
ROUNDS = 25


@pytest.mark.parametrize("rounds", [2, pytest.param(500, marks=pytest.mark.soak)])
def test_whatever_is_killed_when_all_that_was_committed_restores(
    tmp_path: Path, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BEAT_SECONDS", 0.04)
    monkeypatch.setattr(collect, "MOST_SEGMENTS", 4)
    monkeypatch.setattr(unfinished, "TELL_SECONDS", 0.0)
    killed, seen, adopted, kept = 0, 0, 0, [0]
    for begin in range(0, rounds, ROUNDS):
        folder = tmp_path / "work"
        folder.mkdir()
        numbers = range(begin, min(begin + ROUNDS, rounds))
        dead, points, sums = one_store(folder, numbers)
        killed, seen, kept = killed + dead, seen + points, [*map(sum, zip_longest(kept, sums, fillvalue=0))]
        adopted += len((folder / "adopted").read_bytes()) if (folder / "adopted").exists() else 0
        shutil.rmtree(folder)
        print(f"{numbers.stop} rounds: {killed} killed, {seen} points seen; {kept[0]} collections came to their end,")
        print(f"{adopted} chunks of unfinished backups were taken over;")
        print("they gave up, removed, wrote anew, merged: {} {} {} {}".format(*kept[1:]), flush=True)
    assert seen > 2 * rounds and killed >= 9 * rounds and kept[2] and adopted


def one_store(folder: Path, numbers: range) -> tuple[int, int, list[int]]:
    """Rounds with one store; how many were killed, how many restore points were seen, and what collections did."""
    root = folder / "store"
    root.mkdir()
    new_store(local(root), pack_bytes=3 * CHUNK)
    seen: set[str] = set()
    killed = 0
    for number in numbers:
        chance = random.Random(number)
        killed += one_round(root, folder, number)
        assert not [path.read_text(encoding="utf-8") for path in folder.glob("failed-*")], number
        store = Store.open(local(root))
        sound(store)
        for point in store.points():
            # A third of the old ones; verify has decoded all of them.
            if point.point not in seen or chance.random() < 0.3:
                assert restored(store, point, folder) == wanted(point.facts["seeds"]), (number, point)
        seen.update(point.point for point in store.points())
    # At rest, the rest of the dead goes, and everything is there still.
    store = Store.open(local(root))
    at_rest = [collect.run(store, observe_seconds=OBSERVE_SECONDS) for _turn in range(2)]
    assert at_rest[-1].stopped is None and not list((root / "writers").iterdir())
    for point in store.points():
        assert restored(store, point, folder) == wanted(point.facts["seeds"])
    sound(store)
    path = folder / "kept"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    lines += map(counts, at_rest)
    return killed, len(seen), [len(lines), *map(sum, zip(*lines))]
