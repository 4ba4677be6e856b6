# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the target of a restore in place holds already."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.store import points
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import PAGE_SLOTS, SLOT_BYTES, DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import data_extents
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


@dataclass
class Compared:
    """One page of a map, without the slots that the target holds. Bytes that were the same, and zeros written."""

    number: int
    page: bytes
    same: int = 0
    written: int = 0


class Target:
    """An open file or block device of the disk's size. Holes in it are known zeros, and not read."""

    def __init__(self, store: Store, disk: DiskMap, path: str, handle: int) -> None:
        self._store, self._disk, self._path, self._handle = store, disk, path, handle
        self._zeros = bytes(disk.chunk_bytes)

    def compare(self, numbers: Iterable[int], threads: int) -> list[Compared]:
        """These pages, each by one thread. Where the disk has zeros and the target has not, they are written."""
        with ThreadPoolExecutor(threads, thread_name_prefix="compare") as executor:
            return list(executor.map(self._page, numbers))

    def _page(self, number: int) -> Compared:
        page = self._store.page(self._disk, number)
        found = Compared(number, page)
        left = bytearray(page)
        room = memoryview(bytearray(self._disk.chunk_bytes))
        filled = self._filled(number)
        for slot in range(len(page) // SLOT_BYTES):
            at = slot * SLOT_BYTES
            offset = (number * PAGE_SLOTS + slot) * self._disk.chunk_bytes
            view = room[: self._disk.length_of(number * PAGE_SLOTS + slot)]
            empty = page[at : at + ID_BYTES] == points.NOTHING
            if slot not in filled:
                if empty:
                    found.same += len(view)
                continue
            self._read(view, offset)
            if empty and not self._zeros.startswith(view):
                self._blank(len(view), offset)
                found.written += len(view)
            elif empty or self._store.identity.check(view) == page[at + ID_BYTES : at + SLOT_BYTES]:
                left[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
                found.same += len(view)
        found.page = bytes(left)
        return found

    def _filled(self, number: int) -> set[int]:
        """The slots of a page in which the target has anything but a hole."""
        chunk = self._disk.chunk_bytes
        first = number * PAGE_SLOTS
        found: set[int] = set()
        begin = first * chunk
        end = min(begin + PAGE_SLOTS * chunk, self._disk.size)
        for offset, length in data_extents(self._handle, begin, end):
            found.update(range(offset // chunk - first, (offset + length - 1) // chunk - first + 1))
        return found

    def _read(self, view: memoryview, offset: int) -> None:
        try:
            got = os.preadv(self._handle, [view], offset)
        except OSError as error:
            raise TargetFailed(path=self._path, reason=error.strerror or str(error)) from error
        if got != len(view):
            raise TargetFailed(path=self._path, reason="it ends too early")

    def _blank(self, length: int, offset: int) -> None:
        try:
            view = memoryview(self._zeros)[:length]
            while view:
                done = os.pwrite(self._handle, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise TargetFailed(path=self._path, reason=error.strerror or str(error)) from error
