# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the failure of an operator's hook means for the VM that it was run for. It touches the record alone."""

from __future__ import annotations

from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context, entry_of
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import HookFailed


def note_failure(context: Context, hook: str, error: Any) -> dict[str, Any]:
    """The VM's entry, with it. A success becomes a failure that keeps its restore point; a failure keeps its reason."""
    entry = entry_of(context)
    failure = HookFailed(hook=hook, vm=entry["vm"], reason=(record.error_of(error) or {}).get("message", "no message"))
    told = failure.message
    if entry["status"] in ("ok", "not-run"):
        problem = failure.as_dict()
        if entry["restore_point"]:
            problem["message"] = f"{told}. The restore point {entry['restore_point']} was made all the same"
        entry.update(status="failed", error=problem)
    elif told not in entry["warnings"] and (entry["error"] or {}).get("id") != HookFailed.id:
        entry["warnings"].append(told)
    if not context.check:
        record.write_entry(context.state_dir, entry)
    return entry
