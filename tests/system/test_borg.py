# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that go from a hypervisor into a repository of borg, by the real borg, and what comes back out of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    borgplace,
    copying,
    ending,
    recover,
    restoring,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import NotStill
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import Order
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Repository
from house import House
from judge import one_moment, prove_disks, same_content

from . import stories
from .conftest import Lab, wait_until
from .stories import HOST
from .test_dedup import SECRET, StoreStory, bring_back, readers, restore_context

# A fixture is known by its name in the module that uses it.
before, host, impatient = stories.before, stories.host, stories.impatient


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What borg remembers of repositories is of this test alone."""
    monkeypatch.setenv("BORG_BASE_DIR", str(tmp_path / "base"))


@pytest.fixture
def repository(clean_lab: Lab, tmp_path: Path, request: Any) -> Repository:
    """Here; or, where a test asks for it, on the lab's backup server."""
    found = Repository(str(tmp_path / "repository"), SECRET)
    if getattr(request, "param", "here") == "ssh":
        server = clean_lab.host("bk1")
        place = f"ssh://root@{server.address}:{server.port}/var/borg/{tmp_path.name}"
        options = ["-F", "none", "-i", str(clean_lab.key), "-o", f"UserKnownHostsFile={clean_lab.known_hosts}"]
        found = Repository(place, SECRET, rsh=shlex.join(["ssh", *options, "-o", "BatchMode=yes"]))
    found.make("repokey-blake2")
    return found


@pytest.fixture
def story(
    clean_lab: Lab, host: Host, repository: Repository, tmp_path: Path, before: Any, request: Any
) -> Iterator[Callable[..., StoreStory]]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> StoreStory:
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        where = {"program": "borg", "point": repository.location, "reserve_percent": 0}
        return BorgStory(clean_lab, host, tmp_path, run, how, stores, **where, **policy)

    with Stores(Access(passphrase=SECRET, borg_rsh=repository.rsh)) as stores:
        yield make


class BorgStory(StoreStory):
    """The same job, told with the copy step of the program borg."""

    verify = "sample"

    def params(self) -> dict[str, Any]:
        return {**super().params(), "program": "borg", "verify": self.verify}


def archives(repository: Repository) -> list[str]:
    return [one.name for one in repository.archives()]


def image(repository: Repository, archive: str, tmp_path: Path) -> Path:
    """The only disk of an archive, by borg alone: without any code of ours."""
    target = tmp_path / archive
    target.mkdir()
    environment = {**os.environ, "BORG_PASSPHRASE": SECRET}
    argv = ["borg", "extract", "--sparse", f"{repository.location}::{archive}"]
    subprocess.run(argv, cwd=target, env=environment, check=True, stdin=subprocess.DEVNULL)
    assert json.loads((target / "stowage.json").read_text())["still"]
    return target / "scsi0-0.raw"


def backed_up(job: StoreStory, how: str, repository: Repository, tmp_path: Path) -> dict[str, Any]:
    """Its entry of the record, once the archive was proven by others' means."""
    ended = job.whole()
    assert (ended.error, ended.entry["status"], ended.entry["effective_how"]) == (None, "ok", how)
    assert (ended.entry["downtime_seconds"] is not None) is (how != "hot")
    name = archives(repository)[-1]
    assert ended.entry["restore_point"] == f"{repository.location}::{name}"
    verdict = one_moment([image(repository, name, tmp_path)])
    assert bool(verdict.get("clean")) is (how != "hot")
    (disk,) = ended.entry["disks"]
    assert (disk["status"], disk["method"]) == ("ok", "agent")
    # What is read travels: only what is written is what has changed.
    assert 0 < disk["bytes_sent"] == disk["bytes_read"] == ended.entry["bytes_sent"]
    assert readers(job.host) == []
    return dict(ended.entry)


def test_a_machine_goes_into_a_repository_twice_and_comes_back_byte_for_byte(
    story: Callable[..., StoreStory], repository: Repository, tmp_path: Path
) -> None:
    first = backed_up(story("hot"), "hot", repository, tmp_path)
    job = story("hot", keep={"last": 1})
    second = backed_up(job, "hot", repository, tmp_path)
    assert 0 < second["bytes_new"] < first["bytes_new"]
    assert "sample of" in second["disks"][0]["verified"]
    assert [one["path"] for one in second["rotation"]["removed"]] == [first["restore_point"]]
    again = job.end()
    assert (again.changed, again.entry["status"]) == (False, "ok")
    (name,) = archives(repository)
    context = restore_context(job, "restore1", program="borg")
    restoring.start(context)
    (copied,) = bring_back(job, context)
    told, changed = restoring.commit(context, True)
    assert changed
    ended = ending.end(context, "ok", None, [copied])
    vm = job.host.find_vm(vmid=told["vmid"])
    try:
        assert (ended.error, ended.entry["status"], vm.name) == (None, "ok", "out of the store")
        assert told["restore_point"] == ended.entry["restore_point"] == f"{repository.location}::{name}"
        assert "all" in copied["verified"] and "SHA-256" in copied["verified"]
        restored = job.outside(context.entry["disks"][0]["dest"])
        assert same_content(restored, tmp_path / name / "scsi0-0.raw") == "Images are identical."
        flat = restored.with_name(restored.name.replace(".vmdk", "-flat.vmdk")).stat()
        assert 0 < flat.st_blocks * 512 < flat.st_size // 2
        assert readers(job.host) == []
        assert restore_context(job, "restore2", program="borg").entry["already"] is True
    finally:
        job.host.unregister(vm.vmid)
        job.host.run("rm", "-rf", context.entry["directory"])


@pytest.mark.soak
def test_a_machine_goes_into_a_repository_warm_and_cold_and_is_read_back_out_of_it(
    story: Callable[..., StoreStory], repository: Repository, tmp_path: Path
) -> None:
    for how in ("warm", "cold"):
        job = story(how)
        job.verify = "full"
        entry = backed_up(job, how, repository, tmp_path)
        (disk,) = entry["disks"]
        assert disk["verified"].startswith("all ") and disk["verified"].endswith("read back from the archive")


@pytest.mark.soak
@pytest.mark.parametrize("repository", ["ssh"], indirect=True)
def test_a_copy_that_is_killed_leaves_no_point_and_recover_undoes_the_rest(
    story: Callable[..., StoreStory], repository: Repository
) -> None:
    job = story("hot")
    job.start()
    job.bracket()
    slow = {**job.params(), "bandwidth_limit": 256 << 10}
    copying_process = multiprocessing.get_context("fork").Process(
        target=copying.perform, args=(job.host, slow, job.context.stores)
    )
    copying_process.start()
    wait_until(lambda: len(readers(job.host)) > 1, "the readers of the disks", 60)
    copying_process.kill()
    copying_process.join()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left) == ("recovered", ())
    assert any("snapshot" in step for step in found.done)
    assert (readers(job.host), borgplace.points_of("", repository.archives())) == ([], ([], []))
    # Its borg has ended with it: the repository is nobody's.
    again = story("hot")
    ended = again.whole()
    assert ended.entry["status"] == "ok"
    assert (readers(job.host), len(archives(repository))) == ([], 1)


@pytest.mark.soak
def test_a_source_that_moved_makes_no_archive(
    story: Callable[..., StoreStory], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = story("hot")
    job.start()
    job.bracket()
    proven = Order.proven

    def meddle(order: Order, *words: Any) -> Any:
        """Somebody removes our snapshot when all has been read, right before it is proven."""
        (ours,) = (one.id for one in snapshots.tree(job.vm) if one.name == job.job.snapshot_name)
        job.host.session.run(["vim-cmd", "vmsvc/snapshot.remove", str(job.job.vmid), str(ours)])
        wait_until(lambda: snapshots.tree(job.vm).find(ours) is None, "the end of our snapshot")
        return proven(order, *words)

    monkeypatch.setattr(Order, "proven", meddle)
    with pytest.raises(NotStill, match="is gone"):
        job.copy()
    ended = job.end("failed", "on purpose")
    assert (ended.error, archives(repository), readers(job.host)) == (None, [], [])


@pytest.mark.soak
def test_one_variable_switches_a_fleet_to_borg_and_its_machines_come_back(house: House, tmp_path: Path) -> None:
    where = "/var/borg-repository"
    run = house.controller.play(
        "backup_hot",
        *("--limit", "esx67,esx80"),
        backup_select=["name:plain67", "name:plain80"],
        backup_unknown_names="ignore",
        backup_program="borg",
        backup_point=where,
        backup_store_create=True,
        backup_store_passphrase=SECRET,
        backup_reserve_percent=0,
    ).must_end_with(0)
    entries = {vm["vm"]: vm for vm in house.record(run)["vms"]}
    assert set(entries) == {"plain67", "plain80"}
    for entry in entries.values():
        assert (entry["status"], entry["proven"]) == ("ok", True)
        assert entry["restore_point"].startswith(f"{where}::plain")
        assert 0 < entry["bytes_new"] <= entry["bytes_sent"] == entry["bytes_read"]
    assert house.differences("esx67", "esx80") == []
    assert SECRET not in run.text + json.dumps(house.record(run))
    run = house.controller.play(
        "restore",
        restore_host="esx80",
        restore_vm="plain67",
        restore_program="borg",
        restore_point=where,
        restore_store_passphrase=SECRET,
        restore_datastore="datastore1",
        restore_name="from borg",
        restore_uuid="new",
        restore_mac="new",
    ).must_end_with(0)
    try:
        (entry,) = house.record(run)["vms"]
        assert (entry["status"], entry["restore_point"]) == ("ok", entries["plain67"]["restore_point"])
        (disk,) = entry["disks"]
        assert disk["bytes_sent"] > 0 and "SHA-256" in disk["verified"]
        restored = house.folder("esx80", "from borg")
        assert "one moment" in prove_disks([restored / Path(disk["dest"]).name], tmp_path)
        assert house.differences("esx67", "esx80") == []
    finally:
        house.lab.run("esx80", "vim-cmd", "vmsvc/destroy", str(house.vm("esx80", "from borg")["vmid"]))
