# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What 'lab status' tells."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from esxilab import interpreters, seccomp
from esxilab.node import Node
from esxilab.topology import Volume

if TYPE_CHECKING:
    from esxilab.labd import Daemon


def describe(daemon: Daemon) -> dict[str, Any]:
    wires = daemon.proxy.order(stats=True)
    return {
        "name": daemon.topology.name,
        "dir": str(daemon.paths.folder),
        "pid": os.getpid(),
        "uptime_seconds": round(time.time() - daemon.started),
        "inventory": str(daemon.paths.inventory),
        "interpreter": interpreters.own().executable,
        "locks": daemon.locks.status,
        "seccomp": seccomp.available(),
        "machines": [_machine(daemon, node, wires.get(name, {})) for name, node in daemon.nodes.items()],
        "volumes": [_volume(daemon, volume) for volume in daemon.topology.volumes],
    }


def _machine(daemon: Daemon, node: Node, wire: dict[str, Any]) -> dict[str, Any]:
    machine = node.machine
    found: dict[str, Any] = {
        "name": machine.name,
        "kind": machine.kind,
        "address": machine.address,
        "port": machine.port,
        "up": node.running.alive,
        "pid": node.running.init.pid if node.running.init and node.running.alive else None,
        "boots": node.boots,
        "connections": wire,
        "faults": daemon.faults_of(node),
    }
    if node.hostd is None:
        found["python"] = {"path": daemon.server_python.executable, "version": daemon.server_python.text}
        return found
    python = interpreters.for_release(machine.profile, machine.switches["python"])
    played = interpreters.RELEASES[machine.profile]
    found.update(
        profile=machine.profile,
        python={
            "path": python.executable if python else None,
            "version": python.text if python else None,
            "plays": f"{played[0]}.{played[1]}",
        },
        exec_installed_only=node.namespace != "",
        epoll=bool(machine.switches["epoll"]) or not seccomp.available(),
        ssh_memory=node.memory_cap.describe() if node.memory_cap else None,
        datastores={store.name: store.volume.uuid for store in machine.datastores},
        vms=node.hostd.status()["vms"],
    )
    return found


def _volume(daemon: Daemon, volume: Volume) -> dict[str, Any]:
    path = daemon.paths.volumes / volume.uuid
    space = os.statvfs(path)
    free = space.f_bavail * space.f_frsize
    return {"uuid": volume.uuid, "type": volume.type, "path": str(path), "size": volume.size, "free": free}
