#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_record
short_description: Merge the record of a backup run
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Merges the entries that M(stowage.esxi.backup_plan) and M(stowage.esxi.backup_job) wrote during a run to one JSON
    file with an entry for every host, VM and disk, and returns its summary.
  - It works on the machine where those modules ran, and connects to no hypervisor. A VM that was planned and never
    begun is V(not-run), one whose window was over is V(missed), one whose run was killed is V(interrupted); they count
    against the run. One that was left out since it has a fresh restore point is V(skipped), and does not.
  - It does not fail because VMs failed. Look at RV(summary.green).
extends_documentation_fragment:
  - stowage.esxi.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
options:
  run_id:
    description: Name of the run.
    type: str
    required: true
  hosts:
    description:
      - All hosts that the run was meant for. One that nothing is known of is a failed host.
    type: list
    elements: str
    default: []
  host_errors:
    description: What kept whole hosts from being planned, by host; a text, or a failed task's result.
    type: dict
    default: {}
  state_dir:
    description:
      - Folder on the machine where the module runs that holds the run records and the mirror of the jobs' journals.
    type: path
    default: /var/lib/stowage
seealso:
  - module: stowage.esxi.backup_plan
  - module: stowage.esxi.backup_job
"""

EXAMPLES = r"""
---
- name: Merge the record
  stowage.esxi.backup_record:
    run_id: "{{ backup_run_id }}"
    hosts: "{{ ansible_play_hosts_all }}"
  delegate_to: backup01
  run_once: true
  register: merged

- name: The run is red when any VM failed
  ansible.builtin.assert:
    that: merged.summary.green
    fail_msg: "{{ merged.summary.text }}"
  run_once: true
"""

RETURN = r"""
---
record:
  description: The merged file.
  returned: success
  type: str
  sample: /var/lib/stowage/runs/20261122T205450Z/record.json
summary:
  description: Its summary.
  returned: success
  type: dict
  contains:
    run_id:
      description: The run.
      type: str
      returned: success
    hosts:
      description: Number of hosts.
      type: int
      returned: success
    vms:
      description: Number of VMs.
      type: int
      returned: success
    ok:
      description: VMs with a new restore point, or restored.
      type: int
      returned: success
    failed:
      description: VMs that failed.
      type: int
      returned: success
    skipped:
      description: VMs that were left alone on purpose.
      type: int
      returned: success
    missed:
      description: VMs that were not begun since their window was over.
      type: int
      returned: success
    interrupted:
      description: VMs whose run was killed.
      type: int
      returned: success
    not_run:
      description: VMs that were planned and never begun.
      type: int
      returned: success
    excluded_disks:
      description: Disks that the policy left out.
      type: int
      returned: success
    bytes:
      description: Bytes that the copies occupy on the backup point (stored).
      type: int
      returned: success
    bytes_read:
      description: Bytes that were read from the disks' chains, as plan and progress count them.
      type: int
      returned: success
    bytes_sent:
      description: Of what goes into a store or comes out of one, the bytes that travelled; null where nothing did.
      type: int
      returned: success
    bytes_new:
      description: Of what went into a store, the bytes that it did not have; null where nothing went into one.
      type: int
      returned: success
    warnings:
      description: What the operator should look at although nothing failed, such as a policy for a VM that no host has.
      type: list
      elements: str
      returned: success
    seconds:
      description: Sum of the VMs' times.
      type: float
      returned: success
    failed_vms:
      description: Those VMs, with V(host), V(vm), V(status) and V(error).
      type: list
      elements: dict
      returned: success
    failed_hosts:
      description: Hosts of which nothing could be planned, with V(host) and V(error).
      type: list
      elements: dict
      returned: success
    green:
      description: Whether nothing failed.
      type: bool
      returned: success
    text:
      description: The summary as a table for people.
      type: str
      returned: success
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: file-not-json
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
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import arguments, record


def main():
    module = AnsibleModule(argument_spec=arguments.record_spec(), supports_check_mode=True)
    params = module.params
    try:
        merged = record.merge(params["state_dir"], params["run_id"], params["hosts"], params["host_errors"])
        path, changed = record.write_record(params["state_dir"], merged, module.check_mode)
    except StowageError as error:
        fail(module, error)
    module.exit_json(changed=changed, record=path, summary=merged["summary"])


if __name__ == "__main__":
    main()
