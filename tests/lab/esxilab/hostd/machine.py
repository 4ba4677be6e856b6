# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One registered VM: its files, its state, and the work in progress on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esxilab import disks

from .dictfile import DictFile, replace_text
from .errors import SystemError_, TaskInProgress, VimFault
from .tasks import Task
from .vmconfig import DiskDevice, VmConfig, split_delta
from .vmlog import VmLog
from .vmodl import Ref
from .vmsd import SnapshotDict, parse_vmsd

if TYPE_CHECKING:
    from .faults import Fault
    from .server import Hostd


@dataclass
class Question:
    """A pending question; `answered` is set with `choice`."""

    number: int
    key: str
    text: str
    choices: list[str]
    default: int
    choice: int | None = None
    answered: threading.Event = field(default_factory=threading.Event)
    #: The injected fault that asks; when it is cleared, so is the question.
    fault: Fault | None = None
    withdrawn: bool = False

    @property
    def id(self) -> str:
        return f"_vmx{self.number}"


class Vm:
    """A VM in the inventory of one host. Everything lasting is in its files; this holds what a running host knows."""

    def __init__(self, host: Hostd, vmid: str, vmx_path: str) -> None:
        self.host = host
        self.vmid = vmid
        #: What its running part is known by, whatever happens to its vmid.
        self.cartel = vmid
        self.vmx_path = vmx_path
        self.power = "poweredOff"
        self.boot_time: datetime | None = None
        self.suspend_time: datetime | None = None
        self.clean_power_off: bool | None = None
        self.tools_running = False
        self.question: Question | None = None
        self.guest: Any = None
        self.world_id = 0
        self.swap_files: list[Path] = []
        self.locked: list[str] = []
        #: Bumped at each power-on; timers of an earlier life see that they are out of date.
        self.life = 0
        self._lock = threading.RLock()
        self._task: Task | None = None
        self._config: VmConfig | None = None
        self._config_error = False

    # --- files -----------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return self.vmx_file.parent

    @property
    def vmx_file(self) -> Path:
        return self.host.outside(self.vmx_path)

    @property
    def vmsd_file(self) -> Path:
        return self.vmx_file.with_suffix(".vmsd")

    @property
    def valid(self) -> bool:
        """A VM whose .vmx cannot be read is skipped by getallvms."""
        return self.vmx_file.is_file() and self._load() is not None

    @property
    def config(self) -> VmConfig:
        found = self._load()
        if found is None:
            raise VimFault(f"Unable to load configuration file '{self.vmx_path}'.")
        return found

    def _load(self) -> VmConfig | None:
        with self._lock:
            if self._config is None:
                try:
                    values = DictFile.load(self.vmx_file)
                except OSError:
                    return None
                self._config = VmConfig(values, self.vmx_path, self.host.volumes)
            return self._config

    def reload(self) -> None:
        """Forget what was read: the next look is at the file."""
        with self._lock:
            self._config = None

    def save_config(self) -> None:
        with self._lock:
            self.config.values.save(self.vmx_file, 0o755)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def log(self) -> VmLog:
        return VmLog(self.folder, self.host.profile, self.host.clock)

    def snapshots(self) -> SnapshotDict:
        try:
            text = self.vmsd_file.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            text = ""
        found = parse_vmsd(text)
        for snapshot in found.snapshots:
            snapshot.quiesced = self.host.snapshot_was_quiesced(self, snapshot)
        return found

    def save_snapshots(self, snapshots: SnapshotDict) -> None:
        replace_text(self.vmsd_file, snapshots.render(), 0o644)

    # --- disks -----------------------------------------------------------------------------------------------

    def live_disks(self) -> list[DiskDevice]:
        return self.config.disks()

    def needs_consolidation(self) -> bool:
        """A delta on the chain that neither the .vmx nor a snapshot needs as its top."""
        from .chains import Chains  # chains works on VMs, VMs ask chains

        return Chains(self).consolidation_needed()

    def next_delta(self, path: str) -> str:
        """The descriptor path of the next delta of a disk: the lowest number whose names are free."""
        base, _ = split_delta(path)
        number = 1
        while True:
            candidate = f"{base}-{number:06d}.vmdk"
            stem = candidate[: -len(".vmdk")]
            if not any(self.host.outside(stem + end).exists() for end in (".vmdk", "-delta.vmdk", "-sesparse.vmdk")):
                return candidate
            number += 1

    # --- work ------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> Task | None:
        return self._task

    def begin(self, operation: str) -> Task:
        """Start an operation; only one at a time runs on a VM."""
        with self._lock:
            if self._task is not None:
                raise TaskInProgress(Ref(self._task.moref))
            self._task = self.host.tasks.begin(self.vmid, "vim.VirtualMachine", self.safe_name, operation)
            return self._task

    def end(self, task: Task, error: VimFault | None = None) -> None:
        with self._lock:
            self.host.tasks.end(task, error)
            if self._task is task:
                self._task = None

    @contextlib.contextmanager
    def operation(self, name: str) -> Iterator[Task]:
        """Run the block as a task; a fault ends the task with an error and goes on to the caller."""
        task = self.begin(name)
        try:
            self.host.hold_if_stuck(self, name)
            yield task
        except VimFault as fault:
            self.end(task, fault)
            raise
        except (OSError, disks.DiskError) as error:
            general = SystemError_(str(error))
            self.end(task, general)
            raise general from error
        except BaseException as error:
            self.end(task, SystemError_(str(error)))
            raise
        self.end(task)

    @property
    def safe_name(self) -> str:
        found = self._load()
        return found.name if found else self.vmx_path

    @property
    def tools_status(self) -> str:
        if not self.config.has_tools:
            return "toolsNotInstalled"
        return "toolsOk" if self.tools_running else "toolsNotRunning"

    def has_fault(self, name: str) -> bool:
        return self.host.faults.get(name, self.safe_name) is not None or name in self.host.habits_of(self)
