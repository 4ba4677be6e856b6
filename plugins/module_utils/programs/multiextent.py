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

# Not while another clone of this format runs: whoever started that one found the module loaded, and counts on it.
_UNLOAD = r"""
if /bin/ps -c | grep -F 'vmkfstools' | grep -qF ' 2gbsparse '; then echo busy; exit 0; fi
vmkload_mod -u "$1" 2>&1
"""


def is_loaded(table: str) -> bool:
    """From ``esxcli system module list``."""
    return any(
        row.get("Name") == NAME and row.get("Is Loaded", "true").strip().lower() == "true" for row in parse_table(table)
    )


@contextlib.contextmanager
def loaded(host: Host, needed: bool, note: Note) -> Iterator[list[str]]:
    """Yields the list of what the operator should know; what the unloading adds is in it afterwards."""
    notes: list[str] = []
    if not needed or is_loaded(host.esxcli("system", "module", "list")):
        yield notes
        return
    note("kernel-module", name=NAME)
    try:
        host.esxcli("system", "module", "load", "-m", NAME)
    except StowageError as error:
        output = str(error.data.get("output", error.message))
        raise errors.ModuleNotLoaded(host=host.name, output=output) from error
    try:
        yield notes
    finally:
        notes.append(f"The kernel module {NAME} was loaded on {host.name} for this copy, and unloaded after it")
        try:
            answer = host.session.script(_UNLOAD, [NAME])
            problem = answer.output if answer.rc != 0 else ""
            if answer.stdout.strip() == "busy":
                problem = "another copy uses it"
        except StowageError as error:
            problem = error.message
        if problem:
            notes[-1] = f"The kernel module {NAME} was loaded on {host.name} for this copy and is still: {problem}"
