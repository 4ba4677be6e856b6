# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who deals with which link of a matrix, and which links nobody names."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.stowage.esxi.plugins.filter.link_fleet_plan import link_fleet_plan
from ansible_collections.stowage.esxi.plugins.plugin_utils.matrix import unlisted

GROUPS = {"all": ["e1", "e2", "e3", "b1", "b2"], "esxi": ["e1", "e2", "e3"], "servers": ["b1", "b2"], "none": []}
PUSH = {"name": "push", "from": ["esxi"], "to": ["b1"]}


def plan(entries: list[dict[str, Any]], me: str, played: str = "e1 e2 e3 b1 b2") -> dict[str, Any]:
    return link_fleet_plan(entries, GROUPS, me, played.split())


def pairs(entries: list[dict[str, Any]], played: str) -> list[tuple[str, str]]:
    """What all machines of a run do together."""
    found = [pair for me in played.split() for some in plan(entries, me, played)["pairs"] for pair in some]
    return sorted((source, target) for source, target in found)


def test_the_larger_side_shares_the_work_among_itself() -> None:
    assert plan([PUSH], "e2")["pairs"] == [[["e2", "b1"]]]
    assert plan([PUSH], "b1")["pairs"] == [[]] and plan([PUSH], "b2")["pairs"] == [[]]
    assert plan([PUSH], "b1")["asked"] == ["e1", "e2", "e3"]
    back = {"name": "pull", "from": ["b1"], "to": ["esxi"]}
    assert plan([back, PUSH], "e2")["pairs"] == [[["b1", "e2"]], [["e2", "b1"]]]
    assert plan([back], "e2")["asked"] == []


@pytest.mark.parametrize("played", ["e1 e2 e3 b1 b2", "b1", "e2", "e1 b2", "b2"])
@pytest.mark.parametrize(
    "entry",
    [
        PUSH,
        {**PUSH, "both_ways": True},
        {"name": "mesh", "from": ["all"], "to": ["all"]},
        {"name": "mesh", "from": ["esxi", "b1"], "to": ["esxi", "b2"], "both_ways": True},
        {"name": "some", "from": ["esxi:!e3"], "to": ["*"]},
        {"name": "some", "from": ["none"], "to": ["none:e1"]},
    ],
    ids=str,
)
def test_each_link_with_a_machine_in_the_run_is_dealt_with_once(entry: dict[str, Any], played: str) -> None:
    def hosts(words: list[str]) -> set[str]:
        known = {"esxi:!e3": ["e1", "e2"], "*": GROUPS["all"], "none:e1": ["e1"]}
        return {host for word in words for host in known.get(word, GROUPS.get(word, [word]))}

    wanted = set(product(hosts(entry["from"]), hosts(entry["to"])))
    if entry.get("both_ways"):
        wanted |= {(target, source) for source, target in wanted}
    here = set(played.split())
    assert pairs([entry], played) == sorted(
        (source, target) for source, target in wanted if source != target and {source, target} & here
    )


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["b1", "b3"], "b3"),
        (["b1,b3"], "b3"),
        ("b3", "b3"),
        (["esxi", "!e9"], "!e9"),
        (["all:&nobody"], "&nobody"),
    ],
)
def test_a_name_that_nobody_has_is_a_problem(words: Any, wrong: str) -> None:
    (problem,) = plan([{**PUSH, "to": words}], "e1")["problems"]
    assert problem.startswith(f"link 'push': {wrong!r} is no host and no group of the inventory")


def test_an_empty_group_a_pattern_and_this_very_machine_are_none() -> None:
    for words in (["none"], ["b3*"], ["b[3:5]"], "b1", ["localhost"], ["esxi:!e1", "b1"]):
        assert plan([{**PUSH, "to": words}], "e1")["problems"] == [], words
    assert plan([{**PUSH, "from": ["localhost"]}], "b1")["pairs"] == [[["localhost", "b1"]]]
    with pytest.raises(AnsibleFilterError, match=r"link_fleet_links, esxi\[9\]"):
        plan([{**PUSH, "to": ["esxi[9]"]}], "e1")


def test_of_what_is_gone_but_for_one_machine_nothing_is_left() -> None:
    """And not everything but for that machine, as Ansible has it of an exclusion alone."""
    gone = {"name": "push", "from": ["b0", "!e2"], "to": ["esxi"], "state": "absent"}
    assert pairs([gone], "e1 e2 e3 b1 b2") == [("b0", "e1"), ("b0", "e2"), ("b0", "e3")]


def test_a_source_that_has_left_is_revoked_at_its_targets_whoever_is_in_the_run() -> None:
    gone = {"name": "control", "from": ["b0", "b2"], "to": ["esxi"], "state": "absent"}
    assert pairs([gone], "e1 e2") == [("b0", "e1"), ("b0", "e2"), ("b2", "e1"), ("b2", "e2")]
    found = plan([gone], "e1")
    assert found["problems"] == [] and found["named"] == ["control:b0:e1", "control:b2:e1"]
    # The other way round there is nobody to forget it.
    found = plan([{**gone, "both_ways": True}], "e1")
    assert found["pairs"] == [[["b2", "e1"], ["b0", "e1"], ["e1", "b2"]]]
    assert len(found["notes"]) == 1 and "b0 has left" in found["notes"][0]


def test_what_is_named_does_not_depend_on_who_is_in_the_run() -> None:
    both = {**PUSH, "both_ways": True}
    for played in ("e1", "b1", "e1 e2 e3 b1 b2"):
        assert plan([both], "e1", played)["named"] == ["push:b1:e1"]
        assert plan([both], "b1", played)["named"] == ["push:e1:b1", "push:e2:b1", "push:e3:b1"]


def test_a_link_that_is_named_for_one_account_is_a_strangers_in_another_ones_file() -> None:
    for_one = {**PUSH, "user": "stowage"}
    assert plan([for_one], "b1")["named"] == [f"push:e{number}:b1:stowage" for number in (1, 2, 3)]
    marks = ["stowage-link:push:e1:b1"]
    found: list[dict[str, Any]] = [{"link": {"user": user}, "links_accepted": marks} for user in ("stowage", "root")]
    old = [{"name": "push", "source": "e1", "target": "b1", "user": "root"}]
    assert unlisted(found, plan([for_one], "b1")["named"]) == old
    # Of one without an account it is not known which is meant; and both may be.
    for entries in ([PUSH], [for_one, PUSH], [for_one, {**PUSH, "user": "root"}]):
        assert unlisted(found, plan(entries, "b1")["named"]) == []


def test_links_that_nobody_names_are_told_once_each_with_the_account_that_they_open() -> None:
    marks = ["stowage-link:control:b1:e1", "stowage-link:old:b0:e1", "stowage-link:push:e2:x"]
    own = {"name": "control", "source": "b1", "target": "e1"}
    found: list[dict[str, Any]] = [
        {"link": {**own, "user": "root"}, "links_accepted": marks},
        {"link": {**own, "user": "root"}, "links_accepted": marks[:2]},
        {"link": {**own, "name": "look", "user": "stowage"}, "links_accepted": marks[1:2]},
    ]
    assert unlisted(found, ["control:b1:e1", "push:e2:e1"]) == [
        {"name": "old", "source": "b0", "target": "e1", "user": "root"},
        {"name": "push", "source": "e2", "target": "x", "user": "root"},
        {"name": "old", "source": "b0", "target": "e1", "user": "stowage"},
    ]
