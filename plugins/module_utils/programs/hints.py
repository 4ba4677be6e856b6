# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a hypervisor's disk cannot have changed since a restore point, told without reading it.

Where a link of the disk's chain still holds what the point holds, the grain tables of the links above it have all that
was written since. That is a hint: it is told by the hypervisor, and proven now and then by reading all.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import format_bytes
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.store.claim import Proof
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import RemoteDisk

#: What a hint came to. NONE: nobody gave one.
NONE, HINTED, PROVEN, WRONG, HASHED = "", "hinted", "proven", "wrong", "hashed"


@dataclass(frozen=True)
class Hints:
    """`links`: for each disk key the descriptor that holds what the parent point holds. `prove` reads all, too."""

    links: Mapping[str, str] = field(default_factory=dict)
    prove: bool = False


class Areas(Sequence[tuple[int, int]]):
    """(offset, length), in sixteen bytes each: of a large disk there may be millions."""

    def __init__(self, areas: Iterable[tuple[int, int]]) -> None:
        self._numbers = array("Q")
        for area in areas:
            self._numbers.extend(area)

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        place = at % len(self) * 2
        return self._numbers[place], self._numbers[place + 1]


@dataclass(frozen=True)
class Hint:
    """Of one disk: (offset, length) of the chunks to look at, ascending, or the reason why that is not known."""

    areas: Areas | None = None
    reason: str = ""
    proof: Proof | None = None

    @property
    def bytes(self) -> int | None:
        """What is to be looked at, at most; None for all."""
        return None if self.areas is None or self.proof is not None else sum(length for _at, length in self.areas)

    @property
    def outcome(self) -> str:
        if self.areas is None:
            return HASHED if self.reason else NONE
        if self.proof is None:
            return HINTED
        return WRONG if self.proof.wrong else PROVEN

    def note(self, chunk_bytes: int) -> str:
        """For a record; empty where there is nothing to tell."""
        if self.areas is None:
            return f"hashed as a whole: {self.reason}" if self.reason else ""
        told = format_bytes(sum(length for _at, length in self.areas))
        if self.proof is None:
            return f"only what was written since the reference snapshot was looked at, {told}"
        if not self.proof.wrong:
            return f"all was hashed, and proves that only the {told} written since the reference snapshot have changed"
        return (
            f"all was hashed, and {format_bytes(self.proof.wrong * chunk_bytes)} have changed that the delta since "
            f"the reference snapshot does not tell of, from byte {self.proof.first} on"
        )


def of(disk: RemoteDisk, key: str, cloned: bool, hints: Hints, chunk_bytes: int) -> Hint:
    """What is told of this disk."""
    # Inside: the end of a job reads what came of hints, and needs none of the store's libraries for that.
    from ansible_collections.stowage.esxi.plugins.module_utils.store.claim import Proof

    link = hints.links.get(key)
    if link is None:
        return Hint()
    if cloned:
        return Hint(reason="it is read from a clone, which has no delta")
    try:
        areas = Areas(aligned(disk.above(link), chunk_bytes))
    except ExtentUnusable as error:
        return Hint(reason=error.message)
    except ValueError:
        return Hint(reason=f"{link} is not in its chain {' <- '.join(disk.links)}")
    return Hint(areas, proof=Proof() if hints.prove else None)


def aligned(areas: Iterable[tuple[int, int]], chunk_bytes: int) -> Iterable[tuple[int, int]]:
    """The chunks that ascending areas touch, as areas: grains are small, and there may be millions of them."""
    begin = until = 0
    for offset, length in areas:
        first, end = offset // chunk_bytes, -(-(offset + length) // chunk_bytes)
        if first > until:
            if until > begin:
                yield begin * chunk_bytes, (until - begin) * chunk_bytes
            begin = first
        until = max(until, end)
    if until > begin:
        yield begin * chunk_bytes, (until - begin) * chunk_bytes
