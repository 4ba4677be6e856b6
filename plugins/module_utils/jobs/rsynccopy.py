# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program rsync: a VM into a folder of images, which the copy itself proves and names."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    imagefolder,
    names,
    rsyncplace,
    storebackup,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadConfigFile, JobAltered
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import PointDisk, PointFile, render_manifest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.room import PointBelowReserve
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import Order
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import DONE
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors, imagefile, intoimages, spot
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import DiskFed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.intoimages import Filled, Filling
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import sources_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import Spot

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings

predict = storebackup.predict


def perform(host: Host, params: Mapping[str, Any], settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    request = frame.request
    if frame.job is None or frame.journal is None:
        raise errors.NotSupported(
            program="rsync",
            reason="it makes a restore point, which needs the journal and the proofs of a job",
            way_out="Use the role stowage.esxi.backup with backup_program=rsync, or give journal and job_id of its job",
        )
    warnings: list[str] = []
    sources, left_out = sources_of(host, request, False, warnings)
    storebackup.refuse_encrypted(host, request, sources)
    room = storebackup.room_in(host, request, sources, stores, "rsync")
    if stores.access is None:
        raise ValueError("a copy into a backup point needs the options of a store")
    if not jobs.is_begun(settings.state_dir, frame.job):
        # Its names become names of folders here.
        reason = f"{jobs.mirror_path(settings.state_dir, frame.job.job)} is not there, or says otherwise"
        raise JobAltered(job=frame.job.job, vm=frame.job.vm, reason=reason)
    place = spot.parse(request.dest)
    order = RsyncOrder(host, frame.job, frame.journal, stores, str(place), stores.access, tuple(sources))
    reserve = int(room["reserve_bytes"])

    def alive() -> None:
        frame.waiting()
        _must_have_room(place, reserve, frame.name)

    filled, path = order.pack(
        place,
        Reach(
            host=host,
            note=frame.journal.note,
            progress=frame.progress,
            alive=alive,
            connections=settings.connections,
            bandwidth_limit=settings.bandwidth_limit or 0,
            stall_seconds=settings.stall_timeout,
            label=settings.job_id or "by-hand",
            lease=f"{frame.journal.folder}/lease",
            reserve_percent=request.reserve_percent,
        ),
        settings.verify,
        warnings,
    )
    result = storebackup.result_in(request, sources, left_out, room, warnings)
    by_key = {one.key: one for one in filled.disks}
    for disk in result["disks"]:
        one = by_key[disk["key"]]
        disk.update(
            dest=f"{path}/{intoimages.descriptor_name(one.key)}",
            format="image",
            read_bytes=one.read_bytes,
            sent_bytes=one.sent_bytes,
            seconds=one.seconds,
            rate=one.rate,
            verified=one.verified,
            method=one.method,
            notes=list(one.notes),
        )
    result["restore_point"] = path
    result["told"] = told_of(filled)
    result["copied_bytes"] = filled.occupied
    result["seconds"] = round(sum(one.seconds for one in filled.disks), 3)
    result["diff"]["after"] = f"{path}\n"
    return result


def told_of(filled: Filled) -> dict[str, int]:
    sent = sum(disk.sent_bytes for disk in filled.disks)
    return {"sent": sent, "new": filled.written, "stored": filled.occupied}


def _must_have_room(place: Spot, reserve: int, vm: str) -> None:
    """A full file system would end other backups, too."""
    try:
        room = os.statvfs(place.path)
    except OSError:
        return
    free = room.f_bavail * room.f_frsize
    if free < reserve:
        raise PointBelowReserve(place=str(place), vm=vm, free=format_bytes(free), reserve=format_bytes(reserve))


@dataclass(frozen=True)
class RsyncOrder(Order):
    """A job's VM, on its way into a folder of images."""

    format: ClassVar[str] = "image"
    partial: str = ""

    def readable(self) -> str:
        return (
            "each descriptor and image has its size; content as each disk's verified says; every byte that was read "
            "and was other than in the image before was written and is on the disk"
        )

    def file_of(self, key: str) -> str:
        return intoimages.descriptor_name(key)

    def pack(self, place: Spot, reach: Reach, verify: str, warnings: list[str]) -> tuple[Filled, str]:
        job, files = self.job, self.config()
        keys = [source.key for source in self.sources]
        must_not_collide(job.vm, files, keys)
        with rsyncplace.machine_of(self.store, place) as there:
            folder = rsyncplace.folder_of(there, place, job)
            before = rsyncplace.newest(there, place, job)
        partial, final = rsyncplace.partial_of(folder, job), posixpath.join(folder, job.time)
        name = posixpath.relpath(final, place.path)
        half = imagefolder.prepare(partial, job.job, keys)
        if half:
            warnings.append(f"a half copy of {job.vm} was there ({half}), and was gone on with")
        manifest: list[str] = []

        def prove(fed: Sequence[DiskFed]) -> None:
            imagefolder.put_files(partial, files)
            manifest.append(render_manifest(replace(self, partial=partial).proven(name, files, fed)))

        former = imagefolder.former_images(before, before.path if before is not None else "")
        filling = Filling(job.vm, self.sources, partial, former, verify, prove)
        filled = _filled(filling, reach, partial)
        imagefolder.commit(partial, final, manifest[0])
        self.journal.note(DONE, point=name, store=self.location, told=told_of(filled))
        return filled, str(place.at(final))

    def files_in(self, files: Mapping[str, bytes], disks: Sequence[PointDisk]) -> list[PointFile]:
        """What lies in the folder by now, which is all but the manifest."""
        with imagefile.told(self.partial), os.scandir(self.partial) as found:
            there = {one.name: one.stat(follow_symlinks=False).st_size for one in found}
        return [PointFile(name, size, points.role_of(name)) for name, size in sorted(there.items())]


def _filled(filling: Filling, reach: Reach, partial: str) -> Filled:
    """What was copied when something ends it stays for the next backup; where there is no room, it must not."""
    try:
        return intoimages.fill(filling, reach)
    except (errors.ImageFailed, PointBelowReserve) as error:
        if error.data.get("errno") in (errno.ENOSPC, errno.EDQUOT) or isinstance(error, PointBelowReserve):
            imagefolder.drop(partial)
        raise
    except errors.ImageDiffers:
        imagefolder.drop(partial)
        raise


def must_not_collide(vm: str, files: Mapping[str, bytes], keys: Sequence[str]) -> None:
    """The names of a VM's files are its hypervisor's; those of images and marks are ours."""
    ours = {names.MANIFEST, names.HOLD_FILE}
    ours.update(make(key) for key in keys for make in (intoimages.flat_name, intoimages.descriptor_name))
    for name in files:
        if name in ours:
            raise BadConfigFile(vm=vm, file=name, reason="a restore point has a file of its own under that name")
