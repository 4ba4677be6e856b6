# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as an Ansible inventory."""

from __future__ import annotations

import json
from typing import Any

from esxilab import sshd
from esxilab.hostroot import LabPaths
from esxilab.topology import Machine, Topology


def _variables(paths: LabPaths, topology: Topology, machine: Machine, server_python: str) -> dict[str, Any]:
    fingerprints = [sshd.fingerprint(key) for key in sshd.host_public_keys(paths.keys, machine)]
    variables: dict[str, Any] = {
        "ansible_host": machine.address,
        "ansible_port": machine.port,
        "ansible_user": "root",
    }
    if machine.login == "key":
        variables["ansible_ssh_private_key_file"] = str(paths.keys / "id_rsa")
    else:
        variables["ansible_password"] = machine.password
    variables["ansible_ssh_common_args"] = (
        f"-o UserKnownHostsFile={paths.known_hosts} -o GlobalKnownHostsFile=/dev/null"
        " -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    )
    variables["stowage_host_key_fingerprints"] = fingerprints
    variables["stowage_known_hosts_file"] = str(paths.known_hosts)
    if machine.is_esxi:
        servers = topology.backup_servers
        if servers:
            variables["stowage_backup_server"] = servers[0].name
        variables["ansible_python_interpreter"] = "/bin/python3"
    else:
        variables["ansible_python_interpreter"] = server_python
    return variables


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{pad}{key}:", *_lines(item, depth + 1)]
        elif isinstance(item, list) and item:
            # A JSON scalar is a YAML scalar, too, and needs no thought about quoting.
            lines += [f"{pad}{key}:", *(f"{pad}  - {json.dumps(entry)}" for entry in item)]
        else:
            lines.append(f"{pad}{key}: {json.dumps(item)}")
    return lines


def render(paths: LabPaths, topology: Topology, server_python: str) -> str:
    """The inventory as YAML: groups esxi and backup_servers."""
    groups: dict[str, Any] = {}
    for group, machines in (("esxi", topology.hosts), ("backup_servers", topology.backup_servers)):
        groups[group] = {
            "hosts": {machine.name: _variables(paths, topology, machine, server_python) for machine in machines}
        }
    return "\n".join(["---", f"# Lab {topology.name} in {paths.folder}", *_lines(groups, 0)]) + "\n"
