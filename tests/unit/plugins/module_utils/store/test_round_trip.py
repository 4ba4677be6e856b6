# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes in comes out: bit for bit, by us and by the independent reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    crypto,
    forms,
    maps,
    points,
    restore,
    textfile,
    writer,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import WrongKey
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    NoStore,
    NoSuchPoint,
    SourceFailed,
    StoreExists,
    TargetFailed,
    UnknownFormat,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.pack import PackReader
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .benches import CHUNK, SECRET, back_up, by_hand, image, local, new_store, restored, sound


def test_a_disk_comes_back_by_us_and_by_hand(
    store: Store, again: Callable[[], Store], secret: str | None, root: Path, tmp_path: Path
) -> None:
    disk = image(tmp_path / "disk", [1, 0, 0, 2, 1, 3, 0], 6 * CHUNK + 700)
    other = image(tmp_path / "other", [2, 9])
    point, told = back_up(store, disk, other)
    assert (told.read, told.new, told.known) == (6 * CHUNK, 4 * CHUNK, 2 * CHUNK)
    opened = again()
    (found,) = opened.points("vm-1")
    assert found == point
    assert restored(opened, found, tmp_path) == disk.read_bytes()
    assert restored(opened, found, tmp_path, "scsi0:1") == other.read_bytes()
    assert by_hand(root, point, tmp_path, secret=secret) == disk.read_bytes()
    assert by_hand(root, point, tmp_path, "a.vmx", secret) == b"displayName vm-1"
    sound(opened)


def test_a_second_day_costs_what_has_changed(store: Store, again: Callable[[], Store], tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [*range(1, 41), 0, 0])
    first, told = back_up(store, disk)
    stored = told.stored
    image(disk, [*range(1, 20), 99, *range(21, 41), 0, 77])
    second, told = back_up(again(), disk, parent=first)
    assert (told.unchanged, told.new) == (39 * CHUNK, 2 * CHUNK) and told.stored < stored / 8
    opened = again()
    assert restored(opened, second, tmp_path) == disk.read_bytes()
    image(disk, [*range(1, 41), 0, 0])
    assert restored(opened, first, tmp_path) == disk.read_bytes()


def test_a_map_of_changes_saves_the_reading(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", list(range(1, 41)))
    first, _told = back_up(plain, disk)
    image(disk, [*range(1, 20), 99, *range(21, 41)])
    second, told = back_up(plain, disk, parent=first, changed=[(19 * CHUNK + 5, 10)])
    assert (told.read, told.unchanged) == (CHUNK, 39 * CHUNK)
    assert restored(plain, second, tmp_path) == disk.read_bytes()


def test_a_hint_can_be_switched_off(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2, 3])
    first, _told = back_up(plain, disk)
    _second, told = back_up(plain, disk, parent=first, trust_check=False)
    assert (told.unchanged, told.known, told.new) == (0, 3 * CHUNK, 0)


@pytest.mark.parametrize("size", [1, 511, CHUNK - 1, CHUNK, CHUNK + 1, 1024 * CHUNK, 1025 * CHUNK + 1])
def test_sizes_that_fit_no_grid(plain: Store, root: Path, tmp_path: Path, size: int) -> None:
    disk = image(tmp_path / "disk", [5] + [0] * (size // CHUNK - 1) + [6], size)
    point, _told = back_up(plain, disk)
    assert restored(plain, point, tmp_path) == disk.read_bytes()
    assert by_hand(root, point, tmp_path) == disk.read_bytes()


chunks = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=st.lists(st.tuples(chunks, st.integers(0, CHUNK - 1)), min_size=1, max_size=4), hint=st.booleans())
def test_any_history_of_a_disk_comes_back(
    days: list[tuple[list[int], int]], hint: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("history")
    (folder / "store").mkdir()
    store = new_store(local(folder / "store"))
    parent, kept = None, []
    for seeds, cut in days:
        disk = image(folder / "disk", seeds, len(seeds) * CHUNK - cut)
        parent, _told = back_up(store, disk, parent=parent, trust_check=hint)
        kept.append((parent, disk.read_bytes()))
    for point, data in kept:
        assert restored(store, point, folder) == data
    sound(store)


def test_in_place_only_what_differs_is_written(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2, 0, 4, 5])
    point, _told = back_up(plain, disk)
    wanted = disk.read_bytes()
    image(disk, [1, 9, 8, 4, 0])
    told = restore.to_file(plain, point.disks[0], str(disk), in_place=True)
    assert (told.written, told.same) == (3 * CHUNK, 2 * CHUNK) and disk.read_bytes() == wanted
    assert restore.to_file(plain, point.disks[0], str(disk), in_place=True).written == 0


def test_a_large_disk_is_restored_a_window_at_a_time(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "WINDOW", 1)
    disk = image(tmp_path / "disk", [1, *[0] * 1022, 2, 1, *[0] * 1500, 3, 2])
    point, _told = back_up(plain, disk)
    assert restored(plain, point, tmp_path) == disk.read_bytes()
    image(tmp_path / "other", [1, 7, *[0] * 1021, 2, 9, *[0] * 1500, 3, 2])
    told = restore.to_file(plain, point.disks[0], str(tmp_path / "other"), in_place=True)
    assert told.written == 2 * CHUNK and (tmp_path / "other").read_bytes() == disk.read_bytes()


def test_a_pack_has_no_more_records_than_the_format_says(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_RECORDS", 3)
    disk = image(tmp_path / "disk", list(range(1, 20)))
    point, _told = back_up(plain, disk)
    for name, _size in plain.backend.list("packs/"):
        with plain.pack(name.rpartition("/")[2].partition(".")[0]).ranges as ranges:
            assert len(PackReader(name, ranges, "", plain.codec, None).entries()) <= 3
    assert restored(plain, point, tmp_path) == disk.read_bytes()


def test_zeros_come_back_as_holes(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1] + [0] * 200)
    point, told = back_up(plain, disk)
    assert told.read == CHUNK
    restore.to_file(plain, point.disks[0], str(tmp_path / "out"))
    assert (tmp_path / "out").stat().st_blocks * 512 <= 4 * CHUNK


def test_written_zeros_are_stored_as_nothing(plain: Store, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(20 * CHUNK))
    point, told = back_up(plain, tmp_path / "disk")
    assert told.new == 0 and point.disks[0].pages == (None,)


def test_a_target_that_is_there_is_not_touched_and_a_wrong_one_is_told(plain: Store, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    point, _told = back_up(plain, disk)
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(TargetFailed, match="it has 1 bytes, the disk 131072"):
        restore.to_file(plain, point.disks[0], str(tmp_path / "short"), in_place=True)
    with pytest.raises(TargetFailed, match="No such file"):
        restore.to_file(plain, point.disks[0], str(tmp_path / "no" / "x"))
    assert (tmp_path / "short").read_bytes() == b"x"


def test_a_disk_that_shrinks_under_the_backup_commits_nothing(plain: Store, tmp_path: Path, root: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2, 3, 4])
    original = back_up.__globals__["RawDisk"].read_into

    def shrink(self: object, view: memoryview, offset: int) -> None:
        if offset >= 2 * CHUNK:
            with open(disk, "r+b") as file:
                file.truncate(CHUNK)
        original(self, view, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(back_up.__globals__["RawDisk"], "read_into", shrink)
        with pytest.raises(SourceFailed, match="become shorter"):
            back_up(plain, disk)
    assert plain.points() == []
    assert not list((root / "packs").rglob("*.pack")) and not list((root / "writers").iterdir())


def test_what_is_no_store_or_another_version_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NoStore, match="no config.json"):
        Store.open(local(tmp_path / "store"))
    store = new_store(local(root))
    with pytest.raises(StoreExists):
        new_store(local(root))
    (root / "config.json").write_bytes(textfile.render({**store.config, "version": 2}))
    with pytest.raises(UnknownFormat, match="version 2; this program knows 1"):
        Store.open(local(root))
    with pytest.raises(NoSuchPoint):
        store.point("vm-1", "20260101T000000.000000Z-aaaaaa")


def test_an_encrypted_store_opens_with_its_passphrase_only_and_shows_nothing(root: Path, tmp_path: Path) -> None:
    store = new_store(local(root), SECRET)
    disk = image(tmp_path / "disk", [1, 2])
    (tmp_path / "clear").write_bytes(b"visible words " * 9000)
    back_up(store, disk, tmp_path / "clear", machine="secret machine")
    for wrong in (None, "correct hors"):
        with pytest.raises(WrongKey, match="None of the 1 keys" if wrong else "no passphrase was given"):
            Store.open(local(root), wrong)
    for path in root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"visible words" not in data and b"displayName" not in data


def test_a_recovery_key_from_paper_opens_the_store_for_us_and_by_hand(root: Path, tmp_path: Path) -> None:
    store = new_store(local(root), SECRET)
    assert store.vault is not None
    key = bytes(range(32))
    store.backend.create("keys/paper.json", textfile.render(store.vault.wrap("paper", key, store.id, "none")))
    disk = image(tmp_path / "disk", [1, 2])
    point, _told = back_up(store, disk)
    typed = crypto.recovery_text(key).lower().replace("-", " ")
    assert restored(Store.open(local(root), typed), point, tmp_path) == disk.read_bytes()
    assert by_hand(root, point, tmp_path, secret=typed) == disk.read_bytes()
    with pytest.raises(WrongKey):
        Store.open(local(root), typed.replace(typed[0], "z"))


def test_in_place_the_holes_of_the_target_are_known_zeros(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = image(tmp_path / "d.raw", [1, 0, 0, 4, 5, 0], 6 * CHUNK - 100)
    point, _told = back_up(plain, disk)
    target = image(tmp_path / "t.raw", [1, 2, 0, 0, 6, 0], 6 * CHUNK - 100)
    read: list[int] = []
    preadv = os.preadv

    def counted(handle: int, buffers: list[memoryview], offset: int) -> int:
        read.append(offset // CHUNK)
        return preadv(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    told = restore.to_file(plain, point.disks[0], str(target), in_place=True)
    assert target.read_bytes() == disk.read_bytes()
    assert (told.written, told.same) == (3 * CHUNK, 3 * CHUNK - 100)
    assert sorted(read) == [0, 1, 4], "holes were read"


def test_progress_of_a_disk_in_several_parts_goes_up_to_its_end(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "WINDOW", 1)
    size = 3 * points.PAGE_SLOTS * CHUNK
    disk = image(tmp_path / "disk", [1, 2, *([0] * (points.PAGE_SLOTS - 2)), 3, *([0] * points.PAGE_SLOTS), 4], size)
    point, _told = back_up(plain, disk)
    seen = []

    class Looked(Tally):
        def add(self, count: int) -> None:
            super().add(count)
            seen.append((self.done, self.total))

    forms.to_disk(plain, point.disks[0], str(tmp_path / "out"), tally=Looked())
    assert seen[-1][0] == 4 * CHUNK and {total for _done, total in seen} == {4 * CHUNK}
    seen.clear()
    restore.to_file(plain, point.disks[0], str(tmp_path / "other"), tally=Looked())
    assert seen[-1] == (4 * CHUNK, 4 * CHUNK) and all(done <= (total or 0) for done, total in seen)
