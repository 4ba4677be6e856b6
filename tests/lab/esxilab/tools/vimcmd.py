# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vim-cmd: the command table, the usage texts, and the ways a call can go wrong before it reaches a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esxilab.hostd.errors import VimFault
from esxilab.hostd.vmodl import Obj, Printer

from .answer import Answer

if TYPE_CHECKING:
    from esxilab.hostd import Hostd


@dataclass(frozen=True)
class Call:
    """One call of a command: the host, its arguments, and the printer of the host's dialect."""

    host: Hostd
    args: Sequence[str]

    @property
    def printer(self) -> Printer:
        return Printer(self.host.classic_dumps)

    def arg(self, number: int, default: str = "") -> str:
        return self.args[number] if number < len(self.args) else default

    def flag(self, number: int) -> bool:
        return self.arg(number).lower() in ("1", "true", "yes", "y", "on")


@dataclass(frozen=True)
class Command:
    """A command: how many arguments it takes, its synopsis and description, and what runs it."""

    least: int
    most: int
    synopsis: str
    description: str
    run: Callable[[Call], Answer]


UNSEEN = ("vmsvc/snapshot.removeall", "vmsvc/snapshot.dumpoption", "vmsvc/power.reset")
CATALOGUE = ("hbrsvc/", "hostsvc/", "internalsvc/", "proxysvc/", "solo/", "vimsvc/", "vmsvc/", "help")


def commands() -> dict[str, Command]:
    from . import vimcmd_autostart, vimcmd_hostsvc, vimcmd_info, vimcmd_vmsvc

    found = (vimcmd_vmsvc, vimcmd_info, vimcmd_hostsvc, vimcmd_autostart)
    return {name: command for module in found for name, command in module.COMMANDS.items()}


def run(host: Hostd, argv: Sequence[str]) -> Answer:
    """Answer one vim-cmd call."""
    trouble = _trouble(host)
    if trouble is not None:
        return trouble
    args = list(argv)
    while args and args[0] in ("-v", "-d", "--"):
        args.pop(0)
    if not args or args[0] in ("help", "-h", "--help"):
        return _listing(args[1:] if args else [])
    name = args.pop(0).strip("/")
    table = commands()
    command = table.get(name)
    if command is None:
        if any(known.startswith(name + "/") for known in table):
            return _listing([name])
        return Answer(stderr=f"Invalid command '{name}'.\n", rc=1)
    if not command.least <= len(args) <= command.most:
        return usage(name, command)
    call = Call(host, args)
    try:
        answer = command.run(call)
    except VimFault as fault:
        answer = Answer(stdout=call.printer.text(fault.dump()), rc=1)
    if answer.rc:
        answer.rc = int(host.switches["fault_exit_code"])
    elif name in UNSEEN:
        answer.stdout = _unseen(call, answer.stdout)
    return answer


def _unseen(call: Call, label: str) -> str:
    """Nobody has shown what these commands print in public: a host may print anything of this."""
    kind = call.host.switches["unseen_outputs"]
    if kind == "silent":
        return ""
    return label if kind == "label" else call.printer.text(Obj("vim.TaskInfo", [("state", "success")]))


def usage(name: str, command: Command) -> Answer:
    short = name.rpartition("/")[2]
    synopsis = f"{short} {command.synopsis}".rstrip()
    return Answer(stderr=f"Insufficient arguments.\nUsage: {synopsis}\n\n{command.description}\n\n", rc=1)


def _listing(words: Sequence[str]) -> Answer:
    """What is available, for everything or for one group."""
    group = words[0].strip("/") if words else ""
    table = commands()
    if group in table:
        command = table[group]
        synopsis = f"{group.rpartition('/')[2]} {command.synopsis}".rstrip()
        return Answer(stdout=f"Usage: {synopsis}\n\n{command.description}\n\n")
    if group:
        names = sorted({name[len(group) + 1 :] for name in table if name.startswith(group + "/")})
        if not names:
            return Answer(stderr=f"Invalid command '{group}'.\n", rc=1)
        title = f"Commands available under {group}/:\n"
    else:
        names, title = list(CATALOGUE), "Commands available under /:\n"
    width = max(len(name) for name in names) + 2
    rows = [names[i : i + 4] for i in range(0, len(names), 4)]
    return Answer(stdout=title + "".join("".join(n.ljust(width) for n in row).rstrip() + "\n" for row in rows))


def _trouble(host: Hostd) -> Answer | None:
    """Connection trouble and the injected faults that hit every call."""
    if host.stopped or host.faults.get("hostd_down"):
        return Answer(stderr="Connect to localhost failed: Connection failure\n", rc=1)
    if host.faults.take("vimcmd_reset"):
        return Answer(stderr="Failed to login: Connection reset by peer\n", rc=1)
    if any(
        not fault.args.get("goes_on") and host.faults.take_this(fault) for fault in host.faults.all("vimcmd_killed")
    ):
        return Answer(stderr="Killed\n", rc=137)
    slow = host.faults.seconds("hostd_slow") + float(host.switches["vimcmd_seconds"])
    if slow:
        host.clock.sleep(slow)
    return None
