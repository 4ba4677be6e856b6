# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which limits hold for one copy: from the operator's wishes, and from what the copy touches.

The same thing has one name here, however hosts and operators call it: a datastore is its UUID, a hypervisor its address
and port, a store its place.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import VOLUMES, Datastore
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import UnknownDatastore
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.job import Job
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.limits import BadLimit, Limit, checked
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import STORING
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import parse_path
from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request

#: What a limit may be for; without one of these it has only a name.
KINDS = ("host", "datastore", "store", "link")
_SSH = re.compile(r"ssh://(?:[^@/]*@)?(\[[^\]]+\]|[^:/]+)(?::(\d+))?/")


@dataclass(frozen=True)
class Wish:
    """As an operator gives it: for all of a kind, for one of it, or a name that means nothing."""

    slots: int
    kind: str = ""
    name: str = ""

    @property
    def label(self) -> str:
        return " ".join(word for word in (self.kind, self.name) if word)


@dataclass(frozen=True)
class Touched:
    """What a copy is done with. ``datastores`` maps UUIDs to names, ``servers`` are `address:port`."""

    host: str
    host_names: tuple[str, ...] = ()
    datastores: Mapping[str, str] = field(default_factory=dict)
    store: str = ""
    servers: tuple[str, ...] = ()


def wishes_of(given: Iterable[Mapping[str, Any]]) -> tuple[Wish, ...]:
    """Raises BadLimit for what no copy could ever go by, so that a slip is found by the first one."""
    wishes = tuple(Wish(one["slots"], one.get("kind") or "", one.get("name") or "") for one in given)
    for wish in wishes:
        if not wish.kind and not wish.name:
            raise BadLimit(name="", reason=f"it has neither a name nor a kind ({', '.join(KINDS)})")
        if wish.kind and wish.kind not in KINDS:
            raise BadLimit(name=wish.label, reason=f"its kind must be one of {', '.join(KINDS)}")
        if [(one.kind, one.name) for one in wishes].count((wish.kind, wish.name)) > 1:
            raise BadLimit(name=wish.label, reason="it is given twice")
        checked([Limit(wish.name or "-", wish.slots, wish.kind)])
    return wishes


def limits_for(wishes: Sequence[Wish], touched: Touched) -> tuple[Limit, ...]:
    """In the order of taking. A wish for one thing goes before that for all of its kind; of two for one, the less."""
    found = [Limit(wish.name, wish.slots, wish.kind) for wish in wishes if not wish.kind]
    # A line that the operator has named: whose variables have it, he copies over it.
    found += [Limit(wish.name, wish.slots, "link") for wish in wishes if wish.kind == "link" and wish.name]
    things: list[tuple[str, str, str, tuple[str, ...]]] = [("host", touched.host, "", touched.host_names)]
    things += [
        ("datastore", uuid, f"{name} ({uuid})" if name != uuid else "", (name,))
        for uuid, name in sorted(touched.datastores.items())
    ]
    things += [("store", touched.store, "", ())] if touched.store else []
    things += [("link", server, "", ()) for server in touched.servers]
    for kind, key, title, names in things:
        of_kind = [wish for wish in wishes if wish.kind == kind and (kind != "link" or not wish.name)]
        wanted = [wish for wish in of_kind if wish.name and _means(wish, key, names)]
        wanted = wanted or [wish for wish in of_kind if not wish.name]
        if wanted:
            found.append(Limit(key, min(wish.slots for wish in wanted), kind, title))
    return checked(found)


def _means(wish: Wish, key: str, names: Sequence[str]) -> bool:
    # A place may be written in several ways.
    return wish.name in (key, *names) or wish.kind == "store" and place_of(wish.name) == key


def place_of(location: str) -> str:
    """One spelling of a store's place on the backup server or in a bucket."""
    if not is_here(location):
        return location.rstrip("/")
    return os.path.realpath(location)


def servers_of(*locations: str) -> tuple[str, ...]:
    """The other servers among these backup points, as `address:port`."""
    found = []
    for location in locations:
        match = _SSH.match(spot.located(location))
        if match:
            found.append(f"{match.group(1).strip('[]').lower()}:{match.group(2) or 22}")
    return tuple(dict.fromkeys(found))


def touched_by(
    host: Host, request: Request, program: str, job: Job | None = None, kinds: Iterable[str] = KINDS
) -> Touched:
    """Looked up on the host where a datastore is to be limited; what it cannot find there is not limited by it."""
    endpoint = host.session.endpoint
    point = str((job.policy.get("point") if job is not None and job.kind == "backup" else "") or "")
    source = request.src or ""
    if program in STORING:
        store = point or (parse_path(source)[0] if source else request.dest)
    else:
        store = point or request.dest
        store = "" if _on_host(store) else store
    datastores: dict[str, str] = {}
    if "datastore" in kinds:
        paths = [path for path in (source, request.dest, store) if _on_host(path)] + _read(request)
        paths += [str(disk["source"]) for disk in (job.disks if job is not None else ()) if disk.get("source")]
        for path in paths:
            found = _datastore(host, path)
            if found is not None:
                datastores[found.uuid] = found.name
    return Touched(
        host=f"{endpoint.host.lower()}:{endpoint.port}",
        host_names=tuple(name for name in (endpoint.host, job.host if job is not None else "") if name),
        datastores=datastores,
        store=_one_store(host, store) if store and "store" in kinds else "",
        servers=servers_of(store, source, request.dest),
    )


def _on_host(place: str) -> bool:
    return place.startswith((VOLUMES + "/", "["))


def is_here(place: str) -> bool:
    """Whether it is a path of this machine."""
    return place.startswith("/") and not _on_host(place)


def _one_store(host: Host, store: str) -> str:
    if not _on_host(store):
        return place_of(store)
    found = _datastore(host, store)
    if found is None:
        return store
    # By its volume's UUID: hosts may call the datastore differently.
    return posixpath.normpath(host.resolve(store))


def _read(request: Request) -> list[str]:
    """Every file that the disks of a VM are read through: a chain may lead over several datastores."""
    found: list[str] = []
    for disk in request.vm.disks() if request.vm is not None else ():
        if not request.disks or disk.key in request.disks:
            found += [link.path for link in disk.chain.links] if disk.chain is not None else [disk.path]
    return found


def _datastore(host: Host, path: str) -> Datastore | None:
    try:
        return host.datastore(path)
    except UnknownDatastore:
        return None
