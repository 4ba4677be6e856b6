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


class WorkError(LinkError):
    """Family of works that a link starts. All end a command with the same code: the room has no more of its own."""

    id = "link-work-error"
    template = "The work on {target}: {reason}"
    exit_code = 89


class BadWork(WorkError):
    id = "link-work-bad-settings"
    template = "A work cannot be started so: {reason}"
    hint = "{way_out}"


class WorkNotLinked(WorkError):
    id = "link-work-not-linked"
    template = "The link {link!r} to {target} is not on this machine: {path} is not there"
    hint = (
        "Make it with stowage.esxi.link_server and a restriction of kind work; this task must run on the link's "
        "source, as the user that the key was made for"
    )


class WorkRefused(WorkError):
    id = "link-work-refused"
    template = "{target} does not do that for the key of {source}: {reason}"
    hint = "See the restriction of the link on that machine: which work it may start, and which variables it may set"


class WorkCut(WorkError):
    """Raised and caught inside: a link that is cut for a while ends nothing."""

    id = "link-work-cut"
    template = "{target} ({user}@{address}) gives no answer: {reason}"
    hint = "The work goes on. Ask for its status again"


class WorkUnreachable(WorkError):
    id = "link-work-unreachable"
    template = "{target} ({user}@{address}) cannot be asked: {reason}"
    hint = "What was started goes on there. Ask again with state=status and the id, when the link works"


class WorkBusy(WorkError):
    id = "link-work-busy"
    template = "{target} is at that work already: {id}, since {started}"
    hint = "Wait for it (state=finished with that id), take it as yours (if_running=join), or start later"


class WorkStillRunning(WorkError):
    id = "link-work-still-running"
    template = "The work {id} on {target} has not ended in {seconds:g} seconds"
    hint = "It goes on. Ask again with state=status, or state=finished to wait on, and its id"


class WorkFailed(WorkError):
    id = "link-work-failed"
    template = "The work {id} on {target} has failed (its playbook ended with {rc}): {last}"
    hint = "Its output says what failed; the record of the run is under that id on its backup server"


class WorkLost(WorkError):
    id = "link-work-lost"
    template = "The work {id} on {target} did not come to its end: {reason}"
    hint = "What it had begun is undone by recover there, at the latest by the next run. Start it again"
