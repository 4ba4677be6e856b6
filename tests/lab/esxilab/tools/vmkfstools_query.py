# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vmkfstools -P, -D and -t0: what a file system, a lock and a disk's blocks look like."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from esxilab import disks

if TYPE_CHECKING:
    from .vmkfstools import Tool
    from .vmkfstools_args import Request

BLOCK = 1 << 20
ZERO_OWNER = "00000000-00000000-0000-000000000000"


def file_system(tool: Tool, request: Request) -> str:
    stat = os.statvfs(request.path)
    volume = tool.volume_of(request.path.rstrip("/") + "/.")
    if volume is None:
        return _system_volume(tool, os.path.realpath(request.path))
    capacity, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    if str(volume["type"]).startswith("nfs"):
        return (
            "NFS-1.00 file system spanning 1 partitions.\n"
            f"File system label (if any): {volume['name']}\nMode: public\n"
            f"{_capacity(capacity, free, 4096, 'h' in request.options)}, max supported file size 0\n"
            f'UUID: {volume["uuid"]}\nPartitions spanned (on "notDCS"):\n        nfs:{volume["name"]}\n'
            "NAS VAAI Supported: NO\nIs Native Snapshot Capable: NO\n"
        )
    head = {"vmfs5": "VMFS-5.61 (Raw Major Version: 14)"}.get(volume["type"], "VMFS-6.82 (Raw Major Version: 24)")
    return (
        f"{head} file system spanning 1 partitions.\n"
        f"File system label (if any): {volume['name']}\nMode: public ATS-only\n"
        f"{_capacity(capacity, free, BLOCK, 'h' in request.options)}, max supported file size "
        f"{'64 TB' if 'h' in request.options else 70368744177664}\n"
        f'Disk Block Size: 512/512/0\nUUID: {volume["uuid"]}\nPartitions spanned (on "lvm"):\n'
        f"        {volume['device']}:1\nIs Native Snapshot Capable: YES\n"
    ) + _block_pools(request, capacity, free)


def _block_pools(request: Request, capacity: int, free: int) -> str:
    """What `-v 10` adds: the lines whose form is known, with the numbers of a volume of this size."""
    verbosity = request.options.get("v", "0")
    if not verbosity.isdigit() or int(verbosity) < 10:
        return ""
    large = capacity // (512 << 20)
    return (
        "Ptr Blocks (max/free): 64512/64496\nSub Blocks (max/free): 32000/31996\n"
        f"Large File Blocks (total/used/file block clusters): {large}/0/{large}\n"
        "Volume Metadata size: 1504247808\n"
    )


def _system_volume(tool: Tool, path: str) -> str:
    """A boot bank is vfat; everything else that is no datastore is the ramdisk file system."""
    for bank in tool.host.get("banks", ()):
        if path == bank["path"] or path.startswith(bank["path"] + "/"):
            block = 65536
            return (
                "vfat-0.04 (Raw Major Version: 0) file system spanning 1 partitions.\n"
                f"File system label (if any): {bank['label']}\nMode: private\n"
                f"{_capacity(bank['size'], bank['free'], block, False)}, max supported file size 0\n"
                f'Disk Block Size: 512/0/0\nUUID: {bank["uuid"]}\nPartitions spanned (on "disks"):\n'
                f"        {bank['device']}\nIs Native Snapshot Capable: NO\n"
            )
    stat = os.statvfs(path)
    capacity, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    return (
        "visorfs-1.00 (Raw Major Version: 0) file system spanning 1 partitions.\n"
        "File system label (if any): \nMode: private\n"
        f"{_capacity(capacity, free, 4096, False)}, max supported file size 0\n"
        f'Disk Block Size: 4096/0/0\nUUID: {ZERO_OWNER}\nPartitions spanned (on "notDCS"):\n'
        "        memory\nIs Native Snapshot Capable: NO\n"
    )


def _capacity(capacity: int, free: int, block: int, human: bool) -> str:
    if human:
        gib = 1 << 30
        return f"Capacity {capacity / gib:.2f} GB, {free / gib:.2f} GB available, file block size {_unit(block)}"
    return f"Capacity {capacity} ({capacity // block} file blocks * {block}), {free} ({free // block} blocks) avail"


def _unit(block: int) -> str:
    return f"{block >> 20} MB" if block >= BLOCK else f"{block >> 10} KB"


def lock_dump(tool: Tool, request: Request) -> str:
    """The lock of one file; its holders when it is shared."""
    stat = os.stat(request.path)
    lock: dict[str, Any] = tool.lab.call(
        {"tool": "vmkfstools", "ask": "locks", "paths": [os.path.realpath(request.path)]}
    )["locks"][0]
    mode, owner = int(lock["mode"]), str(lock["owner"]) or ZERO_OWNER
    offset = stat.st_ino % 4096 * 1024 + 138977280
    mtime = int(stat.st_mtime) % 10000000
    text = (
        f"Lock [type 10c00001 offset {offset} v 582, hb offset 3907584\n"
        f"gen 4851, mode {mode}, owner {owner if mode == 1 else ZERO_OWNER} "
        f"mtime {mtime} num {len(lock.get('owners') or [owner]) if mode == 2 else 0} gblnum 0 gblgen 0 gblbrk 0]\n"
    )
    if mode == 2:
        owners = lock.get("owners") or [owner]
        text += "".join(f"RO Owner[{number}] HB Offset 3907584 {one}\n" for number, one in enumerate(owners))
    blocks = -(-stat.st_blocks * 512 // BLOCK)
    return text + (
        f"Addr <4, {stat.st_ino % 1024}, {stat.st_ino % 64}>, gen 573, links {stat.st_nlink}, type reg, flags 0, "
        f"uid 0, gid 0, mode {stat.st_mode & 0o777:o}\n"
        f"len {stat.st_size}, nb {blocks} tbz 0, cow 0, newSinceEpoch {blocks}, zla 1, bs {BLOCK}\n"
    )


def block_map(tool: Tool, request: Request) -> str:
    """Which parts of a disk are mapped: written, zeroed on demand, or not at all."""
    chain = disks.check_chain(request.path)
    extents = [one.beside(line.file) for one in chain for line in one.extents]
    tool.grant([(extent, False) for extent in extents])
    if tool.host["block_map"] == "refused":
        paths = [os.path.realpath(extent) for extent in extents]
        locks: list[dict[str, Any]] = tool.lab.call({"tool": "vmkfstools", "ask": "locks", "paths": paths})["locks"]
        if any(lock["mode"] for lock in locks):
            raise disks.FileLocked(request.path)
    with disks.open_chain(request.path) as disk:
        thin = disk.links[-1].descriptor.is_thin
        lines = [f"Mapping for file {request.path} ({disk.capacity} bytes in size):"]
        place = 3338665984
        position = 0
        pieces: list[tuple[int, int, bool]] = []
        for offset, length in disk.allocated():
            begin, end = offset // BLOCK * BLOCK, min(disk.capacity, -(-(offset + length) // BLOCK) * BLOCK)
            begin = max(begin, position)
            if begin > position:
                pieces.append((position, begin - position, False))
            if end > begin:
                pieces.append((begin, end - begin, True))
            position = max(position, end)
        if position < disk.capacity:
            pieces.append((position, disk.capacity - position, False))
    for start, length, written in pieces:
        left = f"[{start:>12}:{length:>12}] --> "
        if not written and thin and tool.host["block_map"] == "no_holes":
            continue
        if not written and thin:
            lines.append(f"{left}[NOMP -- :({0:>13} --> {0:>13})]")
            continue
        lvid = "4c75b2d9-2e76eae0-3d51-001b21857010/4c75b2d9-1dcd0ef7-f3bd-001b21857010/1"
        lines.append(f"{left}[VMFS {'--' if written else 'Z-'} LVID:{lvid}:({place:>13} --> {place + length:>13})]")
        place += length
    return "\n".join(lines) + "\n"
