# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores on datastores of a hypervisor, beside those in folders and buckets, by where they are said to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import VOLUMES
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.options import open_host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import HostKeepsNoStore
from ansible_collections.stowage.esxi.plugins.module_utils.store import options
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import HostBackend, ServerBackend

# The way to a host is loaded where a store lies on one: most lie elsewhere.


def is_on_host(location: str) -> bool:
    """Whether a store there lies on a datastore of a hypervisor; nowhere else are paths like that."""
    return location.startswith(f"{VOLUMES}/")


def backend_on(host: Host, location: str) -> HostBackend:
    """The place itself. A hypervisor that can keep no store there is an error that says why."""
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import HostBackend
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import NoWay
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import OnHost

    path, store = host.resolve(location), host.datastore(location)
    if path == store.path:
        raise HostKeepsNoStore(host=host.name, store=location, reason="it is the datastore itself, not a folder on it")
    try:
        way = probe(host.session, "agent")
    except NoWay as error:
        reason = f"that takes a Python 3 of its own ({error.data.get('reason')})"
        raise HostKeepsNoStore(host=host.name, store=location, reason=reason) from error
    return HostBackend(OnHost(host.session, way), path, name=f"{location} on {host.name}", clock=host.clock)


def backend_there(location: str, key: str) -> ServerBackend:
    """A place on a Linux server, `[user@]server:port:/path`, by the server's own Python 3."""
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.hostbackend import ServerBackend
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.server import open_server
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import NoWay
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe
    from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import OnHost

    place = spot.parse(location)
    session = open_server(place, key)
    try:
        way = probe(session, "agent")
    except NoWay as error:
        reason = f"that takes a Python 3 there ({error.data.get('reason')})"
        raise HostKeepsNoStore(host=place.server, store=location, reason=reason) from error
    return ServerBackend(OnHost(session, way), place.path, name=str(place), server=place.where)


class Places:
    """For a module: opens places of stores by its options, over one connection to the hypervisor."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params
        self._stack = ExitStack()
        self._host: Host | None = None

    @contextmanager
    def open(self, place: Mapping[str, Any]) -> Iterator[Backend]:
        """`place`: the options of one, as `store.options` has them."""
        if spot.is_remote(place["location"]):
            there = backend_there(place["location"], place.get("ssh_key") or "")
            try:
                yield there
            finally:
                there.close()
            return
        if not is_on_host(place["location"]):
            with options.open_place(place) as backend:
                yield backend
            return
        self._host = self._host or self._stack.enter_context(open_host(self._params))
        on_host = backend_on(self._host, place["location"])
        try:
            yield on_host
        finally:
            on_host.close()

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
