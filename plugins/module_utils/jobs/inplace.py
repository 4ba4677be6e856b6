# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore in place would do: which VM is written over with which restore point, and what stands against it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import places, present, replica, restore, survey
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadRestoreRequest, NoVmToRestore
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import PointDisk, RestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import Volume, volume_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.present import Present, PresentDisk, problem
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.restore import RestorePlan, Target, Wish
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.vmxedit import (
    RESTORED_DISKS,
    RESTORED_FROM,
    NewPlace,
    carried,
    images,
    own_identity,
    rewrite,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import Vmx


def check_request(params: Mapping[str, Any]) -> None:
    """What is wrong with a request can be said before any host is asked."""
    if params.get("program") != "dedup":
        raise BadRestoreRequest(
            what="only what lies in a dedup store is restored in place",
            way_out="Set restore_program to dedup and restore_point to the store, or restore_in_place to false.",
        )
    restore.check_request({**params, "directory": params.get("directory") or "the VM's own"})


def plan_in_place(
    point: RestorePoint,
    vmx: Vmx,
    wish: Wish,
    now: Present,
    target: Target,
    volumes: Sequence[Volume],
    safety_point: bool,
) -> RestorePlan:
    """Pure: the same point, configuration, wish and VM always give the same plan."""
    mine = {disk.key for disk in point.disks}
    names = {disk.key: disk.file for disk in now.vmx.disks()}
    stem = posixpath.splitext(posixpath.basename(now.vmx_path))[0]
    files = _files(point, now, stem)
    copied = {posixpath.splitext(file["dest"])[1]: posixpath.basename(file["dest"]) for file in files}
    written = rewrite(
        vmx,
        NewPlace(
            name=now.name,
            disks=names,
            restored_from=restore.mark_of(point),
            # Of its own identity: see own_identity.
            uuid="keep",
            mac=wish.mac,
            networks=wish.networks,
            connect_networks=wish.connect_networks,
            absent_images=target.absent_images,
            nvram=copied.get(".nvram") or now.vmx.get("nvram"),
            vmxf=copied.get(".vmxf") or now.vmx.get("extendedConfigFile"),
        ),
    )
    config = own_identity(carried(written.vmx, now.vmx, sorted(set(names) - mine)), now.vmx, wish.uuid, wish.mac)
    if wish.replica_of:
        config = replica.marked(config, point.identity, point.vm, wish.replica_of, now.vmx_path, now.boot_id)
    disks = tuple(_disk(disk, now.disks[disk.key], point) for disk in point.disks if disk.key in now.disks)
    plan = RestorePlan(
        host=target.host,
        vm=now.name,
        directory=now.directory,
        datastore=target.volume.name if target.volume else "",
        vmx_path=now.vmx_path,
        vmx_text=config.render(),
        point=point,
        uuid=wish.uuid,
        mac=wish.mac,
        networks=restore.networks_of(vmx, wish),
        disks=disks,
        files=files,
        notes=(*written.notes, *_notes(now, mine, names, safety_point), *restore.key_note(point)),
        room_needed=sum(_growth(disk) for disk in disks),
        already=_already(point, now, target) and (not wish.replica_of or replica.untouched(now, target.host)),
        vmid=now.vmid,
        program="dedup",
        replica_of=wish.replica_of,
        in_place={
            "safety_point": safety_point and now.torn is None,
            "identity": now.identity,
            "boot_id": now.boot_id,
            "replica_state": now.vmx.replica_state,
            "torn": now.torn is not None,
            "safety_before": now.torn.safety_point if now.torn else "",
        },
    )
    return plan if plan.already else replace(plan, problems=tuple(_problems(plan, vmx, wish, now, target, volumes)))


def _disk(disk: PointDisk, there: PresentDisk, point: RestorePoint) -> Mapping[str, Any]:
    return {
        "key": disk.key,
        "label": disk.label,
        "src": posixpath.join(point.path, disk.file),
        "dest": there.path,
        "flat": there.flat,
        "capacity_bytes": disk.capacity_bytes,
        "bytes_to_read": disk.allocated_bytes,
        "bytes_there": there.allocated_bytes,
        "format": there.format,
        "action": "copy",
    }


def _files(point: RestorePoint, now: Present, stem: str) -> tuple[Mapping[str, str], ...]:
    """Onto the VM's own files of that kind, whatever they are called."""
    found = []
    for role, key in (("nvram", "nvram"), ("vmxf", "extendedConfigFile")):
        source = point.file_of(role)
        if source is not None:
            name = posixpath.basename(now.vmx.get(key) or f"{stem}.{role}")
            found.append({"src": source, "dest": posixpath.join(now.directory, name)})
    return tuple(found)


def _growth(disk: Mapping[str, Any]) -> int:
    """The least that it will grow by: what of it lies where nothing lay is known when it has been compared."""
    return max(0, disk["bytes_to_read"] - disk["bytes_there"]) if disk["format"] == "thin" else 0


def _already(point: RestorePoint, now: Present, target: Target) -> bool:
    """Whether nobody has touched these disks since this very point was restored to them, by us, in place."""
    return (
        now.torn is None
        and not target.open_job
        and now.power_state == "poweredOff"
        and now.vmx.get(RESTORED_FROM) == restore.mark_of(point)
        and all(disk.key in now.disks for disk in point.disks)
        and now.vmx.get(RESTORED_DISKS) == present.sealed({disk.key: now.disks[disk.key].seal for disk in point.disks})
    )


def _notes(now: Present, mine: set[str], names: Mapping[str, str], safety_point: bool) -> list[str]:
    found = [f"disk {key} is not in the restore point: it stays as it is" for key in sorted(set(names) - mine)]
    found += [
        f"disk {key}: its change tracking ({now.disks[key].tracked}) is taken away, as it knows nothing of this restore"
        for key in sorted(mine & set(now.disks))
        if now.disks[key].tracked
    ]
    if now.torn is not None:
        before = f"; what it held before that is {now.torn.safety_point}" if now.torn.safety_point else ""
        of = now.torn.restore_point or "an unknown point"
        found.append(f"it is torn by a restore of {of}, which this one takes the place of: no safety point{before}")
    elif not safety_point:
        found.append("no safety point is made: what its disks hold now cannot be brought back")
    return found


def _problems(
    plan: RestorePlan, vmx: Vmx, wish: Wish, now: Present, target: Target, volumes: Sequence[Volume]
) -> list[Mapping[str, str]]:
    point = plan.point
    found = list(present.obstacles(now, {disk.key for disk in point.disks}, target.host))
    if target.open_job:
        reason = f"a job that has not ended holds {now.directory} ({target.open_job})"
        found.append(problem("job-open", reason, "wait for it to end; if it is dead, run recover, then restore again"))
    if wish.replica_of and wish.replica_touched == "refuse" and not found:
        found.extend(replica.obstacles(now, target.host))
    for disk in point.disks:
        there = now.disks.get(disk.key)
        if there is None:
            reason = f"VM {now.name!r} has no disk {disk.key}, which the restore point has"
            found.append(problem("disk-missing", reason, "give it one of that size, or restore beside the VM"))
        elif there.capacity_bytes not in (0, disk.capacity_bytes):
            sizes = f"{there.capacity_bytes} bytes, and {disk.capacity_bytes} in the restore point"
            reason = f"disk {disk.key} of VM {now.name!r} has {sizes}"
            found.append(problem("disk-resized", reason, "restore beside the VM"))
    found.extend(restore.machine_problems(vmx, wish, target))
    grown: dict[str, int] = {}
    by_path = {volume.path: volume for volume in volumes}
    for one in plan.disks:
        volume = volume_of(one["dest"], volumes)
        if volume is not None:
            grown[volume.path] = grown.get(volume.path, 0) + _growth(one)
    for path, needed in grown.items():
        volume = by_path[path]
        reserve = volume.capacity_bytes * wish.reserve_percent // 100
        if needed and needed > volume.free_bytes - reserve:
            sizes = f"{format_bytes(volume.free_bytes)} are free, {format_bytes(reserve)} reserve"
            reason = f"its disks grow by at least {format_bytes(needed)} on {volume.name}; {sizes}"
            found.append(problem("no-room", reason, "free some room on that datastore"))
    return found


# -- reading -----------------------------------------------------------------------------------------------------


def meant(host: Host, params: Mapping[str, Any], point: RestorePoint, label: str) -> VirtualMachine:
    """The VM to write over: by its folder, else by its name, else by the identity of the restore point."""
    vms = host.vms()
    if params.get("directory"):
        folder = host.resolve(str(params["directory"]).rstrip("/"))
        found, wanted = [vm for vm in vms if vm.directory == folder], f"in {folder}"
    elif params.get("name"):
        found, wanted = [vm for vm in vms if vm.name == params["name"]], f"named {params['name']!r}"
    else:
        found, wanted = [vm for vm in vms if vm.identity == point.identity], f"with the identity {point.identity}"
    if len(found) != 1 or found[0].invalid is not None or not found[0].readable:
        listed = ", ".join(f"{vm.name!r} (vmid {vm.vmid}, {vm.directory})" for vm in found) or "none"
        raise NoVmToRestore(vm=point.vm, host=label, wanted=wanted, found=listed)
    return found[0]


def answer(host: Host, params: Mapping[str, Any], stores: Stores) -> dict[str, Any]:
    """The whole of restore_plan for a restore in place: find, choose, look, decide, refuse."""
    label = params.get("inventory_host") or host.name
    place = places.of("dedup", stores)
    found, bad = place.find(host, params["point"])
    at = restore.parse_at(params["at"]) if params.get("at") else None
    point = restore.choose(found, params["point"], params.get("vm"), at, params.get("made_by"))
    vmx = restore.read_vmx(host, place, point)
    vm = meant(host, params, point, label)
    now = present.read(host, vm, host.vms())
    wish = Wish(
        directory=now.directory,
        name=now.name,
        networks={str(old): str(new) for old, new in (params.get("networks") or {}).items()},
        uuid=params["uuid"],
        mac=params["mac"],
        connect_networks=params["connect_networks"],
        reserve_percent=params["reserve_percent"],
        replica_of=params.get("replica_of") or "",
        replica_touched=params["replica_touched"],
    )
    volumes = survey.volumes(host)
    plan = plan_in_place(
        point, vmx, wish, now, _target(host, label, now, vmx, volumes), volumes, params["safety_point"]
    )
    plan = replace(plan, notes=(*plan.notes, *restore.passed_over(found, point, at, params.get("made_by"))))
    if plan.problems:
        raise restore.refuse(plan)
    return {
        "plan": plan.as_dict(),
        "points": [one.summary() for one in found],
        "unusable": [error.message for error in bad],
        "diff": difference(plan, now),
    }


def _target(host: Host, label: str, now: Present, vmx: Vmx, volumes: Sequence[Volume]) -> Target:
    by_place = {image: image if image.startswith("/") else "" for image in images(vmx).values()}
    there = survey.existing(host.session, [path for path in by_place.values() if path])
    # One that a restore in place has left open is what the next restore in place puts right.
    others = [
        one.job_id or "not named yet"
        for one in lock.look(host.session, [now.directory], touch=False)
        if not (one.let_go and one.job is not None and one.job.kind == INPLACE)
    ]
    return Target(
        host=label,
        directory_exists=True,
        registered=(),
        hardware_version_max=host.hardware_version_max,
        networks=tuple(host.networks()),
        volume=volume_of(now.directory, volumes),
        absent_images=frozenset(image for image, path in by_place.items() if path not in there),
        open_job=", ".join(others),
        no_way=restore.no_way(host, "dedup"),
    )


def difference(plan: RestorePlan, now: Present) -> dict[str, str]:
    """For ``--diff``: the configuration, and which disks are compared. What differs of them is not known yet."""
    if plan.already:
        return {"before": "", "after": ""}
    before = "".join(f"{disk['key']}: {disk['dest']} as it is\n" for disk in plan.disks)
    after = "".join(
        f"{disk['key']}: {disk['dest']} as {disk['src']}; hashed on the host when it is done, and only what differs "
        "is written\n"
        for disk in plan.disks
    )
    header = f"{plan.vmx_path} and disks of {plan.vm}"
    return {
        "before_header": header,
        "after_header": header,
        "before": before + now.vmx.render(),
        "after": after + plan.vmx_text,
    }
