#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_replica
short_description: Look at a replica of a virtual machine on an ESXi host, or say that it takes over
version_added: 0.1.0
author:
  - Stowage contributors (@stowage)
description:
  - A replica is a virtual machine that the role P(stowage.esxi.replicate#role) keeps on a second host, powered off and
    ready to start. It is known by entries of its own configuration, and by the annotation that people read.
  - What a sync has left is sealed there. The module tells what is not so any more, because somebody has started,
    changed, snapshotted or re-registered the copy.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  vm:
    description: Name, identity or UUID of the virtual machine that the replica is of.
    type: str
    required: true
  state:
    description:
      - With V(checked) nothing is changed. RV(replica) is null where the host has no replica of the machine.
      - With V(active) it is marked as having taken over, before it is powered on; no sync overwrites it then.
      - With V(ready) it is marked as a copy that may be overwritten again, as it is now.
      - For both the replica must be powered off.
    type: str
    choices: [checked, active, ready]
    default: checked
  touched:
    description:
      - With O(state=checked), whether a replica that somebody has touched, or that has taken over, is an error.
        V(resync) only tells of it.
    type: str
    choices: [refuse, resync]
    default: refuse
  inventory_host:
    description:
      - Name of the hypervisor in the inventory. Without it, O(hostname).
    type: str
seealso:
  - module: stowage.esxi.restore_plan
"""

EXAMPLES = r"""
---
- name: Has anybody been at the copy of web01?
  stowage.esxi.vm_replica:
    vm: web01
  delegate_to: backup01
"""

RETURN = r"""
---
replica:
  description: The replica; null where there is none.
  returned: success
  type: dict
  contains:
    vmid:
      description: Its number in the host's inventory.
      type: int
      returned: success
    name:
      description: Its name.
      type: str
      returned: success
    identity:
      description: Its identity, which is that of its source unless it was made with new UUIDs.
      type: str
      returned: success
    directory:
      description: Its folder.
      type: str
      returned: success
    vmx_path:
      description: Its configuration file.
      type: str
      returned: success
    state:
      description: V(ready) or V(active).
      type: str
      returned: success
    source:
      description: The hypervisor that its source is on, by its name in the inventory.
      type: str
      returned: success
    point:
      description: Identity and time of the restore point that it holds.
      type: str
      returned: success
    power_state:
      description: Its power state.
      type: str
      returned: success
    touched:
      description: What is not as the last sync has left it, in words.
      type: list
      elements: str
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
      sample: replica-touched
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
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import arguments, replica


def main():
    module = AnsibleModule(argument_spec=arguments.replica_spec(), supports_check_mode=True)
    try:
        with open_host(module.params) as host:
            answer = replica.answer(host, module.params, module.check_mode)
    except StowageError as error:
        fail(module, error)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
