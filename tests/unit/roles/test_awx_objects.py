# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role awx_objects knows: surveys ask for variables that roles have, a night ends as it must whatever fails."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.stowage.esxi.plugins.plugin_utils.awx import plan

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "docs" / "awx-project"


class _Loader(yaml.SafeLoader):
    """Knows Ansible's own tags."""


_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a safe loader with one more tag)


VARS = load(ROOT / "roles" / "awx_objects" / "vars" / "main.yml")
KNOWN = {kind: VARS[f"_awx_objects_known_{kind}"] for kind in ("templates", "workflows", "schedules")}
QUESTIONS = [
    pytest.param(template["key"], question, id=f"{template['key']}-{question['variable']}")
    for template in KNOWN["templates"]
    for question in template.get("survey", [])
]


def test_what_the_role_knows_fits_together() -> None:
    assert plan(KNOWN, {}, "Stowage ")["problems"] == []


def test_every_job_template_starts_a_playbook_of_the_collection_and_of_the_example() -> None:
    wanted = {f"{template['key']}.yml" for template in KNOWN["templates"]}
    have = {path.name for path in ROOT.glob("playbooks/*.yml")}
    example = {path.name for path in PROJECT.glob("*.yml")}
    assert wanted <= have and wanted <= example
    # agree.yml is the first play of others, awx_objects.yml makes these very templates, and AWX itself starts works.
    assert have - {"agree.yml", "awx_objects.yml", "start_work.yml"} == wanted
    for path in PROJECT.glob("*.yml"):
        if path.name != "awx_objects.yml":
            assert load(path) == [
                {"name": load(path)[0]["name"], "ansible.builtin.import_playbook": f"stowage.esxi.{path.stem}"}
            ]


@pytest.mark.parametrize(("key", "question"), QUESTIONS)
def test_a_question_asks_for_a_variable_of_the_role_with_its_default_and_choices(
    key: str, question: dict[str, Any]
) -> None:
    role = question["variable"].split("_")[0] if key != "link_fleet" else key
    option = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"][
        question["variable"]
    ]
    if option["type"] == "bool":
        assert question["choices"] == ["false", "true"] and question["default"] == str(option["default"]).lower()
    elif "choices" in option:
        assert (question["choices"], question["default"]) == (option["choices"], option["default"])
    else:
        # Text that becomes a list is split at its commas by the module. Nothing is preset but for that one.
        assert question["type"] == "text" and (option["type"] == "str" or question["variable"] == "backup_select")
        assert question.get("default", "") in (option.get("default", ""), "running")


def test_what_runs_by_itself_asks_nothing_that_would_overrule_the_inventory() -> None:
    started = {node["template"] for workflow in KNOWN["workflows"] for node in workflow["nodes"]}
    started |= {schedule["template"] for schedule in KNOWN["schedules"] if "template" in schedule}
    asking = {template["key"] for template in KNOWN["templates"] if template.get("survey")}
    # New keys are asked for on one occasion, not set in an inventory.
    assert started & asking == {"link_fleet"}


LEADS = {"success": ("success", "always"), "failure": ("failure", "always")}


def end_of_night(failing: set[str]) -> tuple[list[str], bool]:
    """The nodes that AWX runs, in order, and whether it counts the workflow as failed; `failing` nodes fail.

    By AWX's rules: a node runs when each of its parents has ended or will not run, and one of them leads to it by its
    outcome; a workflow has failed when a node failed that leads nowhere by failing.
    """
    nodes = {node["id"]: node for node in plan(KNOWN, {}, "")["nodes"]}
    parents: dict[str, list[tuple[str, str]]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        for edge in ("success", "failure", "always"):
            for target in node[edge]:
                parents[target].append((name, edge))
    outcome: dict[str, str] = {}
    ran: list[str] = []
    while len(outcome) < len(nodes):
        ready = [
            name for name in nodes if name not in outcome and all(parent in outcome for parent, _edge in parents[name])
        ]
        assert ready
        for name in ready:
            leads = [edge for parent, edge in parents[name] if edge in LEADS.get(outcome[parent], ())]
            if parents[name] and not leads:
                outcome[name] = "not run"
            else:
                outcome[name] = "failure" if name in failing or name == "verdict" else "success"
                ran.append(name)
    unhandled = [
        name
        for name, ended in outcome.items()
        if ended == "failure" and not nodes[name]["failure"] and not nodes[name]["always"]
    ]
    return ran, bool(unhandled)


STEPS = ("link", "backup", "verify", "prune", "report")


@pytest.mark.parametrize(
    "failing",
    [set(some) for count in range(6) for some in itertools.combinations(STEPS, count)],
    ids=lambda some: "-".join(sorted(some)) or "none",
)
def test_whatever_fails_in_a_night_every_step_runs_recover_follows_and_the_night_has_failed(failing: set[str]) -> None:
    ran, failed = end_of_night(failing)
    assert [name for name in ran if name in STEPS] == list(STEPS)
    assert [name for name in ran if name.startswith("recover")] == [
        f"recover_after_{step}" for step in STEPS if step in failing
    ]
    assert failed == bool(failing)
    if failing:
        assert ran[-1] == "verdict"


def test_a_recover_that_fails_does_not_end_the_night_either() -> None:
    ran, failed = end_of_night({"backup", "recover_after_backup"})
    assert [name for name in ran if name in STEPS] == list(STEPS)
    assert failed and ran[-1] == "verdict"
