# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks of the wire: disks of a lab's hypervisor into a store and back, beside what one would do otherwise.

    python tests/benchmarks/wire.py [--small] [--data FOLDER] [--pairs N] [ROW ...]

Runs ours and the peer alternately; each row prints the medians, the median of the pairs' ratios and the floor that is
asked of it. Ends with 1 when a floor is not met (not with `--small`), with 2 when a peer cannot be run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import disks
import measure
import wirepeers
import wireshape
from limits import CHUNK, ZEROS
from measure import Failed
from wirelab import Image, Reach, WireLab
from wiremeasure import Measured, adopt_orphans
from wirepeers import Cat, Clone, Ours, PipedBorg, Rsync, Writing

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
MOST_HERE, MOST_AGENT = 150.0, 64.0
CAP = 20_000_000
LINE_BITS, LATENCY_MS = 100_000_000, 40.0
TIB = 1 << 40


@dataclass
class Bench:
    """Where a run works, and what came out of it."""

    data: Path
    work: Path
    pairs: int
    small: bool
    name: str
    base: str
    misses: list[str] = field(default_factory=list)

    def days(self) -> list[list[str]]:
        return [disks.names(self.data, day) for day in (1, 2)]

    def lab(self, sizes: Sequence[int], room: int) -> WireLab:
        return WireLab(self.work, self.name, self.base, sizes, room)

    def pair(
        self,
        title: str,
        ours: Callable[[], Measured],
        peer: Callable[[], Measured],
        floor: float,
        against: str,
    ) -> None:
        """Runs both alternately, who is first changing from pair to pair."""
        seen: list[tuple[Measured, Measured]] = []
        for turn in range(self.pairs):
            if turn % 2:
                other, mine = peer(), ours()
            else:
                mine, other = ours(), peer()
            seen.append((mine, other))
        ratio = statistics.median(other.wall / mine.wall for mine, other in seen)
        middle = [statistics.median(pair[side].wall for pair in seen) for side in (0, 1)]
        cpu = [statistics.median(pair[side].sides.total for pair in seen) for side in (0, 1)]
        self.line(
            title,
            f"{middle[0]:7.2f} s (cpu {cpu[0]:.2f})",
            f"{against} {middle[1]:7.2f} s (cpu {cpu[1]:.2f})",
            ratio,
            floor,
            [mine for mine, _other in seen],
        )
        for name, side in (("ours", 0), ("theirs", 1)):
            words = seen[-1][side].sides.words()
            print(f"    cpu, {name}: {words}", flush=True)

    def line(
        self,
        title: str,
        mine: str,
        other: str,
        ratio: float,
        floor: float,
        runs: Sequence[Measured] = (),
        most: bool = False,
    ) -> None:
        """`most`: the floor is a ceiling."""
        here = max((run.sides.here for run in runs), default=0.0)
        agent = max((run.sides.agent for run in runs), default=0.0)
        met = (ratio <= floor if most else ratio >= floor) and here <= MOST_HERE and agent <= MOST_AGENT
        if not met:
            self.misses.append(title)
        memory = f"{here:4.0f} MiB, agent {agent:3.0f} MiB" if runs else ""
        print(
            f"{title:38} {mine:25} {other:44} x {ratio:7.3f} of {floor:6.3f} "
            f"{memory:24} {'ok' if met else 'MISSED'}".rstrip(),
            flush=True,
        )


# -- the rows --------------------------------------------------------------------------------------------------------


@dataclass
class Both:
    """Both disks in a host, past the lab's wire, both ends on this machine; and each way to fetch them."""

    lab: WireLab
    reach: Reach
    images: list[Image]
    numbers: list[int]
    ours: Ours
    borg: PipedBorg
    clone: Clone
    rsync: Rsync

    def on(self, day: int) -> None:
        for image in self.images:
            image.on(day)

    def second_by_borg(self) -> Measured:
        self.on(1)
        self.borg.clear()
        self.borg.backup("day1", self.numbers)
        self.on(2)
        return self.borg.backup("day2", self.numbers)


@contextlib.contextmanager
def both_disks(bench: Bench) -> Iterator[Both]:
    days = bench.days()
    sizes = [os.path.getsize(path) for path in days[0]]
    data = sum(os.stat(path).st_blocks * 512 for path in days[0])
    # Both disks, what the second day adds, a clone of one of them, and the file that `cat` sends.
    with bench.lab(sizes, 2 * data + data // 4 + (512 << 20)) as lab:
        adopt_orphans()
        reach = lab.past_the_wire()
        images = [Image(lab.flat(number), [day[number] for day in days]) for number in range(len(sizes))]
        for image in images:
            image.fill()
        yield Both(
            lab,
            reach,
            images,
            list(range(len(sizes))),
            Ours(lab, reach, bench.work / "store"),
            PipedBorg(lab, reach, bench.work / "borg"),
            Clone(lab, reach, bench.work / "clone"),
            Rsync(lab, reach, bench.work / "rsync", days),
        )


def first(bench: Bench) -> None:
    """The first full: what the processors allow."""
    with both_disks(bench) as both:
        ours, borg, cat = both.ours, both.borg, Cat(both.lab, both.reach, sum(one.allocated for one in both.images))

        def mine() -> Measured:
            ours.clear()
            return ours.backup(both.numbers)

        def piped() -> Measured:
            borg.clear()
            return borg.backup("day1", both.numbers)

        bench.pair("first full", mine, cat.fetch, 0.75, Cat.name)
        bench.pair("first full", mine, piped, 1.2, PipedBorg.name)
        bench.pair("first full", mine, lambda: both.clone.fetch(both.numbers), 0.0, Clone.name)


def second(bench: Bench) -> None:
    """Everything examined: what the first day knew is believed of the store, and nothing of the disk."""
    with both_disks(bench) as both:
        ours, rsync = both.ours, both.rsync

        def mine() -> Measured:
            both.on(1)
            ours.clear()
            ours.backup(both.numbers)
            both.on(2)
            return ours.backup(both.numbers)

        bench.pair("second day", mine, both.second_by_borg, 5.0, PipedBorg.name)
        both.on(2)
        best = min(rsync.settings, key=lambda setting: rsync.fetch(2, setting).wall)
        bench.pair("second day", mine, lambda: rsync.fetch(2, best), 5.0, f"{Rsync.name}, {best}")
        bench.pair("second day", mine, lambda: both.clone.fetch(both.numbers), 0.0, Clone.name)


def hinted(bench: Bench) -> None:
    """The second day with a reference snapshot: what its delta does not tell of is neither read nor hashed."""
    days = bench.days()
    with both_disks(bench) as both:
        ours, rsync = both.ours, both.rsync
        for number in both.numbers:
            both.lab.make_delta(number, days[0][number], days[1][number])

        def mine() -> Measured:
            both.on(1)
            ours.clear()
            ours.backup(both.numbers)
            measured = ours.hinted(both.numbers)
            for number in both.numbers:
                ours.proves(number, days[1][number], bench.work / "proof.raw")
            return measured

        def synced(setting: str) -> Measured:
            both.on(2)
            return rsync.fetch(2, setting)

        bench.pair("second day, hinted", mine, both.second_by_borg, 15.0, PipedBorg.name)
        best = min(rsync.settings, key=lambda setting: synced(setting).wall)
        bench.pair("second day, hinted", mine, lambda: synced(best), 15.0, f"{Rsync.name}, {best}")


@contextlib.contextmanager
def one_disk(bench: Bench) -> Iterator[tuple[WireLab, Reach, str, Image]]:
    """The first disk in a host, past the lab's wire, with room for another one; and the file that filled it."""
    source = bench.days()[0][0]
    data = os.stat(source).st_blocks * 512
    with bench.lab([os.path.getsize(source)], 3 * data + (512 << 20)) as lab:
        adopt_orphans()
        image = Image(lab.flat(0), [source])
        image.fill()
        yield lab, lab.past_the_wire(), source, image


def restoring(bench: Bench) -> None:
    """A disk out of the store to a new one of the host; and over one of which 1 % differs."""
    with one_disk(bench) as (lab, reach, source, image):
        size = os.path.getsize(source)
        ours = Ours(lab, reach, bench.work / "store")
        ours.clear()
        ours.backup([0])
        flat, descriptor = lab.volume / "new-flat.vmdk", lab.volume / "new.vmdk"

        def new() -> Measured:
            for path in (flat, descriptor):
                path.unlink(missing_ok=True)
            measured = ours.restore(0, lab.inside(descriptor))
            measure.same(source, str(flat))
            return measured

        def over() -> Measured:
            chance = random.Random(5)
            with open(flat, "r+b") as file:
                for chunk in chance.sample(range(size // CHUNK), max(1, size // CHUNK // 100)):
                    file.seek(chunk * CHUNK)
                    file.write(chance.randbytes(4096))
            measured = ours.restore(0, lab.inside(flat), in_place=True)
            measure.same(source, str(flat))
            return measured

        bench.pair("restore", new, Writing(lab, reach, source, image.allocated).write, 0.75, Writing.name)
        bench.pair("restore in place, 1 % differs", over, new, 8.0, "our full restore")


def modes(bench: Bench) -> None:
    """What it costs that each piece is durable before the next one: the transfer mode sync beside async."""
    with one_disk(bench) as (lab, reach, _source, _image):
        stores = [Ours(lab, reach, bench.work / f"store-{steps}", stepwise=steps) for steps in (True, False)]
        flat, descriptor = lab.volume / "new-flat.vmdk", lab.volume / "new.vmdk"

        def first_by(ours: Ours) -> Measured:
            ours.clear()
            return ours.backup([0])

        def new_by(ours: Ours) -> Measured:
            for path in (flat, descriptor):
                path.unlink(missing_ok=True)
            return ours.restore(0, lab.inside(descriptor))

        for title, act in (("first full, sync", first_by), ("restore, sync", new_by)):
            bench.pair(title, partial(act, stores[0]), partial(act, stores[1]), 0.0, "async")


def capped(bench: Bench) -> None:
    """20 MB/s a connection by the lab's wire, bytes that cannot be packed: eight connections against one."""
    # So much that logging in and starting eight agents is a small part of it.
    amount = (64 if bench.small else 1536) * MIB
    noise = bench.work / "noise.raw"
    with open(bench.data / "random.raw", "rb") as source, open(noise, "wb") as target:
        for _part in range(amount // MIB):
            target.write(source.read(MIB))
    with bench.lab([amount], 2 * amount) as lab:
        adopt_orphans()
        Image(lab.flat(0), [str(noise)]).fill()
        lab.fault("cap", f"bytes_per_second={CAP}")
        ours = Ours(lab, lab.by_the_wire(), bench.work / "store")

        def by(connections: int) -> Callable[[], Measured]:
            def run() -> Measured:
                ours.clear()
                return ours.backup([0], connections)

            return run

        bench.pair("8 connections of 20 MB/s", by(8), by(1), 6.0, "one")


def line(bench: Bench) -> None:
    """100 Mbit/s and 40 ms: seconds and bytes, as the kernel counts them."""
    wireshape.needed()
    size, data = (256 * MIB, 40 * MIB) if bench.small else (1024 * MIB, 200 * MIB)
    days = _thin_days(bench, size, data)
    new = set(_chunks(days[0]))
    changed = set(_chunks(days[1])) - new
    with bench.lab([size], 2 * size) as lab:
        adopt_orphans()
        image = Image(lab.flat(0), [str(day) for day in days])
        image.fill()
        inner = lab.past_the_wire()
        with wireshape.Line(LINE_BITS, LATENCY_MS, (inner.address, inner.port)) as way:
            ours = Ours(lab, lab.reach(wireshape.FAR, wireshape.PORT), bench.work / "store", way.words)
            ours.clear()

            def one() -> tuple[Measured, int]:
                before = way.carried().total
                measured = ours.backup([0])
                way.quiet()
                return measured, way.carried().total - before

            for title, day, most, what in (
                ("first full", 1, 1.01 * _packed(days[0], new), "of the unique data as packed"),
                ("second day", 2, 1.1 * _packed(days[1], changed) + size / 1000, "of the changed chunks and 0.1 %"),
                ("nothing changed", 2, size / 1000, "of 0.1 % of the disk"),
            ):
                image.on(day)
                measured, carried = one()
                amount = f"{carried / MIB:.2f} MiB"
                bench.line(
                    f"{title}, bytes", amount, f"{most / MIB:.2f} MiB {what}", carried / most, 1.0, [measured], True
                )
                if title == "first full":
                    least = carried / way.rate
                    words = f"{least:.2f} s for the bytes at 100 Mbit/s"
                    took = f"{measured.wall:.2f} s"
                    bench.line("first full, seconds", took, words, measured.wall / least, 1.3, [measured], True)
                else:
                    print(f"    {measured.wall:.2f} s", flush=True)


def _thin_days(bench: Bench, size: int, data: int) -> list[Path]:
    """A part of a real disk's data in a large empty one; on the second day some of its chunks are another part."""
    source = disks.names(bench.data, 1)[0]
    if bench.small:
        data = min(data, os.stat(source).st_blocks * 512 * 3 // 4)
    filled = [at for at in _grid(source) if not ZEROS.startswith(_read(source, at))]
    count = data // CHUNK
    chance = random.Random(11)
    spread = sorted(chance.sample(range(size // CHUNK), count))
    days = [bench.work / f"line-{day}.raw" for day in (1, 2)]
    changes = set(chance.sample(range(count), max(1, count // 20)))
    for number, day in enumerate(days):
        with open(day, "wb") as file:
            file.truncate(size)
            for place, (slot, at) in enumerate(zip(spread, filled)):
                if number and place in changes:
                    at = filled[count + sorted(changes).index(place)]
                file.seek(slot * CHUNK)
                file.write(_read(source, at))
    return days


def _grid(path: str) -> Iterator[int]:
    last = -1
    for begin, end in measure.data_extents(path):
        for at in range(max(begin // CHUNK, last + 1), -(-end // CHUNK)):
            last = at
            yield at * CHUNK


def _read(path: str | Path, at: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), CHUNK, at)


def _chunks(path: Path) -> Iterator[bytes]:
    for at in _grid(str(path)):
        data = _read(path, at)
        if not ZEROS.startswith(data):
            yield hashlib.sha256(data).digest()


def _packed(path: Path, wanted: set[bytes]) -> int:
    """Bytes of these chunks, each once, as the sender's codec makes them: zlib at 1, or raw where that is less."""
    total, left = 0, set(wanted)
    for at in _grid(str(path)):
        data = _read(path, at)
        name = hashlib.sha256(data).digest()
        if name in left:
            left.remove(name)
            total += min(len(data), len(zlib.compress(data, 1)))
    return total


def huge(bench: Bench) -> None:
    """2 TiB, nearly empty: what its map costs, and what the memory comes to."""
    size = TIB // 64 if bench.small else 2 * TIB
    with bench.lab([size], 1 << 30) as lab:
        adopt_orphans()
        chance = random.Random(3)
        path = lab.flat(0)
        with open(path, "r+b") as file:
            file.truncate(0)
            file.truncate(size)
            for _part in range(256):
                file.seek(chance.randrange(size // MIB) * MIB)
                file.write(chance.randbytes(MIB))
        ours = Ours(lab, lab.past_the_wire(), bench.work / "store")
        seen = ours.look([0])
        one = wirepeers.told(seen)["disks"]["scsi0:0"]
        print(
            f"{size / TIB:.2f} TiB with {one['data'] / MIB:.0f} MiB: chain and map in {one['seconds']:.2f} s "
            f"({one['bytes'] / 1024:.0f} KiB of metadata), the process {seen.wall:.2f} s",
            flush=True,
        )
        ours.clear()
        for title in ("2 TiB, first", "2 TiB, again"):
            run = ours.backup([0])
            limit = 150.0
            bench.line(
                title, f"{run.wall:.2f} s", f"limit {limit:.0f} MiB here", limit / max(run.sides.here, 1), 1.0, [run]
            )
            print(
                f"    agent: VmHWM {run.sides.agent:.0f} MiB, RssAnon {run.sides.agent_anonymous:.0f} MiB; "
                f"cpu {run.sides.words()}",
                flush=True,
            )


ROWS: dict[str, Callable[[Bench], None]] = {
    "first": first,
    "second": second,
    "hinted": hinted,
    "restore": restoring,
    "modes": modes,
    "capped": capped,
    "line": line,
    "huge": huge,
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of: {', '.join(ROWS)} (all)")
    parser.add_argument(
        "--data", type=Path, default=Path("/var/tmp/stowage-benchmark-disks"), help="where the disks are kept"
    )
    parser.add_argument("--work", type=Path, help="where the stores are made (beside the disks)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="small disks: tries the benchmark, measures nothing")
    parser.add_argument("--lab", default="wire", help="name of the lab")
    parser.add_argument("--base-address", default="127.0.29.0", help="loopback network of the lab")
    given = parser.parse_args(words)
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    data = given.data / ("small" if given.small else "full")
    disks.make(data, given.small)
    with tempfile.TemporaryDirectory(dir=given.work or given.data, prefix="wire-") as work:
        namespace = Path(work, "collections", "ansible_collections", "stowage")
        namespace.mkdir(parents=True)
        (namespace / "esxi").symlink_to(ROOT)
        os.environ["PYTHONPATH"] = str(Path(work, "collections"))
        # As where it is installed: nobody compiles it anew each time.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(work, "bytecode"))
        folder = str(namespace / "esxi" / "plugins" / "module_utils")
        subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
        measure.WORK = Path(work)
        if given.small:
            # What it says of time means nothing then, and it is seconds of every command.
            measure.TOUCHED = 0
        bench = Bench(data, Path(work), given.pairs, given.small, given.lab, given.base_address)
        print(f"{measure.others()}; medians of {given.pairs} pairs", flush=True)
        try:
            for name in given.rows or ROWS:
                ROWS[name](bench)
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
