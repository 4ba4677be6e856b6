# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our half of the wire's benchmark, a process of its own: the library calls that `vmdk_copy` makes, and what they told.

python wireours.py backup STORE --host … --disk scsi0:0=/vmfs/volumes/…/x.vmdk …
python wireours.py restore STORE --host … --disk scsi0:0=/vmfs/volumes/…/new.vmdk         the newest point's disk
python wireours.py in-place STORE --host … --disk scsi0:0=/vmfs/volumes/…/old-flat.vmdk
python wireours.py look STORE --host … --disk …      where the disk has data, and what that took
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import newest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import DiskFed, Feeding, feed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hints import Hints
from ansible_collections.stowage.esxi.plugins.module_utils.programs.interface import DiskTask
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.programs.undedup import bring
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session
from ansible_collections.stowage.esxi.plugins.module_utils.store import restore as restoring
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import DiskMap
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.keptlinks import KeptLinks
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import RemoteDisk
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget

MACHINE = "machine"
# What it may be told of is what it has stored itself.
FACTS = {"hypervisor": "host"}


@contextmanager
def _reach(given: argparse.Namespace) -> Iterator[Reach]:
    endpoint = Endpoint(
        given.host, given.port, private_key_file=given.key, known_hosts_file=given.known_hosts, backend=given.backend
    )
    with open_session(endpoint) as session:
        more: dict[str, Any] = {"connections": given.connections} if given.connections else {}
        more["stepwise"] = given.stepwise
        yield Reach(Host(session), lambda *_words, **_data: None, lambda _progress: None, lambda: None, **more)


def _disks(given: argparse.Namespace) -> list[tuple[str, str]]:
    return _pairs(given.disk)


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, path) for key, _equals, path in (one.partition("=") for one in words)]


def backup(given: argparse.Namespace) -> Mapping[str, Any]:
    def before_commit(_point: str, _fed: Sequence[DiskFed]) -> Mapping[str, Any]:
        return {}

    with _reach(given) as reach, Stores(Access()) as stores:
        store = stores.open(given.store)
        feeding = Feeding(
            machine_id=MACHINE,
            machine_name=MACHINE,
            sources=[Source(key, path, size, size) for (key, path), size in zip(_disks(given), given.size)],
            files={},
            facts=FACTS,
            before_commit=before_commit,
            parent=newest(store, MACHINE, "host", FACTS),
            hints=Hints(dict(_pairs(given.hint))),
        )
        return feed(store, feeding, reach).told


def look(given: argparse.Namespace) -> Mapping[str, Any]:
    """Before anything is read: the chain opened, and its whole map told."""
    with _reach(given) as reach, reach.starter() as starter:
        begin = time.perf_counter()
        found: dict[str, Any] = {}
        for key, path in _disks(given):
            with RemoteDisk(starter, path) as disk:
                ranges = list(disk.allocated())
                found[key] = {"size": disk.size, "data": sum(length for _at, length in ranges), **disk.metadata}
        return {"seconds": round(time.perf_counter() - begin, 3), "disks": found}


def restore(given: argparse.Namespace) -> Mapping[str, Any]:
    with _reach(given) as reach, Stores(Access()) as stores:
        store = stores.open(given.store)
        ((key, path),) = _disks(given)
        disk = _disk(store, key)
        task = DiskTask(key, f"{given.store}::/{key}", path, "thin", disk.size, disk.size)
        return vars(bring(store, disk, task, (), "sample", reach))


def in_place(given: argparse.Namespace) -> Mapping[str, Any]:
    with _reach(given) as reach, Stores(Access()) as stores:
        store = stores.open(given.store)
        ((key, path),) = _disks(given)
        disk = _disk(store, key)
        with (
            reach.starter(writes=True) as host,
            KeptLinks(host, reach.connections + 1) as starter,
            RemoteTarget(starter, path) as target,
        ):
            return vars(restoring.to_target(store, disk, target, in_place=True, threads=reach.connections))


def _disk(store: Store, key: str) -> DiskMap:
    point = newest(store, MACHINE, "host", FACTS)
    if point is None:
        raise SystemExit("the store has no restore point")
    return next(disk for disk in point.disks if disk.key == key)


ACTS = {"backup": backup, "look": look, "restore": restore, "in-place": in_place}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("act", choices=list(ACTS))
    parser.add_argument("store")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=22)
    parser.add_argument("--key")
    parser.add_argument("--known-hosts")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--disk", action="append", default=[])
    parser.add_argument("--size", action="append", type=int, default=[], help="of each disk, for a backup")
    parser.add_argument("--hint", action="append", default=[], help="key and descriptor of what the newest point holds")
    parser.add_argument("--connections", type=int, default=0)
    parser.add_argument("--stepwise", action="store_true", help="in the transfer mode sync")
    given = parser.parse_args()
    print(json.dumps(ACTS[given.act](given)))


if __name__ == "__main__":
    main()
