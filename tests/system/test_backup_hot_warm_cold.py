# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three modes, judged from outside: what check mode says, what is copied, what is left afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from house import HOSTILE, POINT, House
from judge import prove_disks, same_content
from playing import Run


@pytest.fixture(scope="module")
def hot(whole_house: House) -> tuple[Run, Run]:
    """One check-mode run, then one real run, hot, over two hosts of different releases."""
    wanted = {"backup_select": ["name:multi", "name:snapped", "name:plain67", "name:off67"]}
    options = ("--limit", "esx67,esx70")
    more = {"backup_unknown_names": "ignore"}
    check = whole_house.controller.play("backup_hot", *options, "--check", **wanted, **more)
    assert whole_house.differences("esx67", "esx70") == []
    assert whole_house.points() == []
    return check, whole_house.controller.play("backup_hot", *options, **wanted, **more)


def test_a_hot_run_is_green_and_makes_a_restore_point_of_each_machine(house: House, hot: tuple[Run, Run]) -> None:
    summary = hot[1].must_end_with(0).stats["stowage_run"]
    assert (summary["green"], summary["ok"], summary["failed_machines"]) == (True, 4, [])
    assert {point.manifest["vm"]["name"] for point in house.points()} >= {"multi", "snapped", "plain67", "off67"}


def test_check_mode_predicts_the_bytes_that_the_run_copies(hot: tuple[Run, Run]) -> None:
    plan = hot[0].must_end_with(0).stats["stowage_plan"]
    copied = hot[1].stats["stowage_run"]["bytes_read"]
    assert sum(host["bytes_to_read"] for host in plan.values()) == copied
    assert sum(host["disks"] for host in plan.values()) == 6


def test_after_a_hot_run_every_machine_is_as_it_was(house: House, hot: tuple[Run, Run]) -> None:
    assert house.differences("esx67", "esx70") == []


@pytest.mark.parametrize("name", ["multi", "snapped", "plain67"])
def test_the_disks_of_a_hot_restore_point_hold_one_moment(
    house: House, hot: tuple[Run, Run], name: str, tmp_path: Path
) -> None:
    point = house.points(name)[-1]
    assert len(point.disks) == len(point.manifest["disks"])
    assert "one moment" in prove_disks(point.disks, tmp_path)


def test_a_machine_that_is_off_is_copied_as_it_is(house: House, hot: tuple[Run, Run]) -> None:
    point = house.points("off67")[-1]
    assert same_content(point.disks[0], house.folder("esx67", "off67") / "off67.vmdk")


@pytest.mark.soak
def test_a_long_copy_shows_percent_and_rate_while_it_runs(house: House) -> None:
    house.lab.fault("esx70", "slow_clone", rate=2 << 20)
    run = house.controller.play("backup_hot", "--limit", "esx70", backup_select=["name:multi"]).must_end_with(0)
    assert " % " in run.text and "/s" in run.text


def test_warm_stops_the_guest_in_good_order_and_copies_while_it_runs_again(house: House, tmp_path: Path) -> None:
    run = house.controller.play("backup_warm", "--limit", "esx70", backup_select=["name:multi"]).must_end_with(0)
    assert "clean shutdown" in prove_disks(house.points("multi")[-1].disks, tmp_path)
    entry = next(vm for vm in house.record(run)["vms"] if vm["vm"] == "multi")
    assert 0 < entry["downtime_seconds"] < entry["seconds"]
    assert house.differences("esx70") == []


def test_cold_keeps_the_machine_off_for_the_copy_and_starts_it_again(house: House, tmp_path: Path) -> None:
    house.controller.play("backup_cold", "--limit", "esx80", backup_select=["name:plain80"]).must_end_with(0)
    assert "clean shutdown" in prove_disks(house.points("plain80")[-1].disks, tmp_path)
    assert house.differences("esx80") == []


def test_a_name_that_looks_like_a_template_and_a_command_is_only_a_name(house: House, tmp_path: Path) -> None:
    variables = tmp_path / "vars.yml"
    variables.write_text(f"backup_select:\n  - name: !unsafe {json.dumps(HOSTILE)}\n", encoding="utf-8")
    run = house.controller.play("backup_cold", "--limit", "esx70", "-e", f"@{variables}").must_end_with(0)
    assert run.stats["stowage_run"]["ok"] == 1
    assert len(house.points(HOSTILE)) == 1
    for machine in ("esx70", "bk1"):
        assert "stowage-was-here" not in house.lab.run(machine, "ls", "/tmp")
    assert not Path("/tmp/stowage-was-here").exists()
    assert house.differences("esx70") == []


@pytest.mark.soak
def test_older_points_go_after_a_good_run_and_never_below_the_minimum(house: House) -> None:
    keep = {"backup_select": ["name:two words"], "backup_keep": {"last": 1, "min": 2}}
    for _round in range(3):
        house.controller.play("backup_cold", "--limit", "esx70", **keep).must_end_with(0)
    assert len(house.points("two words")) == 2
    house.lab.fault("esx70", "clone_fails_at", percent=50)
    failed = house.controller.play("backup_cold", "--limit", "esx70", **{**keep, "backup_keep": {"last": 1, "min": 1}})
    assert failed.rc == 2
    assert len(house.points("two words")) == 2
    assert house.differences("esx70") == []


def test_a_disk_that_no_snapshot_can_freeze_is_named_with_its_reason(house: House) -> None:
    run = house.controller.play("backup_hot", "--limit", "esx80", "--tags", "plan", backup_select=["name:independent"])
    assert "scsi0:1" in run.text and "independent" in run.text
    assert house.points("independent") == []


@pytest.mark.soak
@pytest.mark.parametrize("how", ["hot", "cold"])
def test_a_disk_excluded_by_policy_is_not_copied_and_named_in_the_record(house: House, how: str) -> None:
    run = house.controller.play(
        f"backup_{how}",
        *("--limit", "esx70"),
        backup_select=["name:multi"],
        backup_vms={"multi": {"disks": {"exclude": ["scsi0:1"]}}},
    ).must_end_with(0)
    assert [path.name for path in house.points("multi")[-1].disks] == ["scsi0-0.vmdk", "scsi1-0.vmdk"]
    assert run.stats["stowage_run"]["ok"] == 1
    assert house.differences("esx70") == []


def test_the_backup_point_holds_nothing_but_restore_points(house: House) -> None:
    assert [str(path) for path in house.lab.outside(POINT).rglob(".*")] == []
