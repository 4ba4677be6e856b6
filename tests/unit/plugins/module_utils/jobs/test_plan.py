# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import HowNotPossible
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import (
    VmPlan,
    Volume,
    check_room,
    decide_how,
    plan_host,
    plan_vm,
    volume_of,
    why_not_as_planned,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import (
    STORING,
    DiskChoice,
    VmPolicy,
    parse_policy,
    vm_policy_from_dict,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import Candidate, Selection
from jobs_values import make_disk, make_vm

POLICY = vm_policy_from_dict({"point": "/vmfs/volumes/backup/x"})
GIB = 1 << 30


def planned(policy: VmPolicy = POLICY, **facts: Any) -> VmPlan:
    return plan_vm(make_vm(**facts), policy, "/vmfs/volumes/backup/x/web01-1", "esx1")


def ids(plan: VmPlan) -> list[str]:
    return [problem["id"] for problem in plan.problems]


@pytest.mark.parametrize(
    ("wanted", "state", "effective", "stop", "snapshot", "restart"),
    [
        ("hot", "poweredOn", "hot", False, True, False),
        ("warm", "poweredOn", "warm", True, True, True),
        ("cold", "poweredOn", "cold", True, False, False),
        ("hot", "poweredOff", "cold", False, False, False),
        ("warm", "poweredOff", "cold", False, False, False),
        ("cold", "poweredOff", "cold", False, False, False),
        ("hot", "suspended", "cold", False, False, False),
        ("warm", "suspended", "cold", False, False, False),
        ("cold", "suspended", "cold", False, False, False),
    ],
)
def test_what_does_not_run_is_never_started_stopped_or_snapshotted(
    wanted: str, state: str, effective: str, stop: bool, snapshot: bool, restart: bool
) -> None:
    how = decide_how(wanted, state)
    assert (how.effective, how.stop, how.snapshot, how.restart) == (effective, stop, snapshot, restart)
    assert how.why


@pytest.mark.parametrize(
    ("changes", "how", "action", "word"),
    [
        ({}, "hot", "copy", ""),
        ({"kind": "rdm-physical"}, "cold", "excluded", "physical raw device mapping"),
        ({"kind": "rdm-virtual"}, "hot", "copy", "virtual raw device mapping"),
        ({"mode": "independent-persistent"}, "hot", "excluded", "independent-persistent"),
        ({"mode": "independent-nonpersistent"}, "warm", "excluded", "independent-nonpersistent"),
        ({"mode": "independent-persistent"}, "cold", "copy", ""),
        ({"sharing": "multi-writer"}, "hot", "cannot", "multi-writer"),
        ({"sharing": "multi-writer"}, "cold", "cannot", "multi-writer"),
        ({"bus_sharing": "physical"}, "hot", "cannot", "physical"),
        ({"bus_sharing": "physical"}, "cold", "copy", ""),
        ({"fault": "its parent is missing"}, "hot", "cannot", "its parent is missing"),
    ],
)
def test_every_disk_has_an_action_and_a_reason(changes: dict[str, Any], how: str, action: str, word: str) -> None:
    plan = planned(replace(POLICY, how=how), disks=(make_disk("scsi0:0"), make_disk("scsi0:1", **changes)))
    disk = plan.disks[1]
    assert disk.action == action
    assert word in disk.reason and bool(disk.reason) == bool(word)


@pytest.mark.parametrize("program", STORING)
def test_an_encrypted_disk_is_refused_before_its_machine_is_touched(program: str) -> None:
    """A store keeps bytes, and no keys."""
    sealed = (make_disk("scsi0:0"), make_disk("scsi0:1", encrypted=True))
    plan = planned(replace(POLICY, how="cold", program=program), disks=sealed)
    assert ids(plan) == ["disk-cannot-be-copied"] and not plan.ready
    assert f"encrypted, and {program} keeps" in plan.disks[1].reason and "vmkfstools" in plan.disks[1].reason
    assert planned(replace(POLICY, program="vmkfstools"), disks=sealed).ready
    left_out = DiskChoice(exclude=("scsi0:1",))
    assert planned(replace(POLICY, program=program, disks=left_out), disks=sealed).ready


def test_a_disk_that_cannot_be_copied_keeps_its_machine_from_being_green() -> None:
    plan = planned(disks=(make_disk("scsi0:0"), make_disk("scsi0:1", fault="broken chain")))
    assert ids(plan) == ["disk-cannot-be-copied"] and not plan.ready
    assert "disks.exclude" in plan.problems[0]["hint"]


def test_an_exclusion_explains_a_disk_that_could_not_be_copied() -> None:
    policy = replace(POLICY, disks=DiskChoice(exclude=("scsi0:1",)))
    plan = planned(policy, disks=(make_disk("scsi0:0"), make_disk("scsi0:1", fault="broken chain")))
    assert plan.ready and plan.disk_keys == ("scsi0:0",)
    assert "asked for" in plan.disks[1].reason


def test_only_included_disks_are_copied_and_a_missing_one_is_an_error() -> None:
    policy = replace(POLICY, disks=DiskChoice(include=("scsi0:1", "scsi1:0")))
    plan = planned(policy, disks=(make_disk("scsi0:0"), make_disk("scsi0:1")))
    assert plan.disk_keys == ("scsi0:1",)
    assert ids(plan) == ["no-such-disk"]


@pytest.mark.parametrize("disks", [(), (make_disk(kind="rdm-physical"),)])
def test_a_machine_without_a_disk_to_copy_is_a_problem(disks: Any) -> None:
    assert ids(planned(disks=disks)) == ["no-disk-to-copy"]


@pytest.mark.parametrize(
    ("facts", "how", "problem"),
    [
        ({"question": "moved or copied?"}, "hot", "pending-question"),
        ({"passthrough": ("pciPassthru0",)}, "hot", "how-not-possible"),
        ({"fault": {"id": "vm-unusable", "message": "m", "hint": "", "data": {}}}, "hot", "vm-unusable"),
    ],
)
def test_what_stands_in_the_way_is_told_before_anything_is_touched(
    facts: dict[str, Any], how: str, problem: str
) -> None:
    assert ids(planned(replace(POLICY, how=how), **facts)) == [problem]


def test_a_pass_through_device_forbids_hot_only() -> None:
    for how in ("warm", "cold"):
        assert planned(replace(POLICY, how=how), passthrough=("pciPassthru0",)).ready


@pytest.mark.parametrize(
    ("changes", "how", "ready"),
    [
        ({"sharing": "multi-writer"}, "hot", False),
        ({"sharing": "multi-writer"}, "warm", False),
        ({"sharing": "multi-writer"}, "cold", True),
        ({"bus_sharing": "virtual"}, "hot", False),
        ({"bus_sharing": "virtual"}, "cold", True),
    ],
)
def test_leaving_a_shared_disk_out_does_not_make_a_snapshot_possible(
    changes: dict[str, Any], how: str, ready: bool
) -> None:
    policy = replace(POLICY, how=how, disks=DiskChoice(exclude=("scsi1:0",)))
    plan = planned(policy, disks=(make_disk("scsi0:0"), make_disk("scsi1:0", **changes)))
    assert ids(plan) == ([] if ready else ["how-not-possible"])
    assert ready or ("scsi1:0" in plan.problems[0]["message"] and "cold" in plan.problems[0]["hint"])


@pytest.mark.parametrize("how", ["hot", "warm", "cold"])
def test_a_machine_that_needs_its_key_provider_is_copied_and_says_so(how: str) -> None:
    plan = planned(replace(POLICY, how=how), key_provider="it has a virtual TPM")
    assert plan.ready and plan.as_dict()["needs_key_provider"] == "it has a virtual TPM"
    assert any("key provider" in warning and "not proven" in warning for warning in plan.warnings)


def test_a_guest_that_cannot_be_asked_is_warned_of() -> None:
    assert planned(replace(POLICY, how="cold"), tools_running=False).warnings
    assert not planned(replace(POLICY, how="cold", force_off=True), tools_running=False).warnings
    assert not planned(tools_running=False).warnings


def volumes(free: int, source_free: int = 50 * GIB) -> list[Volume]:
    return [
        Volume("backup", "/vmfs/volumes/u9", 100 * GIB, free),
        Volume("ds1", "/vmfs/volumes/u1", 100 * GIB, source_free),
    ]


def test_a_volume_is_found_by_label_and_by_uuid_and_never_by_a_mere_prefix() -> None:
    found = volumes(GIB)
    assert volume_of("/vmfs/volumes/backup/x", found) == found[0]
    assert volume_of("/vmfs/volumes/u1/web01/a.vmdk", found) == found[1]
    assert volume_of("/vmfs/volumes/backup2/x", found) is None


def test_a_machine_that_does_not_fit_is_told_and_a_smaller_one_after_it_still_goes() -> None:
    big = planned(name="big", disks=(make_disk(allocated_bytes=GIB, capacity_bytes=GIB),))
    small = planned(name="small", disks=(make_disk(allocated_bytes=1 << 20, capacity_bytes=1 << 20),))
    checked = check_room([big, small], volumes(5 * GIB + 100 * (1 << 20)), "esx1")
    assert [ids(plan) for plan in checked] == [["no-room"], []]
    assert "big" in checked[0].problems[0]["message"] and "backup" in checked[0].problems[0]["message"]


def test_the_room_of_one_machine_is_gone_for_the_next() -> None:
    one = planned(disks=(make_disk(allocated_bytes=GIB, capacity_bytes=GIB),))
    checked = check_room([one, one], volumes(5 * GIB + GIB + GIB // 2), "esx1")
    assert [ids(plan) for plan in checked] == [[], ["no-room"]]


def test_a_thick_copy_needs_the_whole_capacity() -> None:
    thin, thick = planned(), planned(replace(POLICY, disk_format="eagerzeroedthick"))
    assert thick.room_needed == GIB and thin.room_needed < 200 << 20


def test_a_full_source_datastore_forbids_a_snapshot_but_not_a_cold_copy() -> None:
    hot, cold = planned(), planned(replace(POLICY, how="cold"))
    checked = check_room([hot, cold], volumes(50 * GIB, source_free=GIB), "esx1")
    assert [ids(plan) for plan in checked] == [["no-room"], []]


def test_a_backup_point_that_is_not_mounted_is_told() -> None:
    assert ids(check_room([planned()], [volumes(GIB)[1]], "esx1")[0]) == ["target-missing"]


def test_equal_facts_give_equal_plans_that_print() -> None:
    candidate = Candidate("web01", "id-web01", 7, "poweredOn")
    selection = Selection((candidate,), (Candidate("x", "y", 8, "poweredOn"),), ())
    policy = parse_policy({"point": "/vmfs/volumes/backup", "vms": {"web01": {"how": "warm"}}})
    plans = [
        plan_host("r", "esx1", selection, {7: make_vm()}, policy, {(7, 0): "/vmfs/volumes/backup/w"}, volumes(90 * GIB))
        for _time in range(2)
    ]
    assert plans[0] == plans[1]
    assert "web01: warm (its own policy)" in plans[0].text() and "not selected: x" in plans[0].text()
    assert "scsi0:0   copy      reads 100 MiB of " in plans[0].text()
    totals = plans[0].as_dict()["totals"]
    assert (totals["ready"], totals["disks"], totals["bytes_to_read"]) == (1, 1, 100 << 20)


@pytest.mark.parametrize(
    ("state", "disk", "why"),
    [
        ("poweredOn", {"mode": "independent-persistent"}, "scsi0:0 can no longer be copied: independent-persistent"),
        ("poweredOn", {"bus_sharing": "virtual"}, "its controller is shared"),
        ("suspended", {"mode": "independent-persistent"}, None),
        ("poweredOn", {}, None),
    ],
)
def test_a_plan_for_a_machine_at_rest_is_judged_again_when_its_state_has_changed(
    state: str, disk: dict[str, Any], why: str | None
) -> None:
    facts = make_vm(power_state=state, disks=(make_disk(**disk),))
    error = why_not_as_planned(facts, {"scsi0:0": "copy"}, POLICY, "esx1")
    assert (error.message if error else None) == why or (error is not None and why is not None and why in error.message)
    through = make_vm(passthrough=("0000:03:00.0",))
    assert isinstance(why_not_as_planned(through, {}, POLICY, "esx1"), HowNotPossible)


@pytest.mark.parametrize(
    ("vms", "state", "text"),
    [
        ({}, "poweredOn", "cold (asked for)"),
        ({"web01": {"keep": {"last": 2}}}, "poweredOn", "cold (asked for)"),
        ({"web01": {"how": "cold"}}, "poweredOn", "cold (its own policy)"),
        ({"web01": {"how": "cold"}}, "poweredOff", "cold (its own policy; powered off already)"),
        ({"web01": {"how": "hot"}}, "poweredOff", "cold (powered off: its disks are at rest)"),
    ],
)
def test_a_plan_says_whose_wish_the_mode_is(vms: dict[str, Any], state: str, text: str) -> None:
    policy = parse_policy({"point": "/vmfs/volumes/backup", "how": "cold", "vms": vms})
    selection = Selection((Candidate("web01", "id-web01", 7, state),), (), ())
    facts = {7: make_vm(power_state=state)}
    plan = plan_host("r", "esx1", selection, facts, policy, {(7, 0): "/vmfs/volumes/backup/w"}, volumes(90 * GIB))
    assert f"web01: {text}, ready" in plan.text()


def test_a_policy_for_a_machine_that_is_not_there_and_an_exclusion_are_lines_of_the_plan() -> None:
    policy = parse_policy({"point": "/vmfs/volumes/backup", "vms": {"web01": {}, "bd01": {"how": "cold"}}})
    selection = Selection((), (), (), (Candidate("test1", "y", 8, "poweredOn"),))
    strangers = policy.without_vm([("web01", "4205"), ("test1",)])
    assert strangers == ("bd01",)
    plan = plan_host("r", "esx1", selection, {}, policy, {}, [], strangers)
    assert "excluded: test1\n" in plan.text() and "not selected" not in plan.text()
    assert "warning: no VM of this host is meant by these entries of backup_vms: bd01\n" in plan.text()
    found = plan.as_dict()
    assert (found["excluded"], found["policies_with_vm"], found["policies_without_vm"]) == (
        ["test1"],
        ["web01"],
        ["bd01"],
    )
