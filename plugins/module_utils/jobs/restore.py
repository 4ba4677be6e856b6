# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore would do: which restore point, to where, under which name, and what stands against it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import places, replica, storeroom, survey
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    AmbiguousRestorePoint,
    BadManifest,
    BadRestoreRequest,
    NoRestorePoint,
    RestoreRefused,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint, several_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import (
    is_point_name,
    parse_point_time,
    slug,
    valid_run_id,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.places import Place
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import Volume, room_for, volume_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import STORING
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.vmxedit import (
    RESTORED_FROM,
    NewPlace,
    disk_names,
    images,
    rewrite,
    stem_of,
    wanted_networks,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import Vmx, parse_vmx

SCHEMA = 1


@dataclass(frozen=True)
class Wish:
    """What the operator asks for."""

    directory: str
    name: str
    networks: Mapping[str, str] = field(default_factory=dict)
    uuid: str = "keep"
    mac: str = "keep"
    disk_format: str = "thin"
    connect_networks: bool = True
    reserve_percent: int = 5
    replica_of: str = ""
    replica_touched: str = "refuse"


@dataclass(frozen=True)
class Registered:
    """A VM that the target host has already."""

    vmid: int
    name: str
    directory: str
    identity: str
    power_state: str
    restored_from: str = ""


@dataclass(frozen=True)
class Target:
    """What the plan needs to know of the target host."""

    host: str
    directory_exists: bool
    registered: tuple[Registered, ...]
    hardware_version_max: int | None
    networks: tuple[str, ...]
    volume: Volume | None
    absent_images: frozenset[str] = frozenset()
    open_job: str = ""
    #: Why its disks cannot be written from the backup server, where they have to be.
    no_way: str = ""


@dataclass(frozen=True)
class RestorePlan:
    """The answer of check mode, and what the restore then does."""

    host: str
    vm: str
    directory: str
    datastore: str
    vmx_path: str
    vmx_text: str
    point: RestorePoint
    uuid: str
    mac: str
    networks: tuple[Mapping[str, Any], ...]
    disks: tuple[Mapping[str, Any], ...]
    files: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]
    room_needed: int
    already: bool = False
    vmid: int | None = None
    problems: tuple[Mapping[str, str], ...] = ()
    program: str = places.DEFAULT
    in_place: Mapping[str, Any] | None = None
    replica_of: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "restore",
            "host": self.host,
            "vm": self.vm,
            # The target names the job: one run may bring the same VM back twice, to two places.
            "identity": f"restore:{self.vmx_path}",
            "directory": self.directory,
            "datastore": self.datastore,
            "vmx_path": self.vmx_path,
            "vmx_text": self.vmx_text,
            "restore_point": self.point.summary(),
            "effective_how": "restore",
            "uuid": self.uuid,
            "mac": self.mac,
            "networks": [dict(network) for network in self.networks],
            "disks": [dict(disk) for disk in self.disks],
            "files": [dict(file) for file in self.files],
            "notes": list(self.notes),
            "needs_key_provider": self.point.needs_key_provider,
            "room_needed": self.room_needed,
            "already": self.already,
            "vmid": self.vmid,
            "program": self.program,
            "in_place": None if self.in_place is None else dict(self.in_place),
            "replica_of": self.replica_of,
            "problems": [dict(problem) for problem in self.problems],
            "ready": not self.problems,
        }


def choose(
    found: Sequence[RestorePoint], place: str, vm: str | None, at: datetime | None, made_by: str | None = None
) -> RestorePoint:
    """The newest restore point of that VM, at or before that time, of those that one hypervisor has made where it is
    named. A name that two VMs share is ambiguous."""
    if made_by:
        theirs = [point for point in found if point.host == made_by]
        if found and not theirs:
            hosts = ", ".join(sorted({point.host for point in found}))
            raise NoRestorePoint(
                wanted=f"made by {made_by!r}",
                point=place,
                found=f"Those there were made by {hosts}. Correct restore_made_by.",
            )
        found = theirs
    mine = [point for point in found if vm is None or vm in (point.vm, point.identity) or vm.lower() == point.uuid]
    if not mine:
        names = ", ".join(sorted({point.vm for point in found})) or "nothing"
        raise NoRestorePoint(
            wanted=f"of VM {vm!r}" if vm else "of any VM",
            point=place,
            found=f"Found there: {names}. Correct restore_vm or restore_point.",
        )
    identities = {point.identity: point.vm for point in mine}
    if len(identities) > 1:
        listed = "; ".join(f"{name!r} ({identity})" for identity, name in sorted(identities.items()))
        raise AmbiguousRestorePoint(wanted=vm or "(no VM named)", count=len(identities), point=place, candidates=listed)
    # What a VM held before it was written over is brought back only by its own name.
    mine = [point for point in mine if not point.safety] or mine
    early = [point for point in mine if at is None or point.moment <= at]
    if not early:
        times = ", ".join(sorted(point.time for point in mine))
        wanted = f"of VM {mine[0].vm!r} at or before {iso(at) if at else ''}"
        raise NoRestorePoint(wanted=wanted, point=place, found=f"There are: {times}. Give a later restore_at.")
    _one_vm(early, place, vm)
    return max(early, key=lambda point: point.time)


def _one_vm(points: Sequence[RestorePoint], place: str, vm: str | None) -> None:
    lasts = several_of(points)
    if lasts:
        listed = "; ".join(f"that of {host}, the newest {point.path}" for host, point in sorted(lasts.items()))
        raise AmbiguousRestorePoint(
            wanted=vm or "(no VM named)", count=len(lasts), point=place, candidates=f"one UUID, {listed}"
        )


def passed_over(
    found: Sequence[RestorePoint], chosen: RestorePoint, at: datetime | None, made_by: str | None = None
) -> tuple[str, ...]:
    """What else there is of the same identity, for whoever expects that: of other hosts, and under a newer name."""
    mine = sorted((point for point in found if point.identity == chosen.identity), key=lambda point: point.time)
    notes = []
    others = {point.host: point.path for point in mine if point.host != chosen.host}
    if others and not made_by:
        listed = "; ".join(f"{host}, the newest {path}" for host, path in sorted(others.items()))
        notes.append(
            f"this restore point was made by {chosen.host}; of the same identity there are others, made by {listed}"
        )
    last = next((one for one in reversed(mine) if one.host == chosen.host and not one.safety), chosen)
    if at is None and last.vm != chosen.vm and last.time > chosen.time:
        notes.append(
            f"VM {chosen.vm!r} has been renamed {last.vm!r} since: under that name there is a newer one, {last.path}"
        )
    return tuple(notes)


def parse_at(text: str) -> datetime:
    """ISO 8601, or the name of a restore point's folder. Without a zone it is UTC, like all our times."""
    if is_point_name(text):
        return parse_point_time(text)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise BadRestoreRequest(
            what=f"the time {text!r} is not ISO 8601",
            way_out="Give restore_at a time such as 2026-11-22T20:00:00Z, or the name of a restore point's folder.",
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def mark_of(point: RestorePoint) -> str:
    """Written into the restored vmx, so that a second run recognises its own work."""
    return f"{point.identity}@{point.time}"


def plan_restore(point: RestorePoint, vmx: Vmx, wish: Wish, target: Target) -> RestorePlan:
    """Pure: the same point, configuration, wish and target always give the same plan."""
    stem = stem_of(wish.directory)
    names = disk_names(stem, [disk.key for disk in point.disks])
    vmx_path = posixpath.join(wish.directory, f"{stem}.vmx")
    files = _files(point, wish.directory, stem)
    copied = {posixpath.splitext(file["dest"])[1]: posixpath.basename(file["dest"]) for file in files}
    place = NewPlace(
        name=wish.name,
        disks=names,
        restored_from=mark_of(point),
        uuid=wish.uuid,
        mac=wish.mac,
        networks=wish.networks,
        connect_networks=wish.connect_networks,
        absent_images=target.absent_images,
        nvram=copied.get(".nvram"),
        vmxf=copied.get(".vmxf"),
    )
    written = rewrite(vmx, place)
    config = written.vmx
    if wish.replica_of:
        config = replica.marked(config, point.identity, point.vm, wish.replica_of, vmx_path)
    disks = tuple(
        {
            "key": disk.key,
            "label": disk.label,
            "src": posixpath.join(point.path, disk.file),
            "dest": posixpath.join(wish.directory, names[disk.key]),
            "capacity_bytes": disk.capacity_bytes,
            "bytes_to_read": disk.allocated_bytes,
            "format": wish.disk_format,
            "action": "copy",
        }
        for disk in point.disks
    )
    room = sum(_room(disk, wish.disk_format) for disk in disks)
    same = [
        vm
        for vm in target.registered
        if vm.name == wish.name and vm.directory == wish.directory and vm.restored_from == mark_of(point)
    ]
    # One whose job has not ended may still be taken back.
    already = len(same) == 1 and not target.open_job
    problems = () if already else tuple(_problems(point, vmx, wish, target, room))
    return RestorePlan(
        host=target.host,
        vm=wish.name,
        directory=wish.directory,
        datastore=target.volume.name if target.volume else "",
        vmx_path=vmx_path,
        vmx_text=config.render(),
        replica_of=wish.replica_of,
        point=point,
        uuid=wish.uuid,
        mac=wish.mac,
        networks=networks_of(vmx, wish),
        disks=disks,
        files=files,
        notes=(*written.notes, *key_note(point)),
        room_needed=room,
        already=already,
        vmid=same[0].vmid if already else None,
        problems=problems,
    )


def networks_of(vmx: Vmx, wish: Wish) -> tuple[Mapping[str, Any], ...]:
    wanted = wanted_networks(vmx, wish.networks)
    return tuple(
        {
            "nic": f"ethernet{nic.index}",
            "was": nic.network or "",
            "network": wanted[nic.index],
            "connected": wish.connect_networks and nic.connected,
            "mac": nic.mac or "",
        }
        for nic in vmx.nics()
    )


def key_note(point: RestorePoint) -> tuple[str, ...]:
    if not point.needs_key_provider:
        return ()
    return (f"{point.needs_key_provider}: it starts only on a host that has its key provider",)


def _files(point: RestorePoint, directory: str, stem: str) -> tuple[Mapping[str, str], ...]:
    """Not the vmsd: it names snapshots that the restored disks do not have, and stays in the restore point to be read.

    Beside the VM it would be a file that the host does not know, and leaves behind when the VM is destroyed.
    """
    found = []
    for role, ending in (("nvram", ".nvram"), ("vmxf", ".vmxf")):
        source = point.file_of(role)
        if source is not None:
            found.append({"src": source, "dest": posixpath.join(directory, stem + ending)})
    return tuple(found)


def _room(disk: Mapping[str, Any], disk_format: str) -> int:
    return room_for(int(disk["bytes_to_read"]), int(disk["capacity_bytes"]), disk_format)


def _problems(point: RestorePoint, vmx: Vmx, wish: Wish, target: Target, room: int) -> list[dict[str, str]]:
    found = []
    for vm in target.registered:
        if vm.name == wish.name or vm.directory == wish.directory:
            reason = f"VM {vm.name!r} (vmid {vm.vmid}) is registered on {target.host} and is {vm.power_state}"
            found.append(
                _problem(
                    "vm-exists", reason, "give another restore_name and restore_directory, or remove that VM first"
                )
            )
        elif vm.identity == point.identity and wish.uuid == "keep" and vm.power_state == "poweredOn":
            reason = f"VM {vm.name!r} with the same identity is running on {target.host}"
            found.append(
                _problem(
                    "identity-in-use", reason, "set restore_uuid to new (and restore_mac to new), or power that VM off"
                )
            )
    if target.open_job:
        reason = f"a job that has not ended holds {wish.directory} ({target.open_job})"
        found.append(_problem("job-open", reason, "wait for it to end; if it is dead, run recover, then restore again"))
    if target.directory_exists:
        reason = f"the folder {wish.directory} exists"
        found.append(
            _problem("folder-exists", reason, "choose another restore_directory or restore_name, or remove the folder")
        )
    found += machine_problems(vmx, wish, target)
    if target.volume is None:
        reason = f"{wish.directory} is not on a mounted datastore of {target.host}"
        found.append(
            _problem(
                "target-missing", reason, "name a datastore that the host has in restore_datastore or restore_directory"
            )
        )
    else:
        free, reserve = target.volume.free_bytes, target.volume.capacity_bytes * wish.reserve_percent // 100
        if room > free - reserve:
            needed = f"{format_bytes(room)} are needed on {target.volume.name}"
            reason = f"{needed}; {format_bytes(free)} are free, {format_bytes(reserve)} reserve"
            advice = "free some room, or choose another restore_datastore, or restore_disk_format thin"
            found.append(_problem("no-room", reason, advice))
    return found


def machine_problems(vmx: Vmx, wish: Wish, target: Target) -> list[dict[str, str]]:
    """What of the VM itself this host cannot have."""
    found: list[dict[str, str]] = []
    if target.no_way:
        reason = f"the disks of {target.host} cannot be written from the backup server: {target.no_way}"
        advice = "restore to a host that has a Python 3, as ESXi has from 6.5 on (restore_host)"
        found.append(_problem("no-way-to-write", reason, advice))
    version, limit = vmx.hardware_version, target.hardware_version_max
    if version is not None and limit is not None and version > limit:
        reason = f"its virtual hardware {version} is newer than {target.host} can run ({limit})"
        found.append(_problem("hardware-too-new", reason, "restore to a host of a newer release (restore_host)"))
    if wish.connect_networks:
        for index, network in sorted(wanted_networks(vmx, wish.networks).items()):
            if network not in target.networks:
                reason = f"ethernet{index} needs the port group {network!r}, which {target.host} does not have"
                known = ", ".join(target.networks) or "none"
                advice = f"map it in restore_networks to one of: {known}; or set restore_connect_networks to false"
                found.append(_problem("network-missing", reason, advice))
    return found


def _problem(name: str, reason: str, advice: str) -> dict[str, str]:
    return {"id": name, "message": reason, "hint": advice}


def refuse(plan: RestorePlan) -> RestoreRefused:
    error = RestoreRefused(
        vm=plan.vm,
        reasons="; ".join(problem["message"] for problem in plan.problems),
        ways_out="Ways out: " + "; ".join(dict.fromkeys(problem["hint"] for problem in plan.problems)) + ".",
        problems=[dict(problem) for problem in plan.problems],
    )
    error.plan = plan.as_dict()
    return error


# -- reading -----------------------------------------------------------------------------------------------------


def read_vmx(host: Host, place: Place, point: RestorePoint) -> Vmx:
    path = point.file_of("vmx")
    if path is None:
        raise BadManifest(path=point.path, reason="it holds no .vmx file")
    return parse_vmx(place.read_text(host, path), path)


def check_request(params: Mapping[str, Any]) -> None:
    """What is wrong with a request can be said before any host is asked."""
    point = str(params.get("point") or "")
    if (params.get("program") or places.DEFAULT) == places.DEFAULT and ("://" in point or spot.is_remote(point)):
        raise BadRestoreRequest(
            what=f"the point is {point!r}; the program vmkfstools runs on the hypervisor and reads restore points on "
            "the datastores that it mounts",
            way_out="Name the program that has made the restore points there, as restore_program: rsync, dedup or borg "
            "for server:port:/path, borg for ssh://user@server/path, dedup for s3://bucket/prefix.",
        )
    if not params.get("datastore") and not params.get("directory"):
        raise BadRestoreRequest(
            what="neither a datastore nor a directory says where the VM shall go",
            way_out="Set restore_datastore (the VM gets a folder after its name there) or restore_directory; "
            "an item of restore_vms may have them as datastore and directory.",
        )
    if params.get("at"):
        parse_at(params["at"])
    if params.get("run_id") and not valid_run_id(params["run_id"]):
        raise BadRestoreRequest(
            what=f"the run id {params['run_id']!r} is none",
            way_out="Up to 64 letters, digits, dots, dashes and underscores make one.",
        )


def no_way(host: Host, program: str) -> str:
    problem = storeroom.way_problem(host, writes=True) if program in STORING else None
    return str(problem["data"].get("reason") or problem["message"]) if problem else ""


def target_folder(host: Host, datastore: str | None, directory: str | None, name: str) -> str:
    if directory:
        return host.resolve(directory.rstrip("/"))
    return posixpath.join(host.datastore(datastore or "").path, slug(name))


def read_target(host: Host, label: str, wish: Wish, vmx: Vmx, identity: str) -> Target:
    vms = host.vms()
    by_place = {image: image if image.startswith("/") else "" for image in images(vmx).values()}
    there = survey.existing(host.session, [wish.directory, *(path for path in by_place.values() if path)])
    # One question costs seconds on a busy host: only VMs that could stand in the way are asked.
    clashing = [vm for vm in vms if vm.name == wish.name or vm.directory == wish.directory or vm.identity == identity]
    running = {vm.vmid: vm.power_state() for vm in clashing if vm.invalid is None}
    return Target(
        host=label,
        directory_exists=wish.directory in there,
        registered=tuple(
            Registered(
                vmid=vm.vmid,
                name=vm.name,
                directory=vm.directory,
                identity=vm.identity,
                power_state=running.get(vm.vmid, "in an unknown state"),
                restored_from=vm.vmx.get(RESTORED_FROM, "") if vm.readable else "",
            )
            for vm in vms
        ),
        hardware_version_max=host.hardware_version_max,
        networks=tuple(host.networks()),
        volume=volume_of(wish.directory, survey.volumes(host)),
        absent_images=frozenset(image for image, path in by_place.items() if path not in there),
        open_job=", ".join(
            one.job_id or "not named yet" for one in lock.look(host.session, [wish.directory], touch=False)
        ),
    )


def answer(host: Host, params: Mapping[str, Any], stores: Stores | None = None) -> dict[str, Any]:
    """The whole of restore_plan: find, choose, read, decide, refuse."""
    label = params.get("inventory_host") or host.name
    place = places.of(params.get("program") or places.DEFAULT, stores or Stores())
    found, bad = place.find(host, params["point"])
    at = parse_at(params["at"]) if params.get("at") else None
    point = choose(found, params["point"], params.get("vm"), at, params.get("made_by"))
    vmx = read_vmx(host, place, point)
    name = params.get("name") or point.vm
    wish = Wish(
        directory=target_folder(host, params.get("datastore"), params.get("directory"), name),
        name=name,
        networks={str(old): str(new) for old, new in (params.get("networks") or {}).items()},
        uuid=params["uuid"],
        mac=params["mac"],
        disk_format=params["disk_format"],
        connect_networks=params["connect_networks"],
        reserve_percent=params["reserve_percent"],
        replica_of=params.get("replica_of") or "",
    )
    program = params.get("program") or places.DEFAULT
    target = read_target(host, label, wish, vmx, point.identity)
    plan = plan_restore(point, vmx, wish, replace(target, no_way=no_way(host, program)))
    plan = replace(plan, program=program, notes=(*plan.notes, *passed_over(found, point, at, params.get("made_by"))))
    if plan.problems:
        raise refuse(plan)
    return {
        "plan": plan.as_dict(),
        "points": [one.summary() for one in found],
        "unusable": [error.message for error in bad],
    }
