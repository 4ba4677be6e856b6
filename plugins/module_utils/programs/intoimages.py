# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine's disks into images in a folder of this machine, over the connections by which the programs dedup and borg
read them: every byte that a disk holds travels, what is written is what differs.

When this returns, or raises, no process of ours on the hypervisor holds a disk open any more, or the error says which
does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import (
    DiskFed,
    OpenDisk,
    must_fit,
    opened_disks,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.imagefile import ImageFile
from ansible_collections.stowage.esxi.plugins.module_utils.programs.inorder import InOrder
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.compose import flat_base

_BEGUN = {
    "half copy": "gone on with from a half copy",
    "reflink": "begun as a clone of the former image (reflink)",
    "former": "the former image where nothing differs, a whole new one else (this file system knows no reflinks)",
    "new": "written whole: there is no former image of it",
}


@dataclass(frozen=True)
class Filling:
    """``former`` maps disks to the images of the restore point before. ``prove`` is asked when every byte has been read
    and written; it raises what speaks against the copy."""

    machine_name: str
    sources: Sequence[Source]
    folder: str
    former: Mapping[str, str]
    verify: str
    prove: Callable[[Sequence[DiskFed]], None]


@dataclass(frozen=True)
class Filled:
    disks: tuple[DiskFed, ...]
    written: int
    occupied: int


def stem_of(key: str) -> str:
    """``scsi0:0`` -> ``scsi0-0``"""
    return key.replace(":", "-")


def flat_name(key: str) -> str:
    return f"{stem_of(key)}-flat.vmdk"


def descriptor_name(key: str) -> str:
    return f"{stem_of(key)}.vmdk"


def write_descriptor(folder: str, key: str, size: int) -> None:
    """Beside its image: so it is a disk for a hypervisor, and for whoever else reads a VMDK."""
    adapter = "ide" if key.startswith("ide") else "lsilogic"
    text = flat_base(flat_name(key), size, adapter).render()
    durable.write_text(os.path.join(folder, descriptor_name(key)), text, 0o400)


def fill(filling: Filling, reach: Reach) -> Filled:
    """All disks as images in the folder, compared with their source as ``verify`` says, and durable."""
    with opened_disks(filling.sources, reach) as opened:
        must_fit(opened, filling.machine_name, reach)
        fed, written = _fill(opened, filling, reach)
    occupied = sum(os.stat(os.path.join(filling.folder, flat_name(one.source.key))).st_blocks * 512 for one in opened)
    return Filled(fed, written, occupied)


def _fill(opened: Sequence[OpenDisk], filling: Filling, reach: Reach) -> tuple[tuple[DiskFed, ...], int]:
    fed: list[DiskFed] = []
    now: list[tuple[Meter, InOrder]] = []
    looked = written = 0

    def look() -> None:
        reach.alive()
        for meter, read in now[-1:]:
            reach.progress(meter.at(read.done))

    def cut() -> None:
        for one in opened:
            with contextlib.suppress(Exception):
                one.disk.close()

    watch = Watch(
        f"The copy of {', '.join(one.source.path for one in opened)} on {reach.host.name}",
        lambda: sum(read.done for _meter, read in now) + looked,
        look,
        cut,
        reach.stall_seconds,
        reach.clock,
    )

    def count() -> None:
        nonlocal looked
        looked += 1
        watch.check()

    with watch:
        for one in opened:
            key, began = one.source.key, reach.clock.monotonic()
            read = InOrder(reach.host.name, one.disk, reach.connections, filling.verify, watch.check)
            now.append((Meter("copy", key, read.held_bytes, reach.clock), read))
            path = os.path.join(filling.folder, flat_name(key))
            with ImageFile(path, read.size, filling.former.get(key)) as image:
                _write(image, read)
                with watch.at_rest():
                    image.finish()
                verified = read.verified
                if filling.verify == "full":
                    reason = image.differs(read.ranges, read.digest.digest(), count)
                    if reason:
                        raise errors.ImageDiffers(path=path, reason=reason)
                    verified += "; read back from the image"
                write_descriptor(filling.folder, key, read.size)
                written += image.written
                notes = (*one.notes, _BEGUN[image.begun], f"{image.written} bytes were written")
            seconds = round(reach.clock.monotonic() - began, 3)
            fed.append(DiskFed(key, read.held_bytes, read.held_bytes, seconds, one.method, notes, verified))
            reach.progress(now[-1][0].at(read.done))
        with watch.at_rest():
            filling.prove(fed)
    return tuple(fed), written


def _write(image: ImageFile, read: InOrder) -> None:
    """What the disk holds, in its order, and what it does not."""
    slots, at = read.slots(), 0
    with contextlib.closing(read.pieces()) as pieces:  # type: ignore[type-var]
        for piece, (offset, length) in zip(pieces, slots):
            if offset > at:
                image.hole(at, offset - at)
            image.put(piece, offset)
            at = offset + length
    if at < image.size:
        image.hole(at, image.size - at)
