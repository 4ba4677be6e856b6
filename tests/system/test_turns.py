# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is: limits that hold between jobs, windows, catching up, and the operator's own hooks."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from house import House, until

BOTH = {"backup_select": ["name:plain67", "name:plain80"], "backup_unknown_names": "ignore"}
# Whatever the clock says when the test runs, this is not now.
NEVER = [{"from": "00:00", "to": "00:01", "timezone": "UTC", "days": ["mon"]}]

TOLD = """\
- name: Write down what the hook was told
  ansible.builtin.shell:
    cmd: >-
      printf '%s\\n' {{ [backup_hook.event, backup_hook.host, (backup_hook.vm or {}).vm | default('-'),
      backup_hook.outcome or '-', (backup_hook.error or {}).id | default('-'), backup_hook.run_id] | join(' ')
      | quote }} >> /tmp/turns
"""
FAILING = """\
- name: Fail for one machine
  ansible.builtin.fail:
    msg: the database of {{ backup_hook.vm.vm }} is busy
  when: backup_hook.vm.vm == 'independent'
"""


class Watch(threading.Thread):
    """Looks at the process tables of hosts until it is told to stop: how many clones ran at the same time."""

    def __init__(self, house: House, *hosts: str) -> None:
        super().__init__(daemon=True)
        self.house, self.hosts = house, hosts
        self.seen: dict[str, int] = dict.fromkeys(hosts, 0)
        self.most = self.looks = 0
        self._stop_it = threading.Event()

    def run(self) -> None:
        while not self._stop_it.is_set():
            running = {host: len(self.house.clones(host)) for host in self.hosts}
            self.looks += 1
            self.most = max(self.most, sum(running.values()))
            for host, count in running.items():
                self.seen[host] += count > 0

    def end(self) -> None:
        self._stop_it.set()
        self.join(60)


@pytest.mark.soak
def test_two_jobs_at_once_keep_to_the_limit_of_a_volume_and_the_one_that_waits_says_for_whom(house: House) -> None:
    """Both hosts write to the same volume; nothing else joins the two jobs but the backup server."""
    for host in ("esx67", "esx80"):
        house.lab.fault(host, "slow_clone", rate="8M")
    limit = {**BOTH, "backup_limits": [{"kind": "datastore", "slots": 1}], "backup_limits_dir": "/tmp/turns-limits"}
    watch = Watch(house, "esx67", "esx80")
    watch.start()
    jobs = [house.controller.start("backup_hot", "--limit", host, **limit) for host in ("esx67", "esx80")]
    try:
        runs = [job.wait(600).must_end_with(0) for job in jobs]
    finally:
        for job in jobs:
            if job.process.poll() is None:
                job.kill()
        watch.end()
    assert watch.most == 1 and all(watch.seen.values()), (watch.most, watch.seen, watch.looks)
    # Each machine's clone takes eight seconds: they were there at the same time, and one has waited.
    volume = house.lab.host("esx67")["datastores"]["backup"]
    words = (
        r"waits for a slot of datastore \S+ \("
        + re.escape(str(volume))
        + r"\): 1 of 1 taken \(copy of plain\d\d on esx\d\d \(pid \d+\)\)"
    )
    assert len([run for run in runs if re.search(words, run.text)]) == 1, [run.text[-2000:] for run in runs]
    assert house.differences("esx67", "esx80") == []


def hooks_in(folder: Path) -> dict[str, str]:
    (folder / "told.yml").write_text(f"---\n{TOLD}", encoding="utf-8")
    (folder / "failing.yml").write_text(f"---\n{TOLD}\n{FAILING}", encoding="utf-8")
    told = str(folder / "told.yml")
    return {
        **dict.fromkeys(("pre_job", "post_vm", "post_job", "on_success", "on_error"), told),
        "pre_vm": str(folder / "failing.yml"),
    }


@pytest.mark.soak
def test_hooks_are_told_how_it_went_and_what_was_missed_or_not_begun_is_in_the_record(
    house: House, tmp_path: Path
) -> None:
    house.lab.run("bk1", "rm", "-f", "/tmp/turns")
    run = house.controller.play(
        "backup_hot",
        "--limit",
        "esx80",
        backup_select=["name:plain80", "name:independent"],
        backup_vms={"plain80": {"priority": 5}, "independent": {"priority": 1}},
        backup_hooks=hooks_in(tmp_path),
    ).must_end_with(2)
    record = house.record(run)
    told = [line.split() for line in house.lab.run("bk1", "cat", "/tmp/turns").splitlines()]
    assert [line[:5] for line in told] == [
        ["pre_job", "esx80", "-", "-", "-"],
        ["pre_vm", "esx80", "plain80", "-", "-"],
        ["post_vm", "esx80", "plain80", "ok", "-"],
        ["on_success", "esx80", "plain80", "ok", "-"],
        ["pre_vm", "esx80", "independent", "-", "-"],
        ["post_vm", "esx80", "independent", "failed", "hook-failed"],
        ["on_error", "esx80", "independent", "failed", "hook-failed"],
        ["post_job", "esx80", "-", "failed", "-"],
    ]
    assert {line[5] for line in told} == {record["run_id"]}
    entries = {entry["vm"]: entry for entry in record["vms"]}
    assert (entries["plain80"]["status"], entries["independent"]["status"]) == ("ok", "failed")
    assert entries["independent"]["error"]["id"] == "hook-failed"
    assert "the database of independent is busy" in entries["independent"]["error"]["message"]
    assert entries["independent"]["started_at"] is None
    # The next run: the window of one is closed, the other one has a fresh restore point.
    again = house.controller.play(
        "backup_hot",
        "--limit",
        "esx80",
        backup_select=["name:plain80", "name:independent"],
        backup_vms={"independent": {"windows": NEVER}},
        backup_only_older_than_hours=10,
    ).must_end_with(2)
    entries = {entry["vm"]: entry for entry in house.record(again)["vms"]}
    assert (entries["plain80"]["status"], entries["independent"]["status"]) == ("skipped", "missed")
    assert again.stats["stowage_run"]["missed"] == 1
    assert "outside of its window" in again.text
    assert house.differences("esx80") == []


@pytest.mark.soak
def test_a_machine_whose_window_closes_while_others_are_copied_is_missed_and_comes_first_the_next_time(
    house: House,
) -> None:
    house.lab.fault("esx67", "slow_clone", rate="2M")
    now = time.gmtime(time.time() + 60)
    closing = [
        {
            "from": time.strftime("%H:%M", time.gmtime(time.time() - 3600)),
            "to": time.strftime("%H:%M", now),
            "timezone": "UTC",
        }
    ]
    machines: dict[str, Any] = {
        "backup_select": ["name:plain67", "name:off67"],
        "backup_vms": {"plain67": {"priority": 1}},
    }
    run = house.controller.play("backup_hot", "--limit", "esx67", backup_windows=closing, **machines).must_end_with(2)
    entries = {entry["vm"]: entry for entry in house.record(run)["vms"]}
    assert (entries["plain67"]["status"], entries["off67"]["status"]) == ("ok", "missed")
    house.lab.fault("esx67", "clear")
    run = house.controller.play(
        "backup_hot", "--limit", "esx67", backup_select=machines["backup_select"]
    ).must_end_with(0)
    assert run.text.index("of off67") < run.text.index("of plain67")


@pytest.mark.soak
def test_a_host_that_answers_nothing_any_more_has_its_row_and_the_others_are_done_long_before(house: House) -> None:
    """Connections to it hang: nothing is refused, and nothing comes."""
    house.lab.fault("esx80", "cut", mode="blackhole", new=True)
    begun = time.monotonic()
    playing = house.controller.start("backup_hot", "--limit", "esx67,esx80", **BOTH)
    try:
        until(
            lambda: any("Undo the bracket" in line and "plain67" in line for line in playing.lines),
            "plain67",
            300,
            playing,
        )
        run = playing.wait(600).must_end_with(2)
    finally:
        if playing.process.poll() is None:
            playing.kill()
    assert time.monotonic() - begun < 400
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.host_error(run, "esx80").startswith("ssh-")
    hosts = {entry["host"]: entry["status"] for entry in house.record(run)["hosts"]}
    assert hosts == {"esx67": "ok", "esx80": "failed"}


@pytest.mark.soak
def test_a_hook_that_fails_afterwards_fails_its_machine_or_host_and_takes_nothing_back(
    house: House, tmp_path: Path
) -> None:
    fail = tmp_path / "fail.yml"
    fail.write_text("---\n- name: Fail\n  ansible.builtin.fail:\n    msg: no mail today\n", encoding="utf-8")
    machine = {"backup_select": ["name:plain67"]}
    known = len(house.points("plain67"))
    run = house.controller.play(
        "backup_hot", "--limit", "esx67", backup_hooks={"post_vm": str(fail)}, **machine
    ).must_end_with(2)
    (entry,) = house.record(run)["vms"]
    assert (entry["status"], entry["error"]["id"], entry["restore_point"] is not None) == (
        "failed",
        "hook-failed",
        True,
    )
    assert "was made all the same" in entry["error"]["message"]
    run = house.controller.play(
        "backup_hot", "--limit", "esx67", backup_hooks={"post_job": str(fail)}, **machine
    ).must_end_with(2)
    assert house.record(run)["vms"][0]["status"] == "ok" and house.host_error(run, "esx67") == "hook-failed"
    assert len(house.points("plain67")) == known + 2
    run = house.controller.play(
        "backup_hot", "--limit", "esx67", backup_hooks={"pre_job": str(fail)}, **machine
    ).must_end_with(2)
    assert "None of the machines of esx67 was begun" in json.dumps(house.record(run)["hosts"])
    assert house.record(run)["vms"][0]["status"] == "not-run"
    assert house.differences("esx67") == []
