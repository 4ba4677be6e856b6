#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: esxi_snapshot
short_description: Create, remove and revert to snapshots of a VM on an ESXi host
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Manages one snapshot of one virtual machine, through the shell of the hypervisor.
  - Every change is proven by the state of the VM, never by the output of a command. A snapshot exists when the host
    lists a new id with its name and its disks; it is removed when the host lists it no more, each disk is back on the
    file it must be on, and no delta of it is left.
  - Only what was named is removed. All other snapshots of the VM stay.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.vm
  - stowage.esxi.vm.journal
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - O(state=reverted) discards what was written since, so it always reports a change.
options:
  state:
    description:
      - V(present) makes a snapshot called O(name) unless the VM has one.
      - V(absent) removes the snapshot and waits until its delta files are merged and gone.
      - V(reverted) takes the VM back to the snapshot. It needs O(allow_revert=true). Independent disks do not revert,
        and a VM that is on is powered off unless the snapshot holds its memory; both are reported as warnings.
    type: str
    choices: [present, absent, reverted]
    default: present
  name:
    description:
      - Name of the snapshot. When several snapshots of the VM have this name the task fails and lists their ids.
    type: str
  snapshot_id:
    description:
      - Id of the snapshot, for O(state=absent) and O(state=reverted). Ids are never used again by a VM.
    type: int
  description:
    description: Description of a new snapshot.
    type: str
    default: ""
  memory:
    description: Whether a new snapshot of a running VM holds its memory.
    type: bool
    default: false
    aliases: [memory_dump]
  quiesce:
    description:
      - Whether the guest is asked to flush its file systems before. This needs VMware Tools; without them the host
        ignores it.
    type: bool
    default: false
  remove_children:
    description: Whether O(state=absent) also removes all snapshots that were taken on top of this one.
    type: bool
    default: false
  allow_revert:
    description: Must be set for O(state=reverted), since what was written since the snapshot is lost.
    type: bool
    default: false
  suppress_power_on:
    description: Whether a revert to a snapshot with memory leaves the VM off.
    type: bool
    default: false
  timeout:
    description:
      - Seconds to wait for the change. Removal takes time in proportion to what was written.
      - The default is 600 for V(present) and V(reverted), and 7200 for V(absent).
    type: int
  late_timeout:
    description:
      - Seconds to go on looking for a new snapshot after O(timeout). One that comes late is removed again, and the
        task fails; without one, the task fails and says that it may still come.
    type: int
    default: 90
seealso:
  - module: stowage.esxi.esxi_vm_info
"""

EXAMPLES = r"""
---
- name: Take a snapshot before the change
  stowage.esxi.esxi_snapshot:
    vm: web01
    name: before-upgrade
    description: Before the upgrade of the shop
    quiesce: true
  delegate_to: backup01

- name: Go back
  stowage.esxi.esxi_snapshot:
    vm: web01
    name: before-upgrade
    state: reverted
    allow_revert: true
  delegate_to: backup01

- name: Remove it by its id
  stowage.esxi.esxi_snapshot:
    vm: web01
    snapshot_id: 14
    state: absent
  delegate_to: backup01
"""

RETURN = r"""
---
vm:
  description: The virtual machine.
  returned: success
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
snapshot:
  description: The snapshot; null when it is not there. In check mode a new one has no id yet.
  returned: success
  type: dict
  contains: &snapshot
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
      sample: Before the upgrade of the shop
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
snapshots:
  description: All snapshots of the VM afterwards, parents first; in check mode as they would be.
  returned: success
  type: list
  elements: dict
  contains: *snapshot
actions:
  description: What was done, in words; in check mode what would be done.
  returned: success
  type: list
  elements: str
  sample: ["create snapshot 'before-upgrade'"]
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: esxi-snapshot-ambiguous
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
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import intent, options, plan_snapshot, snapshots


def argument_spec():
    return dict(
        options.vm_argument_spec(),
        **options.journal_argument_spec(),
        state=dict(type="str", choices=["present", "absent", "reverted"], default="present"),
        name=dict(type="str"),
        snapshot_id=dict(type="int"),
        description=dict(type="str", default=""),
        memory=dict(type="bool", default=False, aliases=["memory_dump"]),
        quiesce=dict(type="bool", default=False),
        remove_children=dict(type="bool", default=False),
        allow_revert=dict(type="bool", default=False),
        suppress_power_on=dict(type="bool", default=False),
        timeout=dict(type="int"),
        late_timeout=dict(type="int", default=90),
    )


def manage(module):
    params = module.params
    with options.open_host(params) as host:
        vm = options.find_vm(host, params)
        decided = plan_snapshot.plan(vm, params)
        for warning in decided.warnings:
            module.warn(warning)
        snapshot, tree = decided.snapshot, decided.after
        if decided.changed and not module.check_mode:
            journal = intent.IntentLog.of_job(vm, params["journal"], params["job_id"])
            seconds = params["timeout"] or (7200 if params["state"] == "absent" else 600)
            snapshot = plan_snapshot.run(vm, decided, params, options.waiter_for(host, seconds, journal), journal)
            tree = snapshots.tree(vm)
        elif decided.action == "remove":
            snapshot = None
        if snapshot is not None and snapshot.id is not None:
            snapshot = tree.find(snapshot.id) or snapshot
        return dict(
            changed=decided.changed,
            vm=options.describe_names(vm),
            snapshot=options.describe_snapshot(snapshot) if snapshot is not None else None,
            snapshots=options.describe_tree(tree),
            actions=list(decided.words),
            diff=decided.diff(),
        )


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
        mutually_exclusive=[*options.VM_OPTIONS, ("name", "snapshot_id")],
        required_one_of=[*options.VM_OPTIONS, ("name", "snapshot_id")],
        required_if=[("state", "present", ("name",))],
    )
    try:
        module.exit_json(**manage(module))
    except StowageError as error:
        fail(module, error)


if __name__ == "__main__":
    main()
