# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with the disks of a host, besides their links."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import TransferError


class GaveUp(TransferError):
    id = "transfer-gave-up"
    template = "{host} was lost {count} times in a row, and nothing was carried in between: {reason}"
    hint = (
        "Look at the network between the backup server and the host. Run it again: what has arrived is not sent again"
    )
    exit_code = 73


class FileChanged(TransferError):
    id = "transfer-file-changed"
    template = "{path} on {host} is not what it was when its reading began: {was} then, {now} now"
    hint = "Somebody writes to it. Read a snapshot's parent, or a VM that is off"
    exit_code = 79


class NotInFiles(TransferError):
    id = "transfer-packed-extent"
    template = "{path} on {host} holds a compressed disk, which cannot be read piece by piece on the host"
    hint = "Make a disk of it first: vmkfstools -i {path} -d thin"
    exit_code = 79


class WritesLost(TransferError):
    id = "transfer-writes-lost"
    template = "{path} on {host} does not hold what was written to byte {offset}, and the host had taken it"
    hint = "The host went down meanwhile. Begin again: with in_place only what is missing is written"
    exit_code = 79
