# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.heldstill import (
    DiskState,
    FileState,
    SnapshotState,
    SourceState,
    compare_cold,
    compare_snapshot,
    source_state_from_dict,
)

FILES = (FileState("/v/a.vmdk", 500, 10), FileState("/v/a-flat.vmdk", 1024, 20))
DISK = DiskState("scsi0:0", ("/v/a.vmdk",), ("0000000a",), FILES)
OFF = SourceState("poweredOff", "boot-1", (DISK,))
KEYS = ["scsi0:0"]


def test_a_machine_at_rest_held_still() -> None:
    assert compare_cold(OFF, OFF, KEYS) == ()
    assert compare_cold(replace(OFF, power_state="suspended"), replace(OFF, power_state="suspended"), KEYS) == ()


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (replace(OFF, power_state="poweredOn"), "poweredOn"),
        (replace(OFF, boot_id="boot-2"), "started"),
        (replace(OFF, disks=()), "no longer there"),
        (replace(OFF, disks=(replace(DISK, cids=("0000000b",)),)), "content id"),
        (replace(OFF, disks=(replace(DISK, links=("/v/a-000001.vmdk", "/v/a.vmdk"), cids=("b", "a")),)), "chain"),
        (replace(OFF, disks=(replace(DISK, files=(FILES[0], replace(FILES[1], size=2048))),)), "size"),
        (replace(OFF, disks=(replace(DISK, files=(FILES[0], replace(FILES[1], mtime=21))),)), "written"),
        (replace(OFF, disks=(replace(DISK, files=FILES[:1]),)), "gone"),
        (replace(OFF, disks=(replace(DISK, fault="unreadable"),)), "unreadable"),
    ],
)
def test_every_change_of_a_machine_at_rest_is_seen(after: SourceState, word: str) -> None:
    reasons = compare_cold(OFF, after, KEYS)
    assert reasons and word in reasons[0]


def test_without_a_look_before_the_copy_nothing_is_proven() -> None:
    assert compare_cold(None, OFF, KEYS)


def test_a_machine_that_ran_when_the_copy_began_did_not_hold_still() -> None:
    on = replace(OFF, power_state="poweredOn")
    assert compare_cold(on, on, KEYS)


NOTED: dict[str, Any] = {"scsi0:0": {"source": "/v/a-000001.vmdk", "cids": ["c1", "b1", "a1"]}}
OURS = SnapshotState(4, "stowage-x", {"scsi0:0": "/v/a-000001.vmdk"})
LIVE = SourceState(
    "poweredOn",
    "boot-1",
    (
        DiskState(
            "scsi0:0",
            ("/v/a-000002.vmdk", "/v/a-000001.vmdk", "/v/b.vmdk", "/v/a.vmdk"),
            ("d1", "c1", "b1", "a1"),
            (),
        ),
    ),
)


def live(**changes: Any) -> SourceState:
    return replace(LIVE, disks=(replace(LIVE.disks[0], **changes),))


def test_what_our_snapshot_froze_held_still() -> None:
    assert compare_snapshot(NOTED, OURS, "stowage-x", LIVE, KEYS) == ()


def test_the_top_link_may_be_written_to_until_the_snapshot_is_taken() -> None:
    assert compare_snapshot(NOTED, OURS, "stowage-x", live(cids=("d1", "c2", "b1", "a1")), KEYS) == ()


@pytest.mark.parametrize(
    ("snapshot", "after", "word"),
    [
        (replace(OURS, name=None), LIVE, "gone"),
        (replace(OURS, name="renamed"), LIVE, "renamed"),
        (replace(OURS, frozen={}), LIVE, "did not freeze"),
        (replace(OURS, frozen={"scsi0:0": "/v/b.vmdk"}), LIVE, "/v/b.vmdk"),
        (OURS, replace(LIVE, disks=()), "no longer there"),
        (OURS, live(fault="The disk chain is broken"), "broken"),
        (OURS, live(links=("/v/b.vmdk", "/v/a.vmdk"), cids=("b1", "a1")), "reverted"),
        (OURS, live(links=("/v/a-000001.vmdk", "/v/b.vmdk", "/v/a.vmdk"), cids=("c1", "b1", "a1")), "reverted"),
        (OURS, live(cids=("d1", "c1", "b2", "a1")), "changed"),
        (OURS, live(links=("/v/a-000002.vmdk", "/v/a-000001.vmdk", "/v/a.vmdk"), cids=("d1", "c1", "a1")), "changed"),
    ],
)
def test_every_change_under_our_snapshot_is_seen(snapshot: SnapshotState, after: SourceState, word: str) -> None:
    reasons = compare_snapshot(NOTED, snapshot, "stowage-x", after, KEYS)
    assert reasons and word in reasons[0]


def test_a_state_survives_its_file() -> None:
    assert source_state_from_dict(OFF.as_dict()) == OFF
