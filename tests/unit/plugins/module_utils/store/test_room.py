# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file system below a store: a backup never takes the last of its room."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import quota
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoRoomLeft

from .benches import CHUNK, back_up, image, local, new_store

FULL = """
import os, sys
sys.path[:0] = sys.argv[2:]
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, collect, quota, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoRoomLeft
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

root = sys.argv[1] + "/store"
store = Store.create(LocalBackend(root), chunk_bytes=1 << 16, settings={"pack_bytes": 1 << 20})


def run(machine, path, size):
    with open(path, "wb") as file:
        file.write(os.urandom(size))
    source = RawDisk(path)
    try:
        return backup.run(store, machine, machine, [backup.DiskInput("scsi0:0", source)], threads=1)[0]
    finally:
        source.close()
        os.unlink(path)


def free():
    return quota.must_have_room(store) >> 20


disk = sys.argv[1] + "-disk"
gone = run("gone", disk, 8 << 20)
kept = run("kept", disk, 8 << 20)
print(free())
try:
    run("large", disk, 64 << 20)
except NoRoomLeft as error:
    print(error.message, error.hint_text)
# All of it was given back, and the reserve was not touched by what was given up.
print(free(), sorted(point.machine_id for point in store.points()))
# Somebody else fills what is left: a collection still works, and gives back what it frees.
with open(sys.argv[1] + "/others", "wb") as file:
    file.write(bytes(quota.must_have_room(store) + (512 << 10)))
try:
    quota.must_have_room(store)
except NoRoomLeft:
    print("full")
store.backend.delete(gone.object_name)
print(collect.run(store).stopped, free())
print(run("after", disk, 4 << 20) in store.points())
"""


def test_a_backup_is_given_up_before_the_file_system_is_full_and_a_collection_still_works(root: Path) -> None:
    """On a file system of 40 MiB that nothing else is on; without a quota nobody else would end it."""
    if shutil.which("bwrap") is None:
        pytest.skip("no bwrap on this machine")
    small = root.parent / "small"
    small.mkdir()
    words = ["bwrap", "--dev-bind", "/", "/", "--size", str(40 << 20), "--tmpfs", str(small)]
    words += [sys.executable, "-c", FULL, str(small), *filter(None, sys.path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, given_up, after, full, collected, again = done.stdout.splitlines()
    # 40 MiB, of which a twentieth stays.
    assert 20 <= int(before) <= 22 and (full, again) == ("full", "True")
    assert re.match(
        r"The backup was given up: the file system of the store \S+/small/store has \d+ bytes free", given_up
    )
    assert (
        f"and {(40 << 20) // 20} of them stay for commits and collections" in given_up
        and "Prune and collect" in given_up
    )
    assert after == f"{before} ['gone', 'kept']"
    assert collected.split()[0] == "None" and int(collected.split()[1]) >= 6


def test_room_that_others_take_is_seen_while_a_backup_writes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(local(root))
    # Several of the backup's threads may look before the first of them gives it up.
    room = itertools.chain([(1 << 40, 1 << 31)], itertools.repeat((1 << 40, 1 << 29)))
    monkeypatch.setattr(type(store.backend), "room", lambda _backend: next(room))
    monkeypatch.setattr(quota, "_LOOK", CHUNK)
    with pytest.raises(NoRoomLeft, match=f"has {1 << 29} bytes free, and {1 << 30} of them stay"):
        back_up(store, image(tmp_path / "disk", list(range(1, 60))))
    assert store.points() == [] and not list(store.packs())
    # What is said to stay is what stays.
    store.settings.update(reserve_bytes=1 << 20)
    monkeypatch.setattr(type(store.backend), "room", lambda _backend: (1 << 40, 2 << 20))
    assert quota.must_have_room(store) == 1 << 20
    back_up(store, image(tmp_path / "disk", list(range(1, 60))))
