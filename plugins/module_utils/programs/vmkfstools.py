# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``vmkfstools``: the host's own clone, from datastore to datastore."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter, Progress
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import FileEntry
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import compare, errors, multiextent, stall
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostside import HostSide
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import (
    FORMATS,
    CopyResult,
    CopyTask,
    DiskResult,
    DiskTask,
    FileTask,
    Note,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.parse_vmkfstools import chain_verdict, parse_clone
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import Link
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import SECTOR_BYTES, parse_descriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import VmdkError


def no_note(event: str, **data: object) -> None:
    """Where there is no journal, the work folder on the host is the only trace."""


class Vmkfstools:
    """One clone after the other, on the host, watched by a shell that ends them when nobody asks any more."""

    name = "vmkfstools"

    def __init__(
        self,
        *,
        note: Note = no_note,
        clock: Clock | None = None,
        window_seconds: int = 60,
        linger_seconds: int = 3,
        verify: str = "sample",
        stall_seconds: float = stall.DEFAULT_SECONDS,
    ) -> None:
        self.note = note
        self.clock: Clock = clock or SystemClock()
        self.window_seconds = window_seconds
        self.linger_seconds = linger_seconds
        self.verify = verify
        self.stall_seconds = stall_seconds

    def check(self, host: Host, task: CopyTask) -> None:
        for disk in task.disks:
            if disk.format not in FORMATS:
                raise errors.NotSupported(
                    program=self.name,
                    reason=f"it knows no disk format {disk.format}",
                    way_out=f"Use one of {', '.join(FORMATS)}",
                )

    def copy(
        self, host: Host, task: CopyTask, progress: Callable[[Progress], None], alive: Callable[[], None]
    ) -> CopyResult:
        self.check(host, task)
        sparse = any(disk.format == "2gbsparse" or disk.source_kind == "sparse" for disk in task.disks)
        with multiextent.loaded(host, sparse, self.note) as notes:
            side = HostSide(
                host,
                task,
                clock=self.clock,
                alive=alive,
                note=self.note,
                window_seconds=self.window_seconds,
                linger_seconds=self.linger_seconds,
            )
            try:
                side.start()
                for number, file in enumerate(task.files, 1):
                    self._file(host, side, number, file)
                done = [
                    self._disk(host, side, number, disk, progress)
                    for number, disk in enumerate(task.disks, 1 + len(task.files))
                ]
                side.keep()
            except BaseException as error:
                left = side.stop()
                if left and isinstance(error, StowageError):
                    error.data["left"] = left
                raise
        return CopyResult(tuple(done), tuple(file.target for file in task.files), tuple(notes))

    def _file(self, host: Host, side: HostSide, number: int, file: FileTask) -> None:
        began = self.clock.monotonic()
        seen = side.look(number)
        while not seen.ended:
            # Small files: one that takes as long as a disk may stand still hangs.
            if self.clock.monotonic() - began >= self.stall_seconds:
                output = f"it did not end within {self.stall_seconds:g} seconds"
                raise errors.FileCopyFailed(
                    host=host.name, source=file.source, target=file.target, rc="none", output=output
                )
            seen = side.look(number)
        if seen.fate == "exists":
            raise errors.TargetExists(host=host.name, target=file.target)
        if seen.fate != "0":
            output = " ".join(seen.log.split()) or "it printed nothing"
            raise errors.FileCopyFailed(
                host=host.name, source=file.source, target=file.target, rc=seen.fate, output=output
            )

    def _disk(
        self, host: Host, side: HostSide, number: int, disk: DiskTask, progress: Callable[[Progress], None]
    ) -> DiskResult:
        meter = Meter("copy", disk.key, disk.bytes_to_read, self.clock)
        began = self.clock.monotonic()
        progress(meter.at(0))
        still = stall.Stall(
            self.stall_seconds, disk.capacity_bytes, self.clock, lambda: side.tell(stall.GROWTH, disk.target)
        )
        names = {"host": host.name, "source": disk.source, "target": disk.target}
        while True:
            seen = side.look(number)
            log = parse_clone(seen.log)
            if seen.ended:
                break
            progress(meter.at(disk.bytes_to_read * log.percent // 100))
            stood = still.seconds(log.percent)
            if stood is not None:
                raise errors.CloneStalled(**names, percent=log.percent, seconds=int(stood))
        if seen.fate == "exists":
            raise errors.TargetExists(host=host.name, target=disk.target)
        if seen.fate != "0":
            raise errors.CloneFailed(
                **names,
                rc=seen.fate,
                percent=log.percent,
                output=log.message or "it printed no message",
                code=log.code,
                way_out=log.way_out,
            )
        output = log.message or f"Clone: {log.percent}% done"
        if not log.done:
            reason = f"vmkfstools ended with status 0 at {log.percent} % and never reported 100 %"
            raise errors.CloneIncomplete(**names, reason=reason, output=output)
        entries = host.read_folders([posixpath.dirname(disk.target)])
        reason, copied = inspect(entries, disk)
        if not reason and self.verify != "none":
            answer = host.session.run(["vmkfstools", "-e", disk.target], timeout_seconds=300)
            if chain_verdict(answer.stdout + answer.stderr) is False:
                reason = "vmkfstools -e says: " + answer.output
        if reason:
            raise errors.CloneIncomplete(**names, reason=reason, output=output)
        verdict = self._compared(host, side, number, disk, entries, progress)
        if verdict.differs:
            raise errors.CopyDiffers(**names, reason=verdict.differs)
        seconds = max(self.clock.monotonic() - began, 0.001)
        progress(meter.at(disk.bytes_to_read))
        return DiskResult(
            key=disk.key,
            source=disk.source,
            dest=disk.target,
            format=disk.format,
            capacity_bytes=disk.capacity_bytes,
            bytes_to_read=disk.bytes_to_read,
            copied_bytes=copied,
            seconds=round(seconds, 3),
            rate=int(disk.bytes_to_read / seconds),
            verified=verdict.verified,
        )

    def _compared(
        self,
        host: Host,
        side: HostSide,
        number: int,
        disk: DiskTask,
        entries: Mapping[str, FileEntry],
        progress: Callable[[Progress], None],
    ) -> compare.Verdict:
        if self.verify == "none":
            return compare.Verdict("not compared: verify is none")
        signs, extents = (side.task.lease, f"{side.task.work_dir}/beat"), made_extents(entries, disk)
        if disk.format == "2gbsparse":
            fault = compare.sparse_fault(host, extents, signs)
            return compare.Verdict("tables of its sparse extents; not compared with its source", fault)
        if not disk.flat or len(extents) != 1:
            return compare.Verdict(f"not compared: {disk.not_flat or 'the copy is not one flat extent'}")
        whole = self.verify == "full"
        meter = Meter("compare", disk.key, disk.capacity_bytes, self.clock)

        def beat(blocks: int) -> None:
            # Asking for the ended clone is the sign of life that the watchdog, and the caller's end, are kept by.
            side.look(number)
            if whole:
                progress(meter.at(min(blocks * compare.BLOCK, disk.capacity_bytes)))

        parts = [[part] for part in compare.slices(disk.capacity_bytes)]
        calls = parts if whole else [compare.sample(disk.capacity_bytes, disk.target)]
        return compare.compare(host, disk.flat, extents[0][0], calls, signs, beat, whole)


def inspect(entries: Mapping[str, FileEntry], disk: DiskTask) -> tuple[str, int]:
    """Why the target is not the whole disk, or nothing; and what its extents occupy."""
    entry = entries.get(disk.target)
    if entry is None or entry.text is None:
        return "there is no descriptor at the target", 0
    try:
        descriptor = parse_descriptor(entry.text, disk.target)
    except VmdkError as error:
        return error.message, 0
    if descriptor.is_delta:
        return f"the target is a difference to a parent ({descriptor.parent_hint}), not a disk of its own", 0
    if descriptor.capacity_bytes != disk.capacity_bytes:
        return f"the target holds {descriptor.capacity_bytes} bytes, the source {disk.capacity_bytes}", 0
    wanted = "sparse" if disk.format == "2gbsparse" else "flat"
    if descriptor.kind != wanted:
        return f"the target is of kind {descriptor.kind}, not {wanted}", 0
    copied = 0
    for path, extent in zip(Link(disk.target, descriptor).extent_paths, (e for e in descriptor.extents if e.file)):
        found = entries.get(path)
        if found is None:
            return f"its extent {path} is missing", 0
        least = extent.sectors * SECTOR_BYTES + (extent.offset or 0) * SECTOR_BYTES if wanted == "flat" else 1
        if found.size_bytes < least:
            return f"its extent {path} has {found.size_bytes} bytes instead of {least}", 0
        copied += found.allocated_bytes
    return "", copied


def made_extents(entries: Mapping[str, FileEntry], disk: DiskTask) -> list[tuple[str, int, int]]:
    """Path, sectors and size of each extent of a target that `inspect` found whole."""
    link = Link(disk.target, parse_descriptor(entries[disk.target].text or "", disk.target))
    made = [extent for extent in link.descriptor.extents if extent.file is not None]
    return [
        (path, extent.sectors, entries[path].size_bytes if path in entries else 0)
        for path, extent in zip(link.extent_paths, made)
    ]
