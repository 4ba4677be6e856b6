# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab of the kill matrix, and what is looked at in it from outside."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from judge import Lab, Wrong, disk_files, prove_disks, restore_points
from playing import Controller, _with_argument

POINT = "/vmfs/volumes/backup"
LEASE_SECONDS = 6
DRIVER = Path(__file__).with_name("matrix_driver.py")
PROFILES = {"k67": "6.7", "k70": "7.0", "k80": "8.0"}
# Who dies needs no host of his own. What strikes a wire or a host strikes all jobs on it: there each job has one.
SHARED = {"": 4, "a": 4}
OWN = {"a": 1, "b": 1, "c": 1, "d": 1}
# Of the hosts of their own, these start their VMs again when they boot.
AUTOSTART = "b"


def topology(shape: dict[str, int]) -> dict[str, Any]:
    """Three releases, on each hosts with so many VMs of two disks; some have a snapshot of their user's."""

    def disk(key: str) -> dict[str, Any]:
        return {"key": key, "size": "64M", "format": "thin"}

    def vm(name: str, users: bool) -> dict[str, Any]:
        more = {"snapshots": [{"name": "users own", "description": "keep me"}]} if users else {}
        disks = [disk("scsi0:0"), disk("scsi0:1")]
        return {"name": name, "power": "on", "tools": "running", "disks": disks, **more}

    return {
        "hosts": [
            {
                "name": f"{name}{letter}",
                "profile": profile,
                "switches": {"guest_kib_per_second": 256, "shutdown_seconds": 1.0},
                "datastores": [
                    {"name": "datastore1", "type": "vmfs5" if profile == "6.7" else "vmfs6", "size": "1G"},
                    {"name": "backup", "type": "nfs", "size": "5G", "server": "bk1"},
                ],
                "vms": [vm(f"{name}{letter}v{number}", number == 0 and letter < "b") for number in range(count)],
            }
            for letter, count in shape.items()
            for name, profile in PROFILES.items()
        ],
        "backup_servers": [{"name": "bk1"}],
    }


class Matrix:
    """A lab of its own, and what is done in it."""

    def __init__(self, work: Path, base_address: str, shape: dict[str, int]) -> None:
        self.work = work
        self.hosts = [f"{name}{letter}" for letter in shape for name in PROFILES]
        (work / "topology.json").write_text(json.dumps(topology(shape)), encoding="utf-8")
        self.lab = Lab(work / "lab", "killing")
        self.lab.verb("up", "--topology", str(work / "topology.json"), "--base-address", base_address)
        variables = {"stowage_host_key_policy": "pinned", "backup_point": POINT, "restore_point": POINT}
        self.controller = Controller(self.lab, work, variables)
        self.lab.settle()
        self.status = self.ask()
        # Host by host in turn, so that a wave that is not full is spread over all of them.
        self.vms = [f"{host}v{number}" for number in range(max(shape.values())) for host in self.hosts]
        self.state_dir = self.lab.folder / "servers/bk1/root/var/lib/stowage"
        self.before = self.look()
        self.rebooted: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self.waited: set[str] = set()  # VMs whose jobs only waited for their guest, in this wave
        self.kept: list[str] = []  # what such a job has kept, and should not

    def close(self) -> None:
        self.lab.verb("down")

    def ask(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.lab.status()
        return answer

    def machine(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.status["machines"] if entry["name"] == name)

    # -- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        """Every registered VM: power, the whole snapshot tree, its files."""
        found = {}
        for machine in self.ask()["machines"]:
            for vm in machine.get("vms", ()):
                folder = self.outside(machine, vm["vmx"]).parent
                texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.vmsd"))]
                lines = [line for text in texts for line in text.splitlines() if line.startswith("snapshot")]
                tree = tuple(line for line in lines if not line.startswith("snapshot.lastUID"))
                files = {name for name in disk_files(folder) if not name.startswith(".stowage-job")}
                found[vm["name"]] = (vm["power"], tree, frozenset(files))
        return found

    def outside(self, machine: dict[str, Any], path: str) -> Path:
        _, _, _, volume, rest = path.split("/", 4)
        return self.lab.folder / "volumes" / str(machine["datastores"].get(volume, volume)) / rest

    def ours(self) -> list[str]:
        """Files and processes that only we make, and jobs that the backup server still remembers."""
        found = []
        pattern = re.compile(r"\.stowage-job.*|\.partial-.*|\.removing-.*|.*\.stowage-tmp.*|\.\S+\.[0-9a-f]{8}\.tmp")
        owners = {self.machine(host)["datastores"]["datastore1"]: f"{host}: " for host in self.hosts}
        for volume in sorted((self.lab.folder / "volumes").iterdir()):
            owner = owners.get(volume.name, "")
            for folder, folders, files in os.walk(volume):
                names = [name for name in [*folders, *files] if pattern.fullmatch(name)]
                found += [owner + os.path.relpath(f"{folder}/{name}", volume) for name in names]
        for host in self.hosts:
            lines = self.lab.run(host, "ps", "-c").splitlines()
            found += [f"{host}: {' '.join(line.split())}" for line in lines if re.search(r"vmkfstools|stowage", line)]
        for path in (self.state_dir / "jobs").glob("*.json"):
            found.append(f"mirror of {json.loads(path.read_text(encoding='utf-8'))['vm']['name']}")
        return found

    def is_of(self, text: str, vm: str) -> bool:
        """Whether what was found belongs to a VM: by its name, or by its host where that has no other."""
        host = vm.rpartition("v")[0]
        return vm in text or (len(self.vms) == len(self.hosts) and text.startswith(f"{host}: "))

    def differences(self, powers: Mapping[str, set[str]]) -> list[str]:
        """What is not as it was, in words; `powers` has what a VM may be, where that is not what it was."""
        now, found = self.look(), []
        for name in sorted({*now, *self.before}):
            was, is_ = self.before.get(name), now.get(name)
            if was is None or is_ is None:
                found.append(f"{name} is {'not ' if is_ is None else ''}registered")
                continue
            found += [f"{name} is {is_[0]}"] if is_[0] not in powers.get(name, {was[0]}) else []
            found += [f"{name} has other snapshots"] if was[1] != is_[1] else []
            found += [f"{name} has other files: {sorted(was[2] ^ is_[2])}"] if was[2] != is_[2] else []
        for host in self.hosts:
            top = self.outside(self.machine(host), "/vmfs/volumes/datastore1/x").parent
            found += [f"{host}: folder {path.name}" for path in top.iterdir() if path.name.endswith(" back")]
        return found

    def points(self) -> dict[str, Any]:
        return {str(point.folder): point for point in restore_points(self.lab.outside(POINT))}

    def fresh(self, known: Collection[str], vm: str) -> list[str]:
        """The VM's restore points that were not there before."""
        found = self.points().items()
        return [path for path, point in found if path not in known and point.manifest["vm"]["name"] == vm]

    def incomplete(self, known: Collection[str]) -> list[str]:
        """New restore points that are not what a restore point is, by tools that are not ours."""
        found = []
        for path, point in self.points().items():
            if path in known:
                continue
            listed = {file["name"]: file["size"] for file in point.manifest["files"]}
            there = {entry.name: entry.stat().st_size for entry in point.folder.iterdir()}
            there.pop("stowage.json")
            if listed != there:
                found.append(f"{path} does not hold what its manifest lists")
            try:
                prove_disks(point.disks, self.work / "prove")
            except Wrong as wrong:
                found.append(f"{path}: {wrong}")
        return found

    # -- doing -------------------------------------------------------------------------------------------------------

    def spec(self, vm: str, how: str, **more: Any) -> dict[str, Any]:
        host = self.machine(vm.rpartition("v")[0])
        vmx = next(entry["vmx"] for entry in host["vms"] if entry["name"] == vm)
        return {
            "lab": str(self.lab.folder / "run/control.sock"),
            "address": host["address"],
            "port": host["port"],
            "key": str(self.lab.folder / "keys/id_rsa"),
            "known_hosts": str(self.lab.folder / "known_hosts"),
            "state_dir": str(self.state_dir),
            "label": host["name"],
            "vm": vm,
            "vmx": str(self.outside(host, vmx)),
            "how": how,
            "point": POINT,
            "lease_seconds": LEASE_SECONDS,
            "run_id": f"kill{os.getpid()}-{next(self._numbers):04d}",
            **more,
        }

    def drive(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run one job in a process of its own, and let its connections end with it; what it has said at its end."""
        runtime = tempfile.mkdtemp(prefix="stowage-kill-")
        done = subprocess.run(
            [sys.executable, str(DRIVER), json.dumps(spec)],
            env={
                **self.controller.environment(),
                "STOWAGE_RUNTIME_DIR": runtime,
                "PYTHONPATH": str(self.work / "collections"),
            },
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        for pid in _with_argument(runtime):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(runtime, ignore_errors=True)
        if done.returncode != (-signal.SIGKILL if spec.get("strike") == "kill" else 0):
            raise AssertionError(f"the job of {spec} ended with {done.returncode}: {done.stderr[-3000:]}")
        said: dict[str, Any] = json.loads(done.stdout or "{}")
        return said

    def steps(self, how: str) -> list[str]:
        """Every remote command of one whole job."""
        vm = self.vms[-1]
        if how == "restore":
            self.give_a_point(vm)
        said = self.drive(self.spec(vm, how))
        if said["told"]:
            raise AssertionError(f"a job that nobody disturbs is not green: {said['told']}")
        self.forget_restored()
        steps: list[str] = said["steps"]
        return steps

    def forget_restored(self, whose: Collection[str] | None = None) -> None:
        """Unregister and delete what a whole restore has brought back, by the hypervisor's own command."""
        for machine in self.ask()["machines"]:
            for vm in machine.get("vms", ()):
                if vm["name"].endswith(" back") and (whose is None or vm["name"][: -len(" back")] in whose):
                    self.lab.run(machine["name"], "vim-cmd", "vmsvc/destroy", str(vm["vmid"]))
                    # The hypervisor deletes what it knows; the vmsd that a restore keeps as information is none of it.
                    self.lab.run(machine["name"], "rm", "-rf", vm["vmx"].rpartition("/")[0])

    def recover(self, seconds: float = 240) -> None:
        """The real playbook, until no job is left: as its schedule would."""
        time.sleep(LEASE_SECONDS + 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            run = self.controller.play("recover")
            if not re.search(r": (live|waiting); ", run.text):
                return
            self.an_hour_passes()
            time.sleep(2)

    def an_hour_passes(self) -> None:
        """For jobs that only wait for a guest that may still shut down, as their journals know the time."""

        def earlier(found: re.Match[str]) -> str:
            moment = datetime.fromisoformat(found.group().replace("Z", "+00:00")) - timedelta(hours=2)
            return moment.isoformat().replace("+00:00", "Z")

        for path in (self.lab.folder / "volumes").glob("*/*/.stowage-job*/journal"):
            if (path.parent / "lease").exists():
                continue
            job = json.loads((path.parent / "job.json").read_text(encoding="utf-8"))
            vm = job["vm"]["name"]
            self.waited.add(vm)
            kept = (self.lab.folder / "volumes").glob(f"*/*/.partial-*-{job['job']}")
            self.kept += [f"{vm}: its job only waited, with {half.name}" for half in kept]
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r'(?<="at": ")[^"]+', earlier, text), encoding="utf-8")

    def give_a_point(self, vm: str) -> None:
        """Something to restore from."""
        if not any(f"{vm}-" in path for path in self.points()):
            self.drive(self.spec(vm, "cold"))

    def reboot_without_us(self) -> None:
        """What becomes of the VMs when their hosts reboot and no job is there; then they run again."""
        for host in self.hosts:
            if host.endswith(AUTOSTART):
                self.lab.run(host, "vim-cmd", "hostsvc/autostartmanager/enable_autostart", "1")
                for vm in self.machine(host)["vms"]:
                    entry = (str(vm["vmid"]), "PowerOn", "1", "1", "systemDefault", "1", "systemDefault")
                    self.lab.run(host, "vim-cmd", "hostsvc/autostartmanager/update_autostartentry", *entry)
            self.lab.verb("reboot", host)
        time.sleep(5)
        self.rebooted = {name: seen[0] for name, seen in self.look().items()}
        self.start_all()

    def start_all(self) -> None:
        """The VMs that a reboot has left off run again, and their guests with them."""
        for machine in self.ask()["machines"]:
            for vm in machine.get("vms", ()):
                if vm["power"] != self.before[vm["name"]][0]:
                    self.lab.run(machine["name"], "vim-cmd", "vmsvc/power.on", str(vm["vmid"]))
        time.sleep(3)
