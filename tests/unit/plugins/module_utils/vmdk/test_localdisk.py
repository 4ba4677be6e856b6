# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks in files of this machine are read as qemu-img and the lab's hypervisor read them."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk import tables
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import (
    BrokenChain,
    MissingLink,
    NotADescriptor,
    VmdkError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.extents import FileExtent
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable, PathOutside
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localdisk import LocalDisk, is_vmdk
from diskbench import MIB, chain, converted, image, mapped, qemu, scribble, stream
from esxilab import disks
from esxilab.disks.sesparse import SeSparseExtent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QEMU_FORMATS = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]


def whole(path: Path, step: int = MIB) -> bytes:
    disk = LocalDisk(str(path))
    try:
        # What must be overwritten, zeros too.
        room = bytearray(b"\xa5" * disk.size)
        for offset in range(0, disk.size, step):
            disk.read_into(memoryview(room)[offset : offset + step], offset)
        return bytes(room)
    finally:
        disk.close()


def allocated(path: Path) -> list[tuple[int, int]]:
    disk = LocalDisk(str(path))
    try:
        return list(disk.allocated())
    finally:
        disk.close()


@pytest.mark.parametrize("subformat", QEMU_FORMATS)
@pytest.mark.parametrize("size", [40 * MIB, 37 * MIB + 512])
def test_a_disk_of_qemu_img_is_read_whole_and_its_holes_are_known(tmp_path: Path, subformat: str, size: int) -> None:
    raw = image(tmp_path / "raw", size)
    disk = converted(raw, tmp_path / "disk.vmdk", subformat)
    assert whole(disk) == raw.read_bytes()
    assert whole(disk, 100 * 1024 + 512) == raw.read_bytes()
    assert allocated(disk) == mapped(disk) and 0 < sum(length for _at, length in allocated(disk)) < size * 3 // 4


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "monolithicSparse"])
def test_a_disk_larger_than_one_extent(tmp_path: Path, subformat: str) -> None:
    raw = tmp_path / "raw"
    edge = 2047 * MIB
    with open(raw, "wb") as file:
        file.truncate(5 << 30)
        for offset in (0, edge - 70_000, 2 * edge - 4096, (5 << 30) - MIB):
            file.seek(offset)
            file.write(random.Random(offset).randbytes(MIB))
    path = converted(raw, tmp_path / "disk.vmdk", subformat)
    assert allocated(path) == mapped(path)
    disk = LocalDisk(str(path))
    seen = 0
    with open(raw, "rb") as file:
        for offset, length in disk.allocated():
            room = memoryview(bytearray(b"x" * length))
            disk.read_into(room, offset)
            file.seek(offset)
            assert file.read(length) == room
            seen += length - bytes(room).count(0)
        across = bytearray(3 * MIB)
        disk.read_into(memoryview(across), edge - MIB)
        file.seek(edge - MIB)
        assert file.read(3 * MIB) == across
    disk.close()
    assert seen > 4 * MIB * 0.99


@pytest.mark.parametrize(
    "kinds", [["vmfssparse"], ["sesparse"], ["vmfssparse"] * 3, ["sesparse"] * 3, ["sesparse", "vmfssparse"]]
)
def test_a_chain_of_deltas_is_read_as_the_hypervisor_wrote_it(tmp_path: Path, kinds: list[str]) -> None:
    top, expected = chain(tmp_path, kinds)
    assert whole(top) == expected and whole(top, 5 * 512) == expected
    # A judge that is neither ours nor the lab's.
    qemu("convert", "-f", "vmdk", "-O", "raw", top, tmp_path / "judge")
    assert (tmp_path / "judge").read_bytes() == expected
    with disks.open_chain(str(top)) as disk:
        assert allocated(top) == list(disk.allocated())
    left = bytearray(expected)
    for offset, length in allocated(top):
        left[offset : offset + length] = bytes(length)
    assert left.count(0) == len(left)


writes = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 9000), st.integers(1, 300), st.integers(0, 255)), max_size=12
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(["vmfssparse", "sesparse"]), min_size=1, max_size=3), days=st.lists(writes))
def test_any_chain_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], days: list[list[tuple[int, int, int, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    size = 9000 * 512
    expected = bytearray(size)
    top = folder / "d.vmdk"
    disks.create_disk(str(top), size, "thin")
    for number, kind in enumerate(["", *kinds]):
        if kind:
            child = folder / f"d-{number:06d}.vmdk"
            disks.create_delta(str(top), str(child), kind)
            top = child
        with disks.open_chain(str(top), writable=True) as disk:
            for _kind, sector, count, byte in days[number] if number < len(days) else []:
                data = bytes([byte]) * (min(count, 9000 - sector) * 512)
                disk.write(sector * 512, data)
                expected[sector * 512 : sector * 512 + len(data)] = data
    assert whole(top) == expected
    with disks.open_chain(str(top)) as disk:
        assert allocated(top) == list(disk.allocated())
    shutil.rmtree(folder)


def test_a_child_that_qemu_made_on_a_monolithic_parent(tmp_path: Path) -> None:
    raw = image(tmp_path / "raw", 10 * MIB)
    base = converted(raw, tmp_path / "base.vmdk", "monolithicSparse")
    child = tmp_path / "child.vmdk"
    qemu("create", "-f", "vmdk", "-b", base.name, "-F", "vmdk", child)
    assert whole(child) == raw.read_bytes() and allocated(child) == mapped(child)


@pytest.mark.parametrize("size", [3 * MIB + 1024, 40 * MIB])
def test_an_export_with_its_directory_at_the_end(tmp_path: Path, size: int) -> None:
    raw = image(tmp_path / "raw", size)
    path = stream(tmp_path / "exported.vmdk", raw.read_bytes())
    qemu("compare", "-f", "vmdk", "-F", "raw", path, raw)
    assert whole(path) == raw.read_bytes() and allocated(path) == mapped(path)


def test_a_monolithic_disk_may_be_renamed(tmp_path: Path) -> None:
    raw = image(tmp_path / "raw", 3 * MIB)
    os.rename(converted(raw, tmp_path / "disk.vmdk", "monolithicSparse"), tmp_path / "other name")
    (tmp_path / "link.vmdk").symlink_to("other name")
    assert whole(tmp_path / "other name") == whole(tmp_path / "link.vmdk") == raw.read_bytes()


def test_several_threads_read_one_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, expected = chain(tmp_path, ["sesparse", "vmfssparse", "sesparse"])
    monkeypatch.setattr(tables.Kept.__init__, "__defaults__", (20_000,))
    disk = LocalDisk(str(top))

    def read(offset: int) -> bool:
        room = memoryview(bytearray(min(100_000, len(expected) - offset)))
        disk.read_into(room, offset)
        return room == expected[offset : offset + len(room)]

    offsets = list(range(0, len(expected), 90_000)) * 4
    random.Random(3).shuffle(offsets)
    with ThreadPoolExecutor(4) as executor:
        assert all(executor.map(read, offsets))
    disk.close()


def test_a_run_of_grains_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").write_bytes(random.Random(1).randbytes(8 * MIB))
    disk = LocalDisk(str(converted(tmp_path / "raw", tmp_path / "d.vmdk", "monolithicSparse")))
    room = memoryview(bytearray(MIB))
    disk.read_into(room, 0)
    sizes = []
    load = FileExtent.load
    monkeypatch.setattr(
        FileExtent, "load", lambda self, view, place: (sizes.append(len(view)), load(self, view, place))[1]
    )
    for offset in range(0, 8 * MIB, MIB):
        disk.read_into(room, offset)
    disk.close()
    assert sizes == [MIB] * 8


def test_a_large_empty_disk_costs_no_memory(tmp_path: Path) -> None:
    """62 TB in a delta that hardly anything was written to: its directory alone has 32 MiB."""
    sectors = (62 << 40) // 512
    (tmp_path / "d.vmdk").write_text(descriptor(f"RW {sectors} ZERO"))
    disks.create_delta(str(tmp_path / "d.vmdk"), str(tmp_path / "c.vmdk"), "sesparse")
    delta = SeSparseExtent(str(tmp_path / "c-sesparse.vmdk"), sectors * 512, True)
    delta.write(61 << 40, memoryview(b"x" * 4096), lambda _at, length: bytes(length))
    delta.close()
    tracemalloc.start()
    assert allocated(tmp_path / "c.vmdk") == [(61 << 40, 4096)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


# -- what is not right -------------------------------------------------------------------------------------------------


def test_a_parent_that_was_written_or_is_gone_is_named(tmp_path: Path) -> None:
    top, _expected = chain(tmp_path, ["sesparse"])
    text = (tmp_path / "disk.vmdk").read_text()
    (tmp_path / "disk.vmdk").write_text(_other_cid(text))
    with pytest.raises(BrokenChain, match="disk.vmdk has 0badc0de"):
        LocalDisk(str(top))
    (tmp_path / "disk.vmdk").unlink()
    with pytest.raises(MissingLink, match="its parent .*disk.vmdk cannot be read"):
        LocalDisk(str(top))


def _other_cid(text: str) -> str:
    return "\n".join("CID=0badc0de" if line.startswith("CID=") else line for line in text.split("\n"))


def descriptor(*lines: str, kind: str = "vmfs", parent: str = "") -> str:
    cid = "aaaaaaaa" if parent else "ffffffff"
    hint = f'parentFileNameHint="{parent}"\n' if parent else ""
    body = "\n".join(lines)
    return f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID={cid}\ncreateType="{kind}"\n{hint}{body}\n'


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "sub/../../secret", "link", "folder/secret", "..", ".", "x\ud800/../../secret"]
)
@pytest.mark.parametrize("as_parent", [False, True])
def test_a_descriptor_leads_nowhere_outside_its_folder(tmp_path: Path, name: str, as_parent: bool) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 1024)
    folder = tmp_path / "vm"
    folder.mkdir()
    (folder / "link").symlink_to("../secret")
    (folder / "folder").symlink_to("..")
    line = 'RW 2 VMFS "own"' if as_parent else f'RW 2 VMFS "{name}"'
    (folder / "own").write_bytes(bytes(1024))
    text = descriptor(line, parent=name if as_parent else "")
    (folder / "d.vmdk").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(PathOutside if name not in (".", "x\ud800/../../secret") else VmdkError) as caught:
        LocalDisk(str(folder / "d.vmdk"))
    assert "s" * 8 not in caught.value.message


def test_a_folder_that_is_allowed_may_be_led_into(tmp_path: Path) -> None:
    (tmp_path / "gold").mkdir()
    (tmp_path / "vm").mkdir()
    (tmp_path / "gold" / "flat").write_bytes(b"g" * 1024)
    (tmp_path / "vm" / "d.vmdk").write_text(descriptor('RW 2 VMFS "../gold/flat"'))
    with pytest.raises(PathOutside, match="names .*gold/flat"):
        LocalDisk(str(tmp_path / "vm" / "d.vmdk"))
    disk = LocalDisk(str(tmp_path / "vm" / "d.vmdk"), [str(tmp_path / "gold")])
    room = bytearray(1024)
    disk.read_into(memoryview(room), 0)
    disk.close()
    assert room == b"g" * 1024


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "d.vmdk").write_text(descriptor('RW 2 VMFS "pipe"'))
    with pytest.raises(ExtentUnusable, match="no regular file"):
        LocalDisk(str(tmp_path / "d.vmdk"))
    with pytest.raises(VmdkError, match="no regular file"):
        LocalDisk(str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (['RW 4 VMFS "flat"'], "vmfs", "it has 1024 bytes, the disk needs 2048"),
        (['RW 2 VMFS "none"'], "vmfs", "No such file"),
        (['RW 2 VMFSRDM "flat"'], "vmfsRawDeviceMap", "raw device mapping"),
        (['RW 2 VMFSRDM "flat"'], "vmfsPassthroughRawDeviceMap", "raw device mapping"),
        (['NOACCESS 2 VMFS "flat"'], "vmfs", "NOACCESS VMFS cannot be read"),
        (['RW 2 NEWKIND "flat"'], "vmfs", "RW NEWKIND cannot be read"),
        (["RW 2 VMFS"], "vmfs", "cannot be read"),
        (['RW 999999999999999999 VMFS "flat"'], "vmfs", "is too large"),
        (['RW 2 SPARSE "flat"'], "monolithicSparse", "no header of a sparse extent"),
        (['RW 2 VMFSSPARSE "flat"'], "vmfsSparse", "no header of a vmfsSparse extent"),
        (['RW 2 SESPARSE "flat"'], "seSparse", "no header of a seSparse extent"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_file_and_reason(
    tmp_path: Path, lines: list[str], kind: str, words: str
) -> None:
    (tmp_path / "flat").write_bytes(b"x" * 1024)
    (tmp_path / "d.vmdk").write_text(descriptor(*lines, kind=kind))
    with pytest.raises(VmdkError, match=words) as caught:
        LocalDisk(str(tmp_path / "d.vmdk"))
    assert str(tmp_path) in caught.value.message and caught.value.hint_text


def test_extents_without_a_file_and_with_an_offset(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(bytes(1024) + b"data" * 256 + b"tail")
    (tmp_path / "d.vmdk").write_text(descriptor("RW 3 ZERO", 'RW 2 FLAT "flat" 2', "RW 1 ZERO", kind="monolithicFlat"))
    assert whole(tmp_path / "d.vmdk", 700) == bytes(3 * 512) + b"data" * 256 + bytes(512)
    assert allocated(tmp_path / "d.vmdk") == [(3 * 512, 1024)]


def hurt(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("offset", "data", "words"),
    [
        (12, struct.pack("<Q", 1), "it holds 1 sectors"),
        (20, struct.pack("<Q", 1 << 40), "grains of 1099511627776 sectors"),
        (20, struct.pack("<Q", 0), "grains of 0 sectors"),
        (20, struct.pack("<Q", 3), "grains of 3 sectors"),
        (44, struct.pack("<I", 1 << 30), "tables of 1073741824 entries"),
        (56, struct.pack("<Q", 1 << 50), "its directory is too short for the disk, or lies behind its end"),
        (56, struct.pack("<Q", (1 << 64) - 1), "no header"),
        (73, b"\r\n \n", "damaged by a transfer as text"),
        (77, struct.pack("<H", 9), "compression 9"),
        (4, struct.pack("<I", 7), "no header"),
    ],
)
def test_an_absurd_header_of_a_hosted_extent(tmp_path: Path, offset: int, data: bytes, words: str) -> None:
    raw = image(tmp_path / "raw", 3 * MIB)
    path = converted(raw, tmp_path / "d.vmdk", "monolithicSparse")
    hurt(path, offset, data)
    with pytest.raises(ExtentUnusable, match=words):
        LocalDisk(str(path))


def test_grains_that_lie_are_told_and_cost_no_memory(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"a" * MIB)
    path = stream(tmp_path / "s.vmdk", raw.read_bytes())
    bomb = zlib.compress(bytes(64 << 20), 9)
    for data, words in [
        (struct.pack("<QI", 0, 1 << 31), "says that it has 2147483648 bytes"),
        (struct.pack("<QI", 0, 0), "says that it has 0 bytes"),
        (struct.pack("<QI", 0, 64) + b"nonsense" * 8, "does not unpack"),
        (struct.pack("<QI", 0, 20) + zlib.compress(b"short").ljust(20), "5 bytes where 65536 are due"),
    ]:
        hurt(path, 128 * 512, data)
        with pytest.raises(ExtentUnusable, match=words):
            whole(path)
    path = stream(tmp_path / "t.vmdk", random.Random(1).randbytes(MIB))
    hurt(path, 128 * 512, struct.pack("<QI", 0, len(bomb)) + bomb[:60_000])
    tracemalloc.start()
    disk = LocalDisk(str(path))
    disk.read_into(memoryview(bytearray(512)), 0)
    disk.close()
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "offset", "data", "words"),
    [
        ("vmfssparse", 16, struct.pack("<I", 0), "grains of 0"),
        ("vmfssparse", 24, struct.pack("<I", 1), "its directory is too short"),
        ("vmfssparse", 20, struct.pack("<I", 1 << 31), "its directory is too short"),
        ("sesparse", 8, struct.pack("<Q", 9), "no header"),
        ("sesparse", 32, struct.pack("<Q", 9), "tables of 9 sectors"),
        ("sesparse", 80, struct.pack("<Q", 1 << 54), "behind its end"),
        ("sesparse", 512 + 24, struct.pack("<Q", 1), "its journal was not played back"),
    ],
)
def test_an_absurd_header_of_a_delta(tmp_path: Path, kind: str, offset: int, data: bytes, words: str) -> None:
    top, _expected = chain(tmp_path, [kind])
    delta = next(tmp_path.glob("disk-000001-*.vmdk"))
    hurt(delta, offset, data)
    with pytest.raises(ExtentUnusable, match=words) as caught:
        LocalDisk(str(top))
    assert delta.name in caught.value.message


@pytest.mark.parametrize("kind", ["vmfssparse", "sesparse"])
def test_a_delta_that_was_cut_is_told_when_it_is_read(tmp_path: Path, kind: str) -> None:
    top, _expected = chain(tmp_path, [kind])
    delta = next(tmp_path.glob("disk-000001-*.vmdk"))
    with open(delta, "r+b") as file:
        file.truncate(delta.stat().st_blocks * 512 // 2 if kind == "vmfssparse" else MIB)
    with pytest.raises(ExtentUnusable, match=rf"{delta.name} cannot be read .*(it ends at byte|behind its end)"):
        whole(top)


def test_what_is_a_vmdk_is_told_by_its_content(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    top, _expected = chain(tmp_path, ["vmfssparse", "sesparse"])
    raw = image(tmp_path / "d.vmdk", MIB)
    found = {path.name: is_vmdk(str(path)) for path in tmp_path.iterdir()}
    assert found == {
        "disk.vmdk": True,
        "disk-flat.vmdk": False,
        "disk-000001.vmdk": True,
        "disk-000001-delta.vmdk": True,
        "disk-000002.vmdk": True,
        "disk-000002-sesparse.vmdk": True,
        raw.name: False,
    }
    for name in ("disk-000001-delta.vmdk", "disk-000002-sesparse.vmdk"):
        with pytest.raises(NotADescriptor, match="one extent of a disk, without a descriptor"):
            LocalDisk(str(tmp_path / name))
    # A guest may write to its own disk whatever it likes.
    hurt(raw, 0, descriptor('RW 2 VMFS "disk-flat.vmdk"').encode())
    with open(raw, "r+b") as file:
        file.truncate(2 * MIB)
    assert not is_vmdk(str(raw))


def test_nothing_stays_open_when_opening_fails(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(1024))
    (tmp_path / "d.vmdk").write_text(descriptor('RW 2 VMFS "one"', 'RW 2 VMFS "two"'))
    before = len(os.listdir("/proc/self/fd"))
    for _turn in range(3):
        with pytest.raises(ExtentUnusable, match="two"):
            LocalDisk(str(tmp_path / "d.vmdk"))
    assert len(os.listdir("/proc/self/fd")) == before


# -- what the links above one say ------------------------------------------------------------------------------------

KINDS = {"vmfssparse": 512, "sesparse": 4096}


def told(path: Path, link: Path) -> list[tuple[int, int]]:
    disk = LocalDisk(str(path))
    try:
        return list(disk.above(str(link)))
    finally:
        disk.close()


def seen_by_qemu(path: Path, depth: int) -> list[tuple[int, int]]:
    """What lies in one of the topmost links, as qemu-img sees it; neighbours joined."""
    found: list[tuple[int, int]] = []
    for entry in json.loads(qemu("map", "--output=json", "-f", "vmdk", path)):
        if entry["depth"] < depth:
            if found and sum(found[-1]) == entry["start"]:
                found[-1] = (found[-1][0], found[-1][1] + entry["length"])
            else:
                found.append((entry["start"], entry["length"]))
    return found


@pytest.mark.parametrize("kinds", [["vmfssparse"], ["sesparse"], ["vmfssparse", "sesparse", "vmfssparse", "sesparse"]])
def test_the_deltas_above_a_link_tell_what_was_written_since_and_nothing_else(tmp_path: Path, kinds: list[str]) -> None:
    chance = random.Random(7)
    top, now = chain(tmp_path, [])
    links, then = [top], [bytes(now)]
    written: list[set[int]] = []
    for number, kind in enumerate(kinds, 1):
        child = tmp_path / f"disk-{number:06d}.vmdk"
        disks.create_delta(str(top), str(child), kind)
        top, before = child, bytes(now)
        scribble(top, now, chance, 20)
        grain = KINDS[kind]
        differs = {at // grain for at in range(0, len(now), 512) if now[at : at + 512] != before[at : at + 512]}
        links.append(top)
        then.append(bytes(now))
        written.append({byte for number in differs for byte in range(number * grain, (number + 1) * grain, 512)})
    for depth, link in enumerate(reversed(links)):
        found = told(top, link)
        assert found == seen_by_qemu(top, depth)
        sectors = {at for begin, length in found for at in range(begin, begin + length, 512)}
        old = then[len(links) - 1 - depth]
        assert {at for at in range(0, len(now), 512) if now[at : at + 512] != old[at : at + 512]} <= sectors
        # Besides those that differ only what was written as it was: here zeros over zeros.
        more = sectors - {at for part in written[len(kinds) - depth :] for at in part}
        assert all(not any(now[at : at + 512]) or now[at : at + 512] == old[at : at + 512] for at in more)
        assert (len(sectors) < len(now) // 512 // 2) and bool(sectors) is (depth > 0)
    with pytest.raises(ValueError, match="not in tuple"):
        told(top, tmp_path / "another.vmdk")


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_was_emptied_above_a_link_has_changed(tmp_path: Path, kind: str) -> None:
    top, _now = chain(tmp_path, [])
    child = tmp_path / "disk-000001.vmdk"
    disks.create_delta(str(top), str(child), kind)
    with disks.open_chain(str(child), writable=True) as disk:
        disk.write(8 * MIB, bytes(64 * 1024))
    assert told(child, top) == [(8 * MIB, 64 * 1024)]


def test_a_delta_over_a_disk_of_another_size_tells_nothing_and_so_all_of_it_counts(tmp_path: Path) -> None:
    top, now = chain(tmp_path, ["vmfssparse"])
    base = tmp_path / "disk.vmdk"
    sectors = len(now) // 512
    base.write_text(base.read_text().replace(f"RW {sectors} ", f"RW {sectors - 8} "))
    assert told(top, base) == [(0, len(now))]
