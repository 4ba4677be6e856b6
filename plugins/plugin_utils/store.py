# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules about a store reach a hypervisor only where the store lies on one of its datastores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.plugin_utils.connection import EsxiActionBase

_VOLUMES = "/vmfs/volumes/"


def is_on_host(place: Any) -> bool:
    """Whether these options of a place mean a datastore."""
    if not isinstance(place, Mapping):
        return False
    return str(place.get("location") or place.get("path") or "").startswith(_VOLUMES)


class StoreActionBase(EsxiActionBase):
    """Elsewhere no connection option is filled in: the task may be for a machine that is no hypervisor."""

    def module_args(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        given = self._task.args
        if is_on_host(given) or is_on_host(given.get("other")):
            return super().module_args(task_vars)
        return {name: value for name, value in given.items() if value is not None}
