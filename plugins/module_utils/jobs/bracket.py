# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be undone after a job, decided from its journal and the facts; then done, in that order.

Nothing is touched that the journal does not prove to be ours: processes by number and token, the partial folder by our
job id in its name, a snapshot by its id and our unique name, power only up, and only for a VM that we stopped and that
nobody has started since.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import PARTIAL_PREFIX
from ansible_collections.stowage.esxi.plugins.module_utils.programs import multiextent, watchdog
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import starting

#: In a job's `extra`: the start in which an earlier job had asked the guest to shut down, and been given up for it.
ASKED_BEFORE = "asked_before"
#: The kind of a job that writes over a VM. It makes no folder and no VM, so nothing of the VM is ever taken back.
INPLACE = "inplace"
#: Journalled before the first byte of a VM is overwritten.
TEAR = "torn-intent"
SHUTDOWN_GRACE_SECONDS = 600
#: Journalled around the end of the reference snapshot of an earlier backup, and when ours has become the next one's.
REFERENCE_REMOVE_INTENT = "reference-remove-intent"
REFERENCE_REMOVE_DONE = "reference-remove-done"
REFERENCE_KEPT = "reference-kept"
#: What an entry of the journal has that only one of several copies has noted: its number.
OF_COPY = "of_copy"
# What begins the words by which processes of ours are known in the host's list: watchdogs, and readers of both kinds.
_MARKS = (watchdog.mark(""), starting.mark(""), "stowage-shell-")
# A guest that installs updates, or hangs in a service, may go down long after we gave up on it. For that long nobody
# stands by it, but the journal stays, so that recover or the next run powers it on again.
LATE_SHUTDOWN_SECONDS = 3600


@dataclass(frozen=True)
class Process:
    """A process on the hypervisor, as `ps -c` lists it."""

    pid: int
    command: str


@dataclass(frozen=True)
class Situation:
    """The facts an undo is decided on. `vmid` is None where the VM is not registered on this host."""

    vmid: int | None
    power_state: str = ""
    boot_id: str = ""
    snapshots: tuple[tuple[int, str], ...] = ()
    processes: tuple[Process, ...] = ()
    partial_exists: bool = False
    temps: tuple[str, ...] = ()
    vmx_path: str = ""
    asked_seconds_ago: float = 0.0
    #: Half copies at the job's other backup points.
    other_partials: tuple[str, ...] = ()
    #: Whether the VM is still marked as torn by this job, which has made it whole.
    marked_torn: bool = False


@dataclass(frozen=True)
class Undo:
    """What will be done, and what is left alone with its reason."""

    kill: tuple[int, ...] = ()
    unload_module: bool = False
    remove_temps: tuple[str, ...] = ()
    remove_partial: str = ""
    remove_others: tuple[str, ...] = ()
    remove_snapshots: tuple[int, ...] = ()
    consolidate: bool = False
    power_on: bool = False
    unregister: int | None = None
    remove_restored: bool = False
    look_again: bool = False
    left: tuple[str, ...] = ()
    wait: str = ""
    torn: bool = False
    remove_mark: bool = False

    @property
    def half_copies(self) -> tuple[str, ...]:
        return (*([self.remove_partial] if self.remove_partial else []), *self.remove_others)

    def steps(self) -> tuple[str, ...]:
        """In words, in the order of doing."""
        words = [f"end process {pid}" for pid in self.kill]
        words += [f"unload the kernel module {multiextent.NAME}"] if self.unload_module else []
        words += [f"remove {path}" for path in self.remove_temps]
        words += [f"remove {path}" for path in self.half_copies]
        words += [f"remove snapshot {number}" for number in self.remove_snapshots]
        words += ["consolidate its disks"] if self.consolidate else []
        words += ["power on"] if self.power_on else []
        words += [f"unregister vmid {self.unregister}"] if self.unregister is not None else []
        words += ["remove the half restored VM's files"] if self.remove_restored else []
        words += ["finish the restore in place"] if self.torn else []
        words += ["take away the mark of a torn VM"] if self.remove_mark else []
        return tuple(words)


@dataclass(frozen=True)
class Events:
    """The journal, read for what it proves."""

    entries: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)

    def of(self, *names: str) -> list[Mapping[str, Any]]:
        return [entry for entry in self.entries if entry.get("event") in names]

    def of_copy(self, job: Job) -> Events:
        """As one of several copies of a job sees it: without what the others noted."""
        if job.copy is None:
            return self
        return Events(tuple(entry for entry in self.entries if entry.get(OF_COPY, job.copy) == job.copy))

    def last(self, name: str) -> Mapping[str, Any] | None:
        found = self.of(name)
        return found[-1] if found else None

    def index(self, name: str) -> int:
        """Place of the last such entry, -1 if there is none."""
        return max((number for number, entry in enumerate(self.entries) if entry.get("event") == name), default=-1)

    @property
    def committed(self) -> bool:
        return self.last("commit-done") is not None

    @property
    def torn(self) -> bool:
        """Whether a VM was begun to be overwritten, and not made whole again."""
        return self.last(TEAR) is not None and not self.committed

    @property
    def made(self) -> str:
        """The restore point that was committed, as the journal names it."""
        return str((self.last("commit-done") or {}).get("final") or "")

    def seconds_since(self, name: str, now: datetime) -> float:
        """Since the last such entry, by the journal's own time; 0 if there is none."""
        entry = self.last(name)
        if entry is None or not entry.get("at"):
            return 0.0
        return max(0.0, (now - _moment(str(entry["at"]))).total_seconds())

    @property
    def module_loaded(self) -> bool:
        """Whether we loaded the kernel module and never wrote that we unloaded it."""
        return self.index(multiextent.LOADED) > self.index(multiextent.UNLOADED)

    @property
    def delta_open(self) -> bool:
        """Whether the end of our snapshot was never proven: its entry may be gone, its delta not.

        We may have begun to remove it, or somebody else did while our reader kept its disks from being merged.
        """
        return max(self.index("snapshot-done"), self.index("snapshot-remove-intent")) > self.index(
            "snapshot-remove-done"
        )

    @property
    def kept(self) -> bool:
        """Whether our snapshot is no longer this job's, but the next backup's reference."""
        return self.index(REFERENCE_KEPT) > self.index("snapshot-intent")

    @property
    def begun_removal(self) -> tuple[int, str] | None:
        """Id and name of an earlier backup's reference snapshot whose removal was begun and not ended."""
        begun = self.last(REFERENCE_REMOVE_INTENT)
        if begun is None or self.index(REFERENCE_REMOVE_DONE) > self.index(REFERENCE_REMOVE_INTENT):
            return None
        return int(begun["id"]), str(begun["name"])

    def snapshot_id(self) -> int | None:
        done = self.last("snapshot-done")
        return int(done["id"]) if done and done.get("id") is not None else None


def plan_undo(job: Job, events: Events, now: Situation, spare: bool = False) -> Undo:
    """Everything that job may have left, minus what cannot be proven to be its own.

    `spare`: our snapshot stays for the moment, as it is about to become a reference."""
    if job.kind == INPLACE:
        return Undo(kill=_our_processes(job, events, now), torn=events.torn, remove_mark=now.marked_torn)
    undo = _undo_restore(job, events, now) if job.kind == "restore" else _undo_backup(job, events, now, spare)
    return replace(undo, unload_module=events.module_loaded)


def _undo_backup(job: Job, events: Events, now: Situation, spare: bool) -> Undo:
    left: list[str] = []
    spare = spare or events.kept
    snapshots = () if spare else _our_snapshots(job, events, now, left)
    begun = events.begun_removal
    earlier = (begun[0],) if begun in now.snapshots and begun is not None else ()
    intent_open = events.index("snapshot-intent") > max(events.index("snapshot-done"), events.index("snapshot-failed"))
    power_on, wait = _power(job, events, now, left)
    return Undo(
        kill=_our_processes(job, events, now),
        remove_temps=_our_temps(job, now, left),
        remove_partial=_our_partial(job, left) if now.partial_exists else "",
        remove_others=tuple(
            filter(None, (_our_partial(one, left) for one in job.copies[1:] if one.partial in now.other_partials))
        ),
        remove_snapshots=(*snapshots, *earlier),
        consolidate=(events.delta_open and not snapshots and not spare) or (begun is not None and not earlier),
        power_on=power_on,
        look_again=intent_open and not snapshots and not spare,
        left=tuple(left),
        wait=wait,
    )


def shutdown_grace(job: Job) -> float:
    """How long a guest that was asked to shut down is stood by."""
    return float(job.policy.get("shutdown_timeout") or SHUTDOWN_GRACE_SECONDS)


def shutdown_limit(job: Job) -> float:
    """After which a guest that was asked to shut down is no longer expected to do so."""
    return shutdown_grace(job) + LATE_SHUTDOWN_SECONDS


def _our_processes(job: Job, events: Events, now: Situation) -> tuple[int, ...]:
    """By number and token from the journal; and clones into our own partial folder, whose name nobody else uses."""
    tokens = _tokens(events)
    # The datastore may be written by name or by UUID; the folder's own name carries our job id.
    folders = [f"/{posixpath.basename(one.partial)}/" for one in job.copies if job.job in one.partial]
    found = []
    for process in now.processes:
        noted = any(pid == process.pid and token in process.command for pid, token in tokens)
        ours = any(folder in process.command for folder in folders)
        if noted or (ours and "vmkfstools" in process.command):
            found.append(process.pid)
    return tuple(found)


def _tokens(events: Events) -> set[tuple[int, str]]:
    """Number and token of each watchdog and reader; a word that is no token of ours could be in any process."""
    noted = [(int(event["pid"]), str(event.get("token") or "")) for event in events.of("process")]
    return {(pid, token) for pid, token in noted if token.startswith(_MARKS)}


def _our_temps(job: Job, now: Situation, left: list[str]) -> tuple[str, ...]:
    """Temporary files count as ours where they carry our job id, or lie in a folder that does."""
    ours = []
    for path in now.temps:
        if job.job in path and ".." not in path.split("/"):
            ours.append(path)
        elif "/.stowage-job" not in path:
            left.append(f"{path}: journalled as temporary, but nothing in its name proves that it is ours")
    return tuple(ours)


def _our_partial(job: Job, left: list[str]) -> str:
    name = posixpath.basename(job.partial)
    if name.startswith(PARTIAL_PREFIX) and name.endswith(f"-{job.job}"):
        return job.partial
    left.append(f"{job.partial}: its name does not carry the job's id")
    return ""


def _our_snapshots(job: Job, events: Events, now: Situation, left: list[str]) -> tuple[int, ...]:
    intent = events.last("snapshot-intent")
    if intent is None:
        return ()
    named = [number for number, name in now.snapshots if name == job.snapshot_name]
    known = {int(number) for number in intent.get("known_ids") or ()}
    done, twice = events.snapshot_id(), events.index("snapshot-again") > events.index("snapshot-intent")
    ours = [number for number in named if number == done or ((done is None or twice) and number not in known)]
    strange = [number for number in named if number not in ours]
    left.extend(f"snapshot {number}: it has our name, but not the id that we noted" for number in strange)
    for number, name in now.snapshots:
        if number == done and name != job.snapshot_name:
            left.append(f"snapshot {number}: it has the id that we noted, but is called {name!r}")
    return tuple(ours)


def _power(job: Job, events: Events, now: Situation, left: list[str]) -> tuple[bool, str]:
    """Whether to power on, or what to wait for. A VM is only ever started, and only if we are why it is off."""
    intent = events.last("power-off-intent")
    noted = str(job.extra.get(ASKED_BEFORE) or "") if intent is None else str(intent.get("boot_id") or "")
    if (intent is None and not noted) or job.power_before != "poweredOn" or now.vmid is None:
        return False, ""
    ended = max(events.index("power-off-done"), events.index("power-off-refused"))
    done = ended > events.index("power-off-intent")
    if now.power_state == "poweredOn":
        same = bool(noted) and now.boot_id == noted
        if same and not done and now.asked_seconds_ago < shutdown_limit(job):
            return False, "the guest was asked to shut down and may still do so"
        return False, ""
    if now.power_state != "poweredOff":
        left.append(f"the VM is {now.power_state}; it stays so")
        return False, ""
    # What its log began with when we had seen it go off: it may have been rotated by its size meanwhile.
    ours = events.index("power-off-done") > events.index("power-off-intent")
    seen = str((events.last("power-off-done") or {}).get("boot_id") or "") if ours else ""
    if now.boot_id not in {noted, seen} - {""}:
        left.append("the VM is off, but it was started since we stopped it: somebody else's decision")
        return False, ""
    return True, ""


def _undo_restore(job: Job, events: Events, now: Situation) -> Undo:
    left: list[str] = []
    kill = _restore_processes(job, events, now)
    if events.committed:
        return Undo(kill=kill)
    registered = events.last("register-intent") is not None and now.vmid is not None and now.vmx_path == job.vmx_path
    if now.vmid is not None and not registered:
        left.append("a VM is registered in the target folder, but not by this job: its files stay")
        return Undo(kill=kill, left=tuple(left))
    if registered and now.power_state != "poweredOff":
        left.append(f"the half restored VM is {now.power_state}: it is left as it is")
        return Undo(kill=kill, left=tuple(left))
    if registered and now.boot_id:
        # Nothing that we copy brings a log along: somebody has used it, and it is his.
        left.append("the half restored VM was started since: it is left as it is")
        return Undo(kill=kill, left=tuple(left))
    return Undo(kill=kill, unregister=now.vmid if registered else None, remove_restored=True, left=tuple(left))


def _restore_processes(job: Job, events: Events, now: Situation) -> tuple[int, ...]:
    tokens = _tokens(events)
    targets = [f" {disk['dest']}" for disk in job.disks if disk.get("dest")]
    found = []
    for process in now.processes:
        noted = any(pid == process.pid and token in process.command for pid, token in tokens)
        clone = "vmkfstools" in process.command and any(process.command.endswith(target) for target in targets)
        if noted or clone:
            found.append(process.pid)
    return tuple(found)


def downtime_seconds(events: Sequence[Mapping[str, Any]]) -> float | None:
    """From our first word that the VM must stop to our last that it runs again, by the journal's own times."""

    def at(name: str, last: bool) -> datetime | None:
        found = [entry.get("at") for entry in events if entry.get("event") == name and entry.get("at")]
        if not found:
            return None
        return _moment(str(found[-1 if last else 0]))

    stopped, started = at("power-off-intent", False), at("power-on-done", True)
    if stopped is None or started is None:
        return None
    return max(0.0, (started - stopped).total_seconds())


def _moment(text: str) -> datetime:
    # Python 3.9 does not read the Z that our own times end in.
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
