# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a job with several backup points, as one of its copies sees it.

The bracket is one for all, and so is what is noted of it. What a copy notes bears its number, and the others do not see
it: each is begun, committed and undone as if it were the only one.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import OF_COPY
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job


class CopyLog(IntentLog):
    """Notes with its number, and reads nothing of the other copies."""

    def __init__(self, log: IntentLog, number: int) -> None:
        super().__init__(log.session, log.folder, log.clock)
        self.log, self.number = log, number

    def note(self, event: str, **data: Any) -> None:
        self.log.note(event, **data, **{OF_COPY: self.number})

    def beat(self) -> None:
        self.log.beat()

    def read(self) -> list[dict[str, Any]]:
        return [entry for entry in self.log.read() if entry.get(OF_COPY, self.number) == self.number]


def log_of(log: IntentLog, job: Job) -> IntentLog:
    """The journal for a job that may be one of several copies."""
    return log if job.copy is None else CopyLog(log, job.copy)
