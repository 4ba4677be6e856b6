# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress as records: a callable takes them, a file carries them from the module to the controller."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock, iso
from ansible_collections.stowage.esxi.plugins.module_utils.base.durable import PathLike, write_json


@dataclass(frozen=True)
class Progress:
    """Where one piece of work stands. ``total_bytes``, rate and time left are ``None`` while unknown."""

    phase: str
    item: str
    done_bytes: int = 0
    total_bytes: int | None = None
    rate_bytes_per_second: float | None = None
    seconds_left: float | None = None
    at: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Progress:
        known = {field.name for field in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})

    @property
    def percent(self) -> int | None:
        if not self.total_bytes:
            return None
        return min(100, self.done_bytes * 100 // self.total_bytes)


class Meter:
    """Makes progress records of one item out of byte counts; the rate is that of the last ``window`` seconds."""

    def __init__(
        self, phase: str, item: str, total_bytes: int | None, clock: Clock | None = None, window: float = 30.0
    ) -> None:
        self.phase = phase
        self.item = item
        self.total_bytes = total_bytes
        self._clock: Clock = clock or SystemClock()
        self._window = window
        self._seen: list[tuple[float, int]] = []

    def at(self, done_bytes: int) -> Progress:
        moment = self._clock.monotonic()
        self._seen.append((moment, done_bytes))
        while len(self._seen) > 2 and moment - self._seen[1][0] >= self._window:
            self._seen.pop(0)
        first_moment, first_bytes = self._seen[0]
        rate = None
        left = None
        if moment > first_moment:
            rate = max(0.0, (done_bytes - first_bytes) / (moment - first_moment))
            if rate and self.total_bytes is not None:
                left = max(0.0, (self.total_bytes - done_bytes) / rate)
        return Progress(self.phase, self.item, done_bytes, self.total_bytes, rate, left, iso(self._clock.now()))


class ProgressFile:
    """A callable that keeps the latest record in a file, written at most every ``min_interval`` seconds.

    A new phase or item, and the end of an item, are written at once. Readers always see a whole record.
    """

    def __init__(self, path: PathLike, min_interval: float = 1.0, clock: Clock | None = None) -> None:
        self.path = os.fspath(path)
        self.min_interval = min_interval
        self._clock: Clock = clock or SystemClock()
        self._written_at: float | None = None
        self._last: tuple[str, str] | None = None

    def __call__(self, progress: Progress) -> None:
        moment = self._clock.monotonic()
        key = (progress.phase, progress.item)
        ended = progress.total_bytes is not None and progress.done_bytes >= progress.total_bytes
        if (
            self._written_at is not None
            and key == self._last
            and not ended
            and moment - self._written_at < self.min_interval
        ):
            return
        # Not synced: it tells an onlooker, it promises nothing, and an fsync a second costs spinning disks dearly.
        write_json(self.path, progress.as_dict(), sync=False)
        self._written_at = moment
        self._last = key


def format_line(progress: Progress) -> str:
    """One line for a person: ``scsi0:0  37 %  1.2 GiB of 3.2 GiB read  84.0 MiB/s  0:24 left``."""
    parts = [" ".join(part for part in (progress.phase, progress.item) if part)]
    if progress.percent is not None:
        parts.append(f"{progress.percent} %")
    if progress.total_bytes is not None:
        parts.append(f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)} read")
    elif progress.done_bytes:
        parts.append(f"{format_bytes(progress.done_bytes)} read")
    if progress.rate_bytes_per_second is not None:
        parts.append(f"{format_bytes(progress.rate_bytes_per_second)}/s")
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left")
    return "  ".join(part for part in parts if part)


def format_bytes(count: float) -> str:
    """``0 B``, ``512 B``, ``1.2 GiB``, ``128 MiB``: binary units, one decimal below a hundred."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1023.95 or unit == "TiB":
            return f"{int(value)} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """``0:24``, ``12:05``, ``3:00:09``."""
    whole = int(seconds + 0.5)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
