# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A map of what may have changed on a disk, as the vSphere API's QueryChangedDiskAreas tells it.

A JSON list of areas, `[{"start": 0, "length": 65536}, …]` in bytes; or the API's own answers, one or a list of them:
`{"startOffset": 0, "length": 8589934592, "changedArea": [{"start": …, "length": …}]}`. What no answer speaks of counts
as changed. Other fields are not looked at.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadChanges

_MOST_BYTES = 16 << 20
Areas = tuple[tuple[int, int], ...]


class Slots:
    """The numbers of the chunks that some areas touch, in whatever order those come."""

    def __init__(self, areas: Sequence[tuple[int, int]], chunk_bytes: int) -> None:
        self._begins, self._ends = array("Q"), array("Q")
        if not self._ascending(areas, chunk_bytes):
            runs = _joined(_touched(areas, chunk_bytes))
            self._begins = array("Q", [begin for begin, _count in runs])
            self._ends = array("Q", [begin + count for begin, count in runs])

    def _ascending(self, areas: Sequence[tuple[int, int]], chunk_bytes: int) -> bool:
        """Takes them one by one, as there may be millions; False where one comes before its predecessor."""
        for begin, count in _touched(areas, chunk_bytes):
            if not self._begins or begin > self._ends[-1]:
                self._begins.append(begin)
                self._ends.append(begin + count)
            elif begin < self._begins[-1]:
                return False
            else:
                self._ends[-1] = max(self._ends[-1], begin + count)
        return True

    def __contains__(self, slot: int) -> bool:
        at = bisect_right(self._begins, slot) - 1
        return at >= 0 and slot < self._ends[at]


def _touched(areas: Sequence[tuple[int, int]], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """First chunk and number of chunks of each."""
    for begin, length in areas:
        if length > 0:
            yield begin // chunk_bytes, (begin + length - 1) // chunk_bytes - begin // chunk_bytes + 1


def load(path: str, size: int) -> Areas:
    """The map in a file, for a disk of this size."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadChanges(name=path, reason=error.strerror or str(error)) from error
    return parse(data, size, path)


def parse(data: bytes, size: int, name: str = "the map") -> Areas:
    """(offset, length) of all that may have changed, ascending, without overlap; `BadChanges` says what is wrong.

    A map that speaks of bytes behind the disk's end is another disk's.
    """
    if len(data) > _MOST_BYTES:
        raise BadChanges(name=name, reason=f"it is larger than {_MOST_BYTES} bytes")
    try:
        value = json.loads(data)
        entries = [value] if isinstance(value, dict) else value
        if not isinstance(entries, list):
            raise ValueError("it is no list")
        if any(isinstance(entry, dict) and "changedArea" in entry for entry in entries):
            return _joined([*_areas(_answers(entries), size), *_gaps(entries, size)])
        return _joined(_areas(entries, size))
    except (ValueError, RecursionError) as error:
        raise BadChanges(name=name, reason=str(error)) from error


def _area(entry: Any, start: str, size: int) -> tuple[int, int]:
    if not isinstance(entry, dict):
        raise ValueError(f"{str(entry)[:60]!r} is no area")
    found = []
    for field in (start, "length"):
        value = entry.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"an area has the {field} {str(value)[:60]!r}")
        found.append(value)
    if sum(found) > size:
        raise ValueError(f"an area ends at byte {str(sum(found))[:60]}, the disk has {size}")
    return found[0], found[1]


def _areas(entries: Sequence[Any], size: int) -> Iterator[tuple[int, int]]:
    for entry in entries:
        yield _area(entry, "start", size)


def _answers(entries: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for entry in entries:
        areas = entry.get("changedArea") if isinstance(entry, dict) else None
        # The API leaves an empty list out, and writes null for it.
        if areas is not None and not isinstance(areas, list):
            raise ValueError("changedArea is no list")
        found += areas or []
    return found


def _gaps(entries: Sequence[Any], size: int) -> Iterator[tuple[int, int]]:
    """What no answer speaks of."""
    place = 0
    for begin, length in _joined([_area(entry, "startOffset", size) for entry in entries]):
        if begin > place:
            yield place, begin - place
        place = begin + length
    if place < size:
        yield place, size - place


def _joined(areas: Any) -> Areas:
    found: list[tuple[int, int]] = []
    for begin, length in sorted(areas):
        if not length:
            continue
        if found and begin <= sum(found[-1]):
            found[-1] = (found[-1][0], max(sum(found[-1]), begin + length) - found[-1][0])
        else:
            found.append((begin, length))
    return tuple(found)
