# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A held point stays, whoever removes points at the same time; and what verify found of each is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import holds, removal, textfile, verified, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    BadHold,
    Damaged,
    NoSuchHold,
    NoSuchPoint,
    PointGoing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

from .benches import back_up, image, local, new_store
from .test_collect import Interleaved


def test_a_hold_is_made_once_listed_and_released(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    point, _told = back_up(store, image(tmp_path / "a", [1]))
    other, _told = back_up(store, image(tmp_path / "b", [2]), machine="vm-2")
    assert holds.hold(store, point, "audit", "for the auditors") is True
    assert holds.hold(store, point, "audit", "for the auditors") is False
    assert holds.hold(store, other, "audit", "for them, too") is True
    with pytest.raises(BadHold, match="for another reason: for the auditors"):
        holds.hold(store, point, "audit", "else")
    opened = again()
    (found,) = holds.listed(opened, point)
    assert (found.name, found.reason, found.point) == ("audit", "for the auditors", point.point)
    assert len(holds.listed(opened)) == 2
    assert removal.held(opened.backend) == {point.object_name, other.object_name}
    if store.vault:
        assert not [path for path in root.rglob("*") if path.is_file() and b"auditors" in path.read_bytes()]
    holds.release(opened, point, "audit")
    assert holds.listed(opened, point) == [] and removal.held(opened.backend) == {other.object_name}
    with pytest.raises(NoSuchHold, match="its holds: none"):
        holds.release(opened, point, "audit")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "x" * 65, "a b", "x\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(plain: Store, tmp_path: Path, name: str) -> None:
    point, _told = back_up(plain, image(tmp_path / "a", [1]))
    with pytest.raises(BadHold):
        holds.hold(plain, point, name, "why")


def test_what_is_held_is_not_removed_and_what_is_gone_cannot_be_held(plain: Store, tmp_path: Path) -> None:
    kept, _told = back_up(plain, image(tmp_path / "a", [1]))
    gone, _told = back_up(plain, image(tmp_path / "b", [2]))
    holds.hold(plain, kept, "audit", "why")
    names = [kept.object_name, gone.object_name]
    assert removal.remove(plain.backend, names) == ([gone.object_name], [kept.object_name])
    assert plain.points() == [kept] and removal.under_way(plain.backend) == []
    with pytest.raises(NoSuchPoint):
        holds.hold(plain, gone, "audit", "why")
    assert len(holds.listed(plain)) == 1


def test_a_damaged_hold_holds(plain: Store, root: Path, tmp_path: Path) -> None:
    kept, _told = back_up(plain, image(tmp_path / "a", [1]))
    holds.hold(plain, kept, "audit", "why")
    (path,) = (root / "holds").rglob("*.json")
    path.write_bytes(b"{}")
    assert removal.remove(plain.backend, [kept.object_name]) == ([], [kept.object_name])
    report = verify.run(plain)
    assert len(report.problems) == 1 and "audit.json" in report.problems[0]


def test_a_removal_that_was_cut_short_is_finished_by_the_next(plain: Store, tmp_path: Path) -> None:
    kept, _told = back_up(plain, image(tmp_path / "a", [1]))
    gone, _told = back_up(plain, image(tmp_path / "b", [2]))
    plain.backend.create("removals/dead.json", textfile.render({"points": [gone.object_name]}))
    with pytest.raises(PointGoing, match="its removal has begun"):
        holds.hold(plain, gone, "audit", "why")
    assert holds.listed(plain) == []
    assert removal.remove(plain.backend, []) == ([gone.object_name], [])
    assert plain.points() == [kept] and removal.under_way(plain.backend) == []


@pytest.mark.parametrize("name", ["config.json", "points/../config.json", "packs/aa/x.pack", "points/a/b/c.json", 7])
def test_a_list_of_what_goes_leads_to_restore_points_only(plain: Store, root: Path, name: object) -> None:
    plain.backend.create("removals/evil.json", textfile.render({"points": [name]}))
    with pytest.raises(Damaged, match="no list of restore points"):
        removal.remove(plain.backend, [])
    assert (root / "config.json").exists()


@pytest.mark.folder
@pytest.mark.parametrize("first", ["hold", "remove"])
def test_of_a_hold_and_a_removal_that_meet_anywhere_exactly_one_succeeds(tmp_path: Path, first: str) -> None:
    moment, done, outcomes = 0, False, set()
    while not done:
        moment += 1
        root = tmp_path / str(moment)
        root.mkdir()
        store = new_store(local(root))
        point, _told = back_up(store, image(tmp_path / "a", [1]))
        held: list[bool] = []

        def hold(backend: Backend, point: Point = point, held: list[bool] = held) -> None:
            try:
                held.append(holds.hold(Store.open(backend), point, "audit", "why"))
            except (PointGoing, NoSuchPoint):
                held.append(False)

        def remove(backend: Backend, point: Point = point) -> None:
            removal.remove(backend, [point.object_name])

        one, other = (hold, remove) if first == "hold" else (remove, hold)
        backend = Interleaved(str(root), moment, partial(other, local(root)))
        one(backend)
        done = backend.calls < moment
        if done:
            other(local(root))
        there = bool(store.points())
        assert held == [there], moment
        outcomes.add(there)
    assert outcomes == {True, False} and moment > 4


def test_the_newest_finding_that_names_a_point_counts_and_what_says_nothing_goes(
    plain: Store, root: Path, tmp_path: Path
) -> None:
    one, _told = back_up(plain, image(tmp_path / "a", [1]), machine="one")
    verify.run(plain, deep=True)
    two, _told = back_up(plain, image(tmp_path / "b", [2]), machine="two")
    before = {path: path.read_bytes() for path in (root / "packs").rglob("*.pack") if path.stem.startswith(two.writer)}
    for path, data in before.items():
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    report = verify.run(plain)
    assert (report.good_points, report.bad_points) == ([one.object_name], [two.object_name])
    found = verified.findings(plain)
    assert (found[one.object_name].good, found[one.object_name].deep) == (True, False)
    assert found[two.object_name].good is False
    assert len(list((root / "verified").iterdir())) == 1
    for path, data in before.items():
        path.write_bytes(data)
    verified.record(plain, True, [two.object_name], [])
    found = verified.findings(plain)
    assert found[one.object_name].good and found[two.object_name].good
    assert len(list((root / "verified").iterdir())) == 2


def test_what_a_deep_look_found_damaged_only_a_deep_one_finds_good(plain: Store, root: Path, tmp_path: Path) -> None:
    """A record whose checksum is right over wrong bytes: a scrub every night would hide what a deep verify finds."""
    one, two = (back_up(plain, image(tmp_path / "d", [seed]), machine=f"vm-{seed}")[0] for seed in (1, 2))
    names = [one.object_name, two.object_name]
    verified.record(plain, True, [two.object_name], [one.object_name])
    for _night in range(3):
        assert verify.run(plain).good_points == sorted(names)
        found = verified.findings(plain)
        assert [(found[name].good, found[name].deep) for name in names] == [(False, True), (True, False)]
    assert len(list((root / "verified").iterdir())) == 2
    verified.record(plain, False, [], [two.object_name])
    verified.record(plain, False, [two.object_name], [])
    assert verified.findings(plain)[two.object_name].good
    verify.run(plain, deep=True)
    assert all(finding.good for finding in verified.findings(plain).values())
    assert len(list((root / "verified").iterdir())) == 1


def test_what_was_found_good_again_stays_so_when_notes_go(plain: Store, root: Path, tmp_path: Path) -> None:
    one, two = (back_up(plain, image(tmp_path / "d", [seed]), machine=f"vm-{seed}")[0] for seed in (1, 2))
    verified.record(plain, True, [], [one.object_name, two.object_name])
    verified.record(plain, True, [two.object_name], [])
    for _night in range(3):
        verified.record(plain, False, [two.object_name], [])
        found = verified.findings(plain)
        assert (found[one.object_name].good, found[two.object_name].good) == (False, True)
    assert len(list((root / "verified").iterdir())) == 3


def test_a_damaged_finding_is_told_and_the_next_verify_replaces_it(plain: Store, root: Path, tmp_path: Path) -> None:
    back_up(plain, image(tmp_path / "a", [1]))
    verify.run(plain)
    (path,) = (root / "verified").iterdir()
    path.write_bytes(path.read_bytes().replace(b'"deep":false', b'"deep":true'))
    with pytest.raises(Damaged):
        verified.findings(plain)
    assert "checksum" in verify.run(plain).problems[0]
    assert verify.run(plain).ok


def test_a_store_that_cannot_be_written_is_verified_all_the_same(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(plain, image(tmp_path / "a", [1]))

    def refuse(name: str, data: bytes) -> None:
        raise BackendFailed(name=name, store="x", done="written", reason="Read-only file system")

    monkeypatch.setattr(plain.backend, "create", refuse)
    report = verify.run(plain)
    assert report.ok and report.unrecorded and "Read-only file system" in report.unrecorded
