#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: dedup_store
short_description: Make and keep a dedup store of restore points
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Makes a store, changes its settings and its keys, removes what no restore point needs, and proves what is in it.
  - It runs on the machine where the store is, or for a store in a bucket on any machine. For a store on a datastore of
    a hypervisor it runs on the backup server, and reaches the hypervisor by SSH.
  - No module deletes a store.
extends_documentation_fragment:
  - stowage.esxi.store
  - stowage.esxi.connection
  - stowage.esxi.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
options:
  state:
    description:
      - V(present) makes the store where there is none, and gives it the settings and keys that are named.
      - V(collected) removes the packs that no restore point needs. It runs beside backups; what one of them may lean on
        goes in a later run.
      - V(copied) copies restore points to the store O(other), which must be there and have the same O(chunk_bytes).
      - V(pruned) removes the restore points that neither O(keep) nor a hold keeps, with the reason for each, and then
        collects.
      - V(repaired) makes the index anew, leaves out what is damaged, and brings back from O(other) what that has. It
        fails where a restore point cannot be restored whole afterwards.
      - V(verified) looks at every record, index file and restore point, or with O(slice), O(newest) or O(points) at a
        part of them, and fails where something is damaged.
    type: str
    choices: [present, collected, copied, pruned, repaired, verified]
    default: present
  chunk_bytes:
    description:
      - Size of a chunk, a power of two between 64 KiB and 16 MiB. A new store has 1 MiB; it can never be changed.
    type: int
  hash:
    description:
      - What names a chunk. A new store has V(sha256), which every hypervisor can compute; it can never be changed.
    type: str
    choices: [sha256, blake3]
  codec:
    description: How new chunks are compressed. A new store has V(zstd).
    type: str
    choices: [none, zlib, zstd]
  level:
    description: How hard, for V(zstd) -7 (fast) to 19, for V(zlib) 1 to 9. A new store has 1.
    type: int
  pack_bytes:
    description: Size at which a pack is ended, between 1 MiB and 2 GiB. A new store has 64 MiB.
    type: int
  quota_bytes:
    description:
      - Room that the packs and the index may take. A backup that meets it is given up. A new store has 0, which means
        no limit.
    type: int
  reserve_bytes:
    description:
      - What of O(quota_bytes) no backup takes, so that a collection can work; less than all of it. A new store has 0,
        which means a twentieth.
      - So much also stays free of the file system of a store that is a folder, with a quota or without one. V(0) means
        a twentieth of it there, and no more than 1 GiB.
    type: int
  repack_percent:
    description: A pack of which less is needed is written anew by a collection. A new store has 50.
    type: int
  keys:
    description:
      - Passphrases that open the encrypted store, by the names of their keys. One of the same name that is another
        passphrase is replaced.
      - O(passphrase) is that of a new store's first key, which is called C(first).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Small letters, digits, dashes.
        type: str
        required: true
      passphrase:
        description: The passphrase.
        type: str
        required: true
  purge_keys:
    description: Whether passphrases that are not in O(keys) are removed. Recovery keys stay.
    type: bool
    default: false
  recovery_key:
    description:
      - Whether there shall be a recovery key. Where there is none a random one is made and returned once, as
        RV(recovery_key). Use C(no_log) and keep it where the passphrase is not.
    type: bool
    default: false
  keep:
    description:
      - With O(state=pruned), which restore points of each machine stay. A span keeps the newest one of each of its
        latest spans that have one.
    type: dict
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
        description: Never fewer than these.
        type: int
        default: 1
  machines:
    description:
      - With O(state=pruned), O(state=copied) and O(newest), the machines that are meant, by their ids, or by
        their names where no machine has it as its id. Without it, all. An empty list is refused.
    type: list
    elements: str
  min_verified:
    description: With O(state=pruned), never fewer of a machine that a verify has found good.
    type: int
    default: 1
  room_bytes:
    description:
      - With O(state=pruned), the oldest restore points go, too, until packs and index take no more than that. Without
        O(keep), no other ones go.
    type: int
  other:
    description: The second store, for O(state=copied) and O(state=repaired).
    type: dict
    suboptions:
      location:
        description: As O(location).
        type: str
        required: true
        aliases: [path]
      passphrase:
        description: As O(passphrase).
        type: str
      endpoint:
        description: As O(endpoint).
        type: str
      region:
        description: As O(region).
        type: str
      access_key:
        description: As O(access_key).
        type: str
      secret_key:
        description: As O(secret_key).
        type: str
      ssh_key:
        description: As O(ssh_key).
        type: path
  remove_lost:
    description:
      - With O(state=repaired), whether restore points that cannot be restored whole are removed. Held ones stay.
    type: bool
    default: false
  deep:
    description:
      - With O(state=verified) and O(state=repaired), whether every record is decoded and proven by its hash.
    type: bool
    default: false
  slice:
    description:
      - With O(state=verified), the packs that are looked at, as V(K/N), the K-th of N slices. Every pack is in exactly
        one of them, whatever comes and goes, so that N runs look at all of it once. The index and the small files are
        looked at each time.
      - What is found damaged is recorded of the restore points that it hits. A slice records none as good, for it
        proves none of them whole.
    type: str
  newest:
    description:
      - With O(state=verified), whether only what the newest restore point of each machine needs is looked at. These are
        recorded as good or bad, as by a run over all of the store; what was found of others stays.
    type: bool
  points:
    description:
      - With O(state=verified), the restore points that are looked at, by their ids, the beginnings of their ids where
        these are enough, or V(latest) in a store of one machine. What is recorded is as with O(newest).
      - An empty list is refused, for it proves nothing.
    type: list
    elements: str
  observe_seconds:
    description:
      - With O(state=collected), O(state=pruned) and O(state=repaired), how long a backup without a sign of life is
        watched before it is given up. Less than 20 counts as 20, for one that lives shows it every 10 seconds.
    type: float
    default: 60
seealso:
  - module: stowage.esxi.dedup_store_info
"""

EXAMPLES = r"""
---
- name: Make an encrypted store
  stowage.esxi.dedup_store:
    location: /srv/stowage
    passphrase: "{{ vault_store_passphrase }}"
    level: 3
  delegate_to: backup01

- name: Make a store in a bucket
  stowage.esxi.dedup_store:
    location: s3://backups/esxi
    endpoint: https://s3.example.com
    access_key: stowage
    secret_key: "{{ vault_s3_secret }}"
  delegate_to: backup01

# A play on the hypervisors: the connection options are taken from the variables of each.
- name: Make a store on a datastore, as a local backup point
  stowage.esxi.dedup_store:
    location: /vmfs/volumes/backup/stowage
  delegate_to: backup01

- name: Replace the passphrase
  stowage.esxi.dedup_store:
    location: /srv/stowage
    passphrase: "{{ vault_store_passphrase }}"
    keys:
      - name: from-2027
        passphrase: "{{ vault_store_passphrase_2027 }}"
    purge_keys: true
  delegate_to: backup01

- name: Keep what the policy says
  stowage.esxi.dedup_store:
    location: /srv/stowage
    state: pruned
    keep:
      daily: 14
      weekly: 8
      monthly: 12
  delegate_to: backup01

- name: Copy it to the second site
  stowage.esxi.dedup_store:
    location: /srv/stowage
    state: copied
    other:
      location: s3://second-site/esxi
  delegate_to: backup01

- name: Prove all of it
  stowage.esxi.dedup_store:
    location: /srv/stowage
    state: verified
    deep: true
  delegate_to: backup01

- name: Prove what a restore would be made from today
  stowage.esxi.dedup_store:
    location: /srv/stowage
    state: verified
    deep: true
    newest: true
  delegate_to: backup01

# A play that runs every night: on each day of the week another slice, in a week all of it.
- name: Look at the store bit by bit
  hosts: backup01
  gather_facts: false
  tasks:
    - name: Prove the slice of this weekday
      stowage.esxi.dedup_store:
        location: /srv/stowage
        state: verified
        deep: true
        slice: "{{ '%u' | ansible.builtin.strftime }}/7"
"""

RETURN = r"""
---
store:
  description: The store; in check mode as it would be.
  returned: O(state=present)
  type: dict
  contains:
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
      sample: true
    settings:
      description: What can be changed, by the names of the options.
      type: dict
      returned: success
      sample: {codec: zstd, level: 1, pack_bytes: 67108864}
    key_slots:
      description: V(name) and V(kind) of each key, V(passphrase), V(recovery) or V(damaged).
      type: list
      elements: dict
      returned: success
      sample: [{name: first, kind: passphrase}]
id:
  description: The store's id. A store that check mode would make has none.
  returned: when there is a store
  type: str
  sample: 605f84e4de5dca22824a148d41b2a316
actions:
  description: What was done, in words; in check mode what would be done.
  returned: O(state=present)
  type: list
  elements: str
  sample: [set level from 1 to 3]
recovery_key:
  description: The recovery key that was made.
  returned: O(recovery_key=true), when it was made
  type: str
collected:
  description:
    - V(removed), V(announced) and V(rescued) packs, V(freed_bytes), writers V(given_up) and V(waiting_for).
    - In check mode V(announced) are the packs that would go.
  returned: O(state=collected)
  type: dict
pruned:
  description:
    - V(decisions), one for each restore point with V(keep) and V(reasons), V(removed) ones, V(held) ones that were held
      meanwhile, V(room_bytes) and V(over_bytes), and V(collected).
  returned: O(state=pruned)
  type: dict
copied:
  description:
    - V(copied) restore points with their copies, those that were V(there), those that V(failed) because they cannot be
      read whole, and what was V(told) of the bytes.
  returned: O(state=copied), also on failure
  type: dict
repaired:
  description:
    - What was found and done; V(damaged_packs), V(replaced) index files, V(mended) small files, V(healed) records,
      V(lost) parts of restore points by the names of their files, V(removed) restore points, and V(collected).
    - Of what is damaged and lost a thousand of each kind are named, and in V(untold) is how many more there are.
  returned: O(state=repaired), also on failure
  type: dict
verified:
  description:
    - V(ok), V(packs), V(records), V(stored_bytes), V(proven_bytes), V(bad) records and V(problems) with their reasons,
      and V(hit), the disks and files of restore points that need what is damaged.
    - Of V(bad), V(problems) and V(hit) the first thousand are returned, and in V(untold) how many more there are of
      each; V(bad_records) counts all.
    - V(looked_at) says what was looked at. Its V(part) is V(all), V(slice), V(newest) or V(points), with the V(slice)
      or the ids of the V(points).
    - V(good_points) and V(bad_points) are the names of the files of the restore points that were found so;
      V(unrecorded) is why the store could not keep that, if it could not.
  returned: O(state=verified), also on failure
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
      sample: store-bad-settings
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
from ansible_collections.stowage.esxi.plugins.module_utils.cli import bundle
from ansible_collections.stowage.esxi.plugins.module_utils.programs import hoststore
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec
from ansible_collections.stowage.esxi.plugins.module_utils.store import chores, options, wish


def argument_spec():
    return dict(
        connection_argument_spec(),
        **options.place_argument_spec(),
        **options.settings_argument_spec(),
        **options.keys_argument_spec(),
        **options.chores_argument_spec(),
        state=dict(
            type="str",
            choices=["present", "collected", "copied", "pruned", "repaired", "verified"],
            default="present",
        ),
        chunk_bytes=dict(type="int"),
        hash=dict(type="str", choices=["sha256", "blake3"]),
    )


def present(module, backend):
    wanted = options.wish_of(module.params)
    decided, store, paper = wish.fulfil(backend, wanted, bundle.beside, module.check_mode)
    return dict(
        changed=decided.changed,
        store=decided.after,
        actions=decided.words,
        diff=dict(before=decided.before or {}, after=decided.after),
        **({"id": store.id} if store is not None else {}),
        **({"recovery_key": paper} if paper is not None else {}),
    )


def main():
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
        required_together=[("access_key", "secret_key")],
        mutually_exclusive=[*options.NEVER_TOGETHER, ("private_key", "private_key_file")],
        required_if=options.NEEDED_BY_STATE,
    )
    try:
        with hoststore.Places(module.params) as places, places.open(module.params) as backend:
            if module.params["state"] == "present":
                result = present(module, backend)
            else:
                result = chores.run(backend, module.params, module.check_mode, places.open)
    except StowageError as error:
        fail(module, error)
    damage = result.pop("damage", None)
    if damage is not None:
        fail(module, damage, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
