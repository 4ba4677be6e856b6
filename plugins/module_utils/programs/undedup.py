# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``dedup``, the way back: a disk out of a store, onto a datastore of a hypervisor.

The disk is made by the host itself, empty, and then filled. What fails leaves no disk behind.
"""

from __future__ import annotations

import contextlib
import posixpath
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import FileEntry
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostside import CUT
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import DiskTask
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.unpacking import opened_target
from ansible_collections.stowage.esxi.plugins.module_utils.programs.vmkfstools import inspect
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import LOOK_SECONDS, Watch
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result
from ansible_collections.stowage.esxi.plugins.module_utils.store import points, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import ID_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.tally import Tally
from ansible_collections.stowage.esxi.plugins.module_utils.store.targets import DiskTarget, LocalLane
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.keptlinks import KeptLinks
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget

SAMPLE = 64
# What vmkfstools says of a target that is there.
_EXISTS = "already exists"
# Chunks whose hashes are asked for at a time.
_ASKED = 16
# Seconds before a look at what was made is tried again.
_PAUSES = (1.0, 5.0, 15.0)

# What is there is somebody else's, also when it came after the plan was made: nothing is made then, nothing removed.
_FOLDERS = r"""
for path in "$1" "${1%.vmdk}-flat.vmdk"; do
    if [ -e "$path" ] || [ -h "$path" ]; then
        printf '%s\n' "$path" >&2
        exit 9
    fi
done
shift
for folder in "$@"; do
    [ -d "$folder" ] && continue
    mkdir "$folder" || exit 1
    printf '%s\n' "$folder"
done
"""

# Only what was just made, by the names that its maker gives; $1 is empty where no disk was.
# The maker of this disk.
_END = r"""
ps -c | grep -F -- "vmkfstools -c" | grep -F -- "$1" | while read -r pid _rest; do kill "$pid" 2>/dev/null; done
"""

_REMOVE = r"""
if [ -n "$1" ]; then
    vmkfstools -U "$1" >/dev/null 2>&1
    rm -f "$1" "${1%.vmdk}-flat.vmdk"
    [ ! -e "$1" ] && [ ! -e "${1%.vmdk}-flat.vmdk" ] || exit 1
fi
shift
for folder in "$@"; do rmdir "$folder" 2>/dev/null; done
exit 0
"""


@dataclass(frozen=True)
class DiskBrought:
    copied_bytes: int
    written_bytes: int
    fetched_bytes: int
    seconds: float
    verified: str
    method: str
    sent_bytes: int
    """Of what was written: a store on the same hypervisor sends nothing."""
    left: str = ""
    """What could not be put away on the hypervisor when the disk was there, whole and compared."""

    def told(self) -> dict[str, Any]:
        """Of the disk, for a result."""
        return {
            "copied_bytes": self.copied_bytes,
            "sent_bytes": self.sent_bytes,
            "fetched_bytes": self.fetched_bytes,
            "seconds": self.seconds,
            "rate": int(self.written_bytes / self.seconds),
            "verified": self.verified,
            "method": self.method,
        }

    @property
    def warnings(self) -> list[str]:
        return [f"the disk is there, but: {self.left}"] if self.left else []


class Filling:
    """Around all that is opened to fill a disk. Once that is `done`, a connection that is lost while everything is
    closed undoes none of it. What stays on the hypervisor is journalled, and the undoing of the job ends it."""

    def __init__(self) -> None:
        self.done = False
        self.left = ""

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not self.done or not isinstance(error, StowageError):
            return False
        self.left = error.message
        return True


class _Shown(Tally):
    """Counts what is written; the watch is asked before each part of it."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def add(self, count: int) -> None:
        self._watch.check()
        super().add(count)


def bring(
    store: Store, disk: DiskMap, task: DiskTask, folders: Sequence[str], verify: str, reach: Reach
) -> DiskBrought:
    """Makes the disk of the task out of a disk of a restore point; `folders` lead to it, outermost first."""
    began = reach.clock.monotonic()
    meter = Meter("restore", task.key, None, reach.clock)
    flat = task.target.removesuffix(".vmdk") + "-flat.vmdk"
    told = restore.Told()
    verified = ""
    with reach.starter(writes=True) as host, made(task, folders, reach):
        with (
            Filling() as filling,
            KeptLinks(host, reach.connections + 1) as starter,
            opened_target(starter, flat, store, reach) as target,
        ):
            count = [0]

            def look() -> None:
                reach.alive()
                meter.total_bytes = tally.total
                reach.progress(meter.at(tally.done))

            watch = Watch(
                f"The restore to {task.target} on {reach.host.name}",
                lambda: tally.done + count[0],
                look,
                lambda: cut(target),
                reach.stall_seconds,
                reach.clock,
                minimum_rate=reach.minimum_rate,
            )
            tally = _Shown(watch)
            with watch:
                told = restore.to_target(store, disk, target, threads=reach.connections, tally=tally)
                if verify != "none":
                    verified = compared(reach.host.name, store, disk, target, verify == "full", watch, count)
            filling.done = True
        copied = looked_at(task, reach)
    return DiskBrought(
        copied_bytes=copied,
        written_bytes=told.written,
        fetched_bytes=told.fetched,
        seconds=round(max(reach.clock.monotonic() - began, 0.001), 3),
        verified=verified or "not compared: verify is none",
        method=host.way.method,
        sent_bytes=told.written - told.unpacked,
        left=filling.left,
    )


def looked_at(task: DiskTask, reach: Reach) -> int:
    """What the whole disk occupies."""
    entries = _seen(posixpath.dirname(task.target), reach)
    reason, copied = inspect(entries, task)
    if reason:
        raise errors.CloneIncomplete(
            host=reach.host.name, source=task.source, target=task.target, reason=reason, output="made by vmkfstools -c"
        )
    return copied


def _seen(folder: str, reach: Reach) -> Mapping[str, FileEntry]:
    """A line that is cut for a moment is no reason to take a whole disk for none."""
    for pause in _PAUSES:
        try:
            return reach.host.read_folders([folder])
        except CUT:
            reach.clock.sleep(pause)
    return reach.host.read_folders([folder])


def cut(target: RemoteTarget) -> None:
    with contextlib.suppress(Exception):
        target.close()


def _run(argv: Sequence[str], target: str, seconds: float, reach: Reach) -> Result:
    """With signs of life meanwhile: to fill a large disk with zeros takes longer than a lease lasts."""
    session = reach.host.session
    with futures.ThreadPoolExecutor(1, thread_name_prefix="make") as executor:
        made = executor.submit(session.run, argv, timeout_seconds=seconds)
        try:
            while not futures.wait([made], LOOK_SECONDS).done:
                reach.alive()
            return made.result()
        except BaseException:
            # Also where its time is over or the line was cut: it goes on there, and what is removed would come back.
            with contextlib.suppress(StowageError):
                session.script(_END, [target])
            raise


@contextlib.contextmanager
def made(task: DiskTask, folders: Sequence[str], reach: Reach) -> Iterator[None]:
    """An empty disk, made by the host; what was made, folders too, is removed again when what follows fails."""
    host = reach.host
    unit = (task.capacity_bytes + 1023) // 1024
    if task.capacity_bytes % 1024:
        raise errors.NotSupported(
            program="dedup",
            reason=f"{task.source} has {task.capacity_bytes} bytes, and vmkfstools makes disks of whole KiB",
            way_out="Restore it to a file with stowage.pyz, and copy that to the host",
        )
    adapter = "ide" if task.key.startswith("ide") else "lsilogic"
    argv = ["vmkfstools", "-c", f"{unit}k", "-d", task.format, "-a", adapter, task.target]
    # One that is zeroed takes its time.
    seconds = 300 + (task.capacity_bytes >> 24 if task.format == "eagerzeroedthick" else 0)
    made: list[str] = []
    ours = ""
    try:
        result = host.session.script(_FOLDERS, [task.target, *folders])
        if result.rc == 9:
            raise errors.TargetExists(host=host.name, target=result.stderr.strip() or task.target)
        made = [line for line in result.stdout.split("\n") if line]
        if result.rc == 0:
            ours = task.target
            result = _run(argv, task.target, seconds, reach)
        if result.rc != 0:
            if _EXISTS in result.output:
                # Somebody was faster.
                ours = ""
                raise errors.TargetExists(host=host.name, target=task.target)
            raise errors.DiskNotMade(host=host.name, target=task.target, rc=result.rc, output=result.output)
        yield
    except BaseException as error:
        removed = not ours and not made
        with contextlib.suppress(StowageError):
            removed = removed or host.session.script(_REMOVE, [ours, *reversed(made)], timeout_seconds=300).rc == 0
        if not removed and isinstance(error, StowageError):
            error.data["left"] = ours or made[0]
        raise


def compared(
    host: str, store: Store, disk: DiskMap, target: DiskTarget, whole: bool, watch: Watch, count: list[int]
) -> str:
    """What the host hashes of the disk that it now has must be what the restore point says of it."""
    compared = 0
    with target.lane() as lane:
        if isinstance(lane, LocalLane):
            raise TypeError("a disk of this machine is no disk of a hypervisor")
        for span in _spans(_slots(disk, whole)):
            watch.check()
            hashes = lane.ask([(slot * disk.chunk_bytes, disk.length_of(slot)) for slot in span]).hashes()
            for slot, digest in zip(span, hashes):
                named = points.NOTHING if digest is None else store.identity.named(bytes(digest))
                if named != _id_of(store, disk, slot):
                    place = f"the {disk.length_of(slot)} bytes at {slot * disk.chunk_bytes}"
                    raise errors.CopyDiffers(
                        host=host, source=disk.key, target=target.path, reason=f"{place} are not those of the store"
                    )
                compared += 1
            count[0] += sum(disk.length_of(slot) for slot in span)
    return f"{'all' if whole else 'sample of'} {compared} chunks, by their SHA-256 on the host"


def _slots(disk: DiskMap, whole: bool) -> Sequence[int]:
    """Head and tail, and one of each of so many equal stretches; or all."""
    if whole or disk.slots <= SAMPLE:
        return range(disk.slots)
    step = disk.slots / SAMPLE
    found = {int(number * step + random.random() * step) for number in range(SAMPLE)}
    return sorted({0, disk.slots - 1} | {slot for slot in found if slot < disk.slots})


def _spans(slots: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(slots), _ASKED):
        yield slots[begin : begin + _ASKED]


def _id_of(store: Store, disk: DiskMap, slot: int) -> bytes:
    number, at = divmod(slot, points.PAGE_SLOTS)
    if disk.pages[number] is None:
        return points.NOTHING
    page = store.page(disk, number)
    return page[at * points.SLOT_BYTES : at * points.SLOT_BYTES + ID_BYTES]
