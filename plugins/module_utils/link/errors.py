# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with a link, each with its way out."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class LinkError(StowageError):
    """Family of the room. Data: ``source`` and ``target``, the two machines' names, wherever both are known."""

    id = "link-error"
    template = "The link from {source} to {target}: {reason}"
    hint = ""
    exit_code = 80


class BadLink(LinkError):
    id = "link-bad-settings"
    template = "The link {name!r} cannot be made so: {reason}"
    hint = "{way_out}"
    exit_code = 81


class UnfitMachine(LinkError):
    id = "link-unfit-machine"
    template = "{host} cannot take part in a link: {reason}"
    hint = "{way_out}"
    exit_code = 82


class SshClosed(LinkError):
    id = "link-ssh-closed"
    template = "{host} port {port} cannot be reached by SSH: {reason}"
    hint = (
        "Where this is an ESXi host, SSH may be closed there. Open it in its Host Client (Manage > Services > "
        "TSM-SSH > Start, and Policy > Start and stop with host), or at its console (Troubleshooting Options > Enable "
        "SSH), and see that its firewall rule set sshServer lets this machine's address in"
    )
    exit_code = 83


class KeyNotMade(LinkError):
    id = "link-key-not-made"
    template = "No key was made on {host}: {reason}"
    hint = "{way_out}"
    exit_code = 84


class KeysFileChanged(LinkError):
    id = "link-keys-file-busy"
    template = "{path} on {host} was changed by others each time that it was about to be written ({tries} tries)"
    hint = "Nothing was written. See what else edits that file, then run again"
    exit_code = 85


class KeysFileNotWritten(LinkError):
    id = "link-keys-file-not-written"
    template = "{path} on {host} cannot be written: {reason}"
    hint = "The file is as it was. Check its folder, its owner and the room of its file system"
    exit_code = 86


class NotSaved(LinkError):
    id = "link-not-saved"
    template = "{host} did not save its configuration, so the change would be gone after its next reboot: {reason}"
    hint = "Run /sbin/auto-backup.sh on that host and see what it says; then run this again"
    exit_code = 87


class LinkDoesNotWork(LinkError):
    id = "link-does-not-work"
    template = "{source} cannot use its key for {user}@{address} port {port} ({target}): {reason}"
    hint = "{way_out}"
    exit_code = 88
