# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points in a dedup store, on the backup server or on a datastore. What is in one comes by the copy step,
which also commits it.

A restore point is named `<store>::<id>` and what is in it `<store>::<id>/<name>`; a disk by its key.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import INPLACE, Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest, NotInStore, RemoteStepFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import KIND, RestorePoint, read_facts
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores, backend_of

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

MARK = "::"
_POINT = re.compile(r"::\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}(?=/|\Z)")
# The address of a server may hold the mark, too.
_SIX = re.compile(r"(?:ssh://)?[^/\[\]]*\[[^/\[\]]*\]")
#: Journalled when all bytes are in the store and the source has proven still, before the point is there.
INTENT = "store-commit-intent"
#: Journalled when it is there.
DONE = "store-commit-done"
CONFIG = "config"
# A VM of which so many in a row are of no use, or others', counts as one that has none.
LOOKED_AT = 8

_MAKE = r"""
rm -rf "$1"
mkdir "$1"
"""


def path_of(location: str, point: str) -> str:
    return f"{location}{MARK}{point}"


def parse_path(path: str) -> tuple[str, str, str]:
    """Store, id of the restore point, and the name of what is in it; ids and names that are not there are empty."""
    # A store's own path may hold the mark, too; an id has a form of its own.
    found, server = _POINT.search(path), _SIX.match(path)
    at = found.start() if found else path.find(MARK, server.end() if server else 0)
    location, rest = (path[:at], path[at + len(MARK) :]) if at >= 0 else (path, "")
    point, _slash, name = rest.partition("/")
    return location, point, name


def made_by(copies: Iterable[Mapping[str, Any]]) -> str | None:
    """The restore point that these copies of disks are in; None where they went elsewhere."""
    for copy in copies:
        if copy.get("format") == "image":
            return posixpath.dirname(str(copy.get("dest") or "")) or None
        location, point, _name = parse_path(str(copy.get("dest") or ""))
        if point and copy.get("format") == "store":
            return path_of(location, point)
    return None


def unsure(job: Job, events: Events) -> str:
    """The point of a commit that was begun and never answered, in a bucket: without its key nobody can look."""
    begun = events.last(INTENT)
    if begun is None or events.last(DONE) is not None or events.committed or job.final.startswith("/"):
        return ""
    return path_of(job.final, str(begun["point"]))


class StorePlace:
    """The kind of program dedup."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores

    def path_of(self, job: Job, point: str) -> str:
        """A restore point of this job, by what the journal says of it."""
        return path_of(job.final, point)

    def targets(self, host: Host, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, str]:
        return {vmid: point for vmid, (point, _name, _identity) in wanted.items()}

    def newest(self, host: Host, label: str, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, datetime]:
        """Only what the same hypervisor has made counts, as for the rotation: an identity is what one says."""
        found: dict[int, datetime] = {}
        for vmid, (location, _target, identity) in wanted.items():
            with contextlib.suppress(StowageError):
                at = _newest(self.stores.open(location), identity, label)
                if at is not None:
                    found[vmid] = at
        return found

    def names(self, target: str, time: str, job: str) -> tuple[str, str]:
        """The point gets its name from the store, when the copy begins."""
        return "", target

    def prepare(self, host: Host, job: Job, folder: str, log: IntentLog) -> str:
        """The configuration waits in the job's own folder, and goes with it."""
        config = posixpath.join(folder, CONFIG)
        result = host.session.script(_MAKE, [config])
        if result.rc != 0:
            raise RemoteStepFailed(what=f"Making {config}", rc=result.rc, stderr=result.output)
        return config

    def commit(
        self,
        host: Host,
        vm: VirtualMachine,
        job: Job,
        log: IntentLog,
        events: Events,
        copies: Sequence[Mapping[str, Any]],
    ) -> RestorePoint:
        """The copy step has proven and committed it; here it is read back."""
        made = events.last(DONE) or events.last(INTENT)
        if made is None:
            raise NotInStore(vm=job.vm, store=job.final, reason="the copy has not come to its end")
        point = self.read(host, self.path_of(job, str(made["point"])))
        if point.manifest.get("job") != job.job:
            raise NotInStore(vm=job.vm, store=job.final, reason=f"{point.path} was made by another job")
        missing = set(job.disk_keys) - {disk.key for disk in point.disks}
        if missing or point.file_of("vmx") is None:
            reason = f"{point.path} lacks {', '.join(sorted(missing)) or 'its .vmx file'}"
            raise NotInStore(vm=job.vm, store=job.final, reason=reason)
        self.read_back(host, point)
        return point

    def read_back(self, host: Host, point: RestorePoint) -> None:
        for file in point.files:
            if file.role != "disk":
                self.read_text(host, posixpath.join(point.path, file.name))

    def made(self, host: Host, job: Job, events: Events) -> str:
        """Whether the point of that name is there needs no key, only the store's own folder; a bucket's needs one."""
        begun = events.last(INTENT)
        if begun is None or unsure(job, events) and self.stores.access is None:
            return ""
        if self.stores.access is None and not job.final.startswith("/"):
            return path_of(job.final, str((events.last(DONE) or begun)["point"]))
        from ansible_collections.stowage.esxi.plugins.module_utils.store import points, registry

        name = points.object_name(job.identity, str(begun["point"]))
        try:
            if self.stores.access is not None:
                there = self.stores.open(job.final).backend.read(name)
            else:
                backend = backend_of(job.final, host)
                with contextlib.closing(backend):
                    there = backend.read(name)
        except StowageError:
            return ""
        return "" if there == registry.revoked() else path_of(job.final, str(begun["point"]))

    def half_copy(self, job: Job) -> str:
        """Chunks that a store has are not sent again, whoever has brought them."""
        return ""

    def read(self, host: Host, path: str) -> RestorePoint:
        location, point, _name = parse_path(path)
        return restore_point(location, find(self.stores.open(location), point))

    def rotate(self, host: Host, job: Job, events: Events, policy: VmPolicy, others: Iterable[Job]) -> dict[str, Any]:
        result: dict[str, Any] = {"kept": [], "removed": [], "problems": []}
        try:
            self._rotate(host, job, events, policy, others, result)
        except StowageError as error:
            result["problems"].append(error.message)
        return result

    def _rotate(
        self,
        host: Host,
        job: Job,
        events: Events,
        policy: VmPolicy,
        others: Iterable[Job],
        result: dict[str, Any],
    ) -> None:
        from ansible_collections.stowage.esxi.plugins.module_utils.store import prune

        spared = [parse_path(events.made)[1]]
        for other in others:
            if other.kind in ("restore", INPLACE):
                spared.append(parse_path(str(other.extra["restore_point"]["path"]))[1])
                spared.append(parse_path(str(other.extra.get("safety_before") or ""))[1])
        store = self.stores.open(job.final)
        # An identity is what a hypervisor says: of two that have the same, none may push out what the other has made.
        mine = {"hypervisor": job.host}
        report = prune.rotate(store, policy.keep, job.identity, spared, check=not policy.rotate, facts=mine)
        for one in report.decisions:
            line = {"path": path_of(job.final, one.point.point), "reasons": list(one.reasons)}
            gone = policy.rotate and one.point.object_name in report.removed
            result["removed" if gone else "kept"].append(line)

    def find(self, host: Host, point: str) -> tuple[list[RestorePoint], list[BadManifest]]:
        """`point` is a store, or one restore point in it."""
        location, wanted, _name = parse_path(point)
        if wanted:
            return [self.read(host, point)], []
        found, bad = [], []
        for name, one in self.stores.open(location).look_at_points():
            if isinstance(one, StowageError):
                bad.append(BadManifest(path=f"{location}/{name}", reason=one.message))
            elif one.facts.get("kind") == KIND:
                # Others are machines that did not come from a hypervisor.
                try:
                    found.append(restore_point(location, one))
                except BadManifest as error:
                    bad.append(error)
        found.sort(key=lambda one: (one.time, one.path), reverse=True)
        return found, bad

    def read_text(self, host: Host, path: str) -> str:
        location, point, name = parse_path(path)
        store = self.stores.open(location)
        file = next((file for file in find(store, point).files if file.name == name), None)
        if file is None:
            raise BadManifest(path=path, reason="there is no such file in it")
        data = store.read_record(file.id, file.size) if file.id is not None else b""
        return data.decode("utf-8", "surrogateescape")

    def bring(self, host: Host, vm: str, source: str, target: str) -> None:
        host.session.write_text(target, self.read_text(host, source))


def _newest(store: Store, identity: str, label: str) -> datetime | None:
    from ansible_collections.stowage.esxi.plugins.module_utils.store import points

    names = sorted((name for name, _size in store.backend.list(points.folder_of(identity))), reverse=True)
    for name in names[:LOOKED_AT]:
        # One that cannot be read is no good one; verify names it.
        with contextlib.suppress(StowageError):
            point = store.read_point(name)
            if point is not None and point.facts.get("kind") == KIND:
                one = restore_point(store.name, point)
                if one.host == label and not one.safety:
                    return one.moment
    return None


def find(store: Store, point: str) -> Point:
    """By its id alone, which is a part of the name of its object."""
    from ansible_collections.stowage.esxi.plugins.module_utils.store import points
    from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoSuchPoint

    for name, _size in store.backend.list(points.FOLDER):
        if name.endswith(f"/{point}.json"):
            found = store.read_point(name)
            if found is not None:
                return found
    raise NoSuchPoint(store=store.name, point=point)


def restore_point(location: str, point: Point) -> RestorePoint:
    """A point of the store as jobs know one; BadManifest for one that no backup of a hypervisor has made."""
    found = read_facts(point.facts, path_of(location, point.point), "it")
    sizes = {disk.key: disk.size for disk in point.disks}
    files = {file.name for file in point.files}
    for disk in found.disks:
        if sizes.get(disk.key) != disk.capacity_bytes:
            raise BadManifest(path=found.path, reason=f"its disk {disk.key} is not the one that it speaks of")
    for file in found.files:
        if file.name not in (files if file.role != "disk" else sizes):
            raise BadManifest(path=found.path, reason=f"it speaks of {file.name!r}, which is not in it")
    if found.identity != point.machine_id:
        raise BadManifest(path=found.path, reason="it is that of another VM")
    return replace(found, manifest=dict(point.facts))
