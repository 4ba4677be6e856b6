#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: esxi_vm
short_description: Register and unregister VMs on an ESXi host
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Puts a virtual machine into the inventory of a hypervisor, or takes it out. Its files are never changed or
    deleted.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.vm
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(registered) registers the VM whose configuration file is O(path), unless it is registered.
      - V(unregistered) takes the VM out of the inventory. It is refused while the VM is powered on.
    type: str
    choices: [registered, unregistered]
    default: registered
  path:
    description:
      - The .vmx file, as C([datastore] folder/name.vmx) or C(/vmfs/volumes/datastore/folder/name.vmx).
      - Needed for O(state=registered); for O(state=unregistered) one of O(path), O(vm), O(uuid) and O(vmid) is.
    type: str
  name:
    description: Display name to register the VM with. Without it, the name in the file is kept.
    type: str
seealso:
  - module: stowage.esxi.esxi_vm_info
"""

EXAMPLES = r"""
---
- name: Register a restored VM
  stowage.esxi.esxi_vm:
    path: "[datastore1] web01-restored/web01.vmx"
    name: web01-restored
  delegate_to: backup01

- name: Take it out of the inventory
  stowage.esxi.esxi_vm:
    vm: web01-restored
    state: unregistered
  delegate_to: backup01
"""

RETURN = r"""
---
vm:
  description: The virtual machine.
  returned: success; null when it is not registered afterwards, and in check mode when it would be new
  type: dict
  contains:
    name:
      description: Display name.
      type: str
      returned: success
      sample: web01
    vmid:
      description: Id in the inventory of its host.
      type: int
      returned: success
      sample: 12
    identity:
      description: What the VM is known by through renames and moves; its instance UUID where it has one.
      type: str
      returned: success
      sample: 52f1c3a4-0c1d-4c8e-9b69-0d0b3f6c1a11
    instance_uuid:
      description: Instance UUID.
      type: str
      returned: success
      sample: 52f1c3a4-0c1d-4c8e-9b69-0d0b3f6c1a11
    bios_uuid:
      description: BIOS UUID.
      type: str
      returned: success
      sample: 564d36cf-6988-c91d-0f5f-a62628d46553
    vmx_path:
      description: Absolute path of its .vmx file, by the UUID of the datastore.
      type: str
      returned: success
      sample: /vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24/web01/web01.vmx
    directory:
      description: Folder of the .vmx file.
      type: str
      returned: success
      sample: /vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24/web01
path:
  description: Absolute path of the .vmx file; null when the VM to unregister is not there.
  returned: success
  type: str
  sample: /vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24/web01-restored/web01.vmx
actions:
  description: What was done, in words; in check mode what would be done.
  returned: success
  type: list
  elements: str
  sample: [register]
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: esxi-wrong-power-state
    message:
      description: What was being done, on what, and why it failed.
      type: str
      returned: failure
    hint:
      description: The way out.
      type: str
      returned: failure
    data:
      description: The parts of the message as values.
      type: dict
      returned: failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.base.ansible import fail
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import options, plan_vm


def argument_spec():
    return dict(
        options.vm_argument_spec(),
        state=dict(type="str", choices=["registered", "unregistered"], default="registered"),
        path=dict(type="str"),
        name=dict(type="str"),
    )


def manage(module):
    params = module.params
    with options.open_host(params) as host:
        decided = plan_vm.plan(host, params, check_mode=module.check_mode)
        for warning in decided.warnings:
            module.warn(warning)
        vm = decided.vm
        if decided.changed and not module.check_mode:
            vm = plan_vm.run(host, decided, params["name"])
        elif decided.action == "unregister":
            vm = None
        return dict(
            changed=decided.changed,
            vm=options.describe_names(vm) if vm is not None else None,
            path=decided.path,
            actions=[decided.action] if decided.changed else [],
            diff=decided.diff(),
        )


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
        mutually_exclusive=[("path", "vm", "uuid", "vmid")],
        required_one_of=[("path", "vm", "uuid", "vmid")],
        required_if=[("state", "registered", ("path",))],
    )
    try:
        module.exit_json(**manage(module))
    except StowageError as error:
        fail(module, error)


if __name__ == "__main__":
    main()
