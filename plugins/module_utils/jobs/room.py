# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""While a snapshot of ours is open its delta grows, and a full datastore stops every VM on it."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import SshError


class RoomBelowReserve(StowageError):
    id = "room-below-reserve"
    template = (
        "{host}: datastore {datastore!r} has {free} free, less than the reserve of {reserve}, while the snapshot of "
        "VM {vm!r} is open; the copy was ended so that the snapshot can go"
    )
    hint = "Make room on that datastore, or copy at a time when the VM writes less"
    exit_code = 52


class StoreBelowReserve(StowageError):
    id = "store-below-reserve"
    template = (
        "{host}: datastore {datastore!r}, where the store is, has {free} free, less than the reserve of {reserve}; the "
        "copy of VM {vm!r} was ended before it stops the VMs there"
    )
    hint = "Prune and collect the store, or make room on that datastore otherwise"
    exit_code = 52


class PointBelowReserve(StowageError):
    id = "point-below-reserve"
    template = (
        "The backup point {place} has {free} free, less than the reserve of {reserve}; the copy of VM {vm!r} was "
        "ended, and what it had written was removed"
    )
    hint = "Make room there, keep fewer restore points (backup_keep), or lower backup_reserve_percent"
    exit_code = 52


class RoomWatch:
    """Asks for the free room of the datastores that hold the VM's live deltas, at most every ``interval_seconds``."""

    def __init__(
        self,
        host: Host,
        vm: str,
        datastores: Iterable[str],
        reserve_percent: int,
        interval_seconds: float = 15.0,
        clock: Clock | None = None,
        error: type[StowageError] = RoomBelowReserve,
    ) -> None:
        self._error = error
        self.host = host
        self.vm = vm
        self.datastores = tuple(dict.fromkeys(datastores))
        self.reserve_percent = reserve_percent
        self.interval_seconds = interval_seconds
        self._clock: Clock = clock or SystemClock()
        self._asked: float | None = None

    @classmethod
    def of_vm(cls, host: Host, vm: VirtualMachine, reserve_percent: int) -> RoomWatch:
        """Deltas lie where the disks' present tops lie, snapshot state and swap beside the .vmx."""
        return cls(host, vm.name, [vm.datastore, *(disk.datastore for disk in vm.disks())], reserve_percent)

    def check(self) -> None:
        """Raises RoomBelowReserve, or the error that was given. A host that does not answer is not a full one: others
        notice that."""
        now = self._clock.monotonic()
        if self._asked is not None and now - self._asked < self.interval_seconds:
            return
        self._asked = now
        try:
            stores = {store.name: store for store in self.host.datastores()}
        except SshError:
            return
        for name in self.datastores:
            store = stores.get(name)
            if store is None:
                continue
            reserve = store.capacity_bytes * self.reserve_percent // 100
            if store.free_bytes < reserve:
                raise self._error(
                    host=self.host.name,
                    vm=self.vm,
                    datastore=name,
                    free=format_bytes(store.free_bytes),
                    reserve=format_bytes(reserve),
                    free_bytes=store.free_bytes,
                    reserve_bytes=reserve,
                )
