# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    # How every module of the action group reaches a hypervisor.
    DOCUMENTATION = r"""
options:
  hostname:
    description:
      - Name or address of the hypervisor.
      - Without it, this and all other connection options are taken from the variables of the inventory host that the
        task is for (not of the machine it is delegated to), C(ansible_host) first, else its inventory name.
      - With it, the connection is made from explicit options only, those of C(module_defaults) included. No variable of
        the inventory host is used, so that no credential reaches a machine that it was not meant for.
    type: str
  port:
    description:
      - Port of its SSH service.
      - "Variable: C(ansible_port) or C(ansible_ssh_port)."
    type: int
    default: 22
  username:
    description:
      - User to log in as.
      - "Variable: C(ansible_user) or C(ansible_ssh_user)."
    type: str
    default: root
  password:
    description:
      - Password of that user. It is sent once, never a second time in a row, since ESXi locks an account after five
        failures.
      - "Variable: C(ansible_password) or C(ansible_ssh_pass)."
    type: str
  private_key_file:
    description:
      - Private key file on the machine where the module runs.
      - Mutually exclusive with O(private_key).
    type: path
  private_key:
    description:
      - Text of a private key. It is kept in a file of mode 0600 only while the connection is made.
      - "Variable: C(ansible_ssh_private_key_file) or C(ansible_private_key_file), a file on the controller; its text is
        passed here."
      - ESXi refuses Ed25519 keys in FIPS mode, which is the default from version 7.0; use RSA with 3072 bits, or ECDSA.
    type: str
  private_key_passphrase:
    description:
      - Passphrase of the private key.
      - "Variable: C(ansible_ssh_private_key_passphrase) or C(ansible_private_key_passphrase)."
    type: str
  jump_host:
    description:
      - Jump host to go through, as V([user@]host[:port]), as seen from the machine where the module runs.
      - It is offered O(private_key) or O(private_key_file), and the default keys of the user that runs the module.
        Without either option it is also offered the keys of the ssh-agent that C(SSH_AUTH_SOCK) names where the module
        runs, whatever O(use_agent) says, which is about the hypervisor. A password is never sent to it.
      - "Variable: C(stowage_jump_host)."
    type: str
  host_key_policy:
    description:
      - V(strict) accepts a host key that is in a known_hosts file, and no other.
      - V(pinned) accepts a host key with one of O(host_key_fingerprints), and no other.
      - V(accept_new) stores the key of a host that was never seen before in the known_hosts file, and refuses a changed
        one.
      - The same policy holds for the jump host.
      - "Variable: C(stowage_host_key_policy). Where it is not set but fingerprints are, V(pinned) is used."
    type: str
    choices: [strict, pinned, accept_new]
    default: strict
  host_key_fingerprints:
    description:
      - SHA256 fingerprints of the hypervisor's host keys, as C(ssh-keygen -l -f) prints them (V(SHA256:...)).
      - "Variable: C(stowage_host_key_fingerprints)."
    type: list
    elements: str
    default: []
  jump_host_key_fingerprints:
    description:
      - SHA256 fingerprints of the jump host's host keys. They never count for the hypervisor.
      - "Variable: C(stowage_jump_host_key_fingerprints)."
    type: list
    elements: str
    default: []
  known_hosts_file:
    description:
      - The known_hosts file for O(host_key_policy=strict) and O(host_key_policy=accept_new), on the machine where the
        module runs.
      - Without it, the files of the user and of the system are used, as OpenSSH does.
      - "Variable: C(stowage_known_hosts_file)."
    type: path
  use_agent:
    description:
      - Use the keys of the ssh-agent that C(SSH_AUTH_SOCK) names where the module runs.
      - "Set by itself where the module runs on the controller, neither password nor key is given, and an agent is
        there. On another machine it needs agent forwarding (C(ForwardAgent=yes) in its C(ansible_ssh_common_args)); the
        variable C(stowage_agent_forwarding) says that it may be used for the hypervisor."
    type: bool
    default: false
  connect_timeout:
    description:
      - Seconds to wait for the connection.
      - "Variable: C(ansible_timeout) or C(ansible_ssh_timeout)."
    type: int
    default: 15
  ssh_backend:
    description:
      - V(openssh) is the C(ssh) program with one shared connection per host. V(paramiko) is the Python library.
      - V(auto) takes the program where it is installed, else the library.
      - "Variable: C(stowage_ssh_backend)."
    type: str
    choices: [auto, openssh, paramiko]
    default: auto
requirements:
  - OpenSSH client 8.0 or newer, or the Python library paramiko, on the machine where the module runs
notes:
  - The module runs where the task runs, usually delegated to a backup server, and reaches the hypervisor by SSH.
    Nothing is needed or installed on the hypervisor.
  - C(ansible_ssh_common_args) and its relatives are not used. Where they name a jump host and O(jump_host) is not set,
    the task fails and says so.
"""
