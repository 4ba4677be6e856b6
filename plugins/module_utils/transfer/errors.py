# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between the backup server and the files of a hypervisor."""

from __future__ import annotations

import errno

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class TransferError(StowageError):
    """Family of the room. Data: ``host`` and ``reason`` always."""

    id = "transfer-error"
    template = "The transfer with {host} failed: {reason}"
    hint = "Run it again: what has arrived is not sent a second time"
    exit_code = 70


class NoWay(TransferError):
    id = "transfer-no-way"
    template = "{host} lets its files be read in no way that is known here: {reason}"
    hint = "Let the method be chosen (method: auto), or use another program than dedup for this host"
    exit_code = 71


class AgentNotStarted(TransferError):
    id = "transfer-agent-not-started"
    template = "On {host} the reader of the disks could not be started with {interpreter}: {reason}"
    hint = "Try that interpreter by hand on the host; with the method shell, the host's plain commands are used instead"
    exit_code = 72


class AgentLost(TransferError):
    id = "transfer-agent-lost"
    template = "The reader of the disks on {host} is gone: {reason}"
    hint = "Run it again: what has arrived is not sent a second time. Look in the host's logs for why its process ended"
    exit_code = 73


class AgentSilent(TransferError):
    id = "transfer-agent-silent"
    template = "Nothing came from {host} for {seconds:g} seconds while an answer was owed ({what})"
    hint = "Look at the host's network and at its storage (esxcli storage core path list): a read there may hang"
    exit_code = 74


class AgentLies(TransferError):
    id = "transfer-protocol"
    template = "{host} answered what cannot be: {reason}"
    hint = (
        "Something between here and there changes the stream, or the host is not what it should be. Nothing of what it "
        "sent was used"
    )
    exit_code = 75


class FileRefused(TransferError):
    """An answer about one file: ``path``, ``done`` (read, opened, …), ``errno``, ``name``, ``reason``."""

    id = "transfer-file-refused"
    template = "{path} on {host} cannot be {done}: {reason} ({name})"
    hint = ""
    exit_code = 76

    @property
    def errno(self) -> int:
        return int(self.data.get("errno") or 0)

    @property
    def busy(self) -> bool:
        """Somebody has the file locked: it may be had through a clone."""
        return self.errno in (errno.EBUSY, errno.EACCES, errno.EPERM, errno.ETXTBSY, errno.EAGAIN)


class OutOfOrder(TransferError):
    id = "transfer-out-of-order"
    template = "{reason}, which would need more than {window} bytes of memory ({host})"
    hint = "This is a defect of the collection: please report it"
    exit_code = 77


class AgentStays(TransferError):
    id = "transfer-agent-stays"
    template = "The reader of the disks on {host} (process {pid}) has not ended after {seconds:g} seconds"
    hint = (
        "It may hold a disk open, and a snapshot cannot be consolidated meanwhile. End it on the host: kill -9 {pid}, "
        "after a look with ps -c that it is still named {token}"
    )
    exit_code = 78
