# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi import (
    errors,
    plan_power,
    plan_snapshot,
    power,
    snapshots,
)
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.parse_snapshots import Snapshot, SnapshotTree
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.snapshots import Layout, Reading
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.chain import Chain, Link
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import Descriptor, Extent
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmsd import Vmsd
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.vmx import parse_vmx


def snapshot(number: int, name: str, parent: int | None = None, depth: int = 1, current: bool = False) -> Snapshot:
    return Snapshot(number, name, "", None, "powered off", depth, parent, current)


BRANCHED = SnapshotTree(
    (
        snapshot(1, "root"),
        snapshot(2, "same", 1, 2),
        snapshot(3, "deep", 2, 3, current=True),
        snapshot(4, "same", 1, 2),
    )
)


class StandIn:
    """A VM of which only the answers are known that deciding needs."""

    vmx = parse_vmx(
        'scsi0:1.fileName = "i.vmdk"\nscsi0:1.present = "TRUE"\nscsi0:1.mode = "independent-persistent"\n', "x"
    )

    def __init__(self, state: str = power.ON, tools: bool = True, tree: SnapshotTree = BRANCHED) -> None:
        self._state, self._tools, self.tree = state, tools, tree

    def power_state(self) -> str:
        return self._state

    def tools_running(self) -> bool:
        return self._tools

    def data(self, **more: Any) -> dict[str, Any]:
        return {"host": "esx1", "vm": "vm", "vmid": 1, **more}


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_snapshot.snapshots, "tree", lambda vm: vm.tree)


def decide(vm: Any = None, **wish: Any) -> plan_snapshot.SnapshotPlan:
    return plan_snapshot.plan(vm or StandIn(), {"state": "present", **wish})


@pytest.mark.parametrize("state", ["present", "absent", "reverted"])
def test_a_name_that_two_branches_have_is_ambiguous(state: str) -> None:
    with pytest.raises(errors.SnapshotAmbiguous) as caught:
        decide(name="same", state=state, allow_revert=True)
    assert "2, 4" in caught.value.message


def test_a_new_snapshot_is_predicted_on_top_of_the_current_one() -> None:
    plan = decide(name="new")
    assert plan.action == "create" and plan.after.current is not None
    assert (plan.after.current.name, plan.after.current.parent_id, plan.after.current.id) == ("new", 3, None)
    assert [s.name for s in plan.after] == ["root", "same", "deep", "new", "same"]
    assert "scsi0:1" in plan.warnings[0]
    assert plan.diff()["after"].splitlines()[3] == "      - new (new) <- now"


def test_removing_one_moves_its_children_up_and_keeps_everything_else() -> None:
    plan = decide(state="absent", snapshot_id=2)
    assert [(s.id, s.parent_id, s.depth, s.current) for s in plan.after] == [
        (1, None, 1, False),
        (3, 1, 2, True),
        (4, 1, 2, False),
    ]


def test_removing_with_children_takes_the_branch_and_no_other() -> None:
    plan = decide(state="absent", snapshot_id=2, remove_children=True)
    assert [(s.id, s.current) for s in plan.after] == [(1, True), (4, False)]
    assert plan.words == ("remove snapshot 'same' (id 2)", "remove snapshot 'deep' (id 3)")


def test_what_is_as_wanted_is_no_change() -> None:
    assert decide(name="deep").changed is False
    assert decide(name="nobody", state="absent").changed is False


def test_a_revert_needs_leave_and_says_what_it_costs() -> None:
    with pytest.raises(errors.NotAllowed) as caught:
        decide(name="root", state="reverted")
    assert "allow_revert=true" in caught.value.hint_text
    plan = decide(name="root", state="reverted", allow_revert=True)
    assert any("scsi0:1" in w for w in plan.warnings) and any("powered off" in w for w in plan.warnings)
    with pytest.raises(errors.SnapshotNotFound):
        decide(name="nobody", state="reverted", allow_revert=True)


@pytest.mark.parametrize(
    ("state", "now", "tools", "force", "steps", "fallback"),
    [
        ("powered-on", power.ON, True, False, (), None),
        ("powered-on", power.OFF, False, False, ("power_on",), None),
        ("powered-on", power.SUSPENDED, False, False, ("power_on",), None),
        ("powered-off", power.OFF, False, False, (), None),
        ("powered-off", power.ON, True, False, ("shutdown_guest",), None),
        ("powered-off", power.ON, True, True, ("shutdown_guest",), "power_off"),
        ("powered-off", power.ON, False, True, ("power_off",), None),
        ("powered-off", power.SUSPENDED, False, True, ("power_off",), None),
        ("shutdown-guest", power.ON, True, False, ("shutdown_guest",), None),
        ("suspended", power.ON, True, False, ("suspend",), None),
        ("suspended", power.SUSPENDED, True, False, (), None),
        ("restarted", power.ON, True, True, ("reboot_guest",), "reset"),
        ("reboot-guest", power.ON, False, True, ("reset",), None),
    ],
)
def test_the_guest_is_asked_first_and_a_hard_stop_follows_only_where_allowed(
    state: str, now: str, tools: bool, force: bool, steps: tuple[str, ...], fallback: str | None
) -> None:
    plan = plan_power.plan(StandIn(now, tools), state, force)  # type: ignore[arg-type]
    assert (plan.steps, plan.fallback, plan.changed) == (steps, fallback, bool(steps))


@pytest.mark.parametrize(
    ("state", "now", "tools", "error"),
    [
        ("powered-off", power.ON, False, errors.NotAllowed),
        ("powered-off", power.SUSPENDED, False, errors.NotAllowed),
        ("shutdown-guest", power.SUSPENDED, False, errors.WrongPowerState),
        ("suspended", power.OFF, False, errors.WrongPowerState),
        ("reboot-guest", power.OFF, False, errors.WrongPowerState),
        ("restarted", power.ON, False, errors.NotAllowed),
    ],
)
def test_what_cannot_be_or_is_not_allowed_is_said_before_anything_happens(
    state: str, now: str, tools: bool, error: type[Exception]
) -> None:
    with pytest.raises(error):
        plan_power.plan(StandIn(now, tools), state, False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("noted", "boot_id", "ours"),
    [
        ([("intent", "a"), ("done", "a")], "a", True),
        ([("intent", "a"), ("done", "rotated")], "rotated", True),
        ([("intent", "a"), ("done", "rotated")], "a", True),
        ([("intent", "a")], "a", True),
        ([("intent", "a"), ("done", "a")], "b", False),
        ([("intent", "a"), ("done", "b"), ("intent", "c")], "b", False),
        ([("intent", "a"), ("done", None)], None, False),
        ([], "a", False),
    ],
)
def test_a_job_starts_what_it_has_stopped_and_nobody_has_started_since(
    noted: list[tuple[str, str | None]], boot_id: str | None, ours: bool
) -> None:
    entries = [{"event": f"power-off-{word}", "boot_id": boot} for word, boot in noted]
    journal: Any = SimpleNamespace(read=lambda: entries)
    vm: Any = SimpleNamespace(boot_id=lambda: boot_id)
    decided = plan_power.PowerPlan(before=power.OFF, after=power.ON, steps=("power_on",))
    assert plan_power.is_the_jobs_to_start(vm, decided, journal) is ours


# -- when is a removal complete ----------------------------------------------------------------------------------


def chain(*names: str) -> Chain:
    links = []
    for name in names:
        extent = Extent("RW", 8, "VMFS", name.replace(".vmdk", "-delta.vmdk"))
        links.append(Link(f"/vm/{name}", Descriptor(1, "1", "2", "vmfs", (extent,))))
    return Chain(tuple(links))


def layout(tree: SnapshotTree, live: Chain, frozen: dict[int, str], files: set[str]) -> Layout:
    referenced = {*live.paths, *live.extent_paths}
    for path in frozen.values():
        referenced |= {path, path.replace(".vmdk", "-delta.vmdk")}
    disks = {number: {"scsi0:0": path} for number, path in frozen.items()}
    return Layout(Reading(tree, Vmsd(9, None)), {"scsi0:0": live}, disks, frozenset(files), frozenset(referenced))


NONE = SnapshotTree()
OURS = SnapshotTree((snapshot(5, "ours", current=True),))
BASE = {"/vm/a.vmdk", "/vm/a-delta.vmdk"}
DELTA = {"/vm/a-000001.vmdk", "/vm/a-000001-delta.vmdk"}
BEFORE = layout(OURS, chain("a-000001.vmdk", "a.vmdk"), {5: "/vm/a.vmdk"}, BASE | DELTA)


def test_a_removal_is_complete_when_the_disk_is_back_and_the_delta_gone() -> None:
    assert snapshots.unfinished(BEFORE, layout(NONE, chain("a.vmdk"), {}, set(BASE))) == ""


def test_a_vm_that_still_runs_on_the_delta_is_not_done_although_the_tree_is_empty() -> None:
    after = layout(NONE, chain("a-000001.vmdk", "a.vmdk"), {}, BASE | DELTA)
    assert "2 links deep where 1 are due" in snapshots.unfinished(BEFORE, after)
    assert after.unaccounted() == ("scsi0:0",)


@pytest.mark.parametrize("left", sorted(DELTA | {"/vm/a-000002-sesparse.vmdk"}))
def test_any_file_that_is_left_keeps_it_open_helpers_included(left: str) -> None:
    assert left in snapshots.unfinished(BEFORE, layout(NONE, chain("a.vmdk"), {}, BASE | {left}))


def test_strangers_files_that_were_there_before_are_not_ours_to_miss() -> None:
    before = layout(OURS, chain("a-000001.vmdk", "a.vmdk"), {5: "/vm/a.vmdk"}, BASE | DELTA | {"/vm/old-000009.vmdk"})
    assert snapshots.unfinished(before, layout(NONE, chain("a.vmdk"), {}, BASE | {"/vm/old-000009.vmdk"})) == ""


def test_a_snapshot_that_an_admin_takes_meanwhile_is_accounted_for() -> None:
    tree = SnapshotTree((snapshot(6, "admin", current=True),))
    files = BASE | {"/vm/a-000002.vmdk", "/vm/a-000002-delta.vmdk"}
    after = layout(tree, chain("a-000002.vmdk", "a.vmdk"), {6: "/vm/a.vmdk"}, files)
    assert snapshots.unfinished(BEFORE, after) == ""


def test_a_linked_clone_keeps_its_parents() -> None:
    live = Chain((*chain("a-000001.vmdk", "a.vmdk").links, Link("/gold/g.vmdk", chain("g.vmdk").base.descriptor)))
    before = layout(OURS, live, {5: "/vm/a.vmdk"}, BASE | DELTA)
    after = layout(NONE, Chain(live.links[1:]), {}, set(BASE))
    assert snapshots.unfinished(before, after) == "" and after.unaccounted() == ()
