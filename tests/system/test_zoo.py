# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zoo through the playbooks: nothing is left out of the record, nothing is promised that is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import instore
import pytest
from animals import changes, left_behind, outcome_of, running, state
from esxilab import zoo as animals
from house import House
from judge import prove_disks, raw_copy, same_content
from playing import Run

#: What a run makes of a VM that it cannot handle: the error's id, and per disk its status and a word of its reason.
FAILS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "no disk": ("no-disk-to-copy", {}),
    "invalid": ("vm-unusable", {}),
    "on a lost store": ("vm-unusable", {}),
    "half lost": ("disk-cannot-be-copied", {"scsi0:0": ("not-run", ""), "scsi0:1": ("failed", "cannot read")}),
    "only a raw device": ("no-disk-to-copy", {"scsi0:0": ("excluded", "physical raw device")}),
    "multi-writer off": (
        "disk-cannot-be-copied",
        {"scsi0:0": ("not-run", ""), "scsi1:0": ("failed", "multi-writer")},
    ),
    "multi-writer": ("disk-cannot-be-copied", {"scsi0:0": ("not-run", ""), "scsi1:0": ("failed", "multi-writer")}),
}
FAILS_HOT = {
    **FAILS,
    "only independent": ("no-disk-to-copy", {"scsi0:0": ("excluded", "independent-persistent")}),
    "shared bus": ("disk-cannot-be-copied", {"scsi0:0": ("not-run", ""), "scsi1:0": ("failed", "shared")}),
    "pass-through": ("how-not-possible", {"scsi0:0": ("not-run", "")}),
}
LEFT_OUT = {
    ("raw devices", "scsi0:1"): "physical raw device",
    ("independent", "scsi0:1"): "independent-persistent",
    ("independent", "scsi0:2"): "independent-nonpersistent",
}
KEY_PROVIDER = ("vtpm", "encrypted")
#: The animals of the ordinary tests: all that fail, which costs nothing, and a few that are copied.
SAMPLE = (*FAILS_HOT, "linked clone", "two stores", "raw devices", "vtpm", "huge6")
#: Those whose guest wrote: the others' disks have a file system, and no moment that could be looked for.
RUN = {vm["name"] for host in animals.zoo()["hosts"] for vm in host["vms"] if vm["power"] == "on"}


@pytest.fixture(scope="module")
def zoo() -> Iterator[House]:
    with running("zoo", animals.zoo()) as house:
        house.lab.settle()
        yield house


@pytest.fixture(scope="module")
def hot(zoo: House) -> tuple[Run, Run, dict[str, Any]]:
    """The sample, hot: check mode, then the run, and its record."""
    before = state(zoo)
    wanted = {"backup_select": [f"name:{name}" for name in SAMPLE], "backup_unknown_names": "ignore"}
    check = zoo.controller.play("backup_hot", "--check", **wanted)
    assert zoo.points() == [] and changes(before, state(zoo)) == []
    run = zoo.controller.play("backup_hot", **wanted)
    assert changes(before, state(zoo)) == []
    return check, run, zoo.record(run)


def described(record: dict[str, Any], names: tuple[str, ...] | None) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each VM of the zoo with its entry in the record; one that has none is an error."""
    for host in animals.zoo()["hosts"]:
        entries = [entry for entry in record["vms"] if entry["host"] == host["name"]]
        vms = [vm for vm in host["vms"] if names is None or vm["name"] in names]
        assert sorted(entry["vm"] for entry in entries) == sorted(vm["name"] for vm in vms)
        for vm in vms:
            same = [entry for entry in entries if entry["vm"] == vm["name"]]
            yield vm, same.pop()


def judge_record(
    record: dict[str, Any],
    names: tuple[str, ...] | None,
    fails: dict[str, Any],
    snapshots: bool,
    whole_chunks: bool = False,
) -> None:
    """`whole_chunks`: what is read is more than what the disks hold, or, where all of it is known, less."""
    for vm, entry in described(record, names):
        disks = {disk["key"]: disk for disk in entry["disks"]}
        if vm["name"] in fails:
            error, wanted = fails[vm["name"]]
            assert (entry["status"], entry["error"]["id"]) == ("failed", error), entry
            assert entry["error"]["message"] and entry["error"]["hint"]
            assert entry["restore_point"] is None and not entry["proven"]
            assert set(disks) == set(wanted)
            for key, (status, word) in wanted.items():
                assert disks[key]["status"] == status and word in disks[key]["reason"], (vm["name"], disks[key])
            continue
        assert entry["status"] == "ok", entry["error"]
        assert set(disks) == {disk["key"] for disk in vm["disks"]}
        for key, disk in disks.items():
            word = LEFT_OUT.get((vm["name"], key), "")
            if word and (snapshots or "raw" in word):
                assert disk["status"] == "excluded" and word in disk["reason"], (vm["name"], disk)
            else:
                assert disk["status"] == "ok" and disk["bytes_read"] > 0, (vm["name"], disk)
                assert whole_chunks or disk["bytes_read"] == disk["bytes_planned"], (vm["name"], disk)
        assert bool(entry["needs_key_provider"]) == (not entry["proven"]) == (vm["name"] in KEY_PROVIDER)


def test_every_disk_of_every_machine_is_in_the_record_with_its_reason(hot: tuple[Run, Run, dict[str, Any]]) -> None:
    _check, run, record = hot
    assert run.rc == 2 and run.stats["stowage_run"]["failed"] == len(FAILS_HOT)
    judge_record(record, SAMPLE, FAILS_HOT, snapshots=True)


def test_check_mode_promised_what_the_run_did(hot: tuple[Run, Run, dict[str, Any]]) -> None:
    check, _run, record = hot
    for host, done in outcome_of(record).items():
        promised = check.stats["stowage_plan"][host]
        assert {key: promised[key] for key in done} == done, host


def test_nothing_of_ours_is_left_in_the_zoo(zoo: House, hot: tuple[Run, Run, dict[str, Any]]) -> None:
    assert left_behind(zoo) == []


def test_a_machine_that_needs_its_key_provider_says_so_in_its_manifest_and_plan(
    zoo: House, hot: tuple[Run, Run, dict[str, Any]]
) -> None:
    (point,) = zoo.points("vtpm")
    assert point.manifest["needs_key_provider"] == "it is encrypted and it has a virtual TPM"
    assert point.manifest["proven"] is False
    assert (point.folder / "vtpm.nvram").read_bytes() == (zoo.folder("zoo80", "vtpm") / "vtpm.nvram").read_bytes()
    given = {"restore_host": "zoo80", "restore_datastore": "datastore1", "restore_vm": "vtpm", "restore_name": "dry"}
    dry = zoo.controller.play("restore", "-v", "--check", **given, restore_uuid="new", restore_mac="new")
    assert "it starts only on a host that has its key provider" in dry.must_end_with(0).text


def test_what_was_copied_of_raw_devices_clones_and_two_stores_is_whole(
    zoo: House, hot: tuple[Run, Run, dict[str, Any]], tmp_path: Path
) -> None:
    for name in ("two stores", "linked clone"):
        (point,) = zoo.points(name)
        assert "one moment" in prove_disks(point.disks, tmp_path / name)
    (point,) = zoo.points("raw devices")
    assert [disk["key"] for disk in point.manifest["disks"]] == ["scsi0:0", "scsi0:2"]
    copy = raw_copy(point.folder / "scsi0-2.vmdk", tmp_path / "rdm.raw")
    # The device is locked while its machine runs.
    vmid = str(zoo.vm("zoo70", "raw devices")["vmid"])
    zoo.lab.run("zoo70", "vim-cmd", "vmsvc/power.off", vmid)
    try:
        device = zoo.folder("zoo70", "raw devices") / "raw devices_2-rdm.vmdk"
        assert copy.read_bytes() == device.read_bytes()
    finally:
        zoo.lab.run("zoo70", "vim-cmd", "vmsvc/power.on", vmid)


def restored(zoo: House, host: str, names: list[str], tmp_path: Path, **more: Any) -> None:
    """Brings machines back under another name and has them judged against their restore points."""
    wanted = [{"vm": name, "name": f"again {number}", "uuid": "new", "mac": "new"} for number, name in enumerate(names)]
    given = {"restore_host": host, "restore_datastore": "datastore1", "restore_vms": wanted, **more}
    zoo.controller.play("restore", **given).must_end_with(0)
    for number, name in enumerate(names):
        vm = zoo.vm(host, f"again {number}")
        folder = zoo.folder(host, f"again {number}")
        values = (folder / f"again-{number}.vmx").read_text(encoding="utf-8")
        point = zoo.points(name)[-1]
        for disk in point.manifest["disks"]:
            (line,) = [line for line in values.splitlines() if line.startswith(f"{disk['key']}.fileName")]
            back = folder / line.split('"')[1]
            assert same_content(back, point.folder / disk["file"])
        if len(point.disks) == 1 and point.manifest["disks"][0]["capacity_bytes"] >= 64 << 20:
            assert "file system clean" in prove_disks([back], tmp_path / str(number), booted=name in RUN)
        zoo.lab.run(host, "vim-cmd", "vmsvc/destroy", str(vm["vmid"]))


@pytest.mark.soak
def test_a_disk_of_more_than_two_terabytes_comes_back(
    zoo: House, hot: tuple[Run, Run, dict[str, Any]], tmp_path: Path
) -> None:
    restored(zoo, "zoo80", ["huge6"], tmp_path)


#: Warm stops the guest before its snapshot, so that a pass-through device is no obstacle.
FAILS_WARM = {name: wanted for name, wanted in FAILS_HOT.items() if name != "pass-through"}
MODES = {"warm": FAILS_WARM, "cold": FAILS, "hot": FAILS_HOT}
#: A store keeps bytes, and no keys of a virtual machine.
FAILS_IN_STORE = {"encrypted": ("disk-cannot-be-copied", {"scsi0:0": ("failed", "it is encrypted")})}


@pytest.fixture(scope="module")
def whole_zoo() -> Iterator[House]:
    with running("wholezoo", animals.zoo()) as zoo:
        zoo.lab.settle()
        yield zoo


@pytest.mark.soak
@pytest.mark.parametrize("how", MODES)
def test_the_whole_zoo_is_in_the_record_and_is_afterwards_what_it_was(
    whole_zoo: House, how: str, tmp_path: Path
) -> None:
    zoo, fails = whole_zoo, MODES[how]
    before = state(zoo)
    check = zoo.controller.play(f"backup_{how}", "--check", backup_select=["all"])
    assert changes(before, state(zoo)) == []
    run = zoo.controller.play(f"backup_{how}", backup_select=["all"])
    assert changes(before, state(zoo)) == [] and left_behind(zoo) == []
    record = zoo.record(run)
    judge_record(record, None, fails, snapshots=how != "cold")
    assert run.rc == 2 and run.stats["stowage_run"]["failed"] == len(fails)
    for host, done in outcome_of(record).items():
        promised = check.stats["stowage_plan"][host]
        # Guests write between the two plans: what is to be read of a thin disk may have grown.
        sizes = ("ready", "disks", "capacity_bytes")
        assert {key: promised[key] for key in sizes} == {key: done[key] for key in sizes}, host
    if how == "hot":
        restored(zoo, "zoo67", ["huge5", "ide", "linked clone", "golden"], tmp_path)
        restored(zoo, "zoo70", ["several", "two stores", "branches", "raw devices"], tmp_path)
        restored(zoo, "zoo80", ["uefi", "vtpm", "encrypted", "sata", "nvme", "huge6", "template"], tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("how", MODES)
def test_the_whole_zoo_goes_into_a_store_twice_and_all_of_it_comes_back(
    whole_zoo: House, how: str, tmp_path: Path
) -> None:
    zoo, before = whole_zoo, state(whole_zoo)
    sent: list[dict[tuple[str, str], int]] = []
    for number in range(2):
        assert number == 0 or instore.change(zoo) > 10
        run = zoo.controller.play(f"backup_{how}", backup_select=["all"], **instore.into(how))
        assert changes(before, state(zoo)) == [] and left_behind(zoo) == []
        record = zoo.record(run)
        judge_record(record, None, {**MODES[how], **FAILS_IN_STORE}, snapshots=how != "cold", whole_chunks=True)
        green = [one for one in record["vms"] if one["status"] == "ok"]
        sent.append({(one["host"], one["identity"]): one["bytes_sent"] for one in green})
    assert sum(sent[1].values()) < sum(sent[0].values()), sent
    for one in green:
        # One sector of each disk has changed; those that run write as they like.
        copied = [disk for disk in one["disks"] if disk["status"] == "ok"]
        assert one["vm"] in RUN or sent[1][one["host"], one["identity"]] <= len(copied) << 20, one
    for host in zoo.hosts:
        entries = [one for one in record["vms"] if one["host"] == host and one["status"] == "ok"]
        rows = instore.come_back(zoo, host, how, entries, frozenset(RUN), tmp_path)
        print(f"{host} {how}: {len(rows)} machines\n" + "\n".join(rows), flush=True)
    assert left_behind(zoo) == []
