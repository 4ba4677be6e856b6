# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica knows how it was left, and says what somebody has done to it since."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import ReplicaTouched
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.present import Present, PresentDisk, sealed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.replica import (
    ACTIVE,
    judge,
    marked,
    refuse_touched,
    untouched,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.vmxedit import NewPlace, rewrite
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import Vmx, parse_vmx

HOME = "/vmfs/volumes/u2/web01"
PLAIN = parse_vmx(
    'displayName = "web01"\nmemSize = "512"\nannotation = "ours, two|0Alines"\n'
    'stowage.restoredFrom = "id-1@20261122T200000Z"\n'
    'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "web01.vmdk"\n',
    "web01.vmx",
)
DISK = PresentDisk("scsi0:0", path=f"{HOME}/web01.vmdk", capacity_bytes=5, seal="0000000a@7")


def left(state: str = "ready") -> Present:
    vmx = marked(PLAIN, "id-1", "web01", "esx1", f"{HOME}/web01.vmx", "boot-1", state)
    vmx = Vmx(dict(vmx.changed({"stowage.restoredDisks": sealed({"scsi0:0": DISK.seal})})))
    return Present(
        vmid=7,
        name="web01",
        directory=HOME,
        vmx_path=f"{HOME}/web01.vmx",
        identity="id-1",
        power_state="poweredOff",
        boot_id="boot-1",
        vmx=vmx,
        disks={"scsi0:0": DISK},
    )


def test_a_copy_that_nobody_touched_says_whose_and_of_when_it_is() -> None:
    found = judge(left(), "esx2")
    assert (found.touched, found.state, found.source) == ((), "ready", "esx1")
    assert untouched(left(), "esx2")
    refuse_touched(found, "web01", "esx2")
    text = left().vmx["annotation"]
    assert text.startswith("REPLICA of web01 of esx1, as of 20261122T200000Z. ") and text.endswith("\nours, two\nlines")
    # Marked anew it has one such line, not two.
    again = marked(left().vmx, "id-1", "web01", "esx1", f"{HOME}/web01.vmx", "boot-1")
    assert again["annotation"] == text


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"power_state": "poweredOn"}, "it is poweredOn"),
        ({"boot_id": "boot-2"}, "it was started"),
        ({"boot_id": ""}, "it was started"),
        ({"snapshots": ("'mine' (id 1)",)}, "it has snapshots: 'mine'"),
        ({"vmx_path": "/vmfs/volumes/u3/web01/web01.vmx"}, "it was registered anew"),
        ({"vmx": Vmx(dict(left().vmx.changed({"memSize": "1024"})))}, "its configuration was changed"),
        ({"vmx": Vmx(dict(left().vmx.changed({"annotation": "mine"})))}, "its configuration was changed"),
        ({"disks": {"scsi0:0": replace(DISK, seal="0000000b@7")}}, "its disk scsi0:0 was written to"),
        ({"disks": {"scsi0:0": replace(DISK, seal="0000000a@8")}}, "its disk scsi0:0 was written to"),
        ({"disks": {}}, "its disk scsi0:0 is gone"),
    ],
)
def test_whatever_somebody_did_to_it_is_noticed_and_refused_with_the_way_out(
    changes: dict[str, Any], word: str
) -> None:
    found = judge(replace(left(), **changes), "esx2")
    assert [one for one in found.touched if word in one], found.touched
    with pytest.raises(ReplicaTouched, match=word) as caught:
        refuse_touched(found, "web01", "esx2")
    assert "replicate_touched=resync" in caught.value.hint_text


def test_one_that_has_taken_over_is_never_overwritten_unasked() -> None:
    found = judge(left(ACTIVE), "esx2")
    assert (found.state, untouched(left(ACTIVE), "esx2")) == (ACTIVE, False)
    with pytest.raises(ReplicaTouched, match="taken over") as caught:
        refuse_touched(found, "web01", "esx2")
    assert "failback" in caught.value.hint_text


def test_a_machine_that_comes_out_of_a_replica_is_none() -> None:
    place = NewPlace("web01", {"scsi0:0": "web01.vmdk"}, "id-1@20261123T200000Z")
    vmx = rewrite(left().vmx, place).vmx
    assert vmx["annotation"] == "ours, two\nlines"
    assert [key for key in vmx if key.lower().startswith("stowage.replica")] == []
    assert "stowage.restoredDisks" not in vmx
