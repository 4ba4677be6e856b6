# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stores that a call works with: how they are opened, and each of them opened once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import (
    StoreEncryptedThere,
    StoreNotForHosts,
    StoreNotGiven,
)

if TYPE_CHECKING:
    from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
    from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
    from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


@dataclass(frozen=True)
class Access:
    """What opens a store beside its place. None of it is ever written down."""

    passphrase: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    create: bool = False
    scope: str = "host"
    group: str | None = None
    borg_path: str = "borg"
    borg_rsh: str = ""
    rsync_path: str = ""
    rsync_whole_file: bool = False
    ssh_key: str = ""
    stage_dir: str = ""

    @classmethod
    def of(cls, params: Mapping[str, Any] | None) -> Access:
        given = params or {}
        named = {name: given[name] for name in cls.__dataclass_fields__ if given.get(name)}
        return cls(**named)


class Stores:
    """Without `access` (a recover, which needs none) no store can be asked for. `host`: whose datastores are meant."""

    def __init__(self, access: Access | None = None, host: Host | None = None) -> None:
        self.access, self.host = access, host
        self._open: dict[str, Store] = {}

    def open(self, location: str) -> Store:
        """The store there, once; its own error where there is none, or where it cannot be opened."""
        if self.access is None:
            raise StoreNotGiven(store=location)
        if location not in self._open:
            self._open[location] = self._opened(location, self.access)
        return self._open[location]

    def _opened(self, location: str, access: Access) -> Store:
        # Inside: a backup that goes to a datastore needs none of it, nor the libraries.
        from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import WrongKey
        from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

        backend = backend_of(location, self.host, access)
        try:
            try:
                store = Store.open(backend, access.passphrase)
            except WrongKey as error:
                if backend.keeps_chunks:
                    raise StoreEncryptedThere(store=location) from error
                raise
            if backend.keeps_chunks and store.vault is not None:
                raise StoreEncryptedThere(store=location)
            if store.config["hash"] != "sha256":
                raise StoreNotForHosts(store=location, hash=store.config["hash"])
        except BaseException:
            backend.close()
            raise
        return store

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def backend_of(location: str, host: Host | None, access: Access | None = None) -> Backend:
    """The place itself: on the backup server or one that it reaches, in a bucket, on a datastore of the hypervisor."""
    from ansible_collections.stowage.esxi.plugins.module_utils.programs import spot
    from ansible_collections.stowage.esxi.plugins.module_utils.programs.hoststore import (
        backend_on,
        backend_there,
        is_on_host,
    )
    from ansible_collections.stowage.esxi.plugins.module_utils.store.location import S3Access, backend_at

    if is_on_host(location):
        if host is None:
            raise StoreNotGiven(store=location)
        return backend_on(host, location)
    if spot.is_remote(location):
        return backend_there(location, access.ssh_key if access is not None else "")
    if access is None:
        return backend_at(location)
    return backend_at(location, S3Access(access.endpoint, access.region, access.access_key, access.secret_key))
