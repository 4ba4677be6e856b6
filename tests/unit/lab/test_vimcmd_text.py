# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the simulated commands print is what real hosts print, byte for byte."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

from esxilab.hostd.errors import InvalidPowerState, NoSuchVm, RequestCanceled, ToolsUnavailable
from esxilab.hostd.profiles import PROFILES
from esxilab.hostd.tasks import Task
from esxilab.hostd.vmodl import NOTHING, UNSET, Arr, FaultObj, Null, Obj, Printer, Ref
from esxilab.hostd.vmsd import Snapshot, SnapshotDict, parse_vmsd
from esxilab.tools.tables import machine, table
from esxilab.tools.vimcmd_vmsvc import task_dump
from esxilab.tools.vmlist import getallvms, snapshot_tree

TRANSCRIPTS = Path(__file__).parent / "transcripts"
MODERN, CLASSIC = Printer(), Printer(classic=True)
UTC = timezone.utc  # noqa: UP017 - datetime.UTC needs 3.11


def transcript(name: str) -> str:
    return (TRANSCRIPTS / name).read_text(encoding="utf-8")


def test_getallvms_of_8_0_is_the_transcript() -> None:
    solaris, linux = "solaris11_64Guest", "otherLinuxGuest"
    rows = [
        ("5", "dummy delay", "[local_datastore] dummy delay/dummy delay.vmx", linux, "vmx-20", ""),
        ("8", "omnisan-203", "[local_datastore] omnisan/omnisan.vmx", solaris, "vmx-20", ""),
        (
            "10",
            "_solaris11.4cbe.50",
            "[192.168.2.203_nvme_nfs] solaris11.4cbe/solaris11.4cbe.vmx",
            solaris,
            "vmx-19",
            "",
        ),
        ("25", "test.sbb.47", "[nfs2] test/test.vmx", solaris, "vmx-14", ""),
        ("9", "left out", "[x] y/y.vmx", "windows9Server64Guest".ljust(22, "x"), "vmx-19", ""),
    ]
    printed = [line for line in getallvms(rows).splitlines(keepends=True) if not line.startswith("9 ")]
    assert "".join(printed) == transcript("getallvms-8.0.txt")


def test_getallvms_of_6_5_is_the_transcript_without_its_stripped_blanks() -> None:
    names = {"1": "ubuntu-desktop", "11": "ubuntu-server-1710", "2": "ubuntu-server"}
    rows = [(vmid, name, f"[HDD] {name}/{name}.vmx", "ubuntu64Guest", "vmx-13", "") for vmid, name in names.items()]
    rows.insert(0, ("3", "windows-7", "[HDD] windows-7/windows-7.vmx", "windows7_64Guest", "vmx-13", ""))
    printed = "".join(line.rstrip() + "\n" for line in getallvms(rows).splitlines())
    assert printed == transcript("getallvms-6.5.txt")


def test_getallvms_without_vms_is_the_header_alone() -> None:
    assert getallvms([]) == "Vmid   Name   File   Guest OS   Version   Annotation\n"


def test_an_annotation_is_printed_raw_and_its_whole_length_widens_the_header() -> None:
    note = "First line\n\n   indented\n12 digits"
    printed = getallvms([("1", "a", "[d] a/a.vmx", "g", "vmx-14", note)])
    header, rest = printed.split("\n", 1)
    assert rest == f"1      a      [d] a/a.vmx   g          vmx-14    {note}\n"
    assert header.endswith("Annotation".center(len(note)).rstrip() + " " * (len(note) - 10 - (len(note) - 10) // 2))


def test_the_snapshot_tree_of_8_0_is_the_transcript() -> None:
    first = Snapshot(14, "test", "", datetime(2023, 4, 12, 16, 12, 54, tzinfo=UTC), "x.vmsn", memory=True)
    second = Snapshot(
        15, "cs4s-x-5", "cs-freeze4snap", datetime(2021, 5, 9, 23, 50, 0, tzinfo=UTC), "y.vmsn", parent=14
    )
    tree = snapshot_tree(SnapshotDict(15, 15, [first, second]))
    assert "Get Snapshot:\n" + tree == transcript("snapshot-get-8.0.txt")


def test_branches_and_several_roots_repeat_their_markers() -> None:
    made = [Snapshot(uid, f"s{uid}", "", datetime(2024, 1, 2, tzinfo=UTC), "f") for uid in (1, 2, 3, 4)]
    made[1].parent = made[2].parent = 1
    markers = [line for line in snapshot_tree(SnapshotDict(4, 4, made)).splitlines() if "|-" in line]
    assert markers == ["|-ROOT", "--|-CHILD", "--|-CHILD", "|-ROOT"]


def test_the_device_dump_of_6_7_is_the_transcript() -> None:
    controller = Obj(
        "vim.vm.device.VirtualLsiLogicSASController",
        [
            ("key", 1000),
            ("deviceInfo", Obj("vim.Description", [("label", "SCSI controller 0"), ("summary", "LSI Logic SAS")])),
            ("backing", Null("vim.vm.device.VirtualDevice.BackingInfo")),
            ("connectable", Null("vim.vm.device.VirtualDevice.ConnectInfo")),
            ("slotInfo", Obj("vim.vm.device.VirtualDevice.PciBusSlotInfo", [("pciSlotNumber", 160)])),
            ("controllerKey", 100),
            ("unitNumber", 3),
            ("busNumber", 0),
            ("device", Arr("int", [2000])),
            ("hotAddRemove", True),
            ("sharedBus", "noSharing"),
            ("scsiCtlrUnitNumber", 7),
        ],
    )
    hardware = Obj(
        "vim.vm.VirtualHardware",
        [
            ("numCPU", 2),
            ("numCoresPerSocket", 1),
            ("memoryMB", 3072),
            ("virtualICH7MPresent", False),
            ("virtualSMCPresent", False),
            ("device", Arr("vim.vm.device.VirtualDevice", [controller, Obj("x", [("y", 1)])])),
        ],
    )
    printed = re.sub(" +\n", "\n", "Devices:\n\n" + MODERN.text(hardware))
    wanted = transcript("getdevices-6.7.txt")
    end = "      (vim.vm.device.VirtualDisk) {\n"
    assert printed.split("      (x) {")[0] == wanted.split(end)[0]


def test_an_empty_optional_array_prints_nothing_and_the_comma_before_it_stays() -> None:
    assert MODERN.text(Obj("a", [("busNumber", 0), ("device", NOTHING)])) == "(a) {\n   busNumber = 0, \n}\n"


def test_commas_of_6_5_and_later_are_followed_by_one_blank_and_stand_between_fields_only() -> None:
    assert MODERN.text(Obj("a", [("b", UNSET), ("c", False)])) == "(a) {\n   b = <unset>, \n   c = false\n}\n"


def test_the_power_fault_of_4_1_is_the_transcript() -> None:
    fault = InvalidPowerState("poweredOn", "poweredOn").dump()
    # 4.1 wrote "On" with a capital; the releases that the lab plays are taken from the later samples.
    wanted = transcript("fault-power-4.1.txt").replace("(Powered On)", "(Powered on)")
    assert CLASSIC.text(fault) == wanted


def test_a_fault_of_6_5_and_later_ends_in_its_message_without_a_comma_before_it() -> None:
    assert MODERN.text(ToolsUnavailable().dump()) == (
        "(vim.fault.ToolsUnavailable) {\n"
        "   faultCause = (vmodl.MethodFault) null, \n"
        "   faultMessage = <unset>\n"
        '   msg = "Cannot complete operation because VMware Tools is not running in this virtual machine."\n'
        "}\n"
    )


def test_quotes_inside_a_message_are_not_escaped() -> None:
    assert 'msg = "Unable to find a VM corresponding to "16""' in MODERN.text(NoSuchVm("16").dump())


def test_a_list_of_tasks_is_the_transcript_and_an_empty_one_is_a_pair_of_brackets() -> None:
    refs = [Ref(f"vim.Task:haTask-512-vim.VirtualMachine.powerOn-{n}") for n in (2826, 2843, 2856)]
    first = transcript("tasklist-4.1.txt")
    assert MODERN.text(Arr("ManagedObjectReference", refs)) == first
    assert MODERN.text(Arr("ManagedObjectReference")) == "(ManagedObjectReference) []\n"


def test_the_task_information_of_4_1_is_the_transcript() -> None:
    def moment(text: str) -> datetime:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)

    name = "vm-ark-mcnc-9 (nonpersistent: vmwarewinxp-base234-v12)"
    task = Task("496", "vim.VirtualMachine", name, "powerOn", 3072, moment("2010-06-30T08:48:44.187347Z"))
    task.started, task.completed = task.queued, moment("2010-06-30T08:49:26.381383Z")
    task.state, task.progress, task.error = "error", 100, RequestCanceled()
    assert CLASSIC.text(task_dump(task)) == transcript("task-info-4.1.txt")


def test_the_datastore_summaries_of_4_1_are_the_transcript() -> None:
    summary = Obj(
        "vim.Datastore.Summary",
        [
            ("datastore", Ref("vim.Datastore:4bcf0efe-c426acc4-c7e1-001a644d1cc0")),
            ("name", "local-datastore"),
            ("url", "/vmfs/volumes/4bcf0efe-c426acc4-c7e1-001a644d1cc0"),
            ("capacity", 31138512896),
            ("freeSpace", 26277314560),
            ("uncommitted", 0),
            ("accessible", True),
            ("multipleHostAccess", UNSET),
            ("type", "VMFS"),
        ],
    )
    printed = CLASSIC.text(Arr("vim.Datastore.Summary", [summary]))
    wanted = transcript("listsummary-4.1.txt")
    second = wanted.index("   (vim.Datastore.Summary) {", wanted.index("VMFS"))
    assert printed == wanted[:second] + "]\n"


def test_the_file_system_list_of_8_0_is_the_transcript() -> None:
    columns = ("Mount Point", "Volume Name", "UUID", "Mounted", "Type", "Size", "Free")
    wanted = [
        ("600d9cc6-915fbb51-f64b-d8d385d87c24", "DS132_DS01_SATA_1TB", "VMFS-6", 999922073600, 591568830464),
        ("6a11caec-c7e247f8-6325-40a8f055c48c", "DS132_DS04_SATA_2TB", "VMFS-6", 2000112582656, 1224298463232),
        ("6a91690d-eac44959-2d46-001b21e7d76e", "OSDATA-6a91690d-eac44959-2d46-001b21e7d76e", "VMFSOS", 128580583424,
         124127281152),
        ("b67455de-254faef7-f8ae-2f039b5dad25", "BOOTBANK1", "vfat", 4293591040, 3996778496),
    ]  # fmt: skip
    rows = [
        dict(zip(columns, (f"/vmfs/volumes/{uuid}", name, uuid, True, kind, size, free)))
        for uuid, name, kind, size, free in wanted
    ]
    assert table(rows, columns) == transcript("filesystem-list-8.0.txt")


def test_the_nfs_list_of_8_0_is_the_transcript() -> None:
    columns = ("Volume Name", "Host", "Share", "Accessible", "Mounted", "Read-Only", "isPE", "Hardware Acceleration")
    shares = {"nfs2": "/daten1/nfs", "192.168.2.203_nvme_nfs": "/nvme/nfs", "media": "/daten1/media"}
    rows = [
        dict(zip(columns, (name, "192.168.2.203", share, True, True, False, False, "Not Supported")))
        for name, share in shares.items()
    ]
    assert table(rows, columns) == transcript("nfs-list-8.0.txt")


def test_csv_rows_end_in_a_comma() -> None:
    text = machine([{"World ID": 7, "Name": 'a "b", c'}], ("World ID", "Name"), "csv", False)
    assert text == 'Name,WorldID,\n"a ""b"", c",7,\n'


def test_a_vmsd_that_vmware_wrote_comes_back_as_it_was() -> None:
    text = (
        '.encoding = "UTF-8"\nsnapshot.lastUID = "4"\nsnapshot.current = "4"\n'
        'snapshot0.uid = "1"\nsnapshot0.filename = "test flo-Snapshot1.vmsn"\n'
        'snapshot0.displayName = "SNAPSHOT POST INSTALL"\nsnapshot0.description = "blablabla"\n'
        'snapshot0.createTimeHigh = "388745"\nsnapshot0.createTimeLow = "1991180826"\nsnapshot0.numDisks = "1"\n'
        'snapshot0.disk0.fileName = "test flo_0.vmdk"\nsnapshot0.disk0.node = "scsi0:0"\n'
        'snapshot.numSnapshots = "2"\n'
        'snapshot1.uid = "2"\nsnapshot1.filename = "test flo-Snapshot2.vmsn"\nsnapshot1.parent = "1"\n'
        'snapshot1.displayName = "SECOND"\nsnapshot1.createTimeHigh = "388801"\n'
        'snapshot1.createTimeLow = "-814770620"\nsnapshot1.numDisks = "1"\n'
        'snapshot1.disk0.fileName = "test flo_0-000001.vmdk"\nsnapshot1.disk0.node = "scsi0:0"\n'
    )
    found = parse_vmsd(text)
    assert found.snapshots[0].created.strftime("%Y-%m") == "2022-11"
    assert found.render() == text


def test_the_vmsd_after_the_last_removal_has_43_bytes() -> None:
    assert len(SnapshotDict(last_uid=1).render()) == 43


def test_every_release_names_itself_as_ghettovcb_reads_it() -> None:
    for key in ("6.7", "7.0", "8.0"):
        words = PROFILES[key].full_name.split()
        assert words[:2] == ["VMware", "ESXi"]
        assert words[2].startswith(key)
        assert words[3].startswith("build-")


def test_a_fault_object_inside_a_dump_is_indented_like_any_object() -> None:
    printed = MODERN.text(Obj("t", [("error", FaultObj("f", "m")), ("x", 1)]))
    assert printed == (
        "(t) {\n   error = (f) {\n      faultCause = (vmodl.MethodFault) null, \n      faultMessage = <unset>\n"
        '      msg = "m"\n   }, \n   x = 1\n}\n'
    )
