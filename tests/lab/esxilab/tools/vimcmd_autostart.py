# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd hostsvc/autostartmanager/*: which VMs a booting host starts, in which order.

Names and arguments are those that tools use; the layout of the dumps follows the API's model.
"""

from __future__ import annotations

from typing import Any

from esxilab.hostd.autostart import Entry
from esxilab.hostd.errors import InvalidArgument
from esxilab.hostd.vmodl import Arr, Obj, Ref

from .answer import Answer
from .vimcmd import Call, Command

INFO = "vim.host.AutoStartManager.AutoPowerInfo"
SYNOPSIS = "vmid startAction startDelay startOrder stopAction stopDelay waitForHeartbeat"


def _sequence(call: Call) -> Answer:
    known = {vm.vmid for vm in call.host.vms()}
    items = [_info(entry) for entry in call.host.autostart.sequence() if entry.vmid in known]
    return Answer(call.printer.text(Arr(INFO, items)))


def _info(entry: Entry) -> Obj:
    return Obj(
        INFO,
        [
            ("key", Ref(f"vim.VirtualMachine:{entry.vmid}")),
            ("startOrder", entry.order),
            ("startDelay", entry.start_delay),
            ("waitForHeartbeat", entry.heartbeat),
            ("startAction", entry.start_action),
            ("stopDelay", entry.stop_delay),
            ("stopAction", entry.stop_action),
        ],
    )


def _defaults(call: Call) -> Answer:
    found = call.host.autostart
    fields: list[tuple[str, Any]] = [
        ("enabled", found.enabled),
        ("startDelay", 120),
        ("stopDelay", 120),
        ("waitForHeartbeat", False),
        ("stopAction", "PowerOff"),
    ]
    return Answer(call.printer.text(Obj("vim.host.AutoStartManager.SystemDefaults", fields)))


def _update(call: Call) -> Answer:
    """An entry's start action `none` takes it out of the sequence."""
    vm = call.host.vm(call.args[0])
    numbers = []
    for text in (call.args[2], call.args[3], call.args[5]):
        if not text.lstrip("-").isdigit():
            raise InvalidArgument("spec.powerInfo")
        numbers.append(int(text))
    entry = Entry(vm.vmid, call.args[1], numbers[0], numbers[1], call.args[4], numbers[2], call.args[6].lower())
    if entry.heartbeat not in ("yes", "no", "systemdefault"):
        raise InvalidArgument("spec.powerInfo.waitForHeartbeat")
    call.host.autostart.put(entry)
    return Answer()


def _enable(call: Call) -> Answer:
    call.host.autostart.enable(call.flag(0))
    return Answer()


COMMANDS = {
    "hostsvc/autostartmanager/get_autostartseq": Command(0, 0, "", "Get the autostart sequence.", _sequence),
    "hostsvc/autostartmanager/get_defaults": Command(0, 0, "", "Get the autostart defaults.", _defaults),
    "hostsvc/autostartmanager/update_autostartentry": Command(7, 7, SYNOPSIS, "Update an autostart entry.", _update),
    "hostsvc/autostartmanager/enable_autostart": Command(1, 1, "enable", "Enable or disable autostart.", _enable),
}
