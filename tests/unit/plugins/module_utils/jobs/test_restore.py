# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    AmbiguousRestorePoint,
    BadManifest,
    BadRestoreRequest,
    NoRestorePoint,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import (
    RestorePoint,
    parse_manifest,
    render_manifest,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import identity_hash
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import Volume
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.restore import (
    Registered,
    RestorePlan,
    Target,
    Wish,
    check_request,
    choose,
    mark_of,
    parse_at,
    passed_over,
    plan_restore,
    refuse,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_vmx
from jobs_values import make_job

GIB = 1 << 30
VMX = parse_vmx(
    'displayName = "web01"\nvirtualHW.version = "14"\nethernet0.present = "TRUE"\n'
    'ethernet0.networkName = "VM Network"\n'
    'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "web01.vmdk"\n',
    "web01.vmx",
)


def test_a_point_that_needs_a_key_provider_is_never_called_proven() -> None:
    plain, sealed = manifest_point(), manifest_point(needs_key_provider="it is encrypted", proven=True)
    assert (plain.summary()["proven"], plain.summary()["needs_key_provider"]) == (True, "")
    assert (sealed.summary()["proven"], sealed.summary()["needs_key_provider"]) == (False, "it is encrypted")


def manifest_point(**changes: Any) -> RestorePoint:
    folder = f"/vmfs/volumes/bk/web01-{identity_hash('id-1')}/20261122T200000Z"
    return parse_manifest(render_manifest(manifest(**changes)), folder)


def manifest(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "time": "20261122T200000Z",
        "host": "esx1",
        "vm": {"name": "web01", "identity": "id-1", "uuid": "uuid-1"},
        "disks": [
            {
                "key": "scsi0:0",
                "label": "Hard disk 1",
                "file": "scsi0-0.vmdk",
                "capacity_bytes": GIB,
                "allocated_bytes": 1000,
                "cid": "0000000a",
                "format": "thin",
                "source": "/vmfs/volumes/u/web01/web01.vmdk",
            }
        ],
        "files": [
            {"name": "scsi0-0.vmdk", "size": 500, "role": "disk"},
            {"name": "scsi0-0-flat.vmdk", "size": GIB, "role": "disk"},
            {"name": "web01.vmx", "size": 50, "role": "vmx"},
            {"name": "web01.nvram", "size": 50, "role": "nvram"},
            {"name": "web01.vmsd", "size": 50, "role": "vmsd"},
        ],
    }
    return {**value, **changes}


def path_of(identity: str = "id-1", time: str = "20261122T200000Z") -> str:
    return f"/vmfs/volumes/backup/web01-{identity_hash(identity)}/{time}"


def point(identity: str = "id-1", time: str = "20261122T200000Z", name: str = "web01") -> RestorePoint:
    value = manifest(time=time, vm={"name": name, "identity": identity, "uuid": f"uuid-{identity}"})
    return parse_manifest(render_manifest(value), path_of(identity, time))


# -- manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_reads_back_as_the_restore_point() -> None:
    found = point()
    assert (found.vm, found.identity, found.bytes, found.disks[0].capacity_bytes) == ("web01", "id-1", 1000, GIB)
    assert found.file_of("vmx") == path_of() + "/web01.vmx"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("{", path_of()),
        ("{}", path_of()),
        (render_manifest(manifest()).replace('"schema": 1', '"schema": 2'), path_of()),
        (render_manifest({"time": "20261122T200000Z"}), path_of()),
        (render_manifest(manifest()), path_of(time="20261122T200001Z")),
        (render_manifest(manifest()), path_of(identity="id-2")),
        (render_manifest(manifest()), path_of() + "-copy"),
        (render_manifest(manifest(time="20261399T000000Z")), path_of(time="20261399T000000Z")),
        (render_manifest(manifest(files=[{"name": "../x", "size": 1, "role": "other"}])), path_of()),
        (render_manifest(manifest(files=[{"name": "/etc/passwd", "size": 1, "role": "other"}])), path_of()),
        (render_manifest(manifest(files=[{"name": "..", "size": 1, "role": "other"}])), path_of()),
        (render_manifest(manifest(files=[])), path_of()),
    ],
)
def test_whatever_is_not_exactly_ours_is_no_restore_point(text: str, path: str) -> None:
    with pytest.raises(BadManifest) as caught:
        parse_manifest(text, path)
    assert path in caught.value.message


def test_a_point_whose_removal_was_cut_short_still_tells_what_is_to_go() -> None:
    path = path_of().replace("/2026", "/.removing-2026")
    assert parse_manifest(json.dumps(json.loads(render_manifest(manifest()))), path).path == path


# -- choosing ----------------------------------------------------------------------------------------------------

POINTS = [point(), point(time="20261121T200000Z"), point("id-2", name="db01")]


def test_the_newest_is_taken_and_a_time_means_the_newest_at_or_before_it() -> None:
    assert choose(POINTS, "/p", "web01", None).time == "20261122T200000Z"
    assert choose(POINTS, "/p", "web01", parse_at("2026-11-22T19:59:59Z")).time == "20261121T200000Z"
    assert choose(POINTS, "/p", "uuid-id-2", None).vm == "db01"
    assert choose(POINTS, "/p", "id-2", parse_at("20261122T200000Z")).vm == "db01"


def test_a_name_that_two_machines_share_is_ambiguous() -> None:
    with pytest.raises(AmbiguousRestorePoint) as caught:
        choose([*POINTS, point("id-3")], "/p", "web01", None)
    assert "id-1" in caught.value.message and "id-3" in caught.value.message
    with pytest.raises(AmbiguousRestorePoint):
        choose(POINTS, "/p", None, None)


def made_by(host: str, day: int, folder: str) -> RestorePoint:
    vm = {"name": "web01", "identity": "id-1", "uuid": "uuid-1", "vmx_path": f"/vmfs/volumes/{folder}/web01/web01.vmx"}
    time = f"202611{day:02d}T200000Z"
    return parse_manifest(render_manifest(manifest(time=time, vm=vm, host=host)), path_of(time=time))


def test_hosts_that_take_turns_with_files_of_their_own_have_a_machine_each() -> None:
    """A machine's identity is what a hypervisor says: the newest restore point may be that of another one."""
    turns = [made_by(host, day, host) for day, host in enumerate(("esx1", "esx2", "esx1", "esx2"), start=1)]
    with pytest.raises(
        AmbiguousRestorePoint, match=r"names 2 different VMs .*esx1, the newest .*03T20.*esx2"
    ) as caught:
        choose(turns, "/p", "web01", None)
    assert "one restore point in restore_point" in caught.value.hint_text
    # One of them is meant by its path, or by a time at which there were no others.
    assert choose(turns[1:2], "/p", "web01", None) == turns[1]
    assert choose(turns, "/p", "web01", parse_at("2026-11-01T23:00:00Z")) == turns[0]
    # Or by who has made it.
    assert choose(turns, "/p", "web01", None, "esx1") == turns[2]
    assert choose(turns, "/p", "web01", parse_at("2026-11-03T19:00:00Z"), "esx2") == turns[1]
    with pytest.raises(NoRestorePoint, match="made by 'esx3'") as nobody:
        choose(turns, "/p", "web01", None, "esx3")
    assert "made by esx1, esx2. Correct restore_made_by" in nobody.value.hint_text
    # One that moved, also to and fro with its datastore, is one machine.
    moved = [made_by("esx1", 1, "esx1"), made_by("esx1", 2, "esx1"), made_by("esx2", 3, "esx2")]
    assert choose(moved, "/p", "web01", None) == moved[-1]
    shared = [made_by(host, day, "nfs") for day, host in enumerate(("esx1", "esx2", "esx1"), start=1)]
    assert choose(shared, "/p", "web01", None) == shared[-1]
    assert passed_over(moved, moved[-1], None) == (
        f"this restore point was made by esx2; of the same identity there are others, made by esx1, the newest "
        f"{moved[1].path}",
    )
    assert passed_over(moved, moved[-1], None, "esx2") == passed_over(POINTS, POINTS[0], None) == ()


def test_an_old_name_means_what_had_it_and_the_plan_tells_of_the_new_one() -> None:
    renamed = [point(), point(name="shop01", time="20261123T200000Z")]
    chosen = choose(renamed, "/p", "web01", None)
    assert chosen == renamed[0]
    (note,) = passed_over(renamed, chosen, None)
    assert "renamed 'shop01' since" in note and renamed[1].path in note
    # Who names a time, or the new name, knows.
    assert passed_over(renamed, chosen, chosen.moment) == passed_over(renamed, renamed[1], None) == ()


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(NoRestorePoint) as caught:
        choose(POINTS, "/p", "web99", None)
    assert "db01" in caught.value.hint_text
    with pytest.raises(NoRestorePoint) as caught:
        choose(POINTS, "/p", "db01", parse_at("2020-01-01"))
    assert "20261122T200000Z" in caught.value.hint_text


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(BadRestoreRequest) as caught:
        parse_at("last tuesday")
    assert "restore_at" in caught.value.hint_text


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, ("restore_datastore", "restore_directory")),
        ({"datastore": "", "directory": ""}, ("restore_datastore", "restore_directory")),
        ({"datastore": "ds1", "at": "last tuesday"}, ("restore_at",)),
        ({"datastore": "ds1", "run_id": "../x"}, ("letters",)),
        ({"datastore": "ds1", "point": "root@bk2:22:/srv/x"}, ("restore_program: rsync, dedup or borg",)),
        ({"datastore": "ds1", "point": "ssh://bk2/srv/x", "program": "vmkfstools"}, ("borg for ssh://",)),
        ({"datastore": "ds1", "point": "s3://bucket/x", "program": "vmkfstools"}, ("dedup for s3://",)),
    ],
)
def test_a_request_that_cannot_work_is_refused_before_any_host_is_asked(
    request_: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(BadRestoreRequest) as caught:
        check_request(request_)
    assert all(word in caught.value.hint_text for word in words)


def test_a_request_with_one_target_is_none_of_them() -> None:
    check_request({"datastore": "ds1", "directory": None, "at": "2026-11-22", "run_id": "run1"})
    check_request({"directory": "[ds1] x"})
    check_request({"directory": "[ds1] x", "point": "/vmfs/volumes/a:22:/b", "program": "vmkfstools"})
    check_request({"directory": "[ds1] x", "point": "bk2:22:/srv/x", "program": "rsync"})


# -- planning ----------------------------------------------------------------------------------------------------

WISH = Wish(directory="/vmfs/volumes/u1/web01-new", name="web01-new")
TARGET = Target(
    host="esx2",
    directory_exists=False,
    registered=(),
    hardware_version_max=14,
    networks=("VM Network", "Isolated"),
    volume=Volume("ds1", "/vmfs/volumes/u1", 100 * GIB, 50 * GIB),
)


def planned(wish: Wish = WISH, **target: Any) -> RestorePlan:
    return plan_restore(point(), VMX, wish, replace(TARGET, **target))


def test_a_restore_names_its_disks_files_and_configuration() -> None:
    plan = planned()
    assert not plan.problems and not plan.already
    assert plan.disks[0]["src"] == path_of() + "/scsi0-0.vmdk"
    assert plan.disks[0]["dest"] == "/vmfs/volumes/u1/web01-new/web01-new.vmdk"
    assert plan.vmx_path == "/vmfs/volumes/u1/web01-new/web01-new.vmx"
    assert 'scsi0:0.fileName = "web01-new.vmdk"' in plan.vmx_text
    assert mark_of(point()) in plan.vmx_text


def test_the_snapshot_list_comes_along_as_information_only() -> None:
    assert [file["dest"].rpartition("/")[2] for file in planned().files] == ["web01-new.nvram"]


def registered(**changes: Any) -> Registered:
    return replace(Registered(3, "other", "/vmfs/volumes/u1/other", "id-9", "poweredOff"), **changes)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ({"directory_exists": True}, "folder-exists"),
        ({"registered": (registered(name="web01-new", power_state="poweredOn"),)}, "vm-exists"),
        ({"registered": (registered(directory=WISH.directory),)}, "vm-exists"),
        ({"registered": (registered(identity="id-1", power_state="poweredOn"),)}, "identity-in-use"),
        ({"hardware_version_max": 13}, "hardware-too-new"),
        ({"networks": ("Isolated",)}, "network-missing"),
        ({"no_way": "there is no Python 3"}, "no-way-to-write"),
        ({"volume": None}, "target-missing"),
        ({"volume": Volume("ds1", "/vmfs/volumes/u1", 100 * GIB, 5 * GIB)}, "no-room"),
    ],
)
def test_what_must_not_happen_is_refused_with_its_way_out(target: dict[str, Any], problem: str) -> None:
    plan = planned(**target)
    assert [found["id"] for found in plan.problems] == [problem]
    error = refuse(plan)
    assert plan.problems[0]["message"] in error.message and plan.problems[0]["hint"] in error.hint_text
    assert error.plan == plan.as_dict()
    assert "restore_" in error.hint_text


def test_a_running_target_is_named_as_running() -> None:
    plan = planned(registered=(registered(name="web01-new", power_state="poweredOn"),))
    assert "poweredOn" in plan.problems[0]["message"]


def test_a_mapped_or_unconnected_network_is_no_obstacle() -> None:
    assert not planned(replace(WISH, networks={"VM Network": "Isolated"}), networks=("Isolated",)).problems
    assert not planned(replace(WISH, connect_networks=False), networks=()).problems


def test_a_new_identity_may_stand_beside_the_running_old_one() -> None:
    old = registered(identity="id-1", power_state="poweredOn")
    assert not planned(replace(WISH, uuid="new"), registered=(old,)).problems


def test_an_unknown_release_is_not_judged_by_its_number() -> None:
    assert not planned(hardware_version_max=None).problems


def test_a_second_run_finds_its_own_work() -> None:
    mine = registered(name="web01-new", directory=WISH.directory, restored_from=mark_of(point()), identity="id-1")
    plan = planned(registered=(mine,), directory_exists=True)
    assert (plan.already, plan.vmid, plan.problems) == (True, 3, ())


def test_what_a_job_that_has_not_ended_brought_back_is_not_restored_already() -> None:
    """One that was killed as it registered the machine is taken back by recover."""
    mine = registered(name="web01-new", directory=WISH.directory, restored_from=mark_of(point()), identity="id-1")
    plan = planned(registered=(mine,), directory_exists=True, open_job="run1-r0123456789ab")
    assert (plan.already, plan.vmid) == (False, None)
    assert "job-open" in [problem["id"] for problem in plan.problems]


def test_another_restore_point_in_the_same_place_is_not_our_own_work() -> None:
    mine = registered(name="web01-new", directory=WISH.directory, restored_from="id-1@20200101T000000Z")
    assert not planned(registered=(mine,), directory_exists=True).already


def test_a_thick_restore_needs_the_whole_capacity() -> None:
    assert planned(replace(WISH, disk_format="zeroedthick")).room_needed == GIB
    assert planned().room_needed < 3 << 20


def test_the_plan_is_what_the_job_takes() -> None:
    value = planned().as_dict()
    assert value["ready"] and value["identity"].startswith("restore:/vmfs/")
    assert make_job(kind="restore", disks=tuple(value["disks"])).disk_keys == ["scsi0:0"]
