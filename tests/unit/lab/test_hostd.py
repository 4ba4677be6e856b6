# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One simulated host with real disks, real locks and running guests: what its commands do to the files."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from esxilab import disks

from .benches import Bench, disk, running

# --- power --------------------------------------------------------------------------------------------------------


def test_a_running_vm_has_its_lock_and_swap_files_and_loses_them_when_it_goes_off(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    swap = {name for name in lab.names() if name.endswith(".vswp")}
    assert "web.vmx.lck" in lab.names()
    assert len(swap) == 2
    assert lab.vim("vmsvc/power.off", "1") == "Powering off VM:\n"
    assert lab.state() == "Powered off"
    assert not lab.names() & (swap | {"web.vmx.lck"})


def test_power_on_of_a_running_vm_prints_the_line_and_failed(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    answer = lab.run("vim-cmd", "vmsvc/power.on", "1")
    assert (answer["stdout"], answer["rc"]) == ("Powering on VM:\nPower on failed\n", 1)


def test_every_power_on_begins_a_new_log_and_keeps_the_old_one(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    first = (lab.folder() / "vmware.log").read_text().splitlines()[0]
    lab.vim("vmsvc/power.off", "1")
    lab.vim("vmsvc/power.on", "1")
    assert (lab.folder() / "vmware-1.log").read_text().splitlines()[0] == first
    assert (lab.folder() / "vmware.log").read_text().splitlines()[0] != first


def test_shutdown_prints_nothing_and_the_guest_ends_clean_later(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    assert lab.vim("vmsvc/power.shutdown", "1") == ""
    lab.wait(lambda: lab.state() == "Powered off", "the guest's end")
    assert "clean" in lab.check()


def test_a_guest_that_is_cut_off_is_consistent_but_not_clean(bench: Callable[..., Bench]) -> None:
    lab = bench([running(disks=[disk("scsi0:0"), disk("scsi0:1", datastore="old")])])
    lab.written()
    lab.vim("vmsvc/power.off", "1")
    verdict = lab.check()
    assert verdict.startswith("consistent")
    assert " clean" not in verdict


def test_shutdown_without_tools_is_a_fault(bench: Callable[..., Bench]) -> None:
    lab = bench([running(tools="none")])
    answer = lab.run("vim-cmd", "vmsvc/power.shutdown", "1")
    assert answer["rc"] == 1
    assert answer["stdout"].startswith("(vim.fault.ToolsUnavailable) {\n")


def test_a_guest_that_ignores_shutdown_goes_on(bench: Callable[..., Bench]) -> None:
    lab = bench([running(ignores_shutdown=True)])
    lab.vim("vmsvc/power.shutdown", "1")
    lab.written()
    assert lab.state() == "Powered on"


def test_a_suspended_vm_is_suspended_after_a_reboot_of_the_host_and_a_running_one_is_off(
    bench: Callable[..., Bench],
) -> None:
    lab = bench([running(), running(name="two", dir="two")])
    lab.vim("vmsvc/power.suspend", "1")
    lab.host.reboot()
    assert (lab.state("1"), lab.state("2")) == ("Suspended", "Powered off")
    lab.vim("vmsvc/power.on", "1")
    assert lab.state("1") == "Powered on"
    assert not any(name.endswith(".vmss") for name in lab.names("1"))


def test_a_vm_whose_files_were_copied_asks_before_it_runs(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off")])
    copy = lab.folder().parent / "copy"
    subprocess.run(["cp", "-a", lab.folder(), copy], check=True)
    vmid = lab.vim("solo/registervm", "/vmfs/volumes/datastore1/copy/web.vmx", "copy").strip()
    before = lab.host.vm(vmid).config.bios_uuid
    thread = threading.Thread(target=lab.run, args=("vim-cmd", "vmsvc/power.on", vmid))
    thread.start()
    lab.wait(lambda: lab.host.vm(vmid).question, "the question")
    text = lab.vim("vmsvc/message", vmid)
    assert "msg.uuid.altered" in text
    number = text.split("message ")[1].split(":")[0]
    lab.vim("vmsvc/message", vmid, number, "2")
    thread.join()
    assert lab.state(vmid) == "Powered on"
    assert lab.host.vm(vmid).config.bios_uuid != before
    assert lab.vim("vmsvc/message", vmid) == "No message.\n"


# --- snapshots ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("store", "ending"), [("datastore1", "sesparse"), ("old", "delta"), ("share", "delta")])
def test_a_snapshot_moves_the_writes_to_a_delta_of_the_datastores_format(
    bench: Callable[..., Bench], store: str, ending: str
) -> None:
    lab = bench([running(datastore=store)])
    before = {"web.vmdk", "web-flat.vmdk"}
    assert lab.vim("vmsvc/snapshot.create", "1", "one", "first", "0", "0") == "Create Snapshot:\n"
    base = (lab.folder() / "web-flat.vmdk").read_bytes()
    assert {"web-000001.vmdk", f"web-000001-{ending}.vmdk", "web-Snapshot1.vmsn", *before} <= lab.names()
    assert 'scsi0:0.fileName = "web-000001.vmdk"' in (lab.folder() / "web.vmx").read_text()
    lab.written()
    assert (lab.folder() / "web-flat.vmdk").read_bytes() == base


def test_what_a_snapshot_froze_is_one_moment_of_all_disks(bench: Callable[..., Bench]) -> None:
    lab = bench([running(disks=[disk("scsi0:0"), disk("scsi0:1", datastore="old"), disk("scsi1:0")])])
    lab.written()
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.written()
    snapshot = lab.host.vm("1").snapshots().snapshots[0]
    frozen = {node: lab.host.vm("1").config.absolute(name) for node, name in snapshot.disks.items()}
    assert lab.check(chain=frozen).startswith("consistent")


def test_a_quiesced_snapshot_is_marked_in_the_guest_and_in_the_snapshot_information(
    bench: Callable[..., Bench],
) -> None:
    lab = bench([running()])
    lab.written()
    lab.vim("vmsvc/snapshot.create", "1", "one", "", "0", "1")
    frozen = {"scsi0:0": lab.host.vm("1").config.absolute("web.vmdk")}
    assert "quiesced" in lab.check(chain=frozen)
    assert "quiesced = true" in lab.vim("vmsvc/get.snapshotinfo", "1")


def test_quiesce_is_ignored_without_tools(bench: Callable[..., Bench]) -> None:
    lab = bench([running(tools="none")])
    lab.vim("vmsvc/snapshot.create", "1", "one", "", "0", "1")
    assert "quiesced = false" in lab.vim("vmsvc/get.snapshotinfo", "1")


def test_a_quiesce_that_fails_leaves_no_snapshot_and_a_running_guest(bench: Callable[..., Bench]) -> None:
    lab = bench([running(quiesce_fails=True)])
    answer = lab.run("vim-cmd", "vmsvc/snapshot.create", "1", "one", "", "0", "1")
    assert (answer["stdout"], answer["rc"]) == ("Create Snapshot:\nCreate snapshot failed\n", 1)
    assert lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n"
    lab.written()
    task = lab.vim("vmsvc/get.tasklist", "1").splitlines()[-2].strip().strip("'").partition(":")[2]
    assert "ApplicationQuiesceFault" in lab.vim("vimsvc/task_info", task)


def test_on_6_7_a_failing_snapshot_still_prints_success_and_the_task_holds_the_error(
    bench: Callable[..., Bench],
) -> None:
    lab = bench([running(quiesce_fails=True)], profile="6.7")
    assert lab.vim("vmsvc/snapshot.create", "1", "one", "", "0", "1") == "Create Snapshot:\n"
    lab.wait(lambda: lab.host.vm("1").busy is None, "the task's end")
    assert lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n"


def test_independent_disks_are_left_out(bench: Callable[..., Bench]) -> None:
    lab = bench([running(disks=[disk("scsi0:0"), disk("scsi0:1", mode="independent-persistent")])])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    assert "web_1-000001.vmdk" not in lab.names()
    assert set(lab.host.vm("1").snapshots().snapshots[0].disks) == {"scsi0:0"}


def test_removal_while_the_guest_writes_brings_the_base_back_with_everything(bench: Callable[..., Bench]) -> None:
    lab = bench([running(disks=[disk("scsi0:0"), disk("scsi0:1", datastore="old")])])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.written()
    assert lab.vim("vmsvc/snapshot.remove", "1", "1") == "Remove Snapshot:\n"
    lab.written()
    assert not {name for name in lab.names() if "-00000" in name or name.endswith(".vmsn")}
    assert (lab.folder() / "web.vmsd").stat().st_size == 43
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")


def test_removing_the_middle_of_three_keeps_the_others(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    for name in ("a", "b", "c"):
        lab.vim("vmsvc/snapshot.create", "1", name)
        lab.written()
    printed = lab.vim("vmsvc/snapshot.remove", "1", "2")
    assert [line for line in printed.splitlines() if "Name" in line] == [
        "--Snapshot Name        : a",
        "----Snapshot Name        : c",
    ]
    frozen = lab.host.vm("1").snapshots().find(3)
    assert frozen is not None
    assert lab.check(chain={"scsi0:0": lab.host.vm("1").config.absolute(frozen.disks["scsi0:0"])}).startswith(
        "consistent"
    )
    lab.written()
    assert lab.vim("vmsvc/snapshot.removeall", "1") == "Remove All Snapshots:\n"
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")
    assert not {name for name in lab.names() if "-00000" in name}


def test_a_reader_of_the_base_makes_the_removal_fail_and_consolidation_needed(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    with subprocess.Popen(["sleep", "60"], stdin=open(lab.folder() / "web-flat.vmdk", "rb")) as reader:
        answer = lab.run("vim-cmd", "vmsvc/snapshot.remove", "1", "1")
        reader.kill()
    assert (answer["stdout"], answer["rc"]) == ("Remove Snapshot:\nRemove snapshot failed\n", 1)
    assert lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n"
    assert "consolidationNeeded = true" in lab.vim("vmsvc/get.runtime", "1")
    assert "AIOGNRC: Failed to open" in (lab.folder() / "vmware.log").read_text()
    lab.written()
    assert lab.vim("vmsvc/snapshot.removeall", "1") == "Remove All Snapshots:\n"
    assert "consolidationNeeded = false" in lab.vim("vmsvc/get.runtime", "1")


def test_a_reader_that_comes_between_the_two_merges_leaves_the_guest_running_on_its_helper(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = bench([running()])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.written()
    merge = lab.host.engine.merge

    def refused(vm: Any, child: str, parent: str) -> None:
        if "000002" in child:
            raise disks.FileLocked(parent)
        merge(vm, child, parent)

    monkeypatch.setattr(lab.host.engine, "merge", refused)
    assert lab.run("vim-cmd", "vmsvc/snapshot.remove", "1", "1")["rc"] == 1
    monkeypatch.undo()
    lab.written()
    assert 'scsi0:0.fileName = "web-000002.vmdk"' in (lab.folder() / "web.vmx").read_text()
    lab.vim("vmsvc/snapshot.removeall", "1")
    lab.written()
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")
    assert not {name for name in lab.names() if "-00000" in name}


def test_a_guest_that_first_writes_to_its_helper_after_the_merge_below_it_loses_nothing(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = bench([running(disks=[disk("scsi0:0"), disk("scsi0:1")])])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.written()
    guest, set_parent = lab.host.vm("1").guest, lab.host.engine.set_parent
    # It wakes for one record, on one of its disks, when it gets its disks back: the other's helper stays untouched.
    guest.rate = 0.2

    def then_write(*words: Any) -> None:
        set_parent(*words)
        guest.write_now(2)

    monkeypatch.setattr(lab.host.engine, "set_parent", then_write)
    assert lab.run("vim-cmd", "vmsvc/snapshot.remove", "1", "1")["rc"] == 0
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")


def test_a_removal_that_runs_out_of_room_can_be_done_again(bench: Callable[..., Bench]) -> None:
    lab = bench([running(disks=[disk("scsi0:0", datastore="old")], datastore="datastore1")])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.written(records=100)
    lab.host.fault("datastore_full", datastore="old")
    assert lab.run("vim-cmd", "vmsvc/snapshot.remove", "1", "1")["rc"] == 1
    assert "consolidationNeeded = true" in lab.vim("vmsvc/get.runtime", "1")
    lab.host.fault("clear")
    if lab.host.vm("1").question:
        lab.vim("vmsvc/message", "1", lab.host.vm("1").question.id, "0")
    lab.vim("vmsvc/snapshot.removeall", "1")
    lab.written()
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")


def test_ids_are_never_given_twice(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off")])
    lab.vim("vmsvc/snapshot.create", "1", "a")
    lab.vim("vmsvc/snapshot.removeall", "1")
    lab.vim("vmsvc/snapshot.create", "1", "b")
    assert "Snapshot Id        : 2" in lab.vim("vmsvc/snapshot.get", "1")


def test_a_revert_throws_away_what_was_written_since(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    lab.written()
    lab.vim("vmsvc/snapshot.create", "1", "one")
    frozen = lab.check(chain={"scsi0:0": lab.host.vm("1").config.absolute("web.vmdk")})
    lab.written()
    lab.vim("vmsvc/snapshot.revert", "1", "1", "1")
    assert lab.state() == "Powered off"
    assert lab.check() == frozen
    assert 'scsi0:0.fileName = "web-000002.vmdk"' in (lab.folder() / "web.vmx").read_text()
    assert "web-000001.vmdk" not in lab.names()


def test_two_branches_survive_each_others_removal(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    lab.vim("vmsvc/snapshot.create", "1", "root")
    lab.written()
    lab.vim("vmsvc/snapshot.create", "1", "left")
    lab.vim("vmsvc/snapshot.revert", "1", "1", "1")
    lab.vim("vmsvc/power.on", "1")
    lab.written()
    lab.vim("vmsvc/snapshot.create", "1", "right")
    right = lab.host.vm("1").snapshots().find(3)
    assert right is not None
    verdict = lab.check(chain={"scsi0:0": lab.host.vm("1").config.absolute(right.disks["scsi0:0"])})
    lab.vim("vmsvc/snapshot.remove", "1", "2")
    right = lab.host.vm("1").snapshots().find(3)
    assert right is not None
    assert lab.check(chain={"scsi0:0": lab.host.vm("1").config.absolute(right.disks["scsi0:0"])}) == verdict
    lab.written()


def test_a_memory_snapshot_comes_back_powered_on_unless_that_is_suppressed(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    lab.vim("vmsvc/snapshot.create", "1", "one", "", "1", "1")
    assert "web-Snapshot1.vmem" in lab.names()
    assert "--Snapshot State       : powered on" in lab.vim("vmsvc/snapshot.get", "1")
    lab.vim("vmsvc/snapshot.revert", "1", "1", "0")
    assert lab.state() == "Powered on"
    lab.vim("vmsvc/snapshot.revert", "1", "1", "suppressPowerOn")
    assert lab.state() == "Powered off"


def test_the_32nd_level_is_refused(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off", disks=[disk("scsi0:0", "4M", blank=True)])])
    for number in range(31):
        lab.vim("vmsvc/snapshot.create", "1", f"s{number}")
    answer = lab.run("vim-cmd", "vmsvc/snapshot.create", "1", "too deep")
    assert answer["rc"] == 1
    assert len(lab.host.vm("1").snapshots().snapshots) == 31


def test_one_operation_at_a_time_runs_on_a_vm(bench: Callable[..., Bench]) -> None:
    lab = bench([running()], snapshot_async=True, snapshot_seconds=0.5)
    lab.vim("vmsvc/snapshot.create", "1", "one")
    answer = lab.run("vim-cmd", "vmsvc/snapshot.create", "1", "two")
    assert "vim.fault.TaskInProgress" in answer["stdout"]
    lab.wait(lambda: "one" in lab.vim("vmsvc/snapshot.get", "1"), "the snapshot")


# --- locks --------------------------------------------------------------------------------------------------------


def can_open(path: Path) -> bool:
    return subprocess.run(["head", "-c1", path], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("readable", [True, False])
def test_what_other_programs_can_open_while_a_vm_runs(bench: Callable[..., Bench], readable: bool) -> None:
    lab = bench([running()], base_readable_after_snapshot=readable)
    folder = lab.folder()
    assert not can_open(folder / "web-flat.vmdk")
    assert can_open(folder / "web.vmdk")
    lab.vim("vmsvc/snapshot.create", "1", "one")
    assert can_open(folder / "web-flat.vmdk") is readable
    assert not can_open(folder / "web-000001-sesparse.vmdk")
    lab.vim("vmsvc/power.off", "1")
    assert can_open(folder / "web-000001-sesparse.vmdk")


def test_a_disk_that_two_machines_of_a_host_write_to_stays_locked_until_the_last_one_goes_off(
    bench: Callable[..., Bench],
) -> None:
    shared = disk("scsi0:0", format="eagerzeroedthick", sharing="multi-writer")
    hidden = {"base_readable_after_snapshot": False}
    lab = bench([running(power="off", disks=[shared]), running(name="two", dir="two", power="off")], **hidden)
    second = lab.host.vm("2")
    second.config.values.set("scsi0:0.fileName", lab.host.vm("1").live_disks()[0].path)
    second.config.values.set("scsi0:0.sharing", "multi-writer")
    second.save_config()
    flat = lab.folder() / "web-flat.vmdk"
    for vmid in ("1", "2"):
        lab.vim("vmsvc/power.on", vmid)
    state = lab.locks.state(str(flat))
    assert state is not None and (state.mode, len(set(state.owners))) == (2, 2)
    lab.vim("vmsvc/power.off", "1")
    assert not can_open(flat)
    lab.vim("vmsvc/power.off", "2")
    assert can_open(flat)


def test_two_machines_of_one_host_cannot_run_on_the_same_disk(bench: Callable[..., Bench]) -> None:
    lab = bench([running(), running(name="two", dir="two", power="off")])
    second = lab.host.vm("2")
    second.config.values.set("scsi0:0.fileName", lab.host.vm("1").live_disks()[0].path)
    second.save_config()
    assert lab.run("vim-cmd", "vmsvc/power.on", "2")["rc"] == 1
    assert lab.state("2") == "Powered off"
    assert not can_open(lab.folder() / "web-flat.vmdk")


def test_the_locks_of_a_running_machine_are_never_free_while_its_links_change(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = bench([running()])
    flat = str(lab.folder() / "web-flat.vmdk")
    freed: list[str] = []
    unlock = lab.locks.unlock

    def watched(path: str, owner: str | None = None) -> None:
        freed.append(path)
        unlock(path, owner)

    monkeypatch.setattr(lab.locks, "unlock", watched)
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.vim("vmsvc/snapshot.removeall", "1")
    assert freed and flat not in freed
    assert lab.locks.state(flat).mode == 1


def test_the_owner_of_a_lock_is_shown_as_the_host(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    path = lab.host.volumes.inside_of(lab.folder() / "web-flat.vmdk")
    (lock,) = lab.host.handle({"tool": "vmkfstools", "ask": "locks", "paths": [path], "pid": 1})["locks"]
    owner = lab.host.lock_owner
    assert lock == {"mode": 1, "owner": owner, "readers": 1, "owners": [owner]}


def test_nfs_knows_no_locks(bench: Callable[..., Bench]) -> None:
    lab = bench([running(datastore="share")])
    assert can_open(lab.folder() / "web-flat.vmdk")


# --- inventory and faults -----------------------------------------------------------------------------------------


def test_register_prints_the_id_alone_and_never_one_that_was_used(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off")])
    lab.vim("vmsvc/unregister", "1")
    assert lab.vim("solo/registervm", "/vmfs/volumes/datastore1/web/web.vmx") == "2\n"
    assert "<objID>2</objID>" in (lab.host.root / "etc/vmware/hostd/vmInventory.xml").read_text()
    answer = lab.run("vim-cmd", "solo/registervm", "[datastore1] web/web.vmx")
    assert 'name = "2"' in answer["stdout"]


def test_a_vm_whose_files_are_gone_is_skipped_on_stderr(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off"), running(name="two", dir="two", power="off")])
    (lab.folder("2") / "two.vmx").unlink()
    lab.vim("vmsvc/reload", "2")
    answer = lab.run("vim-cmd", "vmsvc/getallvms")
    assert answer["stderr"] == "Skipping invalid VM '2'\n"
    assert len(answer["stdout"].splitlines()) == 2


def test_destroy_deletes_the_vms_own_files_and_no_foreign_one(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off")])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    folder = lab.folder()
    (folder / "notes.txt").write_text("mine")
    lab.vim("vmsvc/destroy", "1")
    assert os.listdir(folder) == ["notes.txt"]


@pytest.mark.parametrize(
    ("fault", "stderr"),
    [
        ("hostd_down", "Connect to localhost failed: Connection failure\n"),
        ("vimcmd_reset", "Failed to login: Connection reset by peer\n"),
    ],
)
def test_connection_trouble_is_said_on_stderr(bench: Callable[..., Bench], fault: str, stderr: str) -> None:
    lab = bench([])
    lab.host.fault(fault, **({"times": 2} if fault == "vimcmd_reset" else {}))
    for _ in range(2):
        answer = lab.run("vim-cmd", "vmsvc/getallvms")
        assert (answer["stderr"], answer["stdout"], answer["rc"]) == (stderr, "", 1)
    lab.host.fault("clear") if fault == "hostd_down" else None
    lab.vim("vmsvc/getallvms")


def test_a_killed_vim_cmd_dies_by_the_signal(bench: Callable[..., Bench]) -> None:
    lab = bench([])
    lab.host.fault("vimcmd_killed", times=1)
    assert lab.run("vim-cmd", "vmsvc/getallvms")["signal"] == 9
    lab.vim("vmsvc/getallvms")


def test_a_lying_removal_says_success_and_leaves_everything(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off")])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.host.fault("lying_remove", vm="web")
    lab.vim("vmsvc/snapshot.remove", "1", "1")
    assert "web-000001.vmdk" in lab.names()
    lab.host.fault("clear")
    lab.vim("vmsvc/snapshot.remove", "1", "1")
    assert "web-000001.vmdk" not in lab.names()


def test_a_question_that_a_fault_asked_goes_with_the_fault_and_the_machine_starts(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off")])
    lab.host.fault("question", vm="web", text="really?")
    thread = threading.Thread(target=lab.run, args=("vim-cmd", "vmsvc/power.on", "1"))
    thread.start()
    lab.wait(lambda: lab.host.vm("1").question, "the question")
    lab.host.fault("clear", vm="another")
    assert "really?" in lab.vim("vmsvc/message", "1")
    lab.host.fault("clear")
    thread.join(20)
    assert lab.vim("vmsvc/message", "1") == "No message.\n"
    assert lab.state() == "Powered on"


def test_a_full_datastore_pauses_the_guest_until_there_is_room_and_an_answer(bench: Callable[..., Bench]) -> None:
    lab = bench([running()])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    lab.host.fault("datastore_full", datastore="datastore1")
    lab.wait(lambda: lab.host.vm("1").question, "the question")
    text = lab.vim("vmsvc/message", "1")
    assert "msg.hbacommon.outofspace" in text
    lab.host.fault("clear")
    lab.vim("vmsvc/message", "1", text.split("message ")[1].split(":")[0], "0")
    lab.written()
    lab.vim("vmsvc/snapshot.removeall", "1")
    lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")


def test_a_snapshot_on_a_full_datastore_fails_and_the_guest_goes_on(bench: Callable[..., Bench]) -> None:
    lab = bench([running(disks=[disk("scsi0:0", datastore="old")])])
    lab.host.fault("datastore_full", datastore="old")
    answer = lab.run("vim-cmd", "vmsvc/snapshot.create", "1", "one")
    assert answer["rc"] == 1
    lab.host.fault("clear")
    assert lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n"
    assert 'fileName = "/vmfs/volumes/' in (lab.folder() / "web.vmx").read_text()


def test_an_unknown_fault_is_refused_with_the_names_that_are_known(bench: Callable[..., Bench]) -> None:
    with pytest.raises(ValueError, match="quiesce_fails"):
        bench([]).host.fault("nonsense")


def test_rates_and_sizes_of_faults_may_carry_a_unit_and_a_copy_is_told_of_them(bench: Callable[..., Bench]) -> None:
    lab = bench([])
    lab.host.fault("slow_clone", rate="4M")
    told = lab.host.handle({"tool": "vmkfstools", "ask": "host", "pid": os.getpid()})
    assert told["rate"] == 4 << 20
    lab.host.fault("clear")
    assert lab.host.handle({"tool": "vmkfstools", "ask": "host", "pid": os.getpid()})["rate"] is None


def test_every_get_command_answers_for_a_vm_that_runs_on_a_snapshot(bench: Callable[..., Bench]) -> None:
    lab = bench([running(disks=[disk("scsi0:0"), disk("scsi0:1", datastore="old"), disk("ide0:0", blank=True)])])
    lab.vim("vmsvc/snapshot.create", "1", "one")
    for name in ("summary", "runtime", "config", "guest", "filelayout", "filelayoutex", "networks", "datastores"):
        assert lab.vim(f"vmsvc/get.{name}", "1")
    dump = lab.vim("vmsvc/device.getdevices", "1")
    assert "(vim.vm.device.VirtualDisk.SeSparseBackingInfo) {" in dump
    assert 'fileName = "[old] web/web_1-000001.vmdk"' in dump
    assert "key = 3000, " in dump
    config = lab.vim("vmsvc/get.config", "1")
    assert [line for line in config.splitlines() if "vmPathName" in line] == [
        '      vmPathName = "[datastore1] web/web.vmx", '
    ]


def test_snapshot_remove_without_arguments_names_snapshotid_on_stderr(bench: Callable[..., Bench]) -> None:
    answer = bench([]).run("vim-cmd", "vmsvc/snapshot.remove")
    assert answer["rc"] == 1
    assert answer["stderr"].startswith("Insufficient arguments.\nUsage: snapshot.remove vmid snapshotId\n")


def test_ghettovcbs_filter_reads_name_datastore_and_path(bench: Callable[..., Bench]) -> None:
    lab = bench([running(power="off", annotation="see [x] vmx-1\n/not/a.vmx")])
    text = lab.vim("vmsvc/getallvms")
    script = (
        r"sed 's/[[:blank:]]\{3,\}/   /g' | grep -F '[' | grep -F 'vmx-' | grep -F '.vmx' | grep -F '/' | "
        "awk -F'   ' '{print $1 \";\" $2 \";\" $3}'"
    )
    done = subprocess.run(["sh", "-c", script], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "1;web;[datastore1] web/web.vmx"


def test_the_2gbsparse_module_can_be_loaded_once(bench: Callable[..., Bench]) -> None:
    lab = bench([])
    assert "multiextent" not in lab.run("esxcli", "system", "module", "list")["stdout"]
    assert lab.run("esxcli", "system", "module", "load", "-m", "multiextent")["rc"] == 0
    assert "multiextent" in lab.run("localcli", "system", "module", "list")["stdout"]
    assert lab.run("esxcli", "system", "module", "load", "-m", "multiextent")["rc"] == 1


def test_a_module_that_was_loaded_can_be_unloaded_and_no_other(bench: Callable[..., Bench]) -> None:
    lab = bench([])
    assert lab.run("esxcli", "system", "module", "load", "-m", "multiextent")["rc"] == 0
    assert lab.run("vmkload_mod", "-u", "multiextent")["stdout"] == "Module multiextent successfully unloaded\n"
    assert "multiextent" not in lab.run("esxcli", "system", "module", "list")["stdout"]
    assert "Not found" in lab.run("vmkload_mod", "-u", "multiextent")["stderr"]
    assert lab.run("vmkload_mod", "-u", "vmfs3")["rc"] == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_operations_leaves_every_link_consistent(bench: Callable[..., Bench], seed: int) -> None:
    chooser = random.Random(seed)
    lab = bench([running(disks=[disk("scsi0:0"), disk("scsi0:1", datastore="old")])])
    vm = lab.host.vm("1")
    for _ in range(12):
        uids = [str(snapshot.uid) for snapshot in vm.snapshots().snapshots]
        if vm.power == "poweredOn":
            lab.written()
        step = chooser.choice(["create", "create", "create", "remove", "remove", "revert", "off", "on", "all"])
        if step == "create":
            lab.vim("vmsvc/snapshot.create", "1", "x", "", "0", chooser.choice("01"))
        elif step == "remove" and uids:
            lab.vim("vmsvc/snapshot.remove", "1", chooser.choice(uids), chooser.choice("01"))
        elif step == "revert" and uids:
            lab.vim("vmsvc/snapshot.revert", "1", chooser.choice(uids), "0")
        elif step == "all" and chooser.random() < 0.4:
            lab.vim("vmsvc/snapshot.removeall", "1")
        elif (step, vm.power) in (("off", "poweredOn"), ("on", "poweredOff")):
            lab.vim(f"vmsvc/power.{step}", "1")
        for snapshot in vm.snapshots().snapshots:
            frozen = {node: vm.config.absolute(name) for node, name in snapshot.disks.items()}
            assert lab.check(chain=frozen).startswith("consistent"), f"after {step}: {snapshot}"
    lab.vim("vmsvc/snapshot.removeall", "1")
    if vm.power == "poweredOn":
        lab.written()
        lab.vim("vmsvc/power.off", "1")
    assert lab.check().startswith("consistent")
    left = lab.names() | {p.name for p in lab.host.outside(vm.live_disks()[1].path).parent.iterdir()}
    assert not {name for name in left if "-00000" in name or name.endswith((".vmsn", "~"))}
