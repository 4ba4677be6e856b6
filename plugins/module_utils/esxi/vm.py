# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine on a host. What changes is asked anew at each call; what names it is kept."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import disks as disk_rooms
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, power_state
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import split_volume_path
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import Disk
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_message import Question
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_vmodl import Dump, VmodlError, parse_dump
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmsd import Vmsd, parse_vmsd
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import Vmx, parse_vmx

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host


class VirtualMachine:
    """`vmx_path` is absolute, by the datastore's UUID. `invalid` says why the host itself cannot use the VM."""

    def __init__(
        self,
        host: Host,
        vmid: int,
        name: str,
        vmx_path: str,
        *,
        vmx: Vmx | None = None,
        guest_id: str = "",
        invalid: str | None = None,
    ) -> None:
        self.host = host
        self.vmid = vmid
        self.name = name
        self.vmx_path = vmx_path
        self.guest_id = guest_id
        self.invalid = invalid
        self._vmx = vmx

    def __repr__(self) -> str:
        return f"VirtualMachine({self.host.name!r}, {self.vmid}, {self.name!r})"

    # -- identity ------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> str:
        return posixpath.dirname(self.vmx_path)

    @property
    def datastore(self) -> str:
        try:
            return self.host.datastore(self.vmx_path).name
        except errors.UnknownDatastore:
            parts = split_volume_path(self.vmx_path)
            return parts[0] if parts else ""

    @property
    def readable(self) -> bool:
        """Whether its .vmx could be read when it was listed."""
        return self._vmx is not None

    @property
    def vmx(self) -> Vmx:
        """The configuration as last read; `reload_vmx` reads it again."""
        return self._vmx if self._vmx is not None else self.reload_vmx()

    def reload_vmx(self) -> Vmx:
        try:
            self._vmx = parse_vmx(self.host.read_text(self.vmx_path), self.vmx_path)
        except StowageError as error:
            raise errors.VmInvalid(
                host=self.host.name, vm=self.name, reason=error.message, datastore=self.datastore
            ) from error
        return self._vmx

    @property
    def instance_uuid(self) -> str | None:
        return self._vmx.instance_uuid if self._vmx is not None else None

    @property
    def bios_uuid(self) -> str | None:
        return self._vmx.bios_uuid if self._vmx is not None else None

    @property
    def identity(self) -> str:
        """The instance UUID; without one, the BIOS UUID together with the path, since copies share a BIOS UUID."""
        if self.instance_uuid:
            return self.instance_uuid
        return f"{self.bios_uuid or 'no-uuid'}:{self.vmx_path}"

    @property
    def vmsd_path(self) -> str:
        return posixpath.splitext(self.vmx_path)[0] + ".vmsd"

    def data(self, **more: object) -> dict[str, object]:
        """The names that every error about this VM carries."""
        return {"host": self.host.name, "vm": self.name, "vmid": self.vmid, **more}

    # -- state ---------------------------------------------------------------------------------------------------

    def power_state(self) -> str:
        """poweredOn, poweredOff or suspended."""
        return power_state.parse_state(self.host.vim("vmsvc/power.getstate", str(self.vmid)), self)

    def summary(self) -> Dump:
        text = self.host.vim("vmsvc/get.summary", str(self.vmid))
        try:
            dump = parse_dump(text)
        except VmodlError as error:
            raise errors.UnreadableOutput(
                host=self.host.name, command=f"vim-cmd vmsvc/get.summary {self.vmid}", reason=str(error)
            ) from error
        return dump if isinstance(dump, Dump) else Dump("")

    def question(self) -> Question | None:
        """What the VM asks and waits for. It is reported; nothing here ever answers it."""
        return power_state.parse_question(self.host.ask([["vim-cmd", "vmsvc/message", str(self.vmid)]])[0])

    def boot_id(self) -> str | None:
        """The first line of vmware.log: another one after every power-on. None before the first."""
        result = self.host.session.run(["head", "-n", "1", posixpath.join(self.directory, "vmware.log")])
        return result.stdout.strip() or None if result.rc == 0 else None

    def tools_running(self) -> bool:
        return power_state.tools_running(self.summary())

    # -- disks ---------------------------------------------------------------------------------------------------

    def disks(self) -> tuple[Disk, ...]:
        """Its disks as they are now, the .vmx read anew."""
        self.reload_vmx()
        return disk_rooms.read_disks(self.host, [self])[self.vmid]

    def vmsd(self) -> Vmsd:
        text = self.host.read_texts([self.vmsd_path])[self.vmsd_path]
        return parse_vmsd("" if isinstance(text, Reply) else text, self.vmsd_path)

    def frozen_disks(self, snapshot_id: int) -> dict[str, str]:
        """Device key -> descriptor that this snapshot froze. Independent disks are not among them."""
        entry = self.vmsd().find(snapshot_id)
        if entry is None:
            known = ", ".join(str(snapshot.uid) for snapshot in self.vmsd().snapshots) or "none"
            raise errors.SnapshotNotFound(**self.data(ref=snapshot_id, candidates=known))
        return {key: disk_rooms.disk_path(self, file) for key, file in entry.disks.items()}
