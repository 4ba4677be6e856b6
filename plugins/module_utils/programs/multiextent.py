# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel module that 2gbsparse disks need: loaded for as long as it is needed, then left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_esxcli import parse_table
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import Note

NAME = "multiextent"

# Not while another vmkfstools runs: whoever started it found the module loaded, and may count on it. Which disks it
# reads or writes through the module cannot be told from its arguments. The brackets keep grep from finding itself.
_UNLOAD = r"""
if /bin/ps -c | grep -q '[v]mkfstools'; then echo busy; exit 0; fi
vmkload_mod -u "$1" 2>&1
"""

INTENT, LOADED, UNLOADED = "kernel-module", "kernel-module-loaded", "kernel-module-unloaded"
"""Journal entries. Only the second proves that it was we who loaded it: a module that is there is refused."""


def is_loaded(table: str) -> bool:
    """From ``esxcli system module list``."""
    return any(
        row.get("Name") == NAME and row.get("Is Loaded", "true").strip().lower() == "true" for row in parse_table(table)
    )


def unload(host: Host) -> str:
    """Why the module is still loaded; nothing when it is not."""
    try:
        if not is_loaded(host.esxcli("system", "module", "list")):
            return ""
        answer = host.session.script(_UNLOAD, [NAME])
    except StowageError as error:
        return error.message
    if answer.stdout.strip() == "busy":
        return "another vmkfstools runs and may use it"
    return answer.output if answer.rc != 0 else ""


@contextlib.contextmanager
def loaded(host: Host, needed: bool, note: Note) -> Iterator[list[str]]:
    """Yields the list of what the operator should know; what the unloading adds is in it afterwards."""
    notes: list[str] = []
    if not needed or is_loaded(host.esxcli("system", "module", "list")):
        yield notes
        return
    note(INTENT, name=NAME)
    try:
        host.esxcli("system", "module", "load", "-m", NAME)
    except StowageError as error:
        output = str(error.data.get("output", error.message))
        raise errors.ModuleNotLoaded(host=host.name, output=output) from error
    try:
        note(LOADED, name=NAME)
        yield notes
    finally:
        problem = unload(host)
        if problem:
            notes.append(f"The kernel module {NAME} was loaded on {host.name} for this copy and is still: {problem}")
        else:
            notes.append(f"The kernel module {NAME} was loaded on {host.name} for this copy, and unloaded after it")
            # Whoever undoes the job looks again whether it is loaded: a note that cannot be written costs nothing.
            with contextlib.suppress(StowageError):
                note(UNLOADED, name=NAME)
