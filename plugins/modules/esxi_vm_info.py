#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: esxi_vm_info
short_description: Gather information about the VMs of an ESXi host
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Returns the virtual machines of a hypervisor with their disks, snapshots, network cards, power state and guest,
    and the hypervisor with its datastores and networks.
  - The number of SSH commands does not grow with the number of VMs, apart from one for each 15 of them.
  - Names, UUIDs and devices are read from the files of a VM, so that no name or annotation can imitate another VM.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.attributes
  - stowage.esxi.attributes.info_module
  - stowage.esxi.attributes.actiongroup_esxi
options:
  names:
    description:
      - Only VMs with one of these display names. A name that no VM has is an error, unless O(missing_ok=true).
      - Without it, all VMs are returned.
    type: list
    elements: str
  missing_ok:
    description: Whether names in O(names) that no VM has are left out without an error.
    type: bool
    default: false
seealso:
  - module: stowage.esxi.esxi_vm
"""

EXAMPLES = r"""
---
- name: Look at all VMs
  stowage.esxi.esxi_vm_info:
  delegate_to: backup01
  register: esxi

- name: Name the running VMs with a disk on datastore1
  ansible.builtin.debug:
    msg: "{{ esxi.vms | community.general.json_query(query) }}"
  vars:
    query: "[?power_state=='poweredOn' && disks[?datastore=='datastore1']].name"
"""

RETURN = r"""
---
vms:
  description:
    - The virtual machines, in the order of their ids. Every key is always there; what is not known is null or empty.
  returned: success
  type: list
  elements: dict
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
      description: What the VM is known by through renames and moves.
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
    datastore:
      description: Name of the datastore that the folder is on.
      type: str
      returned: success
      sample: datastore1
    power_state:
      description: V(poweredOn), V(poweredOff) or V(suspended).
      type: str
      returned: success
      sample: poweredOn
    guest:
      description: What is known of the guest, with the keys V(id), V(tools_status), V(tools_running), V(hostname) and
        V(ip).
      type: dict
      returned: success
      sample: {"id": "debian10_64Guest", "tools_status": "toolsOk", "tools_running": true, "hostname": "web01",
        "ip": "192.0.2.7"}
    hardware_version:
      description: Version of the virtual hardware.
      type: int
      returned: success
      sample: 14
    firmware:
      description: V(bios) or V(efi).
      type: str
      returned: success
      sample: efi
    nics:
      description: Network cards, each with V(key), V(network), V(mac), V(type) and V(connected).
      type: list
      returned: success
      sample: [{"key": "ethernet0", "network": "VM Network", "mac": "00:0c:29:12:34:56", "type": "vmxnet3",
        "connected": true}]
      elements: dict
    disks:
      description: Virtual disks in the order of their device keys.
      type: list
      elements: dict
      returned: success
      contains:
        key:
          description: Device key.
          type: str
          returned: success
          sample: scsi0:0
        label:
          description: The host's name of the device.
          type: str
          returned: success
          sample: Hard disk 1
        file:
          description: File as the .vmx names it.
          type: str
          returned: success
          sample: web01-000001.vmdk
        path:
          description: Absolute path of that descriptor.
          type: str
          returned: success
          sample: /vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24/web01/web01-000001.vmdk
        datastore:
          description: Name of its datastore.
          type: str
          returned: success
          sample: datastore1
        capacity_bytes:
          description: Size that the guest sees.
          type: int
          returned: success
          sample: 10737418240
        allocated_bytes:
          description: Room that all files of the chain take.
          type: int
          returned: success
          sample: 2147483648
        mode:
          description: V(persistent), V(independent-persistent) or V(independent-nonpersistent).
          type: str
          returned: success
          sample: persistent
        kind:
          description: What the base is, V(flat), V(sparse), V(rdm-virtual), V(rdm-physical) or another format.
          type: str
          returned: success
          sample: flat
        sharing:
          description: V(none), V(multi-writer), V(bus-virtual) or V(bus-physical).
          type: str
          returned: success
          sample: none
        thin:
          description: Whether the base is thin.
          type: bool
          returned: success
          sample: true
        encrypted:
          description: Whether its descriptors name keys, without which its bytes say nothing.
          type: bool
          returned: success
          sample: false
        chain:
          description: Descriptors from the top to the base.
          type: list
          returned: success
          sample: ["/vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24/web01/web01.vmdk"]
          elements: str
        problem:
          description: Why the chain cannot be followed; null when it can.
          type: str
          returned: success
    snapshots:
      description: All snapshots, parents before their children.
      type: list
      elements: dict
      returned: success
      contains:
        id:
          description: Id of the snapshot.
          type: int
          returned: success
          sample: 14
        name:
          description: Its name.
          type: str
          returned: success
          sample: before-upgrade
        description:
          description: Its description.
          type: str
          returned: success
          sample: "Before the upgrade"
        created_at:
          description: When it was taken, in UTC.
          type: str
          returned: success
          sample: "2026-11-22T21:04:00Z"
        state:
          description: The power state that a revert gives.
          type: str
          returned: success
          sample: powered off
        parent_id:
          description: Id of the snapshot below it.
          type: int
          returned: success
          sample: 12
        current:
          description: Whether the VM runs directly on top of it.
          type: bool
          returned: success
          sample: true
    annotation:
      description: Notes of the VM.
      type: str
      returned: success
      sample: Shop front end
    replica:
      description: Whether it is a replica that stands by, V(ready), or one that has taken over, V(active), as
        M(stowage.esxi.vm_replica) has it. Empty for any other VM.
      type: str
      returned: success
      sample: ready
    template:
      description: Whether it is a template.
      type: bool
      returned: success
      sample: false
    question:
      description: A question that blocks the VM, with V(id), V(text), V(choices) and V(default); null when there is
        none.
      type: dict
      returned: success
    consolidation_needed:
      description: Whether the host says that its disks need consolidation.
      type: bool
      returned: success
      sample: false
    passthrough_devices:
      description: PCI devices that are passed through to it.
      type: list
      returned: success
      sample: [pcipassthru0]
      elements: str
    vtpm:
      description: Whether it has a virtual TPM.
      type: bool
      returned: success
      sample: false
    encrypted:
      description: Whether its configuration is encrypted.
      type: bool
      returned: success
      sample: false
    problems:
      description: What of the VM could not be read, and why.
      type: list
      returned: success
      sample: []
      elements: str
host:
  description: The hypervisor.
  returned: success
  type: dict
  contains:
    name:
      description: Name or address that it was reached by.
      type: str
      returned: success
      sample: esx1.example.org
    version:
      description: Release.
      type: str
      returned: success
      sample: 8.0.2
    build:
      description: Build number.
      type: str
      returned: success
      sample: "22380479"
    hardware_version_max:
      description: Newest virtual hardware that it runs; null for an unknown release.
      type: int
      returned: success
      sample: 21
    datastores:
      description: Datastores, each with V(name), V(path), V(type), V(capacity_bytes) and V(free_bytes).
      type: list
      returned: success
      sample: [{"name": "datastore1", "path": "/vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24", "type": "VMFS-6",
        "capacity_bytes": 999922073600, "free_bytes": 591568830464}]
      elements: dict
    networks:
      description: Port groups of the standard switches.
      type: list
      returned: success
      sample: ["VM Network"]
      elements: str
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: ssh-host-unreachable
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
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import info, inventory, options
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec


def main():
    module = AnsibleModule(
        argument_spec=dict(
            connection_argument_spec(),
            names=dict(type="list", elements="str"),
            missing_ok=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    params = module.params
    try:
        with options.open_host(params) as host:
            vms = inventory.named(host, host.vms(), params["names"], missing_ok=params["missing_ok"])
            module.exit_json(changed=False, vms=info.describe_vms(host, vms), host=info.describe_host(host))
    except StowageError as error:
        fail(module, error)


if __name__ == "__main__":
    main()
