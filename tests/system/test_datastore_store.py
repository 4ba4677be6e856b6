# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store on a datastore of the hypervisor, a local backup point: its own agents pack it, and Linux opens it later."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import ending, planning, recover, restoring
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Access, Stores
from ansible_collections.stowage.esxi.plugins.module_utils.programs.hoststore import backend_on
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, verify, wish
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BackendFailed
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Index
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import probe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import StoreLink
from house import House
from judge import one_moment, prove_disks, same_content

from . import stories
from .conftest import Lab
from .stories import HOST, NAME, quick
from .test_dedup import StoreStory, bring_back, points_in, raw, readers, restore_context

before, host, impatient = stories.before, stories.host, stories.impatient
# The VM's own disks lie elsewhere: a full datastore stops every VM on it.
DATASTORE = "shared"
PLACE = f"/vmfs/volumes/{DATASTORE}/stowage-store"


@pytest.fixture
def stores(host: Host) -> Iterator[Stores]:
    """A store of the host's own, made as dedup_store makes one."""
    backend = backend_on(host, PLACE)
    decided = wish.plan(backend, wish.Wish(), wish.look(backend, wish.Wish()))
    wish.run(backend, wish.Wish(), decided, None, {})
    backend.close()
    with Stores(Access(), host) as opened:
        yield opened
    host.run("rm", "-rf", PLACE)


@pytest.fixture
def story(
    clean_lab: Lab, host: Host, stores: Stores, tmp_path: Path, before: Any, request: Any
) -> Callable[..., StoreStory]:
    number = iter(range(100))

    def make(how: str = "hot", **policy: Any) -> StoreStory:
        run = f"{abs(hash(request.node.name)) % 10**8:08d}-{next(number)}"
        return StoreStory(clean_lab, host, tmp_path, run, how, stores, program="dedup", point=PLACE, **policy)

    return make


def on_linux(job: StoreStory, folder: Path) -> Store:
    """The folder copied to another machine, and opened there."""
    shutil.copytree(job.outside(PLACE), folder)
    return Store.open(LocalBackend(str(folder)))


def test_a_machine_is_backed_up_twice_comes_back_and_linux_opens_a_copy_of_the_folder(
    story: Callable[..., StoreStory], tmp_path: Path
) -> None:
    entries = []
    for how in ("hot", "hot"):
        job = story(how)
        ended = job.whole()
        assert (ended.error, ended.entry["status"], ended.entry["effective_how"]) == (None, "ok", how)
        (disk,) = ended.entry["disks"]
        # No byte of a disk has come here, and what is new lies there.
        assert (disk["status"], disk["method"], disk["bytes_sent"]) == ("ok", "agent", 0)
        assert "packed there" in disk["verified"]
        entries.append(ended.entry)
    first, second = points_in(job)
    assert second.parent == first.point and entries[1]["restore_point"] == f"{PLACE}::{second.point}"
    assert 0 < entries[1]["bytes_new"] < entries[0]["bytes_new"]
    with closing(on_linux(job, tmp_path / "copied")) as copied:
        report = verify.run(copied, deep=True)
        assert report.ok and [one.point for one in copied.points()] == [first.point, second.point]
    here = raw(job, second, tmp_path)
    one_moment([here])
    by_hand = tmp_path / "by-hand.raw"
    words = [sys.executable, "-I", str(tmp_path / "copied/reader.py"), str(tmp_path / "copied"), second.point]
    subprocess.run([*words, "scsi0:0", str(by_hand)], check=True)
    assert by_hand.read_bytes() == here.read_bytes()
    there = verify.run(job.context.stores.open(PLACE), deep=True)
    assert (there.ok, there.records, there.proven) == (True, report.records, report.proven)

    context = restore_context(job, "restore1")
    restoring.start(context)
    (brought,) = bring_back(job, context)
    # Nor has any that came back: the agents of the new disk took all of it out of the packs.
    assert (brought["sent_bytes"], brought["fetched_bytes"]) == (0, 0) < (brought["copied_bytes"], 0)
    told, _changed = restoring.commit(context, True)
    ended = ending.end(context, "ok", None, [brought])
    vm = job.host.find_vm(vmid=told["vmid"])
    try:
        assert (ended.error, ended.entry["status"], told["restore_point"]) == (None, "ok", f"{PLACE}::{second.point}")
        assert same_content(job.outside(context.entry["disks"][0]["dest"]), here) == "Images are identical."
        assert power.power_on(vm, quick()).after == "poweredOn"
    finally:
        if vm.power_state() != "poweredOff":
            power.power_off(vm, quick())
        job.host.unregister(vm.vmid)
        job.host.run("rm", "-rf", context.entry["directory"])
    # Those of the store itself hold no disk, and end with it.
    job.context.stores.close()
    assert readers(job.host) == []


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[StoreLink], None], number: int = 1) -> list[int]:
    """Something happens when chunks are about to be packed for the nth time."""
    asked: list[int] = []
    keep = StoreLink.keep_chunks

    def then(link: StoreLink, *words: Any) -> Any:
        asked.append(link.pid)
        answer = keep(link, *words)
        if len(asked) == number:
            act(link)
        return answer

    monkeypatch.setattr(StoreLink, "keep_chunks", then)
    return asked


@pytest.mark.parametrize("trouble", ["killed", pytest.param("cut", marks=pytest.mark.soak)])
def test_a_killed_agent_and_a_cut_link_cost_a_moment_and_no_byte(
    story: Callable[..., StoreStory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    job = story("hot")
    machine = job.lab.host(HOST)

    def act(link: StoreLink) -> None:
        if trouble == "killed":
            machine.run(f"kill -9 {link.pid}")
        else:
            machine.fault("cut", mode="reset")

    asked = meanwhile(monkeypatch, act)
    ended = job.whole()
    machine.clear()
    assert (ended.error, ended.entry["status"]) == (None, "ok") and len(set(asked)) > 1
    (point,) = points_in(job)
    one_moment([raw(job, point, tmp_path)])
    with closing(on_linux(job, tmp_path / "copied")) as copied:
        assert verify.run(copied, deep=True).ok
    assert list(job.outside(PLACE).rglob(".tmp-*")) == []


def test_a_full_datastore_ends_the_copy_and_every_earlier_point_comes_back(
    story: Callable[..., StoreStory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = story("cold")
    first.whole()
    (point,) = points_in(first)
    kept = raw(first, point, tmp_path).read_bytes()
    job = story("hot")
    job.start()
    job.bracket()
    machine = job.lab.host(HOST)
    with monkeypatch.context() as patched:
        # All is new, and there is no room for it.
        patched.setattr("ansible_collections.stowage.esxi.plugins.module_utils.jobs.storecopy.newest", lambda *_: None)
        patched.setattr(Store, "index", lambda store, fresh=False: Index())
        meanwhile(patched, lambda _link: machine.fault("datastore_full", datastore=DATASTORE, leave=1 << 16))
        with pytest.raises(BackendFailed, match="No space left"):
            job.copy()
    machine.clear()
    ended = job.end("failed", "on purpose")
    assert ended.error is None and [one.point for one in points_in(job)] == [point.point]
    assert raw(job, point, tmp_path).read_bytes() == kept
    with closing(on_linux(job, tmp_path / "copied")) as copied:
        assert verify.run(copied, deep=True).ok
    again = story("hot")
    assert again.whole().entry["status"] == "ok"
    collect.run(again.context.stores.open(PLACE), observe_seconds=0)
    assert verify.run(again.context.stores.open(PLACE)).ok


@pytest.mark.soak
def test_a_run_that_is_killed_leaves_no_point_and_recover_needs_no_store(
    story: Callable[..., StoreStory], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = story("hot")
    job.start()
    job.bracket()

    def rest() -> None:
        meanwhile(monkeypatch, lambda _link: os.kill(os.getpid(), signal.SIGKILL))
        job.copy()

    process = multiprocessing.get_context("fork").Process(target=rest)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert (found.outcome, found.left, points_in(job)) == ("recovered", (), [])
    assert story("hot").whole().entry["status"] == "ok"


def problems(host: Host, stores: Stores, point: str) -> list[str]:
    """What a plan says against a store; nothing is changed by it."""
    wishes = {"program": "dedup", "point": point, "select": [NAME]}
    plan = planning.plan_backup(host, wishes, "plan1", HOST, {}, stores).as_dict()
    return [one["message"] for vm in plan["vms"] for one in vm["problems"]] + [
        one["error"]["message"] for one in plan["problems"]
    ]


def test_a_plan_refuses_what_such_a_store_cannot_be(
    clean_lab: Lab, host: Host, stores: Stores, before: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems(host, stores, PLACE) == []
    (nowhere,) = problems(host, stores, "/vmfs/volumes/datastore1/nobody's")
    assert "There is no store at /vmfs/volumes/datastore1/nobody's on" in nowhere
    (unknown,) = problems(host, stores, "/vmfs/volumes/none/store")
    assert "there is no datastore named 'none'" in unknown
    with Stores(Access(create=True, passphrase="x"), host) as secret:
        (encrypted,) = problems(host, secret, "/vmfs/volumes/datastore1/new")
        assert "cannot be encrypted: it lies on a hypervisor" in encrypted
    Store.create(LocalBackend(str(tmp_path / "locked")), passphrase="correct horse").close()
    outside = clean_lab.host(HOST).volume_path("datastore1")
    shutil.copytree(tmp_path / "locked", outside / "locked")
    try:
        with Stores(Access(passphrase="correct horse"), host) as secret:
            assert "cannot be encrypted" in problems(host, secret, "/vmfs/volumes/datastore1/locked")[0]
        assert "cannot be encrypted" in problems(host, stores, "/vmfs/volumes/datastore1/locked")[0]
    finally:
        shutil.rmtree(outside / "locked")
    monkeypatch.setattr(probe, "PLACES", ("/bin/no-python-at-all",))
    with Stores(Access(), host) as fresh:
        (old,) = problems(host, fresh, PLACE)
    assert f"cannot keep the store {PLACE}: that takes a Python 3 of its own" in old


@pytest.mark.soak
def test_a_play_makes_the_store_on_a_shared_datastore_and_both_hosts_use_it(house: House, tmp_path: Path) -> None:
    place = "/vmfs/volumes/backup/stowage store"
    run = house.controller.play(
        "backup_hot",
        *("--limit", "esx67,esx80"),
        backup_select=["name:plain67", "name:plain80"],
        backup_unknown_names="ignore",
        backup_program="dedup",
        backup_point=place,
        backup_store_create=True,
    ).must_end_with(0)
    entries = {vm["vm"]: vm for vm in house.record(run)["vms"]}
    assert set(entries) == {"plain67", "plain80"}
    for entry in entries.values():
        assert (entry["status"], entry["proven"], entry["bytes_sent"]) == ("ok", True, 0)
        assert entry["restore_point"].startswith(f"{place}::") and 0 < entry["bytes_new"] <= entry["bytes_read"]
    assert house.differences("esx67", "esx80") == []
    run = house.controller.play(
        "restore",
        restore_host="esx80",
        restore_vm="plain67",
        restore_program="dedup",
        restore_point=place,
        restore_datastore="datastore1",
        restore_name="from the store",
        restore_uuid="new",
        restore_mac="new",
    ).must_end_with(0)
    try:
        (entry,) = house.record(run)["vms"]
        assert (entry["status"], entry["restore_point"]) == ("ok", entries["plain67"]["restore_point"])
        restored = house.folder("esx80", "from the store")
        (disk,) = entry["disks"]
        assert "one moment" in prove_disks([restored / Path(disk["dest"]).name], tmp_path)
    finally:
        house.lab.run("esx80", "vim-cmd", "vmsvc/destroy", str(house.vm("esx80", "from the store")["vmid"]))
        house.lab.run("esx80", "rm", "-rf", place)
