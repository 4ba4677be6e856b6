# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One command, run and measured: wall time, CPU time, and the peak memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.01
STEP = 4 << 20
TOUCHED = 3 << 30
ZEROS = bytes(STEP)


#: Where junk may be written: the file system of the repositories, not one in memory.
WORK: Path | None = None


class Failed(Exception):
    """A command of a benchmark ended badly: no figure comes of it."""


@dataclass(frozen=True)
class Cost:
    """Seconds, and MiB. `memory` is RssAnon + RssShmem, `mapped` RssFile, of all processes together at their peak."""

    wall: float
    cpu: float
    memory: float
    mapped: float
    output: str


def run(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    good: Sequence[int] = (0,),
    reads: Sequence[str | Path] = (),
    writes: bool = True,
) -> Cost:
    """Raises `Failed`, with the command's words, when it ends with another code than the good ones.

    The files, and those in the folders, that it `reads` are read right before it: a virtual machine's host takes a page
    that was not used for some seconds for one that need not be near. One that writes nothing needs no free memory, and
    what was just used is given back while it runs: that is not done to it.
    """
    if writes:
        touch_memory()
    for place in map(Path, reads):
        warm(*(str(path) for path in (place, *place.rglob("*")) if path.is_file()))
    begin = time.perf_counter()
    with subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        memory = mapped = 0.0
        output = b""
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            output += process.stdout.read() or b""
            if pid:
                break
            anonymous, file = _resident(process.pid)
            memory, mapped = max(memory, anonymous), max(mapped, file)
            time.sleep(SAMPLE_SECONDS)
        wall = time.perf_counter() - begin
        output += process.stdout.read() or b""
        process.returncode = os.waitstatus_to_exitcode(status)
    text = output.decode("utf-8", "replace")
    if process.returncode not in good:
        raise Failed(f"{' '.join(argv)} ended with {process.returncode}: {text[-2000:]}")
    return Cost(wall, used.ru_utime + used.ru_stime, memory, mapped, text)


def _resident(pid: int) -> tuple[float, float]:
    """MiB of a process and its descendants: anonymous and shared memory, and mapped files."""
    anonymous = file = 0.0
    left = [pid]
    while left:
        one = left.pop()
        try:
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                word, _colon, rest = line.partition(":")
                if word in ("RssAnon", "RssShmem"):
                    anonymous += int(rest.split()[0]) / 1024
                elif word == "RssFile":
                    file += int(rest.split()[0]) / 1024
            for task in os.listdir(f"/proc/{one}/task"):
                left += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return anonymous, file


def touch_memory() -> None:
    """Leave free memory behind that was just in use, so that no command pays for the machine's first touch of it.

    A virtual machine gives free pages back to its host within seconds, and gets each of them anew at a fifth of the
    speed. Not more than is free: the files in the page cache are to stay there.
    """
    free = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemFree" in line)
    with tempfile.TemporaryFile(dir=WORK) as file:
        for _turn in range(min(TOUCHED, (free << 10) - (1 << 30)) // STEP):
            file.write(ZEROS)


def data_extents(path: str) -> Iterator[tuple[int, int]]:
    """Begin and end of all that is no hole."""
    with open(path, "rb", buffering=0) as file:
        end = 0
        while True:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            yield begin, end


def warm(*paths: str) -> None:
    """Read files into the page cache; not their holes, whose pages would drive the data out."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            for begin, end in data_extents(path):
                for at in range(begin, end, STEP):
                    os.pread(file.fileno(), min(STEP, end - at), at)


def differences(first: str, second: str, unit: int = 1 << 16) -> list[tuple[int, int]]:
    """Offset and length of the areas, in units, in which two files are not the same. Reads no hole."""
    found: list[tuple[int, int]] = []
    size = os.path.getsize(first)
    if size != os.path.getsize(second):
        raise Failed(f"{first} and {second} differ in their size")
    steps = sorted(
        {
            at
            for path in (first, second)
            for begin, end in data_extents(path)
            for at in range(begin // STEP, -(-end // STEP))
        }
    )
    with open(first, "rb", buffering=0) as one, open(second, "rb", buffering=0) as other:
        for step in steps:
            offset = step * STEP
            old, new = os.pread(one.fileno(), STEP, offset), os.pread(other.fileno(), STEP, offset)
            if old == new:
                continue
            for at in range(0, len(new), unit):
                if old[at : at + unit] != new[at : at + unit]:
                    if found and sum(found[-1]) == offset + at:
                        found[-1] = (found[-1][0], found[-1][1] + unit)
                    else:
                        found.append((offset + at, unit))
    return found


def same(first: str, second: str) -> None:
    """Raises `Failed` when two files are not the same, byte for byte."""
    found = differences(first, second)
    if found:
        raise Failed(f"{first} and {second} differ, first near byte {found[0][0]}")


def others() -> str:
    """What else used the machine: its load."""
    return "load " + " ".join(f"{value:.1f}" for value in os.getloadavg())
