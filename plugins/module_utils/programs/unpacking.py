# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that a restore writes: where the store lies on the same hypervisor, its packs need not travel."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import HostBackend
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import Starter
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.unpacking import UnpackingTarget


def opened_target(starter: Starter, flat: str, store: Store, reach: Reach) -> RemoteTarget:
    """The extent of a disk. The host proves what it takes out of a pack by sums that it can compute."""
    backend = store.backend
    limit, durable = reach.bandwidth_limit, reach.stepwise
    if isinstance(backend, HostBackend) and backend.host == starter.host and store.identity.plain_checks:
        return UnpackingTarget(starter, flat, backend.path_of, bandwidth_limit=limit, durable=durable)
    return RemoteTarget(starter, flat, bandwidth_limit=limit, durable=durable)
