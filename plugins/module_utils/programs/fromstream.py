# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that comes as a stream of bytes, onto a datastore of a hypervisor, made by the host itself and then filled."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.inorder import SAMPLE, SLOT_BYTES
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import DiskTask
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.undedup import DiskBrought, Filling, looked_at, made
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.keptlinks import KeptLinks
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget, TargetLane

_BLANK = bytes(SLOT_BYTES)
# Slots whose hashes are asked for at a time.
_ASKED = 16


def bring(
    read: Callable[[int], bytes],
    end: Callable[[], None],
    task: DiskTask,
    folders: Sequence[str],
    verify: str,
    reach: Reach,
) -> DiskBrought:
    """`read` gives so many bytes of the disk, fewer only at its end; `end` makes one that waits in it give up.

    What is all zeros is not written: the disk is made empty."""
    began = reach.clock.monotonic()
    flat = task.target.removesuffix(".vmdk") + "-flat.vmdk"
    meter = Meter("restore", task.key, task.capacity_bytes, reach.clock)
    done = [0, 0]
    written, verified = 0, ""
    with reach.starter(writes=True) as host, made(task, folders, reach):
        with (
            Filling() as filling,
            KeptLinks(host, reach.connections + 1) as starter,
            RemoteTarget(starter, flat, bandwidth_limit=reach.bandwidth_limit, durable=reach.stepwise) as target,
        ):

            def look() -> None:
                reach.alive()
                reach.progress(meter.at(done[0]))

            def cut() -> None:
                end()
                with contextlib.suppress(Exception):
                    target.close()

            what = f"The restore to {task.target} on {reach.host.name}"
            watch = Watch(
                what,
                lambda: sum(done),
                look,
                cut,
                reach.stall_seconds,
                reach.clock,
                minimum_rate=reach.minimum_rate,
            )
            with watch, contextlib.ExitStack() as stack:
                lanes = [stack.enter_context(target.lane()) for _lane in range(reach.connections)]
                wanted = _wanted(task.capacity_bytes, verify)
                digests: dict[int, bytes] = {}
                for slot, offset in enumerate(range(0, task.capacity_bytes, SLOT_BYTES)):
                    watch.check()
                    data = read(min(SLOT_BYTES, task.capacity_bytes - offset))
                    if len(data) != min(SLOT_BYTES, task.capacity_bytes - offset):
                        raise errors.BadSource(
                            host=reach.host.name, source=task.source, reason=f"it ends at byte {offset + len(data)}"
                        )
                    if data != _BLANK[: len(data)]:
                        lanes[slot % len(lanes)].write(memoryview(data), offset)
                        written += len(data)
                    if verify == "full" or slot in wanted:
                        digests[slot] = hashlib.sha256(data).digest()
                    done[0] += len(data)
                target.sync()
                if digests:
                    _compare(lanes[0], task, digests, watch, done)
                    whole = "all" if verify == "full" else "sample of"
                    verified = f"{whole} {len(digests)} pieces of 1 MiB, by their SHA-256 on the host"
            filling.done = True
        copied = looked_at(task, reach)
    return DiskBrought(
        copied_bytes=copied,
        written_bytes=written,
        fetched_bytes=task.capacity_bytes,
        seconds=round(max(reach.clock.monotonic() - began, 0.001), 3),
        verified=verified or "not compared: verify is none",
        method=host.way.method,
        sent_bytes=written,
        left=filling.left,
    )


def _wanted(size: int, verify: str) -> frozenset[int]:
    count = -(-size // SLOT_BYTES)
    if verify != "sample" or count <= SAMPLE:
        return frozenset(range(count) if verify == "sample" else ())
    step = count / SAMPLE
    return frozenset({0, count - 1} | {int(number * step + random.random() * step) for number in range(SAMPLE)})


def _compare(lane: TargetLane, task: DiskTask, digests: Mapping[int, bytes], watch: Watch, done: list[int]) -> None:
    """What the host hashes of the disk that it now has must be what came."""
    slots = sorted(digests)
    for begin in range(0, len(slots), _ASKED):
        watch.check()
        some = slots[begin : begin + _ASKED]
        pieces = [(slot * SLOT_BYTES, min(SLOT_BYTES, task.capacity_bytes - slot * SLOT_BYTES)) for slot in some]
        for slot, (offset, length), digest in zip(some, pieces, lane.ask(pieces).hashes()):
            there = digest if digest is not None else hashlib.sha256(bytes(length)).digest()
            if there != digests[slot]:
                raise errors.CopyDiffers(
                    host="", source=task.source, target=task.target, reason=f"the {length} bytes at {offset} differ"
                )
        done[1] += sum(length for _offset, length in pieces)
