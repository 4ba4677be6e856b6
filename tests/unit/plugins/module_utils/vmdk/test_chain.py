# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import MAX_LINKS, read_chain
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import (
    BrokenChain,
    ChainLoop,
    ChainTooDeep,
    MissingLink,
    NotADescriptor,
)

DS = "/vmfs/volumes/5e000000-00000001-0000-000000000001/vm"


def text(cid: str, parent_cid: str = "ffffffff", hint: str | None = None, file: str = "x-flat.vmdk") -> str:
    parent = f'parentFileNameHint="{hint}"\n' if hint else ""
    return (
        f'# Disk DescriptorFile\nversion=1\nCID={cid}\nparentCID={parent_cid}\ncreateType="vmfs"\n{parent}'
        f'RW 2048 VMFS "{file}"\n'
    )


def reader(files: dict[str, str]):
    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(f"no such file: {path}")
        return files[path]

    return read


def test_a_chain_goes_from_the_top_to_the_base_through_relative_and_absolute_hints():
    files = {
        f"{DS}/a-000002.vmdk": text("00000003", "00000002", "a-000001.vmdk", "a-000002-sesparse.vmdk"),
        f"{DS}/a-000001.vmdk": text("00000002", "00000001", "/vmfs/volumes/other/gold/a.vmdk", "a-000001-delta.vmdk"),
        "/vmfs/volumes/other/gold/a.vmdk": text("00000001", file="a-flat.vmdk"),
    }
    chain = read_chain(reader(files), f"{DS}/a-000002.vmdk")
    assert chain.paths == tuple(files)
    assert chain.extent_paths[-1] == "/vmfs/volumes/other/gold/a-flat.vmdk"
    assert chain.cids == ("00000003", "00000002", "00000001")
    assert chain.capacity_bytes == 2048 * 512


def test_a_parent_written_after_its_child_was_made_is_a_broken_chain():
    files = {f"{DS}/c.vmdk": text("2", "1", "p.vmdk"), f"{DS}/p.vmdk": text("9")}
    with pytest.raises(BrokenChain) as caught:
        read_chain(reader(files), f"{DS}/c.vmdk")
    assert (caught.value.data["wanted"], caught.value.data["found"]) == ("00000001", "00000009")


def test_a_missing_parent_is_named_together_with_the_child_that_wants_it():
    with pytest.raises(MissingLink) as caught:
        read_chain(reader({f"{DS}/c.vmdk": text("2", "1", "p.vmdk")}), f"{DS}/c.vmdk")
    assert caught.value.data["parent"] == f"{DS}/p.vmdk" and caught.value.data["child"] == f"{DS}/c.vmdk"


def test_a_delta_without_a_hint_has_no_parent():
    with pytest.raises(MissingLink):
        read_chain(reader({f"{DS}/c.vmdk": text("2", "1")}), f"{DS}/c.vmdk")


def test_a_loop_ends():
    files = {f"{DS}/a.vmdk": text("1", "2", "b.vmdk"), f"{DS}/b.vmdk": text("2", "1", "./a.vmdk")}
    with pytest.raises(ChainLoop):
        read_chain(reader(files), f"{DS}/a.vmdk")


@pytest.mark.parametrize(("links", "fits"), [(MAX_LINKS, True), (MAX_LINKS + 1, False)])
def test_no_more_links_than_esxi_allows(links, fits):
    files = {f"{DS}/{n}.vmdk": text(f"{n + 1:x}", f"{n + 2:x}", f"{n + 1}.vmdk") for n in range(links - 1)}
    files[f"{DS}/{links - 1}.vmdk"] = text(f"{links:x}")
    if fits:
        assert len(read_chain(reader(files), f"{DS}/0.vmdk").links) == links
    else:
        with pytest.raises(ChainTooDeep):
            read_chain(reader(files), f"{DS}/0.vmdk")


def test_errors_of_the_top_itself_are_passed_on():
    with pytest.raises(FileNotFoundError):
        read_chain(reader({}), f"{DS}/a.vmdk")
    with pytest.raises(NotADescriptor):
        read_chain(reader({f"{DS}/a.vmdk": "KDMV"}), f"{DS}/a.vmdk")
