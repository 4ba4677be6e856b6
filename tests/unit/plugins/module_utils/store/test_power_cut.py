# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system that forgets: everything that was not synced is lost at a cut, at any moment of any operation.

Every call of the store to the operating system is written down. For each moment, and for several ways in which a file
system may have kept or lost what nobody had asked it to keep, the folder is built as it would be found after the cut.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base import durable
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, copy, holds, prune, repair, unfinished
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends import local as local_backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from fakeclock import FakeClock

from .benches import back_up, image, local, new_store, restored, sound
from .hashing import HashedFile, feed

LATER = datetime(2027, 6, 1, tzinfo=timezone.utc)

# Calls to the operating system, or processes of their own: of a store in a folder.
pytestmark = pytest.mark.folder


@dataclass
class File:
    """Content now, and the content of the last sync."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes | None = None


@dataclass
class Disk:
    """What a file system would hold. Names map to files; a name's change is durable once its folder was synced."""

    names: dict[str, File] = field(default_factory=dict)
    durable: dict[str, File] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    durable_folders: set[str] = field(default_factory=set)


class Recorder:
    """Stands between the store and the `os` module, and builds the disk after each change."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.disk = Disk(folders={self.root}, durable_folders={self.root})
        self.events: list[tuple[Any, ...]] = []
        self._open: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, *more: Any) -> int:
        handle = os.open(path, flags, *more)
        self._open[handle] = os.fspath(path)
        if flags & os.O_CREAT:
            self.events.append(("create", os.fspath(path)))
        return handle

    def writev(self, handle: int, parts: Any) -> int:
        data = b"".join(bytes(part) for part in parts)
        # A short write, now and then: it is allowed.
        if len(data) > 100 and len(self.events) % 7 == 0:
            data = data[:100]
        done = os.write(handle, data)
        self.events.append(("write", self._open[handle], data[:done]))
        return done

    def write(self, handle: int, data: Any) -> int:
        done = os.write(handle, data)
        self.events.append(("write", self._open[handle], bytes(data[:done])))
        return done

    def fsync(self, handle: int) -> None:
        os.fsync(handle)
        self.events.append(("sync", self._open[handle]))

    def link(self, source: str, target: str) -> None:
        os.link(source, target)
        self.events.append(("link", source, target))

    def unlink(self, path: str) -> None:
        os.unlink(path)
        self.events.append(("unlink", path))

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        os.mkdir(path, mode)
        self.events.append(("mkdir", path))


def replay(root: str, events: list[tuple[Any, ...]], begin: dict[str, bytes], folders: set[str]) -> Disk:
    files = {name: File(bytearray(data), data) for name, data in begin.items()}
    disk = Disk(dict(files), dict(files), {root, *folders}, {root, *folders})
    for kind, path, *rest in events:
        if kind == "create":
            disk.names[path] = File()
        elif kind == "write":
            disk.names[path].now += rest[0]
        elif kind == "link":
            disk.names[rest[0]] = disk.names[path]
        elif kind == "unlink":
            disk.names.pop(path, None)
        elif kind == "mkdir":
            disk.folders.add(path)
        elif kind == "sync" and path in disk.names:
            disk.names[path].synced = bytes(disk.names[path].now)
        elif kind == "sync":
            inside = {name: file for name, file in disk.names.items() if os.path.dirname(name) == path}
            disk.durable = {n: f for n, f in disk.durable.items() if os.path.dirname(n) != path} | inside
            disk.durable_folders |= {folder for folder in disk.folders if os.path.dirname(folder) == path}
    return disk


def after_the_cut(disk: Disk, chance: random.Random | None) -> dict[str, bytes]:
    """Names and content as found. Without `chance` nothing survives that was not synced; with it, some does."""
    found: dict[str, bytes] = {}
    for name in {*disk.durable, *disk.names}:
        kept, now = disk.durable.get(name), disk.names.get(name)
        file = kept if chance is None or chance.random() < 0.5 else now
        folder = os.path.dirname(name)
        if file is None or folder not in (disk.durable_folders if chance is None else disk.folders):
            continue
        data = file.synced or b""
        if chance is not None and len(file.now) > len(data):
            # Some of what was written: its length may be right and its blocks not.
            cut = chance.randrange(len(data), len(file.now) + 1)
            data = bytes(file.now[:cut])
            if chance.random() < 0.5:
                data = data[: len(file.synced or b"")] + bytes(cut - len(file.synced or b""))
        found[name] = data
    return found


def contents(root: Path) -> tuple[dict[str, bytes], set[str]]:
    files = {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return files, {str(path) for path in root.rglob("*") if path.is_dir()}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[Recorder]:
    recorder = Recorder(root)
    monkeypatch.setattr(local_backend, "os", recorder)
    monkeypatch.setattr(durable, "os", recorder)
    yield recorder


def every_cut(
    recorder: Recorder,
    begin: dict[str, bytes],
    folders: set[str],
    judge: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    step: int = 1,
) -> int:
    """Builds the folder after a cut at each event, or each so many, and asks the judge."""
    monkeypatch.setattr(local_backend, "os", os)
    monkeypatch.setattr(durable, "os", os)
    root = Path(recorder.root)
    for moment in range(0, len(recorder.events) + 1, step):
        disk = replay(recorder.root, recorder.events[:moment], begin, folders)
        for seed in (None, moment, moment + 10000):
            shutil.rmtree(root)
            root.mkdir()
            for folder in sorted(disk.folders if seed is not None else disk.durable_folders):
                os.makedirs(folder, exist_ok=True)
            for name, data in after_the_cut(disk, None if seed is None else random.Random(seed)).items():
                os.makedirs(os.path.dirname(name), exist_ok=True)
                Path(name).write_bytes(data)
            judge(moment)
    return len(recorder.events)


def test_a_cut_at_any_moment_of_a_backup_costs_at_most_that_backup(
    recorded: Recorder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(local(root))
    old = image(tmp_path / "old", [1, 2, 3])
    kept, _told = back_up(store, old, machine="old")
    begin, folders = contents(root)
    recorded.events.clear()
    new = image(tmp_path / "new", [3, 4, 5, 6])
    made, _told = back_up(Store.open(local(root)), new, machine="new")
    seen: set[bool] = set()

    def judge(moment: int) -> None:
        opened = Store.open(local(root), clock=FakeClock())
        points = {point.machine_id: point for point in opened.points()}
        seen.add("new" in points)
        assert points["old"] == kept and restored(opened, kept, tmp_path) == old.read_bytes()
        if "new" in points:
            assert points["new"] == made and restored(opened, made, tmp_path) == new.read_bytes()
        # The next run cleans up, and succeeds.
        again, _told = back_up(Store.open(local(root)), new, machine="again")
        collect.run(Store.open(local(root), clock=FakeClock()))
        opened = Store.open(local(root))
        assert restored(opened, again, tmp_path) == new.read_bytes()
        assert restored(opened, kept, tmp_path) == old.read_bytes()
        assert not [path for path in root.rglob(".tmp-*")]
        sound(opened)

    assert every_cut(recorded, begin, folders, judge, monkeypatch) > 30
    assert seen == {True, False}


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
def test_a_cut_at_any_moment_of_backups_from_far_away_loses_nothing_that_was_told(
    recorded: Recorder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """One that ends by its source, with words on the way; one that goes on from there, to its commit."""
    monkeypatch.setattr(unfinished, "TELL_SECONDS", 0.0)
    store = new_store(local(root), pack_bytes=3 << 16)
    old = image(tmp_path / "old", [1, 2, 3])
    kept, _told = back_up(store, old, machine="old")
    begin, folders = contents(root)
    recorded.events.clear()
    new = image(tmp_path / "new", list(range(3, 20)))

    def refuse(_point: str) -> None:
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError):
        feed(Store.open(local(root)), HashedFile(new), machine="new", before_commit=refuse)
    left = len(recorded.events)
    feed(Store.open(local(root)), HashedFile(new), machine="new")
    least = [17]

    def judge(moment: int) -> None:
        opened = Store.open(local(root), clock=FakeClock())
        points = {point.machine_id: point for point in opened.points()}
        assert restored(opened, points["old"], tmp_path) == old.read_bytes()
        if "new" in points:
            assert restored(opened, points["new"], tmp_path) == new.read_bytes()
        source = HashedFile(new)
        again, _told = feed(Store.open(local(root)), source, machine="again")
        if moment == left:
            least.append(len(source.fetched))
        collect.run(Store.open(local(root), clock=FakeClock()))
        opened = Store.open(local(root))
        assert restored(opened, again, tmp_path) == new.read_bytes()
        assert restored(opened, kept, tmp_path) == old.read_bytes()
        sound(opened)

    assert every_cut(recorded, begin, folders, judge, monkeypatch, step) > 60
    monkeypatch.setattr(local_backend, "os", os)
    # After the first one had ended all that it was told was durable; but for what the other machine has, elsewhere.
    assert step > 1 or min(least) == 1


def test_a_cut_at_any_moment_of_a_collection_loses_nothing(
    recorded: Recorder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(local(root))
    stays = image(tmp_path / "stays", [1, 2, 3])
    gone, _told = back_up(store, image(tmp_path / "gone", [7, 8, 9]), machine="gone")
    kept: Point = back_up(store, stays, machine="stays")[0]
    begin, folders = contents(root)
    recorded.events.clear()
    store.backend.delete(gone.object_name)
    collect.run(Store.open(local(root), clock=FakeClock()))
    assert [event for event in recorded.events if event[0] == "unlink" and event[1].endswith(".pack")]

    def judge(moment: int) -> None:
        opened = Store.open(local(root), clock=FakeClock())
        assert restored(opened, kept, tmp_path) == stays.read_bytes()
        new, _told = back_up(Store.open(local(root)), tmp_path / "gone", machine="new")
        collect.run(Store.open(local(root), clock=FakeClock()))
        opened = Store.open(local(root))
        assert restored(opened, kept, tmp_path) == stays.read_bytes()
        assert restored(opened, new, tmp_path) == (tmp_path / "gone").read_bytes()

    assert every_cut(recorded, begin, folders, judge, monkeypatch) > 8


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.soak)])
def test_a_cut_at_any_moment_of_a_prune_with_all_that_follows_loses_nothing(
    recorded: Recorder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Points go, their packs go, packs are written anew, index files are merged."""
    monkeypatch.setattr(collect, "MOST_SEGMENTS", 2)
    store = new_store(local(root))
    disks = {f"m{number}": image(tmp_path / f"m{number}", [number, 10, 11]) for number in range(1, 4)}
    back_up(store, image(tmp_path / "first", list(range(1, 9))), machine="m1")
    kept = {machine: back_up(store, disk, machine=machine)[0] for machine, disk in disks.items()}
    held, _told = back_up(store, disks["m2"], machine="m3")
    back_up(store, image(tmp_path / "last", [30, 31]), machine="m3")
    holds.hold(store, held, "audit", "why")
    begin, folders = contents(root)
    recorded.events.clear()
    report = prune.run(Store.open(local(root), clock=FakeClock(LATER)), Keep(last=1))
    assert report.removed and report.collected
    assert report.collected.removed and report.collected.repacked and report.collected.merged
    stays = {point.object_name for point in Store.open(local(root)).points()}
    wanted = {point.object_name: disks[point.machine_id].read_bytes() for point in kept.values()}
    wanted[held.object_name] = disks["m2"].read_bytes()
    there: set[int] = set()

    def judge(moment: int) -> None:
        opened = Store.open(local(root), clock=FakeClock(LATER))
        found = {point.object_name: point for point in opened.points()}
        there.add(len(found))
        assert stays <= found.keys()
        for name, point in found.items():
            if name in wanted:
                assert restored(opened, point, tmp_path) == wanted[name]
        sound(opened)
        back_up(Store.open(local(root)), tmp_path / "first", machine="new")
        # The same again comes to the same end.
        again = prune.run(Store.open(local(root), clock=FakeClock(LATER)), Keep(last=1), machines=disks)
        opened = Store.open(local(root))
        assert again.collected and again.collected.stopped is None
        assert {point.object_name for point in opened.points() if point.machine_id != "new"} == stays
        for point in opened.points():
            data = wanted.get(point.object_name)
            assert data is None or restored(opened, point, tmp_path) == data
        assert restored(opened, opened.points("new")[0], tmp_path) == (tmp_path / "first").read_bytes()
        assert not list((root / "removals").iterdir()) if (root / "removals").exists() else True
        sound(opened)

    assert every_cut(recorded, begin, folders, judge, monkeypatch, step) > 60
    assert len(there) > 1


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.soak)])
def test_a_cut_at_any_moment_of_a_repair_loses_nothing_that_was_there(
    recorded: Recorder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Damaged packs are healed from a second store and written anew, the index is made anew."""
    (tmp_path / "second").mkdir()
    store, second = new_store(local(root)), new_store(local(tmp_path / "second"))
    disks = {name: image(tmp_path / name, [*seeds, 9]) for name, seeds in (("one", [1, 2, 3, 4]), ("two", [5, 6]))}
    made = {name: back_up(store, disk, machine=name)[0] for name, disk in disks.items()}
    copy.run(store, second)
    for path in (root / "packs").rglob(f"{made['one'].writer}-*.pack"):
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
    sorted((root / "index").iterdir())[0].write_bytes(b"nonsense")
    begin, folders = contents(root)
    recorded.events.clear()
    report = repair.run(Store.open(local(root), clock=FakeClock()), other=second)
    assert report.healed and report.collected and report.collected.removed

    def judge(moment: int) -> None:
        opened = Store.open(local(root), clock=FakeClock())
        assert restored(opened, made["two"], tmp_path) == disks["two"].read_bytes()
        again = repair.run(Store.open(local(root), clock=FakeClock()), other=second)
        assert again.lost == {} and again.collected and again.collected.stopped is None
        opened = Store.open(local(root))
        for name, point in made.items():
            assert restored(opened, point, tmp_path) == disks[name].read_bytes()
        sound(opened)

    assert every_cut(recorded, begin, folders, judge, monkeypatch, step) > 30
