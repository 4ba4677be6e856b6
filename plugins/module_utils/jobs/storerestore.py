# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vmdk_copy with the program dedup: a disk out of a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Frame, Settings


def predict(host: Host, params: Mapping[str, Any], request: Request, stores: Stores) -> dict[str, Any]:
    raise NotImplementedError


def perform(host: Host, params: Mapping[str, Any], settings: Settings, frame: Frame, stores: Stores) -> dict[str, Any]:
    raise NotImplementedError
