# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two who work on one machine: hosts that both show it, jobs that follow one another, an admin in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import power, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import NotStill, VmLocked

from . import stories, test_esxi_modules, test_fault_matrix
from .conftest import Lab, wait_until
from .stories import HOST, NAME, quick
from .test_fault_matrix import other_host, outcomes

before, host, impatient, story = stories.before, stories.host, stories.impatient, stories.story
module, roaming = test_esxi_modules.module, test_fault_matrix.roaming

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
        power.power_on(roaming().vm, quick())
        job = roaming(how="hot")
        other.register(ROAM)
        job.start()
        job.snap()
        job.cut()
        assert outcomes(other, "esx70", job) == [("elsewhere", None)]
        assert len(snapshots.tree(job.vm)) == 1
        assert outcomes(job.host, "esx80", job) == [("recovered", None)]
        assert (job.vm.power_state(), len(snapshots.tree(job.vm))) == ("poweredOn", 0)


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
    (users,) = snapshots.tree(vm).named("the users own")
    snapshots.remove(vm, users.id, waiter=quick())


def test_a_run_that_lost_its_lock_does_nothing_more_in_the_job_of_the_next(story: Any, module: Any) -> None:
    """A controller that stood still for longer than its lease does not know it when it goes on."""
    first = story()
    first.start()
    first.cut()
    second = story()
    second.start()
    journal = second.log.read()
    known = {"journal": first.context.folder, "job_id": first.job.job}
    machine = {"vmid": first.job.vmid, **known}
    snap = module(HOST, "esxi_snapshot", name=first.job.snapshot_name, **machine)
    stop = module(HOST, "esxi_vm_power", state="powered-off", force=True, **machine)
    copy = module(HOST, "vmdk_copy", dest=first.job.partial, **machine)
    assert {one["error"]["id"] for one in (snap, stop)} == {"esxi-journal-lost"}
    assert copy["error"]["id"] == "job-altered"
    assert (second.log.read(), len(snapshots.tree(second.vm))) == (journal, 0)
    assert second.end("failed", "given up").error is None


def test_a_number_that_is_another_machines_by_now_touches_that_one_not(story: Any, module: Any) -> None:
    job = story()
    job.start()
    other = next(vm for vm in job.host.vms() if vm.readable and vm.directory != job.job.directory)
    state = other.power_state()
    known = {"vmid": other.vmid, "journal": job.context.folder, "job_id": job.job.job}
    snap = module(HOST, "esxi_snapshot", name=job.job.snapshot_name, **known)
    stop = module(HOST, "esxi_vm_power", state="powered-off" if state == "poweredOn" else "powered-on", **known)
    copy = module(HOST, "vmdk_copy", dest=job.job.partial, **known)
    assert {one["error"]["id"] for one in (snap, stop, copy)} == {"esxi-not-allowed"}
    assert other.power_state() == state
    assert job.end("failed", "given up").error is None


@pytest.mark.parametrize("since", [False, True])
def test_a_machine_that_an_admin_has_shut_down_is_not_started_by_a_warm_job(
    story: Any, module: Any, since: bool
) -> None:
    job = story("warm")
    job.start()
    if since:
        job.stop()
        power.power_on(job.vm, quick())
    wait_until(job.vm.tools_running, "the guest's Tools")
    power.shutdown_guest(job.vm, quick())
    known = {"vmid": job.job.vmid, "journal": job.context.folder, "job_id": job.job.job}
    answer = module(HOST, "esxi_vm_power", state="powered-on", **known)
    assert (answer["changed"], answer["power_state"], job.vm.power_state()) == (False, "poweredOff", "poweredOff")
    if not since:
        job.snap()
        job.copy()
        job.commit()
    ended = job.end("failed" if since else "ok", "given up")
    assert (ended.error, ended.entry["status"]) == (None, "failed" if since else "ok")
    assert job.vm.power_state() == "poweredOff"
    power.power_on(job.vm, quick())
    wait_until(job.vm.tools_running, "the guest's Tools")


def test_a_warm_job_whose_machine_somebody_started_before_the_snapshot_gives_no_restore_point(story: Any) -> None:
    job = story("warm")
    job.start()
    job.stop()
    power.power_on(job.vm, quick())
    job.snap()
    power.power_on(job.vm, quick(), job.log)
    job.copy()
    with pytest.raises(NotStill, match="somebody else started it"):
        job.commit()
    assert job.end("failed", "given up").error is None
