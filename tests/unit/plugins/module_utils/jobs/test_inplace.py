# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore over a VM that is there: what it would do, what it refuses, and the mark that it leaves meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import replica, restoreplanning, torn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import (
    INPLACE,
    TEAR,
    Events,
    Process,
    Situation,
    plan_undo,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadRestoreRequest, RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.inplace import (
    check_request,
    difference,
    plan_in_place,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint, marked, read_facts
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.overwriting import Overwriting, safety_job, with_content
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import Volume
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.present import Present, PresentDisk, sealed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.restore import (
    RestorePlan,
    Target,
    Wish,
    choose,
    mark_of,
    refuse,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.torn import Torn
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import Vmx, parse_vmx
from jobs_values import make_job

GIB, MIB = 1 << 30, 1 << 20
HOME = "/vmfs/volumes/u1/web01"
THEN = parse_vmx(
    'displayName = "old name"\nuuid.bios = "11 11"\nvc.uuid = "11"\nvirtualHW.version = "14"\nmemSize = "512"\n'
    'ethernet0.present = "TRUE"\nethernet0.networkName = "VM Network"\nethernet0.address = "00:50:56:00:00:01"\n'
    'ethernet0.addressType = "static"\nscsi0.present = "TRUE"\n'
    'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "web01.vmdk"\n'
    'scsi0:7.present = "TRUE"\nscsi0:7.fileName = "gone.vmdk"\n',
    "web01.vmx",
)
NOW = parse_vmx(
    'displayName = "web01"\nuuid.bios = "22 22"\nvc.uuid = "22"\nnvram = "other.nvram"\nmemSize = "1024"\n'
    'ethernet0.present = "TRUE"\nethernet0.networkName = "VM Network"\nethernet0.address = "00:50:56:00:00:02"\n'
    'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "other disk.vmdk"\n'
    'sata1.present = "TRUE"\nsata1:0.present = "TRUE"\nsata1:0.fileName = "mine.vmdk"\n',
    "web01.vmx",
)


def point(**facts: Any) -> RestorePoint:
    value = {
        "time": "20261122T200000Z",
        "host": "esx1",
        "vm": {"name": "web01", "identity": "id-1", "uuid": "uuid-1"},
        "disks": [
            {
                "key": "scsi0:0",
                "label": "Hard disk 1",
                "file": "scsi0:0",
                "capacity_bytes": GIB,
                "allocated_bytes": 300 * MIB,
                "cid": "0000000a",
                "format": "store",
                "source": f"{HOME}/web01.vmdk",
            }
        ],
        "files": [
            {"name": "scsi0:0", "size": GIB, "role": "disk"},
            {"name": "web01.vmx", "size": 50, "role": "vmx"},
            {"name": "web01.nvram", "size": 50, "role": "nvram"},
        ],
    }
    return read_facts(marked({**value, **facts}), "/srv/stowage::P1", "it")


def disk(**changes: Any) -> PresentDisk:
    path = f"{HOME}/other disk"
    plain = PresentDisk(
        key="scsi0:0",
        path=f"{path}.vmdk",
        flat=f"{path}-flat.vmdk",
        capacity_bytes=GIB,
        allocated_bytes=100 * MIB,
        cid="0000000b",
        seal="0000000b@7",
    )
    return replace(plain, **changes)


def present(vmx: Vmx = NOW, **changes: Any) -> Present:
    mine = PresentDisk(key="sata1:0", path=f"{HOME}/mine.vmdk", flat=f"{HOME}/mine-flat.vmdk", capacity_bytes=5)
    plain = Present(
        vmid=7,
        name="web01",
        directory=HOME,
        vmx_path=f"{HOME}/web01.vmx",
        identity="id-1",
        power_state="poweredOff",
        boot_id="boot-1",
        vmx=vmx,
        disks={"scsi0:0": disk(), "sata1:0": mine},
    )
    return replace(plain, **changes)


VOLUME = Volume("ds1", "/vmfs/volumes/u1", 100 * GIB, 50 * GIB)
TARGET = Target("esx1", True, (), 19, ("VM Network",), VOLUME)


def planned(
    now: Present | None = None, safety: bool = True, volume: Volume = VOLUME, target: Target = TARGET, **wish: Any
) -> RestorePlan:
    asked = Wish(directory=HOME, name="web01", **wish)
    return plan_in_place(point(), THEN, asked, now or present(), target, [volume], safety)


def test_each_disk_is_written_over_where_it_lies_and_the_machine_keeps_its_names() -> None:
    plan = planned()
    assert (plan.problems, plan.already, plan.vmid, plan.vm) == ((), False, 7, "web01")
    (one,) = plan.disks
    assert (one["src"], one["dest"]) == ("/srv/stowage::P1/scsi0:0", f"{HOME}/other disk.vmdk")
    assert (one["format"], plan.room_needed) == ("thin", 200 * MIB)
    vmx = parse_vmx(plan.vmx_text, "x")
    assert (vmx["displayName"], vmx["scsi0:0.fileName"], vmx["memSize"]) == ("web01", "other disk.vmdk", "512")
    assert (vmx["uuid.bios"], vmx["ethernet0.address"]) == ("11 11", "00:50:56:00:00:01")
    # A disk that the point does not have stays, with its controller; one that neither has any more does not come back.
    assert (vmx["sata1:0.fileName"], vmx["sata1.present"]) == ("mine.vmdk", "TRUE")
    assert "scsi0:7.present" not in vmx
    assert [file["dest"] for file in plan.files] == [f"{HOME}/other.nvram"]
    assert any("sata1:0 is not in the restore point: it stays" in note for note in plan.notes)
    text = restoreplanning.text(plan.as_dict())
    assert "in place" in text and "hashed them, in the run" in text and "becomes a restore point" in text


def test_new_means_its_own_identity_and_addresses() -> None:
    vmx = parse_vmx(planned(uuid="new", mac="new").vmx_text, "x")
    assert (vmx["uuid.bios"], vmx["vc.uuid"], vmx["ethernet0.address"]) == ("22 22", "22", "00:50:56:00:00:02")
    assert "create" not in vmx.get("uuid.action", "")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"power_state": "poweredOn"}, "vm-not-off"),
        ({"power_state": "suspended"}, "vm-not-off"),
        ({"elsewhere": "web01.vmx.lck"}, "vm-runs-elsewhere"),
        ({"question": "moved or copied?"}, "question"),
        ({"snapshots": ("'mine' (id 1)",)}, "has-snapshots"),
        ({"dependents": ("/vmfs/volumes/u1/c/c.vmdk is a linked clone",)}, "has-dependents"),
        ({"disks": {"scsi0:0": disk(problem="it is shared with other VMs (multi-writer)")}}, "disk-unfit"),
        ({"disks": {}}, "disk-missing"),
        ({"disks": {"scsi0:0": disk(capacity_bytes=2 * GIB)}}, "disk-resized"),
    ],
)
def test_what_must_not_be_written_over_is_refused_with_its_way_out(changes: dict[str, Any], problem: str) -> None:
    plan = planned(present(**changes))
    assert [one["id"] for one in plan.problems] == [problem]
    error = refuse(plan)
    assert plan.problems[0]["message"] in error.message and plan.problems[0]["hint"] in error.hint_text


def test_a_host_that_cannot_have_it_and_a_full_datastore_refuse_too() -> None:
    assert [one["id"] for one in planned(target=replace(TARGET, networks=())).problems] == ["network-missing"]
    full = replace(VOLUME, free_bytes=5 * GIB + 100 * MIB)
    assert [one["id"] for one in planned(volume=full).problems] == ["no-room"]
    thick = {"scsi0:0": disk(format="zeroedthick")}
    assert planned(present(disks=thick), volume=full).problems == ()
    assert [one["id"] for one in planned(target=replace(TARGET, open_job="run1-x")).problems] == ["job-open"]


def test_a_replica_that_took_over_after_somebody_looked_is_written_over_only_where_that_is_asked_for() -> None:
    """Failed over and shut down again between the look at it and the plan: off, without snapshots, and another boot."""
    left = replica.marked(NOW, "id-1", "web01", "esx0", f"{HOME}/web01.vmx", "boot-1")
    left = Vmx(dict(left.changed({"stowage.restoredDisks": sealed({"scsi0:0": disk().seal})})))
    asked = {"replica_of": "esx0"}
    assert planned(present(left), **asked).problems == ()
    took_over = Vmx(dict(left.changed({"stowage.replicaState": replica.ACTIVE})))
    for now, reason in (
        (present(took_over, boot_id="boot-2"), "it has taken over"),
        (present(left, boot_id="boot-2"), "it was started"),
        (present(left, disks={"scsi0:0": disk(seal="0000000b@8")}), "its disk scsi0:0 was written to"),
    ):
        (found,) = planned(now, **asked).problems
        assert found["id"] == "replica-touched" and reason in found["message"]
        assert planned(now, replica_touched="resync", **asked).problems == ()


def test_a_replica_that_is_said_to_take_over_after_the_plan_is_not_written_over() -> None:
    def of(state: str) -> Vmx:
        return replica.marked(NOW, "id-1", "web01", "esx0", f"{HOME}/web01.vmx", "boot-1", state)

    nothing: Any = None
    for planned_as, now_as, over in (("ready", "ready", False), ("ready", "active", True), ("active", "ready", False)):
        job = make_job(kind=INPLACE, extra={"replica_state": planned_as, "vmx_text": of("ready").render()})
        assert Overwriting(nothing, job, nothing)._took_over(present(of(now_as))) is over
    # One of before this was known has nothing to go by; a machine that is no replica never takes over.
    old = make_job(kind=INPLACE, extra={"vmx_text": NOW.render()})
    plain = make_job(kind=INPLACE, extra={"replica_state": "", "vmx_text": NOW.render()})
    assert not Overwriting(nothing, old, nothing)._took_over(present(of("active")))
    assert not Overwriting(nothing, plain, nothing)._took_over(present())


def restored(**changes: Any) -> Present:
    seals = sealed({"scsi0:0": disk().seal})
    vmx = Vmx({**NOW, "stowage.restoredFrom": mark_of(point()), "stowage.restoredDisks": seals})
    return present(vmx, **changes)


def test_a_second_run_finds_its_own_work_as_long_as_nobody_touched_the_disks() -> None:
    assert planned(restored()).already is True
    assert difference(planned(restored()), restored()) == {"before": "", "after": ""}
    touched = {"scsi0:0": disk(seal="0000000b@8")}
    for changes in ({"disks": touched}, {"power_state": "poweredOn"}, {"torn": Torn(HOME)}):
        assert planned(restored(**changes)).already is False
    assert planned().already is False


def test_a_torn_machine_gets_no_safety_point_and_the_one_of_before_is_remembered() -> None:
    mark = Torn(HOME, "run0-r0123456789ab", "web01", "/srv/stowage::P0", safety_point="/srv/stowage::S0")
    plan = planned(present(torn=mark))
    assert plan.problems == () and plan.in_place is not None
    assert (plan.in_place["safety_point"], plan.in_place["safety_before"]) == (False, "/srv/stowage::S0")
    assert any("/srv/stowage::S0" in note for note in plan.notes)
    assert any("cannot be brought back" in note for note in planned(safety=False).notes)


def test_the_difference_says_that_nobody_has_looked_at_the_disks() -> None:
    told = difference(planned(), present())
    assert "as it is" in told["before"] and "hashed on the host when it is done" in told["after"]
    assert 'memSize = "1024"' in told["before"] and 'memSize = "512"' in told["after"]


def test_only_a_store_can_be_restored_from_in_place() -> None:
    with pytest.raises(BadRestoreRequest, match="dedup store"):
        check_request({"program": "vmkfstools", "point": "/p"})
    check_request({"program": "dedup", "point": "/p"})


def test_what_a_machine_held_before_is_chosen_by_its_name_alone() -> None:
    older, safety = point(), point(time="20261123T200000Z", safety=True)
    assert choose([safety, older], "/srv/stowage", "web01", None) is older
    assert choose([safety], "/srv/stowage::S0", "web01", None) is safety
    assert safety.summary()["safety"] is True and older.summary()["safety"] is False


def test_the_safety_point_is_a_cold_backup_of_the_same_job() -> None:
    disks = ({"key": "scsi0:0", "source": "/a.vmdk"},)
    job = make_job(
        kind=INPLACE, job="run1-r0123456789ab", identity="restore:/x.vmx", disks=disks, extra={"identity": "i"}
    )
    made = safety_job(job)
    assert (made.kind, made.how, made.identity, made.job, made.disk_keys) == (
        "backup",
        "cold",
        "i",
        job.job,
        ["scsi0:0"],
    )
    assert made.extra["safety"] is True


# -- the mark ----------------------------------------------------------------------------------------------------


def test_the_mark_is_there_until_its_own_job_takes_it_away(session: Session, tmp_path: Path) -> None:
    folder, other = tmp_path / "web 01 $(x)", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    mark = Torn(str(folder), "run1-r0123456789ab", "web01", "/srv/s::P1", "2026-11-22T20:00:00Z", "bk1", "/srv/s::S1")
    torn.write(session, mark)
    assert torn.look(session, [str(other), str(folder)]) == {str(folder): mark}
    with pytest.raises(RemoteStepFailed, match="another job"):
        torn.remove(session, str(folder), "run2-r0123456789ab")
    torn.remove(session, str(folder), "run1-r0123456789ab")
    torn.remove(session, str(folder), "run1-r0123456789ab")
    assert torn.look(session, [str(folder)]) == {}


def test_a_mark_that_nobody_can_read_is_one_all_the_same(session: Session, tmp_path: Path) -> None:
    for text in ("", "{", "[1]"):
        (tmp_path / torn.NAME).write_text(text, encoding="utf-8")
        assert torn.look(session, [str(tmp_path)]) == {str(tmp_path): Torn(str(tmp_path))}


# -- the journal -------------------------------------------------------------------------------------------------


def test_nothing_of_a_machine_that_is_written_over_is_ever_taken_back() -> None:
    job = make_job(kind=INPLACE, job="run1-r0123456789ab", partial="", disks=({"key": "scsi0:0", "dest": "/a.vmdk"},))
    token = "stowage-agent-1"
    now = Situation(7, "poweredOff", "boot-1", processes=(Process(5, f"5 5 python {token}"), Process(6, "6 6 vi")))
    noted = {"event": "process", "pid": 5, "token": token}
    before = plan_undo(job, Events((noted,)), now)
    assert (before.kill, before.steps(), before.torn) == ((5,), ("end process 5",), False)
    meanwhile = plan_undo(job, Events((noted, {"event": TEAR})), now)
    assert meanwhile.torn and meanwhile.steps() == ("end process 5", "finish the restore in place")
    whole = Events(({"event": TEAR}, {"event": "commit-done"}))
    assert plan_undo(job, whole, now).steps() == ()
    assert plan_undo(job, whole, replace(now, marked_torn=True)).steps() == ("take away the mark of a torn VM",)


def test_other_content_has_another_id_and_no_table_of_changes() -> None:
    text = (
        '# Disk DescriptorFile\nversion=3\nCID=0000000a\nparentCID=ffffffff\ncreateType="vmfs"\n\n'
        'RW 8 VMFS "a-flat.vmdk"\n\n# Change Tracking File\nchangeTrackPath="a-ctk.vmdk"\n\n'
        'ddb.longContentID = "193b848abd4542a6593461440000000a"\n'
    )
    made, tracked = with_content(text, "1234abcd")
    assert tracked == "a-ctk.vmdk" and "ctk" not in made and "version=1\n" in made
    assert "CID=1234abcd\nparentCID=ffffffff\n" in made
    assert 'ddb.longContentID = "193b848abd4542a6593461441234abcd"' in made
    plain = text.replace('# Change Tracking File\nchangeTrackPath="a-ctk.vmdk"\n\n', "").replace("=3", "=1")
    assert with_content(plain, "0000000a") == (plain, "")
