# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class EsxiError(StowageError):
    """Root of what a host answers or refuses. Data always holds `host`, and `vm` where one is concerned."""

    id = "esxi"
    template = "{host}: {reason}"
    hint = ""
    exit_code = 30


class CommandFailed(EsxiError):
    id = "esxi-command-failed"
    template = "{host}: `{command}` failed with status {rc}: {output}"
    hint = "The text is the host's own; /var/log/hostd.log on the host says more."


class HostBusy(EsxiError):
    id = "esxi-host-busy"
    template = "{host}: hostd did not answer `{command}` in {tries} tries: {output}"
    hint = "The management agent is restarting or overloaded. Wait, or look at `/etc/init.d/hostd status` on the host."


class UnreadableOutput(EsxiError):
    id = "esxi-unreadable-output"
    template = "{host}: the answer of `{command}` cannot be read: {reason}"
    hint = "Keep the answer and report it: the command's output differs from every known release."


class ListCutShort(EsxiError):
    id = "esxi-list-cut-short"
    template = "{host}: vim-cmd vmsvc/getallvms leaves out {count} of the VMs that hostd's own {file} holds: {missing}"
    hint = (
        "Run it on the host: if it goes on leaving them out, restart the management agent (/etc/init.d/hostd restart) "
        "or unregister what is gone. Nothing is taken from a list that could miss VMs."
    )


class Fault(EsxiError):
    """A fault dump. `fault` is its type without the namespace."""

    id = "esxi-fault"
    template = "{host}: `{command}` was refused with {fault}: {output}"
    hint = "The text is the host's own."


class NotFoundFault(Fault):
    id = "esxi-not-found"
    hint = "The VM, snapshot or file was removed or re-registered meanwhile. Look again with stowage.esxi.esxi_vm_info."


class AlreadyExistsFault(Fault):
    id = "esxi-already-exists"
    hint = "The path is registered already, under the id named in the message."


class InvalidPowerStateFault(Fault):
    id = "esxi-invalid-power-state"
    hint = "The VM changed its power state meanwhile."


class ToolsUnavailableFault(Fault):
    id = "esxi-tools-unavailable"
    hint = "VMware Tools do not run in the guest. Start them, or allow a hard power-off with force=true."


class TaskInProgressFault(Fault):
    id = "esxi-task-in-progress"
    hint = "Another task works on this VM. Wait for it, or look at the host's recent tasks."


class VmNotFound(EsxiError):
    id = "esxi-vm-unknown"
    template = "{host}: no VM has the {by} {ref!r}"
    hint = "Names are compared exactly. This host has: {candidates}"


class VmAmbiguous(EsxiError):
    id = "esxi-vm-ambiguous"
    template = "{host}: {count} VMs have the {by} {ref!r}"
    hint = "Name one by its vmid: {candidates}"


class VmInvalid(EsxiError):
    id = "esxi-vm-invalid"
    template = "{host}: VM {vm!r} cannot be used: {reason}"
    hint = "Its files are not reachable. Check the datastore {datastore!r}."


class UnknownDatastore(EsxiError):
    id = "esxi-datastore-unknown"
    template = "{host}: there is no datastore named {datastore!r}"
    hint = "This host has: {candidates}"


class BadPath(EsxiError):
    id = "esxi-bad-path"
    template = "{host}: {path!r} is not a path on a datastore: {reason}"
    hint = "Write `[datastore] folder/file` or `/vmfs/volumes/datastore/folder/file`."


class FileNotReadable(EsxiError):
    id = "esxi-file-not-readable"
    template = "{host}: cannot read {path}: {reason}"
    hint = "Check that the file is there and its datastore is mounted."


class SnapshotNotFound(EsxiError):
    id = "esxi-snapshot-unknown"
    template = "{host}: VM {vm!r} has no snapshot {ref!r}"
    hint = "It has: {candidates}"


class SnapshotAmbiguous(EsxiError):
    id = "esxi-snapshot-ambiguous"
    template = "{host}: VM {vm!r} has {count} snapshots named {ref!r}, with the ids {ids}"
    hint = "Name the one you mean by its id."


class SnapshotFailed(EsxiError):
    id = "esxi-snapshot-failed"
    template = "{host}: no snapshot {name!r} of VM {vm!r} was made: {output}"
    hint = "{advice}"


class SnapshotLate(EsxiError):
    id = "esxi-snapshot-late"
    template = "{host}: the snapshot {name!r} of VM {vm!r} was not there after {seconds:g} seconds; {outcome}"
    hint = "{advice}"


class SnapshotNotRemoved(EsxiError):
    id = "esxi-snapshot-not-removed"
    template = "{host}: snapshot {snapshot} of VM {vm!r} is still there after {seconds:g} seconds: {output}"
    hint = "A removal goes on in the host even when nobody waits. Look again later, then remove it by its id."


class ConsolidationNeeded(EsxiError):
    id = "esxi-consolidation-needed"
    template = "{host}: VM {vm!r} needs consolidation: {reason}. Held by: {holders}"
    hint = (
        "End the reader that holds the disk, then consolidate the VM (Snapshots > Consolidate). The VM's data is whole."
    )


class RevertFailed(EsxiError):
    id = "esxi-revert-failed"
    template = "{host}: VM {vm!r} is not at snapshot {snapshot} after {seconds:g} seconds: {output}"
    hint = "Look at the VM's snapshots; nothing else was changed."


class PowerFailed(EsxiError):
    id = "esxi-power-failed"
    template = "{host}: VM {vm!r} is {state} and not {wanted} after {seconds:g} seconds: {output}"
    hint = "{advice}"


class QuestionPending(EsxiError):
    id = "esxi-question-pending"
    template = "{host}: VM {vm!r} waits for an answer ({operation}): {question}"
    hint = "Answer it on the host: vim-cmd vmsvc/message {vmid} {question_id} CHOICE, with one of: {choices}"


class WrongPowerState(EsxiError):
    id = "esxi-wrong-power-state"
    template = "{host}: VM {vm!r} is {state}: {operation} needs it {needed}"
    hint = "{advice}"


class NotAllowed(EsxiError):
    id = "esxi-not-allowed"
    template = "{host}: {operation} of VM {vm!r} was not allowed: {reason}"
    hint = "{advice}"


class NotRegistered(EsxiError):
    id = "esxi-not-registered"
    template = "{host}: {path} was not registered: {output}"
    hint = "{advice}"


class JournalFailed(EsxiError):
    id = "esxi-journal-failed"
    template = "{host}: the journal in {folder} cannot be {operation}: {output}"
    hint = "Nothing was changed after this. Check that the folder is there and its datastore has room."


class JournalLost(JournalFailed):
    id = "esxi-journal-lost"
    template = "{host}: the lock {folder} is not this job's any more: {output}"
    hint = "Another run or recover has taken the job over and undoes it. Look at that run's record, then start again."
