# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a disk is read that the host does not let be read: by a clone that the host makes, there while it is read."""

from __future__ import annotations

import contextlib
import posixpath
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Progress, format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import Datastore
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors, stall
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import (
    CopyTask,
    DiskResult,
    DiskTask,
    Note,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import file_name
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.vmkfstools import Vmkfstools, no_note
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.diskerrors import NotInFiles
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import RemoteDisk
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable

WAYS = ("auto", "direct", "clone")

_REMOVE = r"""
[ -f "$2" ] && vmkfstools -U "$2" >/dev/null 2>&1
rm -f "$2" "${2%.vmdk}-flat.vmdk"
[ ! -d "$1" ] || rmdir "$1"
"""
"""Arguments: our folder, the clone in it. Nothing else of it is touched: what somebody put there keeps it."""


@dataclass(frozen=True)
class Reading:
    """How a disk is read, for a record: `direct` or `clone`, and why."""

    way: str
    path: str
    reason: str = ""
    datastore: str = ""
    clone_seconds: float = 0.0
    proof: str = ""
    """What is known of a clone's being what its source is, beside the word of the host that made it."""


class Ladder:
    """The disk itself first; a temporary clone where an extent cannot be opened or is not what it should be.

    `label` is in the name of the clone's folder: with a job's id in it, recover knows whose it is. `way` forces one.
    `datastore` names the one for clones; else an NFS datastore with room is preferred, as it costs the VM's own disks
    nothing to be written, and the VM's own datastore comes last, as its snapshot grows there.
    """

    def __init__(
        self,
        host: Host,
        label: str,
        *,
        way: str = "auto",
        datastore: str = "",
        reserve_percent: int = 5,
        lease: str = "",
        note: Note = no_note,
        alive: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
        stall_seconds: float = stall.DEFAULT_SECONDS,
        window_seconds: int = 60,
    ) -> None:
        if way not in WAYS:
            raise ValueError(f"unknown way {way!r}: one of {', '.join(WAYS)}")
        self.host, self.label, self.way = host, label, way
        self.datastore, self.reserve_percent, self.lease = datastore, reserve_percent, lease
        self.note, self.alive = note, alive
        self.clock: Clock = clock or SystemClock()
        self._clones = Vmkfstools(
            note=note,
            clock=self.clock,
            window_seconds=window_seconds,
            stall_seconds=stall_seconds,
            # What is locked for us may be locked for the host's own commands, too; then that is what is told.
            verify="sample",
        )

    @contextlib.contextmanager
    def opened(
        self,
        source: Source,
        open_disk: Callable[[str], RemoteDisk],
        progress: Callable[[Progress], None] = lambda news: None,
    ) -> Iterator[tuple[RemoteDisk, Reading]]:
        """The disk to the end of the block; then it is closed, and the clone is gone."""
        reason, cause = "it was asked for", None
        if self.way != "clone":
            try:
                disk = open_disk(source.path)
            except (ExtentUnusable, NotInFiles) as error:
                if self.way == "direct":
                    raise
                reason, cause = error.message, error
            else:
                with disk:
                    yield disk, Reading("direct", source.path)
                return
        store = self._store(source, reason, cause)
        began = self.clock.monotonic()
        with contextlib.ExitStack() as stack:
            path, made = stack.enter_context(self._clone(source, store, progress))
            seconds = round(self.clock.monotonic() - began, 3)
            disk = stack.enter_context(open_disk(path))
            yield disk, Reading("clone", path, reason, store.name, seconds, _proof(source, made))

    def _store(self, source: Source, reason: str, cause: StowageError | None) -> Datastore:
        own = self.host.datastore(source.path)
        stores = self.host.datastores()
        if self.datastore:
            stores = (self.host.datastore(self.datastore),)
        fitting = [store for store in stores if self._room(store) >= source.bytes_to_read]
        if not fitting:
            found = ", ".join(f"{store.name} has {format_bytes(max(0, self._room(store)))}" for store in stores)
            raise errors.NoRoomToClone(
                host=self.host.name,
                source=source.path,
                reason=reason,
                needed=format_bytes(source.bytes_to_read),
                found=f"{found or 'there is no datastore'} besides the reserve of {self.reserve_percent} %",
            ) from cause
        return max(fitting, key=lambda store: (store.is_nfs, store.path != own.path, self._room(store)))

    def _room(self, store: Datastore) -> int:
        return store.free_bytes - store.capacity_bytes * self.reserve_percent // 100

    @contextlib.contextmanager
    def _clone(
        self, source: Source, store: Datastore, progress: Callable[[Progress], None]
    ) -> Iterator[tuple[str, DiskResult]]:
        token = secrets.token_hex(8)
        folder = posixpath.join(store.path, f".stowage-clone-{self.label}-{token[:6]}")
        path = posixpath.join(folder, file_name(source))
        task = CopyTask(
            disks=(
                DiskTask(
                    key=source.key,
                    source=source.path,
                    target=path,
                    format="thin",
                    capacity_bytes=source.capacity_bytes,
                    bytes_to_read=source.bytes_to_read,
                    source_kind=source.kind,
                    flat=source.flat,
                    not_flat=source.not_flat,
                ),
            ),
            files=(),
            datastore=store.path,
            folders=(folder,),
            work_dir=posixpath.join(folder, f".stowage-tmp-{token}"),
            token=token,
            lease=self.lease,
        )
        self.note("temp", path=folder)
        (made,) = self._clones.copy(self.host, task, progress, self.alive).disks
        try:
            yield path, made
        except BaseException as error:
            left = self._removed(folder, path)
            if left and isinstance(error, StowageError):
                error.data["left"] = left
            raise
        left = self._removed(folder, path)
        if left:
            raise errors.CloneStays(host=self.host.name, target=folder, reason=left)

    def _removed(self, folder: str, path: str) -> str:
        """Nothing, or why something is left."""
        try:
            answer = self.host.session.script(_REMOVE, [folder, path], timeout_seconds=300)
        except StowageError as error:
            return error.message
        return "" if answer.rc == 0 else answer.output or f"status {answer.rc}"


def _proof(source: Source, made: DiskResult) -> str:
    """Its descriptor, size and extents were looked at when it was made (`vmkfstools.inspect`), and refused if wrong."""
    found = (
        f"the same {made.capacity_bytes} bytes, {made.copied_bytes} of them occupied, its source {source.bytes_to_read}"
    )
    return f"{found}; {made.verified if made.verified.startswith('not compared') else f'compared: {made.verified}'}"
