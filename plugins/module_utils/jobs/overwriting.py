# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A VM is written over: marked torn before the first byte, made equal to a restore point disk by disk, whole again.

Each act can be repeated: whoever comes after a death does all of it again, and finds that most is done.
"""

from __future__ import annotations

import posixpath
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import present, storeplace, torn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import TEAR, Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import NotAtRest, RemoteStepFailed, VmGone
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.places import Place
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.present import Present
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.torn import Torn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.vmxedit import RESTORED_DISKS
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import DiskTask
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import NO_PARENT
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_vmx

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.renewing import DiskRenewed

_UNUSED = (NO_PARENT, "fffffffe")


@dataclass(frozen=True)
class Overwriting:
    """A job whose lock is held, in `log`'s folder."""

    host: Host
    job: Job
    log: IntentLog

    def at_rest(self) -> Present:
        """The VM as it is now; raises what has come to speak against writing to it."""
        job, vms = self.job, self.host.vms()
        vm = next((one for one in vms if one.vmx_path == job.vmx_path), None)
        if vm is None or not vm.readable:
            raise VmGone(vm=job.vm, identity=job.vmx_path, host=job.host)
        now = present.read(self.host, vm, vms)
        reasons = [(one["message"], one["hint"]) for one in present.obstacles(now, job.disk_keys, job.host)]
        if now.boot_id != job.boot_id:
            reasons.append(("somebody has started it since", "restore it in place again, with a plan of its own"))
        if self._took_over(now):
            reasons.append(("it is a replica that has taken over since", "bring its changes back, or restore it again"))
        for disk in job.disks:
            there = now.disks.get(str(disk["key"]))
            seen = None if there is None else (there.path, there.flat, there.capacity_bytes)
            if seen != (disk["dest"], disk["flat"], disk["capacity_bytes"]):
                reasons.append((f"disk {disk['key']} is not what it was", "restore it in place again"))
        if reasons:
            raise NotAtRest(
                vm=job.vm,
                host=job.host,
                reason="; ".join(reason for reason, _way in reasons),
                way_out=". ".join(dict.fromkeys(way[0].upper() + way[1:] for _reason, way in reasons)),
            )
        return now

    def _took_over(self, now: Present) -> bool:
        """Whether it is neither what the plan has seen, nor what this job makes of it at its end."""
        planned = self.job.extra.get("replica_state")
        made = parse_vmx(str(self.job.extra["vmx_text"]), self.job.vmx_path)
        return planned is not None and now.vmx.replica_state not in (planned, made.replica_state)

    def tear(self) -> Present:
        """Looks once more, then marks the VM, durably, in the journal and beside it: from here on it is written to."""
        now = self.at_rest()
        if not Events(tuple(self.log.read())).torn or now.torn is None:
            self.log.note(TEAR, directory=self.job.directory)
            torn.write(self.host.session, self.mark())
        return now

    def mark(self) -> Torn:
        return Torn(
            directory=self.job.directory,
            job=self.job.job,
            vm=self.job.vm,
            restore_point=str(self.job.extra["restore_point"]["path"]),
            began_at=iso(self.host.clock.now()),
            backup_server=self.job.backup_server,
            safety_point=self.safety_point(),
        )

    def safety_point(self) -> str:
        """Where what the VM held is kept; empty where it was not asked for."""
        made = Events(tuple(self.log.read())).last(storeplace.DONE)
        if made is not None:
            return storeplace.path_of(str(made["store"]), str(made["point"]))
        return str(self.job.extra.get("safety_before") or "")

    def renew(self, disk: Mapping[str, Any], stores: Stores, verify: str, reach: Reach) -> DiskRenewed:
        """One disk. What of it is right already is only read, and if all of it is, nothing is marked."""
        from ansible_collections.stowage.esxi.plugins.module_utils.programs.renewing import renew

        if self.job.extra.get("safety_point") and not self.safety_point():
            raise NotAtRest(
                vm=self.job.vm,
                host=self.job.host,
                reason="the safety point that was asked for has not been made",
                way_out="Look at the task before this one, or restore with restore_safety_point set to false",
            )
        location, point, key = storeplace.parse_path(str(disk["src"]))
        store = stores.open(location)
        found = storeplace.find(store, point).disk(key)
        if found is None:
            raise NotAtRest(
                vm=self.job.vm, host=self.job.host, reason=f"{disk['src']} is not there", way_out="Choose another point"
            )
        there = self.at_rest().disks[str(disk["key"])]
        task = DiskTask(
            key=str(disk["key"]),
            source=str(disk["src"]),
            target=str(disk["dest"]),
            format=str(disk["format"]),
            capacity_bytes=int(disk["capacity_bytes"]),
            bytes_to_read=there.allocated_bytes,
            flat=str(disk["flat"]),
        )
        return renew(store, found, task, verify, reach, self._tear)

    def _tear(self) -> None:
        self.tear()

    def commit(self, place: Place) -> None:
        """All disks are written: proves them, gives the VM its configuration, and takes the mark away."""
        host, session, job = self.host, self.host.session, self.job
        now = self.tear()
        for disk in job.disks:
            points.prove_disks(host, job.vm, posixpath.dirname(str(disk["dest"])), [disk], str(disk["format"]))
            self.log.beat()
        for file in job.extra["files"]:
            place.bring(host, job.vm, str(file["src"]), str(file["dest"]))
        seals = {str(disk["key"]): self._new_content(disk) for disk in job.disks}
        vmx = parse_vmx(str(job.extra["vmx_text"]), job.vmx_path)
        session.write_text(job.vmx_path, vmx.changed({RESTORED_DISKS: present.sealed(seals)}).render())
        mode = session.run(["chmod", "0755", job.vmx_path])
        if mode.rc != 0:
            raise RemoteStepFailed(what=f"Setting the mode of {job.vmx_path}", rc=mode.rc, stderr=mode.output)
        host.vim("vmsvc/reload", str(now.vmid))
        session.check(["sync"], timeout_seconds=300)
        # In this order: whoever dies between the two leaves a mark that is known to be over, and not a VM that is whole
        # and taken for torn.
        self.log.note("commit-done", final=job.directory)
        torn.remove(session, job.directory, job.job)

    def _new_content(self, disk: Mapping[str, Any]) -> str:
        """Other content has another content id, and no table of changes that does not know of it."""
        session, path = self.host.session, str(disk["dest"])
        text, tracked = with_content(self.host.read_text(path), _content_id())
        session.write_text(path, text)
        if tracked:
            session.check(["rm", "-f", posixpath.join(posixpath.dirname(path), posixpath.basename(tracked))])
        session.check(["chmod", "0600", path])
        return present.seal(self.host, path)


def _content_id() -> str:
    while True:
        found = secrets.token_hex(4)
        if found not in _UNUSED:
            return found


def with_content(text: str, content_id: str) -> tuple[str, str]:
    """The descriptor with another content id, and without its file of tracked changes, whose name is returned."""
    text = re.sub(r"(?mi)^(CID\s*=\s*)[0-9a-f]+", rf"\g<1>{content_id}", text)
    text = re.sub(r'(?mi)^(ddb\.longContentID\s*=\s*"[0-9a-f]{24})[0-9a-f]{8}"', rf'\g<1>{content_id}"', text)
    tracked = re.search(r'(?mi)^changeTrackPath\s*=\s*"(.*)"\s*$', text)
    if tracked is None:
        return text, ""
    text = re.sub(r'(?mi)^(?:#\s*Change Tracking File\s*\n)?changeTrackPath\s*=\s*".*"[^\S\n]*\n?', "", text)
    return re.sub(r"(?mi)^(version\s*=\s*)3\s*$", r"\g<1>1", text), tracked.group(1)


def safety_job(job: Job) -> Job:
    """The same job as a backup of what is about to be overwritten: cold, into the store that the restore comes from."""
    disks = tuple({**disk, "action": "copy"} for disk in job.disks)
    extra = {"why": "what it held before a restore in place", "safety": True, "warnings": []}
    return replace(job, kind="backup", identity=str(job.extra["identity"]), how="cold", disks=disks, extra=extra)


def finish(host: Host, job: Job, log: IntentLog, place: Place, stores: Stores) -> str:
    """After a death: all of it again, from the journal alone. Returns what was done, in words."""
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach

    work = Overwriting(host, job, log)
    reach = Reach(host=host, note=log.note, progress=lambda progress: None, alive=log.beat, label=job.job)
    written = 0
    for disk in job.disks:
        written += work.renew(disk, stores, "sample", reach).written_bytes
    work.commit(place)
    return (
        f"finished the restore in place from {job.extra['restore_point']['path']}: {written} bytes were still to write"
    )
