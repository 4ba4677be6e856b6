# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One task at a time on a hypervisor's hostd, across all processes of this machine's user."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.ssh import runtime
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import HostBusy

_held = threading.local()


@contextlib.contextmanager
def host_lock(endpoint: Endpoint, timeout_seconds: float = 600.0, clock: Clock | None = None) -> Iterator[None]:
    """Holds the hypervisor's lock; ``HostBusy`` when it cannot be had in time. A dead holder's lock is free at once.

    The lock belongs to host and port, whoever logs in. A thread that holds it may take it again.
    """
    name = runtime.name_of("host", endpoint.host.lower(), endpoint.port)
    depths: dict[str, int] = _held.__dict__.setdefault("depths", {})
    if depths.get(name):
        depths[name] += 1
        try:
            yield
        finally:
            depths[name] -= 1
        return
    path = os.path.join(runtime.folder(), f"{name}.host")
    taken = runtime.lock_file(path, timeout_seconds, clock or SystemClock())
    if taken is None:
        raise HostBusy(host=endpoint.host, port=endpoint.port, seconds=timeout_seconds)
    depths[name] = 1
    try:
        yield
    finally:
        depths[name] = 0
        os.close(taken)
