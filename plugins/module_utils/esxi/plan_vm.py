# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a VM is in a host's inventory."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, power_state
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_vmx

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host


@dataclass(frozen=True)
class RegistrationPlan:
    """`action` is register, unregister or none; `vm` the VM as it is registered now, if it is."""

    action: str
    path: str | None
    name: str | None
    vm: VirtualMachine | None
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.action != "none"

    def diff(self) -> dict[str, str]:
        line = f"registered: {self.name or (self.vm.name if self.vm else '')} at {self.path}\n"
        absent = "registered: none\n"
        here = self.vm is not None
        if self.action == "none":
            return {"before": line if here else absent, "after": line if here else absent}
        return {"before": absent, "after": line} if self.action == "register" else {"before": line, "after": absent}


def plan(host: Host, wish: Mapping[str, Any], *, check_mode: bool = False) -> RegistrationPlan:
    """Decide. `wish` holds the options of the module esxi_vm."""
    path = host.resolve(wish["path"]) if wish.get("path") else None
    if path is not None:
        vm = next((vm for vm in host.vms() if vm.vmx_path == path), None)
    else:
        try:
            vm = host.find_vm(name=wish.get("vm"), uuid=wish.get("uuid"), vmid=wish.get("vmid"))
        except errors.VmNotFound:
            if wish["state"] == "registered":
                raise
            vm = None
    if wish["state"] == "registered":
        return _registered(host, path, vm, wish.get("name"), check_mode)
    if vm is None:
        return RegistrationPlan("none", path, wish.get("vm"), None)
    if vm.invalid is None and vm.readable:
        state = vm.power_state()
        if state == power_state.ON:
            raise errors.WrongPowerState(
                **vm.data(
                    state=state,
                    operation="unregister",
                    needed="powered off or suspended",
                    advice="Shut it down first, for instance with stowage.esxi.esxi_vm_power.",
                )
            )
    return RegistrationPlan("unregister", vm.vmx_path, vm.name, vm)


def _registered(
    host: Host, path: str | None, vm: VirtualMachine | None, name: str | None, check_mode: bool
) -> RegistrationPlan:
    if vm is not None:
        return RegistrationPlan("none", vm.vmx_path, vm.name, vm)
    if path is None:
        raise errors.BadPath(host=host.name, path="", reason="registering needs the path of the .vmx file")
    warnings: tuple[str, ...] = ()
    shown = name or posixpath.splitext(posixpath.basename(path))[0]
    try:
        vmx = parse_vmx(host.read_text(path), path)
        shown = name or vmx.display_name or shown
        newest = host.hardware_version_max
        if newest is not None and vmx.hardware_version is not None and vmx.hardware_version > newest:
            warnings = (
                f"{shown!r} has virtual hardware {vmx.hardware_version}, but this host runs at most {newest}: "
                "it will not power on here",
            )
    except StowageError as error:
        if not check_mode:
            raise
        # An earlier task may only have pretended to bring the file.
        warnings = (error.message,)
    return RegistrationPlan("register", path, shown, None, warnings)


def run(host: Host, decided: RegistrationPlan, name: str | None) -> VirtualMachine | None:
    """Do what was decided; the VM as registered afterwards, None when it is not. `name` is the one asked for."""
    if decided.action == "register" and decided.path is not None:
        try:
            return host.find_vm(vmid=host.register(decided.path, name))
        except errors.AlreadyExistsFault:
            # Somebody registered the same path between the plan and now: that is what was wanted.
            for vm in host.vms():
                if vm.vmx_path == decided.path:
                    return vm
            raise
    if decided.action == "unregister" and decided.vm is not None:
        host.unregister(decided.vm.vmid)
        return None
    return decided.vm
