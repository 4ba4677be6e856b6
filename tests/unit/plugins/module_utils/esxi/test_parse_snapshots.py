# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import (
    SnapshotTextError,
    parse_snapshots,
)

DATA = Path(__file__).parent / "data"


def record(depth: int, number: int, name: str, description: str = "", child: bool = True) -> str:
    d = "--" * depth
    mark = "|-ROOT" if depth == 1 else "--" * (depth - 1) + "|-CHILD"
    return (
        f"{mark}\n{d}Snapshot Name        : {name}\n{d}Snapshot Id        : {number}\n"
        f"{d}Snapshot Desciption  : {description}\n{d}Snapshot Created On  : 1/2/2026 3:4:5\n"
        f"{d}Snapshot State       : powered off\n"
    )


def test_a_chain_of_8_0():
    root, child = parse_snapshots((DATA / "snapshot.get-8.0.txt").read_text())
    assert (root.id, root.name, root.description, root.state, root.parent_id) == (14, "test", "", "powered on", None)
    assert root.created_at == datetime(2023, 4, 12, 16, 12, 54, tzinfo=timezone.utc)
    assert (child.id, child.parent_id, child.description) == (15, 14, "cs-freeze4snap")
    assert child.created_at == datetime(2021, 5, 9, 23, 50, 0, tzinfo=timezone.utc), "no leading zeros"


def test_no_snapshot_is_one_line():
    assert len(parse_snapshots("Get Snapshot:\n")) == 0
    assert len(parse_snapshots("Remove Snapshot:\n")) == 0


def test_two_branches_and_two_roots_are_walked_whole():
    text = "Get Snapshot:\n" + "".join(
        [
            record(1, 1, "root"),
            record(2, 2, "left"),
            record(3, 3, "left deep"),
            record(2, 4, "right"),
            record(3, 5, "left"),
            record(1, 6, "other root"),
        ]
    )
    tree = parse_snapshots(text)
    assert {s.id: s.parent_id for s in tree} == {1: None, 2: 1, 3: 2, 4: 1, 5: 4, 6: None}
    assert [s.id for s in tree.named("left")] == [2, 5]
    assert tree.with_descendants(4) == {4, 5} and tree.with_descendants(1) == {1, 2, 3, 4, 5}
    assert tree.ancestors(5) == (5, 4, 1)


def test_names_and_notes_are_data():
    text = "Get Snapshot:\n" + record(
        1, 7, "$(x) : Snapshot Id        : 9", "one\ntwo\n--Snapshot Id        : 8\n|-ROOT"
    )
    (snapshot,) = parse_snapshots(text)
    assert snapshot.id == 7 and snapshot.name == "$(x) : Snapshot Id        : 9"
    assert snapshot.description == "one\ntwo\n--Snapshot Id        : 8\n|-ROOT"


def test_a_note_that_imitates_an_end_of_its_record_is_still_a_note():
    note = "x\n--Snapshot Created On  : 1/1/2020 0:0:0\n--Snapshot State       : powered on\nnothing follows"
    (snapshot,) = parse_snapshots("Get Snapshot:\n" + record(1, 7, "n", note))
    assert snapshot.description == note and snapshot.created_at.year == 2026


def test_the_tree_that_a_removal_prints_may_be_indented():
    text = "    Remove Snapshot:\n" + "".join("    " + line + "\n" for line in record(1, 1, "snap01").splitlines())
    assert parse_snapshots(text).ids == {1}


def test_4_1_prints_no_ids():
    text = (
        "Get Snapshot:\n|-ROOT\n--Snapshot Name        : a\n--Snapshot Desciption  : \n"
        "--Snapshot Created On  : 6/8/2010 14:26:48\n--Snapshot State       : powered off\n"
    )
    (snapshot,) = parse_snapshots(text)
    assert snapshot.id is None and snapshot.name == "a"


@pytest.mark.parametrize(
    "text",
    [
        "<unset>\n",
        "Failed to login: Connection reset by peer\n",
        "Get Snapshot:\n|-ROOT\n--Snapshot Name        : cut\n",
        "Get Snapshot:\n" + record(1, 1, "a") + record(3, 2, "no parent"),
        "Get Snapshot:\n" + record(1, 1, "a") + record(1, 1, "the same id"),
    ],
)
def test_what_does_not_fit_is_an_error_never_an_empty_tree(text):
    with pytest.raises(SnapshotTextError):
        parse_snapshots(text)


def test_the_current_one_is_marked():
    tree = parse_snapshots("Get Snapshot:\n" + record(1, 1, "a") + record(2, 2, "b")).marked(2)
    assert tree.current is not None and tree.current.id == 2
    assert tree.marked(None).current is None
