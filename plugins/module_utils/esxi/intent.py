# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a job, on the hypervisor: what must be undone is written before it is done."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock, iso
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session

# An entry starts with a newline of its own, so that a line cut by a crash never swallows the next one.
_APPEND = """\
[ -d "$1" ] || { echo "no such folder" >&2; exit 1; }
printf '\\n%s\\n' "$2" >> "$1/journal" || exit 1
touch "$1/lease"
sync
"""


class IntentLog:
    """`<folder>/journal` (JSON lines) and `<folder>/lease`, whose mtime says that somebody still works here.

    The folder must exist: it is the lock, and whoever made it says who may write.
    """

    BEAT_SECONDS = 10.0

    def __init__(self, session: Session, folder: str, clock: Clock | None = None) -> None:
        self.session = session
        self.folder = folder.rstrip("/")
        self.clock: Clock = clock or SystemClock()
        self._last_beat: float | None = None

    @property
    def path(self) -> str:
        return f"{self.folder}/journal"

    def note(self, event: str, **data: Any) -> None:
        """Append one entry and return when the host has it on its disk. Raises JournalFailed: then change nothing."""
        line = json.dumps({"event": event, "at": iso(self.clock.now()), **data}, sort_keys=True)
        result = self.session.script(_APPEND, [self.folder, line])
        if result.rc != 0:
            raise self._failed("written", result.output)
        self._last_beat = self.clock.monotonic()

    def beat(self) -> None:
        """Refresh the lease, at most every ten seconds. JournalFailed when the folder is gone: so is the lock."""
        now = self.clock.monotonic()
        if self._last_beat is not None and now - self._last_beat < self.BEAT_SECONDS:
            return
        result = self.session.script('[ -d "$1" ] && touch "$1/lease"', [self.folder])
        if result.rc != 0:
            raise self._failed("refreshed", result.output)
        self._last_beat = now

    def read(self) -> list[dict[str, Any]]:
        """All entries in order; a line that was cut is left out."""
        result = self.session.run(["cat", self.path])
        if result.rc != 0:
            if "No such file" in result.output:
                return []
            raise self._failed("read", result.output)
        entries: list[dict[str, Any]] = []
        for line in result.stdout.split("\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("event"), str):
                entries.append(entry)
        return entries

    def _failed(self, operation: str, output: str) -> errors.JournalFailed:
        return errors.JournalFailed(
            host=self.session.endpoint.host, folder=self.folder, operation=operation, output=output
        )
