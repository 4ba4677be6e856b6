# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Injected faults: what an operator of the lab can break, per host or per VM."""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: name -> what it does, and the arguments it takes (all optional unless it says so).
KNOWN = {
    "quiesce_fails": "quiesced snapshots fail (vm)",
    "guest_ignores_shutdown": "the guest does nothing on a shutdown request (vm)",
    "slow_clone": "vmkfstools copies at most `rate` bytes a second",
    "clone_hangs": "vmkfstools -i stays at `percent=50` until cleared or killed",
    "clone_short": "vmkfstools -i ends as a success, but the last `bytes=1M` are missing; `hole=true`: are a hole",
    "clone_fails_at": "vmkfstools -i stops at `percent` with `code` and `text`; half the output stays",
    "snapshot_fails": "snapshot.create fails (vm)",
    "snapshot_delay": "snapshot.create takes `seconds` more (vm)",
    "remove_delay": "consolidation takes `seconds` more (vm)",
    "stuck_task": "operation `op` (createSnapshot, removeSnapshot, powerOff, …) never ends until cleared (vm)",
    "slow_task": "operation `op` (as above; all without it) takes `seconds` more (vm)",
    "hostd_down": "vim-cmd and esxcli find no hostd",
    "hostd_slow": "each call takes `seconds` more",
    "vimcmd_reset": "the next `times` calls end in a connection reset",
    "vimcmd_killed": "the next `times` calls are killed; `goes_on=true`: their work goes on in hostd (op, vm)",
    "half_output": "the next `times` answers of `op` (getallvms, get.summary, snapshot.get, …) end at `keep=0.5` (vm)",
    "lying": "`op` (power.on, power.off, power.shutdown, snapshot.create, snapshot.remove, snapshot.removeall,"
    " unregister, registervm) answers success and does nothing (vm, times)",
    "hold": "the `nth` call of `op` stops until this is cleared: `when=before` or `after` its effect; `tool=vmkfstools`"
    " `op=-i` also `when=during`, at `percent=50`. The listing tells `holding` (vm)",
    "hostd_restart": "hostd is away for `seconds=5`, calls in flight are reset and tasks forgotten, their work goes on;"
    " at once, or `after=0.1` seconds of the `nth` call of `op` (vm)",
    "reboot": "the host reboots, `after=0.1` seconds of the `nth` call of `op` (vm)",
    "lying_remove": "snapshot.remove and removeall answer success and do nothing (vm)",
    "lying_create": "snapshot.create answers success and does nothing (vm)",
    "datastore_full": "fills `datastore`, leaving `leave` bytes",
    "datastore_fills": "`datastore` fills by `bytes_per_second=1M` until `leave` bytes are left",
    "vmid_changes": "the VM goes on under another vmid, at once (vm; needed)",
    "power_on_fails": "power.on fails (vm)",
    "power_off_slow": "power.off takes `seconds` more (vm)",
    "question": "a question is pending on the VM (vm); `text` names it",
    "tools_stop": "VMware Tools do not run in the guest (vm)",
}


@dataclass
class Fault:
    name: str
    args: dict[str, Any]
    left: int | None = None
    #: Opened but nameless files that take the room of a full datastore.
    ballast: list[int] = field(default_factory=list)
    #: How many calls it was meant for, and how many of them it holds now.
    seen: int = 0
    holding: int = 0


class Faults:
    """The faults of one host that are set now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: list[Fault] = []
        self._changed = threading.Condition(self._lock)

    def add(self, name: str, **args: Any) -> Fault:
        if name not in KNOWN:
            raise ValueError(f"unknown fault {name!r}; known are {', '.join(KNOWN)}")
        left = args.pop("times", None)
        fault = Fault(name, args, int(left) if left is not None else None)
        with self._lock:
            self._set = [f for f in self._set if _place(f.name, f.args) != _place(name, args)]
            self._set.append(fault)
        return fault

    def clear(self, name: str | None = None, vm: str | None = None) -> list[Fault]:
        with self._changed:
            gone = [
                fault
                for fault in self._set
                if (name is None or fault.name == name) and (vm is None or fault.args.get("vm") == vm)
            ]
            self._set = [fault for fault in self._set if fault not in gone]
            for fault in gone:
                for fd in fault.ballast:
                    os.close(fd)
                fault.ballast.clear()
            self._changed.notify_all()
        return gone

    def drop(self, fault: Fault) -> None:
        """Take this one away, whatever others there are."""
        with self._changed:
            self._set = [other for other in self._set if other is not fault]
            self._changed.notify_all()

    def get(self, name: str, vm: str | None = None) -> Fault | None:
        """The fault that applies to this VM: its own, or the host's. Does not use up its count."""
        with self._lock:
            for fault in self._set:
                if fault.name == name and fault.args.get("vm") in (None, vm):
                    return fault
        return None

    def all(self, *names: str) -> list[Fault]:
        with self._lock:
            return [fault for fault in self._set if fault.name in names]

    def take(self, name: str, vm: str | None = None) -> Fault | None:
        """As get, and one of its `times` is used up."""
        fault = self.get(name, vm)
        return fault if fault is not None and self.take_this(fault) else None

    def take_this(self, fault: Fault) -> bool:
        """Use up one of its `times`; False when there is none left."""
        with self._lock:
            if fault.left is None:
                return True
            if fault.left <= 0:
                return False
            fault.left -= 1
            if fault.left == 0:
                self._set = [other for other in self._set if other is not fault]
        return True

    def is_nth(self, fault: Fault) -> bool:
        """Count one call that the fault is meant for; True for the one that it waits for."""
        with self._lock:
            fault.seen += 1
            return fault.seen == int(fault.args.get("nth", 1))

    def seconds(self, name: str, vm: str | None = None) -> float:
        fault = self.get(name, vm)
        return float(fault.args.get("seconds", 5)) if fault else 0.0

    def wait_while(self, fault: Fault) -> None:
        """Hold the caller until the fault is cleared."""
        with self._changed:
            fault.holding += 1
            while any(other is fault for other in self._set):
                self._changed.wait(1.0)
            fault.holding -= 1

    def listing(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {"name": fault.name, "times": fault.left, "holding": fault.holding > 0, **fault.args}
                for fault in self._set
            ]


def _place(name: str, args: dict[str, Any]) -> tuple[Any, ...]:
    """Of one kind there is one fault for each VM, and for what is aimed at calls one for each command."""
    return (name, args.get("vm"), args.get("op"), args.get("when"))


def fill(path: Path, leave: int) -> list[int]:
    """Take all room of a file system but `leave` bytes, in files that have no name."""
    stat = os.statvfs(path)
    room = stat.f_bavail * stat.f_frsize - leave
    name = path / f".fill-{os.getpid()}-{threading.get_ident()}"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.unlink(name)
    # Guests write meanwhile, so what is left is taken in smaller and smaller pieces.
    size, position = 1 << (max(room, 1).bit_length() - 1), 0
    while size >= 4096 and position < room:
        try:
            os.posix_fallocate(fd, position, min(size, room - position))
            position += min(size, room - position)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            size //= 2
    return [fd]


def fill_slowly(faults: Faults, fault: Fault, path: Path) -> None:
    """Take a file system's room bit by bit, until the fault is cleared or only `leave` bytes are left."""
    name = path / f".fill-{os.getpid()}-{threading.get_ident()}"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.unlink(name)
    keeper = os.dup(fd)
    fault.ballast = [keeper]
    step = max(4096, int(float(fault.args.get("bytes_per_second", 1 << 20)) / 10))
    leave = int(fault.args.get("leave", 0))

    def grow() -> None:
        position = 0
        try:
            while any(other is fault for other in faults.all(fault.name)):
                stat = os.statvfs(path)
                room = stat.f_bavail * stat.f_frsize - leave
                if room > 4096:
                    os.posix_fallocate(fd, position, min(step, room))
                    position += min(step, room)
                time.sleep(0.1)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(fd)

    threading.Thread(target=grow, name=f"fill {path.name}", daemon=True).start()
