# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The simulated management daemon of a host, and everything it changes on the datastores.

`Hostd(host_config, volumes, locks, clock, root=…)`: `host_config` is a host of the topology with its defaults filled
in, `volumes` the folder that holds one mount per datastore uuid (or a mapping uuid -> mount point), `locks` the lab's
lock table, `root` the host's own root folder (for /etc/vmware/hostd). `handle(request)` answers a command and may
block for as long as the real one would: call it from a thread of its own.
"""

from __future__ import annotations

from .server import Hostd

__all__ = ["Hostd"]
