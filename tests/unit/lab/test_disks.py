# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's disks are real VMDKs: qemu-img is the judge of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from esxilab import disks, images
from esxilab.disks import copying
from esxilab.disks.descriptor import ExtentLine, base_descriptor, child_descriptor

MIB = 1 << 20
KINDS = ("vmfssparse", "sesparse")


def qemu(*words: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def raw_of(descriptor: Path) -> bytes:
    """The disk as qemu-img reads it, through the whole chain."""
    target = descriptor.with_suffix(".qemu-raw")
    qemu("convert", "-f", "vmdk", "-O", "raw", descriptor, target)
    content = target.read_bytes()
    target.unlink()
    return content


def scribble(descriptor: Path, expected: bytearray, seed: int, count: int = 120) -> None:
    """Random writes of odd sizes and places, into the disk and into what is expected of it."""
    chooser = random.Random(seed)
    with disks.open_chain(str(descriptor), writable=True) as disk:
        for _ in range(count):
            size = chooser.choice([1, 511, 512, 4096, 5000, 70000])
            at = chooser.randrange(len(expected) - size)
            data = chooser.randbytes(size)
            disk.write(at, data)
            expected[at : at + size] = data


def make_chain(folder: Path, kind: str, size: int = 20 * MIB + 512, links: int = 3) -> tuple[list[Path], bytearray]:
    """A base with deltas, written at every level, as [base, …, top]."""
    expected = bytearray(size)
    paths = [folder / "web.vmdk"]
    disks.create_disk(str(paths[0]), size, "thin")
    scribble(paths[0], expected, 0)
    for number in range(1, links):
        paths.append(folder / f"web-{number:06d}.vmdk")
        disks.create_delta(str(paths[-2]), str(paths[-1]), kind)
        scribble(paths[-1], expected, number)
    return paths, expected


# Descriptors


def test_a_thin_base_of_8_0_has_the_recorded_text() -> None:
    recorded = """\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=00000001
parentCID=ffffffff
createType="vmfs"

# Extent description
RW 167772160 VMFS "vm1-flat.vmdk"

# The Disk Data Base\x20
#DDB

ddb.adapterType = "lsilogic"
ddb.deletable = "true"
ddb.geometry.cylinders = "10443"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "00000000000000000000000000000000"
ddb.thinProvisioned = "1"
ddb.toolsInstallType = "1"
ddb.toolsVersion = "13349"
ddb.uuid = "56 4d 00 00 00 00 00 00-00 00 00 00 00 00 00 00"
ddb.virtualHWVersion = "14"
"""
    made = base_descriptor(
        "vm1.vmdk",
        167772160,
        extents=[ExtentLine("RW", 167772160, "VMFS", "vm1-flat.vmdk")],
        create_type="vmfs",
        adapter="lsilogic",
        hw="14",
        release="8.0",
        tools_version="13349",
    )
    made.cid = "00000001"
    made.ddb["ddb.thinProvisioned"] = "1"
    made.ddb["ddb.longContentID"] = "0" * 32
    made.ddb["ddb.uuid"] = "56 4d 00 00 00 00 00 00-00 00 00 00 00 00 00 00"
    assert made.render() == recorded
    assert disks.parse_descriptor(recorded, "vm1.vmdk") == made


def test_descriptors_of_6_7_have_the_recorded_sizes() -> None:
    base = base_descriptor(
        "centos8.vmdk",
        125829120,
        extents=[ExtentLine("RW", 125829120, "VMFS", "centos8-flat.vmdk")],
        create_type="vmfs",
        adapter="lsilogic",
        hw="14",
        release="6.7",
        tools_version="10346",
    )
    base.ddb["ddb.thinProvisioned"] = "1"
    child = child_descriptor("c.vmdk", base, "vmfssparse", "centos8-000001-delta.vmdk", "centos8.vmdk", "6.7")
    assert (len(base.render()), len(child.render())) == (551, 296)


def test_a_5_0_delta_has_the_recorded_text(tmp_path: Path) -> None:
    base = base_descriptor(
        "vps.vmdk",
        20971520,
        extents=[ExtentLine("RW", 20971520, "VMFS", "vps-flat.vmdk")],
        create_type="vmfs",
        adapter="lsilogic",
        hw="8",
        release="5.0",
    )
    child = child_descriptor("v.vmdk", base, "vmfssparse", "vps-000001-delta.vmdk", "vps.vmdk", "5.0")
    child.cid, child.parent_cid = "4f5b98ad", "79229daf"
    child.ddb["ddb.longContentID"] = "193b848abd4542a6593461434f5b98ad"
    assert 'isNativeSnapshot="no"\ncreateType="vmfs"\n\n# Extent' in base.render()
    assert child.render() == (
        '# Disk DescriptorFile\nversion=1\nencoding="UTF-8"\nCID=4f5b98ad\nparentCID=79229daf\nisNativeSnapshot="no"\n'
        'createType="vmfsSparse"\nparentFileNameHint="vps.vmdk"\n# Extent description\n'
        'RW 20971520 VMFSSPARSE "vps-000001-delta.vmdk"\n\n# The Disk Data Base \n#DDB\n\n'
        'ddb.longContentID = "193b848abd4542a6593461434f5b98ad"\n'
    )


def test_a_sesparse_descriptor_has_the_recorded_text() -> None:
    base = base_descriptor(
        "Base_R91.vmdk",
        41943040,
        extents=[ExtentLine("RW", 41943040, "VMFS", "Base_R91-flat.vmdk")],
        create_type="vmfs",
        adapter="lsilogic",
        hw="13",
        release="6.5",
    )
    base.cid = "3729b687"
    base.ddb["ddb.longContentID"] = "f6371048ed90dd02a7e9ded6fffffffe"
    child = child_descriptor("c", base, "sesparse", "Base_R91-000001-sesparse.vmdk", "Base_R91.vmdk", "6.5")
    assert child.render() == (
        "# Disk DescriptorFile\nversion=1\nCID=3729b687\nparentCID=3729b687\n"
        'createType="seSparse"\nparentFileNameHint="Base_R91.vmdk"\n# Extent description\n'
        'RW 41943040 SESPARSE "Base_R91-000001-sesparse.vmdk"\n\n# The Disk Data Base \n#DDB\n\n'
        'ddb.encoding = "UTF-8"\nddb.grain = "8"\nddb.longContentID = "f6371048ed90dd02a7e9ded6fffffffe"\n'
    )


def test_change_tracking_makes_it_version_3_and_names_its_file(tmp_path: Path) -> None:
    disks.create_disk(str(tmp_path / "a.vmdk"), MIB)
    disks.create_change_track(str(tmp_path / "a.vmdk"))
    text = (tmp_path / "a.vmdk").read_text()
    assert "version=3\n" in text
    assert '\n\n# Change Tracking File\nchangeTrackPath="a-ctk.vmdk"\n\n# The Disk Data Base' in text
    disks.delete(str(tmp_path / "a.vmdk"))
    assert os.listdir(tmp_path) == []


def test_the_first_write_after_opening_changes_the_content_id_and_later_ones_do_not(tmp_path: Path) -> None:
    path = str(tmp_path / "a.vmdk")
    disks.create_disk(path, MIB)
    assert disks.read_descriptor(path).cid == "fffffffe"
    with disks.open_chain(path, writable=True) as disk:
        assert disks.read_descriptor(path).cid == "fffffffe"
        disk.write(0, b"x")
        first = disks.read_descriptor(path)
        disk.write(1, b"y")
        assert disks.read_descriptor(path).cid == first.cid
    with disks.open_chain(path, writable=True) as disk:
        disk.write(0, b"x")
    assert len({"fffffffe", first.cid, disks.read_descriptor(path).cid}) == 3
    assert first.ddb["ddb.longContentID"].endswith(first.cid)


def test_a_fresh_delta_has_its_parents_content_id_until_it_is_written(tmp_path: Path) -> None:
    base, child = str(tmp_path / "a.vmdk"), str(tmp_path / "a-000001.vmdk")
    disks.create_disk(base, MIB)
    with disks.open_chain(base, writable=True) as disk:
        disk.write(0, b"x")
    cid = disks.read_descriptor(base).cid
    made = disks.create_delta(base, child)
    assert (made.cid, made.parent_cid) == (cid, cid)
    with disks.open_chain(child, writable=True) as disk:
        disk.write(0, b"y")
    written = disks.read_descriptor(child)
    assert written.cid != cid
    assert written.parent_cid == cid == disks.read_descriptor(base).cid


def test_writing_to_a_base_that_has_a_child_breaks_the_chain(tmp_path: Path) -> None:
    base, child = str(tmp_path / "a.vmdk"), str(tmp_path / "a-000001.vmdk")
    disks.create_disk(base, MIB)
    disks.create_delta(base, child)
    assert len(disks.check_chain(child)) == 2
    with disks.open_chain(base, writable=True) as disk:
        disk.write(0, b"x")
    with pytest.raises(disks.ParentModified) as caught:
        disks.check_chain(child)
    assert caught.value.code == 18


def test_what_is_missing_or_no_disk_has_esxis_code(tmp_path: Path) -> None:
    with pytest.raises(disks.FileMissing) as missing:
        disks.open_chain(str(tmp_path / "none.vmdk"))
    (tmp_path / "text.vmdk").write_text("hello\n")
    with pytest.raises(disks.NotADisk) as other:
        disks.open_chain(str(tmp_path / "text.vmdk"))
    disks.create_disk(str(tmp_path / "a.vmdk"), MIB)
    (tmp_path / "a-flat.vmdk").unlink()
    with pytest.raises(disks.FileMissing):
        disks.check_chain(str(tmp_path / "a.vmdk"))
    assert missing.value.vmware_text == "The system cannot find the file specified (25)."
    assert other.value.vmware_text == "The file specified is not a virtual disk (15)."


# Extents, chains


@pytest.mark.parametrize("kind", KINDS)
def test_qemu_img_reads_a_chain_of_deltas_as_it_was_written(tmp_path: Path, kind: str) -> None:
    paths, expected = make_chain(tmp_path, kind)
    with disks.open_chain(str(paths[-1])) as disk:
        assert disk.read(0, len(expected)) == expected
        assert sum(length for _, length in disk.allocated()) < len(expected)
        rebuilt = bytearray(len(expected))
        for at, length in disk.allocated():
            rebuilt[at : at + length] = disk.read(at, length)
        assert rebuilt == expected
    assert raw_of(paths[-1]) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_qemu_img_may_read_a_delta_of_a_crashed_host_only_after_the_disk_was_opened_again(
    tmp_path: Path, kind: str
) -> None:
    base, child = tmp_path / "a.vmdk", tmp_path / "a-000001.vmdk"
    disks.create_disk(str(base), 4 * MIB)
    disks.create_delta(str(base), str(child), kind)
    crashed = disks.open_chain(str(child), writable=True)
    crashed.write(12345, b"before the crash")
    crashed.close(clean=False)
    if kind == "sesparse":
        # qemu refuses a journal that must be replayed; the lab's own reader, like vmkfstools, takes the chain.
        assert subprocess.run(["qemu-img", "info", child], capture_output=True, check=False).returncode != 0
    with disks.open_chain(str(child), writable=True) as disk:
        assert disk.read(12345, 16) == b"before the crash"
        disk.write(3 * MIB, b"after the crash")
    content = raw_of(child)
    assert content[12345 : 12345 + 16] == b"before the crash"
    assert content[3 * MIB : 3 * MIB + 15] == b"after the crash"


def test_an_empty_vmfssparse_file_has_the_recorded_size_and_grows_in_steps_of_16_mib(tmp_path: Path) -> None:
    for gibibytes, recorded in ((10, 24576), (60, 126976)):
        base, child = tmp_path / f"b{gibibytes}.vmdk", tmp_path / f"b{gibibytes}-000001.vmdk"
        disks.create_disk(str(base), gibibytes << 30)
        disks.create_delta(str(base), str(child))
        extent = tmp_path / f"b{gibibytes}-000001-delta.vmdk"
        assert extent.stat().st_size == recorded
        with disks.open_chain(str(child), writable=True) as disk:
            disk.write(5 << 30, b"x")
        assert extent.stat().st_size == 16 * MIB
        magic, version, flags, sectors, grain, gd = struct.unpack_from("<4s5I", extent.read_bytes()[:24])
        assert (magic, version, flags, sectors, grain, gd) == (b"COWD", 1, 3, gibibytes << 21, 1, 4)


def test_a_sesparse_delta_of_3_tib_is_written_at_its_end_and_read_by_qemu(volume: Callable[[int], Path]) -> None:
    tmp_path = volume(8)
    size = 3 << 40
    base, child = tmp_path / "big.vmdk", tmp_path / "big-000001.vmdk"
    disks.create_disk(str(base), size)
    disks.create_delta(str(base), str(child), "sesparse")
    with disks.open_chain(str(child), writable=True) as disk:
        disk.write(size - 4096, b"E" * 4096)
        disk.write((2 << 40) + 100, b"M" * 100)
    with disks.open_chain(str(child)) as disk:
        assert disk.read(size - 4097, 4097) == b"\0" + b"E" * 4096
        assert list(disk.allocated()) == [(2 << 40, 4096), (size - 4096, 4096)]
    # Not `qemu-img map` or `convert`: they walk 3 TiB grain by grain, for hours.
    reads = [f"read -P 0x45 {size - 4096} 4096", f"read -P 0 {size - 8192} 4096", f"read -P 0x4d {(2 << 40) + 100} 100"]
    words = [word for read in reads for word in ("-c", read)]
    done = subprocess.run(["qemu-io", "-r", "-f", "vmdk", *words, child], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("read 4096/4096") + done.stdout.count("read 100/100")) == (0, 3), done
    with pytest.raises(disks.InvalidArgument):
        disks.create_delta(str(base), str(tmp_path / "big-000002.vmdk"), "vmfssparse")


def test_tables_of_a_sesparse_file_lie_in_order_of_first_use(tmp_path: Path) -> None:
    base, child = tmp_path / "a.vmdk", tmp_path / "a-000001.vmdk"
    disks.create_disk(str(base), 64 * MIB)
    disks.create_delta(str(base), str(child), "sesparse")
    expected = bytearray(64 * MIB)
    with disks.open_chain(str(child), writable=True) as disk:
        for at in (50 * MIB, 3 * MIB, 33 * MIB, 50 * MIB + 4096):
            disk.write(at, b"%d" % at)
            expected[at : at + len(b"%d" % at)] = b"%d" % at
    head = (tmp_path / "a-000001-sesparse.vmdk").read_bytes()[:MIB]
    directory = struct.unpack_from("<Q", head, 128)[0] * 512
    entries = struct.unpack_from("<4Q", head, directory)
    assert [entry & 0xFFFFFFFF for entry in entries if entry] == [1, 2, 0]
    assert raw_of(child) == expected


# Clones


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fmt", disks.FORMATS)
def test_a_clone_holds_the_merged_view_in_every_format(tmp_path: Path, kind: str, fmt: str) -> None:
    paths, expected = make_chain(tmp_path, kind)
    percents: list[int] = []
    target = tmp_path / "copy.vmdk"
    made = disks.clone(str(paths[-1]), str(target), fmt, percents.append)
    assert raw_of(target) == expected
    assert percents[-1] == 100 and percents == sorted(percents)
    source = disks.read_descriptor(str(paths[0]))
    assert not made.is_child
    for key in ("ddb.uuid", "ddb.longContentID"):
        assert made.ddb[key] != source.ddb[key]
    assert made.cid not in {disks.read_descriptor(str(path)).cid for path in paths}
    assert made.ddb["ddb.longContentID"].endswith(made.cid)
    assert disks.read_descriptor(str(target)) == made
    assert made.is_thin == (fmt == "thin")


def test_formats_take_the_room_they_say(tmp_path: Path) -> None:
    size = 16 * MIB
    source = tmp_path / "a.vmdk"
    disks.create_disk(str(source), size)
    with disks.open_chain(str(source), writable=True) as disk:
        disk.write(MIB, b"x" * MIB)
        disk.write(8 * MIB, bytes(MIB))
    used = {}
    for fmt in ("thin", "zeroedthick", "eagerzeroedthick"):
        disks.clone(str(source), str(tmp_path / f"{fmt}.vmdk"), fmt)
        used[fmt] = (tmp_path / f"{fmt}-flat.vmdk").stat().st_blocks * 512
    assert used == {"thin": MIB, "zeroedthick": size, "eagerzeroedthick": size}


def test_a_2gbsparse_clone_is_cut_into_extents_of_2047_mib(tmp_path: Path) -> None:
    source, target, back = tmp_path / "a.vmdk", tmp_path / "b.vmdk", tmp_path / "c.vmdk"
    size = 4096 * MIB
    disks.create_disk(str(source), size)
    marks = {0: b"first", 2047 * MIB - 3: b"across", 4094 * MIB + 1: b"last"}
    with disks.open_chain(str(source), writable=True) as disk:
        for at, text in marks.items():
            disk.write(at, text)
    made = disks.clone(str(source), str(target), "2gbsparse")
    assert [(line.sectors, line.file) for line in made.extents] == [
        (4192256, "b-s001.vmdk"),
        (4192256, "b-s002.vmdk"),
        (4096, "b-s003.vmdk"),
    ]
    assert made.create_type == "twoGbMaxExtentSparse"
    qemu("compare", "-f", "vmdk", "-F", "vmdk", source, target)
    disks.clone(str(target), str(back), "thin")
    qemu("compare", "-f", "vmdk", "-F", "vmdk", source, back)
    with disks.open_chain(str(back)) as disk:
        assert {at: disk.read(at, len(text)) for at, text in marks.items()} == marks


def test_a_full_datastore_fails_the_clone_with_code_13_and_leaves_the_unfinished_target(
    volume: Callable[[int], Path],
) -> None:
    roomy, small = volume(64), volume(8)
    disks.create_disk(str(roomy / "a.vmdk"), 32 * MIB)
    with disks.open_chain(str(roomy / "a.vmdk"), writable=True) as disk:
        disk.write(0, random.Random(1).randbytes(20 * MIB))
    for fmt in ("thin", "zeroedthick", "eagerzeroedthick", "2gbsparse"):
        with pytest.raises(disks.DiskFull) as caught:
            disks.clone(str(roomy / "a.vmdk"), str(small / "b.vmdk"), fmt)
        assert caught.value.vmware_text == (
            "There is not enough space on the file system for the selected operation (13)."
        )
        assert (small / "b.vmdk").exists()
        disks.delete(str(small / "b.vmdk"))
        assert os.listdir(small) == []


def test_a_guest_write_to_a_full_datastore_is_refused_and_the_delta_stays_readable(
    volume: Callable[[int], Path],
) -> None:
    for kind in KINDS:
        folder = volume(4)
        base, child = folder / "a.vmdk", folder / "a-000001.vmdk"
        disks.create_disk(str(base), 64 * MIB)
        disks.create_delta(str(base), str(child), kind)
        written = 0
        with disks.open_chain(str(child), writable=True) as disk:
            with pytest.raises(disks.DiskFull):
                while True:
                    disk.write(written, b"%016d" % written * 4096)
                    written += 65536
            assert 2 * MIB < written < 4 * MIB
            assert disk.read(written - 16, 16) == b"%016d" % (written - 65536)
        with disks.open_chain(str(child)) as disk:
            content = disk.read(0, written)
        assert content == b"".join(b"%016d" % at * 4096 for at in range(0, written, 65536))


def test_an_existing_target_is_code_39_and_stays_as_it_is(tmp_path: Path) -> None:
    disks.create_disk(str(tmp_path / "a.vmdk"), MIB)
    (tmp_path / "b-flat.vmdk").write_bytes(b"precious")
    with pytest.raises(disks.FileExists) as caught:
        disks.clone(str(tmp_path / "a.vmdk"), str(tmp_path / "b.vmdk"))
    assert caught.value.code == 39
    assert (tmp_path / "b-flat.vmdk").read_bytes() == b"precious"
    assert not (tmp_path / "b.vmdk").exists()


def test_a_speed_limit_is_asked_at_every_turn(tmp_path: Path) -> None:
    disks.create_disk(str(tmp_path / "a.vmdk"), 16 * MIB)
    with disks.open_chain(str(tmp_path / "a.vmdk"), writable=True) as disk:
        disk.write(0, b"z" * (16 * MIB))
    asked: list[int] = []

    def rate() -> float:
        asked.append(1)
        return 1e12

    disks.clone(str(tmp_path / "a.vmdk"), str(tmp_path / "b.vmdk"), "thin", rate=rate)
    assert len(asked) >= 16 * MIB // copying.BUFFER


def test_a_low_speed_limit_that_is_lifted_meanwhile_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(copying.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(copying.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    limiter = copying._Limiter(lambda: 1024.0 if now[0] < 3 else None)
    limiter.spend(copying.BUFFER)
    assert 3 <= now[0] < 4
    steady = copying._Limiter(1024.0)
    begun = now[0]
    steady.spend(10 * 1024)
    assert now[0] - begun == pytest.approx(10)


# Consolidation and the rest


@pytest.mark.parametrize("kind", KINDS)
def test_merging_the_deltas_down_leaves_a_base_with_everything_and_the_last_content_id(
    tmp_path: Path, kind: str
) -> None:
    paths, expected = make_chain(tmp_path, kind, links=4)
    last = disks.read_descriptor(str(paths[-1])).cid
    while len(paths) > 1:
        top = paths.pop()
        disks.merge_delta(str(top))
        disks.delete(str(top))
        assert raw_of(paths[-1]) == expected
        disks.check_chain(str(paths[-1]))
    assert sorted(os.listdir(tmp_path)) == ["web-flat.vmdk", "web.vmdk"]
    assert disks.read_descriptor(str(paths[0])).cid == last


@pytest.mark.parametrize("kind", KINDS)
def test_merging_a_middle_delta_and_reparenting_keeps_the_view_of_the_top(tmp_path: Path, kind: str) -> None:
    paths, expected = make_chain(tmp_path, kind)
    base, middle, top = map(str, paths)
    disks.merge_delta(middle)
    disks.reparent(top, base)
    disks.delete(middle)
    assert [link.path for link in disks.check_chain(top)] == [top, base]
    assert raw_of(paths[2]) == expected


def test_a_reader_of_the_base_stops_the_merge_before_anything_is_changed(tmp_path: Path) -> None:
    paths, _ = make_chain(tmp_path, "vmfssparse", links=2)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    with pytest.raises(disks.FileLocked) as caught:
        disks.merge_delta(str(paths[1]), held=lambda path: path.endswith("web-flat.vmdk"))
    assert caught.value.path.endswith("web-flat.vmdk")
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_a_merge_that_ran_out_of_room_can_be_run_again(volume: Callable[[int], Path]) -> None:
    folder = volume(16)
    base, child = folder / "a.vmdk", folder / "a-000001.vmdk"
    disks.create_disk(str(base), 64 * MIB)
    disks.create_delta(str(base), str(child), "sesparse")
    content = random.Random(7).randbytes(9 * MIB)
    with disks.open_chain(str(child), writable=True) as disk:
        disk.write(0, content)
    with pytest.raises(disks.DiskFull):
        disks.merge_delta(str(child))
    with disks.open_chain(str(child)) as disk:
        assert disk.read(0, len(content)) == content
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    disks.merge_delta(str(child))
    with disks.open_chain(str(base)) as disk:
        assert disk.read(0, len(content)) == content


def test_rename_moves_the_extent_and_fixes_its_line(tmp_path: Path) -> None:
    paths, expected = make_chain(tmp_path, "vmfssparse", links=2)
    disks.merge_delta(str(paths[1]))
    disks.delete(str(paths[1]))
    disks.rename(str(paths[0]), str(tmp_path / "new name.vmdk"))
    assert sorted(os.listdir(tmp_path)) == ["new name-flat.vmdk", "new name.vmdk"]
    assert raw_of(tmp_path / "new name.vmdk") == expected


def test_growing_adds_zeros_and_a_child_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.vmdk"
    disks.create_disk(str(path), 2 * MIB)
    with disks.open_chain(str(path), writable=True) as disk:
        disk.write(2 * MIB - 4, b"tail")
    disks.grow(str(path), 5 * MIB)
    assert raw_of(path) == bytes(2 * MIB - 4) + b"tail" + bytes(3 * MIB)
    disks.create_delta(str(path), str(tmp_path / "a-000001.vmdk"))
    for target, size in ((tmp_path / "a-000001.vmdk", 9 * MIB), (path, 4 * MIB)):
        with pytest.raises(disks.InvalidArgument):
            disks.grow(str(target), size)


def test_punching_gives_back_the_zeroed_blocks_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.vmdk"
    disks.create_disk(str(path), 8 * MIB, "eagerzeroedthick")
    with disks.open_chain(str(path), writable=True) as disk:
        disk.write(3 * MIB + 5, b"data")
    before = raw_of(path)
    disks.punch_zero(str(path))
    assert raw_of(path) == before
    assert (tmp_path / "a-flat.vmdk").stat().st_blocks * 512 == MIB


def test_inflating_takes_all_room_and_keeps_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.vmdk"
    disks.create_disk(str(path), 8 * MIB)
    with disks.open_chain(str(path), writable=True) as disk:
        disk.write(MIB, b"data")
    before = raw_of(path)
    disks.inflate(str(path), zero=True)
    assert raw_of(path) == before
    assert (tmp_path / "a-flat.vmdk").stat().st_blocks * 512 == 8 * MIB
    assert not disks.read_descriptor(str(path)).is_thin


def test_a_raw_device_mapping_has_its_own_type(tmp_path: Path) -> None:
    disks.create_rdm(str(tmp_path / "p.vmdk"), 8 * MIB, physical=True)
    disks.create_rdm(str(tmp_path / "v.vmdk"), 8 * MIB, physical=False)
    assert disks.read_descriptor(str(tmp_path / "p.vmdk")).create_type == "vmfsPassthroughRawDeviceMap"
    assert disks.read_descriptor(str(tmp_path / "v.vmdk")).create_type == "vmfsRawDeviceMap"
    assert {"p-rdmp.vmdk", "v-rdm.vmdk"} <= set(os.listdir(tmp_path))
    with pytest.raises(disks.NotADisk):
        disks.open_chain(str(tmp_path / "p.vmdk"))


# What is on a guest's disk


@pytest.mark.parametrize("table", ["gpt", "mbr"])
def test_a_guests_disk_has_a_sound_file_system_with_the_known_files(tmp_path: Path, table: str) -> None:
    path = tmp_path / "a.vmdk"
    images.make_guest_disk(str(path), 64 * MIB, "seed 7", table=table, cache=str(tmp_path / "cache"))
    flat = tmp_path / "a-flat.vmdk"
    dump = json.loads(subprocess.run(["sfdisk", "-J", flat], capture_output=True, check=True).stdout)
    partition = dump["partitiontable"]["partitions"][0]
    assert dump["partitiontable"]["label"] == {"gpt": "gpt", "mbr": "dos"}[table]
    system = tmp_path / "ext4.raw"
    with open(flat, "rb") as source, open(system, "wb") as target:
        source.seek(partition["start"] * 512)
        target.write(source.read(partition["size"] * 512))
    subprocess.run(["e2fsck", "-fn", system], check=True, capture_output=True)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {out}", system], check=True, capture_output=True)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out, check=True)
    assert (out / "identity").read_bytes() == images.identity_block("seed 7")
    assert (out / "data" / "003.bin").read_bytes() == images.file_content(3)


def test_disks_of_one_seed_are_equal_and_of_two_seeds_differ(tmp_path: Path) -> None:
    sums = []
    for number, seed in enumerate(("a", "a", "b")):
        # A cache each, so that equal templates are not just the same file.
        cache = str(tmp_path / f"cache{number}")
        images.make_disk_image(str(tmp_path / "d.raw"), 64 * MIB, seed, cache=cache, fill=MIB // 2)
        sums.append(hashlib.sha256((tmp_path / "d.raw").read_bytes()).hexdigest())
        (tmp_path / "d.raw").unlink()
        shutil.rmtree(cache)
    assert sums[0] == sums[1] != sums[2]


def test_a_disk_too_small_for_a_guest_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(images.ImageError, match="64 MiB at least"):
        images.make_disk_image(str(tmp_path / "d.raw"), 32 * MIB, 1)
