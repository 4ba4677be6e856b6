# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rooms `vmdk` and `esxi` and their modules against simulated hosts of three releases, with faults."""

from __future__ import annotations

import importlib
import io
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import errors, info, power, power_state, snapshots
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.intent import IntentLog
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.vm import VirtualMachine
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session

from .conftest import Lab, LabHost, wait_until

HOSTILE = "-x $(touch /tmp/pwned) `id` 'q' \"q\" [datastore1] a/b.vmx   g   vmx-13 ünï"


def quick(seconds: float = 60.0) -> Waiter:
    return Waiter(seconds, interval_seconds=0.2, max_interval_seconds=1.0)


class Counting:
    """A session that counts its commands: work is measured in them, not in seconds."""

    def __init__(self, session: Any) -> None:
        self.count = 0
        self._run = session.run
        session.run = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self._run(*args, **kwargs)


@pytest.fixture
def open_host(clean_lab: Lab) -> Iterator[Any]:
    sessions = []

    def opened(name: str, **more: Any) -> Host:
        machine = clean_lab.host(name)
        session = open_session(
            Endpoint(
                host=machine.address,
                port=machine.port,
                private_key_file=str(clean_lab.key),
                known_hosts_file=str(clean_lab.known_hosts),
            )
        )
        sessions.append(session)
        return Host(session, **{"retry_seconds": 0.2, **more})

    yield opened
    for session in sessions:
        session.close()


@pytest.fixture
def module(clean_lab: Lab) -> Any:
    """Runs a module as Ansible would, in this process; the result with `failed` where it failed."""

    def run(host: str, what: str, /, check: bool = False, **params: Any) -> dict[str, Any]:
        machine = clean_lab.host(host)
        connection = {
            "hostname": machine.address,
            "port": machine.port,
            "private_key_file": str(clean_lab.key),
            "known_hosts_file": str(clean_lab.known_hosts),
        }
        code = importlib.import_module(f"ansible_collections.stowage.esxi.plugins.modules.{what}")
        output = io.StringIO()
        arguments = {**connection, **params, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(arguments), redirect_stdout(output), pytest.raises(SystemExit):
            code.main()
        result: dict[str, Any] = json.loads(output.getvalue().strip().splitlines()[-1])
        return result

    return run


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PATIENCE_SECONDS", 2)
    monkeypatch.setattr(snapshots, "AGAIN_SECONDS", 3.0)
    monkeypatch.setattr(power, "PATIENCE_SECONDS", 2)


@pytest.fixture
def tidy() -> Iterator[list[VirtualMachine]]:
    """VMs put here lose all snapshots, and run again, after the test."""
    vms: list[VirtualMachine] = []
    yield vms
    for vm in vms:
        for snapshot in snapshots.tree(vm):
            snapshots.remove(vm, snapshot.id or 0, waiter=quick())
        snapshots.consolidate(vm, quick())
        assert not snapshots.consolidation_needed(vm)
        power.power_on(vm, quick())


def vmdks(vm: VirtualMachine) -> list[str]:
    return sorted(path.rsplit("/", 1)[-1] for path in vm.host.read_folders([vm.directory]))


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["esx67", "esx70", "esx80"])
def test_every_vm_is_listed_whole_on_every_release(open_host: Any, clean_lab: Lab, name: str) -> None:
    host = open_host(name)
    listed = info.describe_vms(host, host.vms())
    known = clean_lab.status_of(name)["vms"]
    assert [(vm["vmid"], vm["name"], vm["power_state"]) for vm in listed] == [
        (int(vm["vmid"]), vm["name"], vm["power"]) for vm in known
    ]
    for vm in listed:
        assert vm["problems"] == [] and vm["disks"] and vm["instance_uuid"]
        assert all(disk["label"].startswith("Hard disk") and disk["capacity_bytes"] for disk in vm["disks"])
    assert json.loads(json.dumps(listed)) == listed


def test_a_listing_costs_the_same_commands_for_two_vms_and_for_seven(open_host: Any) -> None:
    counts = []
    for name in ("esx67", "esx70"):
        host = open_host(name)
        counting = Counting(host.session)
        info.describe_vms(host, host.vms())
        info.describe_host(host)
        counts.append(counting.count)
    assert counts[0] == counts[1] <= 6


def test_two_of_one_name_are_ambiguous_and_listed(open_host: Any) -> None:
    host = open_host("esx80")
    with pytest.raises(errors.VmAmbiguous) as caught:
        host.find_vm(name="twin")
    assert "3 ('twin'" in caught.value.hint_text and "4 ('twin'" in caught.value.hint_text
    assert host.find_vm(vmid=3).name == "twin"
    with pytest.raises(errors.VmNotFound) as unknown:
        host.find_vm(name="nobody")
    assert "plain80" in unknown.value.hint_text


def test_a_vm_is_found_by_its_uuid_in_any_form(open_host: Any) -> None:
    host = open_host("esx70")
    vm = host.find_vm("big")
    assert host.find_vm(uuid=str(vm.instance_uuid).upper()).vmid == vm.vmid
    assert host.find_vm(uuid=str(vm.bios_uuid).replace("-", "")).vmid == vm.vmid


def test_texts_of_a_troubled_hostd_are_retried_and_then_told(open_host: Any, clean_lab: Lab) -> None:
    host = open_host("esx67")
    clean_lab.host("esx67").fault("vimcmd_reset", times=2)
    assert len(host.vms()) == 2
    clean_lab.host("esx67").fault("hostd_down")
    with pytest.raises(errors.HostBusy) as caught:
        open_host("esx67", tries=2).vms()
    assert "2 tries" in caught.value.message


# -- names are data ----------------------------------------------------------------------------------------------


def test_a_hostile_name_is_only_a_name(open_host: Any, clean_lab: Lab, module: Any) -> None:
    host = open_host("esx70")
    off = host.find_vm("two words")
    folder = off.directory.rsplit("/", 1)[0] + "/hostile [x] $(id)"
    path = f"{folder}/-h 'q'.vmx"
    text = off.vmx.changed(
        {"displayName": HOSTILE, "vc.uuid": None, "annotation": 'x"\n99     evil [d] e/e.vmx  g  vmx-8'}
    )
    host.run("mkdir", folder)
    host.session.write_text(path, text.render().replace('"two words', f'"{off.directory}/two words'))
    try:
        first = module("esx70", "esxi_vm", path=path, check=True)
        made = module("esx70", "esxi_vm", path=path)
        again = module("esx70", "esxi_vm", path=path)
        assert (first["changed"], made["changed"], again["changed"]) == (True, True, False)
        assert made["vm"]["name"] == HOSTILE and first["diff"] == made["diff"]
        assert [vm.name for vm in host.vms()].count(HOSTILE) == 1 and 99 not in [vm.vmid for vm in host.vms()]
        found = module("esx70", "esxi_vm_info", names=[HOSTILE])["vms"]
        assert [vm["vmx_path"] for vm in found] == [path] and found[0]["problems"] == []
        assert "evil" in found[0]["annotation"]
        assert module("esx70", "esxi_vm_power", vm=HOSTILE, state="powered-off")["changed"] is False
        with pytest.raises(errors.AlreadyExistsFault):
            host.register(path)
        gone = module("esx70", "esxi_vm", vm=HOSTILE, state="unregistered")
        assert gone["changed"] and gone["vm"] is None
        assert module("esx70", "esxi_vm", vm=HOSTILE, state="unregistered")["changed"] is False
        assert clean_lab.host("esx70").run("ls /tmp/pwned").returncode != 0
    finally:
        for vm in host.vms():
            if vm.vmx_path == path:
                host.unregister(vm.vmid)
        host.run("rm", "-rf", folder)


def test_a_running_vm_is_not_unregistered(module: Any, open_host: Any) -> None:
    refused = module("esx67", "esxi_vm", vm="plain67", state="unregistered")
    assert refused["failed"] and refused["error"]["id"] == "esxi-wrong-power-state"
    assert open_host("esx67").find_vm("plain67").power_state() == power_state.ON


def test_registering_what_is_not_there_is_an_error_but_not_in_check_mode(module: Any) -> None:
    wish = {"path": "[datastore1] nowhere/x.vmx"}
    assert module("esx67", "esxi_vm", **wish)["error"]["id"] == "esxi-file-not-readable"
    assert module("esx67", "esxi_vm", check=True, **wish)["changed"]
    assert module("esx67", "esxi_vm", path="[nods] a/x.vmx")["error"]["id"] == "esxi-datastore-unknown"


# -- snapshots ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host_name", "vm_name"), [("esx67", "plain67"), ("esx70", "multi"), ("esx80", "plain80")])
def test_what_check_mode_predicts_is_what_happens(
    open_host: Any, module: Any, tidy: list[VirtualMachine], host_name: str, vm_name: str
) -> None:
    vm = open_host(host_name).find_vm(vm_name)
    tidy.append(vm)
    before = vmdks(vm)
    wish = {"vm": vm_name, "name": 'a "b" $(c)', "description": "one\ntwo"}
    predicted = module(host_name, "esxi_snapshot", check=True, **wish)
    assert snapshots.tree(vm).ids == frozenset() and vmdks(vm) == before
    made = module(host_name, "esxi_snapshot", **wish)
    again = module(host_name, "esxi_snapshot", **wish)
    assert (predicted["changed"], made["changed"], again["changed"]) == (True, True, False)
    assert predicted["diff"] == made["diff"] and predicted["actions"] == made["actions"]
    assert made["snapshot"]["name"] == wish["name"] and made["snapshot"]["description"] == wish["description"]
    assert again["snapshot"] == made["snapshot"]
    assert all(len(disk.chain.links) == 2 for disk in vm.disks() if disk.chain)
    remove = {"vm": vm_name, "snapshot_id": made["snapshot"]["id"], "state": "absent"}
    predicted = module(host_name, "esxi_snapshot", check=True, **remove)
    gone = module(host_name, "esxi_snapshot", **remove)
    again = module(host_name, "esxi_snapshot", **remove)
    assert (predicted["changed"], gone["changed"], again["changed"]) == (True, True, False)
    assert predicted["diff"] == gone["diff"] and gone["snapshots"] == [] and gone["snapshot"] is None
    assert vmdks(vm) == before


def test_only_what_was_named_is_removed_from_a_tree_with_branches(
    open_host: Any, module: Any, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx80").find_vm("plain80")
    tidy.append(vm)
    root = snapshots.create(vm, "root", waiter=quick())
    left = snapshots.create(vm, "same", waiter=quick())
    deep = snapshots.create(vm, "deep", waiter=quick())
    refused = module("esx80", "esxi_snapshot", vm="plain80", name="root", state="reverted")
    assert refused["error"]["id"] == "esxi-not-allowed" and vm.power_state() == power_state.ON
    reverted = module("esx80", "esxi_snapshot", vm="plain80", name="root", state="reverted", allow_revert=True)
    assert reverted["changed"] and any("powered off" in str(warning) for warning in reverted["warnings"])
    assert vm.power_state() == power_state.OFF and snapshots.tree(vm).current.id == root.id
    right = snapshots.create(vm, "same", waiter=quick())
    assert {s.id: s.parent_id for s in snapshots.tree(vm)} == {
        root.id: None,
        left.id: root.id,
        deep.id: left.id,
        right.id: root.id,
    }
    ambiguous = module("esx80", "esxi_snapshot", vm="plain80", name="same", state="absent")
    assert ambiguous["error"]["id"] == "esxi-snapshot-ambiguous" and f"{left.id}, {right.id}" in ambiguous["msg"]
    snapshots.remove(vm, left.id, waiter=quick())
    assert {s.id: s.parent_id for s in snapshots.tree(vm)} == {root.id: None, deep.id: root.id, right.id: root.id}
    gone = module("esx80", "esxi_snapshot", vm="plain80", name="root", state="absent", remove_children=True)
    assert gone["snapshots"] == [] and vmdks(vm) == ["plain80-flat.vmdk", "plain80.vmdk"]


def test_a_users_snapshot_stays_when_ours_on_top_is_removed(open_host: Any) -> None:
    vm = open_host("esx70").find_vm("snapped")
    before, files = snapshots.tree(vm), vmdks(vm)
    ours = snapshots.create(vm, "stowage", waiter=quick())
    assert set(vm.frozen_disks(ours.id).values()) == {vm.disks()[0].chain.paths[1]}
    assert snapshots.remove(vm, ours.id, waiter=quick())
    assert snapshots.tree(vm) == before and vmdks(vm) == files


def test_an_independent_disk_is_left_out_and_said_so(open_host: Any, module: Any, tidy: list[VirtualMachine]) -> None:
    vm = open_host("esx80").find_vm("independent")
    tidy.append(vm)
    made = module("esx80", "esxi_snapshot", vm="independent", name="s")
    assert any("scsi0:1" in str(warning) for warning in made["warnings"])
    assert list(vm.frozen_disks(made["snapshot"]["id"])) == ["scsi0:0"]


def test_a_snapshot_that_comes_late_is_found_and_removed(
    open_host: Any, clean_lab: Lab, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx70").find_vm("multi")
    tidy.append(vm)
    files = vmdks(vm)
    clean_lab.host("esx70").fault("snapshot_delay", vm="multi", seconds=8)
    with pytest.raises(errors.SnapshotLate) as caught:
        snapshots.create(vm, "late", waiter=quick(3), late_seconds=30)
    assert "removed again" in caught.value.message
    assert len(snapshots.tree(vm)) == 0 and vmdks(vm) == files


def test_a_create_that_lies_is_found_out(open_host: Any, clean_lab: Lab) -> None:
    vm = open_host("esx70").find_vm("multi")
    clean_lab.host("esx70").fault("lying_create", vm="multi")
    with pytest.raises(errors.SnapshotLate) as caught:
        snapshots.create(vm, "never", waiter=quick(2), late_seconds=1)
    assert "may still appear" in caught.value.message and "'never'" in caught.value.hint_text


def test_a_quiesce_that_fails_is_told_with_the_way_out(open_host: Any, clean_lab: Lab) -> None:
    vm = open_host("esx70").find_vm("multi")
    clean_lab.host("esx70").fault("quiesce_fails", vm="multi")
    with pytest.raises(errors.SnapshotFailed) as caught:
        snapshots.create(vm, "q", quiesce=True, waiter=quick())
    assert "quiesce=false" in caught.value.hint_text and len(snapshots.tree(vm)) == 0


def test_a_client_killed_in_the_middle_makes_no_second_snapshot(
    open_host: Any, clean_lab: Lab, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx70").find_vm("multi")
    tidy.append(vm)
    known = snapshots.tree(vm).ids
    clean_lab.host("esx70").fault("vimcmd_killed", times=1)
    try:
        snapshots.create(vm, "once", waiter=quick(10), late_seconds=1)
    except errors.EsxiError as error:
        assert error.id in ("esxi-snapshot-late", "esxi-snapshot-failed", "esxi-host-busy")
    assert len(snapshots.tree(vm).ids - known) <= 1


def test_a_removal_that_lies_is_found_out(open_host: Any, clean_lab: Lab, tidy: list[VirtualMachine]) -> None:
    vm = open_host("esx70").find_vm("multi")
    tidy.append(vm)
    ours = snapshots.create(vm, "s", waiter=quick())
    clean_lab.host("esx70").fault("lying_remove", vm="multi")
    with pytest.raises(errors.SnapshotNotRemoved):
        snapshots.remove(vm, ours.id, waiter=quick(8))
    assert ours.id in snapshots.tree(vm).ids
    clean_lab.clear()


def test_a_long_removal_leaves_the_host_free_for_others(
    open_host: Any, clean_lab: Lab, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx70").find_vm("multi")
    tidy.append(vm)
    ours = snapshots.create(vm, "s", waiter=quick())
    clean_lab.host("esx70").fault("remove_delay", vm="multi", seconds=10)
    turns: list[str] = []
    waiter = Waiter(60, 0.5, 1.0, beat=lambda: turns.append(vm.host.find_vm("big").power_state()))
    assert snapshots.remove(vm, ours.id, waiter=waiter)
    assert len(turns) > 1 and vmdks(vm) == sorted(vmdks(vm)) and not snapshots.consolidation_needed(vm)


def hold(machine: LabHost, path: str) -> subprocess.Popen[bytes]:
    """A reader in the host that keeps a file open; it ends when its standard input does."""
    return subprocess.Popen(
        [*machine.ssh_argv(), f"exec 9<'{path}'; echo open; cat >/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def let_go(reader: subprocess.Popen[bytes]) -> None:
    reader.communicate(timeout=30)


def test_a_reader_of_the_base_is_named_and_the_disk_merged_when_it_has_gone(
    open_host: Any, clean_lab: Lab, tidy: list[VirtualMachine]
) -> None:
    machine = clean_lab.host("esx67")
    vm = open_host("esx67").find_vm("plain67")
    tidy.append(vm)
    files = vmdks(vm)
    ours = snapshots.create(vm, "s", waiter=quick())
    base = vm.disks()[0].chain.base.extent_paths[0]
    reader = hold(machine, base)
    try:
        assert reader.stdout is not None and reader.stdout.readline() == b"open\n"
        with pytest.raises(errors.ConsolidationNeeded) as caught:
            snapshots.remove(vm, ours.id, waiter=quick(8))
        assert "plain67-flat.vmdk" in caught.value.message and snapshots.consolidation_needed(vm)
    finally:
        let_go(reader)
    assert snapshots.consolidate(vm, quick())
    assert vmdks(vm) == files and not snapshots.consolidation_needed(vm)
    assert snapshots.consolidate(vm, quick()) is False


def test_a_removal_waits_for_a_reader_that_ends_in_time(
    open_host: Any, clean_lab: Lab, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx67").find_vm("plain67")
    tidy.append(vm)
    files = vmdks(vm)
    ours = snapshots.create(vm, "s", waiter=quick())
    reader = hold(clean_lab.host("esx67"), vm.disks()[0].chain.base.extent_paths[0])
    assert reader.stdout is not None and reader.stdout.readline() == b"open\n"
    turns: list[int] = []

    def beat() -> None:
        turns.append(1)
        if len(turns) == 4:
            let_go(reader)

    assert snapshots.remove(vm, ours.id, waiter=Waiter(90, 0.5, 1.0, beat=beat))
    assert vmdks(vm) == files and len(turns) >= 4


def test_a_chain_that_nobody_mends_ends_the_wait_for_its_merge(
    open_host: Any, clean_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "STANDSTILL_SECONDS", 6.0)
    vm = open_host("esx70").find_vm("two words")
    files, ours = vmdks(vm), snapshots.create(vm, "s", waiter=quick())
    clean_lab.host("esx70").fault("remove_delay", vm="two words", seconds=3)
    descriptor = clean_lab.folder / "volumes" / vm.disks()[0].chain.top.path.removeprefix("/vmfs/volumes/")
    whole = descriptor.read_text(encoding="utf-8")

    def beat() -> None:
        # The first look has found a chain in order, and the host has not begun to merge.
        descriptor.write_text(re.sub(r"(?m)^parentCID=.*$", "parentCID=0badc1d0", whole), encoding="utf-8")

    begun = time.monotonic()
    with pytest.raises(errors.ConsolidationNeeded) as caught:
        snapshots.remove(vm, ours.id, waiter=Waiter(300, 0.5, 1.0, beat=beat))
    assert "a chain cannot be read" in caught.value.message and time.monotonic() - begun < 100
    descriptor.write_text(whole, encoding="utf-8")
    assert snapshots.consolidate(vm, quick()) and vmdks(vm) == files


# -- power -------------------------------------------------------------------------------------------------------


def test_power_in_the_words_of_vmware_with_the_guest_asked_first(
    module: Any, open_host: Any, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx80").find_vm("plain80")
    tidy.append(vm)
    boot = vm.boot_id()
    predicted = module("esx80", "esxi_vm_power", check=True, vm="plain80", state="shutdown-guest")
    assert vm.power_state() == power_state.ON
    stopped = module("esx80", "esxi_vm_power", vm="plain80", state="shutdown-guest")
    assert predicted["changed"] and predicted["diff"] == stopped["diff"] and predicted["actions"] == stopped["actions"]
    assert (stopped["power_state"], stopped["hard"], stopped["actions"]) == (
        power_state.OFF,
        False,
        ["shut down the guest"],
    )
    assert module("esx80", "esxi_vm_power", vm="plain80", state="powered-off")["changed"] is False
    wrong = module("esx80", "esxi_vm_power", vm="plain80", state="suspended")
    assert wrong["error"]["id"] == "esxi-wrong-power-state"
    started = module("esx80", "esxi_vm_power", vm="plain80", state="powered-on")
    assert started["changed"] and started["started_at"] and vm.boot_id() != boot
    assert module("esx80", "esxi_vm_power", vm="plain80", state="powered-on")["changed"] is False
    assert module("esx80", "esxi_vm_power", vm="plain80", state="suspended")["power_state"] == power_state.SUSPENDED
    refused = module("esx80", "esxi_vm_power", vm="plain80", state="powered-off")
    assert refused["error"]["id"] == "esxi-not-allowed"
    assert module("esx80", "esxi_vm_power", vm="plain80", state="powered-on")["power_state"] == power_state.ON


def test_a_deaf_guest_is_stopped_hard_only_when_that_is_allowed(module: Any, open_host: Any) -> None:
    wish = {"vm": "deaf", "state": "shutdown-guest", "state_change_timeout": 3}
    refused = module("esx70", "esxi_vm_power", **wish)
    assert refused["error"]["id"] == "esxi-power-failed" and "force" in refused["msg"]
    vm = open_host("esx70").find_vm("deaf")
    assert vm.power_state() == power_state.ON
    stopped = module("esx70", "esxi_vm_power", force=True, **wish)
    assert stopped["hard"] and stopped["power_state"] == power_state.OFF and len(stopped["actions"]) == 2
    power.power_on(vm, quick())


def test_a_guest_without_tools_is_not_stopped_unasked(module: Any, open_host: Any) -> None:
    refused = module("esx70", "esxi_vm_power", vm="notools", state="powered-off")
    assert refused["error"]["id"] == "esxi-not-allowed" and "VMware Tools" in refused["msg"]
    assert open_host("esx70").find_vm("notools").power_state() == power_state.ON


def test_a_restart_is_proven_by_the_guest(module: Any, open_host: Any) -> None:
    vm = open_host("esx67").find_vm("plain67")
    for state in ("reboot-guest", "restarted"):
        # A guest that has just started again cannot be asked yet.
        wait_until(vm.tools_running, "the guest's Tools")
        done = module("esx67", "esxi_vm_power", vm="plain67", state=state, state_change_timeout=60)
        assert done.get("changed") and done["power_state"] == power_state.ON and done["downtime_seconds"] is not None, (
            done
        )


def test_a_question_is_reported_with_its_choices_and_never_answered(
    open_host: Any, clean_lab: Lab, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx67").find_vm("off67")
    clean_lab.host("esx67").fault("question", vm="off67")
    try:
        with pytest.raises(errors.QuestionPending) as caught:
            power.power_on(vm, quick(30))
        assert f"vmsvc/message {vm.vmid}" in caught.value.hint_text and caught.value.data["choices"]
        assert vm.question() is not None
        listed = info.describe_vms(vm.host, [vm])[0]
        assert listed["question"]["choices"]
    finally:
        clean_lab.clear()
        question = vm.question()
        if question is not None:
            vm.host.vim("vmsvc/message", str(vm.vmid), question.id, "0")
        if vm.power_state() == power_state.ON:
            power.power_off(vm, quick())


def test_a_power_on_that_fails_is_told_with_the_hosts_words(open_host: Any, clean_lab: Lab) -> None:
    vm = open_host("esx67").find_vm("off67")
    clean_lab.host("esx67").fault("power_on_fails", vm="off67")
    with pytest.raises(errors.EsxiError) as caught:
        power.power_on(vm, quick(600))
    assert (
        "Power on failed" in caught.value.message
        and "off67" in caught.value.message
        and vm.power_state() == power_state.OFF
    )


# -- journal -----------------------------------------------------------------------------------------------------


def test_what_must_be_undone_is_written_before_it_is_done(
    open_host: Any, module: Any, tidy: list[VirtualMachine]
) -> None:
    vm = open_host("esx80").find_vm("plain80")
    tidy.append(vm)
    folder = f"{vm.directory}/.stowage-job"
    vm.host.run("mkdir", folder)
    try:
        journal = IntentLog(vm.host.session, folder)
        made = module("esx80", "esxi_snapshot", vm="plain80", name=HOSTILE, journal=folder)
        number = made["snapshot"]["id"]
        module("esx80", "esxi_snapshot", vm="plain80", snapshot_id=number, state="absent", journal=folder)
        module("esx80", "esxi_vm_power", vm="plain80", state="powered-off", journal=folder)
        started = module("esx80", "esxi_vm_power", vm="plain80", state="powered-on", journal=folder)
        entries = journal.read()
        assert [entry["event"] for entry in entries] == [
            "snapshot-intent",
            "snapshot-done",
            "snapshot-remove-intent",
            "snapshot-remove-done",
            "power-off-intent",
            "power-off-done",
            "power-on-intent",
            "power-on-done",
        ]
        assert entries[0]["name"] == HOSTILE and entries[1]["id"] == number and entries[4]["boot_id"]
        assert started["downtime_seconds"] >= 0
        assert vm.host.run("ls", folder).split() == ["journal", "lease"]
        vm.host.run("rm", "-r", folder)
        lost = module("esx80", "esxi_snapshot", vm="plain80", name="x", journal=folder)
        assert lost["error"]["id"] == "esxi-journal-lost" and len(snapshots.tree(vm)) == 0
    finally:
        vm.host.run("rm", "-rf", folder)


def test_nothing_of_ours_is_left_on_a_host(open_host: Any) -> None:
    for name in ("esx67", "esx70", "esx80"):
        assert "stowage." not in open_host(name).run("ls", "-a", "/tmp")
