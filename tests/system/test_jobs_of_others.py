# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two who work on one machine: hosts that both show it, jobs that follow one another, an admin in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import VmLocked

from . import stories, test_fault_matrix
from .conftest import Lab
from .stories import NAME, quick
from .test_fault_matrix import other_host, outcomes

before, host, impatient, story = stories.before, stories.host, stories.impatient, stories.story
roaming = test_fault_matrix.roaming

ROAM = "/vmfs/volumes/shared/roam/roam.vmx"


def test_two_hosts_of_one_run_that_show_a_machine_do_not_share_its_lock(roaming: Any, clean_lab: Lab) -> None:
    with other_host(clean_lab) as other:
        job = roaming()
        other.register(ROAM)
        second = roaming(other, "esx70", run=job.context.run_id)
        job.start()
        with pytest.raises(VmLocked):
            second.start()
        assert second.end("failed", "locked").entry["status"] == "failed"
        assert job.end("failed", "given up").done == (f"removed {job.job.partial}",)


def test_a_dead_job_is_not_undone_by_a_host_that_shows_the_machine_while_another_runs_it(
    roaming: Any, clean_lab: Lab
) -> None:
    with other_host(clean_lab) as other:
        roaming().vm.power_on(quick())
        job = roaming(how="hot")
        other.register(ROAM)
        job.start()
        job.snap()
        job.cut()
        assert outcomes(other, "esx70", job) == [("elsewhere", None)]
        assert len(job.vm.snapshots()) == 1
        assert outcomes(job.host, "esx80", job) == [("recovered", None)]
        assert (job.vm.power_state(), len(job.vm.snapshots())) == ("poweredOn", 0)


def test_a_snapshot_that_a_user_takes_before_a_merge_is_asked_for_survives_it(host: Host, before: Any) -> None:
    """Between the look whether there is a snapshot to lose and the order that removes all, others have their turn."""
    vm = host.find_vm(name=NAME)
    asked = [-10]

    @contextmanager
    def waits() -> Iterator[None]:
        asked[0] += 1
        if asked[0] == 2:
            host.vim("vmsvc/snapshot.create", str(vm.vmid), "the users own", "", "0", "0")
        yield

    busy = Host(host.session, lock=waits)
    machine = busy.find_vm(vmid=vm.vmid)
    asked[0] = 0
    snapshots._cure(machine)
    (users,) = vm.snapshots().named("the users own")
    vm.remove_snapshot(users.id, waiter=quick())
