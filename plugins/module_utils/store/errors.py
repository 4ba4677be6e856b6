# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can be wrong with a store, for the one who has to put it right."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError

_WAY_OUT = (
    "Run verify: it names the restore points that need it; repair, from a second store if there is one, brings back"
    " what can be had."
)


class StoreError(StowageError):
    id = "store-error"
    template = "The store {store} cannot be used: {reason}"
    exit_code = 60


class NoStore(StoreError):
    id = "store-not-there"
    template = "There is no store at {store}: {reason}"
    hint = "Give the path of the store's own folder (it has a config.json in it), or create the store first."
    exit_code = 61


class StoreExists(StoreError):
    id = "store-exists"
    template = "{store} is a store already, or holds something else: {reason}"
    hint = "Give another place. Nothing was changed there."
    exit_code = 61


class BadLocation(StoreError):
    id = "store-bad-location"
    template = "{location!r} does not say where a store is: {reason}"
    hint = "A store is a folder (its path), or lies in a bucket: s3://bucket/prefix."
    exit_code = 61


class BadSlice(StoreError):
    id = "store-bad-slice"
    template = "{slice!r} is no slice of a store: {reason}"
    hint = "3/7 is the third of seven slices; all seven together are the whole store."
    exit_code = 61


class BadSettings(StoreError):
    id = "store-bad-settings"
    template = "The store {store} cannot have these settings: {reason}"
    hint = "Nothing was changed."
    exit_code = 61


class EmptyList(StoreError):
    id = "store-empty-list"
    template = "{name} is an empty list: nothing is meant by it"
    hint = "Leave it out to mean all, or name some. Nothing was looked at, and nothing changed."
    exit_code = 61


class SameStore(StoreError):
    id = "store-same-store"
    template = "{store} and {other} are the same place: a store has no copies in itself"
    hint = "Name another place for the second store. Nothing was changed."
    exit_code = 61


class BadNumber(StoreError):
    id = "store-bad-number"
    template = "{name} cannot be {value}: it is a number from 0 to {most}"
    hint = "Nothing was changed."
    exit_code = 61


class BadKeys(StoreError):
    id = "store-bad-keys"
    template = "The keys of the store {store} stay as they are: {reason}"
    hint = "List the keys of the store. Nothing was changed."
    exit_code = 67


class UnknownFormat(StoreError):
    id = "store-unknown-format"
    template = "The store {store} has the format version {version}; this program knows {known}"
    hint = "Use a newer version of the collection. Nothing was changed."
    exit_code = 61


class ObjectMissing(StoreError):
    id = "store-object-missing"
    template = "{name} is not in the store {store}"
    hint = _WAY_OUT
    exit_code = 62


class ObjectExists(StoreError):
    id = "store-object-exists"
    template = "{name} is in the store {store} already"
    hint = "Somebody else was faster. Nothing was changed; look at what is there, or begin anew."
    exit_code = 62


class Damaged(StoreError):
    id = "store-damaged"
    template = "{name} in the store {store} is damaged: {reason}"
    hint = _WAY_OUT
    exit_code = 62


class DamageFound(StoreError):
    id = "store-damage-found"
    template = "The store {store} is damaged: {found}"
    hint = (
        "What was not named restores. Run repair, from a second store if there is one: it takes what is damaged out of"
        " the index, and the next backup of a disk that was hit brings back what the disk still has."
    )
    exit_code = 62


class ChunkMissing(StoreError):
    id = "store-chunk-missing"
    template = "The chunk {chunk} is in no pack of the store {store}"
    hint = "Run verify: it names the restore points that need it; the next backup of that disk brings it back."
    exit_code = 62


class BackendFailed(StoreError):
    id = "store-backend-failed"
    template = "{store}: {name} could not be {done}: {reason}"
    hint = "Look at the file system or the object storage: room, rights, connection. What was committed is untouched."
    exit_code = 63
    lasting = False
    """Whether the device says that it has lost it. Else it may be there at the next look."""


def passing(error: StoreError) -> bool:
    """Whether it says nothing of what lies in the store: rights, a connection, a server under pressure."""
    return isinstance(error, BackendFailed) and not error.lasting


class WriterRevoked(StoreError):
    id = "store-writer-revoked"
    template = "The restore point {point} was not written: this backup was taken for dead and given up meanwhile"
    hint = "Run the backup again. It was silent for longer than the store waits for a writer."
    exit_code = 64


class NewestUnreadable(StoreError):
    id = "store-newest-unreadable"
    template = "The newest restore point in the store {store} cannot be read: {reason}"
    hint = (
        "Name the one before it ({before}) if that will do; or bring it back by a copy or a repair from a second store."
    )
    exit_code = 62


class NoSuchPoint(StoreError):
    id = "store-no-such-point"
    template = "The store {store} has no restore point {point}"
    hint = "List what there is; a point may have been pruned."
    exit_code = 65


class AmbiguousPoint(StoreError):
    id = "store-ambiguous-point"
    template = "{point!r} may be several restore points of the store {store}: {candidates}"
    hint = "Give more of its id, or the machine."
    exit_code = 65


class NoSuchPart(StoreError):
    id = "store-no-such-part"
    template = "The restore point {point} has no {what} {name!r}; it has: {present}"
    hint = "Show the restore point; its disks have device keys such as scsi0:0."
    exit_code = 65


class SourceFailed(StoreError):
    id = "store-source-failed"
    template = "{path} could not be read as a disk: {reason}"
    hint = "Nothing was committed. Look at the file, and run the backup again."
    exit_code = 66


class SourceLied(StoreError):
    id = "store-source-lied"
    template = "{path} is not backed up: {lie}"
    hint = (
        "Nothing was committed. Either something changes that disk while it is read, or its host tells what is not so."
        " Back it up from a snapshot; if it was read from one, look at the host."
    )
    exit_code = 66


class HashUnfit(StoreError):
    id = "store-hash-unfit"
    template = "{path} cannot go into the store {store}: it is hashed with sha256 where it lies, the store with {hash}"
    hint = "Back it up into a store with the hash sha256: that is chosen when a store is made."
    exit_code = 61


class TargetFailed(StoreError):
    id = "store-target-failed"
    template = "{path} could not be written: {reason}"
    hint = "Put right what the reason says (room, rights, a name that is taken, another size), and run it again."
    exit_code = 66


class SpoolFailed(StoreError):
    id = "store-spool-failed"
    template = "A temporary file in {folder} could not be written: {reason}"
    hint = (
        "An index takes 50 bytes there for each chunk. Make room, or name another folder in TMPDIR, and run it again."
    )
    exit_code = 66


class ConverterMissing(StoreError):
    id = "store-no-converter"
    template = "{path} was not written as {form}: the program {program} is not on this machine"
    hint = (
        "Install it (Debian, Ubuntu: qemu-utils; Red Hat, SUSE: qemu-img), or restore as raw or vmdk: no program then."
    )
    exit_code = 66


class BadChanges(StoreError):
    id = "store-bad-changes"
    template = "{name} is no map of this disk's changed areas: {reason}"
    hint = (
        "Ask for it anew, for this disk and since the parent restore point; or back up without one: all is read then."
    )
    exit_code = 66


class BadHold(StoreError):
    id = "store-bad-hold"
    template = "No hold can be made under the name {name!r}: {reason}"
    hint = "Give another name. Nothing was changed."
    exit_code = 65


class NoSuchHold(StoreError):
    id = "store-no-such-hold"
    template = "The restore point {point} is not held under the name {name!r}; its holds: {present}"
    hint = "List the holds. Nothing was changed."
    exit_code = 65


class PointGoing(StoreError):
    id = "store-point-going"
    template = "The restore point {point} of the store {store} cannot be held: its removal has begun"
    hint = "Hold another one. What was decided by a prune that was cut short is finished by the next one."
    exit_code = 65


class QuotaReached(StoreError):
    id = "store-quota-reached"
    template = (
        "The backup was given up: the store {store} may take {quota} bytes, {reserve} of them stay for commits and "
        "collections, and others have taken {used}"
    )
    hint = "Nothing was committed, and no restore point was touched. Prune and collect, or raise quota_bytes."
    exit_code = 68


class NoRoomLeft(StoreError):
    id = "store-no-room"
    template = (
        "The backup was given up: the file system of the store {store} has {free} bytes free, and {reserve} of them "
        "stay for commits and collections"
    )
    hint = (
        "Nothing was committed, and no restore point was touched. Prune and collect, make room beside the store, or"
        " move it to a larger file system; a quota (quota_bytes) ends a backup earlier."
    )
    exit_code = 68


class KeeperBusy(StoreError):
    id = "store-keeper-busy"
    template = "Another collection or repair works on the store {store}"
    hint = "It does the same work. Wait until it is through, or run again later; a dead one is given up."
    exit_code = 64


class KeeperRevoked(StoreError):
    id = "store-keeper-revoked"
    template = "This work on the store {store} was taken for dead and given up meanwhile"
    hint = "Run it again. It was silent for longer than the store waits; nothing is lost."
    exit_code = 64


class NoSuchMachine(StoreError):
    id = "store-no-such-machine"
    template = "The store {store} has no restore point of a machine {machine!r}; it has some of: {present}"
    hint = "Give the machine's id, or its name, as the list of restore points shows them. Nothing was changed."
    exit_code = 65


class ChunkSizesDiffer(StoreError):
    id = "store-chunk-sizes-differ"
    template = "{store} has chunks of {bytes} bytes, {other} of {other_bytes}: nothing can be copied between them"
    hint = "Create the second store with the first one's chunk_bytes."
    exit_code = 61


class StoreInUse(StoreError):
    id = "store-in-use"
    template = "{name} in the store {store} is damaged and has to go, but backups are under way: {writers}"
    hint = "Wait until they have ended, then run repair again. Nothing was changed."
    exit_code = 64
