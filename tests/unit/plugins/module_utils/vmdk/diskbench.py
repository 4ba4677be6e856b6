# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of every format, made by programs that are not ours."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import zlib
from pathlib import Path

from esxilab import disks

MIB = 1 << 20


def qemu(*words: object) -> str:
    return subprocess.run(
        ["qemu-img", *map(str, words)], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout


def image(path: Path, size: int, seed: int = 1, count: int = 60) -> Path:
    """A raw disk: holes, zeros, text and random bytes, in pieces of all lengths."""
    chance = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for _turn in range(count):
            length = chance.choice([512, 4096, 70_000, 300_000])
            offset = chance.randrange(max(1, (size - length) // 512)) * 512
            data = chance.choice([chance.randbytes(length), bytes(length), (b"text " * length)[:length]])
            file.seek(offset)
            file.write(data[: size - offset])
    return path


def converted(raw: Path, target: Path, subformat: str) -> Path:
    # Without a sync of every file: nobody cuts the power here.
    qemu("convert", "-t", "unsafe", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, target)
    return target


def mapped(path: Path, form: str = "vmdk") -> list[tuple[int, int]]:
    """Where qemu-img sees data, neighbours joined."""
    found: list[tuple[int, int]] = []
    for entry in json.loads(qemu("map", "--output=json", "-f", form, path)):
        if entry["data"] and not entry["zero"]:
            if found and sum(found[-1]) == entry["start"]:
                found[-1] = (found[-1][0], found[-1][1] + entry["length"])
            else:
                found.append((entry["start"], entry["length"]))
    return found


def chain(folder: Path, kinds: list[str], size: int = 20 * MIB + 512, seed: int = 1) -> tuple[Path, bytearray]:
    """A disk with a delta for each kind (vmfssparse, sesparse), written to by the lab; its top, and what it holds."""
    chance = random.Random(seed)
    top = folder / "disk.vmdk"
    disks.create_disk(str(top), size, "thin")
    expected = bytearray(size)
    scribble(top, expected, chance)
    for number, kind in enumerate(kinds, 1):
        child = folder / f"disk-{number:06d}.vmdk"
        disks.create_delta(str(top), str(child), kind)
        top = child
        scribble(top, expected, chance)
    return top, expected


def scribble(path: Path, expected: bytearray, chance: random.Random, count: int = 40) -> None:
    with disks.open_chain(str(path), writable=True) as disk:
        for _turn in range(count):
            length = chance.choice([512, 1024, 4096, 9 * 512, 128 * 1024])
            offset = chance.randrange((len(expected) - length) // 512) * 512
            data = chance.choice([chance.randbytes(length), bytes(length)])
            disk.write(offset, data)
            expected[offset : offset + length] = data


def stream(path: Path, data: bytes, grain_sectors: int = 128) -> Path:
    """A compressed extent written in one go, as an export makes it: grains, tables, directory, footer, end mark."""
    sectors, grain = -(-len(data) // 512), grain_sectors * 512
    text = (
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
        f'createType="streamOptimized"\n\nRW {sectors} SPARSE "exported.vmdk"\n'
    ).encode()

    def header(directory: int) -> bytes:
        words = (b"KDMV", 3, 0x30001, sectors, grain_sectors, 1, 20, 512, 0, directory, 128, 0, b"\n \r\n", 1)
        return struct.pack("<4sIIQQQQIQQQB4sH", *words).ljust(512, b"\0")

    out = bytearray(header((1 << 64) - 1) + text.ljust(20 * 512, b"\0"))
    out += bytes(128 * 512 - len(out))
    table, tables = [], []
    count = -(-sectors // grain_sectors)

    def padded(block: bytes) -> bytes:
        return block + bytes(-len(block) % 512)

    for number in range(count):
        part = data[number * grain : (number + 1) * grain].ljust(grain, b"\0")
        place = 0
        if part.count(0) < len(part):
            place = len(out) // 512
            packed = zlib.compress(part)
            out += padded(struct.pack("<QI", number * grain_sectors, len(packed)) + packed)
        table.append(place)
        if len(table) == 512 or number == count - 1:
            if any(table):
                out += struct.pack("<QII", 4, 0, 1).ljust(512, b"\0")
                tables.append(len(out) // 512)
                out += struct.pack("<512I", *table, *[0] * (512 - len(table)))
            else:
                tables.append(0)
            table = []
    out += struct.pack("<QII", -(-len(tables) * 4 // 512), 0, 2).ljust(512, b"\0")
    directory = len(out) // 512
    out += padded(struct.pack(f"<{len(tables)}I", *tables))
    out += struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + header(directory) + bytes(512)
    path.write_bytes(out)
    return path
