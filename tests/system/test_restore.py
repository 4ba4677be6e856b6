# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back: to the same host and to another, with a new name or UUID; and everything that a restore must refuse."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from house import POINT, House
from judge import RestorePoint, prove_disks, same_content
from playing import Run


@pytest.fixture(scope="module")
def points(whole_house: House) -> dict[str, RestorePoint]:
    """A cold restore point of a machine that writes, and one of a machine that never ran."""
    house = whole_house
    select = {"backup_select": ["name:multi", "name:two words", "name:plain80"], "backup_unknown_names": "ignore"}
    house.controller.play("backup_cold", "--limit", "esx70,esx80", **select).must_end_with(0)
    return {name: house.points(name)[-1] for name in ("multi", "two words", "plain80")}


def restore(house: House, host: str, vm: str, **more: Any) -> Run:
    given = {"restore_host": host, "restore_vm": vm, "restore_datastore": "datastore1", **more}
    return house.controller.play("restore", **given)


def entry_of(house: House, run: Run) -> dict[str, Any]:
    """The only machine of a restore's record."""
    entries: list[dict[str, Any]] = house.record(run)["vms"]
    assert len(entries) == 1
    return entries[0]


def settings(vmx: Path) -> dict[str, str]:
    return dict(re.findall(r'^(\S+) = "(.*)"$', vmx.read_text(encoding="utf-8"), re.M))


def forget(house: House, host: str, name: str) -> None:
    """Unregister and delete what a test has restored, by the hypervisor's own command."""
    vm = house.vm(host, name)
    if vm["power"] != "poweredOff":
        house.lab.run(host, "vim-cmd", "vmsvc/power.off", str(vm["vmid"]))
    house.lab.run(host, "vim-cmd", "vmsvc/destroy", str(vm["vmid"]))


def test_a_restore_to_another_host_brings_back_the_same_disks(
    house: House, points: dict[str, RestorePoint], tmp_path: Path
) -> None:
    new = {"restore_name": "multi again", "restore_uuid": "new", "restore_mac": "new"}
    run = restore(house, "esx80", "multi", **new).must_end_with(0)
    assert run.stats["stowage_run"]["green"] is True
    entry = entry_of(house, run)
    assert (entry["vm"], entry["status"], entry["effective_how"]) == ("multi again", "ok", "restore")
    assert all(disk["bytes"] > 0 and disk["bytes_read"] > 0 and disk["seconds"] > 0 for disk in entry["disks"])
    assert run.stats["stowage_run"]["bytes"] == entry["bytes"] == sum(disk["bytes"] for disk in entry["disks"])
    assert "1 of 1 VMs ok" in run.text and ", 0 B read" not in run.text
    assert entry["warnings"] == ["it gets a new identity when it is powered on"]
    assert '    it gets a new identity when it is powered on"' in run.text  # in the summary; the plan has it as a note
    assert "multi again: restore to esx80, ready" in run.text
    folder = house.folder("esx80", "multi again")
    values = settings(Path(house.lab.outside(house.vm("esx80", "multi again")["vmx"])))
    disks = [folder / values[f"{key}.fileName"] for key in ("scsi0:0", "scsi0:1", "scsi1:0")]
    assert "one moment" in prove_disks(disks, tmp_path)
    for restored, kept in zip(disks, points["multi"].disks):
        assert same_content(restored, kept)
    old = settings(points["multi"].folder / "multi.vmx")
    for key in ("uuid.bios", "vc.uuid", "ethernet0.generatedAddress"):
        assert values.get(key) is None or values[key] != old[key], key
    assert house.vm("esx80", "multi again")["power"] == "poweredOff"
    assert house.differences("esx70", "esx80") == []
    forget(house, "esx80", "multi again")
    # The host has destroyed the machine with all its files: nothing was there that it does not know.
    assert not folder.exists()


@pytest.mark.soak
def test_a_second_restore_of_the_same_point_changes_nothing(house: House, points: dict[str, RestorePoint]) -> None:
    new = {"restore_name": "second", "restore_uuid": "new", "restore_mac": "new"}
    restore(house, "esx70", "two words", **new).must_end_with(0)
    files = {path.name: path.stat().st_mtime for path in house.folder("esx70", "second").iterdir()}
    again = restore(house, "esx70", "two words", **new).must_end_with(0)
    assert (again.changed, again.stats["stowage_run"]["green"], again.stats["stowage_run"]["ok"]) == (0, True, 1)
    entry = entry_of(house, again)
    assert (entry["vm"], entry["status"], entry["error"]) == ("second", "ok", None)
    assert entry["why"] == "already restored, left as it is"
    assert "1 of 1 VMs ok on 1 hosts, 0 B read, 0 B stored" in again.text
    assert re.search(r"second  ok  restore .* already restored, left as it is", again.text)
    assert {path.name: path.stat().st_mtime for path in house.folder("esx70", "second").iterdir()} == files
    forget(house, "esx70", "second")


def test_a_restored_machine_powers_on_and_its_guest_finds_its_data_whole(
    house: House, points: dict[str, RestorePoint]
) -> None:
    more = {"restore_name": "runs", "restore_uuid": "new", "restore_mac": "new", "restore_power_on": True}
    restore(house, "esx80", "plain80", **more).must_end_with(0)
    vm = house.vm("esx80", "runs")
    assert (vm["power"], vm["guest"]["consistent_at_boot"]) == ("poweredOn", True)
    forget(house, "esx80", "runs")


@pytest.mark.soak
def test_a_restored_machine_that_does_not_power_on_stays_and_is_told_as_failed(
    house: House, points: dict[str, RestorePoint]
) -> None:
    more = {"restore_name": "stays off", "restore_uuid": "new", "restore_mac": "new", "restore_power_on": True}
    house.lab.fault("esx80", "power_on_fails")
    for why in (None, "already restored, left as it is"):
        run = restore(house, "esx80", "plain80", **more).must_end_with(2)
        entry = entry_of(house, run)
        assert (entry["status"], entry["why"], entry["error"]["id"]) == ("failed", why, "esxi-power-failed")
        assert entry["restore_point"] and [disk["status"] for disk in entry["disks"]] == ["ok"]
        assert (house.record(run)["hosts"][0]["error"], run.stats["stowage_run"]["failed"]) == (None, 1)
        assert "0 of 1 VMs ok" in run.text and "vmware.log" in run.text
        assert house.vm("esx80", "stays off")["power"] == "poweredOff"
    house.lab.fault("esx80", "clear")
    run = restore(house, "esx80", "plain80", **more).must_end_with(0)
    assert (entry_of(house, run)["status"], house.vm("esx80", "stays off")["power"]) == ("ok", "poweredOn")
    forget(house, "esx80", "stays off")


def test_check_mode_says_what_a_restore_would_do_and_does_nothing(
    house: House, points: dict[str, RestorePoint]
) -> None:
    before = sorted(path.name for path in house.datastore("esx80", "datastore1").iterdir())
    given = {"restore_host": "esx80", "restore_vm": "multi", "restore_datastore": "datastore1", "restore_name": "dry"}
    run = house.controller.play("restore", "--check", **given, restore_mac="new", restore_uuid="new").must_end_with(0)
    moment = datetime.strptime(points["multi"].folder.name, "%Y%m%dT%H%M%SZ")
    for line in (
        "dry: restore to esx80, ready, room needed ",
        f"from      multi of esx70 at {moment:%Y-%m-%dT%H:%M:%SZ}  /vmfs/volumes/",
        "to        [datastore1] /vmfs/volumes/",
        "to dry.vmdk, thin",
        "to dry_1.vmdk, thin",
        "to dry_2.vmdk, thin",
        "ethernet0 network   'VM Network', connected",
        "identity  gets new UUIDs when it is powered on; its network cards get new addresses",
        "note: it gets a new identity when it is powered on",
    ):
        assert line in run.text, line
    assert sorted(path.name for path in house.datastore("esx80", "datastore1").iterdir()) == before


@pytest.mark.soak
def test_a_registered_name_and_an_existing_folder_are_refused(house: House, points: dict[str, RestorePoint]) -> None:
    run = restore(house, "esx70", "multi").must_end_with(2)
    record = house.record(run)
    assert [(one["vm"], one["status"], one["error"]["id"]) for one in record["vms"]] == [
        ("multi", "failed", "restore-refused")
    ]
    assert (record["hosts"][0]["error"], run.stats["stowage_run"]["failed"]) == (None, 1)
    assert "0 of 1 VMs ok" in run.text and "multi: restore to esx70, PROBLEM" in run.text
    assert "restore_name" in run.text and "restore_directory" in run.text
    assert house.differences("esx70") == []


@pytest.mark.soak
def test_a_folder_that_is_there_is_never_written_to(house: House, points: dict[str, RestorePoint]) -> None:
    foreign = house.datastore("esx80", "datastore1") / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_text("not ours", encoding="utf-8")
    run = restore(house, "esx80", "multi", restore_name="foreign", restore_uuid="new", restore_mac="new")
    assert run.rc == 2
    assert [path.name for path in foreign.iterdir()] == ["precious"]
    (foreign / "precious").unlink()
    foreign.rmdir()


@pytest.mark.soak
def test_a_port_group_that_is_not_there_is_refused_unless_mapped(house: House, points: dict[str, RestorePoint]) -> None:
    new = {"restore_name": "mapped", "restore_uuid": "new", "restore_mac": "new"}
    run = restore(house, "esx80", "plain80", **new, restore_networks={"VM Network": "No such group"}).must_end_with(2)
    assert "No such group" in run.text
    assert "map it in restore_networks to one of" in run.text and "restore_connect_networks" in run.text
    assert not (house.datastore("esx80", "datastore1") / "mapped").exists()


@pytest.mark.soak
def test_a_point_that_is_not_there_is_an_error_that_says_what_there_is(
    house: House, points: dict[str, RestorePoint]
) -> None:
    run = restore(house, "esx80", "nobody").must_end_with(2)
    assert "nobody" in run.text and POINT in run.text
    entry = entry_of(house, run)
    assert (entry["vm"], entry["status"], entry["error"]["id"]) == ("nobody", "failed", "no-restore-point")
    assert "0 of 1 VMs ok" in run.text and "Correct restore_vm or restore_point" in run.text


@pytest.mark.soak
def test_one_machine_that_cannot_be_restored_does_not_stop_the_next(
    house: House, points: dict[str, RestorePoint]
) -> None:
    new = {"uuid": "new", "mac": "new"}
    nowhere = {"vm": "multi", "datastore": "", **new}
    wanted = [{"vm": "nobody", **new}, nowhere, {"vm": "two words", "name": "third", **new}]
    run = house.controller.play("restore", restore_host="esx80", restore_datastore="datastore1", restore_vms=wanted)
    assert run.rc == 2
    assert house.vm("esx80", "third")["power"] == "poweredOff"
    assert {entry["vm"]: (entry["error"] or {}).get("id") for entry in house.record(run)["vms"]} == {
        "nobody": "no-restore-point",
        "multi": "bad-restore-request",
        "third": None,
    }
    assert "1 of 3 VMs ok" in run.text and "Set restore_datastore" in run.text and "restore_directory" in run.text
    assert ". \n" not in run.text and '. ",' not in run.text
    forget(house, "esx80", "third")


def test_a_restore_without_one_target_is_refused(house: House, points: dict[str, RestorePoint]) -> None:
    run = house.controller.play("restore", restore_vm="multi", restore_datastore="datastore1")
    assert run.rc == 2
    assert "3 hypervisors" in run.text


def test_a_restore_that_fails_half_way_leaves_nothing(house: House, points: dict[str, RestorePoint]) -> None:
    house.lab.fault("esx80", "clone_fails_at", percent=60)
    run = restore(house, "esx80", "multi", restore_name="half", restore_uuid="new", restore_mac="new")
    assert run.rc == 2
    entry = entry_of(house, run)
    assert (entry["vm"], entry["status"], entry["error"]["id"]) == ("half", "failed", "copy-clone-failed")
    assert house.record(run)["hosts"][0]["error"] is None
    assert not (house.datastore("esx80", "datastore1") / "half").exists()
    assert house.differences("esx80") == []
