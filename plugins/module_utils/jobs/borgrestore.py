# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program borg: a disk out of an archive."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import borgplace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import parse_path, path_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.fromstream import bring
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import CopyPlan, Request, plan_target
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings


def predict(host: Host, params: Mapping[str, Any], request: Request, stores: Stores) -> dict[str, Any]:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import result_of

    return result_of(request, _plan(host, request, stores), [])


def perform(host: Host, params: Mapping[str, Any], settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import result_of

    plan = _plan(host, frame.request, stores)
    (task,) = plan.disks
    location, archive, name = parse_path(frame.request.src or "")
    reach = frame.reach(host, settings)
    with borgplace.repository(stores, location).stream(archive, name) as running:

        def read(count: int) -> bytes:
            data = running.output.read(count)
            if len(data) < count:
                # What has failed says so; an archive that is too short is told by whoever wanted more.
                running.wait(reach.alive)
            return data

        brought = bring(read, running.end, task, plan.folders, settings.verify, reach)
        running.wait(reach.alive)
    result = result_of(frame.request, plan, brought.warnings)
    result["disks"][0].update(brought.told())
    result["copied_bytes"] = brought.copied_bytes
    result["seconds"] = brought.seconds
    return result


def _plan(host: Host, request: Request, stores: Stores) -> CopyPlan:
    src = request.src or ""
    location, archive, name = parse_path(src)
    if not archive or not name:
        raise errors.BadSource(
            host=host.name,
            source=src,
            reason="a disk in a repository is REPOSITORY::ARCHIVE/NAME, as restore_plan has it",
        )
    if request.disk_format == "2gbsparse":
        raise errors.NotSupported(
            program="borg", reason="it writes into flat disks only", way_out="Use thin, or a thick format"
        )
    point = borgplace.BorgPlace(stores).read(host, path_of(location, archive))
    disk = next((one for one in point.disks if one.file == name), None)
    if disk is None:
        present = ", ".join(one.file for one in point.disks)
        raise errors.BadSource(host=host.name, source=src, reason=f"the archive has the disks {present}")
    target = f"{disk.key.replace(':', '-')}.vmdk"
    if request.dest.endswith(".vmdk"):
        target = posixpath.basename(request.dest)
    size = disk.capacity_bytes
    source = Source(key=target, path=src, capacity_bytes=size, bytes_to_read=min(disk.allocated_bytes, size))
    return plan_target(host, request, (source,))
