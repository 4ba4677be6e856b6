# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of a store are those that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, stats
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import CHUNK, back_up, image, local


def test_each_figure_is_what_was_put_in(store: Store, root: Path, tmp_path: Path) -> None:
    first = image(tmp_path / "one", [1, 2, 0, 2])
    second = image(tmp_path / "two", [1, 0, 0, 3], 4 * CHUNK - 100)
    note = len(b"displayName vm-1")
    back_up(store, first)
    back_up(store, first, second, machine="vm-1")
    found = stats.gather(store)
    assert (found.machines, found.points, found.disks, found.writers) == (1, 2, 3, 0)
    assert found.logical_bytes == 12 * CHUNK - 100 + 2 * note
    assert found.data_bytes == 3 * CHUNK * 2 + 2 * CHUNK - 100 + 2 * note
    assert (found.unique_bytes, found.chunks) == (3 * CHUNK - 100 + note, 3)
    packs = [path.stat().st_size for path in (root / "packs").rglob("*.pack")]
    assert (found.packs, found.stored_bytes) == (len(packs), sum(packs))
    assert found.dead_bytes == 0 and found.problems == []
    assert found.dedup_ratio == round(found.data_bytes / found.unique_bytes, 3)
    assert found.compression_ratio is not None and 1.5 < found.compression_ratio < 2.1


def test_what_no_point_needs_is_dead_until_it_is_collected(plain: Store, root: Path, tmp_path: Path) -> None:
    assert stats.gather(plain).as_dict()["dedup_ratio"] is None
    point, _told = back_up(plain, image(tmp_path / "one", [1, 2, 3, 4]))
    back_up(plain, image(tmp_path / "two", [9]), machine="vm-2")
    before = stats.gather(plain)
    plain.backend.delete(point.object_name)
    found = stats.gather(plain)
    assert found.dead_bytes == before.live_bytes - found.live_bytes > 2 * CHUNK
    collect.run(plain)
    assert stats.gather(Store.open(local(root))).dead_bytes == 0


def test_what_cannot_be_read_is_named_and_the_rest_is_counted(plain: Store, root: Path, tmp_path: Path) -> None:
    bad, _told = back_up(plain, image(tmp_path / "one", [1, 2]))
    back_up(plain, image(tmp_path / "two", [5]), machine="vm-2")
    (root / bad.object_name).write_bytes(b"nonsense")
    found = stats.gather(plain)
    assert found.points == 1 and len(found.problems) == 1 and bad.object_name in found.problems[0]
