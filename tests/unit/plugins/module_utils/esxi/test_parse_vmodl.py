# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_vmodl import (
    Dump,
    VmodlError,
    find_dumps,
    parse_dump,
)
from hypothesis import given
from hypothesis import strategies as st

DATA = Path(__file__).parent / "data"


def read(name: str) -> Dump:
    return parse_dump((DATA / name).read_text())


def test_a_summary_of_4_1_with_a_comma_after_every_field():
    summary = read("get.summary-4.1.txt")
    assert summary.type == "vim.vm.Summary"
    assert summary.get("runtime.powerState") == "poweredOn"
    assert summary.get("runtime.question") is None
    assert summary.get("config.template") is False
    assert summary.text("config.vmPathName") == "[nfs-datastore] vm-ark-mcnc-9_234-v12/vm-ark-mcnc-9_234-v12.vmx"
    assert summary.get("storage.committed") == 4408509391
    assert summary.get("vm") == "vim.VirtualMachine:496"
    assert summary.text("config.annotation") == "" and summary.get("overallStatus") == "green"


def test_devices_of_6_7_with_nested_arrays_and_commas_between_fields():
    devices = read("device.getdevices-6.7.txt").items("device")
    assert [device.name for device in devices] == ["VirtualLsiLogicSASController", "VirtualDisk"]
    controller, disk = devices
    assert controller.get("device") == [2000] and controller.get("scsiCtlrUnitNumber") == 7
    assert disk.get("backing.fileName") == "[datastore1] ate-tester1/ate-tester1.vmdk"
    assert disk.get("backing.eagerlyScrub") is None and disk.get("backing.sharing") == "sharingNone"
    assert disk.get("capacityInBytes") == 214748364800 and disk.get("storageIOAllocation.limit") == -1


def test_a_comma_followed_by_a_blank_and_an_empty_optional_array_at_the_end():
    guest = read("get.guest-7.0u3.txt")
    assert guest.text("toolsRunningStatus") == "guestToolsRunning" and guest.get("toolsUpdateStatus") is None
    text = "(vim.X) {\n   busNumber = 0, \n}\n"
    assert parse_dump(text).get("busNumber") == 0


def test_arrays_of_objects_references_and_nothing():
    stores = read("datastore-listsummary-4.1.txt")
    assert [store.text("name") for store in stores] == ["local-datastore", "nfs-datastore"]
    assert stores[0].get("freeSpace") == 26277314560
    tasks = (
        "(ManagedObjectReference) [\n   'vim.Task:haTask-512-vim.VirtualMachine.powerOn-2826',\n   'vim.Task:b'\n]\n"
    )
    assert parse_dump(tasks) == ["vim.Task:haTask-512-vim.VirtualMachine.powerOn-2826", "vim.Task:b"]
    assert parse_dump("(ManagedObjectReference) []\n") == []


def test_quotes_inside_of_a_text_are_not_its_end():
    text = '(vim.fault.NotFound) {\n   msg = "Unable to find a VM corresponding to "16"",\n}\n'
    assert parse_dump(text).text("msg") == 'Unable to find a VM corresponding to "16"'


def test_a_text_of_several_lines_is_one_value():
    text = (
        "(vim.vm.Summary) {\n"
        "   config = (vim.vm.Summary.ConfigSummary) {\n"
        '      annotation = "first "line"\n'
        "\n"
        "   }\n"
        '   indented", and more\n'
        'last "word"", \n'
        "      product = (vim.vApp.ProductInfo) null\n"
        "   }, \n"
        '   overallStatus = "green"\n'
        "}\n"
    )
    summary = parse_dump(text)
    assert summary.text("config.annotation") == 'first "line"\n\n   }\n   indented", and more\nlast "word"'
    assert summary.text("overallStatus") == "green"


def test_a_note_that_imitates_fields_cannot_change_those_before_it():
    text = (
        "(vim.vm.Summary) {\n"
        '   powerState = "poweredOn", \n'
        '   annotation = "x", \n'
        '   powerState = "poweredOff", \n'
        '   note = "y", \n'
        "}\n"
    )
    assert parse_dump(text).text("powerState") == "poweredOn"


def test_a_fault_is_found_behind_the_line_of_the_command():
    faults = list(find_dumps((DATA / "fault-invalid-power-state-4.1.txt").read_text()))
    assert [fault.name for fault in faults] == ["InvalidPowerState"]
    assert faults[0].text("msg").endswith("(Powered On).") and faults[0].get("faultCause") is None


def test_a_task_with_its_error():
    task = read("task_info-4.1.txt")
    assert (task.text("state"), task.get("error.msg")) == ("error", "The task was canceled by a user.")


@pytest.mark.parametrize(
    "text", ["", "Listsummary:\n", "<unset>\n", "(vim.X) {\n   a = 1,\n", '(vim.X) {\n   a = "b\n']
)
def test_what_is_no_dump_or_is_cut_is_an_error(text):
    with pytest.raises(VmodlError):
        parse_dump(text)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_any_text_of_one_line_comes_back(value):
    text = f'(vim.X) {{\n   before = 1, \n   name = "{value}", \n   after = 2\n}}\n'
    dump = parse_dump(text)
    assert dump.get("before") == 1 and dump.get("after") == 2
    assert dump.text("name") == value


@given(st.text(max_size=400))
def test_no_text_makes_the_parser_fail_in_another_way(text):
    with contextlib.suppress(VmodlError):
        list(find_dumps("(vim.X) {\n" + text))
