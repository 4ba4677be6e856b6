# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power as it is, and what a VM asks; nothing here changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, faults
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_message import Question, parse_message
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_vmodl import Dump

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine

ON, OFF, SUSPENDED = "poweredOn", "poweredOff", "suspended"
_WORDS = {"Powered on": ON, "Powered off": OFF, "Suspended": SUSPENDED}


def parse_state(text: str, vm: VirtualMachine) -> str:
    last = text.strip().split("\n")[-1].strip() if text.strip() else ""
    if last not in _WORDS:
        raise errors.UnreadableOutput(
            host=vm.host.name, command=f"vim-cmd vmsvc/power.getstate {vm.vmid}", reason=f"it says {text[:200]!r}"
        )
    return _WORDS[last]


def parse_question(reply: Reply) -> Question | None:
    return parse_message(reply.stdout) if reply.rc == 0 else None


def tools_running(summary: Dump) -> bool:
    status = summary.text("guest.toolsRunningStatus")
    if status:
        return status != "guestToolsNotRunning"
    return summary.text("guest.toolsStatus") in ("toolsOk", "toolsOld")


def state_and_question(vm: VirtualMachine) -> tuple[str | None, Question | None]:
    """Both in one script. The state is None while the host cannot say it."""
    vmid = str(vm.vmid)
    state, message = vm.host.ask([["vim-cmd", "vmsvc/power.getstate", vmid], ["vim-cmd", "vmsvc/message", vmid]])
    if state.rc != 0:
        if faults.unsure(state.text, state.rc) and faults.fault_of(state.text) is None:
            return None, None
        vm.host.check(state)
    try:
        return parse_state(state.stdout, vm), parse_question(message)
    except errors.UnreadableOutput:
        return None, parse_question(message)


def question_error(vm: VirtualMachine, question: Question, operation: str) -> errors.QuestionPending:
    choices = ", ".join(f"{number} ({label})" for number, label in question.choices) or "(none listed)"
    return errors.QuestionPending(
        **vm.data(operation=operation, question=question.text, question_id=question.id, choices=choices)
    )
