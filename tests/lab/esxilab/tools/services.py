# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""/etc/init.d/hostd and services.sh: a restart makes vim-cmd fail for a while; VMs run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .answer import Answer

if TYPE_CHECKING:
    from esxilab.hostd import Hostd

RESTART_SECONDS = 5.0


def hostd(host: Hostd, argv: Sequence[str]) -> Answer:
    action = argv[0] if argv else ""
    down = host.faults.get("hostd_down") is not None
    if action == "status":
        return Answer("hostd is not running.\n" if down else "hostd is running.\n", rc=3 if down else 0)
    if action == "stop":
        host.faults.add("hostd_down")
        return Answer("hostd is not running.\n" if down else "hostd stopped.\n")
    if action == "start":
        host.faults.clear("hostd_down")
        return Answer("hostd started.\n")
    if action == "restart":
        host.restart(RESTART_SECONDS)
        return Answer("hostd stopped.\nhostd started.\n")
    return Answer(stderr="Usage: /etc/init.d/hostd {start|stop|restart|status}\n", rc=1)


def all_services(host: Hostd, argv: Sequence[str]) -> Answer:
    if argv[:1] != ["restart"]:
        return Answer(stderr="Usage: services.sh {start|stop|restart}\n", rc=1)
    host.restart(RESTART_SECONDS)
    return Answer("hostd stopped.\nhostd started.\n")


def quiet(host: Hostd, argv: Sequence[str]) -> Answer:
    return Answer()
