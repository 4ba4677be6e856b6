# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program dedup, in place: a disk of a VM is made equal to one of a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.overwriting import Overwriting
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings


def predict(request: Request) -> dict[str, Any]:
    """What differs is known only when all has been hashed, which is no question of check mode's length."""
    disk = {"source": request.src or "", "dest": request.dest}
    return _result(disk, "only the chunks that differ; which they are is not looked at in check mode")


def perform(host: Host, settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    job, request = frame.job, frame.request
    if job is None or frame.journal is None or job.kind != INPLACE:
        raise errors.NotSupported(
            program="dedup",
            reason="a disk is written over only within a job that marks its VM, so that nobody takes it for whole",
            way_out="Use the role stowage.esxi.restore with restore_in_place=true, or give journal and job_id",
        )
    dest = host.resolve(request.dest)
    disk = next((one for one in job.disks if one["dest"] == dest and one["src"] == request.src), None)
    if disk is None:
        listed = ", ".join(f"{one['src']} to {one['dest']}" for one in job.disks)
        raise errors.BadSource(host=host.name, source=request.src or "", reason=f"the job is to bring {listed}")
    renewed = Overwriting(host, job, frame.journal).renew(
        disk,
        stores,
        settings.verify,
        frame.reach(host, settings),
    )
    result = _result(
        {
            "key": disk["key"],
            "source": disk["src"],
            "dest": disk["dest"],
            "format": disk["format"],
            "capacity_bytes": disk["capacity_bytes"],
            "bytes_to_read": disk["bytes_to_read"],
            "copied_bytes": renewed.written_bytes,
            "read_bytes": renewed.compared_bytes,
            "same_bytes": renewed.same_bytes,
            "sent_bytes": renewed.sent_bytes,
            "fetched_bytes": renewed.fetched_bytes,
            "seconds": renewed.seconds,
            "rate": int(renewed.compared_bytes / renewed.seconds),
            "verified": renewed.verified,
            "method": renewed.method,
        },
        f"{renewed.written_bytes} bytes that differed",
    )
    result["changed"] = renewed.written_bytes > 0
    result["copied_bytes"], result["seconds"] = renewed.written_bytes, renewed.seconds
    if not result["changed"]:
        result["diff"] = {"before": "", "after": ""}
    return result


def _result(disk: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {
        "changed": True,
        "vm": None,
        "disks": [dict(disk)],
        "files": [],
        "left_out": [],
        "warnings": [],
        "diff": {"before": "", "after": f"{disk['dest']}: {what}, as of {disk['source']}\n"},
    }
