#!/usr/bin/python
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: link_server
short_description: Let one machine reach another by an SSH key of its own
version_added: 0.2.0
author:
  - Stowage contributors (@stowage)
description:
  - Makes, renews, restricts and revokes a link. A link lets one machine, the source, log in to another, the target,
    with a key that was made on the source and never leaves it. Either may be an ESXi host or a Linux machine.
  - The target is the machine that the task is for, or the inventory host named in O(target). The source is the
    machine where the module runs (the task's C(delegate_to)), or the inventory host named in O(source).
  - The public half is installed where the target's system keeps it, C(/etc/ssh/keys-USER/authorized_keys) on ESXi and
    C(~/.ssh/authorized_keys) on Linux. Only lines whose comment is C(stowage-link:NAME:SOURCE:TARGET) of this very
    link are ever changed; all others stay as they are, byte for byte.
  - The target's host keys are read through the connection that the module already trusts, and pinned on the source in
    a file beside the key. Where links lead both ways, each side pins the other.
  - A password is needed for the first link only. As soon as the machine where the module runs has its own link to a
    machine (O(control)), that key is used in place of any password.
  - A new key is tried before an old one is given up. One that does not work changes nothing for the old one.
  - What an interrupted run left is put right by the next one. What others changed meanwhile is reported in RV(drift)
    and put right, in check mode only reported.
  - On ESXi the change is saved with C(/sbin/auto-backup.sh), so that it outlives a reboot, and SSH is told to start
    with the host. The file of the key itself lies in the same folder as C(authorized_keys) there.
extends_documentation_fragment:
  - stowage.esxi.connection
  - stowage.esxi.attributes
  - stowage.esxi.attributes.actiongroup_esxi
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - O(rotate=true) makes a new key each time.
  action:
    details:
      - The action plugin takes the connection options of both machines from the variables of their inventory hosts.
        The work is the module's.
options:
  name:
    description:
      - Name of the link. Together with the names of source and target it says which key and which line are meant.
    type: str
    required: true
  state:
    description:
      - V(present) makes the link, or puts it right.
      - V(absent) revokes it. First the target forgets the key, then the source. A source that cannot be reached is a
        warning, and one that has left the inventory is not asked. A connection that is open already goes on until it is
        closed.
    type: str
    choices: [present, absent]
    default: present
  source:
    description:
      - Inventory name of the machine that uses the key. Without it, the machine where the module runs.
      - Its connection is taken from the variables of that inventory host. The action plugin does it, so that a
        password never stands in a task.
    type: str
  target:
    description:
      - Inventory name of the machine that accepts the key, for a task that is for the source.
      - Its connection is taken from the variables of that inventory host.
    type: str
  source_connection:
    description:
      - How the source is reached from the machine where the module runs, for a source that is no inventory host. The
        same options as for the target, under the same names.
    type: dict
    suboptions:
      hostname:
        description: Name or address.
        type: str
      port:
        description: Port of SSH.
        type: int
        default: 22
      username:
        description: User to log in as. The key is made for this user.
        type: str
        default: root
      password:
        description: Password of that user.
        type: str
      private_key_file:
        description: Private key file on the machine where the module runs.
        type: path
      private_key:
        description: Text of a private key.
        type: str
      private_key_passphrase:
        description: Passphrase of the private key.
        type: str
      jump_host:
        description: Jump host, as V([user@]host[:port]).
        type: str
      host_key_policy:
        description: Which host keys are accepted.
        type: str
        choices: [strict, pinned, accept_new]
        default: strict
      host_key_fingerprints:
        description: SHA256 fingerprints of its host keys.
        type: list
        elements: str
        default: []
      jump_host_key_fingerprints:
        description: SHA256 fingerprints of the jump host's host keys.
        type: list
        elements: str
        default: []
      known_hosts_file:
        description: The known_hosts file, on the machine where the module runs.
        type: path
      use_agent:
        description: Use the keys of the ssh-agent.
        type: bool
        default: false
      connect_timeout:
        description: Seconds to wait for the connection.
        type: int
        default: 15
      ssh_backend:
        description: What speaks SSH.
        type: str
        choices: [auto, openssh, paramiko]
        default: auto
  source_name:
    description: What the source is called in the link's mark. The inventory name where there is one.
    type: str
  source_gone:
    description:
      - With O(state=absent), whether the source is not asked for its half of the key, because there is no such machine
        any more, or another one of that name. Set by itself where O(source) is no host of the inventory.
    type: bool
    default: false
  target_name:
    description:
      - What the target is called in the link's mark and in the name of the key. The inventory name where there is
        one.
    type: str
  target_is_local:
    description:
      - Whether the target is the machine where the module runs. Set by itself where the task is for the machine that
        it is delegated to.
    type: bool
    default: false
  user:
    description:
      - Account of the target that the key opens. Without it, the one that the module logs in as.
      - For another account than that, the module must log in as root.
    type: str
  address:
    description:
      - Name or address of the target as the source sees it. Without it, O(hostname).
      - "Variable of the target: C(stowage_link_address)."
    type: str
  address_port:
    description:
      - Port of SSH of the target as the source sees it. Without it, O(port).
      - "Variable of the target: C(stowage_link_port)."
    type: int
  key_type:
    description:
      - V(auto) is RSA with 3072 bits where the target is ESXi or one side is in FIPS mode, which refuses Ed25519. Else
        Ed25519.
    type: str
    choices: [auto, rsa, ecdsa, ed25519]
    default: auto
  key_folder:
    description:
      - Folder of the source for the key and its pinned host keys. Without it, C(~/.ssh) on Linux and
        C(/etc/ssh/keys-USER) on ESXi, which keeps that folder over a reboot.
    type: path
  from_addresses:
    description:
      - Addresses, networks in CIDR form or name patterns that the key works from (C(from=) of the line). All, without
        it.
    type: list
    elements: str
    default: []
  restriction:
    description:
      - What the key may do. Enforced by a forced command in the line of the key, with no terminal, no forwarding of any
        kind, no subsystem and no user rc. It needs nothing installed on the target.
      - RV(not_enforced) says what cannot be kept from the key on that system.
    type: dict
    suboptions:
      kind:
        description:
          - V(none) opens the whole account.
          - V(receive) takes new files into O(restriction.path) and nothing else. C(stowage-put SIZE NAME) as the
            command writes what comes on standard input, whole or not at all. Nothing is read back, listed, replaced
            or removed.
          - V(read) lists and reads below O(restriction.path) and nothing else, by C(stowage-list [FOLDER]) and
            C(stowage-get FILE). Symbolic links are not followed.
          - V(command) starts O(restriction.command), and nothing else, when C(stowage-run) or nothing is asked for.
          - V(work) starts the one playbook of O(restriction.work), and tells how it goes, for
            M(stowage.esxi.linked_work). The target needs Ansible, and C(flock).
        type: str
        choices: [none, receive, read, command, work]
        default: none
      path:
        description: Folder of the target, for V(receive) and V(read).
        type: path
      command:
        description: Words of the one command line, for V(command). The other side can add none.
        type: list
        elements: str
      programs:
        description:
          - Programs that may work in O(restriction.path) too, where they are on the target.
          - V(rsync) for V(receive) writes and replaces, and removes and reads back nothing; for V(read) it reads. Its
            options and its path are taken apart, and what is not known to stay in the folder is refused. A path is
            relative to the folder, or in it. What symbolic links lead to is munged, and no device nodes are made.
          - V(borg) for V(receive) is C(borg serve --append-only --restrict-to-path). Whoever writes into a repository
            can read it. For V(read) borg has no server.
        type: list
        elements: str
        choices: [rsync, borg]
        default: []
      work:
        description:
          - For V(work), what may be started. All of it stands in the line of the key on the target, so that no secret
            belongs here; those are in a vault on the target.
          - A work runs in the background and goes on when its link is cut. One of a name runs at a time, whoever starts
            it. The last 20 are remembered in C(~/.stowage-works) of O(user).
        type: dict
        suboptions:
          name:
            description: Name of the work.
            type: str
            required: true
          playbook:
            description: The playbook, by its path on the target or its name in a collection.
            type: str
            required: true
          inventory:
            description: The inventory on the target. Without it, that of its Ansible configuration.
            type: path
          extra_vars:
            description: Extra variables that are always given, and that the other side cannot change.
            type: dict
            default: {}
          allow:
            description:
              - Extra variables that the other side may set, each with an extended regular expression that the whole of
                its value must fit. A value is a text of letters, digits and C(_.,:@/+=-), whatever the pattern says.
              - The variable C(stowage_run_id) is always the id of the work, by which its record is found.
            type: dict
            default: {}
          directory:
            description: Folder of the target to run in, with its C(ansible.cfg). Without it, the home of O(user).
            type: path
          ansible_playbook:
            description: The program on the target, for example C(/opt/stowage/bin/ansible-playbook).
            type: str
            default: ansible-playbook
  firewall:
    description:
      - What is done about the outgoing rule set C(sshClient) of a source that is an ESXi host, where it is closed.
      - V(open) opens it. V(restore) opens it only while the link is tried, and on O(state=absent) closes it again where
        this module had opened it and no other link is left. V(leave) does not touch it.
    type: str
    choices: [open, restore, leave]
    default: open
  verify:
    description:
      - Whether the source logs in to the target with its key, to prove the link. V(changed) does so after each change.
    type: str
    choices: [changed, always, never]
    default: changed
  rotate:
    description: Make a new key, and give up the old one once the new one works.
    type: bool
    default: false
  max_age_days:
    description: Rotate a key that is older than so many days. V(0) never does.
    type: int
    default: 0
  control:
    description: Name of the links by which the machine where the module runs reaches the others without a password.
    type: str
    default: control
seealso:
  - name: OpenSSH manual, format of authorized_keys
    description: What the options of a line mean.
    link: https://man.openbsd.org/sshd.8#AUTHORIZED_KEYS_FILE_FORMAT
"""

EXAMPLES = r"""
---
- name: Let the backup server reach the hypervisor by key; the password in the inventory is needed this once
  stowage.esxi.link_server:
    name: control
  delegate_to: backup01

- name: Let the hypervisor esx1 put files into one folder of this backup server, and nothing else
  stowage.esxi.link_server:
    name: push
    source: esx1
    user: stowage
    from_addresses: [192.0.2.11]
    restriction:
      kind: receive
      path: /srv/push/esx1

- name: Let the first backup server start the nightly backup on the second, and nothing else
  stowage.esxi.link_server:
    name: nightly
    source: backup1
    target: backup2
    user: stowage
    restriction:
      kind: work
      work:
        name: nightly
        playbook: stowage.esxi.backup_hot
        inventory: /etc/stowage/inventory.yml
        directory: /etc/stowage
        extra_vars: {backup_program: dedup}
        allow:
          stowage_hosts: "esx[0-9]+(,esx[0-9]+)*"
          backup_how: "hot|warm"
  delegate_to: backup1

- name: Renew the key once a year
  stowage.esxi.link_server:
    name: control
    max_age_days: 365
  delegate_to: backup01

- name: Revoke it
  stowage.esxi.link_server:
    name: control
    state: absent
  delegate_to: backup01

- name: Revoke the link of a backup server that has left the inventory
  stowage.esxi.link_server:
    name: control
    source: backup00
    state: absent
  delegate_to: backup01
"""

RETURN = r"""
---
link:
  description: The link.
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: success
      sample: control
    source:
      description: The machine that uses the key.
      type: str
      returned: success
      sample: backup01
    target:
      description: The machine that accepts it.
      type: str
      returned: success
      sample: esx1
    user:
      description: The account that it opens.
      type: str
      returned: success
      sample: root
    address:
      description: The target's address as the source sees it.
      type: str
      returned: success
      sample: 192.0.2.11
    port:
      description: The target's port as the source sees it.
      type: int
      returned: success
      sample: 22
    authorized_keys_file:
      description: The file on the target that holds the line.
      type: str
      returned: success
      sample: /etc/ssh/keys-root/authorized_keys
key:
  description: The key on the source.
  returned: success, with O(state=present)
  type: dict
  contains:
    file:
      description: Path of the private key.
      type: str
      returned: success
      sample: /root/.ssh/stowage-control@esx1
    type:
      description: Its type.
      type: str
      returned: success
      sample: rsa
    fingerprint:
      description: Fingerprint of its public half. Null in check mode where it would be made.
      type: str
      returned: success
      sample: SHA256:VeJ2KCbs1TJnT9uN9nX0Wp7n9tXQ0Nq4jXo8m0a5v3E
    age_days:
      description: How old it is.
      type: float
      returned: success
      sample: 12.5
known_hosts_file:
  description: The file on the source with the target's host keys.
  returned: success, with O(state=present)
  type: str
  sample: /root/.ssh/stowage-control@esx1.known_hosts
host_key_fingerprints:
  description: Fingerprints of the target's host keys.
  returned: success, with O(state=present)
  type: list
  elements: str
  sample: ["SHA256:l3KFX2ZJlGW7ZZqvmjBhbbVGpttQvggXfuQmnY3K930"]
ssh_command:
  description: How the source uses the link, as the words of a command line. A command for the target goes behind it.
  returned: success, with O(state=present)
  type: list
  elements: str
  sample: [ssh, -F, /dev/null, -i, /root/.ssh/stowage-control@esx1, --, 192.0.2.11]
not_enforced:
  description: What nothing on the target keeps the key from, in sentences.
  returned: success, with O(state=present)
  type: list
  elements: str
  sample: ["The key works from every address that reaches the machine."]
drift:
  description: What was not as this module had left it. In check mode it still is so.
  returned: success
  type: list
  elements: str
  sample: ["esx1 has no line for the key of backup01"]
actions:
  description: What was done, in words; in check mode what would be done.
  returned: success
  type: list
  elements: str
  sample: ["pin the host keys of esx1 on backup01"]
links_accepted:
  description: The marks of all links that had a line in that file of the target before.
  returned: success
  type: list
  elements: str
  sample: ["stowage-link:control:backup01:esx1"]
error:
  description: What failed, for programs.
  returned: failure
  type: dict
  contains:
    id:
      description: Stable short id of the failure.
      type: str
      returned: failure
      sample: link-does-not-work
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
from ansible_collections.stowage.esxi.plugins.module_utils.link import manage, restriction, wanted
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import connection_argument_spec


def argument_spec():
    return dict(
        connection_argument_spec(),
        name=dict(type="str", required=True),
        state=dict(type="str", choices=["present", "absent"], default="present"),
        source=dict(type="str"),
        target=dict(type="str"),
        source_connection=dict(type="dict", options=connection_argument_spec()),
        source_name=dict(type="str"),
        source_gone=dict(type="bool", default=False),
        target_name=dict(type="str"),
        target_is_local=dict(type="bool", default=False),
        user=dict(type="str"),
        address=dict(type="str"),
        address_port=dict(type="int"),
        key_type=dict(type="str", choices=list(wanted.KEY_TYPES), default="auto", no_log=False),
        key_folder=dict(type="path", no_log=False),
        from_addresses=dict(type="list", elements="str", default=[]),
        restriction=dict(
            type="dict",
            options=dict(
                kind=dict(type="str", choices=list(restriction.KINDS), default="none"),
                path=dict(type="path"),
                command=dict(type="list", elements="str"),
                programs=dict(type="list", elements="str", choices=list(restriction.PROGRAMS), default=[]),
                work=dict(
                    type="dict",
                    options=dict(
                        name=dict(type="str", required=True),
                        playbook=dict(type="str", required=True),
                        inventory=dict(type="path"),
                        extra_vars=dict(type="dict", default={}),
                        allow=dict(type="dict", default={}),
                        directory=dict(type="path"),
                        ansible_playbook=dict(type="str", default="ansible-playbook"),
                    ),
                ),
            ),
        ),
        firewall=dict(type="str", choices=list(wanted.FIREWALL), default="open"),
        verify=dict(type="str", choices=list(wanted.VERIFY), default="changed"),
        rotate=dict(type="bool", default=False),
        max_age_days=dict(type="int", default=0),
        control=dict(type="str", default="control"),
    )


def main():
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        module.exit_json(**manage.manage(module.params, check_mode=module.check_mode, warn=module.warn))
    except StowageError as error:
        fail(module, error)


if __name__ == "__main__":
    main()
