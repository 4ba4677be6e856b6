# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a reference snapshot tells the truth, when it is proven, and when it has to go."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import Snapshot, SnapshotTree
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import hinting, names, references
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.heldstill import DiskState, FileState
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import (
    Reference,
    Rules,
    disk_doubt,
    doubt,
    over_limit,
    parse,
    proof_due,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs import hints
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import DiskFed
from ansible_collections.stowage.esxi.plugins.module_utils.store.claim import Proof
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from jobs_values import make_job

JOB = make_job()
MIB = 1 << 20
DS = "/vmfs/volumes/ds/web01"
NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)
FROZEN = DiskState(
    "scsi0:0", (f"{DS}/web01.vmdk",), ("0000cafe",), (FileState(f"{DS}/web01-flat.vmdk", 1 << 30, 1700000000),)
)
REFERENCE = Reference(
    vm="web01",
    identity=JOB.identity,
    vmx_path=JOB.vmx_path,
    host=JOB.host,
    job=JOB.job,
    snapshot=4,
    name=JOB.snapshot_name,
    store="/srv/stowage",
    point="20261122T200000.000000Z-0a1b2c",
    created_at="2026-11-22T20:05:00Z",
    proven_at="2026-11-22T20:05:00Z",
    disks=(FROZEN,),
    sizes={"scsi0:0": 1 << 30},
    rules=Rules(enabled=True),
)


def snapshot(number: int, name: str, parent: int | None = None, current: bool = False) -> Snapshot:
    return Snapshot(number, name, "", None, "powered off", 1 if parent is None else 2, parent, current)


TREE = SnapshotTree((snapshot(4, JOB.snapshot_name), snapshot(5, "stowage-run2", 4, True)))


def why(reference: Reference = REFERENCE, **changes: Any) -> str:
    facts: dict[str, Any] = {
        "identity": JOB.identity,
        "vmx_path": JOB.vmx_path,
        "host": JOB.host,
        "store": "/srv/stowage",
        "tree": TREE,
        "ours": 5,
    }
    return doubt(reference, **{**facts, **changes})


def test_what_was_written_down_is_read_again() -> None:
    assert parse(REFERENCE.render()) == REFERENCE


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("schema", 2),
        ("snapshot", "4"),
        ("snapshot", True),
        ("name", "before the upgrade"),
        ("job", "run1"),
        ("created_at", "yesterday"),
        ("proven_at", "2026-11-22T20:05:00"),
        ("disks", None),
        ("disks", [{"key": "scsi0:0"}]),
        ("sizes", {"scsi0:0": "many"}),
        ("sizes", []),
        ("sizes", {"scsi0:0": 1e400}),
        ("rules", {"enabled": "yes"}),
        ("rules", {"max_age": 1}),
        ("more", 1),
    ],
)
def test_what_nobody_of_us_has_written_is_none(part: str, value: Any) -> None:
    assert parse(json.dumps({**json.loads(REFERENCE.render()), part: value})) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, REFERENCE.render()[:200]])
def test_what_is_cut_is_none(text: str) -> None:
    assert parse(text) is None


def test_what_nothing_speaks_against_is_believed() -> None:
    assert why() == ""
    off = SnapshotTree((snapshot(4, JOB.snapshot_name, current=True),))
    assert why(tree=off, ours=None) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": "another"}, "another VM"),
        ({"host": "esx2"}, "taken on esx1"),
        ({"vmx_path": "/vmfs/volumes/other/web01/web01.vmx"}, "moved"),
        ({"store": "/srv/other"}, "restore point is in /srv/stowage"),
        ({"tree": SnapshotTree(TREE.snapshots[1:])}, "snapshot 4 is gone"),
        ({"tree": SnapshotTree((snapshot(4, "renamed"), TREE.snapshots[1]))}, "called 'renamed'"),
        # Somebody's own snapshot lies between the two.
        (
            {"tree": SnapshotTree((TREE.snapshots[0], snapshot(9, "mine", 4), snapshot(5, "x", 9, True)))},
            r"in between \('mine' \(id 9\)\)",
        ),
        # Reverted to what was below.
        (
            {"tree": SnapshotTree((snapshot(2, "old"), replace(TREE.snapshots[0], parent_id=2), snapshot(5, "x", 2)))},
            "reverted",
        ),
        ({"tree": SnapshotTree((TREE.snapshots[0], snapshot(5, "x")))}, "reverted"),
        ({"ours": None}, "reverted"),
        ({"ours": 77}, "reverted"),
    ],
)
def test_each_doubt_is_told(changes: dict[str, Any], words: str) -> None:
    assert re.search(words, why(**changes))


ABOVE = DiskState(
    "scsi0:0",
    (f"{DS}/web01-000001.vmdk", *FROZEN.links),
    ("0000beef", *FROZEN.cids),
    (FileState(f"{DS}/web01-000001-delta.vmdk", 24576, 1700000900), *FROZEN.files),
)


def test_a_disk_that_stands_on_what_was_frozen_is_believed() -> None:
    assert disk_doubt(REFERENCE, "scsi0:0", ABOVE, 1 << 30) == ""


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (None, "cannot be read"),
        (replace(ABOVE, fault="its parent is missing"), "its parent is missing"),
        (replace(ABOVE, links=(f"{DS}/new.vmdk",)), "does not stand on"),
        (replace(ABOVE, links=(*ABOVE.links, f"{DS}/deeper.vmdk"), cids=(*ABOVE.cids, "1")), "chain went from"),
        (replace(ABOVE, cids=("0000beef", "0000f00d")), "went from 0000cafe to 0000f00d"),
        (replace(ABOVE, files=ABOVE.files[:1]), "web01-flat.vmdk is gone"),
        (replace(ABOVE, files=(replace(FROZEN.files[0], mtime=1700000001),)), "was written to"),
        (replace(ABOVE, files=(replace(FROZEN.files[0], size=1 << 31),)), "was written to"),
    ],
)
def test_each_doubt_of_a_disk_is_told(now: DiskState | None, words: str) -> None:
    assert words in disk_doubt(REFERENCE, "scsi0:0", now, 1 << 30)


def test_a_disk_of_another_size_or_that_came_later_is_not_believed() -> None:
    assert "its size went from" in disk_doubt(REFERENCE, "scsi0:0", ABOVE, 2 << 30)
    assert "was not in the reference" in disk_doubt(REFERENCE, "scsi0:1", ABOVE, 1 << 30)


def test_a_proof_is_due_after_so_many_backups_or_days() -> None:
    rules = Rules(prove_backups=3, prove_days=2)
    assert [bool(proof_due(replace(REFERENCE, unproven=n), rules, NOW)) for n in range(4)] == [False, False, True, True]
    assert "last proof was" in proof_due(REFERENCE, rules, NOW + timedelta(days=1, hours=1))
    assert proof_due(REFERENCE, Rules(prove_backups=1), NOW)


def test_it_goes_when_it_is_too_old_too_large_or_in_the_way() -> None:
    room = {"ds": (20 << 30, 100 << 30)}
    assert over_limit(REFERENCE, NOW, 0, room) == ""
    assert "hours old, and may be 72" in over_limit(REFERENCE, NOW + timedelta(days=3), 0, room)
    assert "hours from now" in over_limit(REFERENCE, NOW - timedelta(days=3), 0, room)
    assert over_limit(REFERENCE, NOW, (1 << 30) // 5, room) == ""
    assert "its deltas have" in over_limit(REFERENCE, NOW, (1 << 30) // 5 + 1, room)
    assert "less than the reserve" in over_limit(REFERENCE, NOW, 0, {"ds": (9 << 30, 100 << 30)})


def test_only_snapshots_with_the_mark_of_this_machine_on_this_host_are_ours() -> None:
    mine = names.snapshot_name(names.job_id("nightly-1", "esx1", "id-1"))
    others = [
        "stowage-",
        "mine",
        names.snapshot_name(names.job_id("nightly-1", "esx2", "id-1")),
        names.snapshot_name(names.job_id("nightly-1", "esx1", "id-2")),
        names.snapshot_name(names.job_id("nightly-1", "esx1", "id-1", "restore")),
        mine + "0",
        f"x{mine}",
    ]
    tree = SnapshotTree(tuple(snapshot(n, name) for n, name in enumerate([mine, *others], 1)))
    assert references.ours(tree, "id-1", "esx1") == {1: mine}


# -- what came of it -------------------------------------------------------------------------------------------------


def fed(key: str, hint: str, *notes: str) -> DiskFed:
    return DiskFed(key, 0, 0, 0.0, "agent", notes, hint=hint)


def point(number: int, way: str | None) -> Point:
    facts = {"hypervisor": "esx1", **({"hint": {"way": way}} if way else {})}
    return Point(f"2026112{number}T200000.000000Z-0a1b2c", "id", "web01", "", "", (), facts=facts)


def test_a_hint_that_was_wrong_is_dropped_and_names_the_points_that_it_has_made() -> None:
    mine = tuple(point(n, way) for n, way in enumerate(["hinted", "proven", "hinted", "hinted"]))
    decided = hinting.Decision(hints.HINTED, reference=replace(REFERENCE, unproven=2), mine=mine)
    outcome = decided.outcome([fed("scsi0:0", hints.WRONG, "why")], "2026-11-23T20:00:00Z")
    assert (outcome["way"], outcome["unproven"], outcome["doubtful"]) == ("wrong", 0, [mine[2].point, mine[3].point])
    assert outcome["dropped"].startswith("2026-11-23T20:00:00Z") and "scsi0:0: why" in outcome["dropped"]
    told = hinting.words("web01", outcome)
    assert mine[2].point in told and mine[1].point not in told and "reference.enabled=false" in told


@pytest.mark.parametrize(
    ("way", "came", "wanted", "unproven"),
    [
        (hinting.FIRST, [""], hinting.FIRST, 0),
        (hints.HASHED, [""], hints.HASHED, 0),
        (hints.HINTED, [hints.HINTED], hints.HINTED, 3),
        # One disk could not: the others still go by it.
        (hints.HINTED, [hints.HINTED, hints.HASHED], hints.HINTED, 3),
        (hints.HINTED, [hints.HASHED], hints.HASHED, 0),
        (hints.HINTED, [hints.PROVEN, hints.HASHED], hints.PROVEN, 0),
        (hints.HINTED, [hints.PROVEN, hints.WRONG], hints.WRONG, 0),
    ],
)
def test_what_came_of_the_disks_is_what_came_of_the_hint(way: str, came: list[str], wanted: str, unproven: int) -> None:
    decided = hinting.Decision(way, reference=replace(REFERENCE, unproven=2))
    disks = [fed(f"scsi0:{n}", one, "the reason") for n, one in enumerate(came)]
    outcome = decided.outcome(disks, "2026-11-23T20:00:00Z")
    assert (outcome["way"], outcome["unproven"]) == (wanted, unproven)
    assert (outcome["proven_at"] == REFERENCE.proven_at) is (wanted == hints.HINTED)
    assert bool(hinting.words("web01", outcome)) is (hints.HASHED in (*came, way) or wanted == hints.WRONG)


def test_without_the_policy_nothing_is_told() -> None:
    assert hinting.Decision(hinting.OFF).outcome([fed("scsi0:0", "")], "now") == {"way": "off"}
    assert hinting.words("web01", {"way": "off"}) == ""


class Chain:
    """A disk of a host, as far as a hint needs it."""

    links = ("/top.vmdk", "/base.vmdk")

    def above(self, link: str) -> Any:
        self.links.index(link)
        return iter([(0, 512), (1024, 512), (3 << 20, 1), (5 << 20, 2 << 20)])


def test_what_was_written_is_told_in_chunks() -> None:
    disk: Any = Chain()
    hint = hints.of(disk, "scsi0:0", False, hints.Hints({"scsi0:0": "/base.vmdk"}), 1 << 20)
    assert hint.areas is not None and list(hint.areas) == hint.areas[:] == [
        (0, MIB),
        (3 * MIB, MIB),
        (5 * MIB, 2 * MIB),
    ]
    assert hint.areas[-1] == hint.areas[2] and len(hint.areas) == 3
    assert (hint.outcome, hint.bytes, hint.proof) == (hints.HINTED, 4 << 20, None)
    assert hints.of(disk, "scsi0:1", False, hints.Hints({"scsi0:0": "/base.vmdk"}), 1 << 20) == hints.Hint()
    cloned = hints.of(disk, "scsi0:0", True, hints.Hints({"scsi0:0": "/base.vmdk"}), 1 << 20)
    strange = hints.of(disk, "scsi0:0", False, hints.Hints({"scsi0:0": "/other.vmdk"}), 1 << 20)
    assert (cloned.outcome, strange.outcome) == (hints.HASHED, hints.HASHED)
    assert "clone" in cloned.note(1 << 20) and "/top.vmdk <- /base.vmdk" in strange.note(1 << 20)
    proof = hints.of(disk, "scsi0:0", False, hints.Hints({"scsi0:0": "/base.vmdk"}, True), 1 << 20)
    assert (proof.outcome, proof.bytes, proof.proof) == (hints.PROVEN, None, Proof())
    wrong = replace(proof, proof=Proof(2, 4096))
    assert wrong.outcome == hints.WRONG and "2.0 MiB" in wrong.note(1 << 20) and "byte 4096" in wrong.note(1 << 20)
