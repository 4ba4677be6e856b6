# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast, and packed or raw: by what was measured."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import processors
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.codec import PACKED, RAW, CodecChoice
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.throttle import Throttle
from fakeclock import FakeClock
from remotebench import LocalHost, remote

from diskbench import converted  # isort: skip

MIB = 1 << 20


def told(choice: CodecChoice, raw: float, packed: float, ratio: float, mebibytes: int) -> list[int]:
    """The ways in which a disk went, where a byte costs so many seconds in each."""
    ways = []
    for _part in range(mebibytes // 4):
        level = choice.level(4 * MIB)
        ways.append(level)
        cost, part = (raw, 1.0) if level == RAW else (packed, ratio)
        choice.told(level, 4 * MIB, int(4 * MIB * part), 4 * MIB * cost)
    return ways


def test_a_slow_link_gets_packed_bytes_and_a_fast_one_raw_ones() -> None:
    slow = told(CodecChoice(), 1 / 20e6, 1 / 45e6, 0.4, 1024)
    assert slow[:2] == [RAW, PACKED] and slow[8:100] == [PACKED] * 92
    fast = told(CodecChoice(), 1 / 400e6, 1 / 90e6, 0.4, 1024)
    assert fast[8:100] == [RAW] * 92
    # Bytes that do not pack.
    assert told(CodecChoice(), 1 / 20e6, 1 / 19e6, 1.0, 1024)[8:100] == [RAW] * 92


def not_busy() -> bool:
    return False


def wired(choice: CodecChoice, pace: float, packing: float, ratio: float, mebibytes: int) -> list[int]:
    """As `told`, where the wire takes so many seconds for a byte and the other side tells how long it packs."""
    ways = []
    for _part in range(mebibytes):
        level = choice.level(MIB)
        ways.append(level)
        carried = int(MIB * ratio) if level == PACKED else MIB
        # What is waited for says little: a busy machine answers late.
        for count, came, seconds in ((MIB, carried, carried * pace), (MIB >> 8, 100, 0.001)):
            # A few bytes come behind a pause now and then: they say nothing of the wire.
            took = count * packing if level == PACKED and ratio < 1 else None
            choice.told(level, count, carried * count // MIB, 0.3, took, came, seconds)
    return ways


def test_on_a_slow_wire_not_one_byte_goes_raw_where_the_host_tells_how_long_it_packs() -> None:
    choice = CodecChoice(first=PACKED, busy=not_busy)
    assert not choice.settled
    assert set(wired(choice, 1 / 12e6, 1 / 60e6, 0.4, 2048)) == {PACKED}
    assert choice.settled
    # Also where little is saved, as every byte is waited for.
    assert set(wired(CodecChoice(first=PACKED, busy=not_busy), 1 / 3e6, 1 / 60e6, 0.8, 2048)) == {PACKED}


def test_a_fast_wire_is_known_by_its_pace_and_few_bytes_are_packed_for_it() -> None:
    ways = wired(CodecChoice(first=PACKED, busy=not_busy), 1 / 300e6, 1 / 60e6, 0.4, 2048)
    assert ways[:4] == [PACKED] * 4 and ways.count(PACKED) <= 8


def test_a_wire_that_becomes_slow_gets_packed_bytes_and_one_that_becomes_fast_raw_ones() -> None:
    choice = CodecChoice(first=PACKED, busy=not_busy)
    wired(choice, 1 / 300e6, 1 / 60e6, 0.4, 64)
    assert choice.chosen == RAW
    assert set(wired(choice, 1 / 10e6, 1 / 60e6, 0.4, 64)[32:]) == {PACKED}
    assert set(wired(choice, 1 / 300e6, 1 / 60e6, 0.4, 64)[32:]) == {RAW}


def test_no_trial_is_made_while_the_host_tells_how_long_it_packs_and_the_wire_was_not_waited_for() -> None:
    choice = CodecChoice(first=PACKED, busy=not_busy)
    for _part in range(12):
        assert (choice.level(MIB), choice.settled) == (PACKED, False)
        choice.told(PACKED, MIB, MIB // 3, 0.3, MIB / 60e6)
    assert set(wired(choice, 1 / 12e6, 1 / 60e6, 0.4, 64)) == {PACKED} and choice.settled
    # One that is never waited for is fast: the other way is tried, and timed.
    fast = CodecChoice(first=PACKED, busy=not_busy)
    for _part in range(40):
        level = fast.level(MIB)
        fast.told(level, MIB, MIB if level == RAW else MIB // 3, MIB / (400e6 if level == RAW else 60e6), MIB / 60e6)
    assert fast.settled and fast.chosen == RAW


def test_where_the_processors_here_are_busy_only_a_wire_that_is_slow_beyond_doubt_gets_packed_bytes() -> None:
    def chosen(pace: float, busy: bool) -> int:
        choice = CodecChoice(first=PACKED, busy=lambda: busy)
        wired(choice, pace, 1 / 60e6, 0.4, 64)
        return choice.chosen

    assert [chosen(1 / 30e6, busy) for busy in (False, True)] == [PACKED, RAW]
    assert [chosen(1 / 5e6, busy) for busy in (False, True)] == [PACKED, PACKED]


def test_a_wire_that_waits_for_processors_now_and_then_is_not_taken_for_a_slow_one() -> None:
    choice, ways = CodecChoice(first=PACKED, busy=lambda: True), []
    for part in range(512):
        level = choice.level(MIB)
        ways.append(level)
        # Two of three requests come at a twentieth of the pace of the third.
        pace = 1 / 100e6 if part % 3 == 0 else 1 / 5e6
        carried = MIB // 3 if level == PACKED else MIB
        choice.told(level, MIB, carried, 0.3, MIB / 60e6 if level == PACKED else None, carried, carried * pace)
    assert set(ways[16:]) == {RAW}


def test_processors_are_busy_where_the_kernel_counts_hardly_an_idle_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, clock = tmp_path / "stat", FakeClock()
    monkeypatch.setattr(processors.time, "monotonic", clock.monotonic)

    def counted(user: int, idle: int, iowait: int) -> None:
        stat.write_text(f"cpu  {user} 0 0 {idle} {iowait} 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")

    counted(1000, 5000, 100)
    here = processors.Processors(str(stat))
    counted(1099, 5001, 100)
    assert not here.busy()  # It looks at most four times a second.
    clock.sleep(0.3)
    assert here.busy()
    counted(1189, 5006, 105)
    clock.sleep(0.3)
    assert not here.busy()
    stat.unlink()
    clock.sleep(0.3)
    assert not here.busy() and not processors.Processors(str(stat)).busy()


def test_bytes_that_do_not_pack_go_raw_over_any_wire_but_for_a_look_at_what_comes_behind_them() -> None:
    choice = CodecChoice(first=PACKED, busy=not_busy)
    # The host tells nothing of the packing of what does not pack.
    assert wired(choice, 1 / 12e6, 1 / 60e6, 1.0, 400)[20:].count(PACKED) <= 400 // 16 + 6
    assert wired(choice, 1 / 12e6, 1 / 60e6, 0.4, 400).count(RAW) <= 16
    assert wired(choice, 1 / 12e6, 1 / 60e6, 1.0, 400)[20:].count(PACKED) <= 400 // 16 + 6
    assert wired(choice, 1 / 12e6, 1 / 60e6, 0.4, 400).count(RAW) <= 16
    # Where a few of them have come, it is soon looked at.
    assert RAW in wired(choice, 1 / 12e6, 1 / 60e6, 1.0, 12)
    assert wired(choice, 1 / 12e6, 1 / 60e6, 0.4, 400).count(RAW) <= 4
    # On a fast wire it is hardly looked at.
    fast = CodecChoice(first=PACKED, busy=not_busy)
    assert wired(fast, 1 / 300e6, 1 / 60e6, 1.0, 400)[20:].count(PACKED) <= 8


def test_the_other_way_is_tried_again_where_the_bytes_may_have_changed() -> None:
    choice = CodecChoice()
    told(choice, 1 / 20e6, 1 / 19e6, 1.0, 256)
    assert choice.chosen == RAW
    later = told(choice, 1 / 20e6, 1 / 60e6, 0.3, 4096)
    assert later[-1] == PACKED and later.count(RAW) < 300
    # Where it was far worse it is hardly tried: two requests of the next three GiB.
    far = CodecChoice()
    told(far, 1 / 400e6, 1 / 40e6, 0.4, 256)
    assert told(far, 1 / 400e6, 1 / 40e6, 0.4, 3072).count(PACKED) <= 2


def test_a_limit_makes_packing_worth_its_time() -> None:
    assert told(CodecChoice(limit=10_000_000), 1 / 400e6, 1 / 90e6, 0.4, 1024)[8:100] == [PACKED] * 92


def test_what_is_forced_or_impossible_is_not_measured() -> None:
    assert set(told(CodecChoice(forced=PACKED), 1 / 400e6, 1 / 90e6, 0.4, 256)) == {PACKED}
    assert set(told(CodecChoice(possible=False), 1 / 20e6, 1 / 90e6, 0.4, 256)) == {RAW}
    assert set(told(CodecChoice(possible=False, forced=PACKED), 1 / 20e6, 1 / 90e6, 0.4, 256)) == {RAW}


def test_a_limit_is_kept_over_all_that_goes_and_no_pause_is_made_up_for() -> None:
    clock = FakeClock()
    throttle = Throttle(1000, clock)
    began = clock.monotonic()
    for _part in range(10):
        throttle.wait()
        throttle.charge(500)
    throttle.wait()
    assert 4.9 <= clock.monotonic() - began <= 5.1
    clock.sleep(100)
    began = clock.monotonic()
    for _part in range(10):
        throttle.wait()
        throttle.charge(500)
    throttle.wait()
    assert 4.9 <= clock.monotonic() - began <= 5.1
    # Less came than was thought.
    throttle.charge(1000)
    throttle.charge(-900)
    throttle.wait()
    assert clock.monotonic() - began <= 5.3


def test_a_limited_disk_comes_no_faster(tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "raw").write_bytes(random.Random(1).randbytes(20 * MIB))
    path = converted(tmp_path / "raw", tmp_path / "d.vmdk", "monolithicFlat")
    host = LocalHost()
    half = [[(at, MIB) for at in range(first, first + 10 * MIB, MIB)] for first in (0, 10 * MIB)]
    with (
        remote(path, host, bandwidth_limit=2 * MIB, clock=clock, level=0) as disk,
        disk.lane() as one,
        disk.lane() as two,
    ):
        began = clock.monotonic()
        chunks = [lane.fetch(part).chunks() for lane, part in zip((one, two), half)]
        whole = b"".join(bytes(view) for pair in zip(*chunks) for view in pair)
        spent = clock.monotonic() - began
    assert sorted(whole[at : at + MIB] for at in range(0, len(whole), MIB)) == sorted(
        (tmp_path / "raw").read_bytes()[at : at + MIB] for at in range(0, 20 * MIB, MIB)
    )
    # But for what the first requests of both lanes may take at once.
    assert spent >= (20 - 4) / 2
