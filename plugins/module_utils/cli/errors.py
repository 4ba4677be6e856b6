# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line itself can refuse, and the exit codes of all that it does."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError

OK, FAILED, USAGE, DAMAGE, INTERRUPTED = 0, 1, 2, 3, 130


class Usage(StowageError):
    id = "cli-usage"
    template = "{reason}"
    hint = "See: {program} --help"
    exit_code = USAGE


class LibrariesMissing(StowageError):
    id = "cli-libraries-missing"
    template = "This program needs the Python libraries {names}, which {python} does not have"
    hint = "Install them: {python} -m pip install {names}. Without them reader.py, which lies in every store, restores."
    exit_code = 4


class NotReadable(StowageError):
    id = "cli-not-readable"
    template = "{path} could not be read: {reason}"
    hint = "Give the path of a file that can be read here."
    exit_code = FAILED


class Interrupted(StowageError):
    id = "cli-interrupted"
    template = "interrupted; what was not committed is given up"
    hint = "Run it again; nothing of it has to be cleared away by hand."
    exit_code = INTERRUPTED


class OutputFailed(StowageError):
    id = "cli-output-failed"
    template = "The result could not be written to standard output: {reason}"
    hint = "The work itself is done. Look at the room where standard output goes."
    exit_code = FAILED


class MountFailed(StowageError):
    id = "cli-mount-failed"
    template = "{path} could not be used as a mount point: {reason}"
    hint = "It must be an empty folder; /dev/fuse and libfuse are needed, and the right to mount."
    exit_code = 5


def exit_code(error: StowageError) -> int:
    """2 and 3 have a meaning of their own here, which the rooms below know nothing of."""
    return FAILED if error.exit_code in (USAGE, DAMAGE) and not isinstance(error, Usage) else error.exit_code
