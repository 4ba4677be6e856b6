# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points as folders of images on the backup server, or on a server that it reaches by SSH.

A restore point is named by its path, `/srv/images/web01-0a1b2c3d4e5f/20261122T200000Z`, with the server in front where
there is one (see `spot`). A folder holds what one on a datastore holds: the VM's configuration, descriptors and flat
images, and `stowage.json`.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import imagefolder, names, rotation
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest, NotReadable, RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.folderplace import FolderPlace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import RestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import StoreRoom
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import INTENT, StorePlace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import (
    intoimages,
    overwire,
    rsync,
    server,
    spot,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import ImageFailed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import Spot
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.local import LocalSession

# `df` names what the file system has and what of it is free, in KiB.
_ROOM = r"""
path=$1
while [ ! -e "$path" ] && [ ! -L "$path" ]; do path=${path%/*}; [ -n "$path" ] || path=/; done
if [ ! -d "$path" ] || [ ! -w "$path" ] || [ ! -x "$path" ]; then
    echo "$path is no folder that can be written to" >&2
    exit 1
fi
df -kP "$path" | tail -n 1 | { read -r _name blocks _used free _rest && echo "$blocks $free"; }
"""

_HALF = r"""
for folder in "$1"/*/"$2"; do [ ! -d "$folder" ] || printf '%s' "$folder"; done
exit 0
"""

# Folders that killed jobs of the same machine have begun; $2 is how their names end.
_TIDY = r"""
cd "$1" || exit 1
for folder in .partial-[0-9]*Z-*"$2"; do
    [ -d "./$folder" ] && [ ! -L "./$folder" ] && rm -rf "./$folder"
done
exit 0
"""


@contextlib.contextmanager
def machine_of(stores: Stores, place: Spot) -> Iterator[Host]:
    """The machine that a backup point is on, asked in the way in which hypervisors are: by plain commands."""
    key = stores.access.ssh_key if stores.access is not None else ""
    with LocalSession() if place.is_here else server.open_server(place, key) as session:
        yield Host(session)


def look(stores: Stores, location: str) -> StoreRoom:
    """Whether a backup point can be used, and its room. Nothing is changed."""
    try:
        place = spot.parse(location)
        warning = _far_rsync(stores)
        if not place.is_here:
            rsync.must_serve()
        with machine_of(stores, place) as there:
            if not place.is_here:
                rsync.must_serve(there.session)
            room = room_at(there, place)
    except StowageError as error:
        return StoreRoom(problem=error.as_dict())
    return StoreRoom(*room, warning=warning)


def _far_rsync(stores: Stores) -> str:
    """What a plan says where the hypervisor's own rsync was asked for and cannot be used."""
    if stores.access is None or stores.host is None:
        return ""
    wire = overwire.wire_to(stores.host.session, stores.access.rsync_path)
    return f"no delta over the wire, all that the disks hold will travel: {wire.why_not}" if wire.why_not else ""


def room_at(there: Host, place: Spot) -> tuple[int, int]:
    """Capacity and free bytes where a backup point is, or is to be made."""
    answer = there.session.script(_ROOM, [place.path])
    words = answer.stdout.split()
    if answer.rc != 0 or len(words) != 2 or not all(word.isdigit() for word in words):
        raise ImageFailed(path=str(place), reason=answer.output)
    return int(words[0]) * 1024, int(words[1]) * 1024


class RsyncPlace(StorePlace):
    """The kind of program rsync. As with a store, what is in one comes by the copy step, which also commits it."""

    def newest(self, host: Host, label: str, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, datetime]:
        """Only what the same hypervisor has made counts, as for the rotation."""
        found: dict[int, datetime] = {}
        for location in {location for location, _target, _identity in wanted.values()}:
            mine = {vmid: identity for vmid, (at, _target, identity) in wanted.items() if at == location}
            with contextlib.suppress(StowageError):
                place = spot.parse(location)
                with machine_of(self.stores, place) as there:
                    for vmid, identity in mine.items():
                        listed, _bad = points.list_points(there, place.path, identity)
                        made = next((one for one in listed if one.host == label), None)
                        if made is not None:
                            found[vmid] = made.moment
        return found

    def path_of(self, job: Job, point: str) -> str:
        return posixpath.join(job.final, point)

    def made(self, host: Host, job: Job, events: Events) -> str:
        begun = events.last(INTENT)
        if begun is None:
            return ""
        path = self.path_of(job, str(begun["point"]))
        try:
            return path if self.read(host, path).manifest.get("job") == job.job else ""
        except StowageError:
            return ""

    def half_copy(self, job: Job) -> str:
        place = spot.parse(job.final)
        with contextlib.suppress(StowageError), machine_of(self.stores, place) as there:
            found = there.session.script(_HALF, [place.path, names.partial_name(job.time, job.job)]).stdout.strip()
            return str(place.at(found)) if found else ""
        return ""

    def read(self, host: Host, path: str) -> RestorePoint:
        place = spot.parse(path)
        with machine_of(self.stores, place) as there:
            return replace(points.read_point(there, place.path), path=str(place))

    def read_back(self, host: Host, point: RestorePoint) -> None:
        """Every file is there in its size."""
        place = spot.parse(point.path)
        with machine_of(self.stores, place) as there:
            sizes = points.folder_files(there.session, place.path)
        wanted = {file.name: (file.size, "") for file in point.files}
        wanted.update({intoimages.flat_name(disk.key): (disk.capacity_bytes, disk.key) for disk in point.disks})
        for name, (size, key) in wanted.items():
            if sizes.get(name, (None, 0))[0] != size:
                raise NotReadable(
                    vm=point.vm, disk=key or name, reason=f"{name} is not there in its size of {size} bytes"
                )
        self.read_text(host, point.file_of("vmx") or "")

    def find(self, host: Host, point: str) -> tuple[list[RestorePoint], list[BadManifest]]:
        """`point` is a backup point, one VM's folder in it, or one restore point."""
        place = spot.parse(point)
        with machine_of(self.stores, place) as there:
            found, bad = FolderPlace().find(there, place.path)
        return [replace(one, path=str(place.at(one.path))) for one in found], bad

    def read_text(self, host: Host, path: str) -> str:
        place = spot.parse(path)
        with machine_of(self.stores, place) as there:
            return there.read_text(place.path)

    def _rotate(
        self,
        host: Host,
        job: Job,
        events: Events,
        policy: VmPolicy,
        others: Iterable[Job],
        result: dict[str, Any],
    ) -> None:
        made, point = spot.parse(events.made), spot.parse(job.final)
        if (made.where, posixpath.dirname(posixpath.dirname(made.path))) != (point.where, point.path):
            # The journal is in the hands of its hypervisor: it chooses no folder of this server.
            raise BadManifest(path=events.made, reason=f"the journal names it, and it is not in {job.final}")
        with machine_of(self.stores, made) as there:
            # Of two hypervisors whose VMs have one identity, none may push out what the other has made.
            turned = rotation.rotate(there, replace(job, final=made.path), policy, others, job.host, hypervisor=host)
            for name in ("kept", "removed"):
                result[name] += [{**line, "path": str(made.at(line["path"]))} for line in turned[name]]
            result["problems"] += turned["problems"]
            if policy.rotate:
                self._tidy_up(there, posixpath.dirname(made.path), job)

    def _tidy_up(self, there: Host, folder: str, job: Job) -> None:
        """What killed jobs of the same machine have begun: after a success nobody goes on with it."""
        if isinstance(there.session, LocalSession):
            for path in imagefolder.half_copies(folder, job.job):
                imagefolder.drop(path)
            return
        answer = there.session.script(_TIDY, [folder, job.job[-len("-b000000000000") :]], timeout_seconds=600)
        if answer.rc != 0:
            raise RemoteStepFailed(what=f"Tidying up {folder}", rc=answer.rc, stderr=answer.output)


def newest(there: Host, place: Spot, job: Job) -> RestorePoint | None:
    """The restore point that the next one begins from, with its path on that machine. Only what the same hypervisor
    has made: another one may use the VM's identity, too."""
    found, _bad = points.list_points(there, place.path, job.identity)
    return next((point for point in found if point.host == job.host), None)


def folder_of(there: Host, place: Spot, job: Job) -> str:
    """The VM's own folder in the backup point: a renamed VM keeps its own."""
    return points.vm_folder(points.vm_folders(there.session, [place.path]), place.path, job.vm, job.identity)


def partial_of(folder: str, job: Job) -> str:
    return posixpath.join(folder, names.partial_name(job.time, job.job))
