# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong with the files of a disk. What only controls hosts carries none of it: so not in `errors`."""

from __future__ import annotations

import errno

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.errors import VmdkError


class ExtentUnusable(VmdkError):
    id = "vmdk-extent-unusable"
    template = "{path} cannot be read as a part of a disk: {reason}"
    hint = "Copy the disk again, with all its files, while nothing has it open."
    exit_code = 27


class ExtentBusy(ExtentUnusable):
    id = "vmdk-extent-busy"
    hint = (
        "A VM that runs holds its top, and on some hosts what lies below it, too. Read what lies below a snapshot, or "
        "a clone of it."
    )


class PathOutside(VmdkError):
    id = "vmdk-path-outside"
    template = "The disk {path} names {named}, which is outside its folder"
    hint = "Nothing was read there. Name that folder as allowed if you trust this disk, or put its files together."
    exit_code = 28


def unusable(path: str, error: OSError) -> ExtentUnusable:
    kind = ExtentBusy if error.errno == errno.EBUSY else ExtentUnusable
    return kind(path=path, reason=error.strerror or str(error))
