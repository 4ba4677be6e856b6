# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator gets wrong, and what breaks: a clear error, the others go on, nothing of ours is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from house import House, until
from playing import Run


def failures(run: Run) -> dict[str, str]:
    """Machine (or host) -> error id, as the run published them."""
    return {entry["vm"] or entry["host"]: entry["error"]["id"] for entry in run.stats["stowage_run"]["failed_machines"]}


def host_variables(tmp_path: Path, house: House, host: str, **variables: object) -> tuple[str, ...]:
    """An inventory that says one thing of one host differently; to be given beside the lab's own."""
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"esxi": {"hosts": {host: variables}}}), encoding="utf-8")
    return ("-i", str(house.lab.folder / "inventory.yml"), "-i", str(path))


BOTH = {"backup_select": ["name:plain67", "name:plain80"], "backup_unknown_names": "ignore"}


def refused_logins(house: House, host: str) -> int:
    return house.lab.run(host, "cat", "/var/log/auth.log").count("PAM: Permission denied")


def test_a_wrong_password_fails_that_host_only_and_is_tried_once(house: House, tmp_path: Path) -> None:
    before = refused_logins(house, "esx80")
    other = host_variables(tmp_path, house, "esx80", ansible_password="not-the-password")
    run = house.controller.play("backup_hot", *other, "--limit", "esx67,esx80", **BOTH).must_end_with(2)
    assert "esx80" in run.text and "password" in run.text
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.host_error(run, "esx80") == "ssh-authentication-failed"
    assert "not-the-password" not in run.text
    assert refused_logins(house, "esx80") - before == 1
    assert house.differences("esx67", "esx80") == []
    # Not locked out: five failures would have been too many.
    house.controller.play("recover", "--limit", "esx80").must_end_with(0)


@pytest.mark.soak
def test_an_unknown_host_key_fails_that_host_only(house: House, tmp_path: Path) -> None:
    wrong = ["SHA256:" + "A" * 43]
    other = host_variables(tmp_path, house, "esx80", stowage_host_key_fingerprints=wrong)
    run = house.controller.play("backup_hot", *other, "--limit", "esx67,esx80", **BOTH).must_end_with(2)
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.host_error(run, "esx80") == "ssh-host-key-mismatch"
    assert wrong[0] in run.text
    assert house.differences("esx67", "esx80") == []


@pytest.mark.soak
def test_a_host_that_cannot_be_reached_is_in_the_record_and_the_others_go_on(house: House) -> None:
    house.lab.fault("esx80", "refuse")
    # A connection that an earlier run has kept open would still carry this one.
    house.lab.fault("esx80", "cut", mode="reset")
    run = house.controller.play("backup_hot", "--limit", "esx67,esx80", **BOTH).must_end_with(2)
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.host_error(run, "esx80") == "ssh-host-unreachable"


def test_an_unknown_and_an_ambiguous_name_fail_by_name_and_the_others_go_on(house: House) -> None:
    select = ["name:plain80", "name:no-such-machine", "name:twin"]
    run = house.controller.play("backup_hot", "--limit", "esx80", backup_select=select).must_end_with(2)
    assert set(failures(run)) == {"no-such-machine", "twin"}
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.differences("esx80") == []


@pytest.mark.soak
def test_nothing_selected_is_an_error(house: House) -> None:
    run = house.controller.play("backup_hot", "--limit", "esx67", backup_select=["pattern:zzz*"]).must_end_with(2)
    assert house.host_error(run, "esx67") == "nothing-selected"


def test_a_limit_that_leaves_no_hypervisor_is_an_error(house: House) -> None:
    run = house.controller.play("backup_hot", "--limit", "bk1", backup_select=["all"])
    assert run.rc == 2
    assert "No hypervisor is left to work on" in run.text


@pytest.mark.soak
def test_a_backup_point_without_room_is_refused_before_anything_is_touched(house: House) -> None:
    house.lab.fault("esx67", "datastore_full", datastore="backup", leave=1 << 20)
    run = house.controller.play("backup_hot", "--limit", "esx67", backup_select=["name:plain67"]).must_end_with(2)
    assert "plain67" in failures(run)
    assert "Take our snapshot" not in run.text
    assert house.differences("esx67") == []


@pytest.mark.soak
def test_a_clone_that_stops_half_way_leaves_no_half_backup(house: House) -> None:
    known = len(house.points("multi"))
    house.lab.fault("esx70", "clone_fails_at", percent=41)
    run = house.controller.play("backup_hot", "--limit", "esx70", backup_select=["name:multi", "name:notools"])
    assert run.rc == 2
    assert "multi" in failures(run)
    assert len(house.points("multi")) == known
    assert house.differences("esx70") == []


@pytest.mark.soak
def test_a_failing_quiesce_fails_that_machine_and_the_next_is_backed_up(house: House) -> None:
    policy = {"backup_select": ["name:noquiesce", "name:multi"], "backup_quiesce": True}
    run = house.controller.play("backup_hot", "--limit", "esx70", **policy).must_end_with(2)
    assert set(failures(run)) == {"noquiesce"}
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.differences("esx70") == []


@pytest.mark.soak
@pytest.mark.parametrize("how", ["warm", "cold"])
def test_a_guest_that_ignores_the_shutdown_stays_on_unless_force_is_allowed(house: House, how: str) -> None:
    policy = {"backup_select": ["name:deaf"], "backup_shutdown_timeout": 5}
    run = house.controller.play(f"backup_{how}", "--limit", "esx70", **policy).must_end_with(2)
    assert set(failures(run)) == {"deaf"}
    # It may still go down: the journal stays for whoever will have to power it on, and keeps no other run out.
    (left,) = house.lab.left_behind("esx70")
    assert left.endswith("/.stowage-job")
    assert all(".stowage-job" in line for line in house.differences("esx70"))
    assert house.lab.machines("esx70")["deaf"].power == house.before["esx70"]["deaf"].power
    forced = house.controller.play(f"backup_{how}", "--limit", "esx70", **policy, backup_force_off=True)
    assert forced.must_end_with(0).stats["stowage_run"]["ok"] == 1
    assert house.differences("esx70") == []


@pytest.mark.soak
def test_a_machine_without_tools_fails_warm_with_the_way_out(house: House) -> None:
    run = house.controller.play("backup_warm", "--limit", "esx70", backup_select=["name:notools"]).must_end_with(2)
    assert set(failures(run)) == {"notools"}
    assert house.differences("esx70") == []


@pytest.mark.soak
def test_the_line_cut_while_a_clone_runs_ends_well_or_leaves_nothing(house: House) -> None:
    house.lab.fault("esx70", "slow_clone", rate=2 << 20)
    playing = house.controller.start("backup_hot", "--limit", "esx70", backup_select=["name:multi"])
    try:
        until(lambda: house.clones("esx70"), "a clone runs", 120, playing)
        house.lab.fault("esx70", "cut", mode="reset")
        run = playing.wait()
    finally:
        playing.kill()
    assert run.must_end_with(0).stats["stowage_run"]["ok"] == 1
    assert house.differences("esx70") == []


def test_a_host_without_a_backup_server_is_told_so(house: House, tmp_path: Path) -> None:
    path = tmp_path / "bare.json"
    path.write_text(json.dumps({"esxi": {"hosts": {"bare": {"ansible_host": "127.0.0.1"}}}}), encoding="utf-8")
    run = house.controller.play("backup_hot", "-i", str(path), "--limit", "bare", backup_select=["all"])
    assert run.rc == 2
    assert "stowage_backup_server" in run.text
