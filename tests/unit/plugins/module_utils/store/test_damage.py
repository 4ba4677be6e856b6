# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One flipped bit, in any file and anywhere in it: found, named, and nothing else is lost."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    collect,
    holds,
    pack,
    prune,
    repair,
    verify,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.part import Chosen
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

from .benches import back_up, image, local, restored


def files(root: Path) -> list[Path]:
    """All but the two that are for people."""
    return sorted(path for path in root.rglob("*.*") if path.is_file() and path.name not in ("README.txt", "reader.py"))


def flip(path: Path, bit: int) -> bytes:
    data = bytearray(path.read_bytes())
    before = bytes(data)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return before


def looked_at(root: Path, secret: str | None) -> tuple[bool, str]:
    """Whether the store seems sound, and all words about what is not."""
    try:
        report = verify.run(Store.open(local(root), secret), deep=False, threads=1, record=False)
    except StowageError as error:
        return False, error.message
    return report.ok, " ".join([*report.problems, *report.bad.values(), *report.hit])


def test_a_flipped_bit_is_found_and_named_and_what_it_does_not_touch_restores(
    store: Store, secret: str | None, root: Path, tmp_path: Path
) -> None:
    disks = {name: image(tmp_path / name, [seed, 0, seed + 1]) for name, seed in (("one", 1), ("two", 50))}
    points = {name: back_up(store, disk, machine=name)[0] for name, disk in disks.items()}
    holds.hold(store, points["one"], "audit", "asked for by the auditors")
    verify.run(store)
    chance = random.Random(7)
    assert looked_at(root, secret) == (True, "")
    kinds = set()
    for path in files(root):
        size = path.stat().st_size * 8
        spots = {0, size - 1, *(chance.randrange(size) for _ in range(6))}
        for bit in sorted(spots):
            before = flip(path, bit)
            sound, words = looked_at(root, secret)
            assert not sound, (path, bit)
            assert path.stem in words or "chunk" in words, (path, bit, words)
            kinds.add(path.relative_to(root).parts[0])
            intact = [
                name for name in points if f"'name of {name}'" not in words and points[name].point not in path.name
            ]
            if path.parts[-3:][0] == "packs" or path.parent.name == "index":
                for name in intact:
                    opened = Store.open(local(root), secret)
                    assert restored(opened, points[name], tmp_path) == disks[name].read_bytes(), (path, bit, words)
            path.write_bytes(before)
    others = {"settings", "config.json", "holds", "verified", *(["keys"] if secret else [])}
    assert kinds == {"packs", "index", "points", *others}
    assert looked_at(root, secret) == (True, "")


@pytest.mark.parametrize("what", ["pack", "idx"])
def test_a_file_that_vanished_or_was_cut_is_named_with_who_needs_it(
    plain: Store, root: Path, tmp_path: Path, what: str
) -> None:
    back_up(plain, image(tmp_path / "disk", [1, 2, 3]), machine="one")
    for path in [path for path in files(root) if path.suffix == f".{what}"]:
        data = path.read_bytes()
        for left in (None, b"", data[:-1], data[: len(data) // 2]):
            if left is None:
                path.unlink()
            else:
                path.write_bytes(left)
            sound, words = looked_at(root, None)
            assert not sound and ("'name of one'" in words or path.stem in words), (path, words)
            path.write_bytes(data)
    assert looked_at(root, None) == (True, "")


def test_two_packs_that_were_swapped_are_found(plain: Store, root: Path, tmp_path: Path) -> None:
    back_up(plain, image(tmp_path / "disk", list(range(1, 80))))
    one, two = [path for path in files(root) if path.suffix == ".pack"][:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    sound, words = looked_at(root, None)
    assert not sound and "'name of vm-1'" in words


def test_a_pack_of_another_store_is_refused(plain: Store, root: Path, tmp_path: Path) -> None:
    from .benches import new_store

    (tmp_path / "other").mkdir()
    back_up(plain, image(tmp_path / "disk", [1, 2]))
    other = new_store(local(tmp_path / "other"))
    back_up(other, tmp_path / "disk")
    (mine, *_), (foreign, *_) = ([p for p in files(r) if p.suffix == ".pack"] for r in (root, tmp_path / "other"))
    mine.write_bytes(foreign.read_bytes())
    sound, words = looked_at(root, None)
    assert not sound and "belongs to another store" in words


def test_the_parts_of_a_pack_have_the_lengths_that_the_format_says() -> None:
    assert (pack.HEADER.size, pack.RECORD.size, pack.ENTRY.size, pack.FOOTER_BYTES) == (64, 64, 64, 48)


@pytest.mark.parametrize("elsewhere", ["packs/zz/{}.pack", "packs/{}.pack", "packs/{}/{}.old.pack"])
def test_a_pack_that_was_moved_is_missed_where_it_should_be(
    plain: Store, root: Path, tmp_path: Path, elsewhere: str
) -> None:
    """An index says which pack, and the pack's name where that lies: a good one in another place helps no restore."""
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2, 3]))
    for path in [path for path in files(root) if path.suffix == ".pack"]:
        target = root / elsewhere.format(path.stem[:2] if "old" in elsewhere else path.stem, path.stem)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    with pytest.raises(StowageError):
        restored(plain, point, tmp_path)
    report = verify.run(Store.open(local(root)))
    assert report.bad_points == [point.object_name] and not report.good_points
    assert any("name in this place" in problem for problem in report.problems)
    report = verify.run(Store.open(local(root)), part=Chosen((point,)))
    assert report.bad_points == [point.object_name]
    lost = repair.run(Store.open(local(root)), check=True).lost
    assert list(lost) == [point.object_name]


def test_a_good_copy_beside_a_damaged_pack_is_not_taken_for_it(plain: Store, root: Path, tmp_path: Path) -> None:
    point, _told = back_up(plain, image(tmp_path / "disk", [1, 2, 3]))
    for path in [path for path in files(root) if path.suffix == ".pack"]:
        path.with_suffix(".old.pack").write_bytes(path.read_bytes())
        flip(path, 8 * 100)
    report = verify.run(Store.open(local(root)), threads=1)
    assert report.bad and report.bad_points == [point.object_name]
    found = repair.run(Store.open(local(root)), check=True, threads=1)
    assert found.bad_records and list(found.lost) == [point.object_name]


@pytest.mark.folder
@pytest.mark.parametrize("what", ["points/aa/{}.json", "packs/aa/aa-000001.pack", "index/aa.idx", "verified/{}.json"])
def test_a_pipe_among_the_files_is_damage_and_no_wait(plain: Store, root: Path, tmp_path: Path, what: str) -> None:
    disk = image(tmp_path / "disk", [1])
    point, _told = back_up(plain, disk)
    path = root / what.format(point.point if "points" in what else "7")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    sound, words = looked_at(root, None)
    assert not sound and "it is no file" in words
    assert restored(Store.open(local(root)), point, tmp_path) == disk.read_bytes()


def test_a_manifest_of_a_day_that_never_was_is_damage(plain: Store, root: Path, tmp_path: Path) -> None:
    point, _told = back_up(plain, image(tmp_path / "disk", [1]))
    never = replace(point, point=f"20260230{point.point[8:]}")
    plain.backend.create(never.object_name, never.render())
    with pytest.raises(Damaged, match="another point"):
        prune.run(plain, Keep(last=1))
    assert never.object_name in verify.run(plain).bad_points


@pytest.mark.folder
@pytest.mark.parametrize("what", ["verified/²", "turns/²", "verified/٣", "turns/٣"])
def test_numbers_that_are_none_are_left_alone(plain: Store, root: Path, tmp_path: Path, what: str) -> None:
    back_up(plain, image(tmp_path / "disk", [1]))
    (root / what).parent.mkdir(exist_ok=True)
    (root / f"{what}.json").write_bytes(b"{}")
    assert verify.run(plain).good_points
    assert collect.run(plain, rewrite=["x"]).stopped is None
