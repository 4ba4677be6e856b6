# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    # What opens the store that a backup goes into, or a restore comes from.
    DOCUMENTATION = r"""
options:
  store:
    description:
      - For all programs but V(vmkfstools), what opens the store or the repository, beside its place.
      - None of it is written into a journal, a record, or a restore point, and none of it is on a command line.
    type: dict
    suboptions:
      passphrase:
        description: Passphrase or recovery key of an encrypted store; passphrase of a repository.
        type: str
      endpoint:
        description: URL of the object storage, for a store in a bucket that is not at Amazon.
        type: str
      region:
        description: Region of the object storage.
        type: str
      access_key:
        description: Name of the object storage's key.
        type: str
      secret_key:
        description: Secret of the object storage's key.
        type: str
      create:
        description:
          - Whether a store that is not there is no problem for a plan, as it will be made before the first copy
            (M(stowage.esxi.dedup_store)).
        type: bool
        default: false
      scope:
        description:
          - Of which restore points a hypervisor may learn that the store has their chunks, by not being asked for the
            bytes; those of the same hypervisor, of the same O(store.group), or all of the store.
          - The store keeps each chunk once in any case. The scope says only what need not travel.
        type: str
        choices: [host, group, store]
        default: host
      group:
        description: Name of the group that the hypervisor belongs to, for O(store.scope=group).
        type: str
      borg_path:
        description: For the program V(borg), borg itself, by its name or path on the machine where the module runs.
        type: str
        default: borg
      borg_rsh:
        description:
          - For the program V(borg), the command that reaches C(ssh://) repositories. It must ask nobody anything.
            Without it, ssh with O(store.ssh_key), where that is given.
        type: str
      rsync_path:
        description:
          - For the program V(rsync), the path of an rsync on the hypervisor, such as
            V(/vmfs/volumes/datastore1/tools/rsync). Then only what differs from the image before leaves it. Where it
            cannot be used, every byte that the disks hold is sent, and the plan and the record say why.
        type: str
      rsync_whole_file:
        description:
          - For the program V(rsync), whether everything is sent and written anew, and no former image is looked at.
        type: bool
        default: false
      ssh_key:
        description:
          - For a backup point on another server, the file of the private key on the machine where the module runs. A
            file of that name with C(.known_hosts) behind it holds the server's host keys, as
            M(stowage.esxi.link_server) makes both. Without it, the keys and known hosts of the user there are used.
        type: path
      stage_dir:
        description:
          - For the program V(rsync) and a backup point on another server, the folder on the machine where the module
            runs that images are put together in before they are sent. Without it, C(stage) in O(state_dir).
        type: path
requirements:
  - For the program C(dedup), the Python libraries xxhash and zstandard on the machine where the module runs,
    cryptography for an encrypted store, boto3 for one in a bucket.
  - For the program C(borg), borg 1.2 or later there.
  - For the program C(rsync) with a backup point on another server or an rsync on the hypervisor, rsync 3.1.3 or later
    there and at the other end.
"""
