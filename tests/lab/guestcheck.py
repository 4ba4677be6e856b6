#!/usr/bin/env python3
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that the disks of a lab guest hold one single moment of its life.

A running lab guest writes 4 KiB records into a ring on partition 2 of each disk: record n goes to disk n % D, slots in
a scattered order, strictly one after the other. A copy of one moment is therefore explained by one number N: every slot
holds exactly the newest record <= N that belongs there. At most the record after N may be torn.

usage: guestcheck.py [--json] DISK.raw [DISK.raw ...]     exit 0: consistent, 1: not, 2: cannot tell
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

RECORD = 4096
RING_PARTITION = 2
HEADER_MAGIC = b"STWGRING"
RECORD_MAGIC = b"STWGREC1"
FLAG_CLEAN = 1
FLAG_QUIESCED = 2

_HEADER = struct.Struct("<8s16sIIQ")  # magic, vm uuid, disk number, number of disks, slots
_RECORD = struct.Struct("<8s16sQIIId")  # magic, vm uuid, sequence, disk number, number of disks, flags, wall time
_EMPTY = bytes(RECORD)

Read = Callable[[int, int], bytes]


class Unreadable(Exception):
    """The file is no disk of a lab guest."""


def seal(body: bytes) -> bytes:
    """A block of 4 KiB that ends in the SHA-256 of the rest."""
    body = body.ljust(RECORD - 32, b"\0")
    return body + hashlib.sha256(body).digest()


def sealed(block: bytes) -> bool:
    return hashlib.sha256(block[:-32]).digest() == block[-32:]


def header_block(vm: bytes, disk: int, disks: int, slots: int) -> bytes:
    return seal(_HEADER.pack(HEADER_MAGIC, vm, disk, disks, slots))


def record_block(vm: bytes, sequence: int, disk: int, disks: int, flags: int, at: float, filler: bytes = b"") -> bytes:
    return seal((_RECORD.pack(RECORD_MAGIC, vm, sequence, disk, disks, flags, at) + filler)[: RECORD - 32])


@functools.cache
def stride(slots: int) -> int:
    """A step coprime to `slots` near its golden section: neighbours in time lie far apart on the disk."""
    step = max(1, int(slots * 0.6180339887))
    while _gcd(step, slots) != 1:
        step += 1
    return step


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def find_ring(read: Read) -> tuple[int, int]:
    """(offset, length) of the ring partition in bytes, from the partition table."""
    first = read(0, 512)
    if first.startswith(b"# Disk DescriptorFile"):
        raise Unreadable("a VMDK descriptor: give its -flat.vmdk, or convert the chain with qemu-img -O raw first")
    if len(first) < 512 or first[510:512] != b"\x55\xaa":
        raise Unreadable("no partition table")
    entry = first[446 + 16 * (RING_PARTITION - 1) : 446 + 16 * RING_PARTITION]
    start, count = struct.unpack_from("<II", entry, 8)
    if first[450] == 0xEE:
        gpt = read(512, 512)
        if gpt[:8] != b"EFI PART":
            raise Unreadable("a protective MBR without a GPT")
        table, _number, size = struct.unpack_from("<QII", gpt, 72)
        entry = read(table * 512 + size * (RING_PARTITION - 1), size)
        start, last = struct.unpack_from("<QQ", entry, 32)
        count = last - start + 1 if start else 0
    if not count:
        raise Unreadable(f"no partition {RING_PARTITION}")
    return start * 512, count * 512


@dataclass
class Ring:
    """What one disk's ring holds. `slots[i]` is a sequence, None when empty, -1 when torn."""

    vm: bytes
    disk: int
    disks: int
    slots: list[int | None] = field(default_factory=list)
    flags: dict[int, int] = field(default_factory=dict)
    offset: int = 0


def read_ring(read: Read) -> Ring | None:
    """The ring of a disk; None where the partition was never used by a guest."""
    offset, length = find_ring(read)
    head = read(offset, RECORD)
    if head == _EMPTY:
        return None
    magic, vm, disk, disks, count = _HEADER.unpack_from(head)
    if magic != HEADER_MAGIC or not sealed(head) or disk >= disks or (count + 1) * RECORD > length:
        raise Unreadable("the ring's header is damaged")
    ring = Ring(vm, disk, disks, offset=offset)
    position = offset + RECORD
    left = count
    while left:
        part = read(position, min(left, 256) * RECORD)
        for start in range(0, min(left, 256) * RECORD, RECORD):
            block = part[start : start + RECORD]
            ring.slots.append(_sequence_of(block, ring))
        position += len(part)
        left -= min(left, 256)
    return ring


def _sequence_of(block: bytes, ring: Ring) -> int | None:
    if block == _EMPTY:
        return None
    if len(block) < RECORD:
        return -1
    magic, vm, sequence, disk, disks, flags, _at = _RECORD.unpack_from(block)
    if magic != RECORD_MAGIC or vm != ring.vm or disk != ring.disk or disks != ring.disks or not sealed(block):
        return -1
    ring.flags[sequence] = flags
    return int(sequence)


@dataclass
class Verdict:
    consistent: bool
    sequence: int = -1  # the last record; -1 where the guest never wrote one
    quiesced: bool = False
    clean: bool = False
    torn: int = 0
    disks_given: int = 0
    disks_of_guest: int = 0
    vm: str = ""
    problems: list[str] = field(default_factory=list)


def slot_of(index: int, slots: int) -> int:
    """The slot of a disk's `index`-th record."""
    return index * stride(slots) % slots


def judge(rings: list[Ring], names: list[str]) -> Verdict:
    """Whether one number explains all slots of all the rings."""
    first = rings[0]
    verdict = Verdict(True, disks_given=len(rings), disks_of_guest=first.disks, vm=first.vm.hex())
    for ring, name in zip(rings, names):
        if ring.vm != first.vm or ring.disks != first.disks:
            verdict.problems.append(f"{name}: disk of another guest, or from before its disks changed")
    numbers = [ring.disk for ring in rings]
    if len(set(numbers)) != len(numbers):
        verdict.problems.append(f"the same disk twice: numbers {sorted(numbers)}")
    if verdict.problems:
        verdict.consistent = False
        return verdict
    count = first.disks
    newest = max((s for ring in rings for s in ring.slots if s is not None), default=-1)
    verdict.sequence = newest
    # The next record that would have gone to one of these disks; only its slot may be torn.
    following = next(n for n in range(newest + 1, newest + 1 + count) if n % count in numbers)
    for ring, name in zip(rings, names):
        _judge_ring(ring, name, newest, following, verdict)
    last_flags = [_last_flags(ring, newest) for ring in rings]
    verdict.quiesced = all(flags & FLAG_QUIESCED for flags in last_flags)
    verdict.clean = all(flags & FLAG_CLEAN for flags in last_flags)
    verdict.consistent = not verdict.problems
    return verdict


def _last_flags(ring: Ring, newest: int) -> int:
    last = newest - (newest - ring.disk) % ring.disks
    return ring.flags.get(last, 0)


def _judge_ring(ring: Ring, name: str, newest: int, following: int, verdict: Verdict) -> None:
    count, slots = ring.disks, len(ring.slots)
    written = (newest - ring.disk) // count + 1 if newest >= ring.disk else 0
    expected: list[int | None] = [None] * slots
    step = stride(slots)
    for index in range(max(0, written - slots), written):
        expected[index * step % slots] = index * count + ring.disk
    torn_allowed = (following // count) * step % slots if following % count == ring.disk else -1
    wrong = []
    for slot, (want, got) in enumerate(zip(expected, ring.slots)):
        if got == want:
            continue
        if got == -1 and slot == torn_allowed:
            verdict.torn += 1
            continue
        wrong.append(f"slot {slot} holds {_word(got)}, {_word(want)} expected")
    if wrong:
        verdict.problems.append(f"{name} (disk {ring.disk}): {len(wrong)} wrong slots for N={newest}; {wrong[0]}")


def _word(value: int | None) -> str:
    return "nothing" if value is None else "a damaged record" if value == -1 else f"record {value}"


def file_reader(path: str) -> Read:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(offset: int, length: int) -> bytes:
        return os.pread(fd, length, offset)

    return read


def check_files(paths: list[str]) -> Verdict:
    """Judge the disks in these raw files."""
    rings = []
    for path in paths:
        try:
            ring = read_ring(file_reader(path))
        except (Unreadable, struct.error) as error:
            raise Unreadable(f"{path}: {error}") from error
        if ring is None:
            raise Unreadable(f"{path}: no guest ever wrote to this disk")
        rings.append(ring)
    return judge(rings, paths)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Do these disks of one lab guest hold one single moment?")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument("disks", nargs="+", help="raw images or -flat.vmdk files")
    options = parser.parse_args(argv)
    try:
        verdict = check_files(options.disks)
    except (Unreadable, OSError) as error:
        if options.json:
            print(json.dumps({"consistent": None, "error": str(error)}))
        else:
            print(f"guestcheck: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(asdict(verdict)))
    else:
        words = [name for name in ("quiesced", "clean") if getattr(verdict, name)]
        state = "consistent" if verdict.consistent else "NOT consistent"
        print(f"{state} sequence={verdict.sequence} {' '.join(words) or 'crash'} torn={verdict.torn}")
        for problem in verdict.problems:
            print(f"  {problem}")
    return 0 if verdict.consistent else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
