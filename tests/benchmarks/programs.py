# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The four programs in one table: one machine of a lab's host, backed up on a first day, on a second one, and again.

    python tests/benchmarks/programs.py [--small] [--data FOLDER] [ROW ...]

Each figure is of one copy step of the product: its seconds, the bytes that crossed the wire meanwhile as the kernel
counts them, and the room that the backup point has taken by then. What was copied on the first day and what was copied
last is compared with the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import disks
import measure
import wirepeers
import wireshape
from measure import Failed
from peers import found
from wirelab import Image, Reach, WireLab
from wireshape import Line

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import judge  # noqa: E402  the outside judge of the tests

ROOT = Path(__file__).resolve().parents[2]
OURS = str(Path(__file__).with_name("programsours.py"))
MIB = 1 << 20
LINE_BITS, LATENCY_MS = 1_000_000_000, 0.5
DAYS = {"first day": 1, "second day": 2, "nothing changed": 2}
#: Smaller than what a guest's file system writes at once is no change.
GRAINS = {4096: "4 KiB", 65536: "64 KiB", MIB: "1 MiB"}


@dataclass(frozen=True)
class Figures:
    """Of one copy step. Bytes."""

    seconds: float
    wire: int
    room: int
    point: str
    notes: tuple[str, ...]


@dataclass
class Bench:
    """What all rows share: the host with the disk in it, the line to it, and where backup points are made."""

    lab: WireLab
    line: Line
    reach: Reach
    image: Image
    days: Sequence[str]
    plain: Path
    state: Path

    def backup(self, program: str, point: Path, room: Callable[[], int], *more: str) -> Figures:
        inside = self.lab.inside(point) if point.is_relative_to(self.lab.volume) else str(point)
        command = [*self.line.words, sys.executable, OURS, program, inside, "--machine", "machine"]
        command += ["--state", str(self.state), *self.reach.words(), *more]
        measure.touch_memory()
        with wirepeers.own_connections() as settings:
            environment = {**os.environ, **settings, "BORG_BASE_DIR": str(self.state / "borg")}
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
            ) as process:
                self._says(process, "ready")
                before = self.line.carried().total
                self._goes_on(process)
                seconds = float(self._says(process, "seconds"))
                wire = self.line.carried().total - before
                self._goes_on(process)
                told = self._line(process)
                process.communicate()
        if process.returncode or told["status"] != "ok":
            raise Failed(f"{program} ended with {process.returncode}: {told}")
        self.line.quiet()
        return Figures(seconds, wire, room(), told["point"], tuple(told["notes"]))

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        text = process.stdout.readline()
        if not text:
            raise Failed(f"{process.args!r} ended with {process.wait()}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _says(self, process: subprocess.Popen[str], word: str) -> Any:
        return self._line(process)[word]

    @staticmethod
    def _goes_on(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def taken(folder: Path) -> int:
    """As `du` counts it: a file with several names once."""
    found = {(one.st_dev, one.st_ino): one.st_blocks * 512 for one in map(Path.lstat, [folder, *folder.rglob("*")])}
    return sum(found.values())


@dataclass(frozen=True)
class Row:
    title: str
    program: str
    #: Whether it is a folder of the hypervisor, of a file system with reflinks where there is one, or of another.
    place: str = "best"
    rsync_there: bool = False


ROWS = {
    "vmkfstools": Row("vmkfstools", "vmkfstools", "datastore"),
    "rsync": Row("rsync, with reflinks", "rsync"),
    "rsync-plain": Row("rsync, without reflinks", "rsync", "plain"),
    "rsync-there": Row("rsync, with one on the hypervisor, with reflinks", "rsync", rsync_there=True),
    "borg": Row("borg", "borg"),
    "dedup": Row("dedup", "dedup"),
}


def measured(bench: Bench, row: Row) -> list[Figures]:
    """Three backups into a place of its own, which is removed again."""
    if row.place != "best":
        return _measured(bench, row, bench.lab.volume if row.place == "datastore" else bench.plain, alone=False)
    # One for each row: what another one has removed is given back some time later.
    with with_reflinks(bench.plain.parent, max(4 * os.path.getsize(bench.days[0]), 1 << 30)) as reflinks:
        return _measured(bench, row, reflinks or bench.plain, alone=reflinks is not None)


def _measured(bench: Bench, row: Row, above: Path, alone: bool) -> list[Figures]:
    point = above / f"point-{row.program}"
    empty = _used(above) if alone else 0

    def room() -> int:
        # Blocks that files share count once: only the file system itself can tell.
        return _used(above) - empty if alone else taken(point)

    more = ["--rsync-path", rsync_on_host(bench.lab)] if row.rsync_there else []
    days: list[Figures] = []
    try:
        for title, day in DAYS.items():
            bench.image.on(day)
            one = bench.backup(row.program, point, room, *more)
            print(
                f"    {row.title}, {title}: {one.seconds:.1f} s, {one.wire / MIB:.2f} MiB, {one.room / MIB:.1f} MiB "
                f"(du: {taken(point) / MIB:.1f}); {'; '.join(one.notes)}",
                flush=True,
            )
            days.append(one)
        for one, day in ((days[0], 1), (days[-1], 2)):
            with tempfile.TemporaryDirectory(dir=bench.plain) as work:
                measure.same(bench.days[day - 1], str(disk_of(bench, row.program, point, one.point, Path(work))))
    finally:
        shutil.rmtree(point, ignore_errors=True)
    return days


def disk_of(bench: Bench, program: str, point: Path, made: str, work: Path) -> Path:
    """The disk of a restore point as a plain file, by means that are not the product's."""
    if program == "vmkfstools":
        return bench.lab.volume / made.partition(f"{bench.lab.uuid}/")[2] / "scsi0-0-flat.vmdk"
    if program == "rsync":
        return Path(made) / "scsi0-0-flat.vmdk"
    if program == "borg":
        return judge.out_of_borg(made, "scsi0-0.raw", work, "")
    return judge.out_of_store(point, made.rpartition("::")[2], "scsi0:0", work / "read.raw")


def _used(mounted: Path) -> int:
    os.sync()
    state = os.statvfs(mounted)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def rsync_on_host(lab: WireLab) -> str:
    """What a team would lay on a datastore; it finds its libraries where the lab's host has them."""
    folder = lab.volume / "tools"
    folder.mkdir(exist_ok=True)
    shutil.copy(found("rsync"), folder / "rsync")
    return lab.inside(folder / "rsync")


@contextlib.contextmanager
def with_reflinks(work: Path, size: int) -> Iterator[Path | None]:
    """A file system whose files can share blocks, in a file; None where it cannot be made."""
    image, mounted = work / "reflinks.img", work / "reflinks"
    if shutil.which("mkfs.xfs") is None:
        yield None
        return
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)
        mounted.rmdir()
        image.unlink()


def changed(days: Sequence[str]) -> str:
    """In words, how much of what the disk holds differs on the second day."""
    held = sum(end - begin for begin, end in measure.data_extents(days[1]))
    shares = [
        f"{100 * sum(length for _at, length in measure.differences(*days, unit)) / held:.1f} % in pieces of {name}"
        for unit, name in GRAINS.items()
    ]
    return f"{held / MIB:.0f} MiB, of which on the second day differ {', '.join(shares)}"


def table(rows: dict[str, list[Figures]]) -> str:
    """Markdown."""
    heads = ["program", *(f"{title}: s | MiB | room" for title in DAYS)]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * 3 * len(DAYS)]
    for name, days in rows.items():
        cells = [f"{one.seconds:.1f} | {_mib(one.wire)} | {_mib(one.room)}" for one in days]
        lines.append(f"| {ROWS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mib(amount: int) -> str:
    return f"{amount / MIB:.2f}" if amount < 10 * MIB else f"{amount / MIB:.0f}"


def source(data: Path, small: bool) -> list[str]:
    """The disk's two days: a Debian system where it has been made, else files of this machine."""
    full = [disks.names(data / "full", day)[0] for day in (1, 2)]
    if small:
        disks.make(data / "small", small=True)
        return [disks.names(data / "small", day)[0] for day in (1, 2)]
    return full if all(map(os.path.exists, full)) else disks.own(data / "own")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of: {', '.join(ROWS)} (all)")
    parser.add_argument(
        "--data", type=Path, default=Path("/var/tmp/stowage-benchmark-disks"), help="where the disks are kept"
    )
    parser.add_argument("--small", action="store_true", help="a small disk: tries the benchmark, measures nothing")
    parser.add_argument("--lab", default="programs", help="name of the lab")
    parser.add_argument("--base-address", default="127.0.30.0", help="loopback network of the lab")
    given = parser.parse_args(words)
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    try:
        wireshape.needed()
        for program in ("borg", "rsync"):
            found(program)
        days = source(given.data, given.small)
        with tempfile.TemporaryDirectory(dir=given.data, prefix="programs-") as work:
            rows = _rows(given, days, Path(work))
    except (Failed, judge.Wrong) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{table(rows)}\n\n{measure.others()}")
    return 0


def _rows(given: argparse.Namespace, days: Sequence[str], work: Path) -> dict[str, list[Figures]]:
    namespace = work / "collections" / "ansible_collections" / "stowage"
    namespace.mkdir(parents=True)
    (namespace / "esxi").symlink_to(ROOT)
    os.environ["PYTHONPATH"] = str(work / "collections")
    # As where it is installed: nobody compiles it anew each time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
    measure.WORK = work
    if given.small:
        measure.TOUCHED = 0
    size, held = os.path.getsize(days[0]), max(os.stat(day).st_blocks * 512 for day in days)
    plain, state = work / "plain", work / "state"
    plain.mkdir()
    state.mkdir()
    print(f"{measure.others()}; {LINE_BITS / 1e6:.0f} Mbit/s, {LATENCY_MS} ms; {size / MIB:.0f} MiB: {changed(days)}")
    # The disk, and three whole clones of it.
    with WireLab(work, given.lab, given.base_address, [size], 5 * held + (256 << 20)) as lab:
        inner = lab.past_the_wire()
        image = Image(lab.flat(0), days)
        image.fill()
        with Line(LINE_BITS, LATENCY_MS, (inner.address, inner.port)) as line:
            reach = lab.reach(wireshape.FAR, wireshape.PORT)
            bench = Bench(lab, line, reach, image, days, plain, state)
            return {name: measured(bench, ROWS[name]) for name in given.rows or ROWS}


if __name__ == "__main__":
    sys.exit(main())
