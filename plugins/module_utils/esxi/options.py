# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam of the modules about one VM: shared options become objects, objects become what is returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Journal, Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import Snapshot, SnapshotTree
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.spec import (
    connection_argument_spec,
    endpoint_from_params,
)


def vm_argument_spec() -> dict[str, dict[str, Any]]:
    return {**connection_argument_spec(), "vm": {"type": "str"}, "uuid": {"type": "str"}, "vmid": {"type": "int"}}


# For mutually_exclusive and required_one_of.
VM_OPTIONS = [("vm", "uuid", "vmid")]


def journal_argument_spec() -> dict[str, dict[str, Any]]:
    return {"journal": {"type": "str"}, "job_id": {"type": "str"}}


@contextmanager
def open_host(params: Mapping[str, Any]) -> Iterator[Host]:
    session = open_session(endpoint_from_params(params))
    try:
        yield Host(session)
    finally:
        session.close()


def find_vm(host: Host, params: Mapping[str, Any]) -> VirtualMachine:
    return host.find_vm(name=params.get("vm"), uuid=params.get("uuid"), vmid=params.get("vmid"))


def waiter_for(host: Host, seconds: float, journal: Journal | None) -> Waiter:
    return Waiter(seconds, clock=host.clock, beat=journal.beat if journal is not None else None)


def describe_names(vm: VirtualMachine, **more: Any) -> dict[str, Any]:
    """The short form that the modules which change a VM return."""
    return {
        "name": vm.name,
        "vmid": vm.vmid,
        "identity": vm.identity,
        "instance_uuid": vm.instance_uuid,
        "bios_uuid": vm.bios_uuid,
        "vmx_path": vm.vmx_path,
        "directory": vm.directory,
        **more,
    }


def describe_tree(tree: SnapshotTree) -> list[dict[str, Any]]:
    return [describe_snapshot(snapshot) for snapshot in tree]


def describe_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "description": snapshot.description,
        "created_at": iso(snapshot.created_at) if snapshot.created_at else None,
        "state": snapshot.state,
        "parent_id": snapshot.parent_id,
        "current": snapshot.current,
    }
