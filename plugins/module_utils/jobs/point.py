# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points on a datastore: built beside their place, proven, renamed into it, listed, removed.

`<backup point>/<slug>-<hash of the VM's identity>/<YYYYMMDDTHHMMSSZ>/`, built in a sibling `.partial-<time>-<job>`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.batch import Batch, Reply
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import FileNotReadable
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    BadManifest,
    ConfigNotCopied,
    NotReadable,
    PointExists,
    RemoteStepFailed,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import (
    PointDisk,
    PointFile,
    RestorePoint,
    parse_manifest,
    render_manifest,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.names import (
    HOLD_FILE,
    MANIFEST,
    REMOVING_PREFIX,
    disk_file_name,
    identity_hash,
    is_point_name,
    parse_point_time,
    point_folder_name,
)
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import Descriptor, parse_descriptor

_FOLDERS = r"""
for point in "$@"; do
    for folder in "$point"/*; do
        [ -d "$folder" ] && printf '%s\n' "$folder"
    done
done
exit 0
"""

# Below a path that is not a mounted datastore, mkdir would fill the host's memory.
_PREPARE = r"""
root=$1 target=$2 partial=$3
[ -d "$root/." ] || { echo "no datastore at $root" >&2; exit 3; }
made=no
[ -d "$target" ] || made=yes
mkdir -p "$target" && mkdir "$partial" && exit 0
[ "$made" = no ] || rmdir "$target" 2>/dev/null
exit 1
"""

_COPY_FILES = r"""
dest=$1
shift
for file in "$@"; do
    [ -f "$file" ] || { printf 'absent %s\n' "$file"; continue; }
    name=${file##*/}
    said=$(cp -f "$file" "$dest/$name" 2>&1) || { printf 'failed %s %s\n' "$file" "$said"; exit 1; }
    if [ "$(stat -c %s "$file")" != "$(stat -c %s "$dest/$name")" ]; then
        printf 'failed %s %s\n' "$file" "its size changed while it was copied"
        exit 1
    fi
    printf 'copied %s\n' "$file"
done
"""

_SIZES = r"""
cd "$1" || exit 1
for file in * .*; do
    [ -f "./$file" ] && stat -c '%s %b %B' "./$file" && printf '%s\n' "$file"
done
exit 0
"""

_COMMIT = r"""
partial=$1 final=$2
[ -e "$final" ] && exit 4
sync
mv "$partial" "$final" || exit 1
sync
"""

_LIST = r"""
for file in "$1"/*/[0-9]*Z/stowage.json; do
    [ -f "$file" ] || continue
    held=free
    # A link leads to where somebody has put the point away: what lies there is not ours to remove.
    { [ -e "${file%/*}/stowage.hold" ] || [ -L "${file%/*}" ]; } && held=held
    printf '%s %s\n' "$held" "${file%/*}"
done
exit 0
"""

# The rename comes first: a half removed point must not look like one. What is not ours stays, under the old name. The
# manifest goes last: as long as a file of ours cannot be deleted (somebody reads it), it says what is still to go.
_REMOVE = r"""
path=$1 away=$2
shift 2
[ "$path" = "$away" ] || { [ -d "$path" ] && mv "$path" "$away"; } || exit 1
cd "$away" || exit 1
left=no
for file in "$@"; do rm -f "./$file" || left=yes; done
[ "$left" = no ] || exit 1
rm -f ./stowage.json
cd ..
rmdir "$away" 2>/dev/null && exit 0
[ "$path" = "$away" ] || mv "$away" "$path"
ls -A "$path"
exit 7
"""

_COMMITTED = r"""
for folder in "$@"; do
    for point in "$folder"/[0-9]*Z; do
        [ -f "$point/stowage.json" ] && printf '%s\n' "$point"
    done
done
exit 0
"""

_REMOVING = r"""
for folder in "$1"/.removing-[0-9]*Z; do
    [ -d "$folder" ] && [ ! -L "$folder" ] || continue
    if [ -f "$folder/stowage.json" ]; then printf '%s\n' "$folder"; else rmdir "$folder" 2>/dev/null; fi
done
exit 0
"""


# Paths in one command line.
_ONE_LISTING = 200
#: Journalled before a VM's folder at the backup point is made: a job that fails takes it away again where it is empty.
FOLDER_INTENT = "point-folder-intent"


def datastore_root(path: str) -> str:
    """`/vmfs/volumes/x/…` -> `/vmfs/volumes/x`"""
    parts = path.split("/")
    return "/".join(parts[:4])


def _lines(session: Session, what: str, script: str, args: Sequence[str]) -> list[str]:
    """The lines of a listing; one whose shell did not come to its end may lack any of them, and is an error."""
    result = session.script(script, args, timeout_seconds=300)
    if result.rc != 0:
        raise RemoteStepFailed(what=what, rc=result.rc, stderr=result.output)
    return result.stdout.split("\n")


def vm_folders(session: Session, points: Iterable[str]) -> dict[tuple[str, str], str]:
    """The folders that VMs already have in these backup points, by (point, hash): a renamed VM keeps its own."""
    wanted = sorted(set(points))
    if not wanted:
        return {}
    found: dict[tuple[str, str], str] = {}
    for line in sorted(_lines(session, f"Listing the folders in {', '.join(wanted)}", _FOLDERS, wanted)):
        point, _slash, name = line.rpartition("/")
        match = re.search(r"-([0-9a-f]{12})\Z", name)
        if match and point in wanted:
            found.setdefault((point, match.group(1)), line)
    return found


def newest(session: Session, folders: Iterable[str]) -> dict[str, datetime]:
    """The time of the newest restore point in each of these folders of VMs; a folder without one is absent."""
    found: dict[str, datetime] = {}
    wanted = sorted(set(folders))
    for start in range(0, len(wanted), _ONE_LISTING):
        part = wanted[start : start + _ONE_LISTING]
        for line in _lines(session, "Looking for the newest restore points", _COMMITTED, part):
            folder, _slash, name = line.rpartition("/")
            if is_point_name(name) and folder in part:
                found[folder] = max(parse_point_time(name), found.get(folder, parse_point_time(name)))
    return found


def vm_folder(known: Mapping[tuple[str, str], str], point: str, name: str, identity: str) -> str:
    return known.get((point, identity_hash(identity))) or posixpath.join(point, point_folder_name(name, identity))


def prepare(session: Session, job: Job, log: IntentLog) -> None:
    """Makes the partial folder. It must not exist: what is in it afterwards is ours alone."""
    target = posixpath.dirname(job.partial)
    if session.run(["test", "-d", target]).rc != 0:
        log.note(FOLDER_INTENT, path=target)
    result = session.script(_PREPARE, [datastore_root(target), target, job.partial])
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Making {job.partial}", rc=result.rc, stderr=result.output)


def copy_files(session: Session, vm: str, files: Sequence[str], dest: str) -> list[str]:
    """Copies small files; an absent one is skipped, any other failure raised. Returns what was copied."""
    result = session.script(_COPY_FILES, [dest, *files], timeout_seconds=300)
    copied = [line[len("copied ") :] for line in result.stdout.split("\n") if line.startswith("copied ")]
    if result.rc != 0:
        failed = next((line for line in result.stdout.split("\n") if line.startswith("failed ")), "")
        path = next((file for file in files if failed.startswith(f"failed {file} ")), files[0] if files else "")
        reason = failed[len(f"failed {path} ") :] or result.output
        raise ConfigNotCopied(path=path, vm=vm, target=dest, reason=reason)
    return copied


def folder_files(session: Session, folder: str) -> dict[str, tuple[int, int]]:
    """Name -> (size, allocated bytes) of the files in a folder."""
    result = session.script(_SIZES, [folder])
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Listing {folder}", rc=result.rc, stderr=result.output)
    found: dict[str, tuple[int, int]] = {}
    lines = result.stdout.split("\n")
    for numbers, name in zip(lines[0::2], lines[1::2]):
        words = numbers.split()
        if len(words) == 3 and all(word.isdigit() for word in words):
            found[name] = (int(words[0]), int(words[1]) * int(words[2]))
    return found


def prove_disks(
    host: Host, vm: str, folder: str, disks: Sequence[Mapping[str, Any]], disk_format: str
) -> tuple[PointDisk, ...]:
    """Each copy is opened and looked at: descriptor, capacity, extents with their sizes, first and last sector, and
    the host's own check of the chain. The first that does not hold raises NotReadable."""
    sizes = folder_files(host.session, folder)
    texts = host.read_texts(posixpath.join(folder, _file_of(disk)) for disk in disks)
    proven = []
    reads = Batch()
    asked: list[tuple[str, str]] = []
    for disk in disks:
        key, name = str(disk["key"]), _file_of(disk)
        text = texts[posixpath.join(folder, name)]
        if isinstance(text, Reply):
            raise NotReadable(vm=vm, disk=key, reason=f"{name} is not there ({text.text.strip() or text.rc})")
        try:
            descriptor = parse_descriptor(text, posixpath.join(folder, name))
        except StowageError as error:
            raise NotReadable(vm=vm, disk=key, reason=error.message) from error
        _prove_extents(vm, key, descriptor, int(disk["capacity_bytes"]), sizes)
        for file in descriptor.files:
            last = max(0, sizes[file][0] // 512 - 1)
            path = posixpath.join(folder, file)
            for skip in (0, last):
                reads.add(["dd", f"if={path}", "of=/dev/null", "bs=512", "count=1", f"skip={skip}"])
                asked.append((key, f"sector {skip} of {file} cannot be read"))
        if disk_format != "2gbsparse":
            # A sparse disk of 2 GB extents needs hosted I/O, which the check does not do.
            reads.add(["vmkfstools", "-e", posixpath.join(folder, name)])
            asked.append((key, "the host's own check of its chain failed"))
        proven.append(_point_disk(disk, name, descriptor, disk_format, sizes))
    for (key, what), reply in zip(asked, host.run_batch(reads, timeout_seconds=300) if len(reads) else []):
        if reply.rc != 0 or (reply.argv[0] == "vmkfstools" and "not consistent" in reply.text):
            raise NotReadable(vm=vm, disk=key, reason=f"{what}: {reply.text or f'exit code {reply.rc}'}")
    return tuple(proven)


def _file_of(disk: Mapping[str, Any]) -> str:
    """A restored disk says where it goes; one of a restore point is named by its device key."""
    return posixpath.basename(str(disk["dest"])) if disk.get("dest") else disk_file_name(str(disk["key"]))


def _prove_extents(
    vm: str, key: str, descriptor: Descriptor, capacity: int, sizes: Mapping[str, tuple[int, int]]
) -> None:
    if descriptor.parent_hint:
        raise NotReadable(vm=vm, disk=key, reason=f"it is not a whole disk: it needs {descriptor.parent_hint}")
    if capacity and descriptor.capacity_bytes != capacity:
        reason = f"it holds {descriptor.capacity_bytes} bytes, its source {capacity}"
        raise NotReadable(vm=vm, disk=key, reason=reason)
    for extent in descriptor.extents:
        if extent.file is None:
            continue
        if "/" in extent.file or extent.file not in sizes:
            raise NotReadable(vm=vm, disk=key, reason=f"its extent {extent.file} is missing")
        size = sizes[extent.file][0]
        if extent.kind.upper() in ("VMFS", "FLAT") and size != extent.sectors * 512:
            reason = f"its extent {extent.file} has {size} bytes instead of {extent.sectors * 512}"
            raise NotReadable(vm=vm, disk=key, reason=reason)
        if size == 0:
            raise NotReadable(vm=vm, disk=key, reason=f"its extent {extent.file} is empty")


def _point_disk(
    disk: Mapping[str, Any], name: str, descriptor: Descriptor, disk_format: str, sizes: Mapping[str, tuple[int, int]]
) -> PointDisk:
    return PointDisk(
        key=str(disk["key"]),
        label=str(disk.get("label") or ""),
        file=name,
        capacity_bytes=descriptor.capacity_bytes,
        allocated_bytes=sum(sizes[file][1] for file in descriptor.files),
        cid=descriptor.cid,
        format=disk_format,
        source=str(disk.get("source") or ""),
    )


_ROLES = (
    ("vmx", ".vmx"),
    ("vmx", ".vmtx"),
    ("nvram", ".nvram"),
    ("vmsd", ".vmsd"),
    ("vmxf", ".vmxf"),
    ("disk", ".vmdk"),
)


def list_files(session: Session, folder: str) -> tuple[PointFile, ...]:
    """Every file of the folder but the manifest itself, with its role."""
    found = []
    for name, (size, _allocated) in sorted(folder_files(session, folder).items()):
        if name not in (MANIFEST, HOLD_FILE):
            found.append(PointFile(name, size, role_of(name)))
    return tuple(found)


def role_of(name: str) -> str:
    return next((role for role, ending in _ROLES if name.lower().endswith(ending)), "other")


def commit(session: Session, job: Job, manifest: Mapping[str, Any]) -> RestorePoint:
    """Writes the manifest last and renames the folder into its place: from then on it is a restore point."""
    text = render_manifest(manifest)
    point = parse_manifest(text, job.final)
    session.write_text(posixpath.join(job.partial, MANIFEST), text)
    result = session.script(_COMMIT, [job.partial, job.final], timeout_seconds=600)
    if result.rc == 4:
        raise PointExists(path=job.final)
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Renaming {job.partial} to {job.final}", rc=result.rc, stderr=result.output)
    return point


def read_point(host: Host, path: str) -> RestorePoint:
    """BadManifest for what is not there or not ours; a host that does not answer says neither, and is its own error."""
    try:
        text = host.read_text(posixpath.join(path, MANIFEST))
    except FileNotReadable as error:
        raise BadManifest(path=path, reason=error.message) from error
    return parse_manifest(text, path)


def list_points(host: Host, point: str, identity: str | None = None) -> tuple[list[RestorePoint], list[BadManifest]]:
    """The restore points below a backup point, newest first, and what looks like one but is not."""
    lines = _lines(host.session, f"Listing the restore points in {point}", _LIST, [point])
    folders = {path: held for held, blank, path in (line.partition(" ") for line in lines) if blank}
    if identity is not None:
        mark = identity_hash(identity)
        folders = {path: held for path, held in folders.items() if posixpath.dirname(path).endswith(f"-{mark}")}
    texts = host.read_texts(posixpath.join(folder, MANIFEST) for folder in folders) if folders else {}
    points, bad = [], []
    for folder, held in folders.items():
        text = texts[posixpath.join(folder, MANIFEST)]
        try:
            if isinstance(text, Reply):
                raise BadManifest(path=folder, reason=text.text.strip() or f"exit code {text.rc}")
            found = parse_manifest(text, folder)
        except BadManifest as error:
            bad.append(error)
            continue
        if identity is None or found.identity == identity:
            points.append(RestorePoint(**{**vars(found), "held": held == "held"}))
    points.sort(key=lambda found: (found.time, found.path), reverse=True)
    return points, bad


def remove(session: Session, point: RestorePoint) -> list[str]:
    """Deletes the files that the manifest lists, then the folder. Returns the foreign files that kept it."""
    parent, name = posixpath.split(point.path)
    away = point.path if name.startswith(REMOVING_PREFIX) else posixpath.join(parent, REMOVING_PREFIX + name)
    result = session.script(_REMOVE, [point.path, away, *(file.name for file in point.files)], timeout_seconds=600)
    if result.rc == 7:
        return [line for line in result.stdout.split("\n") if line]
    if result.rc != 0:
        raise RemoteStepFailed(what=f"Removing the restore point {point.path}", rc=result.rc, stderr=result.output)
    return []


def half_removed(host: Host, folder: str) -> list[RestorePoint]:
    """Points of one VM whose removal was cut short: their manifests still list what is to go. An emptied one goes."""
    found = []
    for path in _lines(host.session, f"Looking for half removed restore points in {folder}", _REMOVING, [folder]):
        if path:
            try:
                found.append(read_point(host, path))
            except BadManifest:
                continue
    return found
