# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Advanced and kernel settings of a host.

Most of them are numbers that are kept and shown. What has an effect here is execInstalledOnly; what a switch of the
host decides at its start (the lock-out) is shown as it is and cannot be changed by a command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .server import Hostd


@dataclass(frozen=True)
class Setting:
    path: str
    default: int
    least: int
    most: int
    text: str
    switch: str = ""
    fixed: bool = False

    @property
    def name(self) -> str:
        """`Security.AccountLockFailures` is how vim-cmd and the API write the path."""
        return self.path.lstrip("/").replace("/", ".")


EXEC = "/User/execInstalledOnly"
SETTINGS = (
    Setting(
        "/Security/AccountLockFailures",
        5,
        0,
        100,
        "Maximum allowed failed login attempts before locking out a user's account.",
        "lockout_failures",
        True,
    ),
    Setting(
        "/Security/AccountUnlockTime",
        900,
        0,
        86400,
        "Duration in seconds to lock out a user's account after exceeding the limit.",
        "lockout_seconds",
        True,
    ),
    Setting(EXEC, 0, 0, 1, "Only execute binaries that are part of an installed VIB.", "exec_installed_only"),
    Setting("/UserVars/ESXiShellTimeOut", 0, 0, 86400, "Time before automatically disabling local and remote shell."),
    Setting(
        "/UserVars/ESXiShellInteractiveTimeOut", 0, 0, 86400, "Idle time before an interactive shell is logged out."
    ),
    Setting(
        "/UserVars/SuppressShellWarning", 0, 0, 1, "Do not show warning for enabled local and remote shell access."
    ),
    Setting(
        "/VMFS3/HardwareAcceleratedLocking",
        1,
        0,
        1,
        "Enable hardware accelerated VMFS locking (requires compliant hardware).",
    ),
)


def find(host: Hostd, name: str) -> Setting | None:
    """By either spelling, without regard to case."""
    wanted = "/" + name.lstrip("/").replace(".", "/").lower()
    return next((setting for setting in SETTINGS if setting.path.lower() == wanted), None)


def value(host: Hostd, setting: Setting) -> int:
    if setting.switch:
        return int(host.switches.get(setting.switch, setting.default) or 0)
    return host.options.get(setting.path, setting.default)


def put(host: Hostd, setting: Setting, number: int) -> None:
    if not setting.least <= number <= setting.most:
        raise ValueError(f"{number} is not in {setting.least} to {setting.most}")
    if setting.fixed and number != value(host, setting):
        raise ValueError(f"{setting.path} is a switch of the lab's host")
    if setting.path == EXEC:
        set_exec_installed_only(host, bool(number))
    elif not setting.fixed:
        host.options[setting.path] = number


def set_exec_installed_only(host: Hostd, wanted: bool) -> None:
    """From now on, for new executions; the machine's guard follows."""
    host.switches["exec_installed_only"] = wanted
    host.machine_events.exec_installed_only(wanted)
