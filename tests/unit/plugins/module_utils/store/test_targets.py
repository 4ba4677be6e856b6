# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores to a disk that is far away: whole, or what differs by the hashes that it tells."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import maps, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import HashUnfit, TargetFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import Hash, Piece
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

from .benches import CHUNK, back_up, image, local, new_store
from .hashing import HashedTarget


@pytest.fixture(params=["sha256", "encrypted"])
def kind(request: pytest.FixtureRequest) -> str:
    """Those that a hypervisor can compare with."""
    pytest.importorskip("zstandard")
    return str(request.param)


def to(store: Store, point: Point, target: HashedTarget, **more: bool) -> restore.Told:
    told = restore.to_target(store, point.disks[0], target, threads=3, **more)
    assert not target.open and target.synced == 1
    return told


def test_a_new_disk_gets_its_data_and_no_zeros(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "WINDOW", 1)
    disk = image(tmp_path / "disk", [1, 0, 2, 1, *[0] * 2000, 3], 2005 * CHUNK - 1000)
    point, _told = back_up(store, disk)
    target = HashedTarget(image(tmp_path / "target", [], disk.stat().st_size))
    told = to(store, point, target, paranoid=True)
    assert (tmp_path / "target").read_bytes() == disk.read_bytes()
    assert told.written == sum(length for _offset, length in target.written) == 4 * CHUNK - 1000
    # Three lanes for the whole of it, though the disk is written in parts.
    assert target.asked == [] and target.lines == 3


def test_in_place_only_what_differs_is_written(store: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [*range(1, 100), 0, 0, *[0] * 2000, 5], 2102 * CHUNK - 7)
    point, _told = back_up(store, disk)
    # One other, one that is zeros, one that must become zeros, one on the wrong place; and data that are zeros.
    now = image(tmp_path / "target", [1, 99, 0, *range(4, 100), 7, 0, *[0] * 2000, 6], disk.stat().st_size)
    with open(now, "r+b") as file:
        file.seek(1500 * CHUNK)
        file.write(bytes(CHUNK))
    target = HashedTarget(now)
    told = to(store, point, target, in_place=True)
    assert now.read_bytes() == disk.read_bytes()
    written = {1 * CHUNK: CHUNK, 2 * CHUNK: CHUNK, 99 * CHUNK: CHUNK, 2101 * CHUNK: CHUNK - 7}
    assert dict(target.written) == written and told.written == sum(written.values())
    assert told.same + told.written == disk.stat().st_size
    assert target.most_due == 4
    # Again: there is nothing to do.
    target = HashedTarget(now)
    told = to(store, point, target, in_place=True)
    assert target.written == [] and told.same == disk.stat().st_size


def test_what_fails_on_the_way_fails_the_restore(plain: Store, tmp_path: Path) -> None:
    class Full(HashedTarget):
        def write(self, offset: int, data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2, 3]))
    target = Full(image(tmp_path / "target", [], 3 * CHUNK))
    with pytest.raises(OSError, match="No space left"):
        restore.to_target(plain, point.disks[0], target, threads=2)
    assert not target.open


def test_a_target_that_answers_too_little_is_told(plain: Store, tmp_path: Path) -> None:
    class FewHashes(HashedTarget):
        def hashes(self, pieces: Sequence[Piece]) -> Sequence[Hash]:
            return super().hashes(pieces[:-1])

    disk = image(tmp_path / "disk", [1, 2, 3])
    point, _told = back_up(plain, disk)
    with pytest.raises(TargetFailed, match="2 hashes came for 3 chunks"):
        restore.to_target(plain, point.disks[0], FewHashes(disk), in_place=True, threads=2)


def test_a_target_of_another_size_or_hash_is_refused(root: Path, plain: Store, tmp_path: Path) -> None:
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2, 3]))
    target = HashedTarget(image(tmp_path / "target", [], 2 * CHUNK))
    with pytest.raises(TargetFailed, match="it has 131072 bytes, the disk 196608"):
        restore.to_target(plain, point.disks[0], target)
    assert target.lines == 0
    pytest.importorskip("blake3")
    (root.parent / "other").mkdir()
    other = new_store(local(root.parent / "other"), hash_name="blake3")
    disk = image(tmp_path / "disk", [1, 2, 3])
    point, _told = back_up(other, disk)
    with pytest.raises(HashUnfit, match="blake3"):
        restore.to_target(other, point.disks[0], HashedTarget(disk), in_place=True, threads=2)
    # Nothing is compared for a new one.
    told = restore.to_target(other, point.disks[0], HashedTarget(image(tmp_path / "new", [], 3 * CHUNK)), threads=2)
    assert told.written == 3 * CHUNK
