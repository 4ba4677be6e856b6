# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vmkvsitools lsof, and vdf."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .answer import Answer

if TYPE_CHECKING:
    from esxilab.hostd import Hostd

LSOF_HEAD = "Cartel  | World name                | Type       | fd   | Description\n"
LSOF_LINE = "---------------------------------------------------------------------------\n"


def run(host: Hostd, argv: Sequence[str], pid: int = 0) -> Answer:
    """`pid` is the process that asks: only processes of its own pid namespace are on its host."""
    if argv[:1] == ["lsof"]:
        return Answer(LSOF_HEAD + LSOF_LINE + "".join(_lsof(host, pid)))
    if argv[:1] == ["vdf"]:
        return vdf(host, argv[1:])
    if argv[:1] == ["hwclock"]:
        return Answer(host.clock.now().strftime("%a %b %d %H:%M:%S UTC %Y\n"))
    word = argv[0] if argv else ""
    return Answer(stderr=f"vmkvsitools: unknown command '{word}'\n", rc=1)


def _lsof(host: Hostd, asking: int) -> Iterator[str]:
    """Files on the host's datastores that a running VM or a process of the host has open."""
    for vm in host.vms():
        if vm.power != "poweredOn":
            continue
        paths = [vm.config.folder + "/vmware.log"]
        for disk in vm.live_disks():
            path: str | None = disk.path
            while path is not None:
                paths += [host.volumes.inside_of(host.as_path(extent)) for extent in host.engine.extents(path)]
                path = host.engine.parent_of(path)
        for number, path in enumerate(paths):
            yield _row(vm.world_id - 1, "vmx", number + 20, path)
    here = _namespace(asking)
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid() and here is not None and _namespace(int(pid)) == here:
            yield from _open_files(host, int(pid))


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _inner_pid(pid: int) -> int:
    """The pid as the host's own ps shows it."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as handle:
        for line in handle:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return pid


def _open_files(host: Hostd, pid: int) -> Iterator[str]:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as handle:
            name = handle.read().strip()
        numbers = os.listdir(f"/proc/{pid}/fd")
        shown = _inner_pid(pid)
    except OSError:
        return
    devices = {os.stat(volume.path).st_dev for volume in host.volumes.all}
    for number in numbers:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            device = os.stat(f"/proc/{pid}/fd/{number}").st_dev
        except OSError:
            continue
        if device not in devices:
            continue
        inside = target if target.startswith("/vmfs/") else host.volumes.inside_of(host.as_path(target))
        if inside.startswith("/vmfs/"):
            yield _row(shown, name, int(number), inside)


def _row(cartel: int, name: str, number: int, path: str) -> str:
    return f"{cartel:<7} | {name:<25} | {'FILE':<10} | {number:<4} | {path}\n"


RAMDISKS = (
    ("root", 32 << 20, 3 << 20),
    ("etc", 28 << 20, 368 << 10),
    ("opt", 32 << 20, 124 << 10),
    ("var", 48 << 20, 644 << 10),
    ("tmp", 256 << 20, 60 << 10),
    ("hostdstats", 803 << 20, 3 << 20),
)


def vdf(host: Hostd, argv: Sequence[str]) -> Answer:
    """The ramdisks of the host; -h with units."""
    human = "-h" in argv
    lines = ["Ramdisk                   Size      Used Available Use% Mounted on\n"]
    for name, size, used in RAMDISKS:
        cells = [_units(value, human) for value in (size, used, size - used)]
        lines.append(f"{name:<20} {cells[0]:>9} {cells[1]:>9} {cells[2]:>9} {used * 100 // size:>3}% --\n")
    return Answer("".join(lines))


def _units(value: int, human: bool) -> str:
    if not human:
        return str(value // 1024)
    return f"{value >> 20}M" if value >= 1 << 20 else f"{value >> 10}K"
