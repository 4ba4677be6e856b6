# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can keep a program from moving the bytes."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class ProgramError(StowageError):
    """Family of the room. Data: ``host`` always, ``source`` and ``target`` where one disk or file is meant."""

    id = "program-error"
    template = "{host}: the copy failed: {reason}"
    hint = ""
    exit_code = 40

    @property
    def message(self) -> str:
        left = self.data.get("left")
        return f"{super().message}. Left behind: {left}" if left else super().message


class TargetExists(ProgramError):
    id = "copy-target-exists"
    template = "{host}: {target} is there already, and nothing is ever overwritten"
    hint = "Choose another destination, or remove it yourself if it is not needed any more"
    exit_code = 41


class HostKeepsNoStore(ProgramError):
    id = "store-host-unfit"
    template = "{host} cannot keep the store {store}: {reason}"
    hint = (
        "Put the store on the backup server or into a bucket: from there a hypervisor without a Python 3 is read by "
        "its plain commands. On a datastore it is a folder, such as /vmfs/volumes/backup/stowage"
    )
    exit_code = 41


class BadDestination(ProgramError):
    id = "copy-bad-destination"
    template = "{host}: the destination {dest} cannot be used: {reason}"
    hint = "{way_out}"
    exit_code = 41


class SourceRuns(ProgramError):
    id = "copy-source-runs"
    template = "{host}: VM {vm!r} is {state}, and its disks change while they are copied"
    hint = (
        "Take a snapshot (stowage.esxi.esxi_snapshot) and name it in snapshot_id, or power the VM off first "
        "(stowage.esxi.esxi_vm_power)"
    )
    exit_code = 42


class SourceLocked(ProgramError):
    id = "copy-source-locked"
    template = "{host}: {source} belongs to VM {vm!r}, which is {state}, and changes while it is copied"
    hint = "Power that VM off, or copy it by vm and snapshot_id"
    exit_code = 42


class BadSource(ProgramError):
    id = "copy-bad-source"
    template = "{host}: {source} cannot be copied: {reason}"
    hint = "Name the descriptor of a disk: the small .vmdk without -flat, -delta, -sesparse or -s001 in its name"
    exit_code = 42


class NoSuchDisk(ProgramError):
    id = "copy-no-such-disk"
    template = "{host}: VM {vm!r} has no disk {keys} {where}"
    hint = "It has: {candidates}"
    exit_code = 42


class DiskNotCopyable(ProgramError):
    id = "copy-disk-not-copyable"
    template = "{host}: disk {key} of VM {vm!r} cannot be copied: {reason}"
    hint = "{way_out}"
    exit_code = 42


class NotSupported(ProgramError):
    id = "copy-not-supported"
    template = "The program {program} cannot do this: {reason}"
    hint = "{way_out}"
    exit_code = 43


class NotEnoughRoom(ProgramError):
    id = "copy-no-room"
    template = (
        "{host}: datastore {datastore!r} has {free} free; the copy needs {needed}, and {reserve} of it stay in reserve"
    )
    hint = "Make room, choose another datastore or disk_format=thin, or lower reserve_percent"
    exit_code = 44


class CloneFailed(ProgramError):
    id = "copy-clone-failed"
    template = "{host}: vmkfstools could not copy {source} to {target} (status {rc}, at {percent} %): {output}"
    hint = "{way_out}"
    exit_code = 45


class CloneIncomplete(ProgramError):
    id = "copy-clone-incomplete"
    template = "{host}: the copy of {source} to {target} is not complete: {reason}"
    hint = "vmkfstools said: {output}. Look at /var/log/vmkernel.log on the host"
    exit_code = 45


class CopyDiffers(ProgramError):
    id = "copy-differs"
    template = "{host}: the copy {target} differs from its source {source}: {reason}"
    hint = (
        "vmkfstools had said that it was whole; the copy was removed. Look at /var/log/vmkernel.log on the host and at "
        "the health of both datastores, then copy again"
    )
    exit_code = 45


class CloneStalled(ProgramError):
    id = "copy-clone-stalled"
    template = (
        "{host}: the copy of {source} to {target} stands still at {percent} %: for {seconds} s neither the percent nor "
        "the extents of the target have changed. It was ended"
    )
    hint = (
        "Look at /var/log/vmkernel.log on the host for a path or a datastore that does not answer; storage that is "
        "only slow needs a higher backup_copy_stall_timeout (stall_timeout of stowage.esxi.vmdk_copy)"
    )
    exit_code = 45


class FileCopyFailed(ProgramError):
    id = "copy-file-failed"
    template = "{host}: {source} could not be copied to {target} (status {rc}): {output}"
    hint = "The text is the host's own"
    exit_code = 45


class NotStarted(ProgramError):
    id = "copy-not-started"
    template = "{host}: the copy to {target} could not be started: {reason}"
    hint = "Nothing was copied. Check that the destination's datastore is mounted, writable and not full"
    exit_code = 46


class HostGaveUp(ProgramError):
    id = "copy-host-gave-up"
    template = (
        "{host}: the host ended the copy by itself and removed it, since nothing was heard from here for {window} s"
    )
    hint = "Look at the connection between this machine and the host, then copy again"
    exit_code = 46


class ConnectionGone(ProgramError):
    id = "copy-connection-gone"
    template = "{host}: the connection broke during the copy and did not come back within {window} s: {reason}"
    hint = "The host ends the copy and removes what it has written by itself, {window} s after the break"
    exit_code = 46


class WatchdogDied(ProgramError):
    id = "copy-watchdog-died"
    template = "{host}: the process that watches the copy on the host was ended by something else"
    hint = (
        "The copy was ended and removed. If the host has not rebooted meanwhile, look in /var/log/vmkernel.log for the"
        " memory limit of SSH processes"
    )
    exit_code = 46


class CallerGone(ProgramError):
    id = "copy-caller-gone"
    template = "The copy was ended: {reason}"
    hint = "Nothing of it was left. Start it again when the controller is back"
    exit_code = 47


class ModuleNotLoaded(ProgramError):
    id = "copy-multiextent-missing"
    template = "{host}: disk format 2gbsparse needs the kernel module multiextent, which could not be loaded: {output}"
    hint = "Choose another disk_format, or load it by hand: esxcli system module load -m multiextent"
    exit_code = 43


class NothingMoves(ProgramError):
    id = "copy-nothing-moves"
    template = "{what}: nothing has moved for {seconds} seconds, and it was ended"
    hint = "Look at the host's storage and at the network to it; a longer stall_timeout lets it wait longer"
    exit_code = 45


class OpensTooSlowly(ProgramError):
    id = "copy-opens-too-slowly"
    template = "{host} has opened {count} extents of {path} within {seconds} seconds, and it was ended"
    hint = "Look at the host's storage and at the network to it; a longer stall_timeout lets it wait longer"
    exit_code = 45


class MovesTooSlowly(ProgramError):
    id = "copy-moves-too-slowly"
    template = (
        "{what}: only {moved} bytes have moved within {seconds} seconds, where minimum_rate asks for {least} a second. "
        "It was ended"
    )
    hint = (
        "Look at the host, its storage and the network to it. A link that is as slow as that needs a lower "
        "minimum_rate (backup_minimum_rate, restore_minimum_rate; 0 for none)"
    )
    exit_code = 45


class DiskNotMade(ProgramError):
    id = "copy-disk-not-made"
    template = "{host}: vmkfstools could not make the empty disk {target} (status {rc}): {output}"
    hint = "Look at the datastore's room and state; try vmkfstools -c by hand there"
    exit_code = 45


class NoRoomToClone(ProgramError):
    id = "copy-no-room-to-clone"
    template = (
        "{host}: {source} cannot be read where it lies ({reason}), and no datastore has room for a clone of it: "
        "{needed} are needed, {found}"
    )
    hint = (
        "Free room on one of them, or mount an NFS datastore of the backup server; or copy this VM with the program "
        "vmkfstools, or while it is off"
    )
    exit_code = 43


class CloneStays(ProgramError):
    id = "copy-clone-stays"
    template = "{host}: the temporary clone {target} could not be removed: {reason}"
    hint = "It is ours: remove that folder on the host; recover does so, too"
    exit_code = 44


class BadPlace(ProgramError):
    id = "copy-bad-place"
    template = "{place!r} cannot be a backup point: {reason}"
    hint = "Give an absolute path of the backup server, or {form}"
    exit_code = 41


class ImageFailed(ProgramError):
    id = "image-failed"
    template = "The image {path} could not be written: {reason}"
    hint = (
        "Look at the room and the health of that file system. The restore points that are there were not touched; what "
        "was copied so far is gone on with by the next backup of the same machine"
    )
    exit_code = 45


class ImageDiffers(ProgramError):
    id = "image-differs"
    template = "The image {path} does not hold what was read of the disk: {reason}"
    hint = "No restore point was made. Look at the health of that file system and of the machine, then back up again"
    exit_code = 45
