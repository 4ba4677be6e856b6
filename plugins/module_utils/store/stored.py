# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk of a restore point, to be read like any other: for a copy to another store, or to heal one."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import SourceFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.image import DiskImage, Reader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import NOTHING, SLOT_BYTES, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import DiskSource
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

# It is read from front to back: what is kept serves chunks that lie there twice.
_CACHE_BYTES = 16 << 20


class StoredDisk(DiskSource):
    """Every chunk is proven by its check and its id."""

    def __init__(self, store: Store, disk: DiskMap) -> None:
        self.path = f"disk {disk.key} in {store.name}"
        self.size = disk.size
        self._store, self._disk = store, disk
        self._reader = Reader(store, _CACHE_BYTES, paranoid=True)
        self._image = DiskImage(self._reader, disk)

    def allocated(self) -> Iterator[tuple[int, int]]:
        chunk = self._disk.chunk_bytes
        for first, page in self._store.pages(self._disk):
            begin = None
            slots = len(page) // SLOT_BYTES
            for slot in range(slots + 1):
                at = slot * SLOT_BYTES
                if slot < slots and page[at : at + ID_BYTES] != NOTHING:
                    begin = slot if begin is None else begin
                elif begin is not None:
                    offset = (first + begin) * chunk
                    yield offset, min((first + slot) * chunk, self.size) - offset
                    begin = None

    def read_into(self, view: memoryview, offset: int) -> None:
        data = self._image.pread(len(view), offset)
        if len(data) != len(view):
            raise SourceFailed(path=self.path, reason=f"it ends at byte {offset + len(data)}")
        view[:] = data

    def chunk(self, slot: int) -> bytes | None:
        """One chunk; None when it is all zeros."""
        return self._image.chunk(slot)

    def close(self) -> None:
        self._reader.close()
