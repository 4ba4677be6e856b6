#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_report
short_description: Report on the backups of a fleet from its records
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Reads the records of all runs on the machine where the module runs, and says of every VM when its last good restore
    point was made, how old it is, what it took, what failed since, and when one was last proven.
  - A VM without a fresh, proven restore point is an alarm, also one that no job has ever named. For that it is told in
    O(seen) what the hypervisors show now.
  - It changes nothing and connects to no hypervisor. It does not fail because there are alarms. Look at
    RV(report.green).
extends_documentation_fragment:
  - stowage.esxi.attributes
  - stowage.esxi.attributes.info_module
attributes:
  platform:
    support: full
    platforms: posix
options:
  seen:
    description:
      - The hypervisors that the report is about, with what each shows now.
      - Of one that did not answer, its last plan and the records speak. Those that are not named here are reported from
        the records alone.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Name of the hypervisor in the inventory.
        type: str
        required: true
      error:
        description: Why it did not answer; empty where it did.
        type: str
        default: ""
      vms:
        description: The VMs that are registered there.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Display name.
            type: str
            required: true
          identity:
            description: What the VM is known by, as M(stowage.esxi.esxi_vm_info) returns it.
            type: str
            default: ""
          snapshots:
            description: Names of its snapshots. Those of ours that are no reference snapshot are told as left over.
            type: list
            elements: str
            default: []
          standby:
            description: Whether it is a replica that stands by. It needs no backup.
            type: bool
            default: false
  ignore:
    description: Names or UUIDs of VMs that need no backup. Those that a job excludes are known from its plan.
    type: list
    elements: str
    default: []
  max_age_hours:
    description: How old the last good restore point of a VM may be.
    type: float
    default: 26
  proven_days:
    description:
      - How many days ago M(stowage.esxi.backup_proof) may have noted the last proof of a restore point of a VM; of one
        that was never proven, how many days ago its first restore point may have been made. V(0) asks for no proof.
    type: float
    default: 8
  history_days:
    description: How far back the records are read.
    type: int
    default: 90
  state_dir:
    description:
      - Folder on the machine where the module runs that holds the run records.
    type: path
    default: /var/lib/stowage
seealso:
  - module: stowage.esxi.backup_record
  - module: stowage.esxi.backup_proof
  - module: stowage.esxi.backup_mail
"""

EXAMPLES = r"""
---
- name: Report on what the records know
  stowage.esxi.backup_report:
  delegate_to: backup01
  register: made

- name: Show it
  ansible.builtin.debug:
    msg: "{{ made.text.splitlines() }}"
"""

RETURN = r"""
---
report:
  description: The report.
  returned: success
  type: dict
  contains:
    at:
      description: When it was made.
      type: str
      returned: success
    green:
      description: Whether there is no alarm.
      type: bool
      returned: success
    hosts:
      description: The hypervisors that it is about.
      type: list
      elements: str
      returned: success
    silent_hosts:
      description: Those that did not answer, with the reason.
      type: dict
      returned: success
    vms:
      description:
        - Every VM with V(host), V(vm), V(identity), its V(state) (V(fresh), V(alarm), V(ignored) or V(gone)), the
          V(last) good restore point and its V(age_hours), the last V(proof), the number of V(failures) since and the
          V(last_error), the V(reference) snapshot, and what is V(left).
      type: list
      elements: dict
      returned: success
    alarms:
      description:
        - What must not wait, with V(id), V(host), V(vm) and V(text). The ids are V(host-silent), V(no-job),
          V(no-restore-point), V(stale), V(stale-copy), V(not-proven), V(not-verified), V(damaged) and
          V(record-unreadable).
      type: list
      elements: dict
      returned: success
    max_age_hours:
      description: As it was asked for.
      type: float
      returned: success
    proven_days:
      description: As it was asked for.
      type: float
      returned: success
subject:
  description: One line that says whether anybody has to get up.
  returned: success
  type: str
  sample: "Backups: all 20 VMs have a fresh, proven restore point"
text:
  description: The report as plain text.
  returned: success
  type: str
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: state-not-kept
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

from datetime import timedelta

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import fleetoptions, history, report, reporttext


def main():
    module = AnsibleModule(argument_spec=fleetoptions.report_spec(), supports_check_mode=True)
    params, now = module.params, SystemClock().now()
    try:
        known = history.read(params["state_dir"], now - timedelta(days=params["history_days"]))
    except StowageError as error:
        fail(module, error)
    made = report.make(known, fleetoptions.sight_of(params["seen"]), fleetoptions.rules_of(params), now)
    module.exit_json(changed=False, report=made.as_dict(), subject=reporttext.subject(made), text=reporttext.text(made))


if __name__ == "__main__":
    main()
