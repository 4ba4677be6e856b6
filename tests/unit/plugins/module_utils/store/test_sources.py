# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of every form go into a store as what they are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import SourceFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk, VmdkDisk, open_disk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import NotADescriptor
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import PathOutside

from .benches import CHUNK, image, restored


def converted(raw: Path, target: Path, subformat: str) -> Path:
    words = ["qemu-img", "convert", "-t", "unsafe", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}"]
    subprocess.run([*words, str(raw), str(target)], check=True, capture_output=True)
    return target


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized", "monolithicFlat"])
def test_a_vmdk_is_stored_as_the_raw_disk_is(plain: Store, tmp_path: Path, subformat: str) -> None:
    raw = image(tmp_path / "raw", [1, 2, 0, 0, 3, *[0] * 40, 4])
    path = converted(raw, tmp_path / "name that says nothing", subformat)
    told = []
    for source in (open_disk(str(raw)), open_disk(str(path))):
        point, done = backup.run(plain, "vm-1", "one", [backup.DiskInput("scsi0:0", source)], threads=2)
        source.close()
        told.append(done)
        assert restored(plain, point, tmp_path) == raw.read_bytes()
    assert told[1].read == told[0].read == 4 * CHUNK and told[1].new == 0


def test_the_content_tells_the_form_and_the_caller_knows_better(tmp_path: Path) -> None:
    raw = image(tmp_path / "raw.vmdk", [1, 0])
    flat = converted(raw, tmp_path / "d", "monolithicFlat")
    for path, kind in ((raw, RawDisk), (flat, VmdkDisk), (tmp_path / "d-flat", RawDisk)):
        source = open_disk(str(path))
        assert type(source) is kind
        source.close()
    source = open_disk(str(flat), "raw")
    assert source.size == flat.stat().st_size
    source.close()
    with pytest.raises(NotADescriptor, match=r"raw\.vmdk"):
        open_disk(str(raw), "vmdk")
    with pytest.raises(ValueError, match="qcow2"):
        open_disk(str(raw), "qcow2")


def test_what_is_no_disk_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("pipe", "neither a regular file"), ("none", "No such file"), (".", "neither a regular file")):
        with pytest.raises(SourceFailed, match=words):
            open_disk(str(tmp_path / name))
    with pytest.raises(SourceFailed, match="null"):
        open_disk(str(tmp_path / "a\0b"))


def test_a_hostile_descriptor_reads_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 512)
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "d.vmdk").write_text(
        '# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType="vmfs"\nRW 1 VMFS "../secret"\n'
    )
    with pytest.raises(PathOutside):
        open_disk(str(tmp_path / "vm" / "d.vmdk"))
    source = open_disk(str(tmp_path / "vm" / "d.vmdk"), allowed=[str(tmp_path)])
    assert source.size == 512
    source.close()


def test_a_grain_that_does_not_unpack_costs_the_backup_and_names_the_file(plain: Store, tmp_path: Path) -> None:
    path = converted(image(tmp_path / "raw", [1, 2]), tmp_path / "d.vmdk", "streamOptimized")
    data = bytearray(path.read_bytes())
    at = data.index(b"\x78", 64 * 1024)
    data[at + 2 : at + 40] = bytes(38)
    path.write_bytes(data)
    source = open_disk(str(path))
    with pytest.raises(SourceFailed, match=r"d\.vmdk .*the grain at byte \d+"):
        backup.run(plain, "vm-1", "one", [backup.DiskInput("scsi0:0", source)], threads=2)
    source.close()
    assert plain.points() == []
