# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores over a machine that is there: only what differs is written, and whoever dies meanwhile leaves no doubt."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import NotAllowed
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import (
    backup,
    copying,
    ending,
    inplace,
    inplacing,
    planning,
    record,
    recover,
    torn,
)
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.backup import Context
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import TEAR
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import RestoreRefused, VmTorn
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.overwriting import Overwriting
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.restoreplanning import text
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.stores import Stores
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotetarget import RemoteTarget
from judge import one_moment

from . import stories, test_dedup
from .conftest import Lab, wait_until
from .stories import HOST, NAME, quick
from .test_dedup import StoreStory, points_in, raw, readers

# A fixture is known by its name in the module that uses it.
before, host, impatient = stories.before, stories.host, stories.impatient
stores, story = test_dedup.stores, test_dedup.story
CHUNK = 1 << 20


class Machine:
    """The machine of the tests: backed up, and then off, with other content."""

    def __init__(self, job: StoreStory, tmp_path: Path) -> None:
        self.job, self.tmp_path = job, tmp_path
        self.vm = job.vm
        (disk,) = self.vm.disks()
        assert disk.chain is not None
        self.descriptor = job.outside(disk.path)
        self.flat = job.outside(disk.chain.extent_paths[0])
        self.mark = job.outside(f"{self.vm.directory}/{torn.NAME}")
        power.power_off(self.vm, quick())
        job.whole()
        self.point: Point = points_in(job)[-1]
        self.wanted = raw(job, self.point, tmp_path)
        self.path = f"{job.entry['target']}::{self.point.point}"

    def change(self, chunks: int, seed: int = 1) -> int:
        """So many chunks get other bytes; returns how many chunks differ then."""
        chance = random.Random(seed)
        size = self.flat.stat().st_size
        with open(self.flat, "r+b") as file:
            for chunk in chance.sample(range(size // CHUNK), chunks):
                file.seek(chunk * CHUNK + chance.randrange(CHUNK - 4096))
                file.write(chance.randbytes(4096))
        return self.differing()

    def differing(self) -> int:
        with open(self.flat, "rb") as one, open(self.wanted, "rb") as other:
            return sum(1 for a in iter(lambda: one.read(CHUNK), b"") if a != other.read(CHUNK))

    def kept(self) -> Path:
        copy = self.tmp_path / "kept.raw"
        shutil.copyfile(self.flat, copy)
        return copy

    def plan(self, run: str, **params: Any) -> Context:
        wishes = {
            "program": "dedup",
            "point": self.job.entry["target"],
            "vm": NAME,
            "uuid": "keep",
            "mac": "keep",
            "connect_networks": True,
            "reserve_percent": 5,
            "in_place": True,
            "safety_point": True,
            "replica_touched": "refuse",
            "inventory_host": HOST,
        }
        params = {**wishes, **params}
        inplace.check_request(params)
        answer = inplace.answer(self.job.host, params, self.job.context.stores)
        stores = self.job.context.stores
        context = Context(
            self.job.host, answer["plan"], run, self.job.state, HOST, "tests", kind="restore", stores=stores
        )
        assert context.entry["already"] or "Only chunks that differ" in text(context.entry)
        return context

    def params(self, context: Context, **more: Any) -> dict[str, Any]:
        common = {
            "program": "dedup",
            "disk_format": "thin",
            "include_config": False,
            "verify": "full",
            "bandwidth_limit": 0,
            "reserve_percent": 0,
            "snapshot_reserve_percent": 1,
            "journal": context.folder,
            "job_id": context.job_id,
            "limits_dir": str(Path(self.job.state) / "limits"),
            "limits_timeout": 60,
            "state_dir": self.job.state,
        }
        return {**common, **more}

    def keep(self, context: Context) -> None:
        job = inplacing.start(context)[0]
        if context.entry["in_place"]["safety_point"]:
            vmid, keys = self.vm.vmid, job.disk_keys
            copying.perform(self.job.host, self.params(context, vmid=vmid, disks=keys, dest=job.final), context.stores)

    def write(self, context: Context, **more: Any) -> list[dict[str, Any]]:
        found = []
        for disk in context.entry["disks"]:
            words = self.params(context, src=disk["src"], dest=disk["dest"], in_place=True, **more)
            found += copying.perform(self.job.host, words, context.stores)["disks"]
        return found

    def whole(self, context: Context) -> tuple[dict[str, Any], ending.Ended]:
        self.keep(context)
        (disk,) = self.write(context)
        view, changed = inplacing.commit(context)
        assert changed and inplacing.commit(context) == (view, False)
        return disk, ending.end(context, "ok", None, [disk])

    def killed(self, context: Context, act: Callable[[], Any], when: Callable[[], Any]) -> None:
        """In a process of its own, which is killed at that moment."""
        process = multiprocessing.get_context("fork").Process(target=act)
        process.start()
        wait_until(when, "the moment to kill it", 60)
        process.kill()
        process.join()

    def cut(self, context: Context) -> None:
        lease = self.job.outside(context.folder) / "lease"
        os.utime(lease, (time.time() - 1000,) * 2)

    def recovered(self, stores: Stores | None) -> recover.Outcome:
        (found,) = recover.recover_host(self.job.host, HOST, self.job.state, 0.1, 60, stores=stores)
        return found

    def is_whole(self) -> bool:
        return (self.differing(), self.mark.exists(), readers(self.job.host)) == (0, False, [])


@pytest.fixture
def machine(story: Callable[..., StoreStory], tmp_path: Path) -> Iterator[Machine]:
    made = Machine(story("cold"), tmp_path)
    yield made
    if made.vm.power_state() == "poweredOff":
        power.power_on(made.vm, quick())


def test_only_what_differs_is_written_and_what_was_there_comes_back_byte_for_byte(machine: Machine) -> None:
    differing = machine.change(1)
    assert differing == 1
    before, allocated = machine.kept(), machine.flat.stat().st_blocks
    context = machine.plan("inplace1")
    disk, ended = machine.whole(context)
    assert (ended.error, ended.entry["status"], machine.is_whole()) == (None, "ok", True)
    assert (disk["sent_bytes"], disk["copied_bytes"]) == (CHUNK, CHUNK)
    assert disk["sent_bytes"] + disk["same_bytes"] == disk["capacity_bytes"] > disk["read_bytes"] > CHUNK
    assert "all" in disk["verified"]
    one_moment([machine.flat])
    # Thin stays thin.
    assert machine.flat.stat().st_blocks <= allocated + CHUNK // 512 < machine.flat.stat().st_size // 512
    safety = ended.entry["safety_point"]
    assert safety.startswith(f"{machine.job.entry['target']}::") and safety != machine.path
    assert any(safety in line and "restore_in_place=true" in line for line in ended.entry["warnings"])
    assert (ended.entry["restore_point"], machine.plan("inplace2").entry["already"]) == (machine.path, True)
    # By its name alone: the newest of the machine is still what was restored.
    back = machine.plan("inplace3", point=safety, safety_point=False)
    assert back.entry["restore_point"]["path"] == safety and back.entry["already"] is False
    disk, ended = machine.whole(back)
    assert (ended.entry["status"], ended.entry["safety_point"], disk["sent_bytes"]) == ("ok", None, CHUNK)
    assert machine.flat.read_bytes() == before.read_bytes()
    # The machine is its own again: it starts, and what it then writes makes it no longer the one that was restored.
    assert power.power_on(machine.vm, quick()).after == "poweredOn"
    with pytest.raises(RestoreRefused, match="is poweredOn"):
        machine.plan("inplace4")
    power.power_off(machine.vm, quick())
    again = machine.plan("inplace5", point=safety)
    assert again.entry["already"] is False


def test_what_stands_on_its_disks_or_runs_on_them_refuses(machine: Machine) -> None:
    vm, host = machine.vm, machine.job.host
    snapshots.create(vm, "of the user", waiter=quick())
    try:
        with pytest.raises(RestoreRefused, match="has snapshots") as caught:
            machine.plan("refused1")
        assert "'of the user'" in caught.value.message and "remove its snapshots" in caught.value.hint_text
    finally:
        (number,) = (one.id for one in snapshots.tree(vm))
        snapshots.remove(vm, number or 0, waiter=quick())
    folder = f"{os.path.dirname(vm.directory)}/a clone $(x)"
    parent = f"{vm.directory}/{machine.descriptor.name}"
    host.run("mkdir", folder)
    try:
        text = host.read_text(parent)
        cid = next(line for line in text.split("\n") if line.startswith("CID=")).partition("=")[2]
        child = text.replace("parentCID=ffffffff", f'parentCID={cid}\nparentFileNameHint="{parent}"')
        host.session.write_text(f"{folder}/clone.vmdk", child)
        with pytest.raises(RestoreRefused, match="linked clone"):
            machine.plan("refused2")
    finally:
        host.run("rm", "-rf", folder)
    context = machine.plan("refused3")
    machine.change(2)
    machine.keep(context)
    # It is started between the plan and the first byte: nothing of it is touched.
    power.power_on(vm, quick())
    with pytest.raises(Exception, match="is poweredOn|has started it|in use|busy"):
        machine.write(context)
    assert not machine.mark.exists()
    ended = ending.end(context, "failed", "on purpose")
    assert (ended.error, ended.entry["status"]) == (None, "failed")


def test_a_kill_in_the_middle_leaves_it_torn_for_everybody_until_recover_makes_it_whole(machine: Machine) -> None:
    machine.change(24)
    context = machine.plan("killed1")
    machine.keep(context)
    machine.killed(context, lambda: machine.write(context, bandwidth_limit=256 << 10), machine.mark.exists)
    assert machine.differing() > 0
    host, job = machine.job.host, machine.job
    with pytest.raises(NotAllowed, match=r"restore in place was not finished.*stowage\.esxi\.recover"):
        power.power_on(machine.vm, quick())
    wishes = {"program": "dedup", "point": job.entry["target"], "select": [NAME], "how": "cold"}
    (entry,) = planning.plan_backup(host, wishes, "killed2", HOST, {}, context.stores).as_dict()["vms"]
    assert [one["id"] for one in entry["problems"]] == ["vm-torn"] and entry["ready"] is False
    with pytest.raises(VmTorn, match="is torn") as caught:
        backup.start(Context(host, job.entry, "killed3", job.state, HOST, "tests", stores=context.stores))
    safety = machine.recovered(None)
    assert safety.outcome == "live"
    machine.cut(context)
    # Without the store, and from another backup server with another state: it is named, with the way out.
    named = machine.recovered(None)
    assert (named.outcome, readers(host)) == ("failed", [])
    assert "is torn" in named.left[-1] and "restore the VM in place again" in named.left[-1]
    assert caught.value.data["back"] in named.left[-1] and "restored in place" in caught.value.data["back"]
    assert machine.mark.exists()
    found = machine.recovered(context.stores)
    assert (found.outcome, found.left, machine.is_whole()) == ("recovered", (), True)
    assert "finished the restore in place" in found.done[-1]
    told = record.read_entry(job.state, "killed1", HOST, context.entry["identity"], "restore")
    assert told is not None and (told["status"], told["restore_point"]) == ("interrupted", machine.path)
    assert machine.plan("killed4").entry["already"] is True
    assert power.power_on(machine.vm, quick()).after == "poweredOn"


@pytest.mark.soak
def test_what_fails_in_the_middle_is_told_and_the_next_restore_in_place_takes_its_place(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.change(8)
    context = machine.plan("failed1")
    machine.keep(context)
    with monkeypatch.context() as patched:
        # The bytes are written, and then the store, the wire or whatever fails.
        patched.setattr(RemoteTarget, "sync", lambda _target: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            machine.write(context)
    ended = ending.end(context, "failed", "on purpose")
    assert isinstance(ended.error, VmTorn) and ended.entry["status"] == "failed"
    safety = ended.entry["safety_point"]
    assert safety and any(safety in line for line in ended.left)
    again = machine.plan("failed2")
    assert again.entry["in_place"]["torn"] and not again.entry["in_place"]["safety_point"]
    assert any("takes the place of" in note and safety in note for note in again.entry["notes"])
    assert again.entry["restore_point"]["path"] == machine.path
    _disk, ended = machine.whole(again)
    assert (ended.entry["status"], ended.entry["safety_point"], machine.is_whole()) == ("ok", safety, True)


@pytest.mark.soak
def test_a_connection_that_is_cut_while_it_writes_is_made_again(machine: Machine, clean_lab: Lab) -> None:
    machine.change(30)
    context = machine.plan("cut1", safety_point=False)
    machine.keep(context)
    clean_lab.fault(HOST, "cut", mode="reset", after_bytes="6M")
    try:
        (disk,) = machine.write(context)
    finally:
        clean_lab.clear()
    assert disk["sent_bytes"] >= 30 * CHUNK
    inplacing.commit(context)
    assert ending.end(context, "ok", None, [disk]).entry["status"] == "ok"
    assert machine.is_whole()


STEPS = {
    "before the mark is noted": (IntentLog, "note", lambda words: words[1] == TEAR, True),
    "before the mark": (torn, "write", None, True),
    "after the mark": (torn, "write", None, False),
    "before the configuration": (Overwriting, "_new_content", None, True),
    "after it": (Host, "vim", lambda words: words[1] == "vmsvc/reload", False),
    "before the mark goes": (torn, "remove", None, True),
    "after the mark went": (torn, "remove", None, False),
    "after the commit": (IntentLog, "note", lambda words: words[1] == "commit-done", False),
}


@pytest.mark.parametrize(
    "step", [step if step == "after the commit" else pytest.param(step, marks=pytest.mark.soak) for step in STEPS]
)
def test_whatever_was_done_when_it_was_killed_recover_makes_it_whole_or_finds_it_so(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    machine.change(6)
    context = machine.plan(f"step{list(STEPS).index(step)}", safety_point=False)
    machine.keep(context)
    room, name, meant, first = STEPS[step]
    real = getattr(room, name)

    def dies(*words: Any, **more: Any) -> Any:
        hit = meant is None or meant(words)
        if hit and first:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(*words, **more)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    def rest() -> None:
        monkeypatch.setattr(room, name, dies)
        machine.write(context)
        inplacing.commit(context)

    process = multiprocessing.get_context("fork").Process(target=rest)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    begun = step != "before the mark is noted"
    # Nothing was written yet, or there is a sign of it that outlives everybody.
    assert machine.mark.exists() or not begun or step in ("after the mark went", "before the mark")
    machine.cut(context)
    found = machine.recovered(context.stores)
    assert (found.outcome, found.left) == ("recovered", ())
    assert machine.is_whole() is begun and not machine.mark.exists()
