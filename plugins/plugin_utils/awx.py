# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWX shall have: the entries that role awx_objects knows, with those of the operator laid over them.

Plain data in, plain data out; nothing here reaches AWX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Entry = dict[str, Any]
EDGES = ("success", "failure", "always")


def plan(known: Mapping[str, Any], given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The job templates, workflows, nodes and schedules that AWX shall have, and what is wrong with them.

    `known` and `given` hold lists of entries under `templates`, `workflows` and `schedules`; an entry of `given`
    changes the one of `known` with the same `key`, each of its fields as a whole, or is added. Returned:

    * `templates`, `workflows`, `schedules`: entries with `name` (after the prefix) and `state`; templates also with
      `playbook`, schedules also with `starts`, the name of what they start;
    * `nodes`: the nodes of all workflows that are kept, each after all nodes that its edges lead to, with `workflow`
      (its name) and `starts` (that of its job template);
    * `problems`: a sentence for each thing that does not fit. Where there is one, the rest must not be used.
    """
    problems: list[str] = []
    templates = _laid_over(known, given, "templates", prefix, problems)
    workflows = _laid_over(known, given, "workflows", prefix, problems)
    schedules = _laid_over(known, given, "schedules", prefix, problems)
    for template in templates.values():
        template.setdefault("playbook", f"{template['key']}.yml")
    nodes: list[Entry] = []
    for workflow in _kept(workflows.values()):
        nodes += _nodes(workflow, templates, problems)
    for schedule in schedules.values():
        _aim(schedule, templates, workflows, problems)
    return {
        "templates": list(templates.values()),
        "workflows": list(workflows.values()),
        "nodes": nodes,
        "schedules": list(schedules.values()),
        "problems": problems,
    }


def _laid_over(
    known: Mapping[str, Any], given: Mapping[str, Any], kind: str, prefix: str, problems: list[str]
) -> dict[str, Entry]:
    merged: dict[str, Entry] = {}
    for source in (known, given):
        seen = set()
        for entry in source.get(kind) or []:
            key = entry["key"]
            if key in seen:
                problems.append(f"{kind}: there are two entries with key {key}; join them")
            seen.add(key)
            merged[key] = {**merged.get(key, {}), **entry}
    for key, entry in merged.items():
        entry["name"] = prefix + (entry.get("name") or key)
        entry["state"] = entry.get("state") or "present"
    owners: dict[str, str] = {}
    for key, entry in merged.items():
        other = owners.setdefault(entry["name"], key)
        if other != key:
            problems.append(
                f"{kind}: {other} and {key} have the same name, {entry['name']}; give one of them another name"
            )
    return merged


def _kept(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry["state"] == "present"]


def _nodes(workflow: Entry, templates: Mapping[str, Entry], problems: list[str]) -> list[Entry]:
    """The nodes of one workflow in the order in which they can be made: what an edge leads to comes first."""
    place = f"workflow {workflow['key']}"
    nodes: dict[str, Entry] = {}
    if not workflow.get("nodes"):
        problems.append(f"{place} has no nodes; give it some, or correct its key")
    for node in workflow.get("nodes") or []:
        if node["id"] in nodes:
            problems.append(f"{place} has two nodes called {node['id']}")
        template = templates.get(node["template"])
        if template is None or template["state"] != "present":
            problems.append(
                f"{place}, node {node['id']}: there is no job template {node['template']}, or it has state absent"
            )
        edges = {edge: list(node.get(edge) or []) for edge in EDGES}
        nodes[node["id"]] = {
            **node,
            **edges,
            "workflow": workflow["name"],
            "starts": template["name"] if template else "",
        }
    for node in nodes.values():
        targets = [target for edge in EDGES for target in node[edge]]
        problems += [
            f"{place}, node {node['id']}: an edge leads to {target}, which is none of its nodes"
            for target in targets
            if target not in nodes
        ]
        problems += [
            f"{place}, node {node['id']}: two edges lead to {target}, which AWX does not allow"
            for target in sorted({target for target in targets if targets.count(target) > 1})
        ]
    return _deepest_first(nodes, place, problems)


def _deepest_first(nodes: Mapping[str, Entry], place: str, problems: list[str]) -> list[Entry]:
    ordered: list[Entry] = []
    left = dict(nodes)
    while left:
        free = [
            name for name, node in left.items() if not any(target in left for edge in EDGES for target in node[edge])
        ]
        if not free:
            problems.append(f"{place}: its edges lead in a circle through {', '.join(left)}")
            return []
        ordered += [left.pop(name) for name in free]
    return ordered


def _aim(schedule: Entry, templates: Mapping[str, Entry], workflows: Mapping[str, Entry], problems: list[str]) -> None:
    """Writes into a schedule what it starts."""
    place = f"schedule {schedule['key']}"
    schedule["starts"] = ""
    goals = [(kind, schedule[kind]) for kind in ("template", "workflow") if schedule.get(kind)]
    if len(goals) != 1:
        problems.append(f"{place} must name one template or one workflow to start")
        return
    kind, key = goals[0]
    target = (templates if kind == "template" else workflows).get(key)
    if target is not None:
        schedule["starts"] = target["name"]
    if schedule["state"] == "absent":
        return
    if target is None or target["state"] != "present":
        problems.append(
            f"{place}: there is no {kind} {key}, or it has state absent; give the schedule state absent, too"
        )
    if not schedule.get("rrule"):
        problems.append(f"{place} has no rrule; say when it starts, or correct its key")


def changes(nodes: Iterable[Entry], found: Iterable[Entry], workflows: Iterable[str]) -> dict[str, list[Entry]]:
    """What must be done about the nodes of workflows: `nodes` are those of a plan, `found` those that AWX shows.

    * `removed`: nodes of these `workflows` that the plan does not have;
    * `loosened`: nodes with an edge of another kind than planned to the same node. AWX refuses a second edge to it, so
      that the old one must go first;
    * `made`: nodes that are missing or differ, in the plan's order.
    """
    there = {(_workflow(one), one["identifier"]): one for one in found}
    names = {one["id"]: one["identifier"] for one in there.values()}
    planned = {(node["workflow"], node["id"]): node for node in nodes}
    made, loosened = [], []
    for mark, node in planned.items():
        one = there.get(mark)
        if one is None:
            made.append(node)
            continue
        edges = {edge: {names.get(number, "") for number in one[f"{edge}_nodes"]} for edge in EDGES}
        wanted = {edge: set(node[edge]) for edge in EDGES}
        starts = (one["summary_fields"].get("unified_job_template") or {}).get("name")
        # A node without variables is left those that it has: the module cannot take them away.
        differs = node.get("extra_data") and one["extra_data"] != node["extra_data"]
        if edges != wanted or starts != node["starts"] or differs:
            made.append(node)
        if any(wanted[edge] & edges[other] for edge in EDGES for other in EDGES if edge != other):
            loosened.append(node)
    kept = set(workflows)
    removed = [
        {"workflow": workflow, "id": name}
        for workflow, name in there
        if workflow in kept and (workflow, name) not in planned
    ]
    return {"removed": removed, "loosened": loosened, "made": made}


def _workflow(found: Entry) -> str:
    return str(found["summary_fields"]["workflow_job_template"]["name"])
