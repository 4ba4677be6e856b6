# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points are looked at again: folders on a datastore here; what lies in a store or a repository was looked at
by the step before, whose word becomes findings.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import borgplace, findings, rsyncplace, storeplace
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import point as points
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest, NothingToVerify
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.findings import Finding
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import KIND, RestorePoint
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def of_folders(host: Host, place: str, label: str, newest: bool) -> list[Finding]:
    """Points below a backup point that the host `label` has made, each opened. `newest`: one of each machine.

    What looks like a point and cannot be read is told of, too: nobody could restore from it."""
    found, bad = points.list_points(host, place)
    mine = [one for one in found if one.host == label]
    told = [_opened(host, one) for one in (_newest(mine) if newest else mine)]
    told += [_unreadable(error, label) for error in bad]
    if not told:
        raise NothingToVerify(place=place, who=f"the host {label}")
    return told


def of_images(stores: Stores, place: str, newest: bool, label: str) -> list[Finding]:
    """Points that the program rsync has made, of all hosts: every file looked for. What is none is told
    under `label`."""
    images = rsyncplace.RsyncPlace(stores)
    # The hypervisor takes no part.
    nobody: Any = None
    found, bad = images.find(nobody, place)
    told = []
    for one in _newest(found) if newest else found:
        try:
            images.read_back(nobody, one)
        except StowageError as error:
            told.append(findings.of_point(one, "sizes", error.message))
        else:
            told.append(findings.of_point(one, "sizes"))
    told += [replace(_unreadable(error, label), level="sizes") for error in bad]
    if not told:
        raise NothingToVerify(place=place, who="any hypervisor")
    return told


def _opened(host: Host, point: RestorePoint) -> Finding:
    try:
        _prove(host, point)
    except StowageError as error:
        return findings.of_point(point, "opened", error.message)
    return findings.of_point(point, "opened")


def _prove(host: Host, point: RestorePoint) -> None:
    there = points.folder_files(host.session, point.path)
    for file in point.files:
        # The size of a disk's files is its descriptor's to say.
        size = there[file.name][0] if file.name in there else None
        if size is None or (file.role != "disk" and size != file.size):
            reason = "is missing" if size is None else f"has {size} bytes, not {file.size}"
            raise BadManifest(path=point.path, reason=f"its file {file.name!r} {reason}")
    wanted = [
        {**vars(disk), "dest": posixpath.join(point.path, disk.file), "capacity_bytes": disk.capacity_bytes}
        for disk in point.disks
    ]
    points.prove_disks(host, point.vm, point.path, wanted, point.disks[0].format if point.disks else "thin")


def _unreadable(error: BadManifest, label: str) -> Finding:
    path = str(error.data.get("path") or "")
    folder = posixpath.basename(posixpath.dirname(path))
    return Finding(
        path, posixpath.basename(path), folder.rpartition("-")[0] or folder, "", label, "opened", error.message
    )


def _newest(found: Iterable[RestorePoint]) -> list[RestorePoint]:
    """Of each machine, as its host names it; `found` is newest first."""
    kept: dict[tuple[str, str], RestorePoint] = {}
    for one in found:
        kept.setdefault((one.host, one.identity), one)
    return list(kept.values())


def of_store(stores: Stores, location: str, label: str, verified: Mapping[str, Any], deep: bool) -> list[Finding]:
    """What dedup_store has returned as `verified`. Of a slice only what it has found damaged: it proves no point whole.

    A point that says nothing any more is told of under the host `label`."""
    store, level = stores.open(location), "deep" if deep else "records"
    told = []
    for name in verified.get("good_points") or ():
        point = _point(store, location, str(name))
        if point is not None:
            told.append(findings.of_point(point, level))
    words: Sequence[str] = [*(verified.get("hit") or ()), *(verified.get("problems") or ())]
    for name in verified.get("bad_points") or ():
        point = _point(store, location, str(name))
        if point is not None:
            reason = "; ".join(_about(point, words)[:3]) or "a part of it is damaged"
            told.append(findings.of_point(point, level, reason))
        else:
            told.append(_garbled(location, str(name), label, level))
    if not told and (verified.get("looked_at") or {}).get("part") != "slice":
        raise NothingToVerify(place=location, who="any hypervisor")
    return told


def _point(store: Store, location: str, name: str) -> RestorePoint | None:
    """None for one that is gone, that cannot be read, or that no backup of a hypervisor has made."""
    try:
        found = store.read_point(name)
        if found is None or found.facts.get("kind") != KIND:
            return None
        return storeplace.restore_point(location, found)
    except StowageError:
        return None


def _garbled(location: str, name: str, label: str, level: str) -> Finding:
    """Its manifest says nothing any more: all that is left is its name."""
    point = posixpath.basename(name).rpartition(".json")[0]
    machine = posixpath.basename(posixpath.dirname(name))
    reason = "its manifest cannot be read, or no backup of a hypervisor has made it"
    return Finding(storeplace.path_of(location, point), point, machine, "", label, level, reason)


def _about(point: RestorePoint, words: Sequence[str]) -> list[str]:
    name = storeplace.parse_path(point.path)[1]
    return [word for word in words if name in word]


def of_repository(stores: Stores, location: str, label: str, check: str, damage: str) -> list[Finding]:
    """`check`: how deep borg was to look; `damage`: what it has said, empty where it has found nothing. Which archives
    that hits it does not say, so that none counts as proven. One that says nothing is told of under `label`."""
    found, bad = borgplace.points_of(location, borgplace.repository(stores, location).archives())
    told = [findings.of_point(one, check, damage) for one in found]
    for error in bad:
        path = str(error.data.get("path") or "")
        told.append(Finding(path, "", path.rpartition("::")[2], "", label, check, error.message))
    if not told:
        raise NothingToVerify(place=location, who="any hypervisor")
    return told


def look(params: Mapping[str, Any], host: Host | None, stores: Stores, label: str) -> list[Finding]:
    """What the module's options ask for. `host`: where the points are folders, or the store lies on a datastore."""
    place = params["point"]
    if params["program"] == "dedup":
        return of_store(stores, place, label, params["verified"] or {}, params["deep"])
    if params["program"] == "borg":
        return of_repository(stores, place, label, params["check"] or "repository", params["damage"])
    if params["program"] == "rsync":
        return of_images(stores, place, params["newest"], label)
    if host is None:
        raise ValueError("folders lie on a host")
    return of_folders(host, place, label, params["newest"])
