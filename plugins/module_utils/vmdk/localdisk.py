# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual disk in files of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk import cowd, hosted, sesparse
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.disk import ChainDisk
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import SECTOR, fill_zeros
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localfiles import LocalFiles

_DESCRIPTOR = b"# disk descriptorfile"


def is_vmdk(path: str) -> bool:
    """By content: a descriptor, or an extent of a kind that describes itself. May raise OSError."""
    with open(path, "rb", opener=_opener) as file:
        head = file.read(SECTOR)
        # No descriptor is so large, and a guest writes what it likes to the beginning of its raw disk.
        small = os.fstat(file.fileno()).st_size <= hosted.MOST_DESCRIPTOR_BYTES
    if head[:4] in (hosted.MAGIC, cowd.MAGIC) or head[:8] == sesparse.MAGIC:
        return True
    return small and head.lstrip()[: len(_DESCRIPTOR)].lower() == _DESCRIPTOR


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)


class LocalDisk(ChainDisk):
    """`allowed`: folders, besides its own, that the disk's descriptors may lead into."""

    def __init__(self, path: str, allowed: Sequence[str] = ()) -> None:
        files = LocalFiles()
        super().__init__(files, path, [files.real(folder) for folder in (os.path.dirname(path) or ".", *allowed)])

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills the view; `ExtentUnusable` names the file when that cannot be."""
        for part in self.parts(offset, len(view)):
            room = view[part.offset - offset : part.offset - offset + part.length]
            if part.extent is None:
                fill_zeros(room)
            else:
                part.extent.fill(room, part.offset - part.start, part.place)
