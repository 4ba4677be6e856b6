# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written to a disk of a host arrives, stays thin, and is known to be there when the sync returns."""

from __future__ import annotations

import hashlib
import operator
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import remotetarget, steady
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.diskerrors import FileChanged, GaveUp, WritesLost
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import FileRefused
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable, PathOutside
from remotebench import LocalHost

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 4)


def flat(folder: Path, size: int = 40 * MIB) -> Path:
    with open(folder / "d-flat.vmdk", "wb") as file:
        file.truncate(size)
    return folder / "d-flat.vmdk"


def target(path: Path, host: LocalHost | None = None, **options: Any) -> RemoteTarget:
    return RemoteTarget(host or LocalHost(), str(path), roots=[os.path.realpath(path.parent)], **options)


def scattered(size: int, seed: int = 1) -> dict[int, bytes]:
    """Chunks of a disk, a third of them, in no order; random bytes, text, zeros."""
    chance = random.Random(seed)
    places = chance.sample(range(0, size, MIB), size // MIB // 3)
    return {at: chance.choice([chance.randbytes(MIB), (b"text " * MIB)[:MIB], bytes(MIB)]) for at in places}


def write_all(disk: RemoteTarget, chunks: dict[int, bytes], lanes: int = 2, known: bool = False) -> None:
    """`known`: from bytes that nobody can change, whose hash the caller can tell."""
    opened = [disk.lane() for _lane in range(lanes)]
    room = bytearray(MIB)
    for number, (offset, data) in enumerate(chunks.items()):
        if known:
            opened[number % lanes].write(memoryview(data), offset, partial(operator.eq, hashlib.sha256(data).digest()))
            continue
        room[:] = data
        opened[number % lanes].write(memoryview(room), offset)
        # The room is the caller's again.
        room[:] = b"x" * MIB
    disk.sync()


@pytest.mark.parametrize("level", [None, 0, 1])
def test_what_is_written_arrives_and_the_rest_stays_thin(tmp_path: Path, level: int | None) -> None:
    path = flat(tmp_path)
    chunks = scattered(40 * MIB)
    with target(path, level=level) as disk:
        assert disk.size == 40 * MIB and list(disk.data_ranges(0, disk.size)) == []
        write_all(disk, chunks)
    expected = bytearray(40 * MIB)
    for offset, data in chunks.items():
        expected[offset : offset + MIB] = data
    assert path.read_bytes() == expected
    assert os.stat(path).st_blocks * 512 <= len(chunks) * MIB + 65536


def test_what_is_there_is_told_by_hashes_and_only_the_rest_is_written(tmp_path: Path) -> None:
    path = flat(tmp_path)
    chunks = scattered(40 * MIB)
    with open(path, "r+b") as file:
        for number, (offset, data) in enumerate(chunks.items()):
            file.seek(offset)
            file.write(data if number % 2 else b"other" * 100)
    with target(path) as disk, disk.lane() as lane:
        places = list(chunks)
        found = lane.ask([(at, MIB) for at in places]).hashes()
        wanted = [None if not any(chunks[at]) else hashlib.sha256(chunks[at]).digest() for at in places]
        wrong = [at for at, there, due in zip(places, found, wanted) if there != due]
        assert wrong == places[::2]
        for at in wrong:
            lane.write(memoryview(chunks[at]), at)
        disk.sync()
        assert lane.ask([(at, MIB) for at in places]).hashes() == wanted
        assert lane.written_bytes == len(wrong) * MIB


def opening(path: Path) -> int:
    """Bytes of the answers that a lane has had when it can write."""
    host = LocalHost()
    with target(path, host) as disk, disk.lane():
        pass
    return host.heard(1) - 12


@pytest.mark.parametrize("known", [False, True])
def test_cut_connections_lose_nothing(tmp_path: Path, known: bool) -> None:
    path = flat(tmp_path)
    chunks = scattered(40 * MIB)
    # The answer to a write has 12 bytes.
    host = LocalHost(1 << 40, *(opening(path) + more for more in (30, 4, 0, 50, 12)))
    with target(path, host) as disk:
        write_all(disk, chunks, lanes=1, known=known)
    assert len(host.links) == 7
    for offset, data in chunks.items():
        with open(path, "rb") as file:
            file.seek(offset)
            assert file.read(MIB) == data


@pytest.mark.parametrize("known", [False, True])
def test_what_a_host_has_lost_although_it_had_it_is_told(tmp_path: Path, known: bool) -> None:
    path = flat(tmp_path)
    chunks = {at: random.Random(at).randbytes(MIB) for at in range(0, 12 * MIB, MIB)}
    host = LocalHost(1 << 40, opening(path) + 4 * 12)
    lost: list[int] = []

    def power_cut() -> None:
        if len(host.links) == 2 and not lost:
            lost.append(0)
            with open(path, "r+b") as file:
                file.write(bytes(MIB))

    host.before_start = power_cut
    with target(path, host) as disk, pytest.raises(WritesLost, match="does not hold what was written to byte 0"):
        write_all(disk, chunks, lanes=1, known=known)
    assert lost


def test_another_file_in_its_place_is_not_written_to(tmp_path: Path) -> None:
    path = flat(tmp_path)
    chunks = {at: random.Random(at).randbytes(MIB) for at in range(0, 12 * MIB, MIB)}
    host = LocalHost(1 << 40, opening(path) + 4 * 12)

    def replaced() -> None:
        if len(host.links) == 2:
            path.rename(tmp_path / "ours")
            flat(tmp_path)

    host.before_start = replaced
    with target(path, host) as disk, pytest.raises(FileChanged, match="d-flat.vmdk on here is not what it was"):
        write_all(disk, chunks, lanes=1)
    assert path.read_bytes().count(0) == 40 * MIB


def test_now_and_then_all_of_it_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotetarget, "SYNC_BYTES", 3 * MIB)
    path = flat(tmp_path)
    with target(path) as disk, disk.lane() as lane:
        for at in range(0, 10 * MIB, MIB):
            lane.write(memoryview(b"y" * MIB), at)
        assert len(lane._taken) == 1
        disk.sync()
        assert lane._taken == []
    with target(path, durable=True) as disk, disk.lane() as lane:
        lane.write(memoryview(b"z" * MIB), 0)
        assert lane._taken == [] and path.read_bytes()[:MIB] == b"z" * MIB


def test_a_host_without_room_is_told(tmp_path: Path) -> None:
    path = Path("/dev/full")
    with pytest.raises(ExtentUnusable, match="/dev/full"):
        RemoteTarget(LocalHost(), str(path), roots=["/dev"])
    with pytest.raises(ExtentUnusable, match="No such file"):
        target(tmp_path / "none")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(flat(tmp_path))
    with pytest.raises(PathOutside):
        target(tmp_path / "in" / "link")


def test_a_file_that_refuses_a_write_is_named(tmp_path: Path) -> None:
    path = flat(tmp_path, MIB)
    with target(path) as disk, disk.lane() as lane:
        lane.write(memoryview(b"z" * MIB), (1 << 62) - MIB)
        with pytest.raises(FileRefused, match="d-flat.vmdk on here cannot be written"):
            disk.sync()


def test_a_host_that_stays_away_is_told(tmp_path: Path) -> None:
    path = flat(tmp_path)
    host = LocalHost(1 << 40, opening(path) + 30)
    with target(path, host) as disk, disk.lane() as lane:
        host.cuts = [0] * 10
        with pytest.raises(GaveUp):
            for at in range(0, 40 * MIB, MIB):
                lane.write(memoryview(b"y" * MIB), at)
            disk.sync()
