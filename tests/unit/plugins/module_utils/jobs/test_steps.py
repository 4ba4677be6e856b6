# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import record, steps
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import HostUnreachable
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import Session
from fakeclock import FakeClock

PLAN = {
    "vm": "web",
    "identity": "uuid-1",
    "directory": "/vmfs/volumes/ds/web",
    "vmx_path": "/vmfs/volumes/ds/web/web.vmx",
    "disks": [],
    "target": "/vmfs/volumes/backup/web-1",
    "policy": {},
}
CAUSE = {"id": "copy-clone-failed", "message": "The clone ended with 1", "hint": "", "data": {}}


class Gone(Session):
    """A host that nothing reaches any more."""

    def run(self, *_args: Any, **_more: Any) -> Any:
        raise HostUnreachable(host="esx1", port=22, reason="Connection timed out")

    def close(self) -> None:
        pass


def ended(state_dir: Path, **more: Any) -> None:
    params = {"state": "ended", "plan": PLAN, "kind": "backup", "run_id": "run-1", "inventory_host": "esx1"}
    params |= {"state_dir": str(state_dir), "controller": None, "lease_seconds": 180, "copies": []}
    params |= {"outcome": "failed", "error": None, "downtime_seconds": None, **more}
    steps.run(Host(Gone(Endpoint(host="esx1")), clock=FakeClock()), params, False)


@pytest.mark.parametrize(("error", "told"), [(CAUSE, "copy-clone-failed"), (None, "ssh-host-unreachable")])
def test_a_last_step_that_cannot_reach_the_host_leaves_the_reason_in_the_record(
    tmp_path: Path, error: Any, told: str
) -> None:
    begun = record.start_entry(record.entry_of_plan("run-1", "esx1", PLAN), FakeClock())
    record.write_entry(str(tmp_path), begun)
    with pytest.raises(HostUnreachable):
        ended(tmp_path, error=error)
    (entry,) = record.merge(str(tmp_path), "run-1", ["esx1"])["vms"]
    assert (entry["status"], entry["error"]["id"]) == ("interrupted", told)


def test_a_host_that_goes_after_the_copy_into_a_store_leaves_the_point_in_the_record(tmp_path: Path) -> None:
    begun = record.start_entry(record.entry_of_plan("run-1", "esx1", PLAN), FakeClock())
    for dest, format_of, told in (
        ("/srv/a::20261122T200000.000000Z-abcdef/scsi0:0", "store", "/srv/a::20261122T200000.000000Z-abcdef"),
        ("/vmfs/volumes/backup/web-1/.partial/scsi0-0.vmdk", "thin", None),
    ):
        record.write_entry(str(tmp_path), begun)
        with pytest.raises(HostUnreachable):
            ended(tmp_path, state="committed", copies=[{"key": "scsi0:0", "format": format_of, "dest": dest}])
        (entry,) = record.merge(str(tmp_path), "run-1", ["esx1"])["vms"]
        assert (entry["status"], entry["restore_point"]) == ("interrupted", told)
        assert entry["error"]["id"] == "ssh-host-unreachable"


def test_a_verdict_that_stands_is_not_touched_by_a_last_step_that_is_repeated_in_vain(tmp_path: Path) -> None:
    done = record.start_entry(record.entry_of_plan("run-1", "esx1", PLAN), FakeClock())
    done["status"] = "ok"
    record.write_entry(str(tmp_path), done)
    with pytest.raises(HostUnreachable):
        ended(tmp_path, outcome="ok")
    (entry,) = record.merge(str(tmp_path), "run-1", ["esx1"])["vms"]
    assert (entry["status"], entry["error"]) == ("ok", None)
