# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who looks on while threads move bytes: whether they may go on, whether they do, and how far they are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import MovesTooSlowly, NothingMoves

LOOK_SECONDS = 1.0
# The pace is judged over so many times the seconds for which nothing at all may move: a pause that is allowed, and then
# an ordinary pace, is no crawl.
PACE_STALLS = 4


class Watch:
    """A thread of its own, for the length of the block. What it raises is raised by ``check``, and at the block's end.

    ``moved`` counts the bytes that move; ``end`` is called once, when the work must end, and makes waiting threads give
    up. `minimum_rate`, bytes a second: who moves less than that for `PACE_STALLS` times `stall_seconds` is ended, too,
    as a peer that gives a byte now and then would go on for ever; 0 asks for none.
    """

    def __init__(
        self,
        what: str,
        moved: Callable[[], int],
        look: Callable[[], None],
        end: Callable[[], None],
        stall_seconds: float,
        clock: Clock | None = None,
        *,
        minimum_rate: int = 0,
    ) -> None:
        self._what = what
        self._moved, self._look, self._end = moved, look, end
        self._stall_seconds = stall_seconds
        self._minimum_rate = minimum_rate
        self._clock: Clock = clock or SystemClock()
        self._turn = threading.Lock()
        self._rests = self._decided = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self.error: BaseException | None = None
        self._count, self._since = -1, self._clock.monotonic()
        self._mark, self._marked = 0, self._since

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nothing moves meanwhile, and that time does not count. The signs of life go on: it may be long."""
        self.check()
        self._rests = True
        try:
            yield
        finally:
            with self._turn:
                self._rests, self._since = False, self._clock.monotonic()
                self._mark, self._marked = self._moved(), self._since

    def decided(self) -> None:
        """Raises what has ended the work by now; after that nothing does. Who looks on still gives signs of life."""
        with self._turn:
            self.check()
            self._decided = True

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                self._look()
                self._judge()
            except BaseException as error:
                with self._turn:
                    if not self._decided:
                        self.error = error
            if self.error is not None:
                self._end()
                return

    def _judge(self) -> None:
        now, count = self._clock.monotonic(), self._moved()
        if count != self._count or self._rests:
            self._count, self._since = count, now
        elif now - self._since >= self._stall_seconds:
            raise NothingMoves(what=self._what, seconds=int(now - self._since))
        seconds = now - self._marked
        if self._rests:
            self._mark, self._marked = count, now
        elif seconds >= self._stall_seconds * PACE_STALLS:
            if count - self._mark < self._minimum_rate * seconds:
                raise MovesTooSlowly(
                    what=self._what, moved=count - self._mark, seconds=int(seconds), least=self._minimum_rate
                )
            self._mark, self._marked = count, now

    def __enter__(self) -> Watch:
        self._count, self._since = -1, self._clock.monotonic()
        self._mark, self._marked = self._moved(), self._since
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._over.set()
        self._thread.join()
        # What other threads say then is only that they were made to end.
        if self.error is not None and self.error is not error:
            raise self.error from error
