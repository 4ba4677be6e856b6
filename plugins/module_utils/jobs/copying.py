# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One copy, with everything around it: limits, journal, room watch, the caller's beat, progress."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.durable import write_text
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Progress, ProgressFile
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import limiting, limits
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copylog import CopyLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import JobAltered
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import STORING
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.room import RoomWatch
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.runlife import RunLife
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.beat import CallerBeat
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostside import CUT
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import Program
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import CopyPlan, Request, plan_copy
from ansible_collections.stowage.esxi.plugins.module_utils.programs.stall import DEFAULT_SECONDS
from ansible_collections.stowage.esxi.plugins.module_utils.programs.vmkfstools import Vmkfstools, no_note

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach

# Each is a login of its own; a hypervisor refuses them long before they would make it faster.
MOST_CONNECTIONS = 32
# A copy that waits for its turn with one chunk must still notice soon that it has to end.
LEAST_BANDWIDTH = 64 << 10
# Of what moves: below the slowest line that anybody backs up over, and above what a host that holds us up gives.
MINIMUM_RATE = 8 << 10
# A hypervisor that cannot be reached for so long is gone.
CUT_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """How to copy. ``wishes`` are the operator's limits, ``limits`` those of the program itself.

    ``beat_file`` and ``progress_file`` are the ends of a line to whoever waits for the copy."""

    program: str = "vmkfstools"
    verify: str = "sample"
    bandwidth_limit: int | None = None
    connections: int = 4
    transfer_mode: str = "async"
    journal: str | None = None
    job_id: str = ""
    copy: int | None = None
    wishes: tuple[limiting.Wish, ...] = ()
    limits: tuple[limits.Limit, ...] = ()
    limits_dir: str = "/var/lib/stowage/limits"
    limits_timeout: float = 86400
    stall_timeout: float = DEFAULT_SECONDS
    minimum_rate: int = MINIMUM_RATE
    snapshot_reserve_percent: int = 5
    progress_file: str | None = None
    beat_file: str | None = None
    state_dir: str = "/var/lib/stowage"


def request_from(host: Host, params: Mapping[str, Any]) -> Request:
    """What a module's parameters ask for; the VM is looked up."""
    vm = None
    if params.get("src") is None:
        vm = host.find_vm(name=params.get("vm"), uuid=params.get("uuid"), vmid=params.get("vmid"))
    return Request(
        dest=params["dest"],
        vm=vm,
        disks=tuple(params.get("disks") or ()),
        src=params.get("src"),
        snapshot_id=params.get("snapshot_id"),
        disk_format=params["disk_format"],
        include_config=params["include_config"],
        reserve_percent=params["reserve_percent"],
    )


def settings_from(params: Mapping[str, Any]) -> Settings:
    """Raises NotSupported for a number that nothing can be done with, before anything is looked up."""
    settings = _settings(params)
    if not 1 <= settings.connections <= MOST_CONNECTIONS:
        raise errors.NotSupported(
            program=settings.program,
            reason=f"connections is {settings.connections}",
            way_out=f"Give 1 to {MOST_CONNECTIONS} (backup_connections, restore_connections)",
        )
    if settings.bandwidth_limit and settings.bandwidth_limit < LEAST_BANDWIDTH:
        raise errors.NotSupported(
            program=settings.program,
            reason=f"bandwidth_limit is {settings.bandwidth_limit} bytes per second",
            way_out=f"Give {LEAST_BANDWIDTH} or more, or 0 for none (backup_bandwidth_limit, restore_bandwidth_limit)",
        )
    if settings.minimum_rate < 0 or settings.bandwidth_limit and settings.minimum_rate * 2 > settings.bandwidth_limit:
        raise errors.NotSupported(
            program=settings.program,
            reason=f"minimum_rate is {settings.minimum_rate} and bandwidth_limit {settings.bandwidth_limit or 0}",
            way_out="Give 0 for none, or at most half of the limit (backup_minimum_rate, restore_minimum_rate)",
        )
    if settings.transfer_mode == "sync" and settings.program != "dedup" and not params.get("src"):
        raise errors.NotSupported(
            program=settings.program,
            reason="transfer_mode is sync, and only dedup makes its backups durable piece by piece",
            way_out="Leave transfer_mode at async, or use program=dedup (backup_transfer_mode, backup_program)",
        )
    return settings


def _settings(params: Mapping[str, Any]) -> Settings:
    given, least = params.get("connections"), params.get("minimum_rate")
    return Settings(
        program=params["program"],
        verify=params["verify"],
        bandwidth_limit=params.get("bandwidth_limit"),
        connections=given if given is not None else Settings.connections,
        transfer_mode=params.get("transfer_mode") or Settings.transfer_mode,
        journal=params.get("journal"),
        job_id=params.get("job_id") or "",
        copy=params.get("copy_number"),
        wishes=limiting.wishes_of(params.get("limits") or ()),
        limits_dir=params["limits_dir"],
        limits_timeout=params["limits_timeout"],
        stall_timeout=params.get("stall_timeout") or Settings.stall_timeout,
        minimum_rate=least if least is not None else Settings.minimum_rate,
        snapshot_reserve_percent=params["snapshot_reserve_percent"],
        progress_file=params.get("progress_file"),
        beat_file=params.get("beat_file"),
        state_dir=params.get("state_dir") or Settings.state_dir,
    )


def predict(host: Host, params: Mapping[str, Any], stores: Stores | None = None) -> dict[str, Any]:
    """Check mode: the plan of the real run, and nothing else."""
    settings = settings_from(params)
    if settings.program in STORING:
        request = request_from(host, params)
        result: dict[str, Any] = _by_store(params).predict(host, params, request, stores or Stores())
    else:
        choose(settings)
        request = request_from(host, params)
        plan, warnings = plan_copy(host, request, foresight=True)
        result = result_of(request, plan, warnings)
    return {**result, "limits": _shown(_limits(host, settings, request, _job(host, settings)))}


def perform(host: Host, params: Mapping[str, Any], stores: Stores | None = None) -> dict[str, Any]:
    """The real run. Everything that it returns beyond the plan was measured."""
    settings = settings_from(params)
    journal = IntentLog(host.session, settings.journal, owner=settings.job_id) if settings.journal else None
    if journal is not None and settings.copy is not None:
        journal = CopyLog(journal, settings.copy)
    if settings.program in STORING:
        way = _by_store(params)
        if settings.program == "borg" and not params.get("src"):
            settings = replace(settings, limits=(*settings.limits, way.turn(params["dest"])))
        stores = stores or Stores()

        def ready(frame: Frame) -> None:
            if settings.program == "dedup" and not params.get("src") and limiting.is_here(frame.request.dest):
                # Its key takes a second of a processor to derive: not while others wait for the slot.
                stores.open(frame.request.dest)

        with around(host, params, settings, journal, ready) as frame:
            done: dict[str, Any] = way.perform(host, params, settings, frame, stores)
        return {**done, **frame.waited}
    program = choose(settings, journal)
    with around(host, params, settings, journal) as frame:
        plan, warnings = plan_copy(host, frame.request)
        task = plan.task(lease=f"{journal.folder}/lease" if journal is not None else "")
        copied = program.copy(host, task, frame.progress, frame.alive)
    result = result_of(frame.request, plan, warnings + list(copied.notes))
    result["disks"] = [disk.as_dict() for disk in copied.disks]
    result["copied_bytes"] = sum(disk.copied_bytes for disk in copied.disks)
    result["seconds"] = round(sum(disk.seconds for disk in copied.disks), 3)
    return {**result, **frame.waited}


def _by_store(params: Mapping[str, Any]) -> Any:
    """The way into a store or out of one. Inside: a copy between datastores needs none of it, nor its libraries."""
    if params["program"] == "borg":
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs import borgcopy, borgrestore

        return borgrestore if params.get("src") else borgcopy
    if params["program"] == "rsync":
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs import rsynccopy, rsyncrestore

        return rsyncrestore if params.get("src") else rsynccopy
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs import storebackup, storerestore

    return storerestore if params.get("src") else storebackup


@dataclass
class Frame:
    """What a copy is done within: who asked for it, who is told how far it is, and what may end it."""

    request: Request
    #: The job as the copy's own backup point sees it.
    job: Job | None
    journal: IntentLog | None
    sink: Callable[[Progress], None]
    beat: CallerBeat | None = None
    life: RunLife | None = None
    room: RoomWatch | None = None
    clock: Clock = field(default_factory=SystemClock)
    cut_since: float | None = None
    #: Of the result: the limits that the copy went by, and how long it waited for them.
    waited: dict[str, Any] = field(default_factory=dict)
    #: Gives the slots of the limits to who waits for them, before the copy ends.
    release: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        return self.request.vm.name if self.request.vm is not None else ""

    def progress(self, progress: Progress) -> None:
        self.sink(replace(progress, phase=self.name))

    def alive(self) -> None:
        """Raises what must end the copy."""
        if self.beat is not None:
            self.beat.check()
            if self.life is not None:
                self.life.beat()
        if self.room is not None:
            self.room.check()

    def reach(self, host: Host, settings: Settings, alive: Callable[[], None] | None = None) -> Reach:
        """The way to the hypervisor's files for a program that moves their bytes over connections. `alive`: in the
        place of `waiting`."""
        # Inside: a copy between datastores needs none of it.
        from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach

        return Reach(
            host=host,
            note=self.journal.note if self.journal is not None else no_note,
            progress=self.progress,
            alive=alive or self.waiting,
            # The index of a store that is not here has yet to go there.
            all_read=self.release if limiting.is_here(self.request.dest) else lambda: None,
            connections=settings.connections,
            bandwidth_limit=settings.bandwidth_limit or 0,
            stall_seconds=settings.stall_timeout,
            minimum_rate=settings.minimum_rate,
            stepwise=settings.transfer_mode == "sync",
            label=settings.job_id or "by-hand",
            lease=f"{self.journal.folder}/lease" if self.journal is not None else "",
            reserve_percent=self.request.reserve_percent,
        )

    def waiting(self) -> None:
        """Where nothing on the hypervisor keeps the lease fresh.

        A connection that is cut for a moment ends nothing: the readers come back, too. The lease lasts longer.
        """
        self.alive()
        if self.journal is None:
            return
        try:
            self.journal.beat()
        except CUT:
            now = self.clock.monotonic()
            self.cut_since = now if self.cut_since is None else self.cut_since
            if now - self.cut_since >= CUT_SECONDS:
                raise
        else:
            self.cut_since = None


@contextlib.contextmanager
def around(
    host: Host,
    params: Mapping[str, Any],
    settings: Settings,
    journal: IntentLog | None,
    ready: Callable[[Frame], None] = lambda frame: None,
) -> Iterator[Frame]:
    """Looks up who is meant, proves that the lock is still his, and waits for the limits. `ready` is called before."""
    sink = _sink(settings.progress_file)
    beat = CallerBeat(settings.beat_file) if settings.beat_file else None
    job = _job(host, settings)
    life = RunLife(settings.state_dir, job.run) if job is not None else None
    request = request_from(host, params)
    frame = Frame(request, job, journal, sink, beat, life)
    if journal is not None and settings.job_id:
        # Before anything is looked up or made: the lock is still this job's, and the VM the one beside it.
        journal.beat()
        if request.vm is not None:
            IntentLog.of_job(request.vm, journal.folder, settings.job_id)
    if request.vm is not None and request.snapshot_id:
        frame.room = RoomWatch.of_vm(host, request.vm, settings.snapshot_reserve_percent)
    ready(frame)
    what = f"copy of {frame.name or request.src} on {job.host if job is not None else host.name}"
    waiter = Waiter(settings.limits_timeout, beat=frame.waiting)
    wanted, begun = _limits(host, settings, request, job), waiter.clock.monotonic()
    with contextlib.ExitStack() as held:
        held.enter_context(
            limits.hold(
                wanted,
                settings.limits_dir,
                waiter,
                what,
                lambda waiting: sink(Progress(frame.name, str(waiting))),
            )
        )
        frame.release = held.close
        frame.waited.update(limits=_shown(wanted), waited_seconds=round(waiter.clock.monotonic() - begun, 3))
        yield frame


def _job(host: Host, settings: Settings) -> Job | None:
    """The job as this copy sees it."""
    whole = lock.read_job(host.session, settings.journal) if settings.journal else None
    if whole is None:
        return None
    if settings.job_id and whole.job != settings.job_id:
        # Its run would be kept alive here by what a hypervisor says.
        raise JobAltered(job=settings.job_id, vm=whole.vm, reason=f"it says that it is {whole.job}")
    job = whole.of_copy(settings.copy)
    if job is None:
        raise JobAltered(job=whole.job, vm=whole.vm, reason=f"it has no backup point number {settings.copy}")
    return job


def _limits(host: Host, settings: Settings, request: Request, job: Job | None) -> tuple[limits.Limit, ...]:
    kinds = {wish.kind for wish in settings.wishes} - {""}
    touched = limiting.touched_by(host, request, settings.program, job, kinds) if kinds else limiting.Touched("")
    return limits.checked((*limiting.limits_for(settings.wishes, touched), *settings.limits))


def _shown(found: tuple[limits.Limit, ...]) -> list[dict[str, Any]]:
    # A program's own turn is nobody's limit.
    return [
        {"kind": limit.kind, "name": limit.name, "slots": limit.slots}
        for limit in found
        if limit.kind in ("", *limiting.KINDS)
    ]


def choose(settings: Settings, journal: IntentLog | None = None) -> Program:
    """The program, or NotSupported for what it cannot do."""
    if settings.program != Vmkfstools.name:
        raise errors.NotSupported(
            program=settings.program,
            reason="there is no such program here",
            way_out="Use program=vmkfstools, rsync, dedup or borg",
        )
    if settings.transfer_mode == "sync":
        raise errors.NotSupported(
            program=settings.program,
            reason="transfer_mode is sync, and vmkfstools writes as the hypervisor does",
            way_out="Leave transfer_mode at async",
        )
    if settings.bandwidth_limit:
        raise errors.NotSupported(
            program=settings.program,
            reason="vmkfstools has no bandwidth limit",
            way_out="Leave bandwidth_limit out, and use limits to hold down how many copies run at a time",
        )
    return Vmkfstools(
        note=journal.note if journal is not None else no_note,
        verify=settings.verify,
        stall_seconds=settings.stall_timeout,
    )


def result_of(request: Request, plan: CopyPlan, warnings: list[str]) -> dict[str, Any]:
    vm = None if request.vm is None else {"name": request.vm.name, "vmid": request.vm.vmid}
    made = [disk.target for disk in plan.disks] + [file.target for file in plan.files]
    return {
        "changed": True,
        "vm": vm,
        **plan.as_dict(),
        "warnings": warnings,
        "diff": {"before": "", "after": "".join(f"{path}\n" for path in sorted(made))},
    }


def _sink(path: str | None) -> Callable[[Progress], None]:
    """Where progress goes. An onlooker who has left is no reason to fail: the beat decides that."""
    if path is None:
        return lambda progress: None
    file = ProgressFile(path)
    with contextlib.suppress(OSError):
        write_text(f"{path}.pid", f"{os.getpid()}\n", sync=False)

    def sink(progress: Progress) -> None:
        with contextlib.suppress(OSError):
            file(progress)

    return sink
