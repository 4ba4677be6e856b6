# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program carries a session."""

from __future__ import annotations

import shutil

from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ProgramMissing
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session


def choose(endpoint: Endpoint) -> Session:
    """OpenSSH where it is installed, else paramiko; the one that is asked for, or ``ProgramMissing``."""
    program = shutil.which("ssh")
    if endpoint.backend in ("auto", "openssh") and program is not None:
        from ansible_collections.stowage.esxi.plugins.module_utils.ssh.openssh import OpenSshSession

        return OpenSshSession(endpoint, program)
    if endpoint.backend == "openssh":
        raise ProgramMissing(host=endpoint.host, port=endpoint.port, reason="no program ssh is in the PATH")

    from ansible_collections.stowage.esxi.plugins.module_utils.base import imports

    if not imports.available("paramiko"):
        missing = "neither the program ssh nor the Python library paramiko is here"
        if endpoint.backend == "paramiko":
            missing = "the Python library paramiko is not here"
        raise ProgramMissing(host=endpoint.host, port=endpoint.port, reason=missing)
    from ansible_collections.stowage.esxi.plugins.module_utils.ssh.paramiko_session import ParamikoSession

    return ParamikoSession(endpoint)
