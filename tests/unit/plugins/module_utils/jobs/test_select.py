# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy, BadQuery
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import parse_policy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.select import Candidate, Selection, select, tags_of


def vm(vmid: int, name: str, power: str = "poweredOn", **more: Any) -> Candidate:
    info = {"vmid": vmid, "name": name, "power_state": power, "disks": more.pop("disks", [])}
    return Candidate(
        name=name, identity=more.pop("identity", f"id{vmid}"), vmid=vmid, power_state=power, info=info, **more
    )


FLEET = [
    vm(1, "web01", datastores=("ds1",), tags=("nightly",), uuids=("aaaa",)),
    vm(2, "web02", "poweredOff", datastores=("ds2",)),
    vm(3, "db01", datastores=("ds1", "ds2"), tags=("nightly", "gold"), disks=[{"capacity_bytes": 5}]),
    vm(4, "all", "suspended"),
    vm(5, "web[1]"),
]


def chosen(*wishes: Any, exclude: tuple[Any, ...] = (), unknown: str = "error") -> tuple[list[str], list[str]]:
    found: Selection = select(wishes, exclude, FLEET, "esx1", unknown)
    return [one.name for one in found.chosen], [problem.error["id"] for problem in found.problems]


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        ("all", ["all", "db01", "web01", "web02", "web[1]"]),
        ({"all": True}, ["all", "db01", "web01", "web02", "web[1]"]),
        ("running", ["db01", "web01", "web[1]"]),
        ({"running": False}, ["all", "web02"]),
        ("web01", ["web01"]),
        ("name:all", ["all"]),
        ("pattern:web*", ["web01", "web02", "web[1]"]),
        ({"pattern": "WEB*"}, []),
        ({"regex": "^(web|db)01$"}, ["db01", "web01"]),
        ("tag:nightly", ["db01", "web01"]),
        ("datastore:ds2", ["db01", "web02"]),
        ({"uuid": "AAAA"}, ["web01"]),
        ("web[1]", ["web[1]"]),
        ({"running": True, "datastore": "ds1", "tag": "gold"}, ["db01"]),
        ("query:[?power_state=='poweredOff']", ["web02"]),
        ("query:[?disks[?capacity_bytes > `4`]].name", ["db01"]),
        ({"query": "[].vmid | [0:2]"}, ["web01", "web02"]),
    ],
)
def test_each_form_of_selection_names_exactly_its_machines(wish: Any, names: list[str]) -> None:
    assert chosen(wish) == (names, [])


def test_a_replica_that_stands_by_is_meant_only_by_its_own_name() -> None:
    """All machines of the host that has the copies are not the copies of another host's machines."""
    fleet = [vm(1, "db02"), vm(2, "web01", "poweredOff", standby=True, uuids=("aaaa",), datastores=("ds1",))]

    def names(*wishes: Any, exclude: tuple[Any, ...] = ()) -> list[str]:
        return [one.name for one in select(wishes, exclude, fleet, "esx2").chosen]

    for wish in ("all", {"running": False}, "pattern:web*", "datastore:ds1", "query:[].name"):
        assert "web01" not in names(wish, "db02")
    assert names("web01") == names({"uuid": "AAAA"}) == ["web01"]
    assert names("all", "web01") == ["db02", "web01"] and names("all", "web01", exclude=("pattern:w*",)) == ["db02"]
    assert [one.name for one in select(["all"], [], fleet, "esx2").left_out] == ["web01"]


def test_several_wishes_add_up_and_exclusions_win() -> None:
    assert chosen("tag:nightly", "web02", exclude=("pattern:db*",)) == (["web01", "web02"], [])


def test_an_unknown_name_is_a_problem_of_that_name_and_the_others_go_on() -> None:
    found = select(["web01", "wbe02"], [], FLEET, "esx1")
    assert [one.name for one in found.chosen] == ["web01"]
    (problem,) = found.problems
    assert (problem.vm, problem.error["id"]) == ("wbe02", "unknown-vm")
    assert "web02" in problem.error["hint"]


def test_an_unknown_name_can_be_passed_over() -> None:
    assert chosen("web01", "elsewhere", unknown="ignore") == (["web01"], [])


def test_two_machines_of_one_name_are_ambiguous_and_neither_is_taken() -> None:
    twins = [vm(1, "web"), vm(2, "web"), vm(3, "db")]
    found = select(["web", "db"], [], twins, "esx1")
    assert [one.name for one in found.chosen] == ["db"]
    assert found.problems[0].error["id"] == "ambiguous-vm"
    assert "vmid 1" in found.problems[0].error["message"] and "vmid 2" in found.problems[0].error["message"]
    assert [one.name for one in found.left_out] == []


def test_two_machines_of_one_identity_are_ambiguous_even_when_all_are_selected() -> None:
    copies = [vm(1, "web", identity="same"), vm(2, "copy of web", identity="same"), vm(3, "db")]
    found = select(["all"], [], copies, "esx1")
    assert [one.name for one in found.chosen] == ["db"]
    assert {problem.error["id"] for problem in found.problems} == {"ambiguous-vm"}


def test_excluding_a_machine_that_is_not_there_is_no_problem() -> None:
    assert chosen("web01", exclude=("gone",)) == (["web01"], [])


def test_a_hostile_name_is_compared_and_never_interpreted() -> None:
    name = "$(rm -rf /) '*' {{ 1+1 }}"
    found = select([f"name:{name}"], [], [vm(1, name), vm(2, "x")], "esx1")
    assert [one.name for one in found.chosen] == [name]


@pytest.mark.parametrize("query", ["[?", "length(@)", "[0]", "[].disks"])
def test_a_query_that_does_not_return_machines_is_refused(query: str) -> None:
    with pytest.raises(BadQuery):
        select([{"query": query}], [], FLEET, "esx1")


@pytest.mark.parametrize("wish", [{}, {"nmae": "x"}, 7, {"regex": "("}])
def test_a_selection_that_means_nothing_is_refused(wish: Any) -> None:
    with pytest.raises(BadPolicy):
        select([wish], [], FLEET, "esx1")


@pytest.mark.parametrize("wish", ["running", {"running": True, "pattern": "web*"}, "query:[?power_state=='poweredOn']"])
def test_a_machine_whose_state_the_host_does_not_tell_is_a_problem_and_not_left_out(wish: Any) -> None:
    fleet = [vm(1, "web01"), vm(2, "web02", "", unknown="no answer")]
    found = select([wish], [], fleet, "esx1")
    assert [one.name for one in found.chosen] == ["web01"]
    (problem,) = found.problems
    assert (problem.vm, problem.error["id"]) == ("web02", "vm-unusable") and "no answer" in problem.error["message"]
    assert found.left_out == ()


def test_a_machine_whose_state_the_host_does_not_tell_is_no_problem_where_it_is_not_meant() -> None:
    fleet = [vm(1, "web01"), vm(2, "db01", "", unknown="no answer")]
    for wishes, exclude in ((["web01"], []), ([{"running": True, "pattern": "web*"}], []), (["running"], ["db01"])):
        assert select(wishes, exclude, fleet, "esx1").problems == ()


def test_tags_come_by_name_and_by_uuid() -> None:
    assert tags_of({"web01": ["a"], "aaaa": "b", "other": ["c"]}, "web01", ["aaaa"]) == ("a", "b")


UUID = "564d36cf-6988-0f5f-a1b2-0123456789ab"


@pytest.mark.parametrize("written", [UUID, UUID.upper(), "56 4d 36 cf 69 88 0f 5f-a1 b2 01 23 45 67 89 ab"])
def test_a_uuid_is_known_however_it_is_written(written: str) -> None:
    assert tags_of({written: ["nightly"]}, "web01", [UUID]) == ("nightly",)
    found = select([{"uuid": written}], [], [vm(1, "web01", uuids=(UUID,)), vm(2, "web02")], "esx1")
    assert [one.name for one in found.chosen] == ["web01"] and found.problems == ()
    policy = parse_policy({"point": "/vmfs/volumes/b", "vms": {written: {"how": "cold"}}})
    assert policy.for_vm(["web01", UUID]).how == "cold"


def test_the_same_facts_give_an_equal_selection() -> None:
    assert select(["all", "nobody"], [], FLEET, "e") == select(["all", "nobody"], [], FLEET, "e")


def test_what_an_exclusion_takes_out_is_told_apart_from_what_nobody_asked_for() -> None:
    found = select(["pattern:web*"], ["name:web02", "name:db01"], FLEET, "esx1")
    assert [one.name for one in found.chosen] == ["web01", "web[1]"]
    assert [one.name for one in found.excluded] == ["web02"]
    assert [one.name for one in found.left_out] == ["all", "db01"]
