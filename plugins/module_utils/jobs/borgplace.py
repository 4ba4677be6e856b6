# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore points as archives of a borg repository, on the backup server or reached from it by `ssh://`.

A restore point is named `<repository>::<archive>`, and what is in it `<repository>::<archive>/<name>`. What jobs know
of one stands in its comment; its last member, `stowage.json`, has that and what was proven of the source.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base import retention
from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import SystemClock
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import limits, names, rotation
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import Events
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadManifest, StoreNotGiven
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.limits import Limit
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.manifest import KIND, RestorePoint, read_facts
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.plan import StoreRoom
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import VmPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import (
    DONE,
    INTENT,
    StorePlace,
    parse_path,
    path_of,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import server
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Archive, Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borgerrors import NoRepository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.spot import located

# Those of this backup server take turns. For others nobody waits long: the next backup of the machine tidies up, too.
_ROTATION_TURN_SECONDS = 4 * 3600
_ROTATION_LOCK_SECONDS = 60


def repository(stores: Stores, location: str) -> Repository:
    access = stores.access
    if access is None:
        raise StoreNotGiven(store=location)
    rsh = access.borg_rsh or server.rsh_of(access.ssh_key)
    return Repository(located(location), access.passphrase, access.borg_path, rsh)


def archive_name(vm: str, identity: str, time: str) -> str:
    return f"{names.point_folder_name(vm, identity)}-{time}"


def look(stores: Stores, location: str) -> StoreRoom:
    """Whether a repository can be used, and the room around it where that can be told. Nothing is changed."""
    try:
        found = repository(stores, location)
        found.must_serve()
        found.archives()
    except NoRepository as error:
        if stores.access is not None and stores.access.create:
            return StoreRoom(warning=f"there is no repository at {location} yet: it is made before the first copy")
        return StoreRoom(problem=error.as_dict())
    except StowageError as error:
        return StoreRoom(problem=error.as_dict())
    if not location.startswith("/"):
        return StoreRoom()
    room = os.statvfs(location)
    return StoreRoom(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize)


class BorgPlace(StorePlace):
    """The kind of program borg. As with a store, what is in one comes by the copy step, which also commits it."""

    def made(self, host: Host, job: Job, events: Events) -> str:
        """Without the passphrase nobody can tell: then the archive is there, and only the record lacks it."""
        begun = events.last(INTENT)
        if begun is None or self.stores.access is None:
            return ""
        path = path_of(job.final, str(begun["point"]))
        try:
            return path if self.read(host, path).manifest.get("job") == job.job else ""
        except StowageError:
            return ""

    def newest(self, host: Host, label: str, wanted: Mapping[int, tuple[str, str, str]]) -> dict[int, datetime]:
        listed: dict[str, list[RestorePoint]] = {}
        for location in {location for location, _target, _identity in wanted.values()}:
            with contextlib.suppress(StowageError):
                listed[location] = points_of(location, repository(self.stores, location).archives())[0]
        found: dict[int, datetime] = {}
        for vmid, (location, _target, identity) in wanted.items():
            for one in listed.get(location, ()):
                if one.identity == identity and one.host == label and not one.safety:
                    found.setdefault(vmid, one.moment)
        return found

    def read(self, host: Host, path: str) -> RestorePoint:
        location, name, _member = parse_path(path)
        for archive in repository(self.stores, location).archives():
            if archive.name == name:
                return restore_point(location, archive)
        raise BadManifest(path=path, reason="there is no such archive in the repository")

    def read_back(self, host: Host, point: RestorePoint) -> None:
        """Every member was listed by the copy step; each borg that is begun takes its time."""
        self.read_text(host, point.file_of("vmx") or "")

    def find(self, host: Host, point: str) -> tuple[list[RestorePoint], list[BadManifest]]:
        """`point` is a repository, or one archive in it. Archives that others have made are passed over."""
        location, wanted, _member = parse_path(point)
        location = located(location)
        if wanted:
            return [self.read(host, point)], []
        return points_of(location, repository(self.stores, location).archives())

    def read_text(self, host: Host, path: str) -> str:
        location, name, member = parse_path(path)
        data = repository(self.stores, location).text(name, member)
        return data.decode("utf-8", "surrogateescape")

    def _rotate(
        self,
        host: Host,
        job: Job,
        events: Events,
        policy: VmPolicy,
        others: Iterable[Job],
        result: dict[str, Any],
    ) -> None:
        found = repository(self.stores, job.final)
        archives = found.archives()
        points, bad = points_of(job.final, archives)
        result["problems"].extend(error.message for error in bad)
        # An identity is what a hypervisor says: of two that have the same, none may push out what the other has made.
        mine = [one for one in points if one.identity == job.identity and one.host == job.host]
        # What a restore reads stays, and stays where it is: it takes no lock that would keep a backup waiting.
        read = {str(other.extra["restore_point"]["path"]) for other in others if other.kind == "restore"}
        going: list[dict[str, Any]] = []
        aged = [retention.Aged(one.path, one.moment, False) for one in mine]
        now = SystemClock().now()
        other = rotation.second_clock(host, policy, now, result)
        for decision in retention.decide(aged, policy.keep, now, other):
            line = {"path": decision.path, "reasons": list(decision.reasons)}
            if decision.keep or decision.path == events.made or not policy.rotate:
                result["kept"].append(line)
            elif decision.path in read:
                result["kept"].append({**line, "reasons": ["a restore reads it"]})
            else:
                going.append(line)
        left = [one.name for one in archives if is_left(one.name, job)] if policy.rotate else []
        if going or left:
            gone = [parse_path(line["path"])[1] for line in going]
            with _turn_of(host, job, str((events.last(DONE) or {}).get("limits_dir") or "")):
                found.remove([*gone, *left], _ROTATION_LOCK_SECONDS, compact=not read)
            result["removed"].extend(going)


def turn(location: str) -> Limit:
    """borg lets one writer in at a time: jobs of this backup server wait for theirs where waiting is shown."""
    return Limit(names.identity_hash(location), 1, "repository", location)


@contextlib.contextmanager
def _turn_of(host: Host, job: Job, limits_dir: str) -> Iterator[None]:
    """Beside copies that follow each other, borg's own lock would never be free for long enough."""
    if not limits_dir:
        yield
        return
    journal = IntentLog(host.session, lock.folder_of(job.directory), host.clock)
    waiter = Waiter(_ROTATION_TURN_SECONDS, clock=host.clock, beat=journal.beat)
    with limits.hold([turn(job.final)], limits_dir, waiter, f"rotation of {job.vm} on {job.host}"):
        yield


def is_left(name: str, job: Job) -> bool:
    """An archive that a killed job of the same machine has begun: whoever holds its lock knows that nobody fills it."""
    own = re.escape(job.job[-len("-b000000000000") :])
    return re.fullmatch(rf"\.partial-\d{{8}}T\d{{6}}Z-.+{own}(\.checkpoint(\.\d+)?)?", name) is not None


def points_of(location: str, archives: Iterable[Archive]) -> tuple[list[RestorePoint], list[BadManifest]]:
    """Newest first."""
    found, bad = [], []
    for archive in archives:
        if _facts(archive) is None or archive.name.startswith(names.PARTIAL_PREFIX):
            continue
        try:
            found.append(restore_point(location, archive))
        except BadManifest as error:
            bad.append(error)
    found.sort(key=lambda one: (one.time, one.path), reverse=True)
    return found, bad


def _facts(archive: Archive) -> Mapping[str, Any] | None:
    try:
        value = json.loads(archive.comment)
    except ValueError:
        return None
    return value if isinstance(value, Mapping) and value.get("kind") == KIND else None


def restore_point(location: str, archive: Archive) -> RestorePoint:
    """BadManifest for an archive that no backup of a hypervisor has made, or that has got another one's name."""
    path = path_of(location, archive.name)
    value = _facts(archive)
    found = read_facts(value, path, "its comment")
    if not archive.name.endswith(f"-{names.identity_hash(found.identity)}-{found.time}"):
        raise BadManifest(path=path, reason="its name is not that of its machine and time")
    return replace(found, manifest=dict(value or {}))
