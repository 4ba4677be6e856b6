# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads of an object that is far away: neighbours that are expected come by one request."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Ranges
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged


class WindowedRanges(Ranges):
    """At most `window` bytes at once, over gaps of at most `gap` bytes."""

    window = 16 << 20
    gap = 1 << 17

    def __init__(self, name: str, store: str) -> None:
        self._name, self._store = name, store
        self._expected: list[tuple[int, int]] = []
        self._held: tuple[int, bytes] = (0, b"")

    @abstractmethod
    def fetch(self, offset: int, length: int) -> bytes:
        """These bytes, or as many of them as there are."""

    def expect(self, extents: Iterable[tuple[int, int]]) -> None:
        windows: list[tuple[int, int]] = []
        for offset, length in sorted(extents):
            begin, end = windows[-1] if windows else (0, -self.gap - 1)
            if offset - end <= self.gap and offset + length - begin <= self.window:
                windows[-1] = (begin, max(end, offset + length))
            else:
                windows.append((offset, offset + length))
        self._expected = windows

    def read(self, offset: int, length: int) -> bytes | memoryview:
        held = self._within(self._held, offset, length)
        if held is not None:
            return held
        for begin, end in self._expected:
            if begin <= offset and offset + length <= end:
                # Of an object that has become shorter this much is there; the record that is cut is told below.
                window = (begin, self.fetch(begin, end - begin))
                self._held = window
                held = self._within(window, offset, length)
                if held is not None:
                    return held
        data = self.fetch(offset, length)
        if len(data) != length:
            raise Damaged(name=self._name, store=self._store, reason=f"it ends before byte {offset + length}")
        return data

    @staticmethod
    def _within(held: tuple[int, bytes], offset: int, length: int) -> memoryview | None:
        begin, data = held
        if begin <= offset and offset + length <= begin + len(data):
            return memoryview(data)[offset - begin : offset - begin + length]
        return None

    def close(self) -> None:
        self._held = (0, b"")
