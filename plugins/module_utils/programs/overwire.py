# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk by two rsyncs, one of them on the hypervisor: only what differs from the image before crosses the wire."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Meter
from ansible_collections.stowage.esxi.plugins.module_utils.programs import imagefile, rsync, rsyncerrors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.imagefile import ImageFile
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.rsync import Copied, File, Rsync, Wish
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.watching import Watch
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.openssh import OpenSshSession
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import ending

T = TypeVar("T")
TRIES = 4
_SLOWEST_READING = 20 << 20
_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Wire:
    """The rsync at the other end, tried out; or why there is none that could be used."""

    session: OpenSshSession | None = None
    program: str = rsync.PROGRAM
    why_not: str = ""


def wire_to(session: Session, program: str) -> Wire:
    """Without a program nobody wants one. One that cannot be used is told, and is no error."""
    if not program:
        return Wire()
    try:
        far = rsync.over(session)
        rsync.must_serve()
        rsync.must_serve(far, program)
    except rsyncerrors.RsyncMissing as error:
        return Wire(why_not=error.message)
    return Wire(far, program)


@dataclass(frozen=True)
class Brought:
    """What came of it: `written` bytes of the file are new there."""

    copied: Copied
    seconds: float
    written: int
    begun: str
    verified: str
    retries: int


def bring(
    source: Source, wire: Wire, path: str, former: str | None, verify: str, whole_file: bool, reach: Reach
) -> Brought:
    """The one flat file of a disk into an image here. What it raises leaves a half copy."""
    began = reach.clock.monotonic()
    with ImageFile(path, source.capacity_bytes, former) as image:
        begun = image.begun
    from_former = posixpath.dirname(former or "") if begun == "former" else ""
    with imagefile.told(path):
        occupied = 0 if begun == "former" else os.stat(path).st_blocks * 512
    sparse = whole_file or rsync.sparsely(begun, occupied, source.bytes_to_read)
    moved = Moving(
        File(source.flat, wire.session, wire.program),
        File(path),
        Wish(whole_file, from_former, reach.bandwidth_limit, sparse),
        source.key,
        source.capacity_bytes,
        reach,
    )
    copied, retries = moved.copy()
    if not sparse:
        with imagefile.told(path):
            imagefile.dig(path, reach.alive)
    verified = moved.verified(verify)
    written = copied.literal
    with imagefile.told(path):
        if begun == "former":
            written = 0 if imagefile.made_one(path, former or "", reach.alive) else os.stat(path).st_blocks * 512
        imagefile.seal(path)
    return Brought(copied, round(max(reach.clock.monotonic() - began, 0.001), 3), written, begun, verified, retries)


class Moving:
    """One file, with somebody who looks on; where the connection breaks it is gone on with."""

    def __init__(self, source: File, target: File, wish: Wish, key: str, size: int, reach: Reach) -> None:
        self._source, self._target, self._wish, self._reach, self._size = source, target, wish, reach, size
        self._meter = Meter("copy", key, size, reach.clock)
        self._far = source.session or target.session
        self._program = posixpath.basename((source if source.session else target).program)

    def copy(self) -> tuple[Copied, int]:
        """What it cost, all tries together, and how many of them broke."""
        wire = 0
        for number in range(TRIES):
            try:
                copied = self._one(lambda one, started: one.copy(self._wish, started))
            except rsyncerrors.RsyncFailed as error:
                if error.data["rc"] not in rsync.BROKEN or error.data["ended"] or number + 1 == TRIES:
                    raise
                self._reach.alive()
                self._reach.clock.sleep(_PAUSE_SECONDS)
                continue
            return Copied(copied.literal, copied.matched, copied.wire + wire), number
        raise AssertionError("the last try returns or raises")

    def verified(self, verify: str) -> str:
        """Both are read again where that is wanted; RsyncDiffers where they are not the same."""
        told = "every byte, by rsync's own checksum of the whole disk"
        if verify != "full":
            return told
        # Both read their whole disk, one after the other, and say nothing until they are through.
        quiet = max(rsync.TIMEOUT_SECONDS, 2 * self._size // _SLOWEST_READING)
        reason = self._one(lambda one, started: one.differs(started, quiet), quiet)
        if reason:
            raise rsyncerrors.RsyncDiffers(source=self._source.words, target=self._target.words, reason=reason)
        return f"{told}; both read again from begin to end and compared (rsync --checksum)"

    def _one(self, work: Callable[[Rsync, Callable[[int], None]], T], quiet: float = 0) -> T:
        one = Rsync(self._source, self._target)
        pids: list[int] = []

        def started(pid: int) -> None:
            pids.append(pid)

        def look() -> None:
            self._reach.alive()
            self._reach.progress(self._meter.at(one.done))

        watch = Watch(
            f"The copy of {self._source.words} to {self._target.words}",
            lambda: one.moved,
            look,
            one.end,
            max(self._reach.stall_seconds, quiet),
            self._reach.clock,
        )
        try:
            with watch:
                done = work(one, started)
        except BaseException:
            with contextlib.suppress(StowageError):
                self._gone(pids)
            raise
        self._gone(pids)
        return done

    def _gone(self, pids: list[int]) -> None:
        """The other end holds the disk open for as long as it is there, which blocks a consolidation."""
        if self._far is not None:
            ending.prove_gone(self._far, [(pid, self._program) for pid in pids])
