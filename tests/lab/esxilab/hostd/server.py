# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The management daemon of one simulated host: its VMs, its tasks, and the answers to its commands."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from esxilab.topology import parse_size

from . import mounts, power, snapshots
from .autostart import AutoStart
from .clock import Clock
from .engine import Engine
from .errors import AlreadyExists, InvalidPowerState, ManagedObjectNotFound, NoSuchVm, ObjectNotFound, VimFault
from .events import MachineEvents
from .faults import Fault, Faults, fill, fill_slowly
from .firewall import Firewall
from .inventory import Inventory
from .machine import Vm
from .profiles import profile_of
from .tasks import TaskList
from .vmconfig import dashed
from .vmodl import Ref
from .vmsd import Snapshot
from .volumes import Volumes, volumes_of

#: Switches of a host that hostd and its commands read, with their defaults.
SWITCHES: dict[str, Any] = {
    #: A frozen base or delta can be opened by any program (hosts were seen to do either).
    "base_readable_after_snapshot": True,
    #: The same of a delta below the top (open point 2); None: as the base.
    "frozen_delta_readable": None,
    #: A process that has a file of the chain open makes consolidation fail (3.5).
    "reader_blocks_consolidation": True,
    #: What snapshots make; None: by datastore, release and size (5.1).
    "delta_format": None,
    #: The extent of a delta lies in the `workingDir` of the .vmx, its descriptor beside the parent's (open point 17).
    "delta_extent_in_working_dir": False,
    #: Dumps with dynamicType and a comma after every field; None: as the release (1.0).
    "classic_dumps": None,
    #: A refused power operation prints the fault, as 4.x and 5.x do, and not only that it failed (1.3).
    "power_fault_dumps": False,
    #: The status of a vim-cmd that a fault ended (open point 9).
    "fault_exit_code": 1,
    #: What snapshot.removeall, snapshot.dumpoption and power.reset print, which nobody has shown (open point 11).
    "unseen_outputs": "label",
    #: Every vim-cmd takes that much longer (5.3).
    "vimcmd_seconds": 0.0,
    #: What vmkfstools -d takes (open point 16).
    "clone_formats": ["zeroedthick", "thin", "eagerzeroedthick", "2gbsparse"],
    #: What vmkfstools -t0 says of the frozen base of a running VM (open point 8).
    "block_map": "full",
    #: A clone's error stands above the two lines that come before it, where both streams go to one file (2.2).
    "clone_error_first": True,
    #: A thin disk takes room as its guest writes; else all that a guest ever writes is there from the beginning.
    "disks_grow": True,
    #: snapshot.create returns before its task has ended; None: as the release does.
    "snapshot_async": None,
    "snapshot_seconds": 0.3,
    "shutdown_seconds": 2.0,
    "tools_seconds": 1.0,
    #: vmkfstools keeps its output back until it ends.
    "vmkfstools_buffered": False,
    #: KiB a second that a running guest writes.
    "guest_kib_per_second": 64,
}


#: The values that a switch takes, where it is not any number or yes and no.
CHOICES: dict[str, tuple[Any, ...]] = {
    "delta_format": (None, "vmfssparse", "sesparse"),
    "unseen_outputs": ("label", "silent", "dump"),
    "block_map": ("full", "no_holes", "refused"),
}


class Hostd:
    """One host. `handle` answers commands; it blocks as long as the real command would, so call it from a thread."""

    def __init__(
        self,
        host_config: Mapping[str, Any],
        volumes: Mapping[str, Any] | str | Path | Volumes,
        locks: Any = None,
        clock: Clock | None = None,
        root: str | Path | None = None,
    ) -> None:
        self.host_config = dict(host_config)
        self.name = str(host_config["name"])
        self.clock = clock if isinstance(clock, Clock) else Clock()
        self.profile = profile_of(str(host_config["profile"]))
        self.switches = {**SWITCHES, **host_config.get("switches", {})}
        self.volumes = (
            volumes if isinstance(volumes, Volumes) else volumes_of(host_config.get("datastores", []), volumes)
        )
        self.faults = Faults()
        self.tasks = TaskList(self.clock)
        self.locks = locks
        self.engine = Engine(self, locks)
        self.maintenance = False
        self.stopped = False
        self._acting: set[threading.Thread] = set()
        self.modules_loaded: set[str] = set()
        #: The cap of the SSH group as it is now; a session may raise it until the next boot.
        self.ssh_memory_mb = int(self.switches.get("ssh_memory_mb") or 0)
        self.options: dict[str, int] = {}
        self.boot_exec_installed_only = bool(self.switches.get("exec_installed_only"))
        self._booted_volumes = list(self.volumes.all)
        self.machine_events = MachineEvents()
        self.started = self.clock.now()
        folder = Path(root or host_config["root"])
        self.root = folder
        self.inventory = Inventory(folder / "etc/vmware/hostd/vmInventory.xml")
        self.firewall = Firewall(folder / "etc/vmware/firewall")
        self.autostart = AutoStart(folder / "etc/vmware/hostd/vmAutoStart.xml")
        self._vms: dict[str, Vm] = {}
        self._lock = threading.RLock()
        self._pids = itertools.count(2099000, 7)
        self._questions = itertools.count(1)
        self._habits: dict[str, set[str]] = {}
        #: Bumped by a restart of hostd: who waits for an answer of the old one gets none.
        self.hostd_life = 0
        self._rebuild()

    def _rebuild(self) -> None:
        """What a booting host does: read the inventory; a VM with a checkpoint is suspended, the others are off."""
        self._vms = {vmid: Vm(self, vmid, path) for vmid, path in self.inventory.entries.items()}
        for vm in self._vms.values():
            if vm.valid and vm.config.values.get("checkpoint.vmState").endswith(".vmss"):
                vm.power = "suspended"

    # --- identity --------------------------------------------------------------------------------------------

    @property
    def uuid(self) -> str:
        return dashed(hashlib.sha256(f"host {self.name}".encode()).hexdigest()[:32])

    @property
    def mac(self) -> str:
        """The management card's address: the last part of every lock owner of this host."""
        return "0050569" + hashlib.sha256(f"mac {self.name}".encode()).hexdigest()[:5]

    @property
    def lock_owner(self) -> str:
        digits = hashlib.sha256(f"boot {self.name} {self.started}".encode()).hexdigest()
        return f"{digits[:8]}-{digits[8:16]}-{digits[16:20]}-{self.mac}"

    def next_pid(self) -> int:
        return next(self._pids)

    def next_question(self) -> int:
        return next(self._questions)

    # --- paths -----------------------------------------------------------------------------------------------

    def outside(self, path: str) -> Path:
        found = self.volumes.outside(path)
        return found if found is not None else Path("/nonexistent") / path.lstrip("/")

    def as_path(self, path: str) -> Path:
        return Path(path)

    # --- VMs -------------------------------------------------------------------------------------------------

    def vms(self) -> list[Vm]:
        with self._lock:
            return list(self._vms.values())

    def vm(self, vmid: str) -> Vm:
        with self._lock:
            found = self._vms.get(vmid)
        if found is None:
            raise NoSuchVm(vmid)
        return found

    def vm_named(self, name: str) -> Vm:
        """For the lab's own verbs: a VM by its vmid, display name or folder."""
        for vm in self.vms():
            if name in (vm.vmid, vm.safe_name, os.path.basename(os.path.dirname(vm.vmx_path))):
                return vm
        raise KeyError(f"{self.name} has no VM {name!r}; it has {', '.join(vm.safe_name for vm in self.vms())}")

    def renumber(self, vm: Vm) -> str:
        """The VM goes on under another id, as after an unregistration and a registration."""
        with self._lock:
            self.inventory.remove(vm.vmid)
            del self._vms[vm.vmid]
            vm.vmid = self.inventory.add(vm.vmx_path)
            self._vms[vm.vmid] = vm
        return vm.vmid

    def register(self, vmx_path: str, name: str = "") -> str:
        """solo/registervm: the path may use the datastore's name or uuid, or be `[ds] dir/x.vmx`."""
        path = self.volumes.inside(self.volumes.from_api(vmx_path))
        with self._lock:
            holder = self.inventory.holder(path)
            if holder is not None:
                raise AlreadyExists(holder)
            if not path.endswith((".vmx", ".vmtx")) or not self.outside(path).is_file():
                raise ObjectNotFound()
            vmid = self.inventory.add(path)
            vm = self._vms[vmid] = Vm(self, vmid, path)
        if name:
            vm.config.values.set("displayName", name)
            vm.save_config()
        if vm.config.values.get("checkpoint.vmState").endswith(".vmss"):
            vm.power = "suspended"
        task = self.tasks.begin(vmid, "vim.Folder", vm.safe_name, "registerVm")
        self.tasks.end(task)
        return vmid

    def unregister(self, vmid: str) -> None:
        vm = self.vm(vmid)
        if vm.power != "poweredOff":
            raise InvalidPowerState("poweredOff", vm.power)
        with vm.operation("unregister"), self._lock:
            self.inventory.remove(vmid)
            self.autostart.forget(vmid)
            del self._vms[vmid]

    def destroy(self, vmid: str) -> None:
        """Unregister and delete: every disk of the VM, its snapshots' files, and what hostd knows as the VM's own."""
        vm = self.vm(vmid)
        if vm.power != "poweredOff":
            raise InvalidPowerState("poweredOff", vm.power)
        with vm.operation("destroy"):
            if vm.valid:
                self.engine.delete_vm_files(vm)
            with self._lock:
                self.inventory.remove(vmid)
                self.autostart.forget(vmid)
                del self._vms[vmid]

    def check_alive(self, vm: Vm) -> None:
        """After a pause: has the host, or the VM's registration, gone meanwhile?"""
        if self.stopped or self._vms.get(vm.vmid) is not vm:
            raise ManagedObjectNotFound(Ref(f"vim.VirtualMachine:{vm.vmid}"))

    # --- what the operations ask -----------------------------------------------------------------------------

    @property
    def tools_delay(self) -> float:
        return float(self.switches["tools_seconds"])

    def shutdown_delay(self, vm: Vm) -> float:
        return float(self.switches["shutdown_seconds"])

    def snapshot_delay(self, vm: Vm) -> float:
        return float(self.switches["snapshot_seconds"]) + self.faults.seconds("snapshot_delay", vm.safe_name)

    @property
    def snapshot_async(self) -> bool:
        asked = self.switches["snapshot_async"]
        return self.profile.snapshot_async if asked is None else bool(asked)

    @property
    def classic_dumps(self) -> bool:
        asked = self.switches["classic_dumps"]
        return self.profile.classic_dumps if asked is None else bool(asked)

    def hold_if_stuck(self, vm: Vm, operation: str) -> None:
        fault = self.faults.get("stuck_task", vm.safe_name)
        if fault is not None and fault.args.get("op") in (None, operation):
            self.faults.wait_while(fault)
        for slow in self.faults.all("slow_task"):
            if slow.args.get("vm") in (None, vm.safe_name) and slow.args.get("op") in (None, operation):
                self.clock.sleep(float(slow.args.get("seconds", 5)))

    def habits_of(self, vm: Vm) -> set[str]:
        return self._habits.get(vm.config.bios_uuid, set())

    def set_habits(self, bios_uuid: str, habits: set[str]) -> None:
        """Faults that belong to a guest for good, from the topology; `clear` leaves them."""
        self._habits[bios_uuid] = habits

    def snapshot_was_quiesced(self, vm: Vm, snapshot: Snapshot) -> bool:
        return snapshots.saved_state(vm, snapshot).flag("quiesced")

    # --- the lab's own verbs ---------------------------------------------------------------------------------

    def provision(self, host_config: Mapping[str, Any] | None = None) -> list[str]:
        """Create and register the VMs of the description that do not exist yet; returns the new vmids."""
        from .provision import provision

        return provision(self, host_config or self.host_config)

    def power_on(self, vm: str) -> None:
        found = self.vm_named(vm)
        with found.operation("powerOn"):
            power.power_on(found)

    def power_off(self, vm: str) -> None:
        found = self.vm_named(vm)
        with found.operation("powerOff"):
            power.power_off(found)

    def fault(self, name: str, /, **args: Any) -> dict[str, Any]:
        """Set a fault, or `clear` (all, or `name=` and `vm=` only); returns what is set now."""
        if name == "clear":
            gone = self.faults.clear(args.get("name"), args.get("vm"))
            for vm in self.vms():
                question = vm.question
                if question is not None and question.fault in gone:
                    vm.question = None
                    question.withdrawn = True
                    question.answered.set()
                if vm.valid and vm.power == "poweredOn" and vm.config.has_tools and not vm.has_fault("tools_stop"):
                    vm.tools_running = True
            return {"faults": self.faults.listing()}
        for size in ("rate", "leave", "bytes", "bytes_per_second"):
            if size in args:
                args[size] = parse_size(args[size])
        if "vm" in args:
            args["vm"] = self.vm_named(str(args["vm"])).safe_name
        if name in ("hostd_restart", "reboot") and not args.get("op"):
            self.strike(Fault(name, args))
            return {"faults": self.faults.listing()}
        if name == "vmid_changes":
            self.renumber(self.vm_named(str(args["vm"])))
            return {"faults": self.faults.listing()}
        if name in ("datastore_full", "datastore_fills"):
            volume = self.volumes.by_name(str(args.get("datastore") or self.volumes.all[0].name))
            if volume is None:
                raise ValueError(f"{self.name} has no datastore {args.get('datastore')!r}")
        if name == "datastore_fills":
            fault = self.faults.add(name, **args)
            fill_slowly(self.faults, fault, volume.path)
            return {"faults": self.faults.listing()}
        if name == "datastore_full":
            # The lab's filler lies in the datastore itself, so that every program finds it full.
            self.faults.clear(name)
            self.faults.add(name, **args).ballast = fill(volume.path, int(args.get("leave", 0)))
            return {"faults": self.faults.listing()}
        self.faults.add(name, **args)
        if name == "tools_stop":
            for vm in self.vms():
                if vm.valid and vm.has_fault("tools_stop"):
                    vm.tools_running = False
        return {"faults": self.faults.listing()}

    def strike(self, fault: Fault) -> None:
        """What a fault does that hits the whole host."""
        self.faults.drop(fault)
        if fault.name == "reboot":
            self.machine_events.power(True, 0.0)
        else:
            self.restart(float(fault.args.get("seconds", 5)))

    def restart(self, seconds: float) -> None:
        """hostd ends and starts again: VMs run on, and so does the work of their tasks; nobody is told how it ends."""
        self.faults.add("hostd_down")
        self.hostd_life += 1
        self.tasks = TaskList(self.clock)
        for vm in self.vms():
            vm.reload()

        def up() -> None:
            self.clock.sleep(seconds)
            self.faults.clear("hostd_down")

        threading.Thread(target=up, name="hostd-restart", daemon=True).start()

    def status(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "profile": self.profile.name,
            "faults": self.faults.listing(),
            "vms": [
                {
                    "vmid": vm.vmid,
                    "name": vm.safe_name,
                    "power": vm.power,
                    "vmx": vm.vmx_path,
                    "tools": vm.tools_status if vm.valid else "",
                    "snapshots": [s.name for s in vm.snapshots().snapshots] if vm.valid else [],
                    "busy": vm.busy.key if vm.busy else None,
                    "guest": self.engine.guest_status(vm),
                }
                for vm in self.vms()
            ],
        }

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """What a VM does by itself: the host's end comes before it begins or after it has ended, never within."""
        me = threading.current_thread()
        self._acting.add(me)
        try:
            yield
        finally:
            self._acting.discard(me)

    def shutdown(self, crash: bool = False) -> None:
        """Stop everything that runs: the lab goes down, or the host reboots (`crash`: without a clean end)."""
        self.stopped = True
        self.faults.clear()
        for thread in self._acting - {threading.current_thread()}:
            thread.join(10)
        for vm in self.vms():
            if vm.power == "poweredOn":
                with contextlib.suppress(VimFault, OSError):
                    self.engine.stop(vm, clean=False, crash=crash)
                    if not crash:
                        power._drop_running_files(vm)
                vm.power = "poweredOff"

    def reboot(self, crash: bool = True, autostart: bool = False) -> None:
        """The host restarts: memory is lost, the files are what they are.

        VMs come back by the host's autostart list; with `autostart` all that ran.
        """
        running = [vm.vmid for vm in self.vms() if vm.power == "poweredOn"]
        self.shutdown(crash)
        self.stopped = False
        self.maintenance = False
        self.modules_loaded.clear()
        self.ssh_memory_mb = int(self.switches.get("ssh_memory_mb") or 0)
        self.switches["exec_installed_only"] = self.boot_exec_installed_only
        self.firewall.reboot()
        mounts.restore(self, self._booted_volumes)
        self.tasks = TaskList(self.clock)
        self.started = self.clock.now()
        self.inventory.load()
        self._rebuild()
        if autostart:
            self._start(running)
        elif self.autostart.starting():
            # A VM that asks a question holds up those after it, not the host.
            threading.Thread(
                target=self._start, args=(self.autostart.starting(),), name="autostart", daemon=True
            ).start()

    def _start(self, vmids: list[str]) -> None:
        for vmid in vmids:
            with contextlib.suppress(VimFault):
                vm = self.vm(vmid)
                with vm.operation("powerOn"):
                    power.power_on(vm)

    # --- commands --------------------------------------------------------------------------------------------

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one command of a client: `{tool, argv, cwd, pid}` gives `{stdout, stderr, rc}`.

        `vmkfstools` runs in the client's own process; it asks here for grants (`{tool: "vmkfstools", ask: …}`).
        """
        from esxilab.tools import dispatch

        return dispatch.handle(self, request)
