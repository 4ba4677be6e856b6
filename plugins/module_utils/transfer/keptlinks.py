# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links of one copy: the first one alone, the others at once, and each handed on from disk to disk.

To begin one and to prove its end takes half a second of processor time, and over a long way as many round trips as a
small disk.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import FOR_GOOD, Starter, ended


class KeptLinks(Starter):
    """`with KeptLinks(starter, 5) as links`: another starter; once its first link is there, the others of `ahead` begin
    at once. At the end of the block all are proven gone. Between two disks a link has no file open."""

    def __init__(self, starter: Starter, ahead: int) -> None:
        self.host, self.packs = starter.host, starter.packs
        self._starter, self._ahead = starter, ahead
        self._guard = threading.Lock()
        self._open = False
        self._idle: list[Any] = []
        self._stale: list[Any] = []
        self._coming: list[Future[Any]] = []

    def __enter__(self) -> KeptLinks:
        self._open = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ended(self._end_all, error)

    def _end_all(self) -> None:
        with self._guard:
            self._open = False
            idle, self._idle, self._stale = self._idle + self._stale, [], []
            coming, self._coming = self._coming, []
        for one in coming:
            # Nobody has needed it, so nobody is told why it did not come.
            with contextlib.suppress(StowageError):
                idle.append(one.result())
        self._starter.end_all(idle)

    def start(self) -> Any:
        link = self._one()
        with self._guard:
            more, self._ahead = self._ahead - 1 if self._open else 0, 1
            if more > 0:
                # What keeps the first one from coming is told once, and not by each of them.
                executor = ThreadPoolExecutor(more, thread_name_prefix="link")  # pylint: disable=consider-using-with
                self._coming = [executor.submit(self._starter.start) for _link in range(more)]
                executor.shutdown(wait=False)
        return link

    def again(self) -> Any:
        """What takes one connection takes the idle ones, too, and nobody has noticed: each would cost an attempt."""
        with self._guard:
            self._stale += self._idle
            self._idle = []
        return self._starter.start()

    def _one(self) -> Any:
        with self._guard:
            if self._idle:
                return self._idle.pop()
            coming = self._coming.pop(0) if self._coming else None
        if coming is not None:
            try:
                return coming.result()
            except FOR_GOOD:
                raise
            except StowageError:
                # Tried once more, and this time its error is somebody's.
                pass
        return self._starter.start()

    def release(self, link: Any) -> None:
        # A shell opens what it reads anew each time, and is ended with the disk.
        forget = getattr(link, "forget", None)
        if self._open and forget is not None and forget():
            with self._guard:
                if self._open:
                    self._idle.append(link)
                    return
        self.end(link)

    def end(self, link: Any) -> None:
        self._starter.end(link)
