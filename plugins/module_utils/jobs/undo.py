# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does what `bracket.plan_undo` decided. Each step leaves the VM no worse if the next one never comes."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter, WaitTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import JournalFailed, JournalLost
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import names, places, references, survey, torn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import (
    REFERENCE_REMOVE_DONE,
    Events,
    Situation,
    Undo,
    plan_undo,
    shutdown_grace,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copylog import log_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.reference import parse
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import multiextent

# The watchdog of a copy ends its clone and removes what it wrote when it gets TERM; KILL would leave both behind.
POLITE_SECONDS = 90
LOOK_AGAIN_SECONDS = 20

_KILL = r"""
signal=$1 pid=$2 command=$3
ps -c | grep "^ *$pid " | grep -q -F -- "$command" || exit 0
kill "-$signal" "$pid" 2>/dev/null
exit 0
"""

_REMOVE_TREE = r"""
[ -d "$1" ] || exit 0
rm -rf "$1"
[ -z "$2" ] || rmdir "$2" 2>/dev/null
[ ! -e "$1" ]
"""

_REMOVE_FILES = r"""
status=0
for file in "$@"; do rm -rf "$file" || status=1; done
exit "$status"
"""

_REMOVE_RESTORED = r"""
dir=$1 disks=$2
shift 2
[ -d "$dir" ] || exit 0
cd "$dir" || exit 1
status=0
while [ "$disks" -gt 0 ]; do
    stem=./${1%.vmdk}
    rm -f "./$1" "$stem-flat.vmdk" || status=1
    for extent in "$stem"-s[0-9][0-9][0-9].vmdk; do [ ! -f "$extent" ] || rm -f "$extent" || status=1; done
    shift
    disks=$((disks - 1))
done
for file in "$@"; do rm -rf "./$file" || status=1; done
exit "$status"
"""

# The emptied folder loses its name while our lock is still in it: under the VM's name, an empty folder is not ours.
_CLOSE_RESTORED = r"""
dir=$1 unnamed=$2 lock=$3 job=$4
[ -d "$dir" ] || exit 0
grep -q -F -- "\"job\": \"$job\"" "$dir/$lock/job.json" || exit 6
if [ "$(ls -A "$dir")" = "$lock" ] && mv "$dir" "$unnamed"; then
    rm -rf "$unnamed/$lock"
    rmdir "$unnamed" 2>/dev/null && exit 0
    mv "$unnamed" "$dir"
fi
ls -A "$dir"
exit 7
"""


@dataclass(frozen=True)
class Undone:
    """What was done and what is left; `clean` when nothing of ours is left and the lock may go."""

    done: tuple[str, ...]
    left: tuple[str, ...]
    failed: tuple[str, ...] = ()
    wait: str = ""
    torn: bool = False

    @property
    def waiting(self) -> bool:
        """All is done that can be by now; what a guest does later is still to be put right."""
        return bool(self.wait) and not self.failed

    @property
    def clean(self) -> bool:
        return not self.failed and not self.wait and not self.torn


class UndoLog(IntentLog):
    """What is undone was written down before it was done: that nothing more can be written must not stop it.

    A full datastore is the very moment when our snapshot has to go.
    """

    def note(self, event: str, **data: Any) -> None:
        try:
            super().note(event, **data)
        except JournalLost:
            raise
        except JournalFailed:
            return


class Undoer:
    """Undoes one job whose folder is ours (`folder` may have been renamed by a take-over)."""

    def __init__(
        self,
        host: Host,
        job: Job,
        folder: str,
        consolidation_timeout: int = 7200,
        power_on_timeout: int = 300,
        stores: Stores | None = None,
    ) -> None:
        self.host = host
        self.job = job
        self.folder = folder
        self.log = UndoLog(host.session, folder, host.clock)
        self.consolidation_timeout = consolidation_timeout
        self.power_on_timeout = power_on_timeout
        self.stores = stores or Stores()
        self.spare = False
        self.begun: tuple[int, str] | None = None
        self.done: list[str] = []
        self.failed: list[str] = []
        self.left: list[str] = []

    def plan(self, vm: VirtualMachine | None) -> tuple[Undo, Situation, Events]:
        events = Events(tuple(self.log.read()))
        self.begun = events.begun_removal
        # An earlier job's request counts from this job's begin: from then on it stands for it.
        asked_by = "power-off-intent" if events.last("power-off-intent") else "started"
        asked = events.seconds_since(asked_by, self.host.clock.now())
        now = survey.situation(self.host, vm, self.job, events, asked)
        return plan_undo(self.job, events, now, self.spare), now, events

    def _settle_commit(self) -> None:
        """A commit whose answer was lost has happened all the same: the restore point is there and says whose it is."""
        events = Events(tuple(self.log.read()))
        if self.job.kind != "backup":
            return
        for one in self.job.copies:
            mine = events.of_copy(one)
            made = "" if mine.committed else places.of_job(one, self.stores).made(self.host, one, mine)
            if made:
                log_of(self.log, one).note("commit-done", final=made)

    def run(self, vm: VirtualMachine | None, spare: bool = False) -> Undone:
        """`spare`: our snapshot stays, as it is about to become the reference of the next backup."""
        self.spare = spare
        self._settle_commit()
        undo, now, events = self.plan(vm)
        if undo.look_again and vm is not None:
            undo, now = self._wait_for_late_snapshot(vm, undo, now)
        if undo.wait and vm is not None and events.last("power-off-intent"):
            undo, now = self._wait_for_guest(vm, undo, now)
        readers_gone = self._end_processes(undo, now)
        if undo.unload_module:
            self._unload_module()
        if undo.remove_temps:
            self._step(
                f"removed {len(undo.remove_temps)} temporary files",
                lambda: self._script(_REMOVE_FILES, undo.remove_temps),
            )
        for path in undo.half_copies:
            self._step(f"removed {path}", partial(self._script, _REMOVE_TREE, (path, self._made(events, path))))
        if vm is not None:
            self._snapshots(vm, undo, readers_gone)
            if undo.power_on:
                waiter = Waiter(self.power_on_timeout, clock=self.host.clock, beat=self.log.beat)
                self._step("powered the VM on again", lambda: power.power_on(vm, waiter, self.log))
        if undo.unregister is not None:
            number = undo.unregister
            self._step(f"unregistered the half restored VM (vmid {number})", lambda: self.host.unregister(number))
        if undo.remove_restored and not self.failed:
            self._step("removed the half restored files", self._remove_restored)
        if undo.remove_mark:
            where = self.job.directory
            self._step(f"took away {where}/{torn.NAME}", lambda: torn.remove(self.host.session, where, self.job.job))
        self._tell_half_copies(events)
        return Undone(tuple(self.done), (*undo.left, *self.left), tuple(self.failed), undo.wait, undo.torn)

    def _tell_half_copies(self, events: Events) -> None:
        if self.job.kind != "backup":
            return
        for one in self.job.copies:
            kept = "" if events.of_copy(one).committed else places.of_job(one, self.stores).half_copy(one)
            if kept:
                self.done.append(f"kept the half copy {kept}: the next backup goes on with it")

    def _made(self, events: Events, half_copy: str) -> str:
        """The VM's folder at the backup point, if this job made it: it goes too, unless something else is in it."""
        target = posixpath.dirname(half_copy)
        return target if any(event.get("path") == target for event in events.of(points.FOLDER_INTENT)) else ""

    def _unload_module(self) -> None:
        """A module that stays loaded harms nobody: it is told, and keeps no lock."""
        problem = multiextent.unload(self.host)
        if problem:
            self.left.append(f"the kernel module {multiextent.NAME}, which we had loaded: {problem}")
        else:
            self.done.append(f"unloaded the kernel module {multiextent.NAME}")

    def _step(self, what: str, action: Callable[[], object]) -> None:
        """One step failing does not keep the next from being tried: each makes things better by itself."""
        try:
            action()
        except StowageError as error:
            self.failed.append(f"{what}: not done: {error.message}")
        else:
            self.done.append(what)

    def _wait_for_late_snapshot(self, vm: VirtualMachine, undo: Undo, now: Situation) -> tuple[Undo, Situation]:
        """A snapshot that was asked for may appear after its asker gave up."""

        def probe() -> tuple[Undo, Situation] | None:
            found = self.plan(vm)
            return found[:2] if found[0].remove_snapshots else None

        try:
            waiter = Waiter(LOOK_AGAIN_SECONDS, 4.0, 8.0, clock=self.host.clock, beat=self.log.beat)
            return waiter.until(probe, "a late snapshot")
        except WaitTimeout:
            return undo, now

    def _wait_for_guest(self, vm: VirtualMachine, undo: Undo, now: Situation) -> tuple[Undo, Situation]:
        """A guest that was asked to shut down, and may yet do so, would stay off if nobody waited for it."""

        def probe() -> tuple[Undo, Situation] | None:
            found = self.plan(vm)
            return found[:2] if not found[0].wait else None

        seconds = max(0.0, shutdown_grace(self.job) - now.asked_seconds_ago) + 5.0
        try:
            waiter = Waiter(seconds, 5.0, 15.0, clock=self.host.clock, beat=self.log.beat)
            return waiter.until(probe, undo.wait)
        except WaitTimeout:
            return undo, now

    def _end_processes(self, undo: Undo, now: Situation) -> bool:
        """Ends our processes and proves that they are gone: a reader that holds an extent blocks consolidation."""
        if not undo.kill:
            return True
        commands = {process.pid: process.command.strip() for process in now.processes}
        wanted = {pid: commands[pid] for pid in undo.kill}

        def gone() -> bool | None:
            running = {process.pid: process.command.strip() for process in survey.processes(self.host.session)}
            return True if not any(running.get(pid) == command for pid, command in wanted.items()) else None

        for signal, seconds in (("TERM", POLITE_SECONDS), ("KILL", 30)):
            for pid, command in wanted.items():
                self.host.session.script(_KILL, [signal, str(pid), command])
            try:
                waiter = Waiter(seconds, 1.0, 5.0, clock=self.host.clock, beat=self.log.beat)
                waiter.until(gone, f"processes {sorted(wanted)} to end")
                self.done.append(f"ended {len(wanted)} remote processes")
                return True
            except WaitTimeout:
                continue
        self.failed.append(f"remote processes {sorted(wanted)} do not end")
        return False

    def _snapshots(self, vm: VirtualMachine, undo: Undo, readers_gone: bool) -> None:
        for number in undo.remove_snapshots:
            if not readers_gone:
                self.failed.append(f"snapshot {number}: not removed while a reader of ours holds its disks")
                continue
            self._step(f"removed snapshot {number}", partial(self._remove_snapshot, vm, number))
        if undo.consolidate and readers_gone:
            self._consolidate(vm)

    def _remove_snapshot(self, vm: VirtualMachine, number: int) -> None:
        if self.begun is not None and self.begun[0] == number:
            references.remove(vm, *self.begun, self._waiter(), self.log)
            return
        if (self.job.policy.get("reference") or {}).get("enabled"):
            # It was about to become a reference, and may have been written down as one.
            found = parse(references.text(self.host.session, vm.directory))
            if found is not None and found.snapshot == number:
                references.forget(self.host.session, vm.directory)
        snapshots.remove(vm, number, False, self._waiter(), self.log)

    def _waiter(self) -> Waiter:
        return Waiter(self.consolidation_timeout, clock=self.host.clock, beat=self.log.beat)

    def _consolidate(self, vm: VirtualMachine) -> None:
        """What a reader kept from being merged when our snapshot was removed: its entry went, its delta stayed."""
        try:
            merged = snapshots.consolidate(vm, self._waiter())
            self.log.note("snapshot-remove-done")
            if self.begun is not None:
                self.log.note(REFERENCE_REMOVE_DONE)
        except StowageError as error:
            self.failed.append(f"consolidated its disks: not done: {error.message}")
        else:
            self.done += ["consolidated its disks"] if merged else []

    def _script(self, text: str, args: tuple[str, ...]) -> None:
        result = self.host.session.script(text, list(args), timeout_seconds=600)
        if result.rc != 0:
            raise RemoteStepFailed(what=f"Removing {args[0]}", rc=result.rc, stderr=result.output)

    def _remove_restored(self) -> None:
        """Only the files that this restore was to make, by name."""
        directory = self.job.directory
        disks = [posixpath.basename(str(disk["dest"])) for disk in self.job.disks if disk.get("dest")]
        files = [posixpath.basename(str(file["dest"])) for file in self.job.extra.get("files") or ()]
        files.append(posixpath.basename(self.job.vmx_path))
        events = Events(tuple(self.log.read()))
        for event in events.of("temp"):
            path = str(event.get("path") or "")
            if survey.under(path, directory) and event.get("kind") is None:
                files.append(posixpath.basename(path))
        self._script(_REMOVE_RESTORED, (directory, str(len(disks)), *disks, *files))

    def let_go(self) -> None:
        """Leaves the journal to whoever comes next: nothing is under way any more, and no lease has to run out."""
        lock.let_go(self.host.session, self.folder)

    def close(self, undone: Undone) -> tuple[str, ...]:
        """Gives the lock back after a clean undo; removes an emptied restore folder. Returns what is still there."""
        left: tuple[str, ...] = ()
        if self.job.kind == "restore" and "removed the half restored files" in undone.done:
            unnamed = names.unnamed_folder(self.job.directory, self.job.job)
            arguments = [self.job.directory, unnamed, posixpath.basename(self.folder), self.job.job]
            result = self.host.session.script(_CLOSE_RESTORED, arguments)
            if result.rc == 7:
                names_left = [name for name in result.stdout.split("\n") if name not in ("", arguments[2])]
                left = tuple(f"{self.job.directory}/{name}: not ours" for name in names_left)
        lock.release(self.host.session, self.folder, self.job.job)
        return left
