# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store and its restore points as plain data, for programs: the command line's JSON and the modules' results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import holds, keys, verified
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError
from ansible_collections.stowage.esxi.plugins.module_utils.store.founding import VERSION
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def store(opened: Store) -> dict[str, Any]:
    return {
        "location": opened.name,
        "id": opened.id,
        "version": VERSION,
        "created_at": opened.config.get("created_at"),
        "chunk_bytes": opened.chunk_bytes,
        "hash": opened.config["hash"],
        "encrypted": opened.vault is not None,
        "settings": dict(opened.settings),
        "key_slots": [{"name": slot.name, "kind": slot.kind} for slot in keys.slots(opened.backend)],
    }


def all_points(opened: Store, found: Sequence[Point], problems: list[str]) -> list[dict[str, Any]]:
    """Restore points with their holds and the last verify's word; what cannot be read goes to `problems`."""
    held: dict[tuple[str, str], list[str]] = {}
    try:
        for one in holds.listed(opened):
            held.setdefault((one.machine_id, one.point), []).append(one.name)
    except StoreError as error:
        problems.append(error.message)
    findings = verified.findings(opened, problems)
    for made in found:
        finding = findings.get(made.object_name)
        if finding is not None and not finding.good:
            problems.append(
                f"restore point {made.point} of {made.machine_name!r}: verify found it damaged ({finding.at})"
            )
    return [
        {
            **point(one),
            "holds": held.get((one.machine_id, one.point), []),
            "verified": vars(findings[one.object_name]) if one.object_name in findings else None,
        }
        for one in found
    ]


def point(one: Point) -> dict[str, Any]:
    return {
        "point": one.point,
        "machine": {"id": one.machine_id, "name": one.machine_name},
        "created_at": one.created_at,
        "parent": one.parent,
        "bytes": sum(disk.size for disk in one.disks),
        "disks": [{"key": disk.key, "bytes": disk.size, "facts": dict(disk.facts)} for disk in one.disks],
        "files": [{"name": file.name, "bytes": file.size} for file in one.files],
        "facts": dict(one.facts),
    }
