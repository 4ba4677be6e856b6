# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rsync, or the machine that it runs on, may say."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import ProgramError


class RsyncMissing(ProgramError):
    id = "rsync-missing"
    template = "The program rsync cannot be used ({where}): {reason}"
    hint = (
        "Install rsync 3.1.3 or later on the backup server and on the server that the backups go to. On a hypervisor "
        "it is not needed: leave backup_rsync_path out, and all that the disks hold is read over SSH"
    )
    exit_code = 43


class RsyncFailed(ProgramError):
    id = "rsync-failed"
    template = "rsync could not copy {source} to {target} (status {rc}): {output}"
    hint = (
        "The words above are rsync's own. What has arrived stays as a half copy, and the next backup of the same "
        "machine goes on with it"
    )
    exit_code = 45


class RsyncDiffers(ProgramError):
    id = "rsync-differs"
    template = "The copy {target} is not what {source} holds, both read again from begin to end: {reason}"
    hint = "No restore point was made. Look at the health of disks and memory of both machines, then back up again"
    exit_code = 45
