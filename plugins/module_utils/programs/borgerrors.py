# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can keep borg from doing what it is asked for."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import ProgramError


class BorgFailed(ProgramError):
    id = "borg-failed"
    template = "borg {action} in the repository {repository} failed (status {rc}): {output}"
    hint = (
        "The words above are borg's own. Try the same by hand, as the same user of the machine where this module runs"
    )
    exit_code = 45


class BorgMissing(BorgFailed):
    id = "borg-missing"
    template = "The program borg cannot be used on the machine where this module runs: {reason}"
    hint = (
        "Install borg 1.2 or later there (the package borgbackup of Debian and Ubuntu), or name its path in "
        "backup_store_borg_path and restore_store_borg_path"
    )
    exit_code = 43


class NoRepository(BorgFailed):
    id = "borg-no-repository"
    template = "There is no borg repository at {repository}: {output}"
    hint = (
        "Make it with stowage.esxi.borg_repository or backup_store_create, or correct backup_point; one that is "
        "reached by ssh needs a key without a passphrase, and the host key in known_hosts (backup_store_borg_rsh)"
    )
    exit_code = 43


class RepositoryLocked(BorgFailed):
    id = "borg-locked"
    template = "The borg repository {repository} is in use by somebody else: {output}"
    hint = (
        "borg lets one writer in at a time: wait for it, or spread the VMs over several repositories (point in "
        "backup_vms). borg break-lock is for a lock whose owner is dead, on another machine"
    )
    exit_code = 46


class WrongPassphrase(BorgFailed):
    id = "borg-wrong-passphrase"
    template = "The borg repository {repository} does not open with the passphrase that was given: {output}"
    hint = "Correct backup_store_passphrase or restore_store_passphrase"
    exit_code = 43


class ArchiveNotWhole(BorgFailed):
    id = "borg-archive-not-whole"
    template = "The archive {archive} in the borg repository {repository} does not hold what was sent: {reason}"
    hint = "No restore point was made. Run borg check on the repository, then back up again"
    exit_code = 45


class RepositoryDamaged(BorgFailed):
    id = "borg-repository-damaged"
    template = "borg has found the repository {repository} damaged: {output}"
    hint = (
        "It does not say which archives that hits: count on none of them. Look at the disk below it, copy the"
        " repository, then run borg check --repair on it; the next backups bring back what the hypervisors still have"
    )
    exit_code = 45
