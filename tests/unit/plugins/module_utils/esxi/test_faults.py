# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, faults

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ((DATA / "fault-invalid-power-state-4.1.txt").read_text(), errors.InvalidPowerStateFault, "current state"),
        ((DATA / "fault-tools-unavailable-6.5.txt").read_text(), errors.ToolsUnavailableFault, "VMware Tools"),
        (
            "(vim.fault.NotFound) {\n   faultCause = (vmodl.MethodFault) null,\n"
            '   msg = "Unable to find a VM corresponding to "16"",\n}\n',
            errors.NotFoundFault,
            'corresponding to "16"',
        ),
        ('(vim.fault.FileLocked) {\n   msg = "it is locked"\n}\n', errors.Fault, "it is locked"),
        ("Power on failed\n", errors.CommandFailed, "Power on failed"),
        ("something odd", errors.CommandFailed, "something odd"),
    ],
)
def test_a_refusal_becomes_the_error_that_it_stands_for(text, kind, said):
    with pytest.raises(kind) as caught:
        faults.check(1, text, host="esx1", command="vim-cmd x")
    assert said in caught.value.message and "esx1" in caught.value.message


def test_a_fault_counts_at_status_0_too_when_the_answer_begins_with_it():
    with pytest.raises(errors.InvalidPowerStateFault):
        faults.check(0, (DATA / "fault-invalid-power-state-4.1.txt").read_text(), host="esx1", command="c")


def test_a_fault_in_somebodys_note_is_no_fault():
    text = '(vim.vm.Summary) {\n   annotation = "x\n(vim.fault.NotFound) {\n}\n"\n}\n'
    faults.check(0, text, host="esx1", command="c")


@pytest.mark.parametrize(
    ("text", "fresh", "open_"),
    [
        ("Failed to login: Connection reset by peer", True, True),
        ("Failed to login: SSL Exception: The SSL handshake timed out local: 127.0.0.1:52713", True, True),
        ("Connect to localhost failed: Connection failure", True, True),
        ("Killed", False, True),
        ("terminate called after throwing an instance of 'std::bad_alloc'", False, True),
        ("<unset>", False, True),
        ("Power on failed", False, False),
    ],
)
def test_only_what_never_reached_the_host_may_be_repeated_blindly(text, fresh, open_):
    assert (faults.not_started(text), faults.unsure(text)) == (fresh, open_)
