# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who looks on while bytes move, and what came of a disk that is hashed where it lies."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.programs import watching
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import (
    CallerGone,
    MovesTooSlowly,
    NothingMoves,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.metered import Metered
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)


def nothing() -> None:
    """Nobody minds."""


def test_what_ends_the_work_is_raised_in_its_place_and_frees_who_waits() -> None:
    gone, ended = CallerGone(reason="the task has ended"), threading.Event()

    def look() -> None:
        raise gone

    def work() -> None:
        # A thread that waits for an answer is freed by the end of its connection, and then says only that.
        assert ended.wait(10)
        raise StowageError(reason="the link was closed")

    watch = Watch("a copy", lambda: 1, look, ended.set, 900)
    with pytest.raises(CallerGone) as caught, watch:
        work()
    assert caught.value is gone
    with pytest.raises(CallerGone):
        watch.check()


def test_work_that_stands_still_is_ended_and_work_that_moves_is_not() -> None:
    ended = threading.Event()
    with (
        pytest.raises(NothingMoves, match="a copy: nothing has moved"),
        Watch("a copy", lambda: 7, nothing, ended.set, 0.1),
    ):
        assert ended.wait(10)
    steps = iter(range(10**9))
    looks = threading.Semaphore(0)
    with Watch("a copy", lambda: next(steps), looks.release, ended.set, 0.1) as watch:
        for _look in range(30):
            assert looks.acquire(timeout=10)
        watch.check()


class Ticking:
    """Ten seconds pass from look to look, and so many bytes move in them; a pause is a number of looks without any.

    Time stands still until looks are asked for."""

    def __init__(self, rate: int, *pauses: range) -> None:
        self.now, self.bytes = 0.0, 0
        self.due, self.looks = threading.Semaphore(0), threading.Semaphore(0)
        self.rate, self.pauses = rate, pauses

    def monotonic(self) -> float:
        return self.now

    def look(self) -> None:
        if not self.due.acquire(timeout=0.02):
            return
        number = round(self.now / 10)
        self.now += 10
        self.bytes += 0 if any(number in pause for pause in self.pauses) else self.rate * 10
        self.looks.release()

    def watch(self, end: Any, minimum_rate: int) -> Watch:
        clock: Any = self
        return Watch("a copy", lambda: self.bytes, self.look, end, 900, clock, minimum_rate=minimum_rate)

    def for_looks(self, count: int) -> None:
        self.due.release(count)
        for _look in range(count):
            assert self.looks.acquire(timeout=10)


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)


@pytest.mark.usefixtures("without_waiting")
def test_work_that_crawls_is_ended_after_four_times_the_longest_pause_and_not_before() -> None:
    ended, course = threading.Event(), Ticking(4095)
    message = "a copy: only 14742000 bytes have moved within 3600 seconds, where minimum_rate asks for 4096 a second"
    with pytest.raises(MovesTooSlowly, match=message), course.watch(ended.set, 4096):
        course.due.release(1000)
        assert ended.wait(10)
    assert course.now == 3600


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize(
    ("rate", "least", "pauses"),
    [(4096, 4096, ()), (1, 0, ()), (5600, 4096, (range(89), range(400, 489), range(810, 899)))],
    ids=["as fast as it must be", "no floor", "pauses, each shorter than what is allowed"],
)
def test_work_that_is_as_fast_as_it_must_be_goes_on(rate: int, least: int, pauses: tuple[range, ...]) -> None:
    ended, course = threading.Event(), Ticking(rate, *pauses)
    with course.watch(ended.set, least) as watch:
        course.for_looks(1100)
        watch.check()
    assert not ended.is_set()


@pytest.mark.usefixtures("without_waiting")
def test_time_in_which_nothing_can_move_is_none_of_a_pace() -> None:
    ended, course = threading.Event(), Ticking(8192, range(300, 10**9))
    with course.watch(ended.set, 4096) as watch:
        course.for_looks(290)
        with watch.at_rest():
            course.for_looks(1000)
        watch.check()
        watch.decided()
    assert not ended.is_set()


def test_while_nothing_can_move_the_signs_of_life_go_on_and_that_time_does_not_count() -> None:
    looks = threading.Semaphore(0)
    clock = iter(range(0, 10**9, 1000))

    class Clock:
        def monotonic(self) -> float:
            return next(clock)

    watch = Watch("a copy", lambda: 7, looks.release, nothing, 5000, Clock())  # type: ignore[arg-type]
    with watch, watch.at_rest():
        for _look in range(20):
            assert looks.acquire(timeout=10)
        watch.decided()
    assert watch.error is None


def test_what_is_decided_is_ended_by_nothing_any_more_and_the_signs_of_life_go_on() -> None:
    looks, ended, gone = threading.Semaphore(0), threading.Event(), threading.Event()

    def look() -> None:
        looks.release()
        if gone.is_set():
            raise StowageError(reason="hostd is gone")

    with Watch("a copy", lambda: 7, look, ended.set, 900) as watch:
        watch.decided()
        gone.set()
        for _look in range(20):
            assert looks.acquire(timeout=10)
        watch.check()
    assert watch.error is None and not ended.is_set()
    # What came before counts: there is no deciding then.
    with pytest.raises(StowageError, match="hostd is gone"), Watch("a copy", lambda: 7, look, ended.set, 900) as watch:
        assert ended.wait(10)
        watch.decided()


def test_an_error_of_the_work_itself_is_not_covered_up() -> None:
    with pytest.raises(ZeroDivisionError), Watch("a copy", lambda: 1, nothing, nothing, 900):
        raise ZeroDivisionError


class Source:
    path, size = "/vmfs/volumes/a/x.vmdk", 4 << 20

    def allocated(self) -> Iterator[tuple[int, int]]:
        yield 0, 1 << 20

    @contextlib.contextmanager
    def lane(self) -> Iterator[Source]:
        yield self

    def ask(self, pieces: Sequence[tuple[int, int]]) -> Any:
        class Asked:
            def hashes(self) -> list[bytes | None]:
                return [None for _piece in pieces]

        return Asked()

    def fetch(self, pieces: Sequence[tuple[int, int]]) -> Any:
        class Fetched:
            def chunks(self) -> Iterator[bytes]:
                for _offset, length in pieces:
                    yield bytes(length)

        return Fetched()


def test_what_was_read_and_what_was_sent_is_counted_when_it_has_come() -> None:
    disk = Metered("scsi0:0", Source(), nothing)
    assert (disk.path, disk.size, list(disk.allocated())) == (Source.path, Source.size, [(0, 1 << 20)])
    with disk.lane() as lane:
        asked = lane.ask([(0, 100), (100, 50)])
        assert (disk.read, disk.sent) == (0, 0)
        assert (asked.hashes(), disk.read) == ([None, None], 150)
        fetched = lane.fetch([(0, 100), (100, 50)])
        chunks = fetched.chunks()
        next(chunks)
        assert disk.sent == 100
        assert len(list(chunks)) == 1 and disk.sent == 150


def test_a_copy_that_must_end_asks_for_nothing_more() -> None:
    def ended() -> None:
        raise CallerGone(reason="the task has ended")

    disk = Metered("scsi0:0", Source(), ended)
    with disk.lane() as lane:
        for ask in (lane.ask, lane.fetch):
            with pytest.raises(CallerGone):
                ask([(0, 100)])
    assert (disk.read, disk.sent) == (0, 0)
