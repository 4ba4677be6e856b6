# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmsd import parse_vmsd

DATA = Path(__file__).parent / "data"


def test_snapshots_with_their_frozen_disks_parents_and_times():
    vmsd = parse_vmsd((DATA / "vmsd-four-snapshots.vmsd").read_text(), "x.vmsd")
    first, second, third = vmsd.snapshots
    assert (vmsd.last_uid, [s.uid for s in vmsd.snapshots]) == (4, [1, 2, 3])
    assert first.name == "SNAPSHOT POST INSTALL" and first.parent is None and second.parent == 1
    assert first.disks == {"scsi0:0": "test flo_0.vmdk"} and second.disks == {"scsi0:0": "test flo_0-000001.vmdk"}
    assert first.created_at == datetime(2022, 11, 28, 15, 24, 12, 664346, tzinfo=timezone.utc)
    assert second.created_at is not None and second.created_at > first.created_at, "a negative low word"
    assert third.with_memory and not first.with_memory


def test_the_current_one_counts_only_if_it_is_listed():
    vmsd = parse_vmsd((DATA / "vmsd-four-snapshots.vmsd").read_text(), "x.vmsd")
    assert vmsd.current is None, "4 is beyond the cut of this copy"
    assert parse_vmsd('snapshot.current = "2"\nsnapshot0.uid = "2"\n', "x").current == 2


def test_an_empty_file_and_the_rest_after_the_last_removal_mean_no_snapshot():
    assert parse_vmsd("", "x.vmsd").snapshots == ()
    rest = parse_vmsd('.encoding = "UTF-8"\nsnapshot.lastUID = "7"\nsnapshot.numSnapshots = "0"\n', "x.vmsd")
    assert rest.snapshots == () and rest.last_uid == 7


def test_entries_beyond_the_number_of_snapshots_are_remains():
    text = 'snapshot.numSnapshots = "1"\nsnapshot0.uid = "3"\nsnapshot1.uid = "2"\nsnapshot1.displayName = "old"\n'
    assert [s.uid for s in parse_vmsd(text, "x").snapshots] == [3]
