# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session with the machine where this runs: the same interface, no SSH."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.ssh import quoting
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import CommandTimeout, ProgramMissing
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Result, Session


class LocalSession(Session):
    """Commands run as the user of this process, without its agent and with a home folder from the user database."""

    def __init__(self) -> None:
        entry = pwd.getpwuid(os.geteuid())
        super().__init__(Endpoint(host="localhost", user=entry.pw_name))
        self._home = entry.pw_dir

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_seconds: float = 60.0) -> Result:
        environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        environment.update(HOME=self._home, USER=self.endpoint.user, LOGNAME=self.endpoint.user, LC_ALL="C")
        try:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # no AnsibleModule in this room
                list(argv),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramMissing(host="localhost", port=0, reason=f"{argv[0]}: {error.strerror or error}") from error
        try:
            out, err = process.communicate(stdin, timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            raise CommandTimeout(
                host="localhost", command=quoting.shorten(quoting.join(argv)), seconds=timeout_seconds
            ) from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return Result(tuple(argv), process.returncode, _text(out), _text(err))

    def close(self) -> None:
        """Nothing is held."""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
