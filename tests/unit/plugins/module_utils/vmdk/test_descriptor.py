# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import Extent, parse_descriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import NotADescriptor

DATA = Path(__file__).parent / "data"


def read(name: str):
    return parse_descriptor((DATA / name).read_text(), f"/vmfs/volumes/ds/{name}")


def test_a_thin_base_has_its_capacity_and_no_parent():
    base = read("base-thin-8.0u1.vmdk")
    assert base.capacity_bytes == 167772160 * 512
    assert base.extents == (Extent("RW", 167772160, "VMFS", "vm1-flat.vmdk"),)
    assert (base.kind, base.thin, base.is_delta, base.cid) == ("flat", True, False, "00000001")
    assert base.ddb["ddb.adapterType"] == "lsilogic"


@pytest.mark.parametrize(
    ("name", "kind", "parent", "parent_cid"),
    [
        ("delta-vmfssparse-5.0.vmdk", "vmfssparse", "vps.vmdk", "79229daf"),
        ("delta-sesparse.vmdk", "sesparse", "Base_R91.vmdk", "3729b687"),
    ],
)
def test_a_delta_names_its_parent_and_the_content_it_was_made_on(name, kind, parent, parent_cid):
    delta = read(name)
    assert (delta.kind, delta.is_delta, delta.parent_hint, delta.parent_cid) == (kind, True, parent, parent_cid)


@pytest.mark.parametrize("name", ["base-thin-8.0u1.vmdk", "delta-vmfssparse-5.0.vmdk", "delta-sesparse.vmdk"])
def test_rendering_loses_nothing(name):
    descriptor = read(name)
    assert parse_descriptor(descriptor.render(), name) == descriptor


def test_rendering_gives_the_very_bytes_of_a_base_that_a_host_wrote():
    text = (DATA / "base-thin-8.0u1.vmdk").read_text()
    assert read("base-thin-8.0u1.vmdk").render() == text


def test_change_tracking_and_several_extents_are_read():
    text = (
        '# Disk DescriptorFile\nversion=3\nCID=fffffffe\nparentCID=ffffffff\ncreateType="twoGbMaxExtentSparse"\n'
        'RW 4192256 SPARSE "a b-s001.vmdk"\nRW 100 FLAT "x.raw" 63\nRW 5 ZERO\n'
        '# Change Tracking File\nchangeTrackPath="a-ctk.vmdk"\n'
    )
    descriptor = parse_descriptor(text, "a.vmdk")
    assert descriptor.change_track == "a-ctk.vmdk"
    assert descriptor.kind == "sparse"
    assert descriptor.files == ("a b-s001.vmdk", "x.raw")
    assert descriptor.extents[1].offset == 63 and descriptor.extents[2] == Extent("RW", 5, "ZERO")
    assert parse_descriptor(descriptor.render(), "a.vmdk") == descriptor


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("COWD\x01\x00\x00", "first line"),
        ("", "first line"),
        ("# Disk DescriptorFile\nversion=1\n", "no cid"),
        ('# Disk DescriptorFile\nCID=1\ncreateType="vmfs"\n', "no extent"),
        ('# Disk DescriptorFile\nCID=xyz\ncreateType="vmfs"\nRW 1 VMFS "a"\n', "xyz"),
        ('# Disk DescriptorFile\nCID=1\ncreateType="vmfs"\nRW lots VMFS "a"\n', "neither"),
    ],
)
def test_what_is_not_a_descriptor_is_refused_with_its_name_and_reason(text, reason):
    with pytest.raises(NotADescriptor) as caught:
        parse_descriptor(text, "/vmfs/volumes/ds/x.vmdk")
    assert "/vmfs/volumes/ds/x.vmdk" in caught.value.message and reason in caught.value.message


def test_zero_bytes_behind_the_last_line_are_no_part_of_a_descriptor() -> None:
    text = (
        '# Disk DescriptorFile\nversion=1\nCID=f737ed\nparentCID=ffffffff\ncreateType="vmfs"\nRW 8 VMFS "x-flat.vmdk"\n'
    )
    padded = parse_descriptor(text + "\x00\x00\n", "x.vmdk")
    assert padded == parse_descriptor(text, "x.vmdk") and padded.cid == "00f737ed"
    with pytest.raises(NotADescriptor):
        parse_descriptor(text.replace("RW", "\x00RW"), "x.vmdk")


@pytest.mark.parametrize("stem", ['quo"te', "line\u2028separator", "next\u0085line", "a = b", "$(x) `y`"])
def test_an_extent_keeps_its_name_whatever_it_holds(stem: str) -> None:
    head = '# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\ncreateType="vmfs"\n'
    text = f'{head}RW 8 VMFS "{stem}-flat.vmdk"\n'
    assert parse_descriptor(text, "x.vmdk").files == (f"{stem}-flat.vmdk",)
