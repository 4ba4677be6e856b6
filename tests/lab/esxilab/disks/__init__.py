# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real VMDK files: descriptors; flat, vmfsSparse, seSparse and hosted sparse extents; chains; operations on disks."""

from __future__ import annotations

from .chain import Link, VirtualDisk, open_chain, read_chain
from .descriptor import Descriptor, ExtentLine, parse_descriptor, read_descriptor
from .errors import (
    DiskError,
    DiskFull,
    FileExists,
    FileLocked,
    FileMissing,
    InputOutputError,
    InvalidArgument,
    NotADisk,
    ParentModified,
)
from .ops import (
    FORMATS,
    check_chain,
    clone,
    create_change_track,
    create_delta,
    create_disk,
    create_rdm,
    delete,
    files_of,
    grow,
    inflate,
    merge_delta,
    punch_zero,
    rename,
    reparent,
    stem_of,
)

__all__ = [
    "FORMATS",
    "Descriptor",
    "DiskError",
    "DiskFull",
    "ExtentLine",
    "FileExists",
    "FileLocked",
    "FileMissing",
    "InputOutputError",
    "InvalidArgument",
    "Link",
    "NotADisk",
    "ParentModified",
    "VirtualDisk",
    "check_chain",
    "clone",
    "create_change_track",
    "create_delta",
    "create_disk",
    "create_rdm",
    "delete",
    "files_of",
    "grow",
    "inflate",
    "merge_delta",
    "open_chain",
    "parse_descriptor",
    "punch_zero",
    "read_chain",
    "read_descriptor",
    "rename",
    "reparent",
    "stem_of",
]
