# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Errors of the jobs room: one class for each way in which planning, locking, committing or undoing can fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class JobError(StowageError):
    id = "job-error"
    template = "{what}"
    hint = "Read the message; nothing of the VM was changed beyond what the report lists."
    exit_code = 50


class BadPolicy(JobError):
    id = "bad-policy"
    template = "The backup policy is not usable: {what}"
    hint = "Correct the named variable; the role's argument specification lists every key with its type and default."
    exit_code = 51


class BadQuery(JobError):
    id = "bad-query"
    template = "The JMESPath query {query!r} cannot be used: {reason}"
    hint = "Try the query on the output of esxi_vm_info; it must return VMs or their names."
    exit_code = 51


class NothingSelected(JobError):
    id = "nothing-selected"
    template = "No VM of {host} was selected by {select}; {count} VMs are registered there"
    hint = (
        "Say in backup_select which VMs are meant, for example [running], and look at backup_exclude; or set "
        "backup_allow_none to true where a host may have nothing to back up."
    )
    exit_code = 52


class UnknownVm(JobError):
    id = "unknown-vm"
    template = "No VM named {vm!r} is registered on {host}"
    hint = "Names are compared exactly, capitals included. Did you mean: {near}? Or set backup_unknown_names to ignore."
    exit_code = 53


class AmbiguousVm(JobError):
    id = "ambiguous-vm"
    template = "{count} VMs on {host} match {vm!r}: {candidates}"
    hint = "Give each VM an identity of its own (a fresh UUID), or select by UUID, or rename one of them."
    exit_code = 53


class DiskCannotBeCopied(JobError):
    id = "disk-cannot-be-copied"
    template = "Disk {disk} of VM {vm!r} cannot be copied: {reason}"
    hint = "Repair the cause, or leave the disk out on purpose with disks.exclude for this VM."
    exit_code = 54


class NoSuchDisk(JobError):
    id = "no-such-disk"
    template = "VM {vm!r} has no disk {disk} (named in disks.{option}); it has: {present}"
    hint = "Use the device keys that esxi_vm_info shows, such as scsi0:0."
    exit_code = 54


class NoDiskToCopy(JobError):
    id = "no-disk-to-copy"
    template = "VM {vm!r} has no disk to copy: {why}"
    hint = "Exclude the VM from the selection, or change what is left out."
    exit_code = 54


class HowNotPossible(JobError):
    id = "how-not-possible"
    template = "VM {vm!r} cannot be backed up {how}: {reason}"
    hint = "Set how to {instead} for this VM."
    exit_code = 55


class PendingQuestion(JobError):
    id = "pending-question"
    template = "VM {vm!r} waits for an answer on {host}: {question}"
    hint = "Answer it in the host client; Stowage never answers a question by itself."
    exit_code = 55


class NoRoom(JobError):
    id = "no-room"
    template = "VM {vm!r} needs {needed} on {where}, but {free} are free and {reserve} stay in reserve"
    hint = "Free some room, shorten what is kept there, or choose another backup point."
    exit_code = 56


class TargetMissing(JobError):
    id = "target-missing"
    template = "The backup point {point} is not on any mounted datastore of {host}"
    hint = "Mount the datastore, or correct the path; backup points look like /vmfs/volumes/<datastore>/<folder>."
    exit_code = 56


class VmLocked(JobError):
    id = "vm-locked"
    template = "VM {vm!r} is in the hands of job {job} of {owner} (last sign of life {age} s ago); left alone"
    hint = "Wait for that job to end. If it is dead, the recover playbook takes over after {lease} s without a sign."
    exit_code = 57


class LockLost(JobError):
    id = "lock-lost"
    template = "Job {job} no longer holds the lock of VM {vm!r}: {reason}"
    hint = "Another controller took the VM over. Nothing more was done to it by this run; see its record."
    exit_code = 57


class JobAltered(JobError):
    id = "job-altered"
    template = "The job file of {job} on the hypervisor of VM {vm!r} is not what was written when it began: {reason}"
    hint = (
        "Nothing was done by what it says now. Whoever has changed it can do anything on that host: look at it, run"
        " recover, and the backup again."
    )
    exit_code = 57


class VmGone(JobError):
    id = "vm-gone"
    template = "VM {vm!r} ({identity}) is no longer registered on {host}"
    hint = "It was moved or removed. Run recover on every host that can see its datastore."
    exit_code = 57


class VmChanged(JobError):
    id = "vm-changed"
    template = "VM {vm!r} is not what was planned: {reason}"
    hint = "Run the backup again; a new plan is made from what is there now."
    exit_code = 57


class BootUnknown(JobError):
    id = "boot-unknown"
    template = "VM {vm!r} would have to be stopped, but its start cannot be told apart from a later one: {reason}"
    hint = "Use backup how hot, or repair access to the VM's vmware.log."
    exit_code = 55


class HookFailed(JobError):
    id = "hook-failed"
    template = "The hook {hook} failed for VM {vm!r}: {reason}"
    hint = (
        "Look at the task of the hook (backup_hooks). A machine whose pre_vm fails is not begun; after a later one's"
        " failure what was made stays, and the machine counts as failed."
    )
    exit_code = 59


class WindowClosed(JobError):
    id = "window-closed"
    template = "VM {vm!r} was not begun: {reason}"
    hint = (
        "It is missed, and comes before others in the next run; the window opens again at {opens}. Begin earlier, make"
        " the window (backup_windows) or the limits wider, or run what has no fresh restore point with"
        " backup_only_older_than_hours."
    )
    exit_code = 55


class NotStill(JobError):
    id = "source-not-still"
    template = "The disks of VM {vm!r} did not hold still while they were copied: {reason}"
    hint = "No restore point was made. Find out who changed the VM, then run the backup again."
    exit_code = 58


class NotReadable(JobError):
    id = "copy-not-readable"
    template = "The copy of disk {disk} of VM {vm!r} cannot be used: {reason}"
    hint = "No restore point was made. Check the health and the room of the target datastore, then run again."
    exit_code = 58


class ConfigNotCopied(JobError):
    id = "config-not-copied"
    template = "The configuration file {path} of VM {vm!r} could not be copied to {target}: {reason}"
    hint = "Check that both datastores are mounted and writable."
    exit_code = 58


class BadConfigFile(JobError):
    id = "config-file-unfit"
    template = "The configuration file {file} of VM {vm!r} cannot be kept in a restore point: {reason}"
    hint = (
        "Look into the VM's folder on the host and at the lines nvram and extendedConfigFile of its .vmx; rename the"
        " file there while the VM is off, or move out what is not its own."
    )
    exit_code = 58


class PointExists(JobError):
    id = "point-exists"
    template = "The restore point {path} is already there"
    hint = "Two runs of the same second cannot share a name; run again."
    exit_code = 58


class RemoteStepFailed(JobError):
    id = "remote-step-failed"
    template = "{what} failed on the hypervisor (exit code {rc}): {stderr}"
    hint = "The text above is the host's own; check the datastore's state and rights."
    exit_code = 59


class UndoIncomplete(JobError):
    id = "undo-incomplete"
    template = "Job {job} on VM {vm!r} could not be undone completely: {left}"
    hint = "The job folder {folder} was kept; run the recover playbook, which tries again from the journal."
    exit_code = 59


class RecoverIncomplete(JobError):
    id = "recover-incomplete"
    template = "{count} interrupted job(s) on {host} could not be recovered: {vms}"
    hint = "Read the jobs in the result; each says what was done and what is left."
    exit_code = 59


class NoRestorePoint(JobError):
    id = "no-restore-point"
    template = "No restore point {wanted} was found under {point}"
    hint = "{found}"
    exit_code = 53


class AmbiguousRestorePoint(JobError):
    id = "ambiguous-restore-point"
    template = "{wanted!r} names {count} different VMs under {point}: {candidates}"
    hint = (
        "Give the UUID of the VM in restore_vm, its hypervisor in restore_made_by, or the folder of one restore point "
        "in restore_point."
    )
    exit_code = 53


class BadManifest(JobError):
    id = "bad-manifest"
    template = "{path} is not a restore point of ours: {reason}"
    hint = "Choose another restore point; this one is neither used nor touched."
    exit_code = 53


class RestoreRefused(JobError):
    id = "restore-refused"
    template = "The restore of {vm!r} was refused: {reasons}"
    hint = "{ways_out}"
    exit_code = 55
    # The plan that stands all the same, for whoever shows or records it; no part of the data.
    plan: Mapping[str, Any] | None = None


class BadRestoreRequest(JobError):
    id = "bad-restore-request"
    template = "The restore cannot be planned: {what}"
    hint = "{way_out}"
    exit_code = 51


class VmUnusable(JobError):
    id = "vm-unusable"
    template = "VM {vm!r} cannot be used on {host}: {reason}"
    hint = "Make its datastore available, or repair or unregister the VM."
    exit_code = 53


class StateNotKept(JobError):
    id = "state-not-kept"
    template = "On the machine where this module runs {path} cannot be used: {reason}"
    hint = (
        "Let the user of the task read and write that folder (or use become for the backup server), or name another in "
        "backup_state_dir, restore_state_dir and recover_state_dir."
    )
    exit_code = 50


class TargetNotMade(JobError):
    id = "target-not-made"
    template = "The folder {path} for the restored VM could not be made: {reason}"
    hint = "Choose another restore_directory or restore_name; an existing folder is never used."
    exit_code = 55


class NotInStore(JobError):
    id = "not-in-store"
    template = "There is no restore point of VM {vm!r} in the store {store}: {reason}"
    hint = "See the task that failed before this one, and run the backup again."
    exit_code = 55


class StoreNotGiven(JobError):
    id = "store-not-given"
    template = "The store {store} was not to be opened here"
    hint = "Look into it with stowage.esxi.dedup_store_info on the backup server."
    exit_code = 51


class StoreEncryptedThere(JobError):
    id = "store-encrypted-there"
    template = "The store {store} cannot be encrypted: it lies on a hypervisor, which packs the chunks itself"
    hint = (
        "Leave the passphrase away for a store on a datastore (backup_store_passphrase; an encrypted one that is there "
        "must be made anew), or keep the store on the backup server, where it can be encrypted."
    )
    exit_code = 51


class StoreNotForHosts(JobError):
    id = "store-not-sha256"
    template = "The store {store} names its chunks by {hash}, which no hypervisor can compute"
    hint = "Make a store with the hash sha256 for backups of hypervisors (stowage.esxi.dedup_store), and use that."
    exit_code = 51


class ReferenceNotKept(JobError):
    id = "reference-not-kept"
    template = "Snapshot {snapshot} of VM {vm!r} is not kept as the reference of the next backup: {reason}"
    hint = "The next backup hashes all of the VM's disks. The restore point of this one is there and whole."
    exit_code = 59


class ReferenceStays(JobError):
    id = "reference-stays"
    template = "The reference snapshot of VM {vm!r}, which has to go, was left alone: {reason}"
    hint = "The next recover tries again; or remove the snapshot in the host client, and nothing is lost but time."
    exit_code = 59


class NoVmToRestore(JobError):
    id = "no-vm-to-restore"
    template = (
        "There is not exactly one usable VM {wanted} on {host} that {vm!r} could be restored to in place: {found}"
    )
    hint = (
        "Name it in restore_name or restore_directory, or leave restore_in_place out, and the VM comes back beside "
        "what is there."
    )
    exit_code = 53


class NotAtRest(JobError):
    id = "target-not-at-rest"
    template = "VM {vm!r} on {host} cannot be written over: {reason}"
    hint = "{way_out}"
    exit_code = 57


class NoReplica(JobError):
    id = "no-replica"
    template = "{host} has no replica of VM {vm!r}"
    hint = "Make one with the replicate playbook, or correct replicate_vms or replicate_target."
    exit_code = 53


class ReplicaTouched(JobError):
    id = "replica-touched"
    template = "The replica of VM {vm!r} on {host} is not as the last run has left it: {reason}"
    hint = "{way_out}"
    exit_code = 57


class VmTorn(JobError):
    id = "vm-torn"
    template = (
        "VM {vm!r} on {host} is torn: the restore in place of {restore_point}, begun at {began_at} from the backup "
        "server {backup_server}, was not finished, and its disks hold neither what they held nor what they were to hold"
    )
    hint = (
        "Run the recover playbook there, which finishes it, or restore the VM in place again. Until then it is neither "
        "started nor backed up.{back}"
    )
    exit_code = 57


class PointDamaged(JobError):
    id = "restore-point-damaged"
    template = "The restore point {path} of VM {vm!r} is damaged: {reason}{more}"
    hint = (
        "Do not count on it. Back the VM up now, look at the disk below the backup point, and heal a store from a "
        "second one (stowage.esxi.dedup_store, state repaired)."
    )
    exit_code = 58


class NothingToVerify(JobError):
    id = "nothing-to-verify"
    template = "There is no restore point of {who} in {place}: nothing was proven"
    hint = "Correct verify_point or verify_program, or set verify_allow_none to true where there may be none."
    exit_code = 52
