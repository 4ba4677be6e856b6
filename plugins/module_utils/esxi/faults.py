# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's refusals mean: its texts become typed errors, once, here."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_vmodl import Dump, VmodlError, find_dumps

# The command did not reach hostd: asking again is safe whatever it was.
_NOT_STARTED = re.compile(
    r"Failed to login:|Connect to localhost failed|SSL Exception|Connection reset by peer|Connection failure",
    re.IGNORECASE,
)
# The client died or got nothing: the work may have begun.
_UNSURE = re.compile(r"^(?:Killed|Aborted|<unset>)\s*$|std::bad_alloc", re.MULTILINE)
# Ended by SIGABRT, SIGKILL or SIGSEGV; a shell without a terminal prints no word about it.
_KILLED = (134, 137, 139)
_FAULT_FIRST = re.compile(r"\A(?:[A-Z][\w ]*:[ ]*\n)?\s*\((?:vim|vmodl)\.fault\.")
_FAILED = re.compile(r"^[A-Z][\w ]* failed\.?\s*$", re.MULTILINE)

_TYPES: dict[str, type[errors.Fault]] = {
    "NotFound": errors.NotFoundFault,
    "ManagedObjectNotFound": errors.NotFoundFault,
    "AlreadyExists": errors.AlreadyExistsFault,
    "InvalidPowerState": errors.InvalidPowerStateFault,
    "ToolsUnavailable": errors.ToolsUnavailableFault,
    "TaskInProgress": errors.TaskInProgressFault,
}


def not_started(text: str) -> bool:
    """The text of a host whose management agent was not there. Ask only when the command failed or said no more."""
    return bool(_NOT_STARTED.search(text))


def unsure(text: str, rc: int = 0) -> bool:
    """The same, and a client that was killed: then nobody knows whether the work began."""
    return rc in _KILLED or bool(_UNSURE.search(text)) or not_started(text)


def fault_of(text: str) -> Dump | None:
    """The first fault dump of a text, or None."""
    try:
        for value in find_dumps(text):
            if isinstance(value, Dump) and ".fault." in value.type:
                return value
    except VmodlError:
        pass
    match = re.search(r"\(((?:vim|vmodl)\.fault\.\w+)\) \{", text)
    return Dump(match.group(1)) if match else None


def refused(rc: int, text: str) -> bool:
    """Whether an answer is a failure by its own words; a client that was killed says nothing about the work."""
    return (rc != 0 or bool(_FAILED.search(text))) and not unsure(text, rc)


def check(rc: int, text: str, **data: Any) -> None:
    """Raises the error that an answer stands for; `data` holds at least `host` and `command`.

    A fault dump counts also at status 0 when the answer begins with it: exit codes differ by release.
    """
    fault = fault_of(text) if rc != 0 or _FAULT_FIRST.match(text) else None
    output = " ".join(text.split())[:600]
    if fault is not None:
        said = fault.text("msg") or output
        raise _TYPES.get(fault.name, errors.Fault)(fault=fault.name, output=said, details=dict(fault.fields), **data)
    if rc != 0 or _FAILED.search(text):
        raise errors.CommandFailed(rc=rc, output=output or "(it printed nothing)", **data)
