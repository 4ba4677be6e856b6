# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWX shall have, as a value: entries laid over each other, checked, in order, and compared with what is there."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.plugin_utils.awx import changes, plan

KNOWN: dict[str, Any] = {
    "templates": [{"key": "a", "name": "first", "survey": [{"variable": "x"}]}, {"key": "b"}],
    "workflows": [
        {
            "key": "w",
            "nodes": [
                {"id": "one", "template": "a", "success": ["two"], "failure": ["three"]},
                {"id": "two", "template": "b", "always": ["three"]},
                {"id": "three", "template": "b"},
            ],
        }
    ],
    "schedules": [{"key": "s", "workflow": "w", "rrule": "R"}],
}


def test_an_entry_of_the_operator_changes_the_known_one_and_others_are_added() -> None:
    made = plan(KNOWN, {"templates": [{"key": "a", "forks": 3}, {"key": "own", "playbook": "mine.yml"}]}, "P ")
    assert made["problems"] == []
    assert made["templates"] == [
        {
            "key": "a",
            "name": "P first",
            "survey": [{"variable": "x"}],
            "forks": 3,
            "state": "present",
            "playbook": "a.yml",
        },
        {"key": "b", "name": "P b", "state": "present", "playbook": "b.yml"},
        {"key": "own", "name": "P own", "state": "present", "playbook": "mine.yml"},
    ]
    assert made["schedules"] == [
        {"key": "s", "workflow": "w", "rrule": "R", "name": "P s", "state": "present", "starts": "P w"}
    ]


def test_a_node_comes_after_all_that_its_edges_lead_to() -> None:
    made = plan(KNOWN, {}, "")
    assert [(node["id"], node["workflow"], node["starts"]) for node in made["nodes"]] == [
        ("three", "w", "b"),
        ("two", "w", "b"),
        ("one", "w", "first"),
    ]


def test_nothing_is_planned_for_a_workflow_that_goes() -> None:
    given = {"workflows": [{"key": "w", "state": "absent"}], "schedules": [{"key": "s", "state": "absent"}]}
    made = plan(KNOWN, given, "")
    assert (made["nodes"], made["problems"]) == ([], [])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"templates": [{"key": "b", "state": "absent"}]},
            "node two: there is no job template b, or it has state absent",
        ),
        ({"templates": [{"key": "c", "name": "b"}]}, "templates: b and c have the same name, b"),
        ({"templates": [{"key": "c"}, {"key": "c"}]}, "there are two entries with key c"),
        ({"workflows": [{"key": "x"}]}, "workflow x has no nodes"),
        (
            {"workflows": [{"key": "w", "nodes": [{"id": "n", "template": "a", "success": ["m"]}]}]},
            "an edge leads to m",
        ),
        (
            {"workflows": [{"key": "w", "nodes": [{"id": "n", "template": "a"}, {"id": "n", "template": "a"}]}]},
            "two nodes called n",
        ),
        (
            {
                "workflows": [
                    {
                        "key": "w",
                        "nodes": [
                            {"id": "n", "template": "a", "success": ["m"]},
                            {"id": "m", "template": "a", "always": ["n"]},
                        ],
                    }
                ]
            },
            "lead in a circle through n, m",
        ),
        (
            {
                "workflows": [
                    {
                        "key": "w",
                        "nodes": [
                            {"id": "n", "template": "a", "success": ["m"], "failure": ["m"]},
                            {"id": "m", "template": "a"},
                        ],
                    }
                ]
            },
            "two edges lead to m",
        ),
        (
            {"workflows": [{"key": "w", "state": "absent"}]},
            "schedule s: there is no workflow w, or it has state absent",
        ),
        ({"schedules": [{"key": "t", "rrule": "R"}]}, "schedule t must name one template or one workflow"),
        ({"schedules": [{"key": "t", "template": "a"}]}, "schedule t has no rrule"),
    ],
)
def test_what_does_not_fit_is_said(given: dict[str, Any], problem: str) -> None:
    assert any(problem in one for one in plan(KNOWN, given, "")["problems"])


def shown(number: int, node: dict[str, Any], ids: dict[str, int], **other: Any) -> dict[str, Any]:
    """A node as AWX's API shows it."""
    return {
        "id": number,
        "identifier": node["id"],
        "extra_data": node.get("extra_data", {}),
        **{f"{edge}_nodes": [ids[name] for name in node[edge]] for edge in ("success", "failure", "always")},
        "summary_fields": {
            "workflow_job_template": {"name": node["workflow"]},
            "unified_job_template": {"name": node["starts"]},
        },
        **other,
    }


def found() -> list[dict[str, Any]]:
    nodes = plan(KNOWN, {}, "")["nodes"]
    ids = {node["id"]: number for number, node in enumerate(nodes, 5)}
    return [shown(ids[node["id"]], node, ids) for node in nodes]


def test_nodes_that_are_as_planned_are_left_alone() -> None:
    assert changes(plan(KNOWN, {}, "")["nodes"], found(), ["w"]) == {"removed": [], "loosened": [], "made": []}


def test_missing_nodes_are_made_and_foreign_ones_of_the_same_workflow_removed() -> None:
    three, two, one = found()
    three["identifier"] = "by hand"
    other = {**one, "id": 99, "summary_fields": {"workflow_job_template": {"name": "of others"}}}
    told = changes(plan(KNOWN, {}, "")["nodes"], [three, two, one, other], ["w"])
    assert told["removed"] == [{"workflow": "w", "id": "by hand"}]
    # The edges that led to the node lead to none that is planned.
    assert [node["id"] for node in told["made"]] == ["three", "two", "one"]


def test_an_edge_of_another_kind_is_taken_away_first() -> None:
    three, two, one = found()
    two["success_nodes"], two["always_nodes"] = two["always_nodes"], []
    told = changes(plan(KNOWN, {}, "")["nodes"], [three, two, one], ["w"])
    assert [[node["id"] for node in told[what]] for what in ("loosened", "made")] == [["two"], ["two"]]


def test_another_job_template_and_other_variables_are_differences() -> None:
    given = {"workflows": [{"key": "w", "nodes": [{"id": "n", "template": "a", "extra_data": {"x": 1}}]}]}
    (node,) = plan(KNOWN, given, "")["nodes"]
    same = shown(5, node, {})
    assert changes([node], [same], ["w"])["made"] == []
    assert changes([node], [{**same, "extra_data": {"x": 2}}], ["w"])["made"] == [node]
    gone = {**same, "summary_fields": {"workflow_job_template": {"name": "w"}}}
    assert changes([node], [gone], ["w"])["made"] == [node]
