# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The failures of the disk library, with the code and the wording of ESXi's own."""

from __future__ import annotations

import errno


class DiskError(Exception):
    """One failure: `code` and `text` are what vmkfstools prints as `text (code).`"""

    code = 1
    text = "Error"

    def __init__(self, path: str, detail: str = "") -> None:
        self.path = path
        self.detail = detail
        super().__init__(f"{path}: {self.text} ({self.code})" + (f": {detail}" if detail else ""))

    @property
    def vmware_text(self) -> str:
        """The sentence as vmkfstools ends its lines with."""
        return f"{self.text} ({self.code})."


class DiskFull(DiskError):
    code = 13
    text = "There is not enough space on the file system for the selected operation"


class NotADisk(DiskError):
    code = 15
    text = "The file specified is not a virtual disk"


class ParentModified(DiskError):
    code = 18
    text = (
        "The parent virtual disk has been modified since the child was created. The content ID of the parent virtual "
        "disk does not match the corresponding parent content ID in the child"
    )
    short_text = "The parent virtual disk has been modified since the child was created"


class FileMissing(DiskError):
    code = 25
    text = "The system cannot find the file specified"


class FileExists(DiskError):
    code = 39
    text = "The file already exists"


class FileLocked(DiskError):
    code = 16392
    text = "Failed to lock the file"


class InputOutputError(DiskError):
    code = 327689
    text = "Input/output error"


class InvalidArgument(DiskError):
    code = 1441794
    text = "Invalid argument"


_BY_ERRNO = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.ENOENT: FileMissing,
    errno.EEXIST: FileExists,
    errno.EBUSY: FileLocked,
    # Kernels that refuse a deny errno make the lock answer EPERM instead of EBUSY.
    errno.EPERM: FileLocked,
    errno.EINVAL: InvalidArgument,
}


def from_os_error(error: OSError, path: str) -> DiskError:
    """The disk library's error for what the kernel answered."""
    kind = _BY_ERRNO.get(error.errno or 0, InputOutputError)
    return kind(path, error.strerror or str(error))
