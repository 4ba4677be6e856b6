# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a store can be used, and how much room it has."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import StoreEncryptedThere
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import StoreRoom
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores


def way_problem(host: Host, writes: bool = False) -> dict[str, Any] | None:
    """Why the disks of this hypervisor cannot be read from here, or with `writes` be written, by any program; nothing
    is left running there. Plain commands can read; only the agent can write."""
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe

    try:
        probe(host.session, "agent" if writes else "auto")
    except StowageError as error:
        return error.as_dict()
    return None


def look(stores: Stores, location: str, program: str = "dedup") -> StoreRoom:
    """Nothing is changed. A store that is not there is no problem where it is to be made."""
    if program == "borg":
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs import borgplace

        return borgplace.look(stores, location)
    if program == "rsync":
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs import rsyncplace

        return rsyncplace.look(stores, location)
    from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.hoststore import is_on_host
    from ansible_collections.stowage.esxi.plugins.module_utils.store import quota
    from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoStore

    try:
        store = stores.open(location)
        quota.must_have_room(store)
        left = quota.room_left(store)
        reserve = quota.reserve(store) if left is not None else 0
    except NoStore as error:
        if stores.access is not None and stores.access.create:
            if is_on_host(location) and stores.access.passphrase:
                return StoreRoom(problem=StoreEncryptedThere(store=location).as_dict())
            return StoreRoom(warning=f"there is no store at {location} yet: it is made before the first copy")
        return StoreRoom(problem=error.as_dict())
    except StowageError as error:
        return StoreRoom(problem=error.as_dict())
    capacity = free = None
    if is_on_host(location) and stores.host is not None:
        there = stores.host.datastore(location)
        capacity, free = there.capacity_bytes, there.free_bytes
    elif spot.is_remote(location):
        from ansible_collections.stowage.esxi.plugins.module_utils.jobs import rsyncplace

        place = spot.parse(location)
        with rsyncplace.machine_of(stores, place) as server:
            capacity, free = rsyncplace.room_at(server, place)
    elif location.startswith("/"):
        found = os.statvfs(location)
        capacity, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    if left is not None:
        below = max(0, left - reserve)
        if free is None or below < free:
            # Below a quota there is a reserve of its own.
            capacity, free = 0, below
    return StoreRoom(capacity, free)
