# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vmdk_copy refuses before it reads a byte into a store, or makes a disk out of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import storebackup, storerestore
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.copying import Settings
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import errors
from ansible_collections.stowage.esxi.plugins.module_utils.programs.compare import ENCRYPTED
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoStore
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from jobs_values import make_job

HOST: Any = SimpleNamespace(name="esx1")
DISK = Source("scsi0:0", "/vmfs/volumes/ds/web01/web01.vmdk", 1 << 30, 100 << 20)


@pytest.fixture
def stores() -> Iterator[Stores]:
    with Stores(Access()) as opened:
        yield opened


@pytest.fixture
def location(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    Store.create(LocalBackend(path)).close()
    return path


def sources(monkeypatch: pytest.MonkeyPatch, *found: Source) -> None:
    monkeypatch.setattr(storebackup, "sources_of", lambda *_words: (found, (("scsi0:1", "not asked for"),)))


def frame(request: Request, **more: Any) -> Any:
    return SimpleNamespace(request=request, **{"job": make_job(), "journal": object(), **more})


def test_without_a_job_there_is_no_proof_and_so_no_point(stores: Stores, location: str) -> None:
    with pytest.raises(errors.NotSupported, match="the journal and the proofs of a job"):
        storebackup.perform(HOST, {}, Settings(), frame(Request(location), job=None, journal=None), stores)


def test_a_store_that_is_not_there_is_told_before_the_disks_are_looked_at(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(NoStore):
        storebackup.perform(HOST, {}, Settings(), frame(Request(str(tmp_path / "absent"))), stores)


def test_an_encrypted_disk_is_refused_by_name(stores: Stores, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(monkeypatch, DISK, Source("scsi0:2", "/vmfs/volumes/ds/x.vmdk", 1, 1, not_flat=ENCRYPTED))
    with pytest.raises(errors.DiskNotCopyable, match=r"scsi0:2 .* encrypted"):
        storebackup.perform(HOST, {}, Settings(), frame(Request(location)), stores)


def test_a_store_without_any_room_is_told(stores: Stores, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(monkeypatch, DISK)
    # No file system has so much free that nothing of it could be asked to stay.
    with pytest.raises(errors.NotEnoughRoom, match="some room"):
        storebackup.predict(HOST, {}, Request(location, reserve_percent=100), stores)


def test_check_mode_tells_what_would_be_read_and_what_is_left_out(
    stores: Stores, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, DISK)
    told = storebackup.predict(HOST, {}, Request(location, reserve_percent=0), stores)
    assert (told["bytes_total"], told["capacity_bytes"], told["changed"]) == (100 << 20, 1 << 30, True)
    assert told["disks"][0]["dest"] == told["room"]["datastore"] == location
    assert told["left_out"] == [{"key": "scsi0:1", "reason": "not asked for"}]


def test_check_mode_asks_for_no_store_that_is_made_before_the_first_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources(monkeypatch, DISK)
    with Stores(Access(create=True)) as stores:
        told = storebackup.predict(HOST, {}, Request(str(tmp_path / "absent"), reserve_percent=5), stores)
    assert told["changed"] and told["room"]["free_bytes"] is None and not (tmp_path / "absent").exists()


@pytest.mark.parametrize("src", ["/srv/store", "/srv/store::20261122T200000.000000Z-abcdef", "[ds] web01/web01.vmdk"])
def test_only_a_disk_of_a_restore_point_can_come_out_of_a_store(stores: Stores, src: str) -> None:
    with pytest.raises(errors.BadSource, match="STORE::POINT/KEY"):
        storerestore.predict(HOST, {}, Request("[ds] x", src=src), stores)


def test_a_sparse_disk_is_not_made_out_of_a_store(stores: Stores) -> None:
    src = "/srv/store::20261122T200000.000000Z-abcdef/scsi0:0"
    with pytest.raises(errors.NotSupported, match="flat disks only"):
        storerestore.predict(HOST, {}, Request("[ds] x", src=src, disk_format="2gbsparse"), stores)
