# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random inventories: what check mode says of each VM and disk is what the run then does."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from animals import changes, left_behind, outcome_of, running, state
from esxilab import zoo
from hypothesis import given, settings

JOBS = Path(__file__).resolve().parents[1] / "unit/plugins/module_utils/jobs"


def machine(chooser: random.Random, number: int) -> dict[str, Any]:
    """A tiny VM of any kind."""
    power = chooser.choice(["on", "on", "off", "suspended"])
    disks = []
    for unit in range(chooser.randrange(4)):
        more: dict[str, Any] = {}
        kind = chooser.randrange(9)
        if kind == 0:
            more["kind"] = chooser.choice(["rdm-physical", "rdm-virtual"])
        elif kind == 1:
            more["mode"] = chooser.choice(["independent-persistent", "independent-nonpersistent"])
        elif kind == 2:
            more["sharing"] = "multi-writer"
        elif kind == 3:
            more["bus_sharing"] = chooser.choice(["virtual", "physical"])
        disks.append(zoo.small(f"scsi{unit}:{chooser.randrange(4)}", f"{chooser.choice([1, 2, 4])}M", **more))
    vm = zoo.vm(f"vm {number}", *disks, power=power)
    ordinary = all(not {"sharing", "bus_sharing"} & set(disk) for disk in disks)
    if disks and ordinary and chooser.random() < 0.4:
        vm["snapshots"] = [{"name": "mine"}, {"name": "mine"}][: chooser.choice([1, 2])]
    if power == "off" and chooser.random() < 0.2:
        vm[chooser.choice(["invalid", "template", "encrypted"])] = True
    return vm


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_a_random_inventory_is_planned_as_it_is_done(seed: int) -> None:
    chooser = random.Random(f"inventory {seed}")
    stores = [{"name": "datastore1", "type": chooser.choice(["vmfs5", "vmfs6"]), "size": "256M"}]
    stores.append({"name": "backup", "type": "nfs", "size": "1G", "server": "bk1"})
    hosts = [
        {
            "name": f"any{profile.replace('.', '')}",
            "profile": profile,
            "datastores": stores,
            "vms": [machine(chooser, number) for number in range(6)],
        }
        for profile in ("6.7", "8.0")
    ]
    description = {"hosts": hosts, "backup_servers": [{"name": "bk1"}]}
    how = chooser.choice(["hot", "hot", "warm", "cold"])
    excluded = chooser.sample(["scsi0:0", "scsi0:1", "scsi1:0", "scsi1:2"], 2)
    wanted: dict[str, Any] = {
        "backup_select": ["all"],
        "backup_exclude": [f"name:vm {chooser.randrange(6)}"],
        "backup_disks": {"exclude": excluded},
        "backup_shutdown_timeout": 60,
    }
    with running("any", description) as house:
        before = state(house)
        check = house.controller.play(f"backup_{how}", "--check", **wanted)
        assert house.points() == [] and changes(before, state(house)) == []
        run = house.controller.play(f"backup_{how}", **wanted)
        record = house.record(run)
        assert len(record["vms"]) == 10
        for entry in record["vms"]:
            for disk in entry["disks"]:
                assert disk["status"] in ("ok", "excluded") or entry["status"] == "failed", (entry["vm"], disk)
                assert disk["status"] != "ok" or disk["bytes_read"] == disk["bytes_planned"], (entry["vm"], disk)
                assert disk["status"] in ("ok", "not-run") or disk["reason"], (entry["vm"], disk)
        for host, done in outcome_of(record).items():
            promised = check.stats["stowage_plan"][host]
            assert {key: promised[key] for key in done} == done, (host, record["summary"]["text"])
        assert left_behind(house) == [] and changes(before, state(house)) == []


@pytest.mark.soak
def test_the_plan_is_what_the_copy_finds_to_do_of_thousands() -> None:
    sys.path.insert(0, str(JOBS))
    spec = importlib.util.spec_from_file_location("plan_equals_outcome", JOBS / "test_plan_equals_outcome.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan_equals_outcome"] = module
    spec.loader.exec_module(module)
    settings(max_examples=5000, deadline=None)(given(module.cases())(module.check))()
