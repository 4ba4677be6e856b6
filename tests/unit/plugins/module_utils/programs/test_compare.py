# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies that lie: what the comparison reads, what it meets, and what it says where it could not look."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import compare
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import Chain, Link
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import parse_descriptor

from .test_vmkfstools import ShellSession

MIB = 1 << 20
CAPACITY = 40 * MIB


@pytest.fixture
def pair(host_shell):
    source, copy = host_shell.volume / "a-flat.vmdk", host_shell.volume / "b-flat.vmdk"
    data = os.urandom(CAPACITY)
    source.write_bytes(data)
    copy.write_bytes(data)
    return source, copy


def look(host_shell, pair, calls, whole=False):
    beats: list[int] = []
    host = Host(ShellSession(host_shell))
    verdict = compare.compare(host, str(pair[0]), str(pair[1]), calls, ("", ""), beats.append, whole)
    return verdict, beats


def test_a_sample_reads_both_ends_and_one_block_of_each_stretch():
    parts = compare.sample(1 << 40, "job")
    assert parts == compare.sample(1 << 40, "job") != compare.sample(1 << 40, "other job")
    assert parts[0] == (0, compare.EDGE_BLOCKS)
    assert sum(parts[-1]) * compare.BLOCK == 1 << 40
    blocks = (1 << 40) // compare.BLOCK
    assert [number for start, _count in parts[1:-1] for number in [start * 64 // blocks]] == sorted(range(64))
    assert sum(count for _start, count in parts) == 128


@pytest.mark.parametrize("capacity", [512, 65536, 65537, MIB, 8 * MIB, 8 * MIB + 512, CAPACITY + 512])
def test_no_part_lies_outside_of_the_disk_or_is_read_twice(capacity):
    blocks = -(-capacity // compare.BLOCK)
    for parts in (compare.sample(capacity, "job"), compare.slices(capacity)):
        read = [start + number for start, count in parts for number in range(count)]
        assert read == sorted(set(read)) and read[0] == 0 and read[-1] == blocks - 1
    assert sum(count for _start, count in compare.slices(capacity)) == blocks


def test_equal_copies_are_the_same_by_sample_and_in_full(host_shell, pair):
    verdict, beats = look(host_shell, pair, [compare.sample(CAPACITY, "job")])
    assert (verdict, beats) == (compare.Verdict("sample of 128 blocks of 64 KiB"), [128])
    verdict, _beats = look(host_shell, pair, [[part] for part in compare.slices(CAPACITY)], True)
    assert verdict == compare.Verdict("full")


@pytest.mark.parametrize("hole", [(0, 512), (CAPACITY - MIB, MIB), (CAPACITY - 512, 512), (10 * MIB, 2 * MIB)])
def test_a_gap_at_the_ends_or_wider_than_a_stretch_is_met_by_a_sample(host_shell, pair, hole):
    start, size = hole
    with pair[1].open("r+b") as file:
        file.seek(start)
        file.write(b"\0" * size)
    verdict, _beats = look(host_shell, pair, [compare.sample(CAPACITY, "job")])
    assert verdict.verified == "" and "other bytes" in verdict.differs


def test_one_other_byte_anywhere_is_met_in_full(host_shell, pair):
    with pair[1].open("r+b") as file:
        file.seek(33 * MIB + 7)
        byte = file.read(1)[0]
        file.seek(33 * MIB + 7)
        file.write(bytes([byte ^ 1]))
    verdict, _beats = look(host_shell, pair, [[part] for part in compare.slices(CAPACITY)], True)
    assert verdict.differs == f"other bytes at or after offset {33 * MIB}" or "other bytes" in verdict.differs


def test_what_cannot_be_read_is_told_and_not_passed_over(host_shell, pair):
    pair[1].unlink()
    assert "the copy cannot be read" in look(host_shell, pair, [[(0, 1)]])[0].differs
    pair[0].unlink()
    verdict, beats = look(host_shell, pair, [[(0, 1)]])
    assert verdict.differs == "" and not beats
    assert verdict.verified.startswith("not compared: the host does not let its source be read (No such file")


class WithoutHashes(ShellSession):
    """A host that has neither of the programs."""

    def script(self, text, *words, **options):
        return super().script("which() { return 1; }\nmd5sum() { return 127; }\n" + text, *words, **options)


def test_a_host_without_a_hash_proves_nothing(host_shell, pair):
    pair[1].write_bytes(bytes(CAPACITY))
    host = Host(WithoutHashes(host_shell))
    parts = [compare.sample(CAPACITY, "job")]
    verdict = compare.compare(host, str(pair[0]), str(pair[1]), parts, ("", ""), lambda _done: None, False)
    assert verdict == compare.Verdict("not compared: the host has neither sha256sum nor md5sum")


def test_the_lease_is_touched_by_each_reading(host_shell, pair):
    lease = host_shell.volume / "lease"
    lease.write_text("")
    os.utime(lease, (1, 1))
    compare.compare(
        Host(ShellSession(host_shell)), *map(str, pair), [[(0, 1)]], (str(lease), ""), lambda done: None, False
    )
    assert lease.stat().st_mtime > 1


FLAT = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="vmfs"
RW 2048 VMFS "x-flat.vmdk"
"""


@pytest.mark.parametrize(
    ("texts", "path", "why"),
    [
        ([FLAT], "/v/x-flat.vmdk", ""),
        ([FLAT, FLAT], "", "chain of 2 links"),
        ([FLAT + 'ddb.iofilters = "vmwarevmcrypt"\n'], "", "encrypted"),
        ([FLAT.replace('"vmfs"', '"vmfsPassthroughRawDeviceMap"').replace("VMFS", "VMFSRDM")], "", "kind rdm"),
        ([FLAT + 'RW 2048 VMFS "y-flat.vmdk"\n'], "", "not one flat extent"),
    ],
)
def test_only_one_flat_file_is_compared(texts, path, why):
    chain = Chain(tuple(Link("/v/x.vmdk", parse_descriptor(text, "/v/x.vmdk")) for text in texts))
    found, reason = compare.flat_extent(chain)
    assert found == path and why in reason


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A disk in extents of 2 GB, made by qemu-img; the first is full of data up to 3 MiB, the second ends its disk."""
    if shutil.which("qemu-img") is None:
        pytest.fail("these tests need qemu-img")
    folder = tmp_path_factory.mktemp("sparse")
    raw = folder / "raw"
    with raw.open("wb") as file:
        file.write(os.urandom(3 * MIB))
        file.truncate((2 << 30) + MIB)
    subprocess.run(
        ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", str(raw), str(folder / "x.vmdk")],
        check=True,
    )
    raw.unlink()
    return folder


def extents(folder):
    link = Link(str(folder / "x.vmdk"), parse_descriptor((folder / "x.vmdk").read_text().rstrip("\0"), "x.vmdk"))
    return [
        (path, extent.sectors, os.path.getsize(path))
        for path, extent in zip(link.extent_paths, link.descriptor.extents)
    ]


def test_whole_sparse_extents_are_whole(host_shell, sparse):
    assert len(extents(sparse)) == 2
    assert compare.sparse_fault(Host(ShellSession(host_shell)), extents(sparse), ("", "")) == ""


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (-65536, "and its tables point to"),
        (-1, "and its tables point to"),
        (8192, "its own tables"),
        (3, "not a sparse"),
    ],
)
def test_a_sparse_extent_that_was_cut_is_told(host_shell, sparse, tmp_path, size, reason):
    copy = tmp_path / "copy"
    shutil.copytree(sparse, copy)
    path, _sectors, whole = extents(copy)[0]
    os.truncate(path, size if size > 0 else whole + size)
    fault = compare.sparse_fault(Host(ShellSession(host_shell)), extents(copy), ("", ""))
    assert path in fault and reason in fault


def test_a_sparse_extent_of_another_disk_is_told(host_shell, sparse):
    (first, _sectors, size), (_second, other, _size) = extents(sparse)
    mine = [(str(sparse / os.path.basename(extents(sparse)[1][0])), 4194304, size), (first, other, size)]
    assert "sectors instead of 4194304" in compare.sparse_fault(Host(ShellSession(host_shell)), mine, ("", ""))


def test_lease_and_beat_are_kept_fresh_before_each_part(host_shell, pair, monkeypatch):
    """On slow storage the parts of one call take longer than the watchdog, or the lease, waits for a sign."""
    signs = (str(host_shell.folder / "lease"), str(host_shell.folder / "beat"))
    session = ShellSession(host_shell)
    log = host_shell.folder / "touched"
    run = session.script
    noting = f'touch() {{ echo "$2" >>{log}; }}\n'
    monkeypatch.setattr(session, "script", lambda text, args=(), **more: run(noting + text, args, **more))
    parts = [(number, 1) for number in range(5)]
    assert compare.compare(Host(session), *map(str, pair), [parts], signs, lambda done: None, False).verified
    touched = log.read_text().split()
    assert touched.count(signs[0]) == touched.count(signs[1]) == 2 * len(parts)
