#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_proof
short_description: Note in the record what was proven of restore points
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Opens restore points that are folders on a datastore, and notes what it found of each.
  - Of those in a dedup store or a repository of borg it notes what the step before has found, which is
    M(stowage.esxi.dedup_store) with V(verified), or M(stowage.esxi.borg_repository) with O(check).
  - The run gets an entry for every VM. M(stowage.esxi.backup_report) tells from these how long ago a restore point of a
    VM was proven.
  - It does not fail because a restore point is damaged. Look at RV(damaged).
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.store_access
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
    details:
      - Everything is looked at, and nothing is noted.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  program:
    description: What made the restore points.
    type: str
    choices: [vmkfstools, rsync, dedup, borg]
    default: vmkfstools
  point:
    description: The backup point, as in the policy of the backup.
    type: str
    required: true
  run_id:
    description: Name of the run.
    type: str
    required: true
  newest:
    description:
      - Of restore points that are folders, whether only the newest of each VM is opened. Only those are looked at that
        this host has made.
    type: bool
    default: true
  deep:
    description: For the program V(dedup), whether every byte was proven by the step before.
    type: bool
    default: false
  verified:
    description: For the program V(dedup), what M(stowage.esxi.dedup_store) has returned as V(verified).
    type: dict
  check:
    description: For the program V(borg), what M(stowage.esxi.borg_repository) was asked to check.
    type: str
    choices: [repository, data]
  damage:
    description: For the program V(borg), what that has failed with; empty where it has found nothing.
    type: str
    default: ""
  allow_none:
    description: Whether it is fine when there is no restore point at all.
    type: bool
    default: false
  inventory_host:
    description:
      - Name of the hypervisor in the inventory. Without it, O(hostname).
    type: str
  state_dir:
    description:
      - Folder on the machine where the module runs that holds the run records and the mirror of the jobs' journals.
    type: path
    default: /var/lib/stowage
seealso:
  - module: stowage.esxi.dedup_store
  - module: stowage.esxi.borg_repository
  - module: stowage.esxi.backup_report
"""

EXAMPLES = r"""
---
- name: Prove what a restore would be made from today
  stowage.esxi.dedup_store:
    location: /srv/stowage
    state: verified
    newest: true
    deep: true
  delegate_to: backup01
  register: proven

- name: Note it
  stowage.esxi.backup_proof:
    program: dedup
    point: /srv/stowage
    run_id: "{{ stowage_run_id }}"
    verified: "{{ proven.verified }}"
    deep: true
  delegate_to: backup01
"""

RETURN = r"""
---
findings:
  description: What was found of each restore point.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The restore point.
      type: str
      returned: success
    time:
      description: Its time.
      type: str
      returned: success
    vm:
      description: Name of the VM when it was made.
      type: str
      returned: success
    identity:
      description: What the VM is known by.
      type: str
      returned: success
    host:
      description: The hypervisor that it was made on, by its name in the inventory.
      type: str
      returned: success
    level:
      description:
        - How deep it was looked. With V(deep), V(records) and V(data) its content was; V(repository), V(sizes) and
          V(opened) are its structure alone.
      type: str
      returned: success
    bad:
      description: What is wrong with it; empty where nothing is.
      type: str
      returned: success
    needs_key_provider:
      description: Why nobody here can prove its content; empty where it needs no key provider.
      type: str
      returned: success
damaged:
  description: Those with anything in V(bad).
  returned: success
  type: list
  elements: dict
proven:
  description: Number of VMs of which nothing was found wrong.
  returned: success
  type: int
text:
  description: The same in words.
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
      sample: nothing-to-verify
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

from contextlib import ExitStack
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import findings, fleetoptions, verifying
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import NothingToVerify


def main():
    module = AnsibleModule(
        argument_spec=fleetoptions.proof_spec(),
        supports_check_mode=True,
        required_if=[("program", "dedup", ("verified",)), ("program", "borg", ("check",))],
        mutually_exclusive=[("private_key", "private_key_file")],
    )
    params = module.params
    try:
        with ExitStack() as stack:
            host, stores, label = fleetoptions.opened(stack, params)
            try:
                found = verifying.look(params, host, stores, label)
            except NothingToVerify:
                if not params["allow_none"]:
                    raise
                found = []
        made = findings.note(
            params["state_dir"], params["run_id"], params["point"], found, SystemClock(), module.check_mode
        )
    except StowageError as error:
        fail(module, error)
    module.exit_json(
        changed=False,
        findings=[asdict(one) for one in found],
        damaged=[asdict(one) for one in found if one.bad],
        proven=sum(entry["status"] == "ok" for entry in made),
        text=findings.text(found),
    )


if __name__ == "__main__":
    main()
