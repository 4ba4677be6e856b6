#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_job
short_description: Begin and end the backup or restore of one VM
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Holds the lock and the journal of one VM's backup or restore, proves what was copied, makes it a restore point, and
    undoes whatever the job did to the VM.
  - The job lives in the folder C(.stowage-job) in the VM's own folder on its datastore. Making that folder is the lock,
    on all hosts that see the datastore. Everything that must be undone is written there before it is done.
  - Every call gets the same O(plan) and O(run_id). They give the job's id, so that a call knows its own job again.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.store_access
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
    details:
      - O(state=started) looks for a live job of somebody else, and returns the job as it would be. The other states
        accept that no earlier step has really happened.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  state:
    description:
      - V(started) takes the lock, writes the journal, and for a backup makes the partial restore point with the VM's
        configuration in it. A live job of somebody else is an error, a dead one is undone first.
      - V(frozen) notes what the disks look like when nothing writes to them any more. It is needed between stopping the
        VM and copying it, where RV(job.freeze) is true.
      - V(committed) proves that the source held still and that the copy can be read, and only then makes it a restore
        point. For a restore it writes the configuration and registers the VM.
      - V(ended) must always come last. It undoes the bracket (remote processes, partial copies, our snapshot by its id,
        the power of a VM that we stopped), removes restore points that no rule keeps, but only after a success, writes
        the entry of the record, and gives the lock back.
      - V(noted) writes into the record that a O(hook) of the operator has failed, with its O(error). It touches neither
        the VM nor its host. A VM that was not begun, or was backed up, is then failed, and what was made stays; of one
        that has failed already it becomes a warning.
    type: str
    choices: [started, frozen, committed, ended, noted]
    required: true
  hook:
    description: With O(state=noted), which hook has failed.
    type: str
    choices: [pre_vm, post_vm, on_success, on_error]
  plan:
    description:
      - One entry of RV(stowage.esxi.backup_plan#module:plan.vms), or RV(stowage.esxi.restore_plan#module:plan).
    type: dict
    required: true
  run_id:
    description: Name of the run.
    type: str
    required: true
  kind:
    description: What the job is for.
    type: str
    choices: [backup, restore]
    default: backup
  controller:
    description: Name of the controller, for whoever meets the lock.
    type: str
  lease_seconds:
    description:
      - Seconds without a sign of life after which M(stowage.esxi.backup_recover) may take the job over. Signs are those
        of the job's own tasks, and on the same O(state_dir) those of other tasks of its run, so that a job may wait
        longer than this for a free fork. With a recover every ten minutes, up to 240 seconds keep the time in which a
        killed controller's work is undone below 15 minutes.
    type: int
    default: 180
  copies:
    description: The disks that M(stowage.esxi.vmdk_copy) returned, for the manifest and the record.
    type: list
    elements: dict
    default: []
  others:
    description:
      - With O(state=ended), of a VM with several backup points, how the copies to the others went. Each item has
        V(copy_number), the number in RV(job.also), and either V(copies), as O(copies), or V(error), as O(error).
      - One without an item has failed with O(error).
    type: list
    elements: dict
    default: []
  register:
    description: Whether O(state=committed) registers a restored VM.
    type: bool
    default: true
  outcome:
    description: With O(state=ended), how it went so far. Without a commit V(ok) becomes failed.
    type: str
    choices: [ok, failed, skipped]
    default: ok
  error:
    description:
      - With O(state=ended) and O(state=noted), what failed; a text, or the failed task's result or its RV(error).
    type: raw
  downtime_seconds:
    description: With O(state=ended), how long the VM was down. Without it, what the journal tells.
    type: float
  inventory_host:
    description:
      - Name of the hypervisor in the inventory, as it shall stand in journals and records. Without it, O(hostname).
    type: str
  state_dir:
    description:
      - Folder on the machine where the module runs that holds the run records and the mirror of the jobs' journals.
    type: path
    default: /var/lib/stowage
seealso:
  - module: stowage.esxi.backup_plan
  - module: stowage.esxi.backup_recover
  - module: stowage.esxi.vmdk_copy
"""

EXAMPLES = r"""
---
- name: Begin
  stowage.esxi.backup_job:
    state: started
    plan: "{{ vm }}"
    run_id: "{{ backup_run_id }}"
  delegate_to: backup01
  register: started

- name: Make it a restore point
  stowage.esxi.backup_job:
    state: committed
    plan: "{{ vm }}"
    run_id: "{{ backup_run_id }}"
    copies: "{{ copied.disks }}"
  delegate_to: backup01

- name: End, whatever happened
  stowage.esxi.backup_job:
    state: ended
    plan: "{{ vm }}"
    run_id: "{{ backup_run_id }}"
    outcome: failed
    error: "{{ ansible_failed_result }}"
  delegate_to: backup01
"""

RETURN = r"""
---
job:
  description: The job.
  returned: O(state=started)
  type: dict
  contains:
    id:
      description: Its id.
      type: str
      returned: success
      sample: 20261122T205450Z-b3f2a9c01b7de
    vmid:
      description: The number that the host has for the VM now, whatever the plan said. 0 for a restore.
      type: int
      returned: success
      sample: 12
    folder:
      description: The job folder on the hypervisor; what other modules take as C(journal).
      type: str
      returned: success
      sample: /vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24/web01/.stowage-job
    partial:
      description: The folder to copy the disks to.
      type: str
      returned: success
    final:
      description: The restore point it becomes.
      type: str
      returned: success
    how:
      description: How the VM is backed up, decided on its present power state.
      type: str
      returned: success
      sample: hot
    snapshot_name:
      description: The name that our snapshot must have.
      type: str
      returned: success
    snapshot_description:
      description: What the host's own client shall say of it; empty unless it may stay as a reference snapshot.
      type: str
      returned: success
    stop:
      description: Whether the VM must be shut down.
      type: bool
      returned: success
    snapshot:
      description: Whether a snapshot must be taken.
      type: bool
      returned: success
    restart:
      description: Whether the VM must be powered on again before the copy.
      type: bool
      returned: success
    freeze:
      description: Whether O(state=frozen) is needed before the copy.
      type: bool
      returned: success
    disks:
      description: Device keys of the disks to copy.
      type: list
      elements: str
      returned: success
      sample: ["scsi0:0"]
    power_before:
      description: The power state that the VM will have again.
      type: str
      returned: success
      sample: poweredOn
    boot_id:
      description: The first line of its vmware.log, which every start changes.
      type: str
      returned: success
    policy:
      description: The settings of this VM.
      type: dict
      returned: success
    copy_number:
      description: Which of the VM's backup points O(plan) is for; null where it has one only.
      type: int
      returned: success
    also:
      description:
        - The VM's other backup points, which are copied to under the same bracket, each with V(copy_number),
          V(point) and V(dest), the folder or place to copy the disks to. O(state=committed) takes their own entries
          of the plan.
      type: list
      elements: dict
      returned: success
restore_point:
  description: The restore point, with V(path), V(time), V(vm), V(identity), V(host), V(bytes) and V(disks).
  returned: O(state=committed) and O(kind=backup)
  type: dict
vm:
  description:
    - The restored VM, with V(vmid), V(name), V(vmx_path), V(directory) and V(restore_point); of one restored in place
      also V(safety_point), null where none was made.
  returned: O(state=committed) and O(kind=restore)
  type: dict
entry:
  description: The VM's entry in the record.
  returned: O(state=ended) and O(state=noted)
  type: dict
others:
  description: The entries in the record of the VM's other backup points.
  returned: O(state=ended)
  type: list
  elements: dict
done:
  description: What was undone, in words.
  returned: O(state=ended)
  type: list
  elements: str
  sample: [removed snapshot 4]
left:
  description: What was left alone, with the reason.
  returned: O(state=ended)
  type: list
  elements: str
rotation:
  description:
    - Which restore points were V(kept) and V(removed), each with its reasons, and V(problems).
    - Null without a success.
  returned: O(state=ended)
  type: dict
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: vm-locked
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
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.options import open_host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import arguments, steps
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores


def main():
    module = AnsibleModule(
        argument_spec=arguments.job_spec(),
        supports_check_mode=True,
        required_if=[["state", "noted", ["hook", "error"]]],
    )
    try:
        with open_host(module.params) as host, Stores(Access.of(module.params["store"]), host) as stores:
            step = steps.run(host, module.params, module.check_mode, stores)
    except StowageError as error:
        fail(module, error)
    if step.error is not None:
        fail(module, step.error, changed=step.changed, **step.fields)
    module.exit_json(changed=step.changed, **step.fields)


if __name__ == "__main__":
    main()
