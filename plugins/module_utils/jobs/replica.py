# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica: a VM that is kept ready on a second host, known by what stands in its own .vmx.

What a sync leaves is sealed there: folder, start, configuration, and content id and time of each disk. Whatever of
that is different later was done by somebody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import present, torn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    BadRestoreRequest,
    NoReplica,
    ReplicaTouched,
    VmLocked,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.lease import LEASE_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.present import Present
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.vmxedit import (
    RESTORED_DISKS,
    RESTORED_FROM,
    plain_annotation,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import (
    REPLICA_ACTIVE,
    REPLICA_OF,
    REPLICA_PREFIX,
    REPLICA_READY,
    REPLICA_STATE,
    Vmx,
)

READY, ACTIVE = REPLICA_READY, REPLICA_ACTIVE

_OF = REPLICA_OF
_NAME = f"{REPLICA_PREFIX}Name"
_HOST = f"{REPLICA_PREFIX}Host"
_STATE = REPLICA_STATE
_PATH = f"{REPLICA_PREFIX}Path"
_BOOT = f"{REPLICA_PREFIX}Boot"
_SUM = f"{REPLICA_PREFIX}Sum"
# What a host leaves as it is when it registers a VM.
_LASTING = ("memSize", "numvcpus", "guestOS", "firmware", "virtualHW.version", "displayName", "annotation")


@dataclass(frozen=True)
class Replica:
    """`touched` says in words what is not as the last sync has left it; empty where nobody was there."""

    vmid: int
    name: str
    identity: str
    directory: str
    vmx_path: str
    state: str
    source: str
    point: str
    power_state: str
    touched: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "touched": list(self.touched)}


def marked(
    vmx: Vmx,
    identity: str,
    name: str,
    source: str,
    vmx_path: str,
    boot_id: str = "",
    state: str = READY,
    when: str = "",
) -> Vmx:
    """The configuration of a replica of VM `name` of the host `source`. People read the annotation, we the rest."""
    told = f"REPLICA of {name} of {source}, as of {when or vmx.get(RESTORED_FROM, '').rpartition('@')[2]}. "
    what = (
        "It has taken over." if state == ACTIVE else "Kept ready by stowage.esxi.replicate: do not start or change it."
    )
    text = plain_annotation(vmx.get("annotation", ""))
    made = Vmx(
        dict(
            vmx.changed(
                {
                    "annotation": f"{told}{what}" + (f"\n{text}" if text else ""),
                    _OF: identity,
                    _NAME: name,
                    _HOST: source,
                    _STATE: state,
                    _PATH: vmx_path,
                    _BOOT: _start(boot_id),
                }
            )
        )
    )
    return Vmx(dict(made.changed({_SUM: configuration(made)})))


def configuration(vmx: Vmx) -> str:
    lasting = [f"{key}={vmx.get(key, '')}" for key in _LASTING]
    lasting += [f"{disk.key}={disk.file}" for disk in vmx.disks()]
    lasting += [f"ethernet{nic.index}={nic.network}" for nic in vmx.nics()]
    return hashlib.sha256("\n".join(lasting).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def is_replica(vm: VirtualMachine) -> bool:
    return vm.readable and bool(vm.vmx.get(_OF))


def stands_by(vm: VirtualMachine) -> bool:
    """Whether it has not taken over, and was not started since a run has left it: then it holds nothing of its own."""
    return vm.readable and vm.vmx.replica_state == READY and vm.vmx.get(_BOOT, "") == _start(vm.boot_id() or "")


def _start(boot_id: str) -> str:
    return hashlib.sha256(boot_id.encode()).hexdigest()[:16] if boot_id else ""


def judge(now: Present, host: str) -> Replica:
    """Pure: what of the VM is not as the last sync has left it."""
    vmx, touched = now.vmx, []
    state = vmx.get(_STATE) or READY
    if now.power_state != "poweredOff":
        touched.append(f"it is {now.power_state}")
    if vmx.get(_BOOT, "") != _start(now.boot_id):
        touched.append("it was started")
    if now.snapshots:
        touched.append(f"it has snapshots: {', '.join(now.snapshots)}")
    if vmx.get(_PATH) != now.vmx_path:
        touched.append(f"it was registered anew: it was {vmx.get(_PATH)}, and is {now.vmx_path}")
    if vmx.get(_SUM) != configuration(vmx):
        touched.append("its configuration was changed")
    sealed = dict(one.partition("=")[::2] for one in vmx.get(RESTORED_DISKS, "").split(",") if one)
    for key in sorted(sealed):
        disk = now.disks.get(key)
        if disk is None or (disk.seal != sealed[key] and not now.snapshots):
            touched.append(f"its disk {key} was written to" if disk is not None else f"its disk {key} is gone")
    return Replica(
        vmid=now.vmid,
        name=now.name,
        identity=now.identity,
        directory=now.directory,
        vmx_path=now.vmx_path,
        state=state,
        source=vmx.get(_HOST, ""),
        point=vmx.get(RESTORED_FROM, ""),
        power_state=now.power_state,
        touched=tuple(touched),
    )


def untouched(now: Present, host: str) -> bool:
    """Whether it stands by as a sync has left it."""
    found = judge(now, host)
    return bool(now.vmx.get(_OF)) and found.state == READY and not found.touched


def find(host: Host, wanted: str) -> Present | None:
    """The replica of the VM with that name, identity or UUID; None where there is none."""
    vms = host.vms()
    low = wanted.lower()
    found = [vm for vm in vms if is_replica(vm) and (vm.vmx[_NAME] == wanted or vm.vmx[_OF].lower() == low)]
    if len(found) > 1:
        listed = ", ".join(f"{vm.name!r} (vmid {vm.vmid}, of {vm.vmx[_HOST]})" for vm in found)
        raise BadRestoreRequest(
            what=f"{host.name} has {len(found)} replicas of {wanted!r}: {listed}",
            way_out="Name the machine by its UUID, or remove the replica that is too many.",
        )
    return present.read(host, found[0], vms) if found else None


# -- the module --------------------------------------------------------------------------------------------------


def answer(host: Host, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """The whole of vm_replica."""
    label = params.get("inventory_host") or host.name
    now = find(host, params["vm"])
    if now is None:
        if params["state"] == "checked":
            return {"changed": False, "replica": None}
        raise NoReplica(vm=params["vm"], host=label)
    found = judge(now, label)
    if params["state"] == "checked":
        if params["touched"] == "refuse":
            refuse_touched(found, params["vm"], label)
        return {"changed": False, "replica": found.as_dict()}
    if now.torn is not None:
        torn.must_be_whole(next(vm for vm in host.vms() if vm.vmid == now.vmid))
    changed = found.state != params["state"]
    if changed:
        _must_be_free(host, now)
        if now.power_state != "poweredOff":
            raise ReplicaTouched(
                vm=params["vm"],
                host=label,
                reason=f"it is {now.power_state}, and a host re-reads the configuration only of a VM that is off",
                way_out="Power it off first",
            )
        if not check:
            write(host, now, found, params["state"])
    return {"changed": changed, "replica": {**found.as_dict(), "state": params["state"]}}


def refuse_touched(found: Replica, vm: str, host: str) -> None:
    speaks = _against(found)
    if speaks is not None:
        raise ReplicaTouched(vm=vm, host=host, reason=speaks[0], way_out=speaks[1])


def obstacles(now: Present, host: str) -> list[present.Problem]:
    """The same for a plan: a copy may have taken over since somebody looked."""
    speaks = _against(judge(now, host))
    if speaks is None:
        return []
    reason, way_out = speaks
    hint = way_out[0].lower() + way_out[1:]
    return [present.problem("replica-touched", f"VM {now.name!r}, a replica: {reason}", hint)]


def _against(found: Replica) -> tuple[str, str] | None:
    """Why it is not to be written over, and the way out; None where it stands by as a sync has left it."""
    if found.state == ACTIVE:
        return (
            "it has taken over, and what it has done since would be lost",
            "Bring its changes back with replicate_action=failback, or give them up: replicate_touched=resync",
        )
    if found.touched:
        return (
            "; ".join(found.touched),
            "Power it off and remove its snapshots. Then set replicate_touched=resync, which gives up whatever "
            "was done to it; or remove the copy, and the next run makes it anew",
        )
    return None


def _must_be_free(host: Host, now: Present) -> None:
    for found in lock.look(host.session, [now.directory], touch=False):
        job = found.job
        raise VmLocked(
            vm=now.name,
            job=job.job if job else "(not named yet)",
            owner=job.owner if job else "somebody else",
            age=found.sign.age,
            lease=job.lease_seconds if job else LEASE_SECONDS,
        )


def write(host: Host, now: Present, found: Replica, state: str) -> None:
    """The new state, with what is there now as what nobody has touched."""
    vmx = now.vmx
    when = str(found.point).rpartition("@")[2]
    made = marked(vmx, vmx[_OF], vmx[_NAME], vmx[_HOST], now.vmx_path, now.boot_id, state, when)
    keys = [one.partition("=")[0] for one in vmx.get(RESTORED_DISKS, "").split(",") if one]
    seals = {key: now.disks[key].seal for key in keys if key in now.disks}
    host.session.write_text(now.vmx_path, made.changed({RESTORED_DISKS: present.sealed(seals)}).render())
    host.session.check(["chmod", "0755", now.vmx_path])
    host.vim("vmsvc/reload", str(now.vmid))
