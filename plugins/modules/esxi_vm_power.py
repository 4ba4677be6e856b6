#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: esxi_vm_power
short_description: Manage the power state of a VM on an ESXi host
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Brings one virtual machine into a power state, through the shell of the hypervisor, and waits until it is there.
  - The guest is always asked first. A hard stop happens only with O(force=true).
  - A question that blocks the VM is reported, never answered.
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
      - O(state=restarted) and O(state=reboot-guest) always restart the VM.
options:
  state:
    description:
      - V(powered-on) powers the VM on, or resumes it.
      - V(powered-off) shuts the guest down. Where that does not work, O(force=true) cuts the power.
      - V(shutdown-guest) is the same for a running VM, and an error for a suspended one.
      - V(suspended) suspends a running VM.
      - V(reboot-guest) and V(restarted) reboot the guest. Where that does not work, O(force=true) resets the VM.
    type: str
    choices: [powered-on, powered-off, shutdown-guest, suspended, reboot-guest, restarted]
    required: true
  force:
    description:
      - Whether a hard stop or reset is allowed when the guest cannot be asked, or does not answer within
        O(state_change_timeout).
    type: bool
    default: false
  state_change_timeout:
    description: Seconds to wait for each step.
    type: int
    default: 300
seealso:
  - module: stowage.esxi.esxi_vm_info
"""

EXAMPLES = r"""
---
- name: Shut the guest down, and cut the power after five minutes
  stowage.esxi.esxi_vm_power:
    vm: web01
    state: powered-off
    force: true
  delegate_to: backup01

- name: Power it on again
  stowage.esxi.esxi_vm_power:
    vm: web01
    state: powered-on
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
power_state:
  description: The state afterwards, V(poweredOn), V(poweredOff) or V(suspended); in check mode as it would be.
  returned: success
  type: str
  sample: poweredOff
previous_power_state:
  description: The state before.
  returned: success
  type: str
  sample: poweredOn
stopped_at:
  description: When the VM was first seen stopped, in UTC.
  returned: success
  type: str
  sample: "2026-11-22T21:04:00Z"
started_at:
  description: When the VM was first seen on again, in UTC.
  returned: success
  type: str
  sample: "2026-11-22T21:05:12Z"
downtime_seconds:
  description:
    - How long the VM was away, measured. For a restart from the command on; for V(powered-on) from the stop that an
      earlier task of the same job wrote to O(journal). Null when this task cannot know it.
  returned: success
  type: float
  sample: 72.0
hard:
  description: Whether the last step was a hard stop or reset.
  returned: success
  type: bool
  sample: false
actions:
  description: What was done, in words; in check mode what would be done.
  returned: success
  type: list
  elements: str
  sample: [shut down the guest]
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: esxi-question-pending
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
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import intent, options, plan_power


def argument_spec():
    return dict(
        options.vm_argument_spec(),
        **options.journal_argument_spec(),
        state=dict(type="str", choices=list(plan_power.STATES), required=True),
        force=dict(type="bool", default=False),
        state_change_timeout=dict(type="int", default=300),
    )


def manage(module):
    params = module.params
    with options.open_host(params) as host:
        vm = options.find_vm(host, params)
        decided = plan_power.plan(vm, params["state"], params["force"])
        journal = None if module.check_mode else intent.IntentLog.of_job(vm, params["journal"], params["job_id"])
        if journal is not None and params["job_id"] and not plan_power.is_the_jobs_to_start(vm, decided, journal):
            module.warn(f"VM {vm.name!r} is {decided.before}, but not by this job: it stays so")
            decided = plan_power.PowerPlan(decided.before, decided.before)
        result = plan_power.predicted(decided)
        if decided.changed and not module.check_mode:
            result = plan_power.run(
                vm, decided, lambda: options.waiter_for(host, params["state_change_timeout"], journal), journal
            )
        return dict(
            changed=decided.changed,
            vm=options.describe_names(vm),
            power_state=result.after,
            previous_power_state=result.before,
            stopped_at=result.stopped_at,
            started_at=result.started_at,
            downtime_seconds=result.downtime_seconds,
            hard=result.hard,
            actions=list(result.actions),
            diff=decided.diff(),
        )


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
        mutually_exclusive=options.VM_OPTIONS,
        required_one_of=options.VM_OPTIONS,
    )
    try:
        module.exit_json(**manage(module))
    except StowageError as error:
        fail(module, error)


if __name__ == "__main__":
    main()
