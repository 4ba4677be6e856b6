# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that are cut at every step, and jobs that live: what recover and the next run make of them."""

from __future__ import annotations

import os
import posixpath
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, record, recover, runlife
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import LockLost, VmLocked
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import ConnectionLost

from . import stories
from .stories import HOST, listed, quick

# A fixture is known by its name in the module that uses it.
before, host, impatient, story = stories.before, stories.host, stories.impatient, stories.story


def test_a_living_job_keeps_others_away_and_they_touch_nothing(story: Any) -> None:
    first, second = story(), story()
    first.start()
    with pytest.raises(VmLocked) as caught:
        second.start()
    assert first.job.job in caught.value.message
    refused = second.end("failed", caught.value.as_dict())
    assert (refused.entry["status"], refused.entry["error"]["id"]) == ("failed", "vm-locked")
    assert recover.recover_host(first.host, HOST, first.state, 0.1, 60)[0].outcome == "live"
    assert first.end("failed", "given up").error is None


def test_a_silent_job_whose_run_goes_on_is_taken_over_by_nobody_until_the_run_is_silent_too(story: Any) -> None:
    waiting, other = story(), story()
    waiting.start()
    waiting.cut()
    runlife.RunLife(waiting.state, waiting.context.run_id).beat()
    for check in (True, False):
        assert recover.recover_host(waiting.host, HOST, waiting.state, 0.1, 60, check)[0].outcome == "live"
    with pytest.raises(VmLocked):
        other.start()
    backup.must_hold(waiting.context)
    waiting.cut()
    then = time.time() - waiting.job.lease_seconds - 1
    os.utime(runlife.sign_path(waiting.state, waiting.context.run_id), (then, then))
    assert recover.recover_host(waiting.host, HOST, waiting.state, 0.1, 60)[0].outcome == "recovered"


def slept(job: Any, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> list[float]:
    """The pauses of the one that looks; in each of them something happens, and no time is lost."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        if seconds >= 20:
            pauses.append(seconds)
            meanwhile()
        else:
            time.sleep(seconds)

    monkeypatch.setattr(job.host.clock, "sleep", sleep)
    return pauses


def test_a_dead_job_whose_hosts_clock_was_put_back_is_recovered_after_its_lease(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = story()
    job.start()
    job.snap()
    job.cut(-100000)
    pauses = slept(job, monkeypatch, lambda: None)
    assert recover.recover_host(job.host, HOST, job.state, 20, 120)[0].outcome == "recovered"
    assert pauses == [job.job.lease_seconds + 1]


@pytest.mark.parametrize("ahead", [-100000, 1000])
def test_a_living_job_is_known_by_its_beat_wherever_the_clocks_stand(
    story: Any, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    job = story()
    job.start()
    # Another backup server's: nothing but its lease tells of it here.
    lock.write_job(job.host.session, job.context.folder, replace(job.job, backup_server="elsewhere"))
    job.cut(ahead)
    pauses = slept(job, monkeypatch, job.log.beat)
    assert recover.recover_host(job.host, HOST, job.state, 20, 120)[0].outcome == "live"
    assert len(pauses) == 1
    assert job.end("failed", "given up").error is None


def test_a_dead_job_is_undone_by_the_next_one(story: Any) -> None:
    dead = story()
    dead.start()
    dead.snap()
    dead.cut()
    assert story().whole().entry["status"] == "ok"
    entry = record.read_entry(dead.state, dead.context.run_id, HOST, dead.entry["identity"])
    assert entry is not None and entry["status"] == "interrupted"
    with pytest.raises(LockLost):
        dead.commit()


CUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "after the lock": ("hot", ()),
    "after the snapshot": ("hot", ("snap",)),
    "after the copy": ("hot", ("snap", "copy")),
    "while it is off": ("cold", ("stop",)),
    "cold after the copy": ("cold", ("stop", "copy")),
    "warm while it is off": ("warm", ("stop", "snap")),
    "warm after the copy": ("warm", ("bracket", "copy")),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_job_that_is_cut_anywhere_is_recovered_to_what_was(story: Any, cut: str) -> None:
    how, steps = CUTS[cut]
    job = story(how)
    known = listed(job.host)
    job.start()
    for step in steps:
        getattr(job, step)()
    job.cut()
    preview = recover.recover_host(job.host, HOST, job.state, 0.1, 120, check=True)
    assert [one.outcome for one in preview] == ["recovered"]
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert (found.outcome, found.error) == ("recovered", None)
    assert len(found.done) == len(preview[0].done)
    assert listed(job.host) == known
    assert recover.recover_host(job.host, HOST, job.state, 0.1, 120) == []


def test_a_job_that_was_cut_after_the_commit_keeps_its_restore_point(story: Any) -> None:
    job = story()
    job.start()
    job.bracket()
    job.copy()
    job.commit()
    job.cut()
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    assert found.outcome == "recovered" and job.job.final in listed(job.host)
    entry = record.read_entry(job.state, job.context.run_id, HOST, job.entry["identity"])
    assert entry is not None and (entry["status"], entry["restore_point"]) == ("interrupted", job.job.final)


@pytest.mark.parametrize("by", ["the run itself", "recover"])
def test_a_commit_whose_answer_was_lost_is_told_as_what_it_is(
    story: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    job = story()
    job.start()
    job.bracket()
    job.copy()
    note = IntentLog.note

    def lost(log: IntentLog, event: str, **data: Any) -> None:
        if event == "commit-done":
            raise ConnectionLost(host=HOST, port=22, command="sh", reason="reset")
        note(log, event, **data)

    monkeypatch.setattr(IntentLog, "note", lost)
    with pytest.raises(ConnectionLost):
        job.commit()
    monkeypatch.undo()
    if by == "recover":
        job.cut()
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
        assert found.outcome == "recovered"
    else:
        assert job.end("failed", "the line was cut").error is None
    entry = record.read_entry(job.state, job.context.run_id, HOST, job.entry["identity"])
    assert entry is not None and (entry["status"] == "ok", entry["restore_point"]) == (False, job.job.final)
    assert job.job.final in listed(job.host)


def test_a_clone_that_runs_on_is_ended_before_the_snapshot_goes(story: Any) -> None:
    job = story()
    job.start()
    job.snap()
    job.lab.host(HOST).fault("slow_clone", rate=256 << 10)
    dest = posixpath.join(job.job.partial, "scsi0-0.vmdk")
    clone = subprocess.Popen(
        [*job.lab.host(HOST).ssh_argv(), f"vmkfstools -i '{job.job.disks[0]['source']}' -d thin '{dest}'"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        quick(30).until(lambda: "vmkfstools -i" in job.host.run("ps", "-c") or None, "the clone")
        job.cut()
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    finally:
        clone.kill()
        clone.wait()
    assert found.outcome == "recovered", found
    assert any("ended 1 remote" in step for step in found.done)


def test_a_machine_that_was_started_and_stopped_since_stays_off(story: Any, host: Host) -> None:
    job = story("cold")
    job.start()
    job.stop()
    power.power_on(job.vm, quick())
    power.power_off(job.vm, quick())
    job.cut()
    try:
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
        assert found.outcome == "recovered"
        assert job.vm.power_state() == "poweredOff"
        assert any("somebody else" in line for line in found.left)
    finally:
        power.power_on(job.vm, quick())


_DEEP = """
mkdir -p "$2" && cp -R "$1/." "$2" || exit 1
rm -f "$2"/*.log
for vmx in "$2"/*.vmx; do
    sed -i -e '/^uuid\\./d' -e '/^vc\\.uuid/d' -e 's/^displayName = .*/displayName = "deep"/' "$vmx" || exit 1
    echo 'uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"' >> "$vmx"
    vim-cmd solo/registervm "$vmx"
done
"""


def test_a_dead_job_in_a_folder_that_no_scan_reaches_is_found_through_the_inventory(
    story: Any, host: Host, tmp_path: Path
) -> None:
    twin = next(vm.directory for vm in host.vms() if vm.name == "twin")
    top = posixpath.join(posixpath.dirname(twin), "team")
    answer = host.session.script(_DEEP, [twin, f"{top}/customer/deep"])
    assert answer.rc == 0 and answer.stdout.strip().isdigit(), answer
    try:
        job = story(select=["deep"])
        assert job.entry["directory"].endswith("/team/customer/deep")
        job.start()
        job.cut()
        assert job.entry["directory"] not in lock.scan(host.session)
        # Another backup server: it has no mirror of the job, either.
        (found,) = recover.recover_host(host, HOST, str(tmp_path / "other"), 0.1, 60)
        assert (found.outcome, found.vm, found.error) == ("recovered", "deep", None)
        assert not job.outside(job.context.folder).exists()
    finally:
        host.unregister(int(answer.stdout))
        host.run("rm", "-rf", top)


def test_a_lock_without_a_name_is_taken_away_when_it_is_old(story: Any) -> None:
    job = story()
    lock.acquire(job.host.session, job.entry["directory"])
    (young,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert young.outcome == "live"
    folder = job.outside(job.context.folder)
    os.utime(folder / "lease", (time.time() - 1000,) * 2)
    (old,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
    assert old.outcome == "recovered" and not folder.exists()


def test_a_job_of_a_machine_that_is_not_here_is_told_and_left(story: Any) -> None:
    job = story()
    job.start()
    job.cut()
    vm = job.vm
    path = job.outside(job.context.folder) / "job.json"
    text = path.read_text(encoding="utf-8")
    gone = text.replace(vm.identity, "00000000-0000-4000-8000-000000000000").replace(
        vm.vmx_path, "/vmfs/volumes/x/x.vmx"
    )
    path.write_text(gone, encoding="utf-8")
    try:
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
        assert found.outcome == "vanished" and path.exists()
        path.write_text(path.read_text(encoding="utf-8").replace(f'"{job.host.name}"', '"10.9.9.9"'), encoding="utf-8")
        (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 60)
        assert found.outcome == "elsewhere" and path.exists()
    finally:
        path.write_text(text, encoding="utf-8")
        job.cut()
        recover.recover_host(job.host, HOST, job.state, 0.1, 60)


def test_a_copy_of_a_folder_does_not_end_the_living_job_in_it(story: Any) -> None:
    job = story()
    job.start()
    job.bracket()
    job.copy()
    copy = f"{job.entry['directory']} (copy)"
    job.host.run("mkdir", copy)
    try:
        job.host.run("cp", "-R", job.context.folder, copy)
        os.utime(job.outside(copy) / ".stowage-job" / "lease", (time.time() - 1000,) * 2)
        outcomes = [one.outcome for one in recover.recover_host(job.host, HOST, job.state, 0.1, 60)]
        assert sorted(outcomes) == ["live", "recovered"]
        job.commit()
        assert job.end().entry["status"] == "ok"
        assert not (job.outside(copy) / ".stowage-job").exists()
    finally:
        job.host.run("rm", "-rf", copy)
