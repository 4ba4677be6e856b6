# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each control module refuses what cannot be meant before it connects, and never hangs on a bad endpoint."""

from __future__ import annotations

import importlib
import io
import json
from contextlib import nullcontext, redirect_stdout
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

HOST = {"hostname": "192.0.2.1", "password": "s3cret-of-the-test"}


def run(what: str, /, **params: Any) -> dict[str, Any]:
    code = importlib.import_module(f"ansible_collections.stowage.esxi.plugins.modules.{what}")
    output = io.StringIO()
    with patch_module_args({**HOST, **params}), redirect_stdout(output), pytest.raises(SystemExit):
        code.main()
    assert "s3cret" not in output.getvalue()
    result: dict[str, Any] = json.loads(output.getvalue().strip().splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("esxi_snapshot", {"name": "s"}, "vm, uuid, vmid"),
        ("esxi_snapshot", {"vm": "a", "vmid": 1, "name": "s"}, "mutually exclusive"),
        ("esxi_snapshot", {"vm": "a", "snapshot_id": 1}, "name"),
        ("esxi_snapshot", {"vm": "a", "state": "absent"}, "name, snapshot_id"),
        ("esxi_snapshot", {"vm": "a", "state": "absent", "name": "s", "snapshot_id": 1}, "mutually exclusive"),
        ("esxi_vm_power", {"vm": "a"}, "state"),
        ("esxi_vm_power", {"vm": "a", "state": "off"}, "value of state"),
        ("esxi_vm", {"state": "unregistered"}, "path, vm, uuid, vmid"),
        ("esxi_vm", {"vm": "a"}, "path"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_refused_before_anything_is_reached(
    name: str, params: dict[str, Any], said: str
) -> None:
    result = run(name, **params)
    assert result["failed"] and said in result["msg"]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("esxi_vm_info", {}),
        ("esxi_snapshot", {"vm": "a", "name": "s"}),
        ("esxi_vm_power", {"vm": "a", "state": "powered-on"}),
        ("esxi_vm", {"vm": "a", "state": "unregistered"}),
    ],
)
def test_settings_that_cannot_work_are_an_error_with_an_id_and_a_way_out(name: str, params: dict[str, Any]) -> None:
    result = run(name, host_key_policy="pinned", **params)
    assert result["failed"] and result["error"]["id"] == "ssh-bad-endpoint"
    assert "host_key_fingerprints" in result["msg"]


@pytest.mark.parametrize(("wanted", "failed"), [({}, True), ({"fail_incomplete": False}, False)])
def test_a_job_that_could_not_be_recovered_fails_the_task_or_is_told(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], failed: bool
) -> None:
    module = importlib.import_module("ansible_collections.stowage.esxi.plugins.modules.backup_recover")
    outcome = module.recover.Outcome(job="j", vm="web01", kind="backup", folder="/f", outcome="failed")
    monkeypatch.setattr(module, "open_host", lambda _params: nullcontext(SimpleNamespace(name="esx1", vms=lambda: [])))
    monkeypatch.setattr(module.recover, "recover_host", lambda *_args: [outcome])
    monkeypatch.setattr(module.recover.upkeep, "look", lambda *_args: [])
    result = run("backup_recover", **wanted)
    assert result.get("failed", False) is failed
    assert result["error"]["id"] == "recover-incomplete" and result["jobs"][0]["vm"] == "web01"
