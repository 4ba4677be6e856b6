# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""esxcli system: settings, ramdisks, maintenance mode, shutdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esxilab.hostd import maintenance, settings
from esxilab.hostd.errors import VimFault

from .esxcli import CliCommand, CliError, Result, truth
from .vmkvsitools import RAMDISKS

if TYPE_CHECKING:
    from esxilab.hostd import Hostd

    from .tables import Row


def _row(host: Hostd, setting: settings.Setting) -> Row:
    return {
        "Path": setting.path,
        "Type": "integer",
        "Int Value": settings.value(host, setting),
        "Default Int Value": setting.default,
        "Min Value": setting.least,
        "Max Value": setting.most,
        "String Value": "",
        "Default String Value": "",
        "Valid Characters": "",
        "Description": setting.text,
    }


def _setting(host: Hostd, path: str) -> settings.Setting:
    found = settings.find(host, path)
    if found is None:
        raise CliError(f"Unable to find option {path.rpartition('/')[2]}")
    return found


def _advanced(host: Hostd, options: dict[str, str]) -> Result:
    wanted = options.get("option")
    if wanted is not None:
        row = _row(host, _setting(host, wanted))
        return Result([row], tuple(row), single=True)
    rows = [_row(host, setting) for setting in settings.SETTINGS]
    return Result(rows, tuple(rows[0]), blocks=True)


def _advanced_set(host: Hostd, options: dict[str, str]) -> Result:
    setting = _setting(host, options["option"])
    if "default" not in options and "int-value" not in options:
        raise CliError("Error: Missing required parameter -i|--int-value")
    text = str(setting.default) if "default" in options else options["int-value"]
    if not text.lstrip("-").isdigit():
        raise CliError(f"Error: Invalid value for parameter int-value: {text}")
    try:
        settings.put(host, setting, int(text))
    except ValueError as error:
        raise CliError(f"Unable to set option {setting.path}: {error}") from error
    return Result(text="")


KERNEL = ("Name", "Type", "Configured", "Runtime", "Default", "Description")


def _kernel(host: Hostd, options: dict[str, str]) -> Result:
    """Boot options; only execInstalledOnly is known here."""
    if options.get("option", "execInstalledOnly") != "execInstalledOnly":
        raise CliError(f"Unable to find setting {options['option']}")
    default = host.profile.release_number >= (8, 0)
    words = [
        str(flag).upper()
        for flag in (host.boot_exec_installed_only, host.switches.get("exec_installed_only") or False, default)
    ]
    values = ("execInstalledOnly", "Bool", *words, "Only execute binaries that are part of an installed VIB.")
    return Result([dict(zip(KERNEL, values))], KERNEL)


def _kernel_set(host: Hostd, options: dict[str, str]) -> Result:
    """Takes hold at the next boot."""
    if options["setting"] != "execInstalledOnly":
        raise CliError(f"Unable to find setting {options['setting']}")
    host.boot_exec_installed_only = truth(options, "value")
    return Result(text="")


DISKS = (
    "Ramdisk Name", "System", "Include in Coredumps", "Reserved", "Maximum", "Used", "Peak Used", "Free", "Mount Point",
)  # fmt: skip


def _ramdisks(host: Hostd, options: dict[str, str]) -> Result:
    rows: list[Row] = []
    for name, size, used in RAMDISKS:
        values = (name, True, True, "0 KiB", size, used, used, size - used)
        cells = [f"{value >> 10} KiB" if isinstance(value, int) and value > 1 else value for value in values]
        rows.append(dict(zip(DISKS, (*cells, "/" if name == "root" else f"/{name}"))))
    return Result(rows, DISKS)


def _maintenance_get(host: Hostd, options: dict[str, str]) -> Result:
    return Result(text="Enabled\n" if host.maintenance else "Disabled\n")


def _maintenance_set(host: Hostd, options: dict[str, str]) -> Result:
    """Comes back when the host is in maintenance mode: when its last VM is off, or the time is up."""
    wanted = truth(options, "enable")
    if wanted == host.maintenance:
        raise CliError(f"Maintenance mode is already {'enabled' if wanted else 'disabled'}.")
    timeout = options.get("timeout", "0")
    task = maintenance.begin(host, wanted, float(timeout) if timeout.isdigit() else 0.0)
    while not task.done.wait(0.1):
        if host.stopped:
            break
    if isinstance(task.error, VimFault):
        raise CliError(task.error.msg)
    return Result(text="")


def _shutdown(again: bool) -> CliCommand:
    def run(host: Hostd, options: dict[str, str]) -> Result:
        delay = options.get("delay", "10")
        if not delay.isdigit() or not 10 <= int(delay) <= 4294967295:
            raise CliError(f"Error: Invalid value for parameter delay: {delay}")
        if not host.maintenance:
            raise CliError("The host must be in maintenance mode for this operation.")
        host.machine_events.power(again, float(delay))
        return Result(text="")

    names = {"-d": "delay", "--delay": "delay", "-r": "reason", "--reason": "reason"}
    return CliCommand(run, names, ("reason",))


OPTION = {"-o": "option", "--option": "option"}
VALUES = {
    "-i": "int-value", "--int-value": "int-value", "-d": "default", "--default": "default",
}  # fmt: skip

COMMANDS = {
    "system settings advanced list": CliCommand(_advanced, OPTION),
    "system settings advanced set": CliCommand(
        _advanced_set, {**OPTION, **VALUES}, ("option",), frozenset({"default"})
    ),
    "system settings kernel list": CliCommand(_kernel, OPTION),
    "system settings kernel set": CliCommand(
        _kernel_set,
        {"-s": "setting", "--setting": "setting", "-v": "value", "--value": "value"},
        ("setting", "value"),
    ),
    "system visorfs ramdisk list": CliCommand(_ramdisks),
    "system maintenanceMode get": CliCommand(_maintenance_get),
    "system maintenanceMode set": CliCommand(
        _maintenance_set,
        {"-e": "enable", "--enable": "enable", "-t": "timeout", "--timeout": "timeout"},
        ("enable",),
    ),
    "system shutdown poweroff": _shutdown(False),
    "system shutdown reboot": _shutdown(True),
}
