# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program rsync: a disk out of a folder of images, onto a datastore of a hypervisor."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import rsyncplace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors, spot
from ansible_collections.stowage.esxi.plugins.module_utils.programs.fromstream import bring
from ansible_collections.stowage.esxi.plugins.module_utils.programs.inorder import InOrder
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import CopyPlan, Request, plan_target
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import Spot
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.keptlinks import KeptLinks
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import OnHost, RemoteDisk
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localdisk import LocalDisk

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings

Reader = Callable[[int], bytes]
"""So many bytes of the disk, each time the next ones; fewer only at its end."""


def predict(host: Host, params: Mapping[str, Any], request: Request, stores: Stores) -> dict[str, Any]:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import result_of

    return result_of(request, _plan(host, request, stores), [])


def perform(host: Host, params: Mapping[str, Any], settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import result_of

    plan = _plan(host, frame.request, stores)
    (task,) = plan.disks
    reach = frame.reach(host, settings)
    with _opened(spot.parse(frame.request.src or ""), stores, reach) as (read, end):
        brought = bring(read, end, task, plan.folders, settings.verify, reach)
    result = result_of(frame.request, plan, brought.warnings)
    result["disks"][0].update(brought.told())
    result["copied_bytes"] = brought.copied_bytes
    result["seconds"] = brought.seconds
    return result


@contextlib.contextmanager
def _opened(place: Spot, stores: Stores, reach: Reach) -> Iterator[tuple[Reader, Callable[[], None]]]:
    """The disk from its begin to its end, holes as zeros; and what makes one who waits for it give up."""
    if place.is_here:
        disk = LocalDisk(place.path)
        try:
            yield reader(disk), lambda: None
        finally:
            disk.close()
        return
    with rsyncplace.machine_of(stores, place) as there:
        starter = OnHost(there.session, probe(there.session))
        with (
            KeptLinks(starter, reach.connections + 1) as links,
            RemoteDisk(links, place.path, roots=[posixpath.dirname(place.path)]) as far,
        ):
            read = InOrder(there.name, far, reach.connections, "none", reach.alive)
            with contextlib.closing(read.pieces()) as pieces:  # type: ignore[type-var]
                yield in_order(read, pieces), far.close


def in_order(read: InOrder, pieces: Iterator[bytes]) -> Reader:
    """Pieces come by slots; what lies between them is zeros."""
    slots = read.slots()
    at = 0
    begin, held = next(slots, (read.size, 0))[0], b""

    def take(count: int) -> bytes:
        nonlocal at, begin, held
        count = min(count, read.size - at)
        data = bytearray(count)
        done = 0
        while done < count:
            if not held and at == begin and begin < read.size:
                held = next(pieces)
                begin = next(slots, (read.size, 0))[0]
            if held:
                size = min(len(held), count - done)
                data[done : done + size] = held[:size]
                held = held[size:]
            else:
                size = min(begin - at, count - done)
            at, done = at + size, done + size
        return bytes(data)

    return take


def reader(disk: LocalDisk) -> Reader:
    """Holes are not read."""
    held, at = disk.allocated(), 0
    begin = end = 0

    def read(count: int) -> bytes:
        nonlocal at, begin, end
        count = min(count, disk.size - at)
        while end <= at and begin < disk.size:
            begin, length = next(held, (disk.size, 0))
            end = begin + length
        data = bytearray(count)
        if begin < at + count:
            disk.read_into(memoryview(data), at)
        at += count
        return bytes(data)

    return read


def _plan(host: Host, request: Request, stores: Stores) -> CopyPlan:
    src = request.src or ""
    folder, name = posixpath.split(src)
    if request.disk_format == "2gbsparse":
        raise errors.NotSupported(
            program="rsync", reason="it writes into flat disks only", way_out="Use thin, or a thick format"
        )
    try:
        point = rsyncplace.RsyncPlace(stores).read(host, folder)
    except StowageError as error:
        raise errors.BadSource(host=host.name, source=src, reason=error.message) from error
    disk = next((one for one in point.disks if one.file == name), None)
    if disk is None:
        present = ", ".join(one.file for one in point.disks)
        raise errors.BadSource(host=host.name, source=src, reason=f"the restore point has the disks {present}")
    target = name
    if request.dest.endswith(".vmdk"):
        target = posixpath.basename(request.dest)
    size = disk.capacity_bytes
    source = Source(key=target, path=src, capacity_bytes=size, bytes_to_read=min(disk.allocated_bytes, size))
    return plan_target(host, request, (source,))
