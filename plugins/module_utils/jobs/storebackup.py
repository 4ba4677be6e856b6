# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program dedup: a VM into a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import hinting, storeroom
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import job as jobs
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import JobAltered
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.overwriting import safety_job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.room import RoomWatch, StoreBelowReserve
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import Order, disk_results
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import path_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.compare import ENCRYPTED
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request, sources_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def predict(host: Host, params: Mapping[str, Any], request: Request, stores: Stores) -> dict[str, Any]:
    warnings: list[str] = []
    sources, left_out = sources_of(host, request, True, warnings)
    room = room_in(host, request, sources, stores, str(params.get("program") or "dedup"))
    return result_in(request, sources, left_out, room, warnings)


def perform(host: Host, params: Mapping[str, Any], settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    request = frame.request
    if frame.job is None or frame.journal is None:
        raise errors.NotSupported(
            program="dedup",
            reason="it makes a restore point, which needs the journal and the proofs of a job",
            way_out="Use the role stowage.esxi.backup with backup_program=dedup, or give journal and job_id of its job",
        )
    from ansible_collections.stowage.esxi.plugins.module_utils.store import quota

    store = stores.open(request.dest)
    # It may have waited for its slot for hours.
    store.renew_settings()
    quota.must_have_room(store)
    warnings: list[str] = []
    sources, left_out = sources_of(host, request, False, warnings)
    refuse_encrypted(host, request, sources)
    room = room_in(host, request, sources, stores)
    if stores.access is None:
        raise ValueError("a copy into a store needs its options")
    if not jobs.is_begun(settings.state_dir, frame.job):
        # Whose points it may be told of, and whose it adds to, goes by what stands here, not on the hypervisor.
        reason = f"{jobs.mirror_path(settings.state_dir, frame.job.job)} is not there, or says otherwise"
        raise JobAltered(job=frame.job.job, vm=frame.job.vm, reason=reason)
    watch = _watch(host, request, store)

    def alive() -> None:
        frame.waiting()
        if watch is not None:
            watch.check()

    job = safety_job(frame.job) if frame.job.kind == INPLACE else frame.job
    order = Order(host, job, frame.journal, store, request.dest, stores.access, tuple(sources))
    fed, hint = order.run(frame.reach(host, settings, alive=alive))
    if fed.left:
        warnings.append(f"the restore point is there, but: {fed.left}")
    warnings += filter(None, [hinting.words(frame.job.vm, hint)])
    result = result_in(request, sources, left_out, room, warnings)
    result["hint"] = dict(hint)
    result["disks"] = disk_results(request.dest, fed, sources)
    result["files"] = [file.name for file in fed.point.files]
    result["restore_point"] = path_of(request.dest, fed.point.point)
    result["told"] = dict(fed.told)
    result["copied_bytes"] = fed.told["stored"]
    result["seconds"] = round(sum(disk.seconds for disk in fed.disks), 3)
    result["diff"]["after"] = f"{result['restore_point']}\n"
    return result


def refuse_encrypted(host: Host, request: Request, sources: tuple[Source, ...]) -> None:
    """Its bytes could be kept; its keys are in its descriptor, and a disk that is made anew has another one."""
    for source in sources:
        if source.not_flat == ENCRYPTED:
            raise errors.DiskNotCopyable(
                host=host.name,
                vm=request.vm.name if request.vm is not None else "",
                key=source.key,
                reason="it is encrypted, and of a disk in a store only the bytes are kept, not the keys",
                way_out="Back this VM up with the program vmkfstools (backup_vms), or leave the disk out",
            )


def _watch(host: Host, request: Request, store: Store) -> RoomWatch | None:
    """Of a store on a datastore: what fills it must end before the VMs there do."""
    if not store.backend.keeps_chunks:
        return None
    name = request.vm.name if request.vm is not None else ""
    datastores = [host.datastore(request.dest).name]
    return RoomWatch(host, name, datastores, request.reserve_percent, error=StoreBelowReserve)


def room_in(
    host: Host, request: Request, sources: tuple[Source, ...], stores: Stores, program: str = "dedup"
) -> dict[str, Any]:
    """How much is new is known when it has been looked at; a store without any room need not be begun with."""
    found = storeroom.look(stores, request.dest, program)
    reserve = (found.capacity_bytes or 0) * request.reserve_percent // 100
    room = {
        "datastore": request.dest,
        "needed_bytes": sum(source.bytes_to_read for source in sources),
        "free_bytes": found.free_bytes,
        "reserve_bytes": reserve,
    }
    if found.free_bytes is not None and found.free_bytes <= reserve:
        raise errors.NotEnoughRoom(
            host=host.name,
            datastore=request.dest,
            needed="some room",
            free=format_bytes(found.free_bytes),
            reserve=format_bytes(reserve),
            room=room,
        )
    return room


def result_in(
    request: Request,
    sources: tuple[Source, ...],
    left_out: tuple[tuple[str, str], ...],
    room: Mapping[str, Any],
    warnings: list[str],
) -> dict[str, Any]:
    return {
        "changed": True,
        "vm": None if request.vm is None else {"name": request.vm.name, "vmid": request.vm.vmid},
        "disks": [
            {
                "key": source.key,
                "source": source.path,
                "dest": request.dest,
                "format": "store",
                "capacity_bytes": source.capacity_bytes,
                "bytes_to_read": source.bytes_to_read,
            }
            for source in sources
        ],
        "files": [],
        "left_out": [{"key": key, "reason": reason} for key, reason in left_out],
        "bytes_total": sum(source.bytes_to_read for source in sources),
        "capacity_bytes": sum(source.capacity_bytes for source in sources),
        "room": dict(room),
        "warnings": warnings,
        "diff": {"before": "", "after": f"a restore point in {request.dest}\n"},
    }
