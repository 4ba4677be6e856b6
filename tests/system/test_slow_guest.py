# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that goes down only after everybody has given up on it does not stay off."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import PowerFailed
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import backup, bracket, record, recover, undo
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import journal as lock

from . import stories
from .stories import HOST, quick

# The fixtures of those tests.
before, host, story = stories.before, stories.host, stories.story
soak = pytest.mark.soak


def given_up(story: Any, how: str = "cold") -> Any:
    """A job that has asked the guest, and has ended without it."""
    job = story(how, shutdown_timeout=2)
    job.lab.host(HOST).fault("guest_ignores_shutdown", vm="plain80")
    job.start()
    with pytest.raises(PowerFailed) as caught:
        power.shutdown_guest(job.vm, quick(3), job.log)
    ended = job.end("failed", caught.value.as_dict())
    assert (ended.error, ended.entry["error"]["id"]) == (None, "esxi-power-failed")
    assert any("may still" in line for line in ended.entry["left"])
    job.lab.host(HOST).clear()
    return job


def goes_down(job: Any) -> None:
    """The guest does now what it was asked for then. Nobody of ours is told."""
    power.shutdown_guest(job.vm, quick())


def again(job: Any) -> recover.Outcome:
    (found,) = recover.recover_host(job.host, HOST, job.state, 0.1, 120)
    return found


def test_recover_starts_it_again(story: Any) -> None:
    job = given_up(story)
    assert again(job).outcome == "waiting"
    goes_down(job)
    found = again(job)
    assert (found.outcome, job.vm.power_state()) == ("recovered", "poweredOn")
    assert "powered the VM on again" in found.done
    entry = record.read_entry(job.state, job.context.run_id, HOST, job.entry["identity"])
    assert entry is not None and (entry["status"], entry["error"]["id"]) == ("failed", "esxi-power-failed")
    assert "recovered: powered the VM on again" in entry["done"]
    assert not os.listdir(os.path.join(job.state, "jobs"))


def test_the_next_run_is_not_kept_out_and_stands_up_for_it(story: Any) -> None:
    given_up(story)
    other = story("hot")
    other.start()
    other.bracket()
    other.copy()
    other.commit()
    goes_down(other)
    ended = other.end()
    assert (ended.error, ended.entry["status"], other.vm.power_state()) == (None, "ok", "poweredOn")
    assert recover.recover_host(other.host, HOST, other.state, 0.1, 120) == []


def test_a_run_that_died_before_it_could_ask_keeps_no_half_copy_and_nobody_out(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = story("cold", shutdown_timeout=600)
    job.start()
    job.log.note("power-off-intent", boot_id=job.vm.boot_id())
    job.cut()
    half = job.outside(job.job.partial)
    assert half.is_dir() and again(job).outcome == "waiting" and half.is_dir()
    for place in (recover, undo):
        monkeypatch.setattr(place, "shutdown_grace", lambda _job: 0.0)
    found = again(job)
    assert (found.outcome, half.exists()) == ("waiting", False)
    assert any(line.startswith("removed ") for line in found.done)
    assert (again(job).done, job.vm.power_state()) == ((), "poweredOn")
    other = story("hot")
    assert other.whole().entry["status"] == "ok"
    goes_down(other)
    assert (again(other).outcome, other.vm.power_state()) == ("recovered", "poweredOn")
    assert not os.listdir(os.path.join(other.state, "jobs"))


@soak
def test_a_run_that_finds_it_off_by_now_starts_it_before_all_else(story: Any) -> None:
    goes_down(given_up(story))
    other = story("hot")
    other.context.entry["power_state"] = "poweredOff"
    other.start()
    assert (other.job.power_before, other.vm.power_state()) == ("poweredOn", "poweredOn")
    assert other.end("failed", "given up").error is None


@soak
def test_nobody_waits_for_ever(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = given_up(story)
    assert lock.read_job(job.host.session, job.context.folder) is not None
    monkeypatch.setattr(bracket, "LATE_SHUTDOWN_SECONDS", 0)
    assert again(job).outcome == "recovered"
    assert lock.look(job.host.session, [job.vm.directory]) == []


@soak
def test_a_finished_job_that_waits_on_hands_the_wait_on(story: Any) -> None:
    given_up(story)
    other = story("hot")
    ended = other.whole()
    assert ended.entry["status"] == "ok" and any("may still" in line for line in ended.entry["left"])
    assert ended.entry["rotation"] is not None
    assert again(other).outcome == "waiting"
    goes_down(other)
    assert (again(other).outcome, other.vm.power_state()) == ("recovered", "poweredOn")
    with pytest.raises(Exception, match="not this job"):
        backup.must_hold(other.context)
