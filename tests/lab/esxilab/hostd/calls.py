# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One call of a command on its way through hostd, and what the injected faults do to it there.

The work of a vim-cmd call belongs to hostd: it goes on when the process that asked for it dies, and its answer is lost
when hostd restarts meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from esxilab.tools.answer import Answer

from .faults import Fault

if TYPE_CHECKING:
    from .server import Hostd

RESET = "Failed to login: Connection reset by peer\n"
#: Success without effect: what each command prints when it has done its work.
LIES = {
    "vmsvc/power.on": ("Powering on VM:\n", "powerOn"),
    "vmsvc/power.off": ("Powering off VM:\n", "powerOff"),
    "vmsvc/power.shutdown": ("", "shutdownGuest"),
    "vmsvc/snapshot.create": ("Create Snapshot:\n", "createSnapshot"),
    "vmsvc/snapshot.remove": ("Remove Snapshot:\n", "removeSnapshot"),
    "vmsvc/snapshot.removeall": ("Remove All Snapshots:\n", "removeAllSnapshots"),
    "vmsvc/unregister": ("", "unregister"),
    "solo/registervm": ("", "registerVm"),
}


def command_of(argv: Sequence[str]) -> str:
    return argv[0].strip("/") if argv else ""


def vm_of(host: Hostd, tool: str, argv: Sequence[str]) -> str | None:
    """The VM that a call is about: by its vmid, or by the folder that a path leads into."""
    for vm in host.vms():
        if tool != "vmkfstools" and len(argv) > 1 and argv[1] == vm.vmid:
            return vm.safe_name
        folder = f"/{os.path.basename(os.path.dirname(vm.vmx_path))}/"
        if any(folder in word for word in argv):
            return vm.safe_name
    return None


def meets(fault: Fault, tool: str, argv: Sequence[str], vm: str | None) -> bool:
    """Whether a fault is meant for this call: `tool` (vim-cmd unless it says so), `op` (the end of the command's name,
    or for vmkfstools an option), `vm`."""
    if fault.args.get("tool", "vim-cmd") != tool or fault.args.get("vm") not in (None, vm):
        return False
    op = fault.args.get("op")
    if op is None:
        return True
    return str(op) in argv if tool == "vmkfstools" else command_of(argv).endswith(str(op))


def hold(host: Hostd, tool: str, argv: Sequence[str], when: str) -> None:
    """Stop here as long as a `hold` says so."""
    vm = vm_of(host, tool, argv)
    for fault in host.faults.all("hold"):
        if fault.args.get("when", "before") == when and meets(fault, tool, argv, vm) and host.faults.is_nth(fault):
            host.faults.wait_while(fault)


def answer(host: Hostd, argv: Sequence[str], run: Callable[[], Answer]) -> Answer:
    """Run one vim-cmd call as hostd does."""
    argv = [word for word in argv if word not in ("-v", "-d", "--")]
    hold(host, "vim-cmd", argv, "before")
    vm = vm_of(host, "vim-cmd", argv)
    lie = _lie(host, argv, vm)
    found = lie if lie is not None else _work(host, argv, vm, run)
    for fault in host.faults.all("half_output"):
        if meets(fault, "vim-cmd", argv, vm) and host.faults.take_this(fault):
            found = Answer(found.stdout[: int(len(found.stdout) * float(fault.args.get("keep", 0.5)))], rc=found.rc)
    hold(host, "vim-cmd", argv, "after")
    return found


def _lie(host: Hostd, argv: Sequence[str], vm: str | None) -> Answer | None:
    name = command_of(argv)
    for fault in host.faults.all("lying"):
        if name in LIES and meets(fault, "vim-cmd", argv, vm) and host.faults.take_this(fault):
            text, operation = LIES[name]
            if name == "solo/registervm":
                return Answer(f"{host.inventory.next_id}\n")
            host.tasks.end(host.tasks.begin(argv[1], "vim.VirtualMachine", vm or argv[1], operation))
            return Answer(text)
    return None


def _work(host: Hostd, argv: Sequence[str], vm: str | None, run: Callable[[], Answer]) -> Answer:
    """The call in a thread of its own, which outlives whoever waits for it."""
    life = host.hostd_life
    box: list[Answer] = []
    problem: list[BaseException] = []

    def work() -> None:
        try:
            box.append(run())
        except BaseException as error:  # handed on to whoever waits
            problem.append(error)

    thread = threading.Thread(target=work, name=f"vim-cmd {command_of(argv)}", daemon=True)
    thread.start()
    for fault in host.faults.all("hostd_restart", "reboot"):
        if fault.args.get("op") and meets(fault, "vim-cmd", argv, vm) and host.faults.is_nth(fault):
            threading.Timer(float(fault.args.get("after", 0.1)), host.strike, (fault,)).start()
    for fault in host.faults.all("vimcmd_killed"):
        if fault.args.get("goes_on") and meets(fault, "vim-cmd", argv, vm) and host.faults.take_this(fault):
            return Answer(stderr="Killed\n", rc=137)
    while thread.is_alive():
        thread.join(0.1)
        if thread.is_alive() and host.hostd_life != life:
            return Answer(stderr=RESET, rc=1)
    if problem:
        raise problem[0]
    return box[0]
