#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: borg_repository
short_description: Make and check a repository of borg for backups of ESXi hosts
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Makes a repository of borg where there is none, lists the restore points in it, and has it checked by borg.
  - What becomes of old restore points is decided by the role P(stowage.esxi.backup#role) after each success.
  - borg 1.2 or later runs on the machine where this module runs. The passphrase goes to it through a pipe, and is on no
    command line and in no environment.
extends_documentation_fragment:
  - stowage.esxi.attributes
attributes:
  check_mode:
    support: full
    details:
      - No repository is made. One that is there is checked all the same, which changes nothing.
  diff_mode:
    support: none
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
options:
  location:
    description:
      - Path of the repository on the machine where the module runs, C(ssh://user@server:port/path), or
        C([user@]server:port:/path).
    type: str
    required: true
    aliases: [path]
  passphrase:
    description:
      - Passphrase of the repository.
    type: str
  encryption:
    description:
      - How a new repository is encrypted. Without it V(repokey-blake2) where there is a passphrase, else V(none).
      - The key of the V(repokey) modes lies in the repository; keep a copy of it (C(borg key export)) elsewhere, too.
        That of the V(keyfile) modes lies in the home folder of the user on the machine where the module runs, and there
        alone.
    type: str
    choices: [repokey, repokey-blake2, keyfile, keyfile-blake2, authenticated, authenticated-blake2, none]
  borg_path:
    description:
      - The program borg, by its name or path.
    type: str
    default: borg
  borg_rsh:
    description:
      - The command that reaches C(ssh://) repositories, such as C(ssh -i /etc/stowage/borg_key -o BatchMode=yes).
    type: str
  make:
    description:
      - Whether a repository that is not there is made. With V(false) that is an error.
    type: bool
    default: true
  ssh_key:
    description:
      - File of the private key that opens the server of an C(ssh://) repository, where no O(borg_rsh) is given. A file
        of that name with C(.known_hosts) behind it holds the server's host keys.
    type: path
  check:
    description:
      - What borg checks of a repository that was there before. V(repository) looks at its structure and at the
        archives' metadata, V(data) reads all data, decrypts and compares it.
    type: str
    choices: [none, repository, data]
    default: none
seealso:
  - module: stowage.esxi.vmdk_copy
  - module: stowage.esxi.dedup_store
"""

EXAMPLES = r"""
---
- name: Make an encrypted repository
  stowage.esxi.borg_repository:
    location: /srv/borg
    passphrase: "{{ vault_store_passphrase }}"
  delegate_to: backup01

- name: Prove all of one on another server
  stowage.esxi.borg_repository:
    location: ssh://borg@vault.example.com/./esxi
    passphrase: "{{ vault_store_passphrase }}"
    check: data
  delegate_to: backup01
"""

RETURN = r"""
---
archives:
  description: The names of its archives, in the order in which they were made.
  returned: success
  type: list
  elements: str
  sample: [web01-0a1b2c3d4e5f-20261122T200000Z]
actions:
  description: What was done, in words; in check mode what would be done.
  returned: success
  type: list
  elements: str
  sample: ["made a repository at /srv/borg, encryption repokey-blake2"]
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: borg-wrong-passphrase
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
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import ENCRYPTIONS, Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borgkeeping import CHECKS, keep
from ansible_collections.stowage.esxi.plugins.module_utils.programs.server import rsh_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import located


def main():
    module = AnsibleModule(
        argument_spec={
            "location": {"type": "str", "required": True, "aliases": ["path"]},
            "passphrase": {"type": "str", "no_log": True},
            "encryption": {"type": "str", "choices": list(ENCRYPTIONS)},
            "borg_path": {"type": "str", "default": "borg"},
            "borg_rsh": {"type": "str"},
            "make": {"type": "bool", "default": True},
            "ssh_key": {"type": "path"},
            "check": {"type": "str", "choices": list(CHECKS), "default": "none"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        rsh = params["borg_rsh"] or rsh_of(params["ssh_key"] or "")
        place = located(params["location"])
        repository = Repository(place, params["passphrase"] or None, params["borg_path"], rsh)
        kept = keep(repository, params["encryption"], params["check"], module.check_mode, params["make"])
    except StowageError as error:
        fail(module, error)
    module.exit_json(changed=kept.made, archives=[one.name for one in kept.archives], actions=list(kept.actions))


if __name__ == "__main__":
    main()
