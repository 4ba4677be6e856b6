# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outputs of `vmkfstools -i` as published in forum threads and issue reports of ESXi 5.x to 8.0."""

from __future__ import annotations

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs.parse_vmkfstools import chain_verdict, parse_clone

HEAD = "Destination disk format: VMFS thin-provisioned\nCloning disk '/vmfs/volumes/m/a.vmdk'...\n"
FULL = "Failed to clone disk: There is not enough space on the file system for the selected operation (13).\n"
LOCKED = "Failed to open '/vmfs/volumes/datastore1/XXXX.vmdk': Failed to lock the file (16392).\n"


@pytest.mark.parametrize(
    ("text", "percent", "done"),
    [
        ("", 0, False),
        (HEAD, 0, False),
        (HEAD + "\rClone: 0% done.\rClone: 1% done.\rClone: 37% done.", 37, False),
        (HEAD + "\rClone: 99% done.\rClone: 100% done.\n", 100, True),
        # Cut in the middle of a number: the last whole report counts.
        (HEAD + "\rClone: 37% done.\rClone: 38", 37, False),
        (HEAD + "Clone: 100% done.\r\n", 100, True),
    ],
)
def test_the_last_report_is_the_progress(text, percent, done):
    log = parse_clone(text)
    assert (log.percent, log.done) == (percent, done)
    assert log.message in ("", "Clone: 38")


@pytest.mark.parametrize(
    "text",
    [FULL + HEAD + "\rClone: 12% done.", HEAD + "\rClone: 12% done.\n" + FULL, HEAD + "\rClone: 12% done." + FULL],
)
def test_the_error_is_found_before_and_behind_the_heading(text):
    log = parse_clone(text)
    assert log.message == FULL.strip()
    assert (log.code, log.percent, log.done) == (13, 12, False)
    assert "Make room" in log.way_out


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        (LOCKED, 16392, "holds the disk open"),
        ("DiskLib_Check() failed for source disk The system cannot find the file specified (25).\n", 25, "missing"),
        (
            "DiskLib_Check() failed for source disk The file specified is not a virtual disk (15).",
            15,
            "no virtual disk",
        ),
        ("Failed to clone disk: Input/output error (327689).", 327689, "storage"),
        ("Failed to clone disk: Something new (4711).", 4711, "host's own"),
        ("Extra arguments at the end of the command line.", None, "host's own"),
    ],
)
def test_the_code_leads_to_the_way_out(text, code, word):
    log = parse_clone(text)
    assert log.code == code
    assert word in log.way_out


def test_a_path_that_looks_like_progress_is_not_progress():
    log = parse_clone(
        "Destination disk format: VMFS thin-provisioned\nCloning disk '/vmfs/volumes/m/Clone: 100% done.'...\n"
    )
    assert log.done is False


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Disk chain is consistent.\n", True),
        ("Disk chain is not consistent : The parent virtual disk has been modified (18)", False),
        ("Failed to open disk link /vmfs/x.vmdk: The parent virtual disk has been modified (18)", False),
        ("vmkfstools: unrecognized option: e\n", None),
        ("", None),
    ],
)
def test_only_a_clear_answer_about_the_chain_counts(text, verdict):
    assert chain_verdict(text) is verdict
