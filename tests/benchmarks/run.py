# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks of the store: ours and the peer in one run, alternately, and the ratio of the medians' pairs.

    python tests/benchmarks/run.py [--small] [--data FOLDER] [--pairs N] [ROW ...]

Each row prints a line for each of its pairs: our median and the peer's, the median of the pairs' ratios, the floor that
is asked of it, and the peak memory of ours. It ends with 1 when a floor is not met (not with `--small`), with 2 when a
peer cannot be run: there is no ratio without its pair.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import disks
import limits
import measure
from limits import CHUNK, Limits
from measure import Cost, Failed
from peers import Borg, BorgEncrypted, Copy, Ours, OursEncrypted, OursFast, Program, Restic, ResticFast

ROOT = Path(__file__).resolve().parents[2]
MOST_MEMORY = 100.0
P = TypeVar("P", bound=Program)


@dataclass
class Bench:
    """Where a run works, and what came out of it."""

    data: Path
    work: Path
    pairs: int
    small: bool
    misses: list[str] = field(default_factory=list)
    _limits: dict[str, Limits] = field(default_factory=dict)

    def disks(self, day: int) -> list[str]:
        return disks.names(self.data, day)

    def program(self, kind: type[P]) -> P:
        return kind(self.work)

    def fresh(self, kind: type[P]) -> P:
        one = self.program(kind)
        one.clear()
        return one

    def warmed(self, act: Callable[[], Cost]) -> Callable[[], Cost]:
        """With the disks in the page cache, whatever was done before."""

        def run() -> Cost:
            measure.warm(*self.disks(1), *self.disks(2))
            return act()

        return run

    def limits(self, what: str) -> Limits:
        """What the machine allows with both disks, with what is `new` on their second day, or with `one` of them."""
        if what not in self._limits:
            only = None
            if what == "new":
                only = [
                    [
                        at
                        for begin, length in measure.differences(old, new, CHUNK)
                        for at in range(begin, begin + length, CHUNK)
                    ]
                    for old, new in zip(self.disks(1), self.disks(2))
                ]
            paths = {"both": self.disks(1), "new": self.disks(2), "one": self.disks(1)[:1]}[what]
            self._limits[what] = limits.of(paths, self.work, only)
        return self._limits[what]

    def pair(
        self,
        title: str,
        ours: Callable[[], Cost],
        peer: Callable[[], Cost],
        floor: float,
        against: str,
        limit: float = 0.0,
    ) -> None:
        """Runs both alternately, who is first changing from pair to pair."""
        costs: list[tuple[Cost, Cost]] = []
        ours, peer = self.warmed(ours), self.warmed(peer)
        for turn in range(self.pairs):
            if turn % 2:
                other, mine = peer(), ours()
            else:
                mine, other = ours(), peer()
            costs.append((mine, other))
        ratio = statistics.median(other.wall / mine.wall for mine, other in costs)
        mine = statistics.median(one.wall for one, _other in costs)
        others = statistics.median(other.wall for _one, other in costs)
        cpu = statistics.median(one.cpu for one, _other in costs)
        other_cpu = statistics.median(other.cpu for _one, other in costs)
        memory = max(one.memory for one, _other in costs)
        self.line(
            title,
            f"{mine:7.2f} s (cpu {cpu:.2f})",
            f"{against} {others:7.2f} s (cpu {other_cpu:.2f})",
            ratio,
            floor,
            memory,
            f"limit {limit:.2f} s, {limit / mine:.0%} of it" if limit else "",
        )

    def line(
        self, title: str, mine: str, other: str, ratio: float, floor: float, memory: float = 0.0, limit: str = ""
    ) -> None:
        met = ratio >= floor and memory <= MOST_MEMORY
        mark = "ok" if met else "MISSED"
        if not met:
            self.misses.append(title)
        peak = f"{memory:5.0f} MiB" if memory else " " * 9
        print(
            f"{title:34} {mine:25} {other:44} x {ratio:6.2f} of {floor:5.2f} {peak}  {mark:6}  {limit}".rstrip(),
            flush=True,
        )


# -- the rows --------------------------------------------------------------------------------------------------------


def full(bench: Bench) -> None:
    """The first backup of both disks, default settings."""

    def first(kind: type[Program]) -> Callable[[], Cost]:
        return lambda: bench.fresh(kind).backup("day1", bench.disks(1))

    allowed = bench.limits("both")
    bench.pair("first full", first(Ours), first(Borg), 1.4, "borg", allowed.backup())
    bench.pair("first full", first(Ours), first(ResticFast), 3.0, "restic fastest", allowed.backup())
    bench.pair("first full, fast", first(OursFast), first(Borg), 2.0, "borg", allowed.backup(fast=True))
    title, limit = "first full, encrypted", allowed.backup(encrypted=True)
    bench.pair(title, first(OursEncrypted), first(BorgEncrypted), 1.0, "borg blake2 aes", limit)


def size(bench: Bench) -> None:
    """What the repositories take after the first and the second day."""
    sizes = {}
    for kind in (Ours, OursFast, Borg, Restic):
        one = bench.fresh(kind)
        one.backup("day1", bench.disks(1))
        first = one.mebibytes()
        one.backup("day2", bench.disks(2))
        sizes[kind] = (first, one.mebibytes())

    def compare(title: str, kind: type[Program], other: type[Program], day: int, floor: float) -> None:
        mine, theirs = sizes[kind][day], sizes[other][day]
        bench.line(title, f"{mine:.0f} MiB", f"{other.name} {theirs:.0f} MiB", theirs / mine, floor)

    compare("store, day 1", Ours, Restic, 0, 1 / 1.05)
    compare("store, days 1 and 2", Ours, Restic, 1, 1.0)
    compare("store, fast, day 1", OursFast, Borg, 0, 1 / 1.05)
    compare("store, fast, days 1 and 2", OursFast, Borg, 1, 1 / 1.05)


def second(bench: Bench) -> None:
    """The second day, all of it read; and with what the first day knew not trusted."""

    def day(kind: type[Program], *more: str) -> Callable[[], Cost]:
        def run() -> Cost:
            one = _copied(bench, kind)
            return one.backup("day2", bench.disks(2), *more)

        return run

    both, new = bench.limits("both"), bench.limits("new")
    limit = both.look(both.data) + new.backup()
    for floor, kind in ((3.0, Borg), (8.0, ResticFast)):
        bench.pair("second day", day(Ours), day(kind), floor, kind.name, limit)
    copied = lambda: bench.fresh(Copy).backup("day2", bench.disks(2))  # noqa: E731
    bench.pair("second day", day(Ours), copied, 1.7, Copy.name, limit)
    limit += both.sha256.of(both.filled)
    bench.pair("second day, every hash anew", day(Ours, "--rehash"), day(Borg), 1.0, "borg", limit)


def changed(bench: Bench) -> None:
    """With a map of the changed blocks: the cost follows the change."""
    maps = [_written(bench, old, new) for old, new in zip(bench.disks(1), bench.disks(2))]

    def mine() -> Cost:
        return _copied(bench, Ours).changed(bench.disks(2), maps)

    bench.pair(
        "second day, change map",
        mine,
        lambda: _copied(bench, ResticFast).backup("day2", bench.disks(2)),
        10.0,
        "restic fastest",
        bench.limits("new").backup(),
    )
    for name in ("web-1.raw", "sparse.raw"):
        _shares(bench, bench.data / name)


def _shares(bench: Bench, source: Path) -> None:
    """1, 5 and 20 % of a disk changed: seconds, and seconds a changed GiB."""
    total = source.stat().st_size
    base = bench.fresh(Ours)
    disk = bench.work / "shares.raw"
    for percent in (1, 5, 20):
        subprocess.run(["cp", "--sparse=always", source, disk], check=True)
        base.clear()
        base.backup("day1", [str(disk)])
        chunks = total // (1 << 20)
        chance = random.Random(percent)
        picked = sorted(chance.sample(range(chunks), max(1, chunks * percent // 100)))
        # A page of each is written: what a map of 1 MiB areas would say.
        with open(disk, "r+b") as file:
            for chunk in picked:
                file.seek(chunk << 20)
                file.write(chance.randbytes(4096))
        given = _map(bench.work / "shares.json", [(chunk << 20, 1 << 20) for chunk in picked])
        measure.warm(str(disk))
        cost = base.changed([str(disk)], [given])
        amount = len(picked) / 1024
        print(
            f"  {percent:2} % of {total / (1 << 30):.0f} GiB changed: {cost.wall:.2f} s, "
            f"{cost.wall / amount:.2f} s a changed GiB, {cost.memory:.0f} MiB",
            flush=True,
        )
    disk.unlink()


def restoring(bench: Bench) -> None:
    """One disk to a new file; and over a disk of which 1 % differs."""
    disk, target = bench.disks(1)[0], str(bench.work / "restored.raw")
    programs = {kind: _with_first(bench, kind) for kind in (Ours, Borg, ResticFast, Copy)}

    def new(kind: type[Program], *more: str) -> Callable[[], Cost]:
        def run() -> Cost:
            Path(target).unlink(missing_ok=True)
            cost = programs[kind].restore("day1", disk, target, *more)
            measure.same(disk, target)
            return cost

        return run

    allowed = bench.limits("one")
    for floor, kind in ((6.0, Borg), (3.0, ResticFast), (0.8, Copy)):
        bench.pair("restore", new(Ours), new(kind), floor, kind.name, allowed.restore())
    paranoid = allowed.restore(paranoid=True)
    bench.pair("restore, paranoid", new(Ours, "--paranoid"), new(Copy), 0.0, Copy.name, paranoid)

    def over() -> Cost:
        chance = random.Random(5)
        with open(target, "r+b") as file:
            for chunk in chance.sample(range(os.path.getsize(target) >> 20), os.path.getsize(target) // 100 >> 20):
                file.seek(chunk << 20)
                file.write(chance.randbytes(4096))
            os.fsync(file.fileno())
        cost = programs[Ours].restore("day1", disk, target, "--in-place")  # type: ignore[call-arg]
        measure.same(disk, target)
        return cost

    bench.pair("restore in place, 1 % differs", over, new(Ours), 5.0, "our full restore", allowed.look(allowed.data))
    Path(target).unlink()


def verifying(bench: Bench) -> None:
    """Everything decoded and hashed; every stored record's checksum."""
    ours, borg, restic = (_with_first(bench, kind) for kind in (Ours, Borg, ResticFast))
    deep = lambda: ours.verify("--deep")  # type: ignore[call-arg]  # noqa: E731
    allowed = bench.limits("both")
    scrub = allowed.look(allowed.stored)
    bench.pair("verify, deep", deep, borg.verify, 2.3, "borg check --verify-data", allowed.verify())
    bench.pair("verify, deep", deep, restic.verify, 1.7, "restic check --read-data", allowed.verify())
    bench.pair("verify, scrub", ours.verify, borg.verify, 20.0, "borg check --verify-data", scrub)
    bench.pair("verify, scrub", ours.verify, borg.scrub, 1.0, "borg check --repository-only", scrub)  # type: ignore[attr-defined]


def extremes(bench: Bench) -> None:
    """A disk of random bytes, and one that is nearly empty."""
    noise, empty = str(bench.data / "random.raw"), str(bench.data / "sparse.raw")
    measure.warm(noise)
    bench.pair(
        "random bytes",
        lambda: bench.fresh(Ours).backup("day1", [noise]),
        lambda: bench.fresh(Borg).backup("day1", [noise]),
        1.3,
        "borg",
        limits.of([noise], bench.work).backup(),
    )
    costs = [bench.fresh(Ours).backup("day1", [empty]) for _turn in range(bench.pairs)]
    wall = statistics.median(cost.wall for cost in costs)
    bench.line("64 GiB nearly empty", f"{wall:.2f} s", "limit 1.50 s", 1.5 / wall, 1.0, max(c.memory for c in costs))


ROWS: dict[str, Callable[[Bench], None]] = {
    "full": full,
    "size": size,
    "second": second,
    "changed": changed,
    "restore": restoring,
    "verify": verifying,
    "extremes": extremes,
}


def _with_first(bench: Bench, kind: type[P]) -> P:
    one = bench.fresh(kind)
    one.backup("day1", bench.disks(1))
    return one


def _copied(bench: Bench, kind: type[P]) -> P:
    """A repository with the first day in it, put back to that each time."""
    one = bench.program(kind)
    kept = one.folder.with_name(f"{one.folder.name}.day1")
    if not kept.exists():
        _with_first(bench, kind)
        subprocess.run(["cp", "-a", one.folder, kept], check=True)
    subprocess.run(["rm", "-rf", one.folder], check=True)
    subprocess.run(["cp", "-a", kept, one.folder], check=True)
    os.sync()
    return one


def _written(bench: Bench, old: str, new: str) -> str:
    return _map(bench.work / f"{Path(new).stem}.json", measure.differences(old, new))


def _map(path: Path, areas: Sequence[tuple[int, int]]) -> str:
    """A map of changed areas as the vSphere API tells it."""
    path.write_text(json.dumps([{"start": start, "length": length} for start, length in areas]))
    return str(path)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of: {', '.join(ROWS)} (all)")
    parser.add_argument(
        "--data", type=Path, default=Path("/var/tmp/stowage-benchmark-disks"), help="where the disks are kept"
    )
    parser.add_argument("--work", type=Path, help="where the repositories are made (beside the disks)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="small disks: tries the benchmark, measures nothing")
    given = parser.parse_args(words)
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    data = given.data / ("small" if given.small else "full")
    disks.make(data, given.small)
    with tempfile.TemporaryDirectory(dir=given.work or given.data, prefix="run-") as work:
        namespace = Path(work, "collections", "ansible_collections", "stowage")
        namespace.mkdir(parents=True)
        (namespace / "esxi").symlink_to(ROOT)
        os.environ["PYTHONPATH"] = str(Path(work, "collections"))
        # As where it is installed, ours and theirs: nobody compiles it anew each time.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(work, "bytecode"))
        measure.WORK = Path(work)
        if given.small:
            # What it says of time means nothing then, and it is seconds of every command.
            measure.TOUCHED = 0
        bench = Bench(data, Path(work), given.pairs, given.small)
        print(f"{measure.others()}; medians of {given.pairs} pairs", flush=True)
        try:
            for name in given.rows or ROWS:
                ROWS[name](bench)
                # No row finds the page cache full of another one's repositories.
                for one in bench.work.iterdir():
                    if one.is_dir() and one.name not in ("collections", "bytecode"):
                        shutil.rmtree(one)
        except Failed as error:
            print(error, file=sys.stderr)
            return 2
        print(measure.others())
    if bench.misses and not given.small:
        print(f"{len(bench.misses)} floors missed: {', '.join(bench.misses)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
