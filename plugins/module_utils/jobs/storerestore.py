# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program dedup: a disk out of a store."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import overwritten, storeplace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import CopyPlan, Request, plan_target
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.undedup import bring

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings
    from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def predict(host: Host, params: Mapping[str, Any], request: Request, stores: Stores) -> dict[str, Any]:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import result_of

    if params.get("in_place"):
        return overwritten.predict(request)

    plan, _store, _disk = _plan(host, request, stores)
    return result_of(request, plan, [])


def perform(host: Host, params: Mapping[str, Any], settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import result_of

    if params.get("in_place"):
        return overwritten.perform(host, settings, frame, stores)
    plan, store, disk = _plan(host, frame.request, stores)
    (task,) = plan.disks
    brought = bring(
        store,
        disk,
        task,
        plan.folders,
        settings.verify,
        frame.reach(host, settings),
    )
    result = result_of(frame.request, plan, brought.warnings)
    result["disks"][0].update(brought.told())
    result["copied_bytes"] = brought.copied_bytes
    result["seconds"] = brought.seconds
    return result


def _plan(host: Host, request: Request, stores: Stores) -> tuple[CopyPlan, Store, DiskMap]:
    src = request.src or ""
    location, point, key = storeplace.parse_path(src)
    if not point or not key:
        raise errors.BadSource(
            host=host.name, source=src, reason="a disk in a store is named STORE::POINT/KEY, as restore_plan does"
        )
    if request.disk_format == "2gbsparse":
        raise errors.NotSupported(
            program="dedup", reason="it writes into flat disks only", way_out="Use thin, or a thick format"
        )
    store = stores.open(location)
    found = storeplace.find(store, point)
    disk = found.disk(key)
    if disk is None:
        present = ", ".join(one.key for one in found.disks)
        raise errors.BadSource(host=host.name, source=src, reason=f"the restore point has the disks {present}")
    told = storeplace.restore_point(location, found)
    data = next((one.allocated_bytes for one in told.disks if one.key == key), disk.size)
    name = f"{key.replace(':', '-')}.vmdk"
    if request.dest.endswith(".vmdk"):
        name = posixpath.basename(request.dest)
    source = Source(key=name, path=src, capacity_bytes=disk.size, bytes_to_read=min(data, disk.size))
    return plan_target(host, request, (source,)), store, disk
