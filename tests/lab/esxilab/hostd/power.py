# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Power operations of a VM."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import (
    FileLocked,
    GenericVmConfigFault,
    InsufficientRoom,
    InvalidPowerState,
    InvalidState,
    NotSupported,
    ToolsUnavailable,
    VimFault,
)
from .machine import Question
from .vmconfig import location_uuid, spaced

if TYPE_CHECKING:
    from .machine import Vm
    from .tasks import Task

MOVED_OR_COPIED = (
    "This virtual machine might have been moved or copied.\n"
    "In order to configure certain management and networking features, VMware ESX needs to know if this virtual "
    'machine was moved or copied.\n\nIf you don\'t know, answer "I Co&pied It".'
)


def power_on(vm: Vm, wait_for_answer: bool = True) -> None:
    """Boot the VM, or resume it. Blocks while a question is pending."""
    if vm.power == "poweredOn":
        raise InvalidPowerState("poweredOn", vm.power)
    host = vm.host
    if host.maintenance:
        raise InvalidState("The operation is not allowed while the host is in maintenance mode.")
    if vm.has_fault("power_on_fails"):
        raise GenericVmConfigFault("Failed to power on the virtual machine: File system specific implementation failed")
    if vm.vmx_path.endswith(".vmtx"):
        raise NotSupported("The operation is not supported on a template.")
    if vm.config.hardware > host.profile.hardware_max:
        raise GenericVmConfigFault(
            f"This virtual machine uses hardware version {vm.config.hardware}, which is not supported by this host."
        )
    for disk in vm.live_disks():
        if not host.outside(disk.path).is_file():
            raise VimFault(f"File {disk.path} was not found")
    _refuse_hosted_disks(vm)
    _ask_if_needed(vm, wait_for_answer)
    resumed = vm.power == "suspended"
    _write_running_config(vm)
    vm.log.rotate(host.next_pid())
    if resumed:
        vm.log.write("Checkpoint: resuming from suspend", "vmx", 5)
    _make_running_files(vm)
    try:
        host.engine.start(vm)
    except (VimFault, host.engine.DiskError) as error:
        _drop_running_files(vm)
        vm.log.write(f"Module 'Disk' power on failed: {error}", "vmx", 5)
        if isinstance(error, host.engine.DiskError):
            raise _as_fault(vm, error) from error
        raise
    vm.power = "poweredOn"
    vm.boot_time = host.clock.now()
    vm.suspend_time = None
    vm.life += 1
    vm.world_id = host.next_pid()
    if resumed:
        _drop_suspend_files(vm)
    _later(vm, host.tools_delay, _tools_up)


def _refuse_hosted_disks(vm: Vm) -> None:
    """A sparse disk of the hosted products (2gbsparse) has to be cloned into a VMFS format first."""
    for disk in vm.live_disks():
        if vm.host.engine.is_hosted(disk.path):
            vm.log.write(f"DISKLIB-VMFS: Failed to open '{disk.path}': Object type requires hosted I/O", "vmx", 5)
            raise GenericVmConfigFault(
                f"Unsupported or invalid disk type 7 for '{disk.node}'. Ensure that the disk has been imported."
            )


def _as_fault(vm: Vm, error: Exception) -> VimFault:
    engine = vm.host.engine
    path = vm.host.volumes.inside_of(vm.host.as_path(getattr(error, "path", "")))
    if isinstance(error, engine.DiskFull):
        volume = vm.host.volumes.volume_of(path)
        return InsufficientRoom(volume.name if volume else path)
    if isinstance(error, engine.FileLocked):
        return FileLocked(path)
    return GenericVmConfigFault(f"Cannot open the disk '{path}' or one of the snapshot disks it depends on.")


def power_off(vm: Vm) -> None:
    """Pull the plug."""
    if vm.power == "poweredOff":
        raise InvalidPowerState("poweredOff", vm.power)
    vm.host.clock.sleep(vm.host.faults.seconds("power_off_slow", vm.safe_name))
    if vm.power == "suspended":
        _drop_suspend_files(vm)
        vm.power = "poweredOff"
        return
    stop(vm, clean=False)


def stop(vm: Vm, clean: bool) -> None:
    """The vmx process ends: files closed, locks gone. `clean` says that the guest had shut down by itself."""
    vm.host.engine.stop(vm, clean)
    vm.log.write("Vix: [mainDispatch.c:4205]: VMAutomation_ReportPowerOpFinished: statevar=0, newAppState=1873", "vmx")
    vm.log.write("VMX has left the building: 0.", "vmx", 5)
    _drop_running_files(vm)
    vm.power = "poweredOff"
    vm.clean_power_off = clean
    vm.tools_running = False
    vm.boot_time = None
    vm.question = None
    vm.life += 1


def suspend(vm: Vm) -> None:
    if vm.power != "poweredOn":
        raise InvalidPowerState("suspended", vm.power)
    host = vm.host
    name = f"{vm.config.base_name}-{secrets.token_hex(4)}.vmss"
    path = vm.folder / name
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as handle:
            handle.write(b"\xd2\xbe\xd2\xbe".ljust(65536, b"\0"))
    except OSError as error:
        raise GenericVmConfigFault(f"Failed to write the suspend state: {error.strerror}") from error
    host.engine.stop(vm, clean=False)
    _drop_running_files(vm)
    vm.config.values.set("checkpoint.vmState", name)
    vm.save_config()
    vm.power = "suspended"
    vm.suspend_time = host.clock.now()
    vm.tools_running = False
    vm.life += 1


def reset(vm: Vm) -> None:
    if vm.power != "poweredOn":
        raise InvalidPowerState("poweredOn", vm.power)
    vm.host.engine.stop(vm, clean=False)
    _boot_again(vm)


def _boot_again(vm: Vm) -> None:
    vm.log.write("Chipset: The guest has requested that the virtual machine be hard reset.", "vcpu-0", 5)
    vm.tools_running = False
    vm.life += 1
    vm.host.engine.start(vm)
    vm.boot_time = vm.host.clock.now()
    _later(vm, vm.host.tools_delay, _tools_up)


def shutdown_guest(vm: Vm) -> None:
    """Ask the guest; it shuts down by itself, or it does not."""
    _need_guest(vm)
    if vm.has_fault("guest_ignores_shutdown"):
        return
    _later(vm, vm.host.shutdown_delay(vm), _guest_shut_down)


def reboot_guest(vm: Vm) -> None:
    _need_guest(vm)
    if vm.has_fault("guest_ignores_shutdown"):
        return
    _later(vm, vm.host.shutdown_delay(vm), _guest_rebooted)


def _need_guest(vm: Vm) -> None:
    if vm.power != "poweredOn":
        raise InvalidPowerState("poweredOn", vm.power)
    if not vm.tools_running:
        raise ToolsUnavailable()


def _guest_shut_down(vm: Vm) -> None:
    task = _begin_when_free(vm, "powerOff")
    if task is None:
        return
    stop(vm, clean=True)
    vm.end(task)


def _guest_rebooted(vm: Vm) -> None:
    task = _begin_when_free(vm, "reset")
    if task is None:
        return
    vm.host.engine.stop(vm, clean=True)
    _boot_again(vm)
    vm.end(task)


def _begin_when_free(vm: Vm, operation: str) -> Task | None:
    """A guest's own wish waits for the operation in progress; it is forgotten when the VM went off meanwhile."""
    life = vm.life
    while vm.power == "poweredOn" and vm.life == life and not vm.host.stopped:
        try:
            return vm.begin(operation)
        except VimFault:
            vm.host.clock.sleep(0.1)
    return None


def _tools_up(vm: Vm) -> None:
    if vm.power == "poweredOn" and vm.config.has_tools and not vm.has_fault("tools_stop"):
        vm.tools_running = True


def _later(vm: Vm, seconds: float, action: Callable[[Vm], None]) -> None:
    """Do something in this life of the VM, some seconds from now."""
    life = vm.life

    def run() -> None:
        vm.host.clock.sleep(seconds)
        with vm.host.acting():
            if vm.life == life and not vm.host.stopped:
                action(vm)

    if seconds <= 0 and action is _tools_up:
        action(vm)
        return
    threading.Thread(target=run, name=f"later-{vm.vmid}", daemon=True).start()


# --- the question about a moved or copied VM ------------------------------------------------------------------


def _ask_if_needed(vm: Vm, wait: bool) -> None:
    values = vm.config.values
    here = location_uuid(vm.vmx_path)
    location = values.get("uuid.location")
    forced = vm.host.faults.get("question", vm.safe_name)
    if forced is None and (not location or location == here or values.get("uuid.action")):
        action = values.get("uuid.action")
        if action == "create" or not values.get("uuid.bios"):
            _new_identity(vm)
        values.set("uuid.location", here)
        return
    question = Question(
        number=vm.host.next_question(),
        key="msg.uuid.altered",
        text=str(forced.args.get("text") or MOVED_OR_COPIED) if forced else MOVED_OR_COPIED,
        choices=["Cancel", "I Mo&ved It", "I Co&pied It"],
        default=2,
        fault=forced,
    )
    vm.question = question
    vm.log.write(f"Msg_Question: msg.uuid.altered (id={question.number})", "vmx", 5)
    if not wait:
        return
    while not question.answered.wait(0.1):
        if vm.host.stopped:
            raise VimFault("The operation was canceled.")
    vm.question = None
    if question.withdrawn:
        _ask_if_needed(vm, wait)
        return
    if question.choice == 0:
        raise VimFault("The operation was canceled by the user.")
    if question.choice == 2:
        _new_identity(vm)
    values.set("uuid.location", here)


def _new_identity(vm: Vm) -> None:
    """A copied VM gets a new BIOS uuid and new generated MAC addresses."""
    values = vm.config.values
    fresh = "564d" + secrets.token_hex(14)
    values.set("uuid.bios", spaced(fresh))
    for nic in vm.config.nics():
        if nic.mac_type == "generated":
            tail = [fresh[-6:-4], fresh[-4:-2], f"{(int(fresh[-2:], 16) + nic.index * 10) % 256:02x}"]
            values.set(f"ethernet{nic.index}.generatedAddress", ":".join(["00", "0c", "29", *tail]))


# --- files that exist while a VM runs ---------------------------------------------------------------------------


def _write_running_config(vm: Vm) -> None:
    values = vm.config.values
    here = location_uuid(vm.vmx_path)
    if not values.get("sched.swap.derivedName"):
        values.set(
            "sched.swap.derivedName", f"{vm.config.folder}/{vm.config.base_name}-{here[-8:].replace(' ', '')}.vswp"
        )
    for disk in vm.live_disks():
        values.set(f"{disk.node}.redo", "")
    vm.save_config()


def _make_running_files(vm: Vm) -> None:
    values, folder = vm.config.values, vm.folder
    swap = folder / os.path.basename(values.get("sched.swap.derivedName"))
    own_swap = folder / f"vmx-{vm.config.base_name}-{secrets.randbits(32)}-1.vswp"
    sizes = {vm.vmx_file.with_name(vm.vmx_file.name + ".lck"): 0, swap: vm.config.memory_mb << 20, own_swap: 85983232}
    try:
        # What a crash left behind.
        for stale in folder.glob("vmx-*-1.vswp"):
            stale.unlink()
        for path, size in sizes.items():
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            os.truncate(path, size)
            vm.swap_files.append(path)
        _make_nvram(vm)
    except OSError as error:
        _drop_running_files(vm)
        volume = vm.host.volumes.volume_of(vm.vmx_path)
        raise InsufficientRoom(volume.name if volume else vm.vmx_path) from error


def _make_nvram(vm: Vm) -> None:
    """The firmware's settings; made at the first boot where nothing brought them along."""
    values = vm.config.values
    if not values.get("nvram"):
        values.set("nvram", f"{vm.config.base_name}.nvram")
        vm.save_config()
    path = vm.host.outside(vm.config.absolute(values.get("nvram")))
    if not path.exists():
        size = 270840 if values.get("firmware") == "efi" else 8684
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as handle:
            handle.write(b"MRVN\x01\0\0\0" + vm.config.bios_uuid.encode().ljust(size - 8, b"\0"))


def _drop_running_files(vm: Vm) -> None:
    for path in vm.swap_files:
        path.unlink(missing_ok=True)
    vm.swap_files = []


def _drop_suspend_files(vm: Vm) -> None:
    name = vm.config.values.get("checkpoint.vmState")
    vm.config.values.set("checkpoint.vmState", "")
    vm.save_config()
    if name.endswith(".vmss"):
        (vm.folder / name).unlink(missing_ok=True)
