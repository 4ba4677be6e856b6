# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kill matrix: a job dies at every single thing that it asks of the hypervisor, and recover must leave nothing.

The steps are not written down here. A job is run once, by the engine's own functions and in the order of the role, and
every remote command of it is counted and named: these are the steps. Then, for each step, a process of its own runs the
same job and gets SIGKILL right before it asks (`before`) or while the hypervisor works on it (`sent`), in which case
the command lives on there; its ssh connections die with it. Then the real `recover` playbook runs once for many such
dead jobs, each on a VM of its own, and the lab is looked at from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "tools"), str(TESTS / "lab"), str(TESTS / "system")]

LEASE_SECONDS = 6
SHUTDOWN_SECONDS = 20
POINT = "/vmfs/volumes/backup"
HOSTS = ("k67", "k70", "k80")
VMS_PER_HOST = 4
MOMENTS = ("before", "sent")
# Long enough for a command to have begun on the host, too short for most of them to have ended.
SENT_SECONDS = 0.12
COMMITTED = ("committed: note commit-done", "ended: ")
READS = re.compile(
    r": (cat |head |ps |test |read files|vmkfstools$|vmkfstools -e|journal\.look|plan\.look|survey\.existing"
    r"|point\.(sizes|list|removing)|vmsvc/(getallvms|message|snapshot\.get|power\.getstate)( |$))"
)
PACKAGE = "ansible_collections.stowage.esxi.plugins.module_utils"


# -- the job that dies -----------------------------------------------------------------------------------------------


def names_of_scripts() -> dict[str, str]:
    """Each shell text of the engine and its name there."""
    found = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(PACKAGE):
            for name, value in vars(module).items():
                if isinstance(value, str) and name.isupper() and "\n" in value:
                    found[value.strip()] = f"{module_name.rpartition('.')[2]}.{name.strip('_').lower()}"
    return found


def label(argv: Sequence[str], stdin: bytes | None) -> str:
    """What one remote command is, in a few words."""
    if argv[0] != "sh":
        return " ".join([argv[0], *(word.rpartition("/")[2] for word in argv[1:3])])
    if argv[1] == "-c":
        return f"write {argv[-2].rpartition('.')[2]} file"
    text = (stdin or b"").decode("utf-8", "surrogateescape").removeprefix("{\n").removesuffix("\n} </dev/null\n")
    known = names_of_scripts().get(text.strip())
    if "stowage_launch" in text:
        return "watchdog.launch"
    if known == "intent.append":
        return f"note {json.loads(argv[-1])['event']}"
    if known:
        return known
    if text.lstrip().startswith("f=$(mktemp"):
        return " ".join(word for word in argv if "/" in word and " " not in word and not word.startswith("/"))
    commands = [word.strip("'") for word in re.findall(r"'?vmsvc/[\w.]+'?|'?solo/\w+'?|'?vmkfstools'?", text)]
    if commands:
        return " + ".join(dict.fromkeys(commands))
    return "read files"


def without_name(words: str, vm: str) -> str:
    """The step is the same one for each VM, though files and folders are named after it."""
    return re.sub(rf"{re.escape(vm)}[\w-]*", "it", words)


def drive(spec: dict[str, Any]) -> None:
    """Run one job; die where the spec says so. Without a place to die: print the steps and end."""
    from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs import copying, planning, restore, steps
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session, open_session

    class Dying(Session):
        """Counts what goes over it."""

        def __init__(self, inner: Session) -> None:
            super().__init__(inner.endpoint)
            self.inner = inner
            self.armed = False
            self.step = ""
            self.seen: list[str] = []

        def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Any:
            def go() -> Any:
                return self.inner.run(argv, stdin=stdin, timeout_seconds=timeout_seconds)

            if not self.armed:
                return go()
            self.seen.append(f"{self.step}: {without_name(label(argv, stdin), spec['vm'])}")
            if spec.get("stop") == [self.seen[-1], self.seen.count(self.seen[-1])]:
                if spec["moment"] == "sent":
                    threading.Thread(target=go, daemon=True).start()
                    time.sleep(SENT_SECONDS)
                os.kill(os.getpid(), signal.SIGKILL)
            return go()

        def close(self) -> None:
            self.inner.close()

        def disconnect(self) -> None:
            getattr(self.inner, "disconnect", lambda: None)()

    endpoint = Endpoint(
        host=spec["address"],
        port=spec["port"],
        private_key_file=spec["key"],
        known_hosts_file=spec["known_hosts"],
    )
    with open_session(endpoint) as inner:
        session = Dying(inner)
        host = Host(session, retry_seconds=0.5)
        common = {
            "run_id": spec["run_id"],
            "inventory_host": spec["label"],
            "state_dir": spec["state_dir"],
            "controller": "kill matrix",
            "lease_seconds": LEASE_SECONDS,
            "copies": [],
            "register": True,
            "outcome": "ok",
            "error": None,
            "downtime_seconds": None,
        }
        copy_defaults = {
            "program": "vmkfstools",
            "disk_format": "thin",
            "include_config": False,
            "verify": "sample",
            "reserve_percent": 5,
            "snapshot_reserve_percent": 5,
            "limits_dir": "/nonexistent",
            "limits_timeout": 60,
            "state_dir": spec["state_dir"],
        }

        def do(state: str, plan: Any, kind: str, **more: Any) -> Any:
            session.step = state
            step = steps.run(host, {**common, "state": state, "plan": plan, "kind": kind, **more}, False)
            if step.error is not None:
                raise step.error
            return step.fields

        def patience() -> Waiter:
            return Waiter(120, interval_seconds=0.3, max_interval_seconds=1.0)

        def backup() -> None:
            wishes = {
                "point": POINT,
                "select": [spec["vm"]],
                "how": spec["how"],
                "keep": {"last": 1},
                "shutdown_timeout": SHUTDOWN_SECONDS,
            }
            (plan,) = planning.plan_backup(host, wishes, spec["run_id"], spec["label"], {}).as_dict()["vms"]
            session.armed = True
            job = do("started", plan, "backup")["job"]
            vm, log, snapshot = host.find_vm(vmid=plan["vmid"]), IntentLog(session, job["folder"]), None
            if job["stop"]:
                session.step = "power off"
                vm.shutdown_guest(patience(), log)
            if job["snapshot"]:
                session.step = "snapshot"
                snapshot = vm.create_snapshot(job["snapshot_name"], quiesce=True, waiter=patience(), journal=log)
            if job["restart"]:
                session.step = "power on"
                vm.power_on(patience(), log)
            if job["freeze"]:
                do("frozen", plan, "backup")
            session.step = "copy"
            told = copying.perform(
                host,
                {
                    **copy_defaults,
                    "vmid": plan["vmid"],
                    "disks": job["disks"],
                    "snapshot_id": snapshot.id if snapshot else None,
                    "dest": job["partial"],
                    "journal": job["folder"],
                },
            )
            do("committed", plan, "backup", copies=told["disks"])
            do("ended", plan, "backup", copies=told["disks"])

        def bring_back() -> None:
            wishes = {
                "point": POINT,
                "vm": spec["vm"],
                "datastore": "datastore1",
                "name": f"{spec['vm']} back",
                "uuid": "new",
                "mac": "new",
                "disk_format": "thin",
                "connect_networks": True,
                "reserve_percent": 5,
                "inventory_host": spec["label"],
            }
            plan = restore.answer(host, wishes)["plan"]
            session.armed = True
            job = do("started", plan, "restore")["job"]
            session.step = "copy"
            for disk in plan["disks"]:
                wanted = {"src": disk["src"], "dest": disk["dest"], "journal": job["folder"]}
                copying.perform(host, {**copy_defaults, **wanted})
            do("committed", plan, "restore")
            do("ended", plan, "restore")

        (bring_back if spec["how"] == "restore" else backup)()
        print(json.dumps(session.seen), flush=True)


# -- the lab, and many dead jobs -------------------------------------------------------------------------------------


def topology() -> dict[str, Any]:
    """Three releases, on each some VMs of two disks; one of them has snapshots of its user's, in two branches."""

    def disk(key: str) -> dict[str, Any]:
        return {"key": key, "size": "64M", "format": "thin"}

    def vm(name: str, number: int) -> dict[str, Any]:
        more = {"snapshots": [{"name": "users own", "description": "keep me"}]} if number == 0 else {}
        disks = [disk("scsi0:0"), disk("scsi0:1")]
        return {"name": name, "power": "on", "tools": "running", "disks": disks, **more}

    return {
        "hosts": [
            {
                "name": name,
                "profile": profile,
                "switches": {"guest_kib_per_second": 256, "shutdown_seconds": 1.0},
                "datastores": [
                    {"name": "datastore1", "type": "vmfs5" if profile == "6.7" else "vmfs6", "size": "1G"},
                    {"name": "backup", "type": "nfs", "size": "3G", "server": "bk1"},
                ],
                "vms": [vm(f"{name}v{number}", number) for number in range(VMS_PER_HOST)],
            }
            for name, profile in zip(HOSTS, ("6.7", "7.0", "8.0"))
        ],
        "backup_servers": [{"name": "bk1"}],
    }


@dataclass(frozen=True)
class Cell:
    """One place to die: the how, which of the remote commands of that name, and the moment."""

    how: str
    step: str
    which: int
    moment: str


@dataclass
class Row:
    cell: Cell
    vm: str
    at_once: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    waited: bool = False  # its journal stayed until an hour had passed for it, and nothing else


class Matrix:
    """A lab of its own, and what is done in it."""

    def __init__(self, work: Path, base_address: str) -> None:
        from judge import Lab
        from playing import Controller

        self.work = work
        (work / "topology.json").write_text(json.dumps(topology()), encoding="utf-8")
        self.lab = Lab(work / "lab", "killing")
        self.lab.verb("up", "--topology", str(work / "topology.json"), "--base-address", base_address)
        variables = {"stowage_host_key_policy": "pinned", "backup_point": POINT, "restore_point": POINT}
        self.controller = Controller(self.lab, work, variables)
        self.lab.settle()
        self.status = self.ask()
        self.vms = [f"{host}v{number}" for number in range(VMS_PER_HOST) for host in HOSTS]
        self.state_dir = self.lab.folder / "servers/bk1/root/var/lib/stowage"
        self.before = self.look()
        self._number = 0
        self.waited: set[str] = set()
        self.kept: list[str] = []

    def close(self) -> None:
        self.lab.verb("down")

    def ask(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.lab.verb("status"))
        return answer

    def machine(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.status["machines"] if entry["name"] == name)

    # -- looking ------------------------------------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        """Every registered VM: power, the whole snapshot tree, its files."""
        from judge import disk_files

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
        for volume in sorted((self.lab.folder / "volumes").iterdir()):
            for folder, folders, files in os.walk(volume):
                found += [os.path.relpath(f"{folder}/{n}", volume) for n in [*folders, *files] if pattern.fullmatch(n)]
        for host in HOSTS:
            lines = self.lab.run(host, "ps", "-c").splitlines()
            found += [f"{host}: {' '.join(line.split())}" for line in lines if re.search(r"vmkfstools|stowage", line)]
        found += [f"mirror {path.name}" for path in (self.state_dir / "jobs").glob("*.json")]
        return found

    def differences(self) -> list[str]:
        """What is not as it was, in words."""
        now, found = self.look(), []
        for name in sorted({*now, *self.before}):
            was, is_ = self.before.get(name), now.get(name)
            if was is None or is_ is None:
                found.append(f"{name} is {'not ' if is_ is None else ''}registered")
                continue
            found += [f"{name} is {is_[0]}"] if was[0] != is_[0] else []
            found += [f"{name} has other snapshots"] if was[1] != is_[1] else []
            found += [f"{name} has other files: {sorted(was[2] ^ is_[2])}"] if was[2] != is_[2] else []
        for host in HOSTS:
            top = self.outside(self.machine(host), "/vmfs/volumes/datastore1/x").parent
            found += [f"{host}: folder {path.name}" for path in top.iterdir() if path.name.endswith(" back")]
        return found

    def points(self) -> dict[str, Any]:
        from judge import restore_points

        return {str(point.folder): point for point in restore_points(self.lab.outside(POINT))}

    def incomplete(self, known: Sequence[str]) -> list[str]:
        """New restore points that are not what a restore point is, by tools that are not ours."""
        from judge import Wrong, prove_disks

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

    # -- dying --------------------------------------------------------------------------------------------------

    def spec(self, vm: str, how: str, **more: Any) -> dict[str, Any]:
        self._number += 1
        host = self.machine(vm.partition("v")[0])
        return {
            "address": host["address"],
            "port": host["port"],
            "key": str(self.lab.folder / "keys/id_rsa"),
            "known_hosts": str(self.lab.folder / "known_hosts"),
            "state_dir": str(self.state_dir),
            "label": host["name"],
            "vm": vm,
            "how": how,
            "run_id": f"kill{os.getpid()}-{self._number:04d}",
            **more,
        }

    def drive(self, spec: dict[str, Any]) -> str:
        """Run one job in a process of its own, and let its connections die with it. Its last words."""
        from playing import _with_argument

        runtime = tempfile.mkdtemp(prefix="stowage-kill-")
        done = subprocess.run(
            [sys.executable, __file__, json.dumps(spec)],
            env={**self.controller.environment(), "STOWAGE_RUNTIME_DIR": runtime, "PYTHONPATH": str(self._path())},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        for pid in _with_argument(runtime):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(runtime, ignore_errors=True)
        if done.returncode != (-signal.SIGKILL if "stop" in spec else 0):
            raise AssertionError(f"the job of {spec} ended with {done.returncode}: {done.stderr[-3000:]}")
        return done.stdout.strip()

    def forget_restored(self, whose: Sequence[str] | None = None) -> None:
        """Unregister and delete what a whole restore has brought back, by the hypervisor's own command."""
        for machine in self.ask()["machines"]:
            for vm in machine.get("vms", ()):
                if vm["name"].endswith(" back") and (whose is None or vm["name"][: -len(" back")] in whose):
                    self.lab.run(machine["name"], "vim-cmd", "vmsvc/destroy", str(vm["vmid"]))
                    # The hypervisor deletes what it knows; the vmsd that a restore keeps as information is none of it.
                    self.lab.run(machine["name"], "rm", "-rf", vm["vmx"].rpartition("/")[0])

    def _path(self) -> Path:
        self.controller.environment()
        return self.work / "collections"

    def steps(self, how: str, vm: str) -> list[str]:
        """Every remote command of one whole job."""
        found: list[str] = json.loads(self.drive(self.spec(vm, how)))
        return found

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

    def wave(self, cells: Sequence[Cell]) -> list[Row]:
        """As many dead jobs as there are VMs, and one recover for all of them."""
        rows = [Row(cell, vm) for cell, vm in zip(cells, self.vms)]
        for row in rows:
            if row.cell.how == "restore":
                self.give_a_point(row.vm)
        known = list(self.points())

        def die(row: Row) -> None:
            cell = row.cell
            self.drive(self.spec(row.vm, cell.how, stop=[cell.step, cell.which], moment=cell.moment))

        by_host = [[row for row in rows if row.vm.startswith(host)] for host in HOSTS]
        with ThreadPoolExecutor(len(HOSTS)) as executor:
            list(executor.map(lambda mine: [die(row) for row in mine], by_host))
        for text in [*self.ours(), *self.differences()]:
            for row in rows:
                if row.vm in text:
                    row.at_once.append(text)
        self.waited, self.kept = set(), []
        self.recover()
        # A restore that had reached its commit stands.
        stand = [row.vm for row in rows if row.cell.how == "restore" and row.cell.step.startswith(COMMITTED)]
        self.forget_restored(stand)
        wrong = [*self.kept, *self.ours(), *self.differences(), *self.incomplete(known)]
        for row in rows:
            row.waited = row.vm in self.waited
        for text in wrong:
            mine = [row for row in rows if row.vm in text] or rows
            for row in mine:
                row.after.append(text)
        return rows


def changes(step: str) -> bool:
    """Whether a remote command may change anything; between two that do, it does not matter where a job dies."""
    return not READS.search(step)


def cells_of(how: str, steps: Sequence[str]) -> list[Cell]:
    """Before and in the middle of each command that changes something; and before the last look at all of it."""
    found = []
    for number, step in enumerate(steps):
        which = steps[: number + 1].count(step)
        found += [Cell(how, step, which, moment) for moment in MOMENTS if changes(step)]
    return found


def waves(cells: Sequence[Cell], size: int) -> Iterator[Sequence[Cell]]:
    for start in range(0, len(cells), size):
        yield cells[start : start + size]


def table(rows: Sequence[Row]) -> str:
    """As it is printed: the step, what was left at once, what was left after recover."""
    lines = ["| how | step | moment | left at once | left after recover |", "|---|---|---|---|---|"]
    for row in rows:
        at_once = "; ".join(short(text, row.vm) for text in row.at_once) or "nothing"
        after = "; ".join(row.after) or ("nothing once the wait for its guest was over" if row.waited else "nothing")
        step = row.cell.step + (f" ({row.cell.which})" if row.cell.which > 1 else "")
        lines.append(f"| {row.cell.how} | {step} | {row.cell.moment} | {at_once} | {after} |")
    return "\n".join(lines) + "\n"


def short(text: str, vm: str) -> str:
    """What was left at once, without the names that are other ones in each cell."""
    words = {
        "mirror": "mirror",
        ".partial": "half copy",
        ".removing": "half removed point",
        ".stowage-job": "job folder",
    }
    for mark, word in words.items():
        if mark in text:
            return word
    return re.sub(r": \[.*", "", text).replace(f"{vm} ", "it ").strip()[:60]


def whole(matrix: Matrix, hows: Sequence[str]) -> list[Row]:
    """All of it, wave by wave."""
    cells: list[Cell] = []
    for how in hows:
        if how == "restore":
            matrix.give_a_point(matrix.vms[0])
        steps = matrix.steps(how, matrix.vms[0])
        if how == "restore":
            matrix.forget_restored()
        cells += cells_of(how, steps)
    rows: list[Row] = []
    for number, part in enumerate(waves(cells, len(matrix.vms))):
        begun = time.monotonic()
        rows += (new := matrix.wave(part))
        wrong = sum(1 for row in new if row.after)
        print(f"wave {number + 1}: {len(new)} cells, {wrong} wrong, {time.monotonic() - begun:.0f} s", flush=True)
        if wrong:
            print(table([row for row in new if row.after]), flush=True)
    return rows


def main(arguments: Sequence[str]) -> int:
    """kill_matrix.py [how…]: run it and print the table."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    work = Path(tempfile.mkdtemp(prefix="stowage-kills-"))
    matrix = Matrix(work, os.environ.get("KILL_MATRIX_ADDRESS", "127.35.0.0"))
    try:
        rows = whole(matrix, arguments or ["hot", "warm", "cold", "restore"])
    finally:
        matrix.close()
        shutil.rmtree(work, ignore_errors=True)
    print(table(rows))
    wrong = [row for row in rows if row.after]
    print(f"{len(rows)} cells, {len(wrong)} left something behind")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("{"):
        drive(json.loads(sys.argv[1]))
    else:
        sys.exit(main(sys.argv[1:]))
