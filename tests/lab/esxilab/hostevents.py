# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's commands do to the machine that the host is."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from esxilab import mounting
from esxilab.hostd.events import MachineEvents
from esxilab.topology import DOMAIN

if TYPE_CHECKING:
    from esxilab.labd import Daemon
    from esxilab.node import Node


class NodeEvents(MachineEvents):
    """The events of one node of a running lab."""

    def __init__(self, daemon: Daemon, node: Node) -> None:
        self.daemon = daemon
        self.node = node

    def exec_installed_only(self, wanted: bool) -> None:
        if wanted:
            self.daemon._guard(self.node)
        else:
            self.daemon._guarded.discard(self.node.namespace)

    def power(self, again: bool, seconds: float) -> None:
        def run() -> None:
            time.sleep(seconds)
            self.daemon.power(self.node, again)

        threading.Thread(target=run, name=f"power-{self.node.machine.name}", daemon=True).start()

    def mount(self, source: Path, uuid: str, name: str) -> None:
        mounting.run(self.node.running.pid_inside(), "mount", str(source), f"/vmfs/volumes/{uuid}")

    def unmount(self, uuid: str, name: str) -> None:
        mounting.run(self.node.running.pid_inside(), "unmount", f"/vmfs/volumes/{uuid}")

    def exported(self, server: str, share: str) -> Path | None:
        """A backup server exports its /srv/<datastore> folders, by its name or address."""
        for machine in self.daemon.topology.backup_servers:
            if server not in (machine.name, f"{machine.name}.{DOMAIN}", machine.address):
                continue
            for store in self.daemon.topology.served.get(machine.name, []):
                if share.rstrip("/") == f"/srv/{store.name}":
                    return self.daemon.paths.volumes / store.volume.uuid
        return None
