# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.bracket import (
    ASKED_BEFORE,
    Events,
    Process,
    Situation,
    downtime_seconds,
    plan_undo,
)
from jobs_values import make_job

NAME = "stowage-run1-b0123456789ab"
STOPPED = [{"event": "power-off-intent", "boot_id": "boot-1"}, {"event": "power-off-done"}]
SNAPPED = [{"event": "snapshot-intent", "name": NAME, "known_ids": [3]}, {"event": "snapshot-done", "id": 4}]


def undo(events: list[dict[str, Any]], job: dict[str, Any] | None = None, **now: Any) -> Any:
    values: dict[str, Any] = {"vmid": 7, "power_state": "poweredOn", "boot_id": "boot-1"}
    return plan_undo(make_job(**(job or {})), Events(tuple(events)), Situation(**{**values, **now}))


def test_a_job_that_did_nothing_leaves_nothing_to_undo() -> None:
    assert undo([{"event": "started"}]).steps() == ()


# -- power -------------------------------------------------------------------------------------------------------


def test_a_machine_that_we_stopped_is_started_again() -> None:
    assert undo(STOPPED, power_state="poweredOff").power_on is True


def test_a_machine_whose_log_was_rotated_while_it_went_off_is_started_again() -> None:
    seen = [STOPPED[0], {"event": "power-off-done", "boot_id": "rotated"}]
    for boot_id, started in (("boot-1", True), ("rotated", True), ("boot-2", False), ("", False)):
        assert undo(seen, power_state="poweredOff", boot_id=boot_id).power_on is started
    # That of an earlier stop says nothing of this one.
    again = [*seen, {"event": "power-off-intent", "boot_id": "boot-2"}]
    assert undo(again, power_state="poweredOff", boot_id="rotated").power_on is False


def test_a_machine_that_went_off_after_we_asked_and_before_we_saw_it_is_started_again() -> None:
    assert undo(STOPPED[:1], power_state="poweredOff").power_on is True


@pytest.mark.parametrize(
    ("events", "now", "why"),
    [
        ([], {"power_state": "poweredOff"}, "nobody stopped it in our name"),
        (STOPPED, {"power_state": "poweredOn", "boot_id": "boot-2"}, "somebody started it"),
        (STOPPED, {"power_state": "poweredOff", "boot_id": "boot-2"}, "somebody started and stopped it"),
        (STOPPED, {"power_state": "suspended"}, "somebody suspended it"),
        (STOPPED, {"vmid": None, "power_state": ""}, "another host has it"),
        (
            [{"event": "power-off-intent"}, STOPPED[1]],
            {"power_state": "poweredOff", "boot_id": ""},
            "nothing to prove by",
        ),
    ],
)
def test_it_is_never_powered_on_without_proof(events: list[dict[str, Any]], now: dict[str, Any], why: str) -> None:
    assert undo(events, **now).power_on is False, why


@pytest.mark.parametrize("before", ["poweredOff", "suspended"])
def test_a_machine_that_did_not_run_is_never_powered_on(before: str) -> None:
    assert undo(STOPPED, {"power_before": before}, power_state="poweredOff").power_on is False


def test_a_warm_restart_that_had_only_been_announced_is_made_up_for() -> None:
    assert undo([*STOPPED, {"event": "power-on-intent"}], power_state="poweredOff").power_on is True


def test_a_guest_that_may_still_shut_down_is_waited_for_and_then_no_longer() -> None:
    assert "may still" in undo(STOPPED[:1], asked_seconds_ago=10).wait
    assert "may still" in undo(STOPPED[:1], asked_seconds_ago=600 + 3599).wait
    assert undo(STOPPED[:1], asked_seconds_ago=600 + 3601).wait == ""
    assert undo(STOPPED[:1], asked_seconds_ago=10, boot_id="boot-2").wait == ""


def test_a_request_that_the_host_refused_is_not_waited_for() -> None:
    assert undo([STOPPED[0], {"event": "power-off-refused"}], asked_seconds_ago=10).wait == ""


def test_what_an_earlier_job_asked_the_guest_for_is_stood_up_for_by_the_next() -> None:
    job = {"extra": {ASKED_BEFORE: "boot-1"}}
    assert "may still" in undo([{"event": "started"}], job, asked_seconds_ago=10).wait
    assert undo([{"event": "started"}], job, power_state="poweredOff").power_on is True
    assert undo([{"event": "started"}], job, power_state="poweredOff", boot_id="boot-2").power_on is False
    assert undo([{"event": "started"}], job, power_state="suspended").power_on is False


def test_no_situation_ever_makes_a_step_that_powers_off() -> None:
    for state in ("poweredOn", "poweredOff", "suspended"):
        assert not any("off" in step for step in undo(STOPPED + SNAPPED, power_state=state).steps())


# -- snapshots ---------------------------------------------------------------------------------------------------


def test_our_snapshot_goes_by_its_id() -> None:
    assert undo(SNAPPED, snapshots=((3, "by hand"), (4, NAME))).remove_snapshots == (4,)


def test_a_snapshot_that_was_made_but_not_noted_is_ours_by_its_name_and_new_id() -> None:
    assert undo(SNAPPED[:1], snapshots=((3, "by hand"), (9, NAME))).remove_snapshots == (9,)


def test_a_snapshot_that_was_asked_for_twice_may_have_come_twice() -> None:
    twice = [SNAPPED[0], {"event": "snapshot-again", "name": NAME}, SNAPPED[1]]
    assert undo(twice, snapshots=((3, NAME), (4, NAME), (5, NAME))).remove_snapshots == (4, 5)


@pytest.mark.parametrize(
    ("events", "snapshots"),
    [
        ([], ((4, NAME),)),
        (SNAPPED, ((4, "renamed by hand"),)),
        (SNAPPED, ((5, NAME),)),
        (SNAPPED[:1], ((3, NAME),)),
        (SNAPPED, ((3, "by hand"),)),
    ],
)
def test_a_snapshot_that_is_not_provably_ours_is_never_removed(
    events: list[dict[str, Any]], snapshots: tuple[tuple[int, str], ...]
) -> None:
    assert undo(events, snapshots=snapshots).remove_snapshots == ()


def test_what_only_looks_like_ours_is_reported() -> None:
    assert any("not the id" in line for line in undo(SNAPPED, snapshots=((5, NAME),)).left)
    assert any("renamed" in line for line in undo(SNAPPED, snapshots=((4, "renamed"),)).left)


def test_a_snapshot_that_may_still_appear_is_looked_for_again() -> None:
    assert undo(SNAPPED[:1]).look_again is True
    assert undo(SNAPPED).look_again is False


# -- processes and files -----------------------------------------------------------------------------------------

TOKEN = {"event": "process", "pid": 55, "token": "stowage-copy-abc"}
PARTIAL = ".partial-20261122T200000Z-run1-b0123456789ab"


@pytest.mark.parametrize(
    ("command", "pid", "ours"),
    [
        ("55 55 sh sh -s -- stowage-copy-abc /work", 55, True),
        ("55 55 sh sh -s -- something else", 55, False),
        ("57 57 python python -c exec('') 1 stowage-agent-abc 60", 57, True),
        ("58 58 sh sh -s -- stowage-shell-abc", 58, True),
        ("59 59 python python -c exec('') 1 stowage-agent-abc 60", 59, False),
        ("56 56 sh sh -s -- stowage-copy-abc /work", 56, False),
        (f"60 60 vmkfstools vmkfstools -i a -d thin /vmfs/volumes/U/web01-aa/{PARTIAL}/scsi0-0.vmdk", 60, True),
        (f"61 61 cat cat /vmfs/volumes/U/web01-aa/{PARTIAL}/scsi0-0.vmdk", 61, False),
        ("62 62 vmkfstools vmkfstools -i a -d thin /vmfs/volumes/U/other/scsi0-0.vmdk", 62, False),
    ],
)
def test_a_process_is_ended_only_by_number_and_token(command: str, pid: int, ours: bool) -> None:
    agent = {"event": "process", "pid": 57, "token": "stowage-agent-abc"}
    shell = {"event": "process", "pid": 58, "token": "stowage-shell-abc"}
    assert undo([TOKEN, agent, shell], processes=(Process(pid, command),)).kill == ((pid,) if ours else ())


def test_only_a_partial_folder_with_our_job_in_its_name_is_removed() -> None:
    assert undo([], partial_exists=True).remove_partial.endswith(PARTIAL)
    strange = undo([], {"partial": "/vmfs/volumes/bk/web01-aa/.partial-20261122T200000Z-other"}, partial_exists=True)
    assert strange.remove_partial == "" and strange.left


@pytest.mark.parametrize("token", ["", "hostd", "copy"])
def test_a_process_that_no_token_of_ours_names_is_left_alone(token: str) -> None:
    running = (Process(55, "55  55  hostd  hostd stowage-copy-abc"),)
    assert undo([{**TOKEN, "token": token}], processes=running).kill == ()
    assert undo([TOKEN], processes=running).kill == (55,)


def test_a_temporary_file_without_our_job_in_its_path_is_left() -> None:
    now = undo([], temps=("/vmfs/volumes/a/run1-b0123456789ab/t", "/vmfs/volumes/a/user.vmdk"))
    assert now.remove_temps == ("/vmfs/volumes/a/run1-b0123456789ab/t",)
    assert any("user.vmdk" in line for line in now.left)


# -- restores ----------------------------------------------------------------------------------------------------

RESTORE = {"kind": "restore", "partial": "", "vmx_path": "/v/new/new.vmx", "directory": "/v/new"}


def test_a_half_restored_folder_is_removed() -> None:
    found = undo([], RESTORE, vmid=None)
    assert (found.unregister, found.remove_restored) == (None, True)


def test_a_half_restored_machine_that_we_registered_is_unregistered_first() -> None:
    now = {"power_state": "poweredOff", "vmx_path": "/v/new/new.vmx", "boot_id": ""}
    found = undo([{"event": "register-intent"}], RESTORE, **now)
    assert (found.unregister, found.remove_restored) == (7, True)


@pytest.mark.parametrize(
    ("events", "now"),
    [
        ([], {"power_state": "poweredOff", "vmx_path": "/v/new/new.vmx"}),
        ([{"event": "register-intent"}], {"power_state": "poweredOn", "vmx_path": "/v/new/new.vmx"}),
        ([{"event": "register-intent"}], {"power_state": "poweredOff", "vmx_path": "/v/other/x.vmx"}),
        # It was started since, and is off again: its log tells.
        ([{"event": "register-intent"}], {"power_state": "poweredOff", "vmx_path": "/v/new/new.vmx", "boot_id": "b"}),
    ],
)
def test_a_restored_machine_that_is_in_somebodys_hands_is_left(
    events: list[dict[str, Any]], now: dict[str, Any]
) -> None:
    found = undo(events, RESTORE, **now)
    assert (found.unregister, found.remove_restored) == (None, False) and found.left


def test_a_finished_restore_is_never_undone() -> None:
    found = undo([{"event": "register-intent"}, {"event": "commit-done"}], RESTORE, power_state="poweredOff")
    assert found.steps() == ()


# -- times -------------------------------------------------------------------------------------------------------


def test_the_downtime_is_from_the_first_request_to_the_last_start() -> None:
    events = [
        {"event": "power-off-intent", "at": "2026-11-22T20:00:00Z"},
        {"event": "power-off-done", "at": "2026-11-22T20:00:20Z"},
        {"event": "power-on-done", "at": "2026-11-22T20:01:05Z"},
    ]
    assert downtime_seconds(events) == 65.0
    assert downtime_seconds(events[:2]) is None
    now = datetime(2026, 11, 22, 20, 0, 30, tzinfo=timezone.utc)
    assert Events(tuple(events)).seconds_since("power-off-intent", now) == 30.0


@pytest.mark.parametrize("kind", ["backup", "restore"])
@pytest.mark.parametrize(
    ("entries", "ours"),
    [
        ((), False),
        (("kernel-module",), False),  # the load was refused, or never came: somebody else's by now
        (("kernel-module", "kernel-module-loaded"), True),
        (("kernel-module", "kernel-module-loaded", "kernel-module-unloaded"), False),
        (("kernel-module-loaded", "kernel-module-unloaded", "kernel-module-loaded"), True),
    ],
)
def test_a_kernel_module_is_unloaded_only_where_the_journal_proves_that_we_loaded_it(
    kind: str, entries: tuple[str, ...], ours: bool
) -> None:
    events = Events(tuple({"event": name} for name in entries))
    undo = plan_undo(make_job(kind=kind), events, Situation(vmid=None))
    assert undo.unload_module is ours
    assert ("unload the kernel module multiextent" in undo.steps()) is ours


@pytest.mark.parametrize(
    ("entries", "there", "wanted"),
    [
        ((), True, False),
        ((), False, True),  # somebody else removed it: our own reader may have kept its delta from being merged
        (("snapshot-remove-intent",), False, True),  # its entry went, its delta may have stayed
        (("snapshot-remove-intent",), True, False),  # it is removed by its id first
        (("snapshot-remove-intent", "snapshot-remove-done"), False, False),
    ],
)
def test_disks_are_consolidated_where_the_end_of_our_snapshot_was_never_proven(
    entries: tuple[str, ...], there: bool, wanted: bool
) -> None:
    job = make_job()
    events = Events(
        ({"event": "snapshot-intent"}, {"event": "snapshot-done", "id": 4}, *({"event": e} for e in entries))
    )
    snapshots = ((4, job.snapshot_name),) if there else ()
    undo = plan_undo(job, events, Situation(vmid=1, power_state="poweredOn", snapshots=snapshots))
    assert undo.consolidate is wanted
    assert (undo.remove_snapshots == (4,)) is there


# -- reference snapshots -----------------------------------------------------------------------------------------

OLD = "stowage-run0-b0123456789ab"
KEPT = [*SNAPPED, {"event": "commit-done", "final": "x"}, {"event": "reference-kept", "id": 4}]
BEGUN = [*SNAPPED, {"event": "reference-remove-intent", "id": 3, "name": OLD}]
BOTH = ((3, OLD), (4, NAME))


def test_a_snapshot_that_has_become_a_reference_is_no_longer_the_jobs() -> None:
    found = undo(KEPT, snapshots=((4, NAME),))
    assert (found.remove_snapshots, found.consolidate, found.left) == ((), False, ())


def test_one_that_was_not_yet_written_down_as_a_reference_goes() -> None:
    assert undo(KEPT[:-1], snapshots=((4, NAME),)).remove_snapshots == (4,)


def test_while_it_is_about_to_become_one_it_stays() -> None:
    values: dict[str, Any] = {"vmid": 7, "power_state": "poweredOn", "boot_id": "boot-1", "snapshots": BOTH}
    found = plan_undo(make_job(), Events(tuple(KEPT[:-1])), Situation(**values), spare=True)
    assert (found.remove_snapshots, found.consolidate, found.look_again) == ((), False, False)


def test_the_end_of_an_earlier_reference_that_was_begun_is_gone_on_with() -> None:
    assert undo(BEGUN, snapshots=BOTH).remove_snapshots == (4, 3)
    # Its entry is gone, its delta may not be.
    assert undo(BEGUN, snapshots=((4, NAME),)).consolidate is True
    done = [*BEGUN, {"event": "reference-remove-done", "id": 3}]
    assert undo(done, snapshots=BOTH).remove_snapshots == (4,)
    assert undo(done, snapshots=((4, NAME),)).consolidate is False


def test_a_snapshot_of_that_id_with_another_name_is_somebody_elses() -> None:
    assert undo(BEGUN, snapshots=((3, "mine"), (4, NAME))).remove_snapshots == (4,)


def test_an_earlier_reference_that_nobody_began_to_remove_stays() -> None:
    assert undo(SNAPPED, snapshots=BOTH).remove_snapshots == (4,)
