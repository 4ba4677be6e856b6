#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: dedup_store_info
short_description: Gather information about a dedup store
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Returns a store with its settings and keys, its machines and restore points, what it holds and what that costs, and
    what is wrong with it as far as that shows without reading the packs.
  - Use M(stowage.esxi.dedup_store) with O(stowage.esxi.dedup_store#module:state=verified) to prove what is in it.
extends_documentation_fragment:
  - stowage.esxi.store
  - stowage.esxi.connection
  - stowage.esxi.attributes
  - stowage.esxi.attributes.info_module
attributes:
  platform:
    support: full
    platforms: posix
options:
  machine:
    description: Only this machine's restore points, by its id, or by its name where no machine has it as its id. Of
      one that is not there, none.
    type: str
  gather:
    description:
      - What is gathered beside the store itself. V(stats) reads the maps of all disks.
    type: list
    elements: str
    choices: [points, stats]
    default: [points, stats]
seealso:
  - module: stowage.esxi.dedup_store
"""

EXAMPLES = r"""
---
- name: Look at the store
  stowage.esxi.dedup_store_info:
    location: /srv/stowage
    passphrase: "{{ vault_store_passphrase }}"
  delegate_to: backup01
  register: found

- name: Fail where something is wrong with it
  ansible.builtin.assert:
    that: found.exists and found.health.ok

- name: Name the latest restore point of one machine
  ansible.builtin.debug:
    msg: "{{ found.machines | selectattr('name', 'equalto', 'web01') | map(attribute='latest') | first }}"
"""

RETURN = r"""
---
exists:
  description: Whether there is a store. Without one, the other values are empty.
  returned: success
  type: bool
  sample: true
store:
  description: The store.
  returned: success
  type: dict
  contains:
    location:
      description: Where it is.
      type: str
      returned: success
      sample: /srv/stowage
    id:
      description: Its id.
      type: str
      returned: success
      sample: 605f84e4de5dca22824a148d41b2a316
    version:
      description: Version of its format.
      type: int
      returned: success
      sample: 1
    created_at:
      description: When it was made.
      type: str
      returned: success
      sample: "2026-11-26T15:00:00Z"
    chunk_bytes:
      description: Size of a chunk.
      type: int
      returned: success
      sample: 1048576
    hash:
      description: What names a chunk.
      type: str
      returned: success
      sample: sha256
    encrypted:
      description: Whether it is encrypted.
      type: bool
      returned: success
      sample: false
    settings:
      description: What can be changed, by the names of the options of M(stowage.esxi.dedup_store).
      type: dict
      returned: success
      sample: {codec: zstd, level: 1, pack_bytes: 67108864}
    key_slots:
      description: V(name) and V(kind) of each key, V(passphrase) or V(recovery).
      type: list
      elements: dict
      returned: success
      sample: []
machines:
  description: The machines that have restore points.
  returned: O(gather) has V(points)
  type: list
  elements: dict
  contains:
    id:
      description: What the machine is known by.
      type: str
      returned: success
      sample: 52f1c3a4-0c1d-4c8e-9b69-0d0b3f6c1a11
    name:
      description: Its name at its latest restore point.
      type: str
      returned: success
      sample: web01
    points:
      description: Number of its restore points.
      type: int
      returned: success
      sample: 14
    latest:
      description: Id of its latest restore point.
      type: str
      returned: success
      sample: 20261126T150000.000000Z-1f0c2a
    latest_at:
      description: When that was made.
      type: str
      returned: success
      sample: "2026-11-26T15:00:00Z"
points:
  description: The restore points, oldest first.
  returned: O(gather) has V(points)
  type: list
  elements: dict
  contains:
    point:
      description: Its id.
      type: str
      returned: success
      sample: 20261126T150000.000000Z-1f0c2a
    machine:
      description: V(id) and V(name) of the machine.
      type: dict
      returned: success
    created_at:
      description: When it was made.
      type: str
      returned: success
      sample: "2026-11-26T15:00:00Z"
    parent:
      description: The restore point that it was compared with when it was made; null without one.
      type: str
      returned: success
    bytes:
      description: Sizes of its disks together.
      type: int
      returned: success
      sample: 8589934592
    disks:
      description: V(key), V(bytes) and V(facts) of each disk.
      type: list
      elements: dict
      returned: success
    files:
      description: V(name) and V(bytes) of each file beside them.
      type: list
      elements: dict
      returned: success
    facts:
      description: What its maker noted.
      type: dict
      returned: success
    holds:
      description: Names under which it is held, so that no prune removes it.
      type: list
      elements: str
      returned: success
      sample: []
    verified:
      description:
        - What the last verify found; V(good), V(deep) where every byte was proven by its hash, and V(at). Null before.
      type: dict
      returned: success
      sample: {good: true, deep: true, at: "2026-11-27T02:00:00Z"}
stats:
  description: What the store holds and what that costs.
  returned: O(gather) has V(stats)
  type: dict
  contains:
    machines:
      description: Number of machines.
      type: int
      returned: success
    points:
      description: Number of restore points.
      type: int
      returned: success
    disks:
      description: Number of disks in all of them.
      type: int
      returned: success
    logical_bytes:
      description: Sizes of all disks and files of all restore points.
      type: int
      returned: success
    data_bytes:
      description: The same without zeros.
      type: int
      returned: success
    unique_bytes:
      description: What is left when each chunk counts once.
      type: int
      returned: success
    chunks:
      description: Number of chunks.
      type: int
      returned: success
    packs:
      description: Number of packs.
      type: int
      returned: success
    stored_bytes:
      description: Sizes of all packs.
      type: int
      returned: success
    live_bytes:
      description: What restore points need of them.
      type: int
      returned: success
    dead_bytes:
      description: What no restore point needs; also what a backup that is under way has written.
      type: int
      returned: success
    index_bytes:
      description: Sizes of all index files.
      type: int
      returned: success
    dedup_ratio:
      description: RV(stats.data_bytes) by RV(stats.unique_bytes); null in an empty store.
      type: float
      returned: success
      sample: 11.3
    compression_ratio:
      description: RV(stats.unique_bytes) by RV(stats.live_bytes); null in an empty store.
      type: float
      returned: success
      sample: 1.7
health:
  description: What is wrong, as far as it shows without reading the packs.
  returned: success
  type: dict
  contains:
    ok:
      description: Whether nothing is.
      type: bool
      returned: success
      sample: true
    untold:
      description: V(problems) where there are more than are returned, and how many more.
      type: dict
      returned: success
      sample: {}
    problems:
      description: What is, in words.
      type: list
      elements: str
      returned: success
      sample: []
    writers:
      description: Number of backups that are under way, or died and were not given up yet.
      type: int
      returned: success
      sample: 0
    announced_packs:
      description: Number of packs that go when the backups that are under way have ended.
      type: int
      returned: success
      sample: 0
error:
  description: What failed, for programs, with V(id), V(message), V(hint) and V(data).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.heavy import fail
from ansible_collections.stowage.esxi.plugins.module_utils.programs import hoststore
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec
from ansible_collections.stowage.esxi.plugins.module_utils.store import options, survey


def main():
    module = AnsibleModule(
        argument_spec=dict(
            connection_argument_spec(),
            **options.place_argument_spec(),
            machine=dict(type="str"),
            gather=dict(type="list", elements="str", choices=["points", "stats"], default=["points", "stats"]),
        ),
        supports_check_mode=True,
        required_together=[("access_key", "secret_key")],
        mutually_exclusive=[("private_key", "private_key_file")],
    )
    try:
        with hoststore.Places(module.params) as places, places.open(module.params) as backend:
            found = survey.run(
                backend, module.params["passphrase"], machine=module.params["machine"], gather=module.params["gather"]
            )
    except StowageError as error:
        fail(module, error)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
