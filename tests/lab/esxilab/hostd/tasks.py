# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The task list of hostd."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .clock import Clock
from .errors import VimFault

#: A finished task stays in the list for some minutes.
KEEP = timedelta(minutes=10)


@dataclass
class Task:
    """One operation on one object; `entity` is a vmid or `ha-host`."""

    entity: str
    entity_type: str
    entity_name: str
    operation: str
    chain: int
    queued: datetime
    started: datetime | None = None
    completed: datetime | None = None
    state: str = "queued"
    progress: int | None = None
    error: VimFault | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> str:
        return f"haTask-{self.entity}-{self.entity_type}.{self.operation}-{self.chain}"

    @property
    def moref(self) -> str:
        return f"vim.Task:{self.key}"


class TaskList:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: list[Task] = []
        self._chain = 100

    def begin(self, entity: str, entity_type: str, entity_name: str, operation: str) -> Task:
        now = self._clock.now()
        with self._lock:
            self._chain += 1
            task = Task(entity, entity_type, entity_name, operation, self._chain, queued=now, started=now)
            task.state = "running"
            task.progress = 0
            self._tasks = [old for old in self._tasks if old.completed is None or now - old.completed < KEEP]
            self._tasks.append(task)
        return task

    def end(self, task: Task, error: VimFault | None = None) -> None:
        with self._lock:
            task.error = error
            task.state = "error" if error else "success"
            task.progress = None if error is None else task.progress
            task.completed = self._clock.now()
        task.done.set()

    def all(self) -> list[Task]:
        with self._lock:
            return list(self._tasks)

    def of(self, entity: str) -> list[Task]:
        with self._lock:
            return [task for task in self._tasks if task.entity == entity]

    def find(self, key: str) -> Task | None:
        with self._lock:
            for task in self._tasks:
                if key in (task.key, task.moref):
                    return task
        return None
