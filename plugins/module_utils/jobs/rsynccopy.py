# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program rsync: a VM into a folder of images, which the copy itself proves and names."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial as partial_of
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

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
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import (
    PointDisk,
    PointFile,
    RestorePoint,
    render_manifest,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.room import PointBelowReserve
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.rsyncpush import Push
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import Order
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import DONE
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import (
    errors,
    imagefile,
    intoimages,
    overwire,
    spot,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.intoimages import Filled, Filling
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import sources_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.rsyncerrors import RsyncDiffers, RsyncFailed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import Spot

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings

T = TypeVar("T")
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
    filled, path = order.pack(
        place,
        frame.reach(host, settings),
        settings,
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

    def files_in(self, files: Mapping[str, bytes], disks: Sequence[PointDisk]) -> list[PointFile]:
        """What lies in the folder by now, which is all but the manifest."""
        with imagefile.told(self.partial), os.scandir(self.partial) as found:
            there = {one.name: one.stat(follow_symlinks=False).st_size for one in found}
        return [PointFile(name, size, points.role_of(name)) for name, size in sorted(there.items())]

    def pack(self, place: Spot, reach: Reach, settings: Settings, warnings: list[str]) -> tuple[Filled, str]:
        files = self.config()
        must_not_collide(self.job.vm, files, self.keys)
        with rsyncplace.machine_of(self.store, place) as there:
            work = self._here if place.is_here else self._there
            filled, final = work(there, place, files, reach, settings, warnings)
        name = posixpath.relpath(final, place.path)
        self.journal.note(DONE, point=name, store=self.location, told=told_of(filled))
        return filled, str(place.at(final))

    @property
    def keys(self) -> list[str]:
        return [source.key for source in self.sources]

    def _here(
        self,
        there: Host,
        place: Spot,
        files: Mapping[str, bytes],
        reach: Reach,
        settings: Settings,
        warnings: list[str],
    ) -> tuple[Filled, str]:
        folder, before = rsyncplace.folder_of(there, place, self.job), rsyncplace.newest(there, place, self.job)
        partial, final = rsyncplace.partial_of(folder, self.job), posixpath.join(folder, self.job.time)
        filled = self._filled(partial, before, files, reach, settings, warnings)
        manifest = self._manifest(partial, posixpath.relpath(final, place.path), files, filled, reach)
        imagefolder.commit(partial, final, render_manifest(manifest))
        return filled, final

    def _there(
        self,
        there: Host,
        place: Spot,
        files: Mapping[str, bytes],
        reach: Reach,
        settings: Settings,
        warnings: list[str],
    ) -> tuple[Filled, str]:
        """By a stage on this machine. It stays where an rsync on the hypervisor can begin from it the next time."""
        job = self.job
        folder, before = rsyncplace.folder_of(there, place, job), rsyncplace.newest(there, place, job)
        stage = Spot(posixpath.join(stage_root(self.access, settings.state_dir, place), posixpath.basename(folder)))
        with rsyncplace.machine_of(self.store, stage) as here:
            staged = rsyncplace.newest(here, Spot(posixpath.dirname(stage.path)), job)
        partial = rsyncplace.partial_of(stage.path, job)
        filled = self._filled(partial, staged, files, reach, settings, warnings)
        push = Push(
            there=there,
            partial=rsyncplace.partial_of(folder, job),
            former=before.path if before is not None else "",
            former_keys=frozenset(disk.key for disk in before.disks) if before is not None else frozenset(),
            verify=settings.verify,
            whole_file=self.access.rsync_whole_file,
            reach=reach,
        )
        half = push.prepare(job.job, self.keys)
        if half:
            warnings.append(f"a half copy of {job.vm} was on {there.name} ({half}), and was gone on with")
        filled = _pushed(push, partial, filled, self.sources)
        final = posixpath.join(folder, job.time)
        manifest = self._manifest(partial, posixpath.relpath(final, place.path), files, filled, reach)
        push.files({**files, **imagefolder.small_files(partial, self.keys)})
        push.commit(job, final, manifest)
        if any(disk.method == "rsync" for disk in filled.disks):
            imagefolder.commit(partial, posixpath.join(stage.path, job.time), render_manifest(manifest))
            imagefolder.keep_only(stage.path, job.time)
        else:
            imagefolder.drop(partial)
        return filled, final

    def _filled(
        self,
        partial: str,
        before: RestorePoint | None,
        files: Mapping[str, bytes],
        reach: Reach,
        settings: Settings,
        warnings: list[str],
    ) -> Filled:
        """The images in a folder of this machine, and the configuration beside them."""
        half = imagefolder.prepare(partial, self.job.job, self.keys)
        if half:
            warnings.append(f"a half copy of {self.job.vm} was there ({half}), and was gone on with")
        whole = self.access.rsync_whole_file
        former = {} if whole else imagefolder.former_images(before, before.path if before is not None else "")
        wire = overwire.wire_to(self.host.session, self.access.rsync_path)

        def alive() -> None:
            reach.alive()
            _must_have_room(partial, reach.reserve_percent, self.job.vm)

        filling = Filling(self.job.vm, self.sources, partial, former, settings.verify, wire, whole)
        filled = _kept(lambda: intoimages.fill(filling, replace(reach, alive=alive)), lambda: imagefolder.drop(partial))
        imagefolder.put_files(partial, files)
        return filled

    def _manifest(
        self, partial: str, name: str, files: Mapping[str, bytes], filled: Filled, reach: Reach
    ) -> Mapping[str, Any]:
        order = replace(self, partial=partial)
        what = f"The proof of {self.job.vm} on {self.host.name}"
        return intoimages.while_alive(what, lambda: order.proven(name, files, filled.disks), reach)


def stage_root(access: Access, state_dir: str, place: Spot) -> str:
    """Where restore points of a backup point on another server are put together."""
    return posixpath.join(access.stage_dir or posixpath.join(state_dir, "stage"), names.identity_hash(str(place)))


def _pushed(push: Push, partial: str, filled: Filled, sources: Sequence[Source]) -> Filled:
    """With what the way to the other server has cost, and what is new there."""
    sizes = {source.key: source.capacity_bytes for source in sources}
    disks, written = [], 0
    for disk in filled.disks:
        path = posixpath.join(partial, intoimages.flat_name(disk.key))
        one = _kept(partial_of(push.image, path, disk.key, sizes[disk.key]), push.drop)
        written += one.written
        verified = f"{disk.verified}; from here to {push.there.name}: {one.verified}"
        disks.append(
            replace(disk, notes=(*disk.notes, one.note), verified=verified, seconds=disk.seconds + one.seconds)
        )
    return replace(filled, disks=tuple(disks), written=written)


def _must_have_room(path: str, percent: int, vm: str) -> None:
    """A full file system would end other backups, too."""
    try:
        room = os.statvfs(path)
    except OSError:
        return
    free, reserve = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize * percent // 100
    if free < reserve:
        raise PointBelowReserve(place=path, vm=vm, free=format_bytes(free), reserve=format_bytes(reserve))


def _kept(work: Callable[[], T], drop: Callable[[], None]) -> T:
    """What was copied when something ends it stays for the next backup; where there is no room, it must not, and what
    is not what was read is nobody's."""
    try:
        return work()
    except (errors.ImageDiffers, RsyncDiffers, PointBelowReserve):
        drop()
        raise
    except (errors.ImageFailed, RsyncFailed) as error:
        full = error.data.get("errno") in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error.data.get("output")):
            drop()
        raise


def must_not_collide(vm: str, files: Mapping[str, bytes], keys: Sequence[str]) -> None:
    """The names of a VM's files are its hypervisor's; those of images and marks are ours."""
    ours = {names.MANIFEST, names.HOLD_FILE}
    ours.update(make(key) for key in keys for make in (intoimages.flat_name, intoimages.descriptor_name))
    for name in files:
        if name in ours:
            raise BadConfigFile(vm=vm, file=name, reason="a restore point has a file of its own under that name")
