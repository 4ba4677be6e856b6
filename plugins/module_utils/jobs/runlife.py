# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a run goes on: a sign that its tasks leave on the backup server while a job of theirs waits for its turn.

With fewer forks than hosts a job waits between two of its tasks for as long as copies of other hosts hold the forks.
Nobody beats its lease meanwhile. But those copies are tasks of the same run, and each knows that the controller's main
process lives: so the run gives the sign that its waiting jobs cannot give.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import valid_run_id
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.record import run_folder

BEAT_SECONDS = 10.0


def sign_path(state_dir: str, run_id: str) -> str:
    return os.path.join(run_folder(state_dir, run_id), "alive")


class RunLife:
    """The sign of one run. It only ever adds safety: where it cannot be given, the lease alone decides."""

    def __init__(self, state_dir: str, run_id: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = sign_path(state_dir, run_id) if valid_run_id(run_id) else ""
        self._monotonic = monotonic
        self._last: float | None = None

    def beat(self) -> None:
        """To be called only by who knows that the controller lives. At most every ten seconds."""
        now = self._monotonic()
        if not self._path or (self._last is not None and now - self._last < BEAT_SECONDS):
            return
        self._last = now
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            os.utime(self._path)
        except OSError:
            return


def lives(state_dir: str, run_id: str, seconds: float) -> bool:
    """Whether the run gave a sign on this machine within that time. A sign from the future proves nothing."""
    if not valid_run_id(run_id):
        return False
    try:
        age = time.time() - os.stat(sign_path(state_dir, run_id)).st_mtime
    except OSError:
        return False
    return -BEAT_SECONDS <= age <= seconds
