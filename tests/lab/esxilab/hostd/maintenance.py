# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Maintenance mode: a host enters it when its last VM is off, and not before."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .errors import InvalidState, Timedout

if TYPE_CHECKING:
    from .server import Hostd
    from .tasks import Task

PAUSE = 0.2


def begin(host: Hostd, enter: bool, timeout: float = 0.0) -> Task:
    """The task that enters (or leaves); entering waits for the VMs, at most `timeout` seconds unless that is 0."""
    if host.maintenance == enter:
        raise InvalidState()
    name = "enterMaintenanceMode" if enter else "exitMaintenanceMode"
    task = host.tasks.begin("ha-host", "vim.HostSystem", host.name, name)
    if not enter or not _running(host):
        host.maintenance = enter
        host.tasks.end(task)
    else:
        threading.Thread(target=_wait, args=(host, task, timeout), name=task.key, daemon=True).start()
    return task


def _running(host: Hostd) -> bool:
    return any(vm.power == "poweredOn" for vm in host.vms())


def _wait(host: Hostd, task: Task, timeout: float) -> None:
    waited = 0.0
    while _running(host):
        if host.stopped or (timeout and waited >= timeout):
            host.tasks.end(task, Timedout())
            return
        host.clock.sleep(PAUSE)
        waited += PAUSE
    host.maintenance = not host.stopped
    host.tasks.end(task)
