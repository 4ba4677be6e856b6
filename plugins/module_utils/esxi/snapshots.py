# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots: created, removed and reverted, each proven by the files and the tree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Journal, Waiter, WaitTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, faults, power_state
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import FileEntry, Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.disks import DiskReader, disk_path
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.holders import find_holders
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import (
    Snapshot,
    SnapshotTextError,
    SnapshotTree,
    parse_snapshots,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_vmodl import Dump, VmodlError, parse_dump
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout, ConnectionLost
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import Chain
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmsd import Vmsd, parse_vmsd

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine

PATIENCE_SECONDS = 20
# Without a task, a snapshot whose request got no answer is waited for so long. Asked for again, there might be two.
UNHEARD_SECONDS = 30.0
# How long a removal that has ended without effect is left alone before it is asked for again, and how often.
AGAIN_SECONDS = 30.0
AGAIN_TIMES = 3
# A merge without a task, and without a change to a file below the live one, for so long is over.
STANDSTILL_SECONDS = 600.0


@dataclass(frozen=True)
class Reading:
    """The tree as hostd prints it, together with the file that it writes: the one has the ids, the other the disks."""

    tree: SnapshotTree
    vmsd: Vmsd


def merge(listing: str, vmsd_text: str, path: str) -> Reading:
    """Names, descriptions and times are taken from the .vmsd where both know an id: there they are escaped."""
    vmsd = parse_vmsd(vmsd_text, path)
    tree = parse_snapshots(listing).marked(vmsd.current)
    merged: list[Snapshot] = []
    for snapshot in tree:
        entry = vmsd.find(snapshot.id) if snapshot.id is not None else None
        if entry is not None:
            snapshot = replace(
                snapshot,
                name=entry.name or snapshot.name,
                description=entry.description or snapshot.description,
                created_at=entry.created_at or snapshot.created_at,
            )
        merged.append(snapshot)
    return Reading(SnapshotTree(tuple(merged)), vmsd)


def commands(vm: VirtualMachine) -> list[list[str]]:
    return [["vim-cmd", "vmsvc/snapshot.get", str(vm.vmid)], ["cat", vm.vmsd_path]]


def reading_of(vm: VirtualMachine, listing: Reply, vmsd: Reply) -> Reading:
    vm.host.check(listing)
    try:
        return merge(listing.stdout, vmsd.stdout if vmsd.rc == 0 else "", vm.vmsd_path)
    except SnapshotTextError as error:
        raise errors.UnreadableOutput(
            host=vm.host.name, command=f"vim-cmd vmsvc/snapshot.get {vm.vmid}", reason=str(error)
        ) from error


def read(vm: VirtualMachine) -> Reading:
    listing, vmsd = vm.host.ask(commands(vm))
    return reading_of(vm, listing, vmsd)


def tree(vm: VirtualMachine) -> SnapshotTree:
    return read(vm).tree


def consolidation_needed(vm: VirtualMachine) -> bool:
    """What the host says, or what the files say: a live chain longer than the snapshots account for."""
    if vm.summary().get("runtime.consolidationNeeded") is True:
        return True
    vm.reload_vmx()
    return bool(Layout.read(vm).unaccounted())


# -- what the files say ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where a VM's disks stand: the live chain of each dependent disk, and what its snapshots froze."""

    reading: Reading
    live: dict[str, Chain]
    frozen: dict[int, dict[str, str]]
    files: frozenset[str]
    referenced: frozenset[str]

    @staticmethod
    def read(vm: VirtualMachine, reading: Reading | None = None) -> Layout:
        """Reads everything anew. Raises when a chain cannot be followed: as during a merge."""
        reading = reading or read(vm)
        vmx = vm.reload_vmx()
        frozen = {
            entry.uid: {key: disk_path(vm, file) for key, file in entry.disks.items()}
            for entry in reading.vmsd.snapshots
        }
        tops = {d.key: disk_path(vm, d.file) for d in vmx.disks() if not d.mode.startswith("independent")}
        reader = DiskReader(vm.host)
        reader.load([vm.directory])
        reader.complete([*tops.values(), *(path for disks in frozen.values() for path in disks.values())])
        live = {key: reader.chain(path) for key, path in tops.items()}
        used: set[str] = set()
        for chain in live.values():
            used.update(chain.paths, chain.extent_paths)
        for disks in frozen.values():
            for path in disks.values():
                chain = reader.chain(path)
                used.update(chain.paths, chain.extent_paths)
        return Layout(reading, live, frozen, frozenset(reader.entries), frozenset(used))

    @property
    def live_ids(self) -> tuple[int, ...]:
        """The current snapshot and its ancestors: those that the live chain stands on."""
        current = self.reading.tree.current
        return self.reading.tree.ancestors(current.id) if current is not None and current.id is not None else ()

    def depth_by_snapshots(self, key: str) -> int:
        return sum(1 for uid in self.live_ids if key in self.frozen.get(uid, {}))

    def extra(self, key: str) -> int:
        """Links of a disk that no snapshot accounts for: 1 for a plain base, more for a linked clone."""
        return len(self.live[key].links) - self.depth_by_snapshots(key)

    def unaccounted(self) -> tuple[str, ...]:
        """Disks whose live delta stands above the snapshots: the sign of a consolidation that did not end.

        A linked clone's parents lie in other folders, so only links in the folder of the top count.
        """
        found = []
        for key, chain in self.live.items():
            folder = chain.top.path.rpartition("/")[0]
            own = sum(1 for path in chain.paths if path.rpartition("/")[0] == folder)
            if own > self.depth_by_snapshots(key) + 1:
                found.append(key)
        return tuple(found)


# -- create ------------------------------------------------------------------------------------------------------


def create(
    vm: VirtualMachine,
    name: str,
    description: str = "",
    memory: bool = False,
    quiesce: bool = False,
    waiter: Waiter | None = None,
    journal: Journal | None = None,
    *,
    late_seconds: float = 90.0,
) -> Snapshot:
    """Make a snapshot; return it when the tree has a new id with our name and the .vmsd holds its disks.

    The host works on its own: what it prints proves nothing, and a snapshot may come after everybody gave up. One
    that comes within `late_seconds` after the limit is removed again; else the error says that it may still come.
    """
    waiter = waiter or Waiter(600)
    known = read(vm).tree.ids
    if journal is not None:
        journal.note("snapshot-intent", name=name, known_ids=sorted(known))
    refusal: StowageError | None = None
    said, lost, sure_at = "", False, 0.0

    def again() -> bool:
        nonlocal sure_at
        if _new_snapshot(vm, name, known) is not None:
            return False
        if journal is not None:
            # What was asked for twice may come twice: both are ours.
            journal.note("snapshot-again", name=name)
        # The first may still be at work, forgotten by hostd, and be why the second is refused.
        sure_at = vm.host.clock.monotonic() + late_seconds
        return True

    try:
        reply = vm.host.vim_patient(
            "vmsvc/snapshot.create",
            str(vm.vmid),
            name,
            description,
            "1" if memory else "0",
            "1" if quiesce else "0",
            patience_seconds=PATIENCE_SECONDS,
            again=again,
        )
        if reply is not None:
            said = reply.text
            try:
                vm.host.check(reply)
            except errors.EsxiError as error:
                refusal = error
    except (CommandTimeout, ConnectionLost) as error:
        said, lost = error.message, True
    clock = vm.host.clock
    started = sign = clock.monotonic()

    def probe() -> Snapshot | None:
        nonlocal sign
        found = _new_snapshot(vm, name, known)
        if found is None and refusal is not None and not _task_runs(vm, "createSnapshot"):
            # A refusal can be wrong too: only a second look without a running task makes it final.
            found = _new_snapshot(vm, name, known)
            if found is None and vm.host.clock.monotonic() >= sure_at:
                raise _refused(vm, name, said, refusal, quiesce)
        if found is None and lost:
            if _task_runs(vm, "createSnapshot"):
                sign = clock.monotonic()
            elif clock.monotonic() - sign >= UNHEARD_SECONDS:
                raise WaitTimeout(what=name, seconds=round(clock.monotonic() - started))
        return found

    try:
        snapshot = waiter.until(probe, f"snapshot {name!r} of VM {vm.name!r}")
    except WaitTimeout as error:
        raise _late(vm, name, known, waiter, journal, late_seconds, said, error.data["seconds"]) from error
    if journal is not None:
        journal.note("snapshot-done", id=snapshot.id)
    return snapshot


def _new_snapshot(vm: VirtualMachine, name: str, known: frozenset[int]) -> Snapshot | None:
    try:
        reading = read(vm)
    except (errors.HostBusy, errors.UnreadableOutput):
        return None
    for snapshot in reading.tree:
        fresh = snapshot.id is not None and snapshot.id not in known and snapshot.name == name
        # hostd lists it a moment before the file has it; the file names the frozen disks.
        if fresh and snapshot.id is not None and reading.vmsd.find(snapshot.id) is not None:
            return snapshot
    return None


def _tasks(vm: VirtualMachine, word: str) -> list[Dump]:
    """This VM's tasks of one kind, the latest last. A finished one stays listed for minutes."""
    listing = vm.host.ask([["vim-cmd", "vmsvc/get.tasklist", str(vm.vmid)]])[0].stdout
    names = [line.strip(" ',\r")[len("vim.Task:") :] for line in listing.split("\n") if f".{word}-" in line]
    found: list[Dump] = []
    for reply in vm.host.ask([["vim-cmd", "vimsvc/task_info", name] for name in names]) if names else []:
        try:
            task = parse_dump(reply.stdout)
        except VmodlError:
            continue
        if isinstance(task, Dump):
            found.append(task)
    return found


def _task_runs(vm: VirtualMachine, word: str) -> bool:
    return any(task.text("state") in ("running", "queued") for task in _tasks(vm, word))


def _refused(vm: VirtualMachine, name: str, said: str, refusal: StowageError, quiesce: bool) -> errors.SnapshotFailed:
    output = str(refusal.data.get("output") or refusal.message)
    reasons = [task.text("error.msg") for task in _tasks(vm, "createSnapshot") if task.text("state") == "error"]
    if reasons and reasons[-1] and reasons[-1] not in output:
        output += f" ({reasons[-1]})"
    advice = "Look at the VM's events and vmware.log."
    if "too deep" in output.lower() or "TooManySnapshotLevels" in said:
        advice = "The chain has reached the host's limit: remove snapshots first."
    elif quiesce or "quiesc" in output.lower():
        advice = "If the guest could not be quiesced: look at VMware Tools in the guest, or take it with quiesce=false."
    return errors.SnapshotFailed(**vm.data(name=name, output=output, advice=advice))


def _late(
    vm: VirtualMachine,
    name: str,
    known: frozenset[int],
    waiter: Waiter,
    journal: Journal | None,
    late_seconds: float,
    said: str,
    waited: float,
) -> errors.SnapshotLate:
    patience = Waiter(late_seconds, clock=vm.host.clock, beat=waiter.beat)
    outcome = "it may still appear"
    advice = f"Look for a snapshot named {name!r} later, and remove it by its id. The host said: " + (
        " ".join(said.split()) or "nothing"
    )
    snapshot_id = None
    try:
        late = patience.until(lambda: _new_snapshot(vm, name, known), "a late snapshot")
        snapshot_id = late.id
        if journal is not None:
            journal.note("snapshot-done", id=late.id)
        outcome = f"it came late, as id {late.id}, and was not removed"
        remove(vm, late.id or 0, False, Waiter(waiter.timeout_seconds, clock=vm.host.clock, beat=waiter.beat), journal)
        outcome, advice = f"it came late, as id {late.id}, and was removed again", "Raise the time limit."
    except WaitTimeout:
        pass
    except StowageError as error:
        outcome += f" ({error.message})"
    return errors.SnapshotLate(
        **vm.data(name=name, seconds=waited, outcome=outcome, advice=advice, snapshot=snapshot_id)
    )


# -- remove ------------------------------------------------------------------------------------------------------


def remove(
    vm: VirtualMachine,
    snapshot_id: int,
    children: bool = False,
    waiter: Waiter | None = None,
    journal: Journal | None = None,
) -> bool:
    """Remove one snapshot (and, if asked, those on top of it); True when there was one to remove.

    Returns when the tree has it no more, every live chain has lost exactly its links, and no file of it is left.
    """
    waiter = waiter or Waiter(7200)
    first, second = read(vm), read(vm)
    if first.tree.ids != second.tree.ids:
        second = read(vm)
    if snapshot_id not in second.tree.ids:
        return False
    before = Layout.read(vm, second)
    doomed = second.tree.with_descendants(snapshot_id) if children else frozenset({snapshot_id})
    if journal is not None:
        journal.note("snapshot-remove-intent", id=snapshot_id, children=children)
    said: list[str] = [_ask_removal(vm, snapshot_id, children)]
    clock = vm.host.clock
    state = _Removal(asked_at=clock.monotonic(), cured_at=clock.monotonic(), standstill=_Standstill())

    def probe() -> bool | None:
        reading = read(vm)
        if doomed & reading.tree.ids:
            # A command that lied, or met another task: asking again by the same id is safe, ids are never reused.
            if clock.monotonic() - state.asked_at >= AGAIN_SECONDS and state.asked < AGAIN_TIMES:
                state.asked_at, state.asked = clock.monotonic(), state.asked + 1
                if not _task_runs(vm, "removeSnapshot"):
                    said[0] = _ask_removal(vm, snapshot_id, children)
            state.reason = ""
            return None
        try:
            after = Layout.read(vm, reading)
        except StowageError as error:
            state.reason = f"a chain cannot be read: {error.message}"
        else:
            state.reason = unfinished(before, after)
            if not state.reason:
                return True
            state.extents = tuple(path for chain in after.live.values() for path in chain.extent_paths)
            if not reading.tree.ids:
                if clock.monotonic() - state.cured_at >= AGAIN_SECONDS:
                    state.cured_at = clock.monotonic()
                    _cure(vm)
                return None
        if state.standstill.lasts(vm, state.reason):
            raise needs_consolidation(vm, state.reason, state.extents)
        return None

    try:
        waiter.until(probe, f"snapshot {snapshot_id} of VM {vm.name!r} to be removed")
    except WaitTimeout as error:
        output = " ".join(said[0].split()) or "the host reported no failure"
        if not state.reason:
            raise errors.SnapshotNotRemoved(
                **vm.data(snapshot=snapshot_id, seconds=error.data["seconds"], output=output)
            ) from error
        raise needs_consolidation(vm, state.reason, state.extents) from error
    if journal is not None:
        journal.note("snapshot-remove-done", id=snapshot_id)
    return True


@dataclass
class _Standstill:
    """Since when nothing has moved."""

    seen: object = None
    since: float = 0.0

    def lasts(self, vm: VirtualMachine, reason: str) -> bool:
        """Whether the same reason has stood for so long."""
        now, seen = vm.host.clock.monotonic(), (reason, _lower_files(vm))
        if seen != self.seen:
            self.seen, self.since = seen, now
        if now - self.since < STANDSTILL_SECONDS:
            return False
        if any(_task_runs(vm, word) for word in ("removeSnapshot", "removeAllSnapshots")):
            self.since = now
            return False
        return True


def _lower_files(vm: VirtualMachine) -> dict[str, FileEntry]:
    """The disk files in the VM's folder, without those that its guest writes to."""
    stems = [disk_path(vm, disk.file)[: -len(".vmdk")] for disk in vm.reload_vmx().disks()]
    guests = {f"{stem}{end}.vmdk" for stem in stems for end in ("", "-flat", "-delta", "-sesparse")}
    return {path: entry for path, entry in vm.host.read_folders([vm.directory]).items() if path not in guests}


@dataclass
class _Removal:
    asked_at: float
    cured_at: float
    standstill: _Standstill
    asked: int = 1
    reason: str = ""
    extents: tuple[str, ...] = ()


def _ask_removal(vm: VirtualMachine, snapshot_id: int, children: bool) -> str:
    argv = ["vmsvc/snapshot.remove", str(vm.vmid), str(snapshot_id), *(["1"] if children else [])]
    try:
        reply = vm.host.vim_patient(*argv, patience_seconds=PATIENCE_SECONDS)
    except (CommandTimeout, ConnectionLost) as error:
        return error.message
    # A failed consolidation is a failure to this command, but the snapshot is gone: the state decides, not the text.
    return "" if reply is None else reply.text


def unfinished(before: Layout, after: Layout) -> str:
    """Why a removal is not complete by the files, in words; empty when it is.

    Whatever snapshots are in the tree now, a live chain must be as long as they account for, plus what it had
    before without them. Files that the VM used before, or that came since, must be in use or gone.
    """
    for key, chain in after.live.items():
        if key not in before.live:
            continue
        wanted = before.extra(key) + after.depth_by_snapshots(key)
        if len(chain.links) > wanted:
            return f"{key} still runs on {chain.top.path}, {len(chain.links)} links deep where {wanted} are due"
    suspects = (before.referenced & after.files) | (after.files - before.files)
    left = sorted(path for path in suspects - after.referenced if not path.endswith("-ctk.vmdk"))
    return f"no longer used, but still there: {', '.join(left)}" if left else ""


def _cure(vm: VirtualMachine) -> None:
    """Ask for the merge again, which the host does not do by itself. Only when there is no snapshot to lose."""
    if read(vm).tree.ids:
        return
    # Asked again in one breath: a user may have taken one while the lock was waited for.
    none = '[ "$(vim-cmd vmsvc/snapshot.get $2)" = "Get Snapshot:" ]'
    vm.host.vim_patient("vmsvc/snapshot.removeall", str(vm.vmid), patience_seconds=PATIENCE_SECONDS, guard=none)


def consolidate(vm: VirtualMachine, waiter: Waiter) -> bool:
    """Merge what a failed removal left, as long as the VM has no snapshot; True when there was something to do."""
    last = AGAIN_SECONDS + vm.host.clock.monotonic()
    readable, standstill = True, _Standstill()

    def left() -> str:
        nonlocal readable
        try:
            layout = Layout.read(vm)
        except StowageError as error:
            readable = False
            return error.message
        readable = True
        keys = layout.unaccounted()
        return f"{', '.join(keys)} still on a delta" if keys else ""

    reason = left()
    if not reason:
        return False
    if read(vm).tree.ids:
        raise needs_consolidation(vm, f"{reason}, below snapshots that must stay", ())
    _cure(vm)

    def probe() -> bool | None:
        nonlocal last, reason
        reason = left()
        if reason and vm.host.clock.monotonic() >= last:
            last = vm.host.clock.monotonic() + AGAIN_SECONDS
            _cure(vm)
        if reason and not readable and standstill.lasts(vm, reason):
            raise WaitTimeout(what="a chain that can be read", seconds=STANDSTILL_SECONDS)
        return None if reason else True

    try:
        waiter.until(probe, f"VM {vm.name!r} to be consolidated")
    except WaitTimeout as error:
        extents = tuple(path for disk in vm.disks() if disk.chain for path in disk.chain.extent_paths)
        raise needs_consolidation(vm, reason, extents) from error
    return True


def needs_consolidation(vm: VirtualMachine, reason: str, extents: tuple[str, ...]) -> errors.ConsolidationNeeded:
    try:
        holders = find_holders(vm.host, extents)
    except StowageError as error:
        holders = (f"unknown ({error.message})",)
    text = "; ".join(holders) or "nobody that this host can name"
    return errors.ConsolidationNeeded(**vm.data(reason=reason, holders=text, holder_list=list(holders)))


# -- revert ------------------------------------------------------------------------------------------------------


def revert(
    vm: VirtualMachine,
    snapshot_id: int,
    suppress_power_on: bool = False,
    waiter: Waiter | None = None,
    journal: Journal | None = None,
) -> None:
    """Go back to a snapshot, proven by the live chain: a new delta directly on what the snapshot froze."""
    waiter = waiter or Waiter(600)
    reading = read(vm)
    if snapshot_id not in reading.tree.ids or snapshot_id not in read(vm).tree.ids:
        raise not_found(vm, str(snapshot_id), reading.tree)
    before = Layout.read(vm, reading)
    if journal is not None:
        journal.note("snapshot-revert-intent", id=snapshot_id)
    reply = vm.host.vim_patient(
        "vmsvc/snapshot.revert",
        str(vm.vmid),
        str(snapshot_id),
        "1" if suppress_power_on else "0",
        patience_seconds=PATIENCE_SECONDS,
    )
    if reply is not None and faults.fault_of(reply.text) is not None:
        vm.host.check(reply)

    def probe() -> bool | None:
        now = read(vm)
        current = now.tree.current
        if current is None or current.id != snapshot_id:
            return None
        try:
            after = Layout.read(vm, now)
        except StowageError:
            return None
        for key, path in after.frozen.get(snapshot_id, {}).items():
            chain = after.live.get(key)
            if chain is None or len(chain.links) < 2 or chain.links[1].path != path:
                return None
            top, old = chain.top, before.live.get(key)
            untouched = top.descriptor.cid == top.descriptor.parent_cid
            if old is not None and old.top == top and not untouched:
                return None
        _state, question = power_state.state_and_question(vm)
        if question is not None:
            raise power_state.question_error(vm, question, "snapshot.revert")
        return True

    try:
        waiter.until(probe, f"VM {vm.name!r} to be at snapshot {snapshot_id}")
    except WaitTimeout as error:
        output = " ".join(reply.text.split()) if reply is not None else ""
        raise errors.RevertFailed(
            **vm.data(
                snapshot=snapshot_id,
                seconds=error.data["seconds"],
                output=output or "the host reported no failure",
            )
        ) from error
    if journal is not None:
        journal.note("snapshot-revert-done", id=snapshot_id)


# -- choosing ----------------------------------------------------------------------------------------------------


def not_found(vm: VirtualMachine, ref: str, tree: SnapshotTree) -> errors.SnapshotNotFound:
    candidates = ", ".join(f"{snapshot.id} ({snapshot.name!r})" for snapshot in tree) or "none"
    return errors.SnapshotNotFound(**vm.data(ref=ref, candidates=candidates))


def choose(vm: VirtualMachine, tree: SnapshotTree, name: str | None, snapshot_id: int | None) -> Snapshot | None:
    """The snapshot meant, or None. Several of one name are an error that lists their ids."""
    if snapshot_id is not None:
        return tree.find(snapshot_id)
    found = tree.named(name or "")
    if len(found) > 1:
        ids = ", ".join(str(snapshot.id) for snapshot in found)
        raise errors.SnapshotAmbiguous(**vm.data(ref=name, count=len(found), ids=ids))
    return found[0] if found else None
