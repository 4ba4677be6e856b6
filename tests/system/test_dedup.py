# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that go from a hypervisor straight into a store, and what comes back out of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import posixpath
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    backup,
    copying,
    ending,
    record,
    recover,
    restore,
    restoring,
    survey,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import NotStill
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy import Order
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.storeplace import DONE, INTENT
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs import dedup, reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import TargetExists
from ansible_collections.stowage.esxi.plugins.module_utils.programs.ladder import Ladder
from ansible_collections.stowage.esxi.plugins.module_utils.store import restore as store_restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import probe
from house import POINT, House
from judge import one_moment, prove_disks, same_content

from . import stories
from .conftest import Lab, wait_until
from .stories import HOST, Story, quick

# A fixture is known by its name in the module that uses it.
before, host, impatient = stories.before, stories.host, stories.impatient
SECRET = "correct horse"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    Store.create(LocalBackend(str(tmp_path / "store")), passphrase=SECRET).close()
    with Stores(Access(passphrase=SECRET)) as opened:
        yield opened


class StoreStory(Story):
    """The same job, told with the copy step of the program dedup."""

    told: Mapping[str, Any] = MappingProxyType({})

    def params(self) -> dict[str, Any]:
        snapshot = next((one.id for one in snapshots.tree(self.vm) if one.name == self.job.snapshot_name), None)
        return {
            "vmid": self.job.vmid,
            "disks": self.job.disk_keys,
            "snapshot_id": snapshot,
            "dest": self.job.final,
            "program": "dedup",
            "disk_format": "thin",
            "include_config": False,
            "verify": "sample",
            "reserve_percent": 0,
            "snapshot_reserve_percent": 1,
            "journal": self.context.folder,
            "job_id": self.job.job,
            "limits_dir": str(Path(self.state) / "limits"),
            "limits_timeout": 60,
            "state_dir": self.state,
        }

    def copy(self) -> None:
        self.told = copying.perform(self.host, self.params(), self.context.stores)

    def commit(self) -> Mapping[str, Any]:
        made, changed = backup.commit(self.context, self.told["disks"])
        assert changed and backup.commit(self.context, []) == (made, False)
        return made

    def end(self, outcome: str = "ok", error: Any = None) -> ending.Ended:
        copies = self.told["disks"] if self.told else ()
        return ending.end(self.context, outcome, error, copies)


@pytest.fixture
def story(
    clean_lab: Lab, host: Host, stores: Stores, tmp_path: Path, before: Any, request: Any
) -> Callable[..., StoreStory]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> StoreStory:
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        # No reserve: how full this machine's own disk is decides nothing here.
        where = {"program": "dedup", "point": str(tmp_path / "store"), "reserve_percent": 0}
        return StoreStory(clean_lab, host, tmp_path, run, how, stores, **where, **policy)

    return make


def points_in(story: StoreStory) -> list[Point]:
    return story.context.stores.open(story.entry["target"]).points()


def raw(story: StoreStory, point: Point, tmp_path: Path) -> Path:
    """The only disk of a point as a plain file, restored by the store alone."""
    target = tmp_path / f"{point.point}.raw"
    store_restore.to_file(story.context.stores.open(story.entry["target"]), point.disks[0], str(target))
    return target


def test_a_machine_goes_into_a_store_hot_warm_and_cold_and_only_what_changed_leaves_the_host(
    story: Callable[..., StoreStory], tmp_path: Path
) -> None:
    sent, told = [], []
    for how in ("hot", "hot", "warm", "cold"):
        job = story(how, keep={"last": 3})
        ended = job.whole()
        assert (ended.error, ended.entry["status"], ended.entry["effective_how"]) == (None, "ok", how)
        assert (ended.entry["downtime_seconds"] is not None) is (how != "hot")
        point = points_in(job)[-1]
        assert ended.entry["restore_point"] == f"{job.entry['target']}::{point.point}"
        verdict = one_moment([raw(job, point, tmp_path)])
        assert bool(verdict.get("clean")) is (how != "hot")
        (disk,) = ended.entry["disks"]
        assert (disk["status"], disk["method"]) == ("ok", "agent")
        assert 0 < disk["bytes_sent"] == ended.entry["bytes_sent"] <= disk["bytes_read"]
        sent.append(disk["bytes_sent"])
        told.append(ended)
    assert max(sent[1:]) < sent[0]
    # The rules of the policy hold, as for restore points on a datastore.
    assert [len(points_in(job)), len(told[-1].rotation["removed"])] == [3, 1]
    assert points_in(job)[1].parent == points_in(job)[0].point
    again = job.end()
    assert (again.changed, again.entry["status"]) == (False, "ok")


@pytest.mark.soak
def test_a_host_without_a_python_that_will_do_is_read_by_its_plain_commands(
    story: Callable[..., StoreStory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "probe", lambda session, _method: probe(session, "shell"))
    job = story("hot")
    ended = job.whole()
    (disk,) = ended.entry["disks"]
    assert (ended.entry["status"], disk["method"]) == ("ok", "shell")
    assert "plain commands" in disk["notes"][0]
    (point,) = points_in(job)
    one_moment([raw(job, point, tmp_path)])
    assert [one for one in survey.processes(job.host.session) if "stowage-shell-" in one.command] == []


def readers(host: Host) -> list[str]:
    """Command lines of our processes that read or write disks there, as recover sees them."""
    return [one.command for one in survey.processes(host.session) if "stowage-agent-" in one.command]


def restore_context(job: StoreStory, run: str, **params: Any) -> Context:
    wishes = {
        "program": "dedup",
        "point": job.entry["target"],
        "vm": job.name,
        "datastore": "datastore1",
        "name": "out of the store",
        "uuid": "new",
        "mac": "new",
        "disk_format": "thin",
        "connect_networks": True,
        "reserve_percent": 5,
        "inventory_host": job.label,
    }
    answer = restore.answer(job.host, {**wishes, **params}, job.context.stores)
    stores = job.context.stores
    return Context(job.host, answer["plan"], run, job.state, job.label, "tests", kind="restore", stores=stores)


def bring_back(job: StoreStory, context: Context, bandwidth_limit: int = 0) -> list[dict[str, Any]]:
    """The copy step of the role, disk by disk."""
    found = []
    for disk in context.entry["disks"]:
        params = {
            "src": disk["src"],
            "dest": disk["dest"],
            "program": context.entry["program"],
            "disk_format": disk["format"],
            "include_config": False,
            "verify": "full",
            "bandwidth_limit": bandwidth_limit,
            "reserve_percent": 5,
            "snapshot_reserve_percent": 5,
            "journal": context.folder,
            "job_id": context.job_id,
            "limits_dir": str(Path(job.state) / "limits"),
            "limits_timeout": 60,
            "state_dir": job.state,
        }
        found += copying.perform(job.host, params, context.stores)["disks"]
    return found


def one_disk_alone(job: StoreStory, point: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes into folders that are made for it; where it fails, they go again."""
    dest = "[datastore1] rescue/deep $(x)/data.vmdk"
    params = {**job.params(), "src": f"{job.entry['target']}::{point.point}/scsi0:0", "dest": dest}
    params = {**params, "vmid": None, "snapshot_id": None, "journal": None, "job_id": None, "disks": []}
    planned = copying.predict(job.host, params, job.context.stores)
    folder = job.outside(posixpath.dirname(planned["disks"][0]["dest"]))
    assert not folder.parent.exists()
    with monkeypatch.context() as patched:
        patched.setattr(store_restore, "to_target", lambda *_words, **_more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            copying.perform(job.host, params, job.context.stores)
    assert not folder.parent.exists()
    try:
        (made,) = copying.perform(job.host, params, job.context.stores)["disks"]
        assert (made["dest"], made["capacity_bytes"]) == (planned["disks"][0]["dest"], point.disks[0].size)
        assert same_content(job.outside(made["dest"]), raw(job, point, tmp_path)) == "Images are identical."
        with pytest.raises(TargetExists):
            copying.perform(job.host, params, job.context.stores)
    finally:
        job.host.run("rm", "-rf", "/vmfs/volumes/datastore1/rescue")


def test_a_machine_comes_back_out_of_a_store_thin_and_starts_and_so_does_one_disk_alone(
    story: Callable[..., StoreStory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = story("cold")
    job.whole()
    (point,) = points_in(job)
    context = restore_context(job, "restore1")
    restoring.start(context)
    (copied,) = bring_back(job, context)
    told, changed = restoring.commit(context, True)
    assert changed and restoring.commit(context, True)[1] is False
    ended = ending.end(context, "ok", None, [copied])
    vm = job.host.find_vm(vmid=told["vmid"])
    try:
        assert (ended.error, ended.entry["status"], vm.name) == (None, "ok", "out of the store")
        assert told["restore_point"] == ended.entry["restore_point"] == f"{job.entry['target']}::{point.point}"
        assert "all" in copied["verified"] and "SHA-256" in copied["verified"]
        restored = job.outside(context.entry["disks"][0]["dest"])
        assert same_content(restored, raw(job, point, tmp_path)) == "Images are identical."
        flat = restored.with_name(restored.name.replace(".vmdk", "-flat.vmdk")).stat()
        assert 0 < flat.st_blocks * 512 < flat.st_size // 2
        assert readers(job.host) == []
        assert power.power_on(vm, quick()).after == "poweredOn"
        assert restore_context(job, "restore2").entry["already"] is True
        one_disk_alone(job, point, tmp_path, monkeypatch)
    finally:
        if vm.power_state() != "poweredOff":
            power.power_off(vm, quick())
        job.host.unregister(vm.vmid)
        job.host.run("rm", "-rf", context.entry["directory"])


@pytest.mark.soak
def test_a_restore_that_is_killed_is_taken_back_whole(story: Callable[..., StoreStory]) -> None:
    job = story("cold")
    job.whole()
    context = restore_context(job, "restore3", disk_format="zeroedthick")
    restoring.start(context)
    bringing = multiprocessing.get_context("fork").Process(target=bring_back, args=(job, context, 256 << 10))
    bringing.start()
    wait_until(lambda: len(readers(job.host)) > 1, "the writers of the disk", 60)
    assert job.outside(context.entry["disks"][0]["dest"]).exists()
    bringing.kill()
    bringing.join()
    lease = job.outside(context.folder) / "lease"
    os.utime(lease, (time.time() - 1000,) * 2)
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left, readers(job.host)) == ("recovered", (), [])
    assert not job.outside(context.entry["directory"]).exists()


def unchanged(path: Path) -> bool:
    before = path.stat().st_mtime_ns
    time.sleep(2)
    return path.stat().st_mtime_ns == before


def clones(job: StoreStory) -> list[str]:
    """The folders of temporary clones on the hypervisor's datastores."""
    said = job.host.session.script("ls -d /vmfs/volumes/*/.stowage-clone-* 2>/dev/null; exit 0").stdout
    return [line for line in said.split("\n") if line]


@pytest.mark.parametrize("way", ["auto", pytest.param("clone", marks=pytest.mark.soak)])
def test_a_copy_that_is_killed_or_stands_still_leaves_no_point_and_recover_undoes_the_rest(
    story: Callable[..., StoreStory], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(dedup, "Ladder", partial(Ladder, way=way))
    job = story("hot")
    job.start()
    job.bracket()
    slow = {**job.params(), "bandwidth_limit": 256 << 10}
    copying_process = multiprocessing.get_context("fork").Process(
        target=copying.perform, args=(job.host, slow, job.context.stores)
    )
    copying_process.start()
    wait_until(lambda: len(readers(job.host)) > 1, "the readers of the disks", 60)
    if way == "clone":
        copying_process.kill()
    else:
        # Worse than dead: its connections stay, and with them its readers.
        os.kill(copying_process.pid, signal.SIGSTOP)
        # A sign of life that was on its way to the host still arrives.
        lease = job.outside(job.context.folder) / "lease"
        wait_until(lambda: unchanged(lease), "the end of the signs of life", 30)
    assert bool(clones(job)) is (way == "clone")
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    copying_process.kill()
    copying_process.join()
    assert any("remote processes" in step for step in found.done) or way == "clone"
    assert (found.outcome, found.left) == ("recovered", ())
    assert any("snapshot" in step for step in found.done)
    assert (readers(job.host), clones(job), points_in(job)) == ([], [], [])
    # What was given up is in nobody's way.
    again = story("hot")
    ended = again.whole()
    (disk,) = ended.entry["disks"]
    assert (ended.entry["status"], disk["method"]) == ("ok", "agent" if way == "auto" else "clone")
    assert ["clone" in note for note in disk["notes"]] == ([True] if way == "clone" else [])
    assert (readers(job.host), clones(job), len(points_in(job))) == ([], [], 1)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["hot", "cold"])
@pytest.mark.parametrize(
    ("event", "after", "there"),
    [
        ("process", False, 0),
        ("process", True, 0),
        (INTENT, False, 0),
        (INTENT, True, 0),
        (DONE, False, 1),
        (DONE, True, 1),
        ("commit-done", False, 1),
    ],
)
def test_whatever_a_job_was_writing_down_when_it_was_killed_recover_leaves_nothing_and_loses_no_point(
    story: Callable[..., StoreStory], monkeypatch: pytest.MonkeyPatch, how: str, event: str, after: bool, there: int
) -> None:
    job = story(how)
    job.start()
    job.bracket()
    note = IntentLog.note

    def dies(log: IntentLog, name: str, **data: Any) -> None:
        if name == event and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        note(log, name, **data)
        if name == event:
            os.kill(os.getpid(), signal.SIGKILL)

    def rest() -> None:
        monkeypatch.setattr(IntentLog, "note", dies)
        job.copy()
        job.commit()

    process = multiprocessing.get_context("fork").Process(target=rest)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left) == ("recovered", ())
    made = points_in(job)
    assert (len(made), readers(job.host)) == (there, [])
    entry = record.read_entry(job.state, job.context.run_id, HOST, job.entry["identity"])
    wanted = f"{job.entry['target']}::{made[0].point}" if made else None
    assert entry is not None and (entry["status"], entry["restore_point"]) == ("interrupted", wanted)
    assert story(how).whole().entry["status"] == "ok"


def test_a_source_that_moved_makes_no_point(story: Callable[..., StoreStory], monkeypatch: pytest.MonkeyPatch) -> None:
    job = story("hot")
    job.start()
    job.bracket()
    proven = Order.proven

    def meddle(order: Order, *words: Any) -> Mapping[str, Any]:
        """Somebody removes our snapshot when all has been read, right before it is proven."""
        (ours,) = (one.id for one in snapshots.tree(job.vm) if one.name == job.job.snapshot_name)
        # The host cannot merge what our readers hold: the entry goes, and it says that it has failed.
        job.host.session.run(["vim-cmd", "vmsvc/snapshot.remove", str(job.job.vmid), str(ours)])
        wait_until(lambda: snapshots.tree(job.vm).find(ours) is None, "the end of our snapshot")
        return proven(order, *words)

    monkeypatch.setattr(Order, "proven", meddle)
    with pytest.raises(NotStill, match="is gone"):
        job.copy()
    ended = job.end("failed", "on purpose")
    assert (ended.error, points_in(job), readers(job.host)) == (None, [], [])


def over_the_restored_machine(house: House, disk: Path, tmp_path: Path) -> None:
    """Somebody has written to it: it comes back in place, what he wrote is kept, and nothing else is written."""
    with open(disk.with_name(disk.stem + "-flat.vmdk"), "r+b") as flat:
        flat.seek((8 << 20) + 4711)
        flat.write(os.urandom(4096))
    run = house.controller.play(
        "restore",
        restore_host="esx80",
        restore_vm="plain67",
        restore_program="dedup",
        restore_point="/var/stowage-store",
        restore_store_passphrase=SECRET,
        restore_name="from the store",
        restore_in_place=True,
        restore_uuid="new",
        restore_mac="new",
    ).must_end_with(0)
    (entry,) = house.record(run)["vms"]
    assert (entry["status"], entry["disks"][0]["bytes_sent"]) == ("ok", 1 << 20)
    assert entry["safety_point"].startswith("/var/stowage-store::") and entry["safety_point"] in run.text
    assert "what its disks hold now becomes a restore point" in run.text
    assert "one moment" in prove_disks([disk], tmp_path)
    assert house.differences("esx80") == []


# What an inventory says, so that the program alone decides.
EITHER = "{{ '/var/stowage-store' if backup_program == 'dedup' else '" + POINT + "' }}"


@pytest.mark.soak
def test_one_variable_switches_a_fleet_to_a_store_and_its_machines_come_back(house: House, tmp_path: Path) -> None:
    run = house.controller.play(
        "backup_hot",
        *("--limit", "esx67,esx80"),
        backup_select=["name:plain67", "name:plain80"],
        backup_unknown_names="ignore",
        backup_program="dedup",
        backup_point=EITHER,
        backup_store_create=True,
        backup_store_passphrase=SECRET,
        backup_reserve_percent=0,
    ).must_end_with(0)
    assert "at most" in run.text and "new in the store" in run.text
    entries = {vm["vm"]: vm for vm in house.record(run)["vms"]}
    assert set(entries) == {"plain67", "plain80"}
    for entry in entries.values():
        assert (entry["status"], entry["proven"]) == ("ok", True)
        assert entry["restore_point"].startswith("/var/stowage-store::")
        assert 0 < entry["bytes_new"] <= entry["bytes_sent"] <= entry["bytes_read"] and entry["bytes"] > 0
    assert house.differences("esx67", "esx80") == []
    assert SECRET not in run.text + json.dumps(house.record(run))

    run = house.controller.play(
        "restore",
        restore_host="esx80",
        restore_vm="plain67",
        restore_program="dedup",
        restore_point="/var/stowage-store",
        restore_store_passphrase=SECRET,
        restore_datastore="datastore1",
        restore_name="from the store",
        restore_uuid="new",
        restore_mac="new",
    ).must_end_with(0)
    try:
        (entry,) = house.record(run)["vms"]
        assert (entry["status"], entry["restore_point"]) == ("ok", entries["plain67"]["restore_point"])
        (disk,) = entry["disks"]
        assert disk["bytes_sent"] > 0 and "chunks" in disk["verified"]
        restored = house.folder("esx80", "from the store")
        assert "one moment" in prove_disks([restored / Path(disk["dest"]).name], tmp_path)
        over_the_restored_machine(house, restored / Path(disk["dest"]).name, tmp_path)
        assert house.differences("esx67", "esx80") == []
    finally:
        house.lab.run("esx80", "vim-cmd", "vmsvc/destroy", str(house.vm("esx80", "from the store")["vmid"]))
