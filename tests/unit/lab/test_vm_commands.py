# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd about VMs: the exact words, the keys that tools look for, and the refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from esxilab import disks

from .benches import Bench, disk, running

Make = Callable[..., Bench]


def off(**more: Any) -> dict[str, Any]:
    return running(power="off", **more)


def failed(lab: Bench, *words: str) -> str:
    """What a vim-cmd that fails prints; nothing of it may be on the other stream."""
    answer = lab.run("vim-cmd", *words)
    assert answer["rc"] == 1, answer
    assert not (answer["stdout"] and answer["stderr"]), answer
    return str(answer["stdout"] or answer["stderr"])


def line_of(text: str, word: str) -> str:
    """The one line that grep finds."""
    (line,) = [line for line in text.splitlines() if word in line]
    return line


# --- calls in general ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "synopsis"),
    [
        ("snapshot.create", "snapshot.create vmid [snapshotName] [snapshotDescription] [includeMemory] [quiesced]"),
        ("snapshot.remove", "snapshot.remove vmid snapshotId"),
        ("snapshot.revert", "snapshot.revert vmid snapshotId suppressPowerOff"),
    ],
)
def test_missing_arguments_print_the_known_synopsis_on_stderr(bench: Make, command: str, synopsis: str) -> None:
    answer = bench([]).run("vim-cmd", f"vmsvc/{command}")
    assert answer["stdout"] == ""
    assert answer["stderr"].startswith(f"Insufficient arguments.\nUsage: {synopsis}\n\n")
    assert answer["rc"] == 1


def test_a_path_may_begin_with_a_slash(bench: Make) -> None:
    lab = bench([off()])
    assert lab.vim("/vmsvc/power.getstate", "1") == lab.vim("vmsvc/power.getstate", "1")


@pytest.mark.parametrize("name", ["vmsvc/no.such", "nosvc/get", "vmsvc/device.connusbdev"])
def test_a_command_that_is_not_known_is_named_and_fails(bench: Make, name: str) -> None:
    assert failed(bench([]), name, "1") == f"Invalid command '{name}'.\n"


def test_an_unknown_vm_is_not_found_and_its_number_stands_in_bare_quotes(bench: Make) -> None:
    lab = bench([])
    for command in ("power.getstate", "get.summary", "unregister", "reload", "destroy", "get.tasklist", "message"):
        text = failed(lab, f"vmsvc/{command}", "16")
        assert text.startswith("(vim.fault.NotFound) {\n")
        assert 'msg = "Unable to find a VM corresponding to "16""\n}\n' in text


# --- power --------------------------------------------------------------------------------------------------------


def test_each_power_command_has_its_own_words(bench: Make) -> None:
    lab = bench([running()])
    assert lab.vim("vmsvc/power.reset", "1") == "Reset VM:\n"
    assert lab.vim("vmsvc/power.suspend", "1") == "Suspending VM:\n"
    assert lab.vim("vmsvc/power.getstate", "1") == "Retrieved runtime info\nSuspended\n"
    assert failed(lab, "vmsvc/power.suspend", "1") == "Suspending VM:\nSuspend failed\n"
    assert lab.vim("vmsvc/power.off", "1") == "Powering off VM:\n"
    assert failed(lab, "vmsvc/power.off", "1") == "Powering off VM:\nPower off failed\n"
    assert failed(lab, "vmsvc/power.reset", "1") == "Reset VM:\nReset failed\n"
    for word in ("shutdown", "reboot"):
        text = failed(lab, f"vmsvc/power.{word}", "1")
        assert text.startswith("(vim.fault.InvalidPowerState) {\n")
        assert "The attempted operation cannot be performed in the current state (Powered off)." in text


def test_a_reboot_of_the_guest_prints_nothing(bench: Make) -> None:
    lab = bench([running()])
    assert lab.vim("vmsvc/power.reboot", "1") == ""


def test_a_sparse_disk_of_the_hosted_products_does_not_start_and_its_log_says_why(bench: Make) -> None:
    lab = bench([off()])
    source = lab.folder() / "web.vmdk"
    disks.clone(str(source), str(lab.folder() / "sparse.vmdk"), "2gbsparse")
    vmx = lab.folder() / "web.vmx"
    vmx.write_text(vmx.read_text().replace('"web.vmdk"', '"sparse.vmdk"'))
    lab.vim("vmsvc/reload", "1")
    assert failed(lab, "vmsvc/power.on", "1") == "Powering on VM:\nPower on failed\n"
    assert "Object type requires hosted I/O" in (lab.folder() / "vmware.log").read_text()


# --- what a VM is -------------------------------------------------------------------------------------------------


def test_the_summary_has_the_lines_that_tools_look_for_in_their_order(bench: Make) -> None:
    lab = bench([running()])
    text = lab.vim("vmsvc/get.summary", "1")
    assert text.startswith("Listsummary:\n(vim.vm.Summary) {\n")
    names = [line for line in text.splitlines() if re.match(r' +(name|vmPathName) = "', line)]
    assert [line.split()[0] for line in names] == ["name", "vmPathName"]
    assert line_of(text, "uptimeSeconds =")
    assert 'powerState = "poweredOn"' in text
    assert 'toolsStatus = "toolsOk"' in text
    assert 'guestFullName = "Debian GNU/Linux 10 (64-bit)"' in text
    assert "consolidationNeeded = false" in text


def test_the_configuration_names_the_vmx_on_one_line_whose_last_field_is_its_path(bench: Make) -> None:
    lab = bench([running()])
    text = lab.vim("vmsvc/get.config", "1")
    assert text.startswith("Configuration:\n\n(vim.vm.ConfigInfo) {\n")
    line = line_of(text, "vmPathName")
    assert re.findall(r"\[.*\]", line) == ["[datastore1]"]
    assert re.sub('["|,]', "", line.split()[-1]) == "web/web.vmx"
    for word in ("files = (vim.vm.FileInfo) {", "hardware = (vim.vm.VirtualHardware) {", "changeTrackingEnabled = "):
        assert word in text
    assert "datastoreUrl = (vim.vm.ConfigInfo.DatastoreUrlPair) [" in text


def test_devices_have_the_keys_of_the_api(bench: Make) -> None:
    more = {
        "vmci0.present": "TRUE", "floppy0.present": "TRUE", "usb.present": "TRUE",
        "ide1:0.present": "TRUE", "ide1:0.deviceType": "atapi-cdrom", "ide1:0.fileName": "CDROM0",
    }  # fmt: skip
    wanted = [disk("scsi0:0"), disk("scsi0:1"), disk("scsi1:0"), disk("ide0:0"), disk("sata0:0")]
    lab = bench([off(disks=wanted, extra=more)])
    text = lab.vim("vmsvc/device.getdevices", "1")
    assert text.startswith("Devices:\n\n(vim.vm.VirtualHardware) {\n")
    found = {int(key): kind for kind, key in re.findall(r"\(vim\.vm\.device\.(\w+)\) \{\n +key = (\d+)", text)}
    kinds = {
        100: "VirtualPCIController", 200: "VirtualIDEController", 201: "VirtualIDEController",
        500: "VirtualMachineVideoCard", 1000: "VirtualLsiLogicController", 2000: "VirtualDisk", 2001: "VirtualDisk",
        2016: "VirtualDisk", 3000: "VirtualDisk", 3002: "VirtualCdrom", 7000: "VirtualUSBController",
        8000: "VirtualFloppy", 12000: "VirtualMachineVMCIDevice", 15000: "VirtualAHCIController", 16000: "VirtualDisk",
    }  # fmt: skip
    assert {key: found.get(key) for key in kinds} == kinds


def test_the_disk_name_stands_within_ten_lines_of_its_key(bench: Make) -> None:
    lines = bench([off()]).vim("vmsvc/device.getdevices", "1").splitlines()
    at = next(number for number, line in enumerate(lines) if "key = 2000," in line)
    assert any('fileName = "[datastore1] web/web.vmdk"' in line for line in lines[at : at + 11])


@pytest.mark.parametrize(("datastore", "kind"), [("datastore1", "SeSparseBackingInfo"), ("old", "FlatVer2BackingInfo")])
def test_a_disk_above_a_snapshot_shows_its_base_below_it(bench: Make, datastore: str, kind: str) -> None:
    lab = bench([off(datastore=datastore)])
    lab.vim("vmsvc/snapshot.create", "1", "s")
    text = lab.vim("vmsvc/device.getdevices", "1")
    assert f"backing = (vim.vm.device.VirtualDisk.{kind}) {{" in text
    assert f'fileName = "[{datastore}] web/web-000001.vmdk"' in text
    assert "parent = (vim.vm.device.VirtualDisk.FlatVer2BackingInfo) {" in text
    assert f'fileName = "[{datastore}] web/web.vmdk"' in text


def test_a_disk_is_added_and_removed_without_a_word(bench: Make) -> None:
    lab = bench([off()])
    disks.create_disk(str(lab.folder() / "more.vmdk"), 8 << 20, "thin")
    path = "/vmfs/volumes/datastore1/web/more.vmdk"
    assert lab.vim("vmsvc/device.diskaddexisting", "1", path, "0", "3") == ""
    assert "key = 2003," in lab.vim("vmsvc/device.getdevices", "1")
    assert lab.vim("vmsvc/device.diskremove", "1", "0", "3", "0") == ""
    assert "key = 2003," not in lab.vim("vmsvc/device.getdevices", "1")
    assert "more.vmdk" in lab.names()


def test_the_file_layout_lists_every_file_with_its_type_and_the_snapshots_disks(bench: Make) -> None:
    lab = bench([running()])
    lab.vim("vmsvc/snapshot.create", "1", "s", "", "1")
    text = lab.vim("vmsvc/get.filelayoutex", "1")
    assert text.startswith("(vim.vm.FileLayoutEx) {\n   file = (vim.vm.FileLayoutEx.FileInfo) [\n")
    types = dict(re.findall(r'name = "\[datastore1\] web/(.*?)", \n +type = "(.*?)"', text))
    assert {types[name] for name in ("web.vmx", "web.vmsd", "web-flat.vmdk")} == {
        "config",
        "snapshotList",
        "diskExtent",
    }
    assert {"nvram", "snapshotData", "snapshotMemory", "diskDescriptor", "log", "swap", "uwswap"} <= set(types.values())
    assert set(types) == {name for name in lab.names() if not name.endswith(".lck")}
    assert "snapshot = (vim.vm.FileLayoutEx.SnapshotLayout) [" in text
    assert "key = 'vim.vm.Snapshot:1-snapshot-1'" in text
    old = lab.vim("vmsvc/get.filelayout", "1")
    assert "web.vmdk" in old
    assert "flat" not in old


def test_the_guest_of_7_0_has_the_recorded_lines_and_its_address_at_three_blanks(bench: Make) -> None:
    lab = bench([running()])
    text = lab.vim("vmsvc/get.guest", "1")
    assert text.startswith('Guest information:\n\n(vim.vm.GuestInfo) {\n   toolsStatus = "toolsOk", \n')
    for line in (
        '   toolsRunningStatus = "guestToolsRunning", ',
        "   toolsUpdateStatus = (vim.vm.GuestInfo.ToolsUpdateStatus) null, ",
        '   guestState = "running", ',
        "   toolsHealthEvents = <unset>, ",
        '      customizationStatus = "TOOLSDEPLOYPKG_IDLE", ',
    ):
        assert f"\n{line}\n" in text
    assert re.search(r'^   ipAddress = "\d+\.', text, re.MULTILINE)
    assert "toolsNotRunning" not in text
    lab.vim("vmsvc/power.off", "1")
    assert 'toolsStatus = "toolsNotRunning"' in lab.vim("vmsvc/get.guest", "1")


def test_older_releases_do_not_know_of_the_customization_of_a_guest(bench: Make) -> None:
    assert "customization" not in bench([off()], profile="6.7").vim("vmsvc/get.guest", "1")


def test_the_datastores_of_a_vm_are_padded_columns(bench: Make) -> None:
    lab = bench([off(disks=[disk("scsi0:0"), disk("scsi0:1", datastore="old")])])
    lines = lab.vim("vmsvc/get.datastores", "1").splitlines()
    assert [line[:21].rstrip() for line in lines] == [
        "name", "url", "capacity", "freeSpace", "accessible", "type", "multipleHostAccess"
    ]  # fmt: skip
    assert lines[0][21:].split() == ["datastore1", "old"]
    assert lines[0].startswith("name                 datastore1 ")


# --- snapshots and tasks ------------------------------------------------------------------------------------------


def test_a_name_alone_makes_a_snapshot_and_each_command_says_its_line(bench: Make) -> None:
    lab = bench([off()])
    assert lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n"
    for name in ("one", "two"):
        assert lab.vim("vmsvc/snapshot.create", "1", name) == "Create Snapshot:\n"
    tree = lab.vim("vmsvc/snapshot.get", "1").partition("\n")[2]
    names = [line for line in tree.splitlines() if "Snapshot Name" in line]
    assert names == ["--Snapshot Name        : one", "----Snapshot Name        : two"]
    after = tree.splitlines()
    # A script finds the id on the line that follows the name.
    assert after[after.index(names[0]) + 1] == "--Snapshot Id        : 1"
    removed = lab.vim("vmsvc/snapshot.remove", "1", "2")
    assert removed.startswith("Remove Snapshot:\n|-ROOT\n")
    assert removed.count("|-") == 1
    reverted = lab.vim("vmsvc/snapshot.revert", "1", "1", "suppressPowerOn")
    assert reverted.startswith("Revert Snapshot:\n|-ROOT\n")
    assert lab.vim("vmsvc/snapshot.removeall", "1") == "Remove All Snapshots:\n"
    assert lab.vim("vmsvc/snapshot.get", "1") == "Get Snapshot:\n"


def test_children_go_with_their_snapshot_when_that_is_asked(bench: Make) -> None:
    lab = bench([off()])
    for name in ("one", "two", "three"):
        lab.vim("vmsvc/snapshot.create", "1", name)
    assert lab.vim("vmsvc/snapshot.remove", "1", "2", "1").count("|-") == 1


def test_the_times_of_get_are_not_padded_and_those_of_snapshotinfo_are_iso(bench: Make) -> None:
    lab = bench([off()])
    lab.vim("vmsvc/snapshot.create", "1", "s")
    found = lab.host.vm("1").snapshots().snapshots[0].created
    stamp = f"{found.month}/{found.day}/{found.year} {found.hour}:{found.minute}:{found.second}"
    assert f"--Snapshot Created On  : {stamp}\n" in lab.vim("vmsvc/snapshot.get", "1")
    info = lab.vim("vmsvc/get.snapshotinfo", "1")
    assert re.search(r'createTime = "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"', info)
    assert "currentSnapshot = 'vim.vm.Snapshot:1-snapshot-1'" in info


def test_a_second_snapshot_of_an_unchanged_suspended_vm_fails_with_its_reason_in_the_task(bench: Make) -> None:
    lab = bench([running()])
    lab.vim("vmsvc/power.suspend", "1")
    lab.vim("vmsvc/snapshot.create", "1", "one")
    assert failed(lab, "vmsvc/snapshot.create", "1", "two") == "Create Snapshot:\nCreate snapshot failed\n"
    key = re.findall(r"'vim.Task:(.*?)'", lab.vim("vmsvc/get.tasklist", "1"))[-1]
    assert "Snapshot not taken since the state of the virtual machine has not changed" in lab.vim(
        "vimsvc/task_info", key
    )


def test_tasks_are_named_after_vm_and_operation_and_a_bare_number_is_none(bench: Make) -> None:
    lab = bench([off()])
    lab.vim("vmsvc/snapshot.create", "1", "s")
    listed = lab.vim("vmsvc/get.tasklist", "1")
    (key,) = re.findall(r"'vim.Task:(haTask-1-vim.VirtualMachine.createSnapshot-(?:\d+))'", listed)
    dump = lab.vim("vimsvc/task_info", key)
    assert 'state = "success"' in dump
    assert f"task = 'vim.Task:{key}'" in dump
    assert key in lab.vim("vimsvc/task_list")
    text = failed(lab, "vimsvc/task_info", key.rpartition("-")[2])
    assert text.startswith("(vmodl.fault.ManagedObjectNotFound) {\n")
    assert f"obj = 'vim.Task:{key.rpartition('-')[2]}'" in text


def test_a_second_operation_is_refused_as_in_progress(bench: Make) -> None:
    lab = bench([off()])
    task = lab.host.vm("1").begin("createSnapshot")
    try:
        assert failed(lab, "vmsvc/snapshot.removeall", "1") == "Remove All Snapshots:\nRemove all snapshots failed\n"
    finally:
        lab.host.vm("1").end(task)


# --- inventory and questions --------------------------------------------------------------------------------------


def test_registering_twice_or_nothing_is_a_fault(bench: Make) -> None:
    lab = bench([off()])
    path = "/vmfs/volumes/datastore1/web/web.vmx"
    text = failed(lab, "solo/registervm", path)
    assert text.startswith("(vim.fault.AlreadyExists) {\n")
    assert '   name = "1"\n' in text
    assert "The specified key, name, or identifier '1' already exists." in text
    text = failed(lab, "solo/registervm", "/vmfs/volumes/datastore1/none/none.vmx")
    assert 'msg = "The object or item referred to could not be found."' in text


def test_the_inventory_file_has_the_shape_that_tools_read(bench: Make) -> None:
    lab = bench([off()])
    text = (lab.host.root / "etc/vmware/hostd/vmInventory.xml").read_text()
    uuid = lab.host.volumes.all[0].uuid
    entry = re.sub(r"\s+", "", text)
    assert '<ConfigEntryid="0000"><objID>1</objID><secDomain>7</secDomain>' in entry
    assert f"<vmxCfgPath>/vmfs/volumes/{uuid}/web/web.vmx</vmxCfgPath></ConfigEntry>" in entry


def test_a_reload_reads_the_edited_file_and_is_refused_while_the_vm_runs(bench: Make) -> None:
    lab = bench([off()])
    vmx = lab.folder() / "web.vmx"
    vmx.write_text(vmx.read_text().replace('displayName = "web"', 'displayName = "other"'))
    assert "1      web " in lab.vim("vmsvc/getallvms")
    assert lab.vim("vmsvc/reload", "1") == ""
    assert "1      other" in lab.vim("vmsvc/getallvms")
    lab.vim("vmsvc/power.on", "1")
    assert failed(lab, "vmsvc/reload", "1").startswith("(vim.fault.InvalidPowerState) {\n")


def test_no_question_is_said_so(bench: Make) -> None:
    assert bench([off()]).vim("vmsvc/message", "1") == "No message.\n"
