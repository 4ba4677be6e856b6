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
from typing import TypeVar

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
from ansible_collections.stowage.esxi.plugins.module_utils.programs.overwire import Wire, bring
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.rsyncerrors import RsyncFailed, RsyncMissing
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.compose import flat_base

T = TypeVar("T")
_BEGUN = {
    "half copy": "gone on with from a half copy",
    "reflink": "begun as a clone of the former image (reflink)",
    "former": "the former image where nothing differs, a whole new one else (this file system knows no reflinks)",
    "new": "written whole: there is no former image of it",
}


@dataclass(frozen=True)
class Filling:
    """``former`` maps disks to the images of the restore point before. With ``whole_file`` an rsync on the hypervisor
    sends all, and none is looked at."""

    machine_name: str
    sources: Sequence[Source]
    folder: str
    former: Mapping[str, str]
    verify: str
    wire: Wire = Wire()
    whole_file: bool = False

    def path_of(self, key: str) -> str:
        return os.path.join(self.folder, flat_name(key))


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
    fed: dict[str, DiskFed] = {}
    why_not: dict[str, str] = {}
    written = 0
    for source in filling.sources:
        why_not[source.key] = _why_not(source, filling.wire)
        if filling.wire.session is not None and not why_not[source.key]:
            try:
                fed[source.key], more = _by_rsync(source, filling, reach)
                written += more
            except (RsyncFailed, RsyncMissing) as error:
                if error.data.get("ended"):
                    raise
                why_not[source.key] = error.message
    left = [source for source in filling.sources if source.key not in fed]
    if left:
        with opened_disks(left, reach) as opened:
            must_fit(opened, filling.machine_name, reach)
            read, more = _fill(opened, filling, why_not, reach)
        fed.update((one.key, one) for one in read)
        written += more
    disks = tuple(fed[source.key] for source in filling.sources)
    occupied = sum(os.stat(filling.path_of(source.key)).st_blocks * 512 for source in filling.sources)
    return Filled(disks, written, occupied)


def _why_not(source: Source, wire: Wire) -> str:
    """Why no rsync on the hypervisor brings this disk; nothing where one does, or where none was asked for."""
    if wire.session is None:
        return wire.why_not
    return "" if source.flat else f"it is not one flat file ({source.not_flat or source.kind})"


def _by_rsync(source: Source, filling: Filling, reach: Reach) -> tuple[DiskFed, int]:
    path, former = filling.path_of(source.key), filling.former.get(source.key)
    one = bring(source, filling.wire, path, former, filling.verify, filling.whole_file, reach)
    write_descriptor(filling.folder, source.key, source.capacity_bytes)
    notes = [
        f"delta over the wire: of {source.capacity_bytes} bytes {one.copied.literal} travelled, as they differed",
        _BEGUN[one.begun],
        f"{one.written} bytes were written",
    ]
    if one.retries:
        notes.append(f"the connection was lost {one.retries} times, and the copy gone on with")
    size = source.capacity_bytes
    return DiskFed(source.key, size, one.copied.wire, one.seconds, "rsync", tuple(notes), one.verified), one.written


def while_alive(what: str, work: Callable[[], T], reach: Reach) -> T:
    """What takes its time beside the copying. The signs of life go on."""
    watch = Watch(what, lambda: 0, reach.alive, lambda: None, reach.stall_seconds, reach.clock)
    with watch, watch.at_rest():
        return work()


def _fill(
    opened: Sequence[OpenDisk], filling: Filling, why_not: Mapping[str, str], reach: Reach
) -> tuple[tuple[DiskFed, ...], int]:
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
            path = filling.path_of(key)
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
                told = f"no delta over the wire, all that the disk holds has travelled: {why_not[key]}"
                notes = (
                    *one.notes,
                    *([told] if why_not[key] else []),
                    _BEGUN[image.begun],
                    f"{image.written} bytes were written",
                )
            seconds = round(reach.clock.monotonic() - began, 3)
            fed.append(DiskFed(key, read.held_bytes, read.held_bytes, seconds, one.method, notes, verified))
            reach.progress(now[-1][0].at(read.done))
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
