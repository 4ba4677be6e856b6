#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_prune
short_description: Remove restore points that no rule keeps
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Decides for every restore point of a backup point whether it stays, with the reasons, and removes those that no rule
    keeps. It is the same for folders on a datastore, a dedup store, and a repository of borg.
  - Each backup rotates the restore points of its own VM. This is for those that have no backup any more, and for rules
    that became stricter.
  - A restore point that verify has found damaged counts for no rule and takes no good one's place. Held ones, those
    that a restore reads, and the newest O(keep.min) of each VM always stay.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.store_access
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
    details:
      - The decisions are those of a real run, and nothing is removed.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  program:
    description: What made the restore points.
    type: str
    choices: [vmkfstools, rsync, dedup, borg]
    default: vmkfstools
  point:
    description:
      - The backup point, as in the policy of the backup.
      - Of folders on a datastore that several hosts see, those of a VM are pruned for the host that has made its newest
        restore point.
    type: str
    required: true
  keep:
    description:
      - Which restore points of each VM stay. A span keeps the newest one of each of its latest spans that have one.
    type: dict
    required: true
    suboptions:
      last:
        description: The newest ones.
        type: int
        default: 0
      hourly:
        description: One for each hour.
        type: int
        default: 0
      daily:
        description: One for each day.
        type: int
        default: 0
      weekly:
        description: One for each week.
        type: int
        default: 0
      monthly:
        description: One for each month.
        type: int
        default: 0
      yearly:
        description: One for each year.
        type: int
        default: 0
      within_days:
        description: All that are not older than so many days.
        type: int
        default: 0
      min:
        description: Never fewer than these, and at least one.
        type: int
        default: 1
  own_keep:
    description:
      - Whether the restore points of a VM go by the rule that its newest backup was made with, as its restore point
        tells it; none goes where that backup was to remove none. O(keep) then counts for VMs whose restore points tell
        of no rule, such as archives of borg that an earlier version made.
    type: bool
    default: false
  min_verified:
    description: Never fewer of a VM that a verify has found good.
    type: int
    default: 1
  limits_dir:
    description:
      - For the program V(borg), the folder of the limits on the machine where the module runs. Copies into the same
        repository are waited for.
    type: path
    default: /var/lib/stowage/limits
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
  - module: stowage.esxi.backup_proof
"""

EXAMPLES = r"""
---
- name: Keep two weeks of days, and a year of months
  stowage.esxi.backup_prune:
    point: /vmfs/volumes/backup
    keep:
      daily: 14
      monthly: 12
  delegate_to: backup01
"""

RETURN = r"""
---
pruned:
  description: What was decided and done; in check mode what would be done.
  returned: success
  type: dict
  contains:
    decisions:
      description:
        - One for each restore point, with V(path), V(time), V(vm), V(identity), V(host), V(keep), V(reasons), and
          V(proven), whether the last verify of it found it good.
      type: list
      elements: dict
      returned: success
    removed:
      description: The restore points that went.
      type: list
      elements: str
      returned: success
    problems:
      description: What could not be removed or read, with the reason.
      type: list
      elements: str
      returned: success
    collected:
      description: Of a dedup store, what its collection did; else null.
      type: dict
      returned: success
    text:
      description: The same in words.
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
      sample: bad-policy
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import fleetoptions, keeping


def main():
    module = AnsibleModule(
        argument_spec=fleetoptions.prune_spec(),
        supports_check_mode=True,
        mutually_exclusive=[("private_key", "private_key_file")],
    )
    params = module.params
    try:
        with ExitStack() as stack:
            host, stores, label = fleetoptions.opened(stack, params)
            rules = keeping.rules_of(params, module.check_mode)
            report = keeping.prune(params, host, stores, label, rules)
    except StowageError as error:
        fail(module, error)
    before = sorted(one.path for one in report.verdicts)
    after = sorted(set(before) - set(report.removed))
    module.exit_json(
        changed=report.changed,
        pruned=report.as_dict(),
        diff={"before": {"points": before}, "after": {"points": after}},
    )


if __name__ == "__main__":
    main()
