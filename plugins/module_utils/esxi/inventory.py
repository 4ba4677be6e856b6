# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which VMs a host has. Three sources that complete one another, because the listing alone can be imitated."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_inventory import (
    InventoryRow,
    parse_getallvms,
    parse_invalid_vmids,
    parse_vm_inventory,
    unparsed_rows,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import Vmx, parse_vmx, uuid_of

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host

LISTING = "vim-cmd vmsvc/getallvms"
VM_INVENTORY = "/etc/vmware/hostd/vmInventory.xml"
# A list is taken when it holds all that hostd's file holds. A VM registered in between is there at the next one.
READINGS = 3
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Listing:
    """One answer of getallvms, and what hostd's own inventory file says beside it."""

    text: str
    rows: tuple[InventoryRow, ...]
    paths: dict[int, str]
    invalid: frozenset[int]

    @property
    def readable(self) -> bool:
        return "Vmid" in self.text

    @property
    def vmids(self) -> frozenset[int]:
        vouched = unparsed_rows(self.text, set(self.paths))
        return self.invalid | {row.vmid for row in (*self.rows, *vouched)}

    @property
    def left_out(self) -> frozenset[int]:
        return frozenset(self.paths) - self.vmids


def list_vms(host: Host) -> list[VirtualMachine]:
    """Ids from getallvms, paths from hostd's own inventory file, names and UUIDs from each .vmx.

    Names and annotations are somebody's text and can look like rows; the .vmx escapes them, and the inventory file
    holds none. Where a .vmx cannot be read, the row's own words are kept and `vmx` is None.
    """
    listing = read_listing(host)
    paths = listing.paths
    places: dict[int, tuple[InventoryRow, str]] = {}
    for row in listing.rows:
        if row.vmid in places:
            continue
        # An id that hostd's file does not know is text inside somebody's annotation. The file may lag behind a new
        # registration, so such a row is kept only if its .vmx is really there (below).
        path = _path_of(host, row, paths.get(row.vmid))
        if path is not None:
            places[row.vmid] = (row, path)
    for row in unparsed_rows(listing.text, set(paths) - set(places)):
        # A row that hostd's file vouches for, in a shape that names have broken.
        places[row.vmid] = (row, _path_of(host, row, paths[row.vmid]) or paths[row.vmid])
    texts = host.read_texts(path for _row, path in places.values())
    vms: list[VirtualMachine] = []
    for vmid, (row, path) in sorted(places.items()):
        vmx = _vmx(texts[path], path)
        if vmx is None and paths and vmid not in paths:
            continue
        name = vmx.display_name if vmx is not None and vmx.display_name else row.name
        vms.append(VirtualMachine(host, vmid, name, path, vmx=vmx, guest_id=row.guest))
    for vmid in sorted(listing.invalid - set(places)):
        path = paths.get(vmid, "")
        name = posixpath.splitext(posixpath.basename(path))[0] or f"(invalid {vmid})"
        vms.append(VirtualMachine(host, vmid, name, path, vmx=None, invalid="its files are not there"))
    return sorted(vms, key=lambda vm: vm.vmid)


def read_listing(host: Host) -> Listing:
    """A list that nothing is missing from. An answer that is cut short has status 0, too, and would lose VMs unseen.

    Where hostd's file says nothing, two readings that name the same VMs are needed instead.
    """
    previous: Listing | None = None
    for reading in range(READINGS):
        if reading:
            host.clock.sleep(PAUSE_SECONDS)
        listing = _ask(host)
        agreed = bool(listing.paths) or (previous is not None and previous.vmids == listing.vmids)
        if listing.readable and not listing.left_out and agreed:
            return listing
        previous = listing if listing.readable else None
    if not listing.readable:
        raise errors.UnreadableOutput(host=host.name, command=LISTING, reason=f"no heading in {listing.text[:200]!r}")
    if not listing.left_out:
        raise errors.UnreadableOutput(
            host=host.name, command=LISTING, reason=f"it differs each time, and {VM_INVENTORY} cannot be read"
        )
    missing = ", ".join(f"{vmid} ({listing.paths[vmid]})" for vmid in sorted(listing.left_out)[:20])
    raise errors.ListCutShort(host=host.name, count=len(listing.left_out), file=VM_INVENTORY, missing=missing)


def _ask(host: Host) -> Listing:
    answer, exact, mounts = host.ask(
        [["vim-cmd", "vmsvc/getallvms"], ["cat", VM_INVENTORY], ["esxcli", "storage", "filesystem", "list"]]
    )
    if answer.rc != 0:
        host.check(answer)
    if mounts.rc == 0:
        host.keep_datastores(mounts.stdout)
    return Listing(
        text=answer.stdout,
        rows=parse_getallvms(answer.stdout),
        paths=parse_vm_inventory(exact.stdout) if exact.rc == 0 else {},
        invalid=frozenset(parse_invalid_vmids(answer.stderr) + parse_invalid_vmids(answer.stdout)),
    )


def _path_of(host: Host, row: InventoryRow, exact: str | None) -> str | None:
    for candidate in (exact, f"[{row.datastore}] {row.path}"):
        if not candidate:
            continue
        try:
            return host.resolve(candidate)
        except (errors.UnknownDatastore, errors.BadPath):
            continue
    return exact


def _vmx(text: str | Reply, path: str) -> Vmx | None:
    if isinstance(text, Reply):
        return None
    try:
        return parse_vmx(text, path)
    except StowageError:
        return None


def choose(
    host: Host,
    vms: Sequence[VirtualMachine],
    ref: str | int | None = None,
    *,
    name: str | None = None,
    uuid: str | None = None,
    vmid: int | None = None,
) -> VirtualMachine:
    if vmid is None and isinstance(ref, int):
        vmid = ref
    if vmid is not None:
        return _one(host, vms, [vm for vm in vms if vm.vmid == vmid], "vmid", str(vmid))
    if uuid is not None:
        wanted = uuid_of(uuid)
        found = [vm for vm in vms if wanted is not None and wanted == vm.instance_uuid]
        found = found or [vm for vm in vms if wanted is not None and wanted == vm.bios_uuid]
        return _one(host, vms, found, "uuid", uuid)
    if name is not None:
        return _one(host, vms, [vm for vm in vms if vm.name == name], "name", name)
    text = str(ref)
    matches = [
        vm
        for vm in vms
        if vm.name == text
        or (uuid_of(text) is not None and uuid_of(text) in (vm.instance_uuid, vm.bios_uuid))
        or (text.isdigit() and vm.vmid == int(text))
    ]
    return _one(host, vms, matches, "name, uuid or vmid", text)


def _one(host: Host, vms: Sequence[VirtualMachine], found: list[VirtualMachine], by: str, ref: str) -> VirtualMachine:
    if not found:
        names = ", ".join(f"{vm.name!r} (vmid {vm.vmid})" for vm in vms[:50]) or "no VM"
        raise errors.VmNotFound(host=host.name, by=by, ref=ref, candidates=names)
    if len(found) > 1:
        names = ", ".join(f"{vm.vmid} ({vm.name!r} at {vm.vmx_path})" for vm in found)
        raise errors.VmAmbiguous(host=host.name, by=by, ref=ref, count=len(found), candidates=names)
    return found[0]


def named(
    host: Host, vms: Sequence[VirtualMachine], names: Sequence[str] | None, *, missing_ok: bool = False
) -> list[VirtualMachine]:
    """The VMs with one of these names, all without names; a name that nobody has is an error."""
    if names is None:
        return list(vms)
    for name in names:
        if not missing_ok and not any(vm.name == name for vm in vms):
            _one(host, vms, [], "name", name)
    return [vm for vm in vms if vm.name in names]
