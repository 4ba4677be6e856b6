# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reference snapshots on a host: written down, looked at, and taken away. `reference` decides.

The file that speaks of one is removed before the snapshot is: nobody ever believes one that is being merged.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import DiskReader
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import SnapshotTree
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import (
    REFERENCE_KEPT,
    REFERENCE_REMOVE_DONE,
    REFERENCE_REMOVE_INTENT,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import ReferenceNotKept, RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.heldstill import DiskState, FileState
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import FILE, Reference, over_limit
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

_SCAN = r"""
for volume in /vmfs/volumes/*; do
    [ -L "$volume" ] && continue
    for file in "$volume"/*/.stowage-reference.json; do
        [ -f "$file" ] || continue
        printf '%s\n' "${file%/*}"
    done
done
exit 0
"""


def path_in(directory: str) -> str:
    return posixpath.join(directory, FILE)


def text(session: Session, directory: str) -> str:
    """The file in a VM's folder; empty where there is none."""
    result = session.run(["head", "-c", "1048576", path_in(directory)])
    return result.stdout if result.rc == 0 else ""


def forget(session: Session, directory: str) -> None:
    path = path_in(directory)
    result = session.run(["rm", "-f", path])
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Removing {path}", rc=result.rc, stderr=result.output)


def scan(session: Session) -> list[str]:
    """Folders on any datastore of the host that have one."""
    return [line for line in session.script(_SCAN, timeout_seconds=300).stdout.split("\n") if line]


def states(host: Host, tops: Mapping[str, str]) -> dict[str, DiskState]:
    """The chains below these descriptors, by device key, with the extents that they are made of.

    Descriptors do not count as files here: a host may write something into one that changes nothing of the disk."""
    reader = DiskReader(host)
    found: dict[str, DiskState] = {}
    for key, top in tops.items():
        try:
            chain = reader.chain(top)
            reader.load({posixpath.dirname(extent) for extent in chain.extent_paths})
        except StowageError as error:
            found[key] = DiskState(key, (), (), (), error.message)
            continue
        there = [(extent, reader.entries.get(extent)) for extent in chain.extent_paths]
        files = tuple(FileState(path, one.size_bytes, one.mtime) for path, one in there if one is not None)
        missing = [path for path, one in there if one is None]
        fault = f"{missing[0]} cannot be seen" if missing else ""
        found[key] = DiskState(key, chain.paths, chain.cids, files, fault)
    return found


def why_over(host: Host, vm: VirtualMachine, reference: Reference) -> tuple[str, int]:
    """Why it has to go, and what the deltas above it occupy."""
    reader, deltas, stores = DiskReader(host), 0, {vm.datastore}
    frozen = vm.frozen_disks(reference.snapshot)
    for disk in vm.disks():
        stores.add(disk.datastore)
        if disk.chain is None or frozen.get(disk.key) not in disk.chain.paths:
            continue
        above = disk.chain.links[: disk.chain.paths.index(frozen[disk.key])]
        reader.load({posixpath.dirname(path) for link in above for path in link.extent_paths})
        entries = [reader.entries.get(path) for link in above for path in link.extent_paths]
        deltas += sum(entry.allocated_bytes for entry in entries if entry is not None)
    room = {one.name: (one.free_bytes, one.capacity_bytes) for one in host.datastores() if one.name in stores}
    return over_limit(reference, host.clock.now(), deltas, room), deltas


def is_there(vm: VirtualMachine, number: int, name: str) -> bool:
    """By its id and its name, which only the job that made it has given."""
    found = snapshots.tree(vm).find(number)
    return found is not None and found.name == name


def ours(tree: SnapshotTree, identity: str, host: str) -> dict[int, str]:
    """Snapshots that backups of this VM on this host have made, by id: their names carry a job's id, and that the hash
    of both. Whoever holds the VM's lock knows that no other job is at work on it."""
    end = names.job_id("run", host, identity).rpartition("-")[2]
    found = {}
    for snapshot in tree:
        job = snapshot.name[len(names.snapshot_name("")) :]
        run, _dash, mark = job.rpartition("-")
        named = snapshot.name == names.snapshot_name(job) and names.is_job_id(job, run)
        if snapshot.id is not None and mark == end and named:
            found[snapshot.id] = snapshot.name
    return found


def remove(vm: VirtualMachine, number: int, name: str, waiter: Waiter, log: IntentLog) -> bool:
    """Takes file and snapshot away; False where the snapshot was gone already. What was begun recover ends."""
    log.note(REFERENCE_REMOVE_INTENT, id=number, name=name)
    forget(vm.host.session, vm.directory)
    removed = is_there(vm, number, name) and snapshots.remove(vm, number, False, waiter)
    log.note(REFERENCE_REMOVE_DONE, id=number)
    return removed


def keep(vm: VirtualMachine, reference: Reference, keys: Iterable[str], log: IntentLog) -> Reference:
    """Writes down what the snapshot froze, as it lies now that nothing is merged any more."""
    if not is_there(vm, reference.snapshot, reference.name):
        raise ReferenceNotKept(vm=vm.name, snapshot=reference.snapshot, reason="it is gone")
    wanted = set(keys)
    frozen = {key: path for key, path in vm.frozen_disks(reference.snapshot).items() if key in wanted}
    seen = states(vm.host, frozen)
    whole = tuple(state for key, state in sorted(seen.items()) if not state.fault)
    if not whole:
        reason = next((state.fault for state in seen.values()), "it froze no disk")
        raise ReferenceNotKept(vm=vm.name, snapshot=reference.snapshot, reason=reason)
    made = replace(reference, disks=whole, created_at=reference.created_at or iso(vm.host.clock.now()))
    reason, _deltas = why_over(vm.host, vm, made)
    if reason:
        raise ReferenceNotKept(vm=vm.name, snapshot=reference.snapshot, reason=reason)
    vm.host.session.write_text(path_in(vm.directory), made.render())
    log.note(REFERENCE_KEPT, id=made.snapshot, point=made.point, store=made.store)
    return made
