# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd vmsvc/*: what changes a VM, and the lists that go with it."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from esxilab.hostd import power, snapshots
from esxilab.hostd.clock import iso
from esxilab.hostd.errors import InvalidPowerState, InvalidState, ManagedObjectNotFound, VimFault
from esxilab.hostd.vmodl import UNSET, Arr, FaultObj, Null, Obj, Ref

from .answer import Answer
from .vimcmd import Call, Command
from .vmlist import getallvms, snapshot_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from esxilab.hostd.machine import Vm
    from esxilab.hostd.tasks import Task

POWER_WORDS = {"poweredOn": "Powered on", "poweredOff": "Powered off", "suspended": "Suspended"}


def _getallvms(call: Call) -> Answer:
    rows, skipped = [], []
    for vm in call.host.vms():
        if not vm.valid:
            skipped.append(vm.vmid)
            continue
        config = vm.config
        path = call.host.volumes.api_path(vm.vmx_path)
        rows.append((vm.vmid, config.name, path, config.guest_id, f"vmx-{config.hardware:02d}", config.annotation))
    return Answer(getallvms(rows), "".join(f"Skipping invalid VM '{vmid}'\n" for vmid in sorted(skipped)))


def _getstate(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    return Answer(f"Retrieved runtime info\n{POWER_WORDS[vm.power]}\n")


# --- power ------------------------------------------------------------------------------------------------------


def _power(label: str, failed: str, operation: str, action: Callable[[Vm], None]) -> Callable[[Call], Answer]:
    """Print the label, do it; a fault becomes `<what> failed`, on 4.x and 5.x the dump."""

    def run(call: Call) -> Answer:
        vm = call.host.vm(call.args[0])
        try:
            with vm.operation(operation):
                action(vm)
        except VimFault as fault:
            text = call.printer.text(fault.dump()) if call.host.switches["power_fault_dumps"] else f"{failed}\n"
            return Answer(f"{label}\n{text}", rc=1)
        return Answer(f"{label}\n")

    return run


def _guest_power(action: Callable[[Vm], None], operation: str) -> Callable[[Call], Answer]:
    """Asks the guest: no output, and faults as dumps."""

    def run(call: Call) -> Answer:
        vm = call.host.vm(call.args[0])
        task = call.host.tasks.begin(vm.vmid, "vim.VirtualMachine", vm.safe_name, operation)
        try:
            action(vm)
        except VimFault as fault:
            call.host.tasks.end(task, fault)
            raise
        call.host.tasks.end(task)
        return Answer()

    return run


# --- snapshots --------------------------------------------------------------------------------------------------


def _snapshot_get(call: Call) -> Answer:
    return Answer("Get Snapshot:\n" + snapshot_tree(call.host.vm(call.args[0]).snapshots()))


def _snapshot_create(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    name, description = call.arg(1), call.arg(2)
    memory, quiesce = call.flag(3), call.flag(4)
    if vm.has_fault("lying_create"):
        call.host.tasks.end(call.host.tasks.begin(vm.vmid, "vim.VirtualMachine", vm.safe_name, "createSnapshot"))
        return Answer("Create Snapshot:\n")
    if call.host.snapshot_async:
        task = vm.begin("createSnapshot")
        work = threading.Thread(
            target=_create_behind, args=(vm, task, name, description, memory, quiesce), name=task.key, daemon=True
        )
        work.start()
        return Answer("Create Snapshot:\n")
    try:
        with vm.operation("createSnapshot"):
            snapshots.create(vm, name, description, memory, quiesce)
    except VimFault:
        return Answer("Create Snapshot:\nCreate snapshot failed\n", rc=1)
    return Answer("Create Snapshot:\n")


def _create_behind(vm: Vm, task: Task, name: str, description: str, memory: bool, quiesce: bool) -> None:
    error: VimFault | None = None
    try:
        vm.host.hold_if_stuck(vm, "createSnapshot")
        snapshots.create(vm, name, description, memory, quiesce)
    except VimFault as fault:
        error = fault
    except OSError as problem:
        error = VimFault(f"A general system error occurred: {problem}")
    finally:
        vm.end(task, error)


def _remove(vm: Vm, operation: str, uids: list[int]) -> VimFault | None:
    if vm.has_fault("lying_remove"):
        vm.host.tasks.end(vm.host.tasks.begin(vm.vmid, "vim.VirtualMachine", vm.safe_name, operation))
        return None
    try:
        with vm.operation(operation):
            snapshots.remove(vm, uids)
    except VimFault as fault:
        return fault
    return None


def _snapshot_remove(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    snapshot = snapshots.find(vm, call.args[1])
    gone = [snapshot.uid]
    if call.flag(2):
        gone += [child.uid for child in vm.snapshots().descendants(snapshot.uid)]
    fault = _remove(vm, "removeSnapshot", gone)
    if fault is not None:
        return Answer("Remove Snapshot:\nRemove snapshot failed\n", rc=1)
    return Answer("Remove Snapshot:\n" + snapshot_tree(vm.snapshots()))


def _snapshot_removeall(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    fault = _remove(vm, "removeAllSnapshots", [snapshot.uid for snapshot in vm.snapshots().snapshots])
    if fault is not None:
        return Answer("Remove All Snapshots:\nRemove all snapshots failed\n", rc=1)
    return Answer("Remove All Snapshots:\n")


def _snapshot_revert(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    snapshot = snapshots.find(vm, call.args[1])
    suppress = call.args[2].lower() in ("1", "true", "suppresspoweron", "suppresspoweroff")
    try:
        with vm.operation("revertToSnapshot"):
            if vm.power != "poweredOff":
                power.power_off(vm)
            snapshots.revert(vm, snapshot)
            if snapshot.memory and not suppress:
                power.power_on(vm)
    except VimFault:
        return Answer("Revert Snapshot:\nRevert to snapshot failed\n", rc=1)
    return Answer("Revert Snapshot:\n" + snapshot_tree(vm.snapshots()))


# --- tasks and questions ----------------------------------------------------------------------------------------


def _get_tasklist(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    refs = [Ref(task.moref) for task in call.host.tasks.of(vm.vmid)]
    return Answer(call.printer.text(Arr("ManagedObjectReference", refs)))


def _task_list(call: Call) -> Answer:
    refs = [Ref(task.moref) for task in call.host.tasks.all()]
    return Answer(call.printer.text(Arr("ManagedObjectReference", refs)))


def _task_info(call: Call) -> Answer:
    task = call.host.tasks.find(call.args[0])
    if task is None:
        raise ManagedObjectNotFound(Ref(f"vim.Task:{call.args[0]}"))
    return Answer(call.printer.text(task_dump(task)))


def task_dump(task: Task) -> Obj:
    error = Null("vmodl.MethodFault") if task.error is None else _error_obj(task.error)
    entity = "vim.HostSystem:ha-host" if task.entity == "ha-host" else f"vim.VirtualMachine:{task.entity}"
    operation = f"{task.entity_type.rpartition('.')[2]}.{task.operation}"
    fields = [
        ("key", task.key),
        ("task", Ref(task.moref)),
        ("description", Null("vmodl.LocalizableMessage")),
        ("name", f"{task.entity_type}.{task.operation}"),
        ("descriptionId", operation),
        ("entity", Ref(entity)),
        ("entityName", task.entity_name),
        ("state", task.state),
        ("cancelled", False),
        ("cancelable", False),
        ("error", error),
        ("result", UNSET),
        ("progress", task.progress),
        ("reason", Obj("vim.TaskReasonUser", [("userName", "root")])),
        ("queueTime", iso(task.queued)),
        ("startTime", iso(task.started) if task.started else UNSET),
        ("completeTime", iso(task.completed) if task.completed else UNSET),
        ("eventChainId", task.chain),
        ("changeTag", UNSET),
        ("parentTaskKey", UNSET),
        ("rootTaskKey", UNSET),
    ]
    return Obj("vim.TaskInfo", fields)


def _error_obj(fault: VimFault) -> FaultObj:
    return fault.dump()


def _message(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    question = vm.question
    if question is None:
        return Answer("No message.\n")
    if len(call.args) < 3:
        choices = "".join(
            f"   {number}. {text} ({text})" + (" [default]" if number == question.default else "") + "\n"
            for number, text in enumerate(question.choices)
        )
        return Answer(
            f"Virtual machine message {question.id}:\n{question.key}:{question.text}\n\n{choices}"
            f"Answer: vim-cmd vmsvc/message {vm.vmid} {question.id} {question.default}\n"
        )
    if call.args[1] not in (question.id, str(question.number)) or not call.args[2].isdigit():
        raise InvalidState("The question is not pending.")
    choice = int(call.args[2])
    if choice >= len(question.choices):
        raise InvalidState("The answer is not one of the choices.")
    question.choice = choice
    question.answered.set()
    return Answer()


# --- inventory --------------------------------------------------------------------------------------------------


def _reload(call: Call) -> Answer:
    vm = call.host.vm(call.args[0])
    if vm.power == "poweredOn":
        raise InvalidPowerState("poweredOff", vm.power)
    vm.reload()
    if vm.valid and vm.config.values.get("checkpoint.vmState").endswith(".vmss"):
        vm.power = "suspended"
    return Answer()


def _unregister(call: Call) -> Answer:
    call.host.unregister(call.args[0])
    return Answer()


def _destroy(call: Call) -> Answer:
    call.host.destroy(call.args[0])
    return Answer()


def _register(call: Call) -> Answer:
    return Answer(call.host.register(call.args[0], call.arg(1)) + "\n")


def _snapshot_dumpoption(call: Call) -> Answer:
    call.host.vm(call.args[0])
    with contextlib.suppress(VimFault):
        return Answer("Dump Snapshot Options:\n")
    return Answer(rc=1)


COMMANDS = {
    "vmsvc/getallvms": Command(0, 0, "", "Get the list of virtual machines on the host.", _getallvms),
    "vmsvc/power.getstate": Command(1, 1, "vmid", "Get a virtual machine's power state.", _getstate),
    "vmsvc/power.on": Command(
        1, 1, "vmid", "Power on the specified virtual machine.",
        _power("Powering on VM:", "Power on failed", "powerOn", power.power_on),
    ),
    "vmsvc/power.off": Command(
        1, 1, "vmid", "Power off the specified virtual machine.",
        _power("Powering off VM:", "Power off failed", "powerOff", power.power_off),
    ),
    "vmsvc/power.suspend": Command(
        1, 1, "vmid", "Suspend the specified virtual machine.",
        _power("Suspending VM:", "Suspend failed", "suspend", power.suspend),
    ),
    "vmsvc/power.reset": Command(
        1, 1, "vmid", "Reset the specified virtual machine.",
        _power("Reset VM:", "Reset failed", "reset", power.reset),
    ),
    "vmsvc/power.shutdown": Command(
        1, 1, "vmid", "Power off the guest.", _guest_power(power.shutdown_guest, "shutdownGuest")
    ),
    "vmsvc/power.reboot": Command(
        1, 1, "vmid", "Reboot the guest.", _guest_power(power.reboot_guest, "rebootGuest")
    ),
    "vmsvc/snapshot.create": Command(
        1, 5, "vmid [snapshotName] [snapshotDescription] [includeMemory] [quiesced]", "Create a snapshot.",
        _snapshot_create,
    ),
    "vmsvc/snapshot.get": Command(1, 1, "vmid", "Get the list of snapshots.", _snapshot_get),
    "vmsvc/snapshot.remove": Command(2, 3, "vmid snapshotId", "Remove a snapshot.", _snapshot_remove),
    "vmsvc/snapshot.removeall": Command(1, 1, "vmid", "Remove all snapshots.", _snapshot_removeall),
    "vmsvc/snapshot.revert": Command(
        3, 3, "vmid snapshotId suppressPowerOff", "Revert to a snapshot.", _snapshot_revert
    ),
    "vmsvc/snapshot.dumpoption": Command(1, 1, "vmid", "Dump snapshot options.", _snapshot_dumpoption),
    "vmsvc/get.tasklist": Command(1, 1, "vmid", "Get the list of tasks of a virtual machine.", _get_tasklist),
    "vmsvc/message": Command(1, 3, "vmid [messageId] [choice]", "Answer a pending message.", _message),
    "vmsvc/reload": Command(1, 1, "vmid", "Reload the virtual machine from its configuration.", _reload),
    "vmsvc/unregister": Command(1, 1, "vmid", "Unregister the virtual machine.", _unregister),
    "vmsvc/destroy": Command(1, 1, "vmid", "Delete the virtual machine and its files.", _destroy),
    "solo/registervm": Command(1, 3, "cfgPath [name] [resourcePool]", "Register a virtual machine.", _register),
    "vimsvc/task_list": Command(0, 0, "", "Get the list of tasks.", _task_list),
    "vimsvc/task_info": Command(1, 1, "taskId", "Get the information of a task.", _task_info),
}  # fmt: skip
