# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import (
    datastores_of,
    split_datastore_path,
    split_volume_path,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_esxcli import (
    parse_filesystems,
    parse_table,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.releases import hardware_version_max, parse_version

DATA = Path(__file__).parent / "data"


def test_filesystems_of_8_0_2_are_cut_at_the_dashes():
    rows = parse_filesystems((DATA / "filesystem-list-8.0.2.txt").read_text())
    assert [(row.name, row.type) for row in rows][1:3] == [
        ("DS132_DS04_SATA_2TB", "VMFS-6"),
        ("OSDATA-6a91690d-eac44959-2d46-001b21e7d76e", "VMFSOS"),
    ]
    assert (rows[0].capacity_bytes, rows[0].free_bytes, rows[0].mounted) == (999922073600, 591568830464, True)
    assert [store.name for store in datastores_of(rows)] == ["DS132_DS01_SATA_1TB", "DS132_DS04_SATA_2TB"]


def test_an_empty_cell_and_a_cell_with_blanks_stay_in_their_columns():
    text = (
        "Mount Point                                        Volume Name  UUID  Mounted  Type    Size  Free\n"
        "-------------------------------------------------  -----------  ----  -------  ------  ----  ----\n"
        "/vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c24               a        true  VMFS-6    10     5\n"
        "/vmfs/volumes/600d9cc6-915fbb51-f64b-d8d385d87c25  my data  1   b       false  NFS       10     5\n"
    )
    first, second = parse_filesystems(text)
    assert first.name == "" and first.uuid == "a" and first.mounted
    assert second.name == "my data  1" and not second.mounted
    assert datastores_of((first, second)) == (), "without a name, and not mounted"


def test_a_name_counted_in_bytes_by_the_host_is_cut_right():
    rows = [("Volume Name", "Type"), ("------------", "----"), ("dätä".ljust(12 - 2), "NFS")]
    text = "\n".join(f"{name:<12}  {kind}" if "ä" not in name else f"{name}  {kind}" for name, kind in rows)
    assert parse_table(text) == [{"Volume Name": "dätä", "Type": "NFS"}]


def test_nfs_list():
    rows = parse_table((DATA / "nfs-list-8.0.txt").read_text())
    assert [row["Volume Name"] for row in rows] == ["nfs2", "192.168.2.203_nvme_nfs", "media"]
    assert rows[0]["Hardware Acceleration"] == "Not Supported" and rows[0]["Read-Only"] == "false"


def test_text_without_a_table_has_no_rows():
    assert parse_table("Error: Unknown command\n") == []


@pytest.mark.parametrize(
    ("text", "numbers", "build", "hardware"),
    [
        ("VMware ESXi 8.0.2 build-22380479\n", (8, 0, 2), "22380479", 21),
        ("VMware ESXi 6.5.0 build-13932383\nVMware ESXi 6.5.0 Update 3\n", (6, 5, 0), "13932383", 13),
        ("VMware ESXi 6.7.0 build-8169922\n", (6, 7, 0), "8169922", 14),
        ("VMware ESXi 6.7.0 build-15018017\n", (6, 7, 0), "15018017", 15),
        ("VMware ESXi 7.0.3 build-19482537\n", (7, 0, 3), "19482537", 19),
        ("VMware ESXi 9.0.1.0100 build-1\n", (9, 0, 1, 100), "1", 22),
        ("VMware ESXi 10.0.0 build-1\n", (10, 0, 0), "1", None),
    ],
)
def test_versions_have_any_number_of_parts(text, numbers, build, hardware):
    version = parse_version(text)
    assert version is not None and (version.numbers, version.build) == (numbers, build)
    assert hardware_version_max(version) == hardware


def test_what_is_no_version_is_none():
    assert parse_version("-sh: vmware: not found\n") is None


def test_the_two_forms_of_a_path():
    assert split_datastore_path("[my ds] a b/c.vmx") == ("my ds", "a b/c.vmx")
    assert split_datastore_path("/vmfs/volumes/x") is None
    assert split_volume_path("/vmfs/volumes/my ds/../my ds/a/b.vmx") == ("my ds", "a/b.vmx")
    assert split_volume_path("/etc/passwd") is None and split_volume_path("/vmfs/volumes/../x") is None
