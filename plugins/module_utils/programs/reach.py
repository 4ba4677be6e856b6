# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a hypervisor's files, for the program ``dedup`` in both directions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Progress
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import Note
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.ahead import Ahead
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import OnHost


@dataclass(frozen=True)
class Reach:
    """How the hypervisor is reached, who is told what, and what may end it all."""

    host: Host
    note: Note
    progress: Callable[[Progress], None]
    alive: Callable[[], None]
    all_read: Callable[[], None] = lambda: None
    """Called by a program when it has read all of the hypervisor's bytes: others may have its turn."""
    connections: int = 4
    bandwidth_limit: int = 0
    stall_seconds: float = 900.0
    minimum_rate: int = 0
    """Bytes a second that must move; see `watching.Watch`."""
    stepwise: bool = False
    """Each piece is durable where it goes before the next one is asked for or sent."""
    label: str = "by-hand"
    """In the names of what is made on the hypervisor for the time of the copy: a job's id, where there is one."""
    lease: str = ""
    reserve_percent: int = 5
    clock: Clock = field(default_factory=SystemClock)

    @contextlib.contextmanager
    def starter(self, writes: bool = False) -> Iterator[OnHost]:
        """Each process is written down before it opens a file; several threads begin some.

        Only the agent can write: a host without a Python 3 can be read, not restored to."""
        guard = threading.Lock()

        def note(event: str, **data: object) -> None:
            with guard:
                self.note(event, **data)

        ahead = Ahead(self.host.session)
        try:
            way = probe(self.host.session, "agent" if writes else "auto")
            yield OnHost(self.host.session, way, note, ahead=ahead)
        finally:
            ahead.drop()
