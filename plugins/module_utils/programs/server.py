# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another server that backups go to, reached from here by SSH."""

from __future__ import annotations

import os
import shlex

from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import Spot
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.local import LocalSession
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session, open_session


def endpoint_of(place: Spot, key: str) -> Endpoint:
    """As the link that `link_server` has made leads there: by its key, and by the host keys that it has pinned beside
    it. Without a key, as the user of this process gets there. A user who is not named is that one, as with ssh."""
    return Endpoint(
        host=place.server,
        port=place.port,
        user=place.user or LocalSession().endpoint.user,
        private_key_file=key or None,
        known_hosts_file=_pins(key) or None,
    )


def open_server(place: Spot, key: str) -> Session:
    return open_session(endpoint_of(place, key))


def rsh_of(key: str) -> str:
    """The command by which another program goes the way of that key; nothing where there is none."""
    if not key:
        return ""
    words = ["ssh", "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    pins = _pins(key)
    if pins:
        words += ["-o", f"UserKnownHostsFile={pins}", "-o", "GlobalKnownHostsFile=none"]
    return shlex.join([*words, "-o", "StrictHostKeyChecking=yes"])


def _pins(key: str) -> str:
    return f"{key}.known_hosts" if key and os.path.exists(f"{key}.known_hosts") else ""
