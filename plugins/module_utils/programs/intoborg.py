# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``borg``: a machine's disks and its configuration as one archive of a repository.

The archive comes to be under a name that says it is not whole, and gets its own when all is proven. When this returns,
or raises, no process of ours on the hypervisor holds a disk open any more, or the error says which does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter
from ansible_collections.stowage.esxi.plugins.module_utils.programs import borgerrors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository, Running
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import (
    DiskFed,
    OpenDisk,
    must_fit,
    opened_disks,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.inorder import SLOT_BYTES, InOrder
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.tarstream import END, small_file, sparse_file
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch

MANIFEST = "stowage.json"
_BLANK = bytes(SLOT_BYTES)


@dataclass(frozen=True)
class Packing:
    """What becomes an archive. ``prove`` is asked when every byte has been read; it raises what speaks against the
    archive, or returns the text of its last member."""

    machine_name: str
    sources: Sequence[Source]
    files: Mapping[str, bytes]
    partial: str
    final: str
    comment: str
    moment: int
    verify: str
    prove: Callable[[Sequence[DiskFed]], str]


@dataclass(frozen=True)
class Packed:
    disks: tuple[DiskFed, ...]
    told: Mapping[str, int]


def image_name(key: str) -> str:
    """``scsi0:0`` -> ``scsi0-0.raw``"""
    return key.replace(":", "-") + ".raw"


def pack(repository: Repository, packing: Packing, reach: Reach) -> Packed:
    """Makes the archive, looks at it, and gives it its name."""
    words = ["import-tar", "--json", "--comment", packing.comment, "--chunker-params", f"fixed,{SLOT_BYTES}"]
    argv = [*words, repository.named(packing.partial), "-"]
    with repository.start(argv, feeds=True) as running:
        with opened_disks(packing.sources, reach) as opened:
            must_fit(opened, packing.machine_name, reach)
            fed, reads, sizes = _fill(running, opened, packing, reach)
        stats = json.loads(running.wait(reach.alive))["archive"]["stats"]
    _look(repository, packing, reads, sizes, reach)
    renamed = ["rename", repository.named(packing.partial), packing.final]
    repository.run(renamed, reach.alive)
    new = int(stats["deduplicated_size"])
    return Packed(fed, {"sent": sum(disk.sent_bytes for disk in fed), "new": new, "stored": new})


def _fill(
    running: Running, opened: Sequence[OpenDisk], packing: Packing, reach: Reach
) -> tuple[tuple[DiskFed, ...], Mapping[str, InOrder], dict[str, int]]:
    """All of the stream: configuration, disks, and what is known at their end."""
    reads: dict[str, InOrder] = {}
    fed: list[DiskFed] = []
    sizes = {name: len(data) for name, data in packing.files.items()}
    now: list[tuple[Meter, InOrder]] = []

    def look() -> None:
        reach.alive()
        for meter, read in now[-1:]:
            reach.progress(meter.at(read.done))

    def cut() -> None:
        running.end()
        for one in opened:
            with contextlib.suppress(Exception):
                one.disk.close()

    watch = Watch(
        f"The copy of {', '.join(one.source.path for one in opened)} on {reach.host.name}",
        lambda: sum(read.done for read in reads.values()),
        look,
        cut,
        reach.stall_seconds,
        reach.clock,
        minimum_rate=reach.minimum_rate,
    )
    with watch:
        for name, data in sorted(packing.files.items()):
            running.write(small_file(name, data, packing.moment))
        for one in opened:
            key, began = one.source.key, reach.clock.monotonic()
            read = InOrder(reach.host.name, one.disk, reach.connections, packing.verify, watch.check)
            reads[key] = read
            now.append((Meter("copy", key, read.held_bytes, reach.clock), read))
            name = image_name(key)
            before, after = sparse_file(name, read.size, read.ranges, packing.moment)
            running.write(before)
            with contextlib.closing(read.pieces()) as pieces:  # type: ignore[type-var]
                for piece in pieces:
                    running.write(piece)
            running.write(after)
            sizes[name] = read.size
            seconds = round(reach.clock.monotonic() - began, 3)
            fed.append(DiskFed(key, read.held_bytes, read.held_bytes, seconds, one.method, one.notes, read.verified))
            reach.progress(now[-1][0].at(read.done))
        with watch.at_rest():
            manifest = packing.prove(fed).encode("utf-8", "surrogateescape")
        sizes[MANIFEST] = len(manifest)
        running.write(small_file(MANIFEST, manifest, packing.moment) + END)
    return tuple(fed), reads, sizes


def _look(
    repository: Repository, packing: Packing, reads: Mapping[str, InOrder], sizes: Mapping[str, int], reach: Reach
) -> None:
    """Whether the archive holds what was sent: every member, and with ``full`` every byte of the disks."""

    def refuse(reason: str) -> borgerrors.ArchiveNotWhole:
        return borgerrors.ArchiveNotWhole(
            host=reach.host.name, archive=packing.partial, repository=repository.location, reason=reason
        )

    found = repository.sizes(packing.partial)
    if found != dict(sizes):
        wrong = sorted(set(found.items()) ^ set(sizes.items()))
        raise refuse(f"{wrong[0][0]} is not there in the size that it had")
    if packing.verify != "full":
        return
    for key, read in reads.items():
        with repository.stream(packing.partial, image_name(key)) as running:
            reason = _differs(running, read, reach)
            running.wait(reach.alive)
        if reason:
            raise refuse(f"{image_name(key)}: {reason}")


def _differs(running: Running, read: InOrder, reach: Reach) -> str:
    """Why what comes out is not what went in."""
    digest, at = hashlib.sha256(), 0
    for offset, length in [*read.ranges, (read.size, 0)]:
        for place, held in ((offset, False), (offset + length, True)):
            while at < place:
                reach.alive()
                data = running.output.read(min(SLOT_BYTES, place - at))
                if not data:
                    return f"it ends at byte {at}"
                if held:
                    digest.update(data)
                elif data != _BLANK[: len(data)]:
                    return f"there is something at byte {at}, where the disk has a hole"
                at += len(data)
    return "" if digest.digest() == read.digest.digest() else "its bytes are not those that were read"
