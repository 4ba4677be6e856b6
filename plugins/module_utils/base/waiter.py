# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to wait: with a limit, a pause that grows to a ceiling, and a beat at every turn."""

from __future__ import annotations

from typing import Any, Callable, Protocol, TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError

T = TypeVar("T")


class WaitTimeout(StowageError):
    id = "wait-timeout"
    template = "Waited {seconds:g} seconds for {what}, and it did not happen"
    hint = "Raise the time limit of the task, or look on the host at what holds it up"
    exit_code = 2


class Journal(Protocol):
    """What is to be undone is noted there."""

    def note(self, event: str, **data: Any) -> None: ...

    def beat(self) -> None: ...


class Waiter:
    """Asks ``probe`` until it answers something other than ``None`` or the time is up.

    ``beat`` is called before every question, so that a lease is refreshed and an abort is noticed while waiting:
    what it raises ends the wait. The probe is asked once more at the very end, so a limit of 0 asks exactly once.
    """

    def __init__(
        self,
        timeout_seconds: float,
        interval_seconds: float = 1.0,
        max_interval_seconds: float = 5.0,
        backoff: float = 1.5,
        clock: Clock | None = None,
        beat: Callable[[], None] | None = None,
    ) -> None:
        if interval_seconds <= 0 or max_interval_seconds < interval_seconds or backoff < 1:
            raise ValueError("a waiter needs a positive interval, a ceiling not below it, and a back-off of at least 1")
        self.timeout_seconds = max(0.0, timeout_seconds)
        self.interval_seconds = interval_seconds
        self.max_interval_seconds = max_interval_seconds
        self.backoff = backoff
        self.clock: Clock = clock or SystemClock()
        self.beat = beat

    def until(self, probe: Callable[[], T | None], what: str) -> T:
        """The first answer of ``probe`` that is not ``None``; raises ``WaitTimeout(what=…, seconds=…)``."""
        deadline = self.clock.monotonic() + self.timeout_seconds
        pause = self.interval_seconds
        while True:
            if self.beat is not None:
                self.beat()
            answer = probe()
            if answer is not None:
                return answer
            left = deadline - self.clock.monotonic()
            if left <= 0:
                raise WaitTimeout(what=what, seconds=self.timeout_seconds)
            self.clock.sleep(min(pause, left))
            pause = min(pause * self.backoff, self.max_interval_seconds)
