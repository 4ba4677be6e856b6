# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every program that moves disks offers, and what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Progress
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host

FORMATS = ("thin", "zeroedthick", "eagerzeroedthick", "2gbsparse")
VERIFY = ("none", "sample", "full")
TRANSFER_MODES = ("async", "sync")


@dataclass(frozen=True)
class DiskTask:
    """One disk: the descriptor to read (with all its parents) and the descriptor to make.

    ``bytes_to_read`` is what the chain's extents occupy, at most the capacity. ``flat`` is the one file that holds the
    source byte by byte, or ``not_flat`` says why there is none to compare the copy with.
    """

    key: str
    source: str
    target: str
    format: str
    capacity_bytes: int
    bytes_to_read: int
    source_kind: str = "flat"
    flat: str = ""
    not_flat: str = ""


@dataclass(frozen=True)
class FileTask:
    """A small file, copied as it is."""

    source: str
    target: str


@dataclass(frozen=True)
class CopyTask:
    """All that is copied together: either everything is there afterwards or nothing.

    ``datastore`` is the mount point that everything goes to, ``folders`` what may have to be made below it, outermost
    first. ``work_dir`` must not exist; its parent does, or is the last of the folders. ``lease``, if given, is touched
    while the copy runs.
    """

    disks: tuple[DiskTask, ...]
    files: tuple[FileTask, ...]
    datastore: str
    folders: tuple[str, ...]
    work_dir: str
    token: str
    lease: str = ""


@dataclass(frozen=True)
class DiskResult:
    """A disk that was copied; ``copied_bytes`` is what its extents occupy, rate is by bytes read,
    ``verified`` how the copy was compared with its source."""

    key: str
    source: str
    dest: str
    format: str
    capacity_bytes: int
    bytes_to_read: int
    copied_bytes: int
    seconds: float
    rate: int
    verified: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class CopyResult:
    disks: tuple[DiskResult, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What the operator should know although it worked."""


Note = Callable[..., None]
"""Writes an event to the job's journal before it happens: ``note(event, **data)``."""


class Program(Protocol):
    """A program never leaves half a copy: what ``copy`` raises, it has cleared up before, or says what it could not."""

    name: str

    def check(self, host: Host, task: CopyTask) -> None:
        """Whether this program can do the task on this host; changes nothing. Raises what stands in the way."""

    def copy(
        self, host: Host, task: CopyTask, progress: Callable[[Progress], None], alive: Callable[[], None]
    ) -> CopyResult:
        """Does it. ``progress`` gets every news; ``alive`` is called every few seconds and may raise to end it."""
