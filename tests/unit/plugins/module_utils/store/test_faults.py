# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What machines and people do to a store: each is told in words, and every restore point it does not touch restores."""

from __future__ import annotations

import datetime
import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, repair, sources, textfile, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends import local as local_backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import WrongKey
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    ChunkMissing,
    Damaged,
    NoRoomLeft,
    ObjectMissing,
    SourceFailed,
    StoreError,
    TargetFailed,
    UnknownFormat,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.part import Chosen
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk import localfiles
from fakeclock import FakeClock

from .benches import CHUNK, back_up, image, local, new_store, restored, sound
from .fuzzing import proven_index, proven_pack


class Failing:
    """Stands for the `os` module: the real call is made, and its answer is an error where `when` says so."""

    def __init__(self, name: str, when: Callable[..., bool], number: int = errno.EIO) -> None:
        self._name, self._when, self._number = name, when, number
        self.hits = 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name != self._name:
            return call

        def failing(*words: Any, **more: Any) -> Any:
            answer = call(*words, **more)
            if self._when(*words):
                self.hits += 1
                raise OSError(self._number, os.strerror(self._number))
            return answer

        return failing


def packs(root: Path) -> list[Path]:
    return sorted(root.rglob("*.pack"))


def nothing_is_left(root: Path) -> None:
    assert not list(root.rglob(".tmp-*")) and not list((root / "writers").iterdir())


@pytest.fixture
def good(plain: Store, tmp_path: Path) -> tuple[Point, bytes]:
    """A restore point that nothing touches."""
    disk = image(tmp_path / "good", [11, 0, 12, 13])
    return back_up(plain, disk, machine="good")[0], disk.read_bytes()


# -- the place a store lies in -----------------------------------------------------------------------------------------


@pytest.mark.folder
def test_room_that_ends_at_any_moment_of_a_backup_costs_that_backup(
    volume: Callable[[int], Path], tmp_path: Path
) -> None:
    """A real file system: 4 KiB less at each turn, until nothing can be registered any more.

    Others take the last of it, too: with a reserve of one byte the backup itself leaves nothing.
    """
    small = volume(1200)
    (small / "store").mkdir()
    store = new_store(local(small / "store"), reserve_bytes=1)
    disk = image(tmp_path / "good", [11, 12])
    kept, _told = back_up(store, disk, machine="good")
    other = image(tmp_path / "other", [1, 2, 3])
    seen = set()
    free = os.statvfs(small).f_bavail * 4096
    for left in range(0, min(free, 200 << 10), 4096):
        with open(small / "ballast", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - left) if free > left else None
        opened = Store.open(local(small / "store"))
        try:
            point, _told = back_up(opened, other, machine="other")
        except BackendFailed as error:
            assert "No space left on device" in error.message
            seen.add(error.data["name"].split("/")[0])
            assert [point.machine_id for point in opened.points()] == ["good"]
            nothing_is_left(small / "store")
        except NoRoomLeft:
            # Not one byte was left when it looked.
            nothing_is_left(small / "store")
        else:
            seen.add("committed")
            assert restored(opened, point, tmp_path) == other.read_bytes()
            store.backend.delete(point.object_name)
        assert restored(opened, kept, tmp_path) == disk.read_bytes()
        (small / "ballast").unlink()
        collect.run(Store.open(local(small / "store"), clock=FakeClock()))
    opened = Store.open(local(small / "store"))
    point, _told = back_up(opened, other, machine="other")
    assert restored(opened, point, tmp_path) == other.read_bytes()
    sound(opened)
    assert {"writers", "packs", "index", "points", "committed"} <= seen


@pytest.mark.folder
@pytest.mark.parametrize("call", ["writev", "fsync", "link", "mkdir"])
def test_a_write_that_fails_at_any_moment_costs_that_backup(
    plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    seen = set()
    for moment in range(30):
        left = [moment]

        def now(*_words: Any, left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] == -1

        failing = Failing(call, now)
        monkeypatch.setattr(local_backend, "os", failing)
        opened = Store.open(local(root))
        try:
            point, _told = back_up(opened, disk, machine=f"m{moment}")
        except BackendFailed as error:
            assert "Input/output error" in error.message
            seen.add(error.data["name"].split("/")[0])
            done = False
        else:
            done = True
        monkeypatch.undo()
        opened = Store.open(local(root))
        if done:
            assert failing.hits == 0 and restored(opened, point, tmp_path) == disk.read_bytes()
            break
        found = {point.machine_id: point for point in opened.points()}
        # The name may have been given before the error: then it is whole.
        if f"m{moment}" in found:
            assert restored(opened, found[f"m{moment}"], tmp_path) == disk.read_bytes()
            opened.backend.delete(found[f"m{moment}"].object_name)
        assert restored(opened, good[0], tmp_path) == good[1]
        collect.run(Store.open(local(root), clock=FakeClock()))
    assert done and (seen >= {"packs", "points"} or (call == "mkdir" and seen >= {"points"})), seen
    sound(Store.open(local(root)))


@pytest.mark.folder
def test_a_read_only_file_system_is_told_and_everything_restores(volume: Callable[[int], Path], tmp_path: Path) -> None:
    place = volume(4000)
    (place / "store").mkdir()
    store = new_store(local(place / "store"))
    disk = image(tmp_path / "good", [11, 12])
    kept, _told = back_up(store, disk)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    opened = Store.open(local(place / "store"))
    with pytest.raises(BackendFailed, match=r"writers/.* could not be written: Read-only file system"):
        back_up(opened, disk)
    assert restored(opened, kept, tmp_path) == disk.read_bytes()
    sound(opened)
    opened.backend.tidy()
    with pytest.raises(TargetFailed, match="Read-only file system"):
        restored(opened, kept, place)


@pytest.mark.folder
def test_a_pack_that_cannot_be_read_costs_its_own_points_only(
    plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(packs(root))
    bad, _told = back_up(plain, image(tmp_path / "disk", [1, 2]), machine="bad")
    hit = {pack.stat().st_ino: pack.name for pack in set(packs(root)) - before}
    failing = Failing("pread", lambda handle, *_more: os.fstat(handle).st_ino in hit)
    monkeypatch.setattr(local_backend, "os", failing)
    opened = Store.open(local(root))
    with pytest.raises((BackendFailed, ChunkMissing)) as caught:
        restored(opened, bad, tmp_path)
    assert "Input/output error" in str(caught.value) and any(name in str(caught.value) for name in hit.values())
    assert restored(opened, good[0], tmp_path) == good[1]
    report = verify.run(opened, threads=1)
    words = [problem for problem in report.problems if "Input/output error" in problem]
    assert all(any(name in line for line in words) for name in hit.values())
    assert [line for line in report.hit if "'name of bad'" in line] and "'name of good'" not in " ".join(report.hit)
    with pytest.raises(StoreError):
        collect.run(opened)
    assert set(packs(root)) > before and failing.hits


# -- what is backed up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["raw", "vmdk"])
def test_a_disk_that_cannot_be_read_somewhere_commits_nothing(
    plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = image(tmp_path / "disk", [1, 2, 3, 4])
    if form == "vmdk":
        words = ["qemu-img", "convert", "-t", "unsafe", "-f", "raw", "-O", "vmdk", str(disk), str(tmp_path / "d.vmdk")]
        subprocess.run(words, check=True, capture_output=True)
        disk = tmp_path / "d.vmdk"
    before = packs(root)
    source = sources.open_disk(str(disk))
    failing = Failing("preadv", lambda _handle, _views, offset: offset >= 2 * CHUNK)
    monkeypatch.setattr(localfiles if form == "vmdk" else sources, "os", failing)
    monkeypatch.setitem(back_up.__globals__, "RawDisk", lambda _path: source)
    with pytest.raises(SourceFailed, match=rf"{disk.name} could not be read as a disk: .*Input/output error"):
        back_up(plain, disk, machine="bad")
    assert failing.hits and packs(root) == before
    nothing_is_left(root)
    assert [point.machine_id for point in plain.points()] == ["good"]
    assert restored(plain, good[0], tmp_path) == good[1]


# -- files of the store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "empty", "header", "half", "almost"])
def test_a_lost_or_cut_pack_costs_its_own_points_only(
    plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes], how: str
) -> None:
    before = set(packs(root))
    disk = image(tmp_path / "disk", [1, 2, 3])
    bad, _told = back_up(plain, disk, machine="bad")
    for pack in set(packs(root)) - before:
        size = pack.stat().st_size
        if how == "gone":
            pack.unlink()
        else:
            os.truncate(pack, {"empty": 0, "header": 64, "half": size // 2, "almost": size - 1}[how])
    opened = Store.open(local(root))
    if how == "almost":
        # Every record is there, and describes itself.
        assert restored(opened, bad, tmp_path) == disk.read_bytes()
    else:
        with pytest.raises((ObjectMissing, Damaged, ChunkMissing)) as caught:
            restored(opened, bad, tmp_path)
        assert caught.value.hint_text and not (tmp_path / "out").exists()
    assert restored(opened, good[0], tmp_path) == good[1]
    report = verify.run(opened, threads=1)
    assert not report.ok and "'name of good'" not in " ".join(report.hit)
    # The next backup of that disk makes it whole again, and the point that was hit, too.
    point, _told = back_up(opened, disk, machine="bad", parent=bad, trust_check=False)
    if how == "gone":
        assert restored(Store.open(local(root)), point, tmp_path) == disk.read_bytes()


def test_swapped_packs_restore_all_the_same(store: Store, again: Any, root: Path, tmp_path: Path) -> None:
    """What the index says is wrong then, and the packs speak for themselves."""
    disks = [image(tmp_path / f"disk{n}", [n * 10 + 1, n * 10 + 2]) for n in (1, 2)]
    made = [back_up(store, disk, machine=disk.name)[0] for disk in disks]
    one, two, *_more = packs(root)
    os.rename(one, tmp_path / "aside")
    os.rename(two, one)
    os.rename(tmp_path / "aside", two)
    opened = again()
    for point, disk in zip(made, disks):
        assert restored(opened, point, tmp_path) == disk.read_bytes()
    assert not verify.run(opened, threads=1).ok


@pytest.mark.parametrize("part", ["whole", "chosen"])
def test_swapped_packs_whose_records_begin_at_the_same_places_are_found_and_mended(
    root: Path, tmp_path: Path, part: str
) -> None:
    store = new_store(local(root), codec="none")
    disks = [image(tmp_path / f"disk{n}", [n * 10 + 1, n * 10 + 2]) for n in (1, 2)]
    made = [back_up(store, disk, machine=disk.name)[0] for disk in disks]
    sizes: dict[int, list[Path]] = {}
    for path in packs(root):
        sizes.setdefault(path.stat().st_size, []).append(path)
    one, two = next(paths for paths in sizes.values() if len(paths) > 1)[:2]
    os.rename(one, tmp_path / "aside")
    os.rename(two, one)
    os.rename(tmp_path / "aside", two)
    opened = Store.open(local(root))
    for point, disk in zip(made, disks):
        assert restored(opened, point, tmp_path) == disk.read_bytes()
    report = verify.run(opened, part=Chosen(tuple(made), {}) if part == "chosen" else None, threads=1)
    assert not report.ok and len(report.bad_points) >= 1
    repair.run(opened)
    sound(Store.open(local(root)))


def test_a_stale_index_loses_nothing(plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes]) -> None:
    """Put back from yesterday: it does not know today's packs, and knows packs that have gone since."""
    disk = image(tmp_path / "disk", [1, 2, 3])
    gone, _told = back_up(plain, disk, machine="gone")
    shutil.copytree(root / "index", tmp_path / "yesterday")
    plain.backend.delete(gone.object_name)
    collect.run(Store.open(local(root), clock=FakeClock()))
    new = image(tmp_path / "new", [7, 8])
    today, _told = back_up(Store.open(local(root)), new, machine="today")
    shutil.rmtree(root / "index")
    shutil.copytree(tmp_path / "yesterday", root / "index")
    opened = Store.open(local(root))
    assert restored(opened, today, tmp_path) == new.read_bytes()
    assert restored(opened, good[0], tmp_path) == good[1]
    # Nothing new leans on what the index only remembers.
    back, told = back_up(Store.open(local(root)), disk, machine="back")
    assert told.new == 3 * CHUNK
    assert restored(Store.open(local(root)), back, tmp_path) == disk.read_bytes()
    with pytest.raises(ChunkMissing):
        collect.run(Store.open(local(root), clock=FakeClock()))
    assert restored(Store.open(local(root)), today, tmp_path) == new.read_bytes()


# -- clocks, copies, keys, versions ------------------------------------------------------------------------------------


class Off(FakeClock):
    """A clock that is wrong by some days."""

    def __init__(self, days: int) -> None:
        super().__init__()
        self._off = datetime.timedelta(days=days)

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.timezone.utc) + self._off


def test_a_clock_that_jumps_a_year_costs_nothing(plain: Store, root: Path, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    kept = []
    parent = None
    for number, days in enumerate((0, 366, -366, 0, -20 * 366)):
        image(disk, [1, 2 + number, number])
        opened = Store.open(local(root), clock=Off(days))
        parent, _told = back_up(opened, disk, parent=parent)
        kept.append((parent, disk.read_bytes()))
        report = collect.run(opened, observe_seconds=1)
        assert report.removed == report.given_up == []
    opened = Store.open(local(root))
    assert {point.point for point in opened.points("vm-1")} == {point.point for point, _data in kept}
    for point, data in kept:
        assert restored(opened, point, tmp_path) == data
    sound(opened)


def test_two_stores_with_one_id(plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes]) -> None:
    """A copy that went its own way, and was then laid over the first: both ways restore."""
    twin = tmp_path / "twin"
    shutil.copytree(root, twin)
    disks = [image(tmp_path / f"disk{n}", [n * 10 + 1, n * 10 + 2]) for n in (1, 2)]
    first, _told = back_up(Store.open(local(root)), disks[0], machine="one")
    second, _told = back_up(Store.open(local(twin)), disks[1], machine="two")
    with pytest.raises(StoreError):
        restored(Store.open(local(root)), second, tmp_path)
    shutil.copytree(twin, root, dirs_exist_ok=True)
    opened = Store.open(local(root))
    for point, data in ((first, disks[0].read_bytes()), (second, disks[1].read_bytes()), good):
        assert restored(opened, point, tmp_path) == data
    sound(opened)


def test_another_store_that_has_taken_the_id(
    plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes]
) -> None:
    """Its chunks have other checks: they are told, not taken."""
    other = tmp_path / "other"
    other.mkdir()
    new_store(local(other))
    config = textfile.parse((other / "config.json").read_bytes(), "config.json", "other")
    (other / "config.json").write_bytes(textfile.render({**config, "id": plain.id}))
    disk = image(tmp_path / "disk", [1, 2])
    point, _told = back_up(Store.open(local(other)), disk, machine="other")
    for folder in ("packs", "index", "points"):
        shutil.copytree(other / folder, root / folder, dirs_exist_ok=True)
    opened = Store.open(local(root))
    with pytest.raises(Damaged, match="has other bytes than the disk had"):
        restored(opened, point, tmp_path)
    assert restored(opened, good[0], tmp_path) == good[1]
    report = verify.run(opened, deep=True, threads=1)
    assert not report.ok and "'name of good'" not in " ".join(report.hit)


def test_a_key_of_another_store_opens_nothing(root: Path, tmp_path: Path) -> None:
    """Whose key file was replaced by another store's: neither passphrase opens it, and nothing is changed."""
    (tmp_path / "other").mkdir()
    mine, other = new_store(local(root), "mine"), new_store(local(tmp_path / "other"), "other")
    disk = image(tmp_path / "disk", [1, 2])
    point, _told = back_up(mine, disk)
    kept = (root / "keys" / "first.json").read_bytes()
    shutil.copy(tmp_path / "other" / "keys" / "first.json", root / "keys" / "first.json")
    for secret in ("mine", "other"):
        with pytest.raises(WrongKey, match="None of the 1 keys"):
            Store.open(local(root), secret)
    (root / "keys" / "first.json").write_bytes(kept)
    assert restored(Store.open(local(root), "mine"), point, tmp_path) == disk.read_bytes()
    assert other.id != mine.id


def test_what_a_newer_version_wrote_is_told_and_the_rest_restores(
    plain: Store, root: Path, tmp_path: Path, good: tuple[Point, bytes]
) -> None:
    before = set(packs(root))
    disk = image(tmp_path / "disk", [1, 2])
    bad, _told = back_up(plain, disk, machine="bad")
    new = sorted(set(packs(root)) - before)
    index = root / "index" / f"{bad.writer}.idx"
    manifest = root / bad.object_name

    def newer(path: Path, offset: int) -> bytes:
        data = bytearray(path.read_bytes())
        struct.pack_into("<H", data, offset, 2)
        return bytes(data)

    value = textfile.parse(manifest.read_bytes(), "x", "x")
    for changed, touched in (
        ({pack: proven_pack(newer(pack, 8)) for pack in new}, True),
        ({index: proven_index(newer(index, 8))}, False),
        ({manifest: textfile.render({**value, "format": 2})}, True),
    ):
        kept = {path: path.read_bytes() for path in changed}
        for path, data in changed.items():
            path.write_bytes(data)
        opened = Store.open(local(root))
        report = verify.run(opened, threads=1)
        for path in changed:
            assert any("known" in problem and path.stem in problem for problem in report.problems), report
        if touched:
            with pytest.raises(StowageError, match=r"known|is in no pack"):
                point = opened.point("bad", bad.point)
                restored(opened, point, tmp_path)
        else:
            assert restored(opened, bad, tmp_path) == disk.read_bytes()
        assert restored(opened, good[0], tmp_path) == good[1]
        for path, data in kept.items():
            path.write_bytes(data)
    config = textfile.parse((root / "config.json").read_bytes(), "x", "x")
    (root / "config.json").write_bytes(textfile.render({**config, "version": 2}))
    with pytest.raises(UnknownFormat, match="version 2; this program knows 1"):
        Store.open(local(root))


def test_a_writer_that_cannot_begin_leaves_no_registration(plain: Store, root: Path, tmp_path: Path) -> None:
    plain.backend.create("gc/00000001.json", b"nonsense")
    with pytest.raises(Damaged, match="gc/00000001.json"):
        back_up(plain, image(tmp_path / "disk", [1]))
    nothing_is_left(root)
