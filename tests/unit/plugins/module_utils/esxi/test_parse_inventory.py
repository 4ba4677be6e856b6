# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_inventory import (
    parse_getallvms,
    parse_invalid_vmids,
    parse_registered_vmid,
    parse_vm_inventory,
    unparsed_rows,
)

DATA = Path(__file__).parent / "data"
HEADERS = ("Vmid", "Name", "File", "Guest OS", "Version", "Annotation")


def read(name: str):
    return parse_getallvms((DATA / name).read_text())


def listing(*rows: tuple[str, str, str, str, str, str]) -> str:
    """As hostd prints it: centred headers, columns as wide as their widest cell, three blanks between."""
    widths = [max(len(header), *(len(row[n]) for row in rows)) for n, header in enumerate(HEADERS)]
    centred = [" " * ((w - len(h)) // 2) + h + " " * (w - len(h) - (w - len(h)) // 2) for h, w in zip(HEADERS, widths)]
    lines = ["   ".join(centred)]
    lines += ["   ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(lines) + "\n"


def test_rows_of_8_0_with_names_that_hold_blanks_and_dots():
    rows = read("getallvms-8.0.txt")
    assert [(row.vmid, row.name) for row in rows] == [
        (10, "_solaris11.4cbe.50"),
        (25, "test.sbb.47"),
        (5, "dummy delay"),
        (8, "omnisan-203"),
    ]
    assert (rows[2].datastore, rows[2].path) == ("local_datastore", "dummy delay/dummy delay.vmx")
    assert (rows[0].guest, rows[0].version, rows[0].annotation) == ("solaris11_64Guest", "vmx-19", "")


def test_a_note_of_several_lines_belongs_to_its_row():
    rows = read("getallvms-7.0u3-annotations.txt")
    assert [row.vmid for row in rows] == [10, 12, 13]
    assert rows[1].annotation.split("\n")[0] == "First line of a note that an appliance image ships with."
    assert rows[1].annotation.endswith("another line") and "A second paragraph" in rows[1].annotation


def test_4_1_with_one_blank_between_columns_and_brackets_in_a_name():
    (row,) = read("getallvms-4.1.txt")
    assert row.name == "vm-ark-mcnc-9 (nonpersistent: vmwarewinxp-base234-v12)" and row.datastore == "nfs-datastore"


def test_invalid_vms_are_told_on_the_error_stream():
    assert parse_invalid_vmids((DATA / "getallvms-6.5-invalid.stderr.txt").read_text()) == (6,)
    assert [row.vmid for row in read("getallvms-6.5-invalid.txt")] == [1, 11, 2, 3]


def test_no_vm_is_a_heading_alone():
    assert parse_getallvms("Vmid   Name   File   Guest OS   Version   Annotation\n") == ()


@pytest.mark.parametrize(
    "name",
    [
        "a [old] x",
        "[ds9] evil/evil.vmx",
        "a   [ds9] e/e.vmx   otherGuest   vmx-13",
        "two   blanks    three",
        "$(reboot) `id` '\" ; rm -rf /",
        "-rf",
        "77",
    ],
)
def test_a_name_that_looks_like_a_row_stays_a_name(name):
    plain = ("2", "plain", "[ds1] plain/plain.vmx", "centos64Guest", "vmx-13", "")
    rows = parse_getallvms(listing(("1", name, "[ds1] a b/c [1].vmx", "otherGuest", "vmx-14", "n"), plain))
    assert [(row.vmid, row.name, row.datastore, row.path) for row in rows] == [
        (1, name, "ds1", "a b/c [1].vmx"),
        (2, "plain", "ds1", "plain/plain.vmx"),
    ]


def test_a_note_that_holds_a_row_in_its_own_line_is_no_second_vm():
    rows = parse_getallvms(listing(("1", "a", "[d] a/a.vmx", "g", "vmx-14", "see [x] y/y.vmx   g   vmx-13")))
    assert [(row.vmid, row.datastore, row.annotation) for row in rows] == [(1, "d", "see [x] y/y.vmx   g   vmx-13")]


def test_the_inventory_file_gives_exact_paths():
    text = (
        '<ConfigRoot>\n  <ConfigEntry id="0002">\n    <objID>11</objID>\n    <secDomain>17</secDomain>\n'
        "    <vmxCfgPath>/vmfs/volumes/5e0026d9-a647150e/a &amp; b/x.vmx</vmxCfgPath>\n"
        "  </ConfigEntry>\n</ConfigRoot>\n"
    )
    assert parse_vm_inventory(text) == {11: "/vmfs/volumes/5e0026d9-a647150e/a & b/x.vmx"}


@pytest.mark.parametrize("text", ["", "<ConfigRoot>", '<!DOCTYPE a [<!ENTITY b "c">]><ConfigRoot/>', "not xml"])
def test_a_damaged_inventory_file_gives_nothing(text):
    assert parse_vm_inventory(text) == {}


def test_the_id_of_a_new_registration():
    assert parse_registered_vmid("35\n") == 35
    assert parse_registered_vmid("") is None


def test_a_template_is_a_row_like_any_other() -> None:
    text = (
        "Vmid     Name                     File                        Guest OS        Version   Annotation\n"
        "8      template   [datastore1] template/template.vmtx   debian10_64Guest   vmx-14              \n"
    )
    (row,) = parse_getallvms(text)
    assert (row.vmid, row.path) == (8, "template/template.vmtx")


def test_a_row_that_cannot_be_read_is_kept_where_its_id_is_known_from_elsewhere() -> None:
    header = "Vmid   Name   File   Guest OS   Version   Annotation"
    text = f"{header}\n4      x      [st[x]ore] x/x.vmx   otherGuest   vmx-14   \n"
    assert parse_getallvms(text) == ()
    assert [row.vmid for row in unparsed_rows(text, {4, 5})] == [4]
    assert unparsed_rows(text, {5}) == ()
