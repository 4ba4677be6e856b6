# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore point as a folder of read-only files: a raw image for each disk, and the small files beside them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Callable, NamedTuple

from ansible_collections.stowage.esxi.plugins.module_utils.store.image import DiskImage, Reader
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point, StoredFile
from ansible_collections.stowage.esxi.plugins.module_utils.store.tree import disk_name, safe_names


class Entry(NamedTuple):
    size: int
    pread: Callable[[int, int], bytes]
    """Length, offset; serves several threads."""


class Folder:
    """Its files by name. `made_at` is the time of all of them, in seconds since 1970."""

    def __init__(self, reader: Reader, point: Point) -> None:
        self.point = point
        self.made_at = _seconds(point.created_at)
        entries = []
        for disk in point.disks:
            image = DiskImage(reader, disk)
            entries.append((disk_name(disk.key), Entry(image.size, image.pread)))
        entries += [(file.name, Entry(file.size, _file(reader, file))) for file in point.files]
        names = safe_names([name for name, _entry in entries])
        self._entries = {name: entry for name, (_wanted, entry) in zip(names, entries)}

    def names(self) -> list[str]:
        return list(self._entries)

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)


def _file(reader: Reader, file: StoredFile) -> Callable[[int, int], bytes]:
    def pread(length: int, offset: int) -> bytes:
        data = reader.file(file.id, file.size) if file.id is not None else b""
        return data[offset : offset + length]

    return pread


def _seconds(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return 0.0
