#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_recover
short_description: Finish what killed backup and restore runs left on an ESXi host
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - Looks for the job folders of interrupted backups and restores in the folders of all VMs of a hypervisor, and on its
    datastores. Those whose owner still shows signs of life are left alone.
  - A dead one is taken over, so that only one of several can do so. What its journal proves to be its own is undone, in
    this order. Remote processes are ended. Temporary files and partial copies are removed. Our snapshot is removed by
    its id. A VM is powered on only if the job stopped it and nobody started or stopped it since.
  - A VM that a restore in place has left torn is made whole; what was still to write is written, from the store that it
    came from, and its configuration with it. Where that cannot be (the store is not here, or needs a passphrase that
    O(store) does not have, or somebody has started the VM since), the job fails with the way out, and the VM stays
    marked.
  - It never powers off. A suspended VM stays suspended. Whatever cannot be proven to be ours is left and reported.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.store_access
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
    details:
      - RV(jobs[].done) then holds the steps that would be taken.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  observe_seconds:
    description:
      - Pause between two looks at a job whose lease was written through another host, whose clock may differ.
    type: int
    default: 20
  consolidation_timeout:
    description: Seconds that removing a snapshot may take.
    type: int
    default: 7200
  fail_incomplete:
    description:
      - Whether a job that could not be recovered fails the task. With V(false) it is only told, in RV(error).
      - A host that cannot be reached or read fails the task in any case.
    type: bool
    default: true
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
  - module: stowage.esxi.backup_job
"""

EXAMPLES = r"""
---
- name: Clean up after interrupted runs
  stowage.esxi.backup_recover:
    inventory_host: "{{ inventory_hostname }}"
  delegate_to: backup01
"""

RETURN = r"""
---
jobs:
  description: One entry for each job that was found.
  returned: always
  type: list
  elements: dict
  contains:
    job:
      description: Its id; empty where its owner came no further than making the folder.
      type: str
      returned: success
      sample: 20261122T205450Z-b3f2a9c01b7de
    vm:
      description: The VM.
      type: str
      returned: success
      sample: web01
    kind:
      description: backup or restore.
      type: str
      returned: success
      sample: backup
    folder:
      description: The job folder.
      type: str
      returned: success
    outcome:
      description:
        - V(recovered), V(live) (left alone), V(waiting) (a guest may still shut down), V(vanished) (the VM is no longer
          on this host), V(elsewhere) (the VM is on another host) or V(failed).
      type: str
      returned: success
      sample: recovered
    done:
      description: What was done, in words.
      type: list
      elements: str
      returned: success
      sample: [ended 1 remote processes, removed snapshot 4]
    left:
      description: What was left, with the reason.
      type: list
      elements: str
      returned: success
    error:
      description: Why it failed; null otherwise.
      type: dict
      returned: success
summary:
  description: How many jobs were V(found), and how many had each outcome.
  returned: always
  type: dict
  sample: {found: 1, recovered: 1, live: 0, waiting: 0, vanished: 0, elsewhere: 0, failed: 0}
references:
  description:
    - The reference snapshots of this host's VMs, which backups with V(reference.enabled) keep between them. Those that
      are older or larger than their policy allows, or in the way of the datastore's room, are removed.
    - A VM in whose folder a job is at work is not looked at.
  returned: always
  type: list
  elements: dict
  contains:
    vm:
      description: The VM.
      type: str
      returned: success
      sample: web01
    snapshot:
      description: Id of the snapshot.
      type: int
      returned: success
      sample: 7
    point:
      description: The restore point that it belongs to.
      type: str
      returned: success
    created_at:
      description: When it became a reference.
      type: str
      returned: success
      sample: "2026-11-22T20:54:03Z"
    bytes:
      description: What the deltas above it occupy.
      type: int
      returned: success
      sample: 268435456
    removed:
      description: Whether it was removed, in check mode whether it would be.
      type: bool
      returned: success
    reason:
      description: Why.
      type: str
      returned: success
      sample: it is 73 hours old, and may be 72
    error:
      description: What kept it from being looked at or removed; empty otherwise.
      type: str
      returned: success
error:
  description: What failed, for programs; with O(fail_incomplete=false), also the jobs that could not be recovered.
  returned: failure, or something was left
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: recover-incomplete
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
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import arguments, recover
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores


def main():
    module = AnsibleModule(argument_spec=arguments.recover_spec(), supports_check_mode=True)
    params = module.params
    try:
        with open_host(params) as host, Stores(Access.of(params["store"]), host) as stores:
            label = params["inventory_host"] or host.name
            outcomes = recover.recover_host(
                host,
                label,
                params["state_dir"],
                params["observe_seconds"],
                params["consolidation_timeout"],
                module.check_mode,
                stores,
            )
            kept = recover.keep_up(host, label, outcomes, params["consolidation_timeout"], module.check_mode)
            report = recover.report(label, outcomes, kept)
    except StowageError as error:
        fail(module, error, jobs=[], summary=recover.summary([]), references=[])
    result = {"changed": report.changed, "jobs": report.jobs, "summary": report.summary}
    result["references"] = [one.as_dict() for one in report.references]
    if report.error is not None and params["fail_incomplete"]:
        fail(module, report.error, **result)
    if report.error is not None:
        result["error"] = report.error.as_dict()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
