# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's guest writes so that the checker can tell one moment from a mixture."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import guestcheck
import pytest
from esxilab import disks, images
from esxilab.guest import GuestWriter

MIB = 1 << 20
RING = 64 << 10  # 15 slots


class MemoryDisk:
    """A guest's disk in memory: a partition table and a ring, nothing else."""

    def __init__(self, source: Path) -> None:
        self.data = bytearray(source.read_bytes())

    @property
    def capacity(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    images.make_disk_image(str(folder / "disk.raw"), 64 * MIB, 1, ring=RING, cache=str(folder))
    return folder / "disk.raw"


def rings_of(contents: list[bytes]) -> list[guestcheck.Ring]:
    found = []
    for content in contents:
        ring = guestcheck.read_ring(lambda offset, length, content=content: content[offset : offset + length])
        assert ring is not None
        found.append(ring)
    return found


def verdict_of(contents: list[bytes]) -> guestcheck.Verdict:
    return guestcheck.judge(rings_of(contents), [f"disk{n}" for n in range(len(contents))])


def moments(image: Path, count: int, number_of_disks: int) -> list[list[list[int | None]]]:
    """The slots of all disks after each of `count` records."""
    members = [MemoryDisk(image) for _ in range(number_of_disks)]
    guest = GuestWriter(members)
    guest.load()
    found = []
    for _ in range(count):
        guest.write_now()
        rings = [guestcheck.read_ring(member.read) for member in members]
        found.append([list(ring.slots) for ring in rings if ring])
    return found


def judge_slots(slots: list[list[int | None]]) -> guestcheck.Verdict:
    rings = [guestcheck.Ring(b"v" * 16, number, len(slots), list(one)) for number, one in enumerate(slots)]
    return guestcheck.judge(rings, [f"disk{number}" for number in range(len(slots))])


@pytest.mark.parametrize("number_of_disks", [1, 2, 3])
def test_every_moment_is_consistent_and_named_by_its_last_record_even_after_the_ring_wrapped(
    image: Path, number_of_disks: int
) -> None:
    for sequence, slots in enumerate(moments(image, 50 * number_of_disks, number_of_disks)):
        verdict = judge_slots(slots)
        assert (verdict.consistent, verdict.sequence, verdict.torn) == (True, sequence, 0)


def test_two_disks_of_different_moments_are_found_out_unless_they_are_one_moment(image: Path) -> None:
    states = moments(image, 70, 2)
    found_out = 0
    for early, late in itertools.combinations(range(10, 70), 2):
        for mixture in ([states[early][0], states[late][1]], [states[late][0], states[early][1]]):
            real = mixture in states[early : late + 1]
            assert judge_slots(mixture).consistent == real, (early, late)
            found_out += not real
    assert found_out > 3000


def test_a_mixture_of_slots_is_consistent_only_if_it_is_one_moment(image: Path) -> None:
    states = moments(image, 120, 2)
    chooser = random.Random(5)
    outcomes = {True: 0, False: 0}
    for _ in range(4000):
        early = chooser.randrange(20, 110)
        late = min(119, early + chooser.randrange(1, 6))
        mixture = [[chooser.choice(pair) for pair in zip(states[early][disk], states[late][disk])] for disk in (0, 1)]
        real = mixture in states[early : late + 1]
        assert judge_slots(mixture).consistent == real
        outcomes[real] += 1
    assert min(outcomes.values()) > 300


def test_only_the_record_after_the_last_may_be_torn(image: Path) -> None:
    states = moments(image, 60, 2)
    slots = states[40]
    allowed = [
        (disk, slot)
        for disk in (0, 1)
        for slot in range(len(slots[disk]))
        if states[41][disk][slot] != slots[disk][slot]
    ]
    accepted = []
    for disk in (0, 1):
        for slot in range(len(slots[disk])):
            torn = [list(one) for one in slots]
            torn[disk][slot] = -1
            verdict = judge_slots(torn)
            if verdict.consistent and verdict.sequence == 40:
                assert verdict.torn == 1
                accepted.append((disk, slot))
    assert accepted == allowed
    # The last record itself torn is the moment before it.
    disk, slot = next((d, s) for d in (0, 1) for s in range(len(slots[d])) if slots[d][s] != states[39][d][s])
    torn = [list(one) for one in slots]
    torn[disk][slot] = -1
    assert (judge_slots(torn).consistent, judge_slots(torn).sequence) == (True, 39)


def test_one_of_two_disks_alone_is_judged_by_what_it_holds(image: Path) -> None:
    slots = moments(image, 41, 2)[-1]
    for number in (0, 1):
        ring = guestcheck.Ring(b"v" * 16, number, 2, list(slots[number]))
        verdict = guestcheck.judge([ring], ["alone"])
        assert (verdict.consistent, verdict.disks_given, verdict.disks_of_guest) == (True, 1, 2)
        ring.slots[3], ring.slots[4] = ring.slots[4], ring.slots[3]
        assert not guestcheck.judge([ring], ["alone"]).consistent


def test_a_damaged_byte_in_any_record_is_found(image: Path) -> None:
    disk = MemoryDisk(image)
    guest = GuestWriter([disk])
    guest.load()
    guest.write_now(40)
    offset, _ = guestcheck.find_ring(disk.read)
    ring = guestcheck.read_ring(disk.read)
    assert ring is not None
    oldest = ring.slots.index(min(s for s in ring.slots if s is not None))
    second = ring.slots.index(min(s for s in ring.slots if s is not None) + 1)
    for slot, fine in ((oldest, True), (second, False)):
        place = offset + guestcheck.RECORD * (slot + 1) + 2000
        disk.data[place] ^= 1
        assert verdict_of([bytes(disk.data)]).consistent is fine  # the oldest is where the next one goes
        disk.data[place] ^= 1


def test_a_copy_taken_while_the_guest_writes_is_found_out(image: Path) -> None:
    # The copier reads in order; the guest goes on between its steps, as it does under any real copy.
    for steps in (2, 4, 8):
        disk = MemoryDisk(image)
        guest = GuestWriter([disk])
        guest.load()
        guest.write_now(40)
        offset, length = guestcheck.find_ring(disk.read)
        copy = bytearray(disk.data)
        size = length // steps
        for start in range(offset, offset + length, size):
            copy[start : start + size] = disk.data[start : start + size]
            guest.write_now(3)
        assert not verdict_of([bytes(copy)]).consistent
        assert verdict_of([bytes(disk.data)]).consistent


def make_disks(folder: Path, count: int = 2, **options: object) -> list[Path]:
    paths = [folder / f"web{number or ''}.vmdk" for number in range(count)]
    for number, path in enumerate(paths):
        images.make_guest_disk(
            str(path),
            64 * MIB,
            number,
            ring=RING,
            cache=str(folder.parent / "cache"),
            **options,  # type: ignore[arg-type]
        )
    return paths


def run_check(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", guestcheck.__file__, *map(str, words)], capture_output=True, text=True, check=False
    )


def test_a_running_guest_writes_to_a_delta_and_leaves_its_base_alone(tmp_path: Path) -> None:
    folder = tmp_path / "vm"
    folder.mkdir()
    bases = make_disks(folder)
    opened = [disks.open_chain(str(path), writable=True) for path in bases]
    guest = GuestWriter(opened, rate=2000)
    guest.start()
    guest.write_now(25)
    guest.pause()
    frozen_at = guest.sequence
    frozen = [path.with_name(path.stem + "-flat.vmdk").read_bytes() for path in bases]
    deltas = [path.with_name(path.stem + "-000001.vmdk") for path in bases]
    for kind, base, delta in zip(("sesparse", "vmfssparse"), bases, deltas):
        disks.create_delta(str(base), str(delta), kind)
    for old in guest.swap([disks.open_chain(str(path), writable=True) for path in deltas]):
        old.close()
    guest.resume()
    guest.write_now(50)
    guest.shutdown()
    assert [path.with_name(path.stem + "-flat.vmdk").read_bytes() for path in bases] == frozen
    flats = [path.with_name(path.stem + "-flat.vmdk") for path in bases]
    frozen_verdict = json.loads(run_check("--json", *flats).stdout)
    assert (frozen_verdict["consistent"], frozen_verdict["sequence"]) == (True, frozen_at)
    for delta in deltas:
        disks.clone(str(delta), str(delta.with_name(f"copy-{delta.name}")), "thin")
    copies = [delta.with_name(f"copy-{delta.stem}-flat.vmdk") for delta in deltas]
    verdict = json.loads(run_check("--json", *copies).stdout)
    assert verdict["consistent"] and verdict["clean"] and not verdict["quiesced"]
    assert verdict["sequence"] == guest.sequence > frozen_at + 50
    # One disk from the snapshot, one from later: a mixture, and the checker says so.
    assert run_check(flats[0], copies[1]).returncode == 1


def test_quiesce_marks_every_disk_and_holds_still_until_resume(tmp_path: Path) -> None:
    folder = tmp_path / "vm"
    folder.mkdir()
    paths = make_disks(folder, 3)
    flats = [path.with_name(path.stem + "-flat.vmdk") for path in paths]
    guest = GuestWriter([disks.open_chain(str(path), writable=True) for path in paths], rate=5000)
    guest.start()
    guest.write_now(10)
    guest.quiesce()
    at = guest.sequence
    done = run_check(*flats)
    assert done.returncode == 0 and f"sequence={at} quiesced" in done.stdout
    assert guest.sequence == at and guest.paused
    guest.resume()
    guest.write_now(3)
    guest.stop()
    done = run_check(*flats)
    assert done.returncode == 0 and "crash" in done.stdout
    # Each disk alone tells as much: the mark is on all of them.
    assert "quiesced" not in "".join(run_check(flat).stdout for flat in flats)


def test_a_restarted_guest_goes_on_where_its_disks_end(image: Path) -> None:
    members = [MemoryDisk(image), MemoryDisk(image)]
    first = GuestWriter(members)
    first.load()
    first.write_now(37)
    again = GuestWriter(members)
    again.load()
    assert (again.was_consistent, again.sequence) == (True, 36)
    again.write_now(4)
    assert judge_slots([list(r.slots) for r in rings_of([bytes(m.data) for m in members])]).sequence == 40


def test_a_guest_that_boots_from_a_mixture_says_so_and_begins_anew(image: Path) -> None:
    members = [MemoryDisk(image), MemoryDisk(image)]
    first = GuestWriter(members)
    first.load()
    first.write_now(20)
    old = bytes(members[0].data)
    first.write_now(20)
    members[0].data[:] = old
    again = GuestWriter(members)
    again.load()
    assert again.was_consistent is False
    again.write_now(5)
    verdict = verdict_of([bytes(member.data) for member in members])
    assert (verdict.consistent, verdict.sequence) == (True, 4)


def test_a_full_datastore_stops_the_guest_until_there_is_room(volume: Callable[[int], Path]) -> None:
    folder = volume(6)
    roomy = volume(64)
    path, delta = roomy / "web.vmdk", folder / "web-000001.vmdk"
    images.make_guest_disk(str(path), 64 * MIB, 1, ring=8 * MIB, cache=str(roomy / "cache"))
    disks.create_delta(str(path), str(delta), "vmfssparse")
    (folder / "ballast").write_bytes(bytes(4 * MIB))
    told = threading.Event()
    disk = disks.open_chain(str(delta), writable=True)
    guest = GuestWriter([disk], rate=1e6, on_error=lambda error: told.set())
    guest.start()
    assert told.wait(60)
    assert isinstance(guest.error, disks.DiskFull) and guest.paused
    stuck_at = guest.sequence
    (folder / "ballast").unlink()
    guest.resume()
    guest.write_now(5)
    guest.stop()
    assert guest.sequence >= stuck_at + 5
    disk.close()
    disks.clone(str(delta), str(roomy / "copy.vmdk"), "thin")
    verdict = json.loads(run_check("--json", roomy / "copy-flat.vmdk").stdout)
    assert (verdict["consistent"], verdict["sequence"]) == (True, guest.sequence)


def test_a_disk_without_a_ring_is_left_alone(tmp_path: Path) -> None:
    disks.create_disk(str(tmp_path / "blank.vmdk"), 8 * MIB)
    disk = disks.open_chain(str(tmp_path / "blank.vmdk"), writable=True)
    guest = GuestWriter([disk], rate=1000)
    guest.start()
    guest.write_now(3)
    guest.shutdown()
    assert list(disk.allocated()) == []
    assert guest.sequence == -1


def test_the_checker_is_one_file_and_tells_what_it_cannot_judge(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(guestcheck.__file__, alone)
    (alone / "zeros.raw").write_bytes(bytes(MIB))
    folder = tmp_path / "vm"
    folder.mkdir()
    path = make_disks(folder, 1)[0]
    for target, reason in (
        (alone / "zeros.raw", "no partition table"),
        (path, "a VMDK descriptor"),
        (folder / "web-flat.vmdk", "no guest ever wrote"),
        (alone / "none.raw", "No such file"),
    ):
        done = subprocess.run(
            [sys.executable, "-I", "-S", alone / "guestcheck.py", target], capture_output=True, text=True, check=False
        )
        assert (done.returncode, reason in done.stderr) == (2, True), done
