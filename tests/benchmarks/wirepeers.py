# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What brings disks from a hypervisor: ours, and what one would do otherwise. Each act is one process with all of its
children, its start included."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import measure
import wiremeasure
from measure import Failed
from peers import CLI, SECRET, found
from wirelab import Image, Reach, WireLab
from wiremeasure import Measured

OURS = str(Path(__file__).with_name("wireours.py"))
#: A file that is sent so many times in a row stands for all that is allocated.
PARTS = 8


def shell(script: str, *words: str, lab: WireLab, env: dict[str, str] | None = None) -> Measured:
    return wiremeasure.run(["sh", "-ec", script, "sh", *words], lab.pid, env)


class Ours:
    """The program dedup, into a store and out of it."""

    name = "stowage"

    def __init__(
        self, lab: WireLab, reach: Reach, folder: Path, before: Sequence[str] = (), stepwise: bool = False
    ) -> None:
        """`stepwise`: in the transfer mode sync."""
        self.lab, self.reach, self.folder = lab, reach, folder
        self._before, self._stepwise = list(before), stepwise

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        command = [sys.executable, "-m", CLI, "create", str(self.folder), "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **SECRET})
        if done.returncode:
            raise Failed(f"the store cannot be made: {done.stderr}")

    def backup(self, disks: Sequence[int], connections: int = 0) -> Measured:
        named = [f"{key(number)}={self.lab.descriptor(number)}" for number in disks]
        return self._run("backup", named, connections, self._sizes(disks))

    def hinted(self, disks: Sequence[int]) -> Measured:
        """From the deltas above the disks, which the newest point holds."""
        named = [f"{key(number)}={self.lab.delta(number)}" for number in disks]
        hints = [word for n in disks for word in ("--hint", f"{key(n)}={self.lab.descriptor(n)}")]
        return self._run("backup", named, 0, [*self._sizes(disks), *hints])

    def _sizes(self, disks: Sequence[int]) -> list[str]:
        return [word for number in disks for word in ("--size", str(os.path.getsize(self.lab.flat(number))))]

    def proves(self, number: int, wanted: str, target: Path) -> None:
        """The newest point's disk is this file, byte for byte; `Failed` where it is not."""
        command = [sys.executable, "-m", CLI, "restore", str(self.folder), "latest"]
        command += ["--disk", f"{key(number)}={target}", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **SECRET})
        if done.returncode:
            raise Failed(f"the point cannot be restored: {done.stderr}")
        measure.same(wanted, str(target))
        target.unlink()

    def look(self, disks: Sequence[int]) -> Measured:
        return self._run("look", [f"{key(number)}={self.lab.descriptor(number)}" for number in disks], 0)

    def restore(self, number: int, target: str, in_place: bool = False) -> Measured:
        """`target`: the descriptor to make, or the flat extent that is there."""
        return self._run("in-place" if in_place else "restore", [f"{key(number)}={target}"], 0)

    def _run(self, act: str, disks: Sequence[str], connections: int, more: Sequence[str] = ()) -> Measured:
        given = [*(word for disk in disks for word in ("--disk", disk)), *more]
        command = [sys.executable, OURS, act, str(self.folder), *self.reach.words(), *given]
        command += ["--connections", str(connections)] if connections else []
        command += ["--stepwise"] if self._stepwise else []
        with own_connections() as settings:
            return wiremeasure.run([*self._before, *command], self.lab.pid, settings)


@contextlib.contextmanager
def own_connections() -> Iterator[dict[str, str]]:
    """The environment of a run of ours that shares no connection with the run before, and leaves none to the next."""
    # The path must be short: it becomes that of a socket.
    with tempfile.TemporaryDirectory(prefix="wire-", dir="/tmp") as runtime:
        try:
            yield {"STOWAGE_RUNTIME_DIR": runtime}
        finally:
            for path in Path(runtime).iterdir():
                if path.is_socket():
                    command = ["ssh", "-F", "none", "-S", str(path), "-O", "exit", "lab"]
                    subprocess.run(command, capture_output=True, check=False)


def told(measured: Measured) -> dict[str, Any]:
    """What our own process says of itself."""
    answer: dict[str, Any] = json.loads(measured.cost.output.splitlines()[-1])
    return answer


def key(number: int) -> str:
    return f"scsi0:{number}"


class Cat:
    """`ssh host cat` of as many bytes as are allocated, to nowhere: the floor of whatever comes over SSH.

    A disk's file read by `cat` would bring its holes as well, so a file without holes is sent, several times in a row.
    """

    name = "ssh cat"

    def __init__(self, lab: WireLab, reach: Reach, allocated: int) -> None:
        self._lab, self._reach = lab, reach
        self._plain = lab.volume / "plain.bin"
        with open(self._plain, "wb") as file:
            for _part in range(allocated // PARTS >> 20):
                file.write(os.urandom(1 << 20))

    def fetch(self) -> Measured:
        words = " ".join(["cat", *[shlex.quote(self._lab.inside(self._plain))] * PARTS])
        return shell('"$@" > /dev/null', *self._reach.ssh(), self._reach.target, words, lab=self._lab)


class PipedBorg:
    """`ssh host cat | borg create -`, disk by disk, with borg's fastest way with disks."""

    name = "ssh cat | borg"

    def __init__(self, lab: WireLab, reach: Reach, folder: Path) -> None:
        self._lab, self._reach, self.folder = lab, reach, folder
        self._env = {
            "BORG_BASE_DIR": str(folder / "base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            **SECRET,
        }

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        command = [found("borg"), "init", "--encryption", "none", str(self.folder / "repository")]
        subprocess.run(command, check=True, env={**os.environ, **self._env}, capture_output=True)

    def backup(self, point: str, disks: Sequence[int]) -> Measured:
        ssh = shlex.join([*self._reach.ssh(), self._reach.target])
        create = shlex.join([found("borg"), "create", "--chunker-params", "fixed,1048576", "--compression", "lz4"])
        lines = []
        for number in disks:
            file = self._lab.flat(number)
            archive = f"{self.folder / 'repository'}::{point}-{number}"
            lines.append(
                f"{ssh} {shlex.quote('cat ' + self._lab.inside(file))} | "
                f"{create} --stdin-name {file.name} {shlex.quote(archive)} -"
            )
        return shell("\n".join(lines), lab=self._lab, env=self._env)


class Rsync:
    """`rsync --inplace --no-whole-file` over SSH into images that are as they were on the first day."""

    name = "rsync"
    settings = {
        "as it comes": [],
        "128 KiB blocks": ["--block-size=131072"],
    }

    def __init__(self, lab: WireLab, reach: Reach, folder: Path, days: Sequence[Sequence[str]]) -> None:
        self._lab, self._reach, self._folder = lab, reach, folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._program = self._on_host()
        self.images = [
            Image(folder / lab.flat(number).name, [day[number] for day in days]) for number in range(len(days[0]))
        ]
        for image, day in zip(self.images, days[0]):
            with open(image.path, "wb") as file:
                file.truncate(os.path.getsize(day))
            image.fill()
        self.best: str | None = None

    def _on_host(self) -> str:
        """The same program for the host, with the libraries that it may lack: ESXi has none of its own."""
        program = found("rsync")
        folder = self._lab.volume / "rsync"
        folder.mkdir(exist_ok=True)
        shutil.copy(program, folder / "rsync")
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"=> (/\S+)", listed):
            shutil.copy(path, folder)
        inside = self._lab.inside(folder)
        return f"LD_LIBRARY_PATH={inside} {inside}/rsync"

    def fetch(self, day: int, setting: str) -> Measured:
        """From the first day to `day`."""
        for image in self.images:
            image.on(1)
            os.utime(image.path, (0, 0))
        command = [found("rsync"), "--inplace", "--no-whole-file", "--times", *self.settings[setting]]
        command += ["-e", shlex.join(self._reach.ssh()), f"--rsync-path={self._program}"]
        sources = [
            f"{self._reach.target}:{self._lab.inside(self._lab.flat(number))}" for number in range(len(self.images))
        ]
        measured = wiremeasure.run([*command, *sources, f"{self._folder}/"], self._lab.pid)
        for image in self.images:
            image.is_on(day)
        return measured


class Writing:
    """`ssh host dd` of as many bytes as a disk has, into one file of the datastore."""

    name = "ssh dd"

    def __init__(self, lab: WireLab, reach: Reach, source: str, amount: int) -> None:
        self._lab, self._reach, self._source, self._amount = lab, reach, source, amount
        self._target = lab.volume / "written.bin"

    def write(self) -> Measured:
        self._target.unlink(missing_ok=True)
        line = f"dd of={self._lab.inside(self._target)} bs=1M conv=fsync"
        words = [str(self._amount), self._source, *self._reach.ssh(), self._reach.target, line]
        measured = shell('n=$1 f=$2; shift 2; head -c "$n" "$f" | "$@"', *words, lab=self._lab)
        self._target.unlink()
        return measured


class Clone:
    """`vmkfstools -i` on the host, and the thin clone fetched whole, disk by disk."""

    name = "vmkfstools, then ssh cat"

    def __init__(self, lab: WireLab, reach: Reach, folder: Path) -> None:
        self._lab, self._reach, self._folder = lab, reach, folder
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, disks: Sequence[int]) -> Measured:
        ssh = shlex.join([*self._reach.ssh(), self._reach.target])
        stem = self._lab.inside(self._lab.volume / "clone")
        lines = []
        for number in disks:
            target = shlex.quote(str(self._folder / f"{number}.raw"))
            lines += [
                f"{ssh} 'vmkfstools -i {self._lab.descriptor(number)} {stem}.vmdk -d thin' > /dev/null",
                f"{ssh} 'cat {stem}-flat.vmdk' | cp --sparse=always /dev/stdin {target}",
                f"sync {target}",
                f"{ssh} 'vmkfstools -U {stem}.vmdk' > /dev/null",
            ]
        return shell("\n".join(lines), lab=self._lab)
