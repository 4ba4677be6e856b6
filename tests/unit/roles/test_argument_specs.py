# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's argument spec is the single source: its defaults, its README and its playbooks must agree with it."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/tasks/main.yml"))
PLAYBOOKS = sorted(ROOT.glob("playbooks/*.yml"))


class _Loader(yaml.SafeLoader):
    """Knows Ansible's own tags."""


_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


@functools.cache
def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a safe loader with one more tag)


@functools.cache
def options_of(role: Path) -> dict[str, Any]:
    specs = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    merged: dict[str, Any] = {}
    for spec in specs.values():
        for name, option in (spec.get("options") or {}).items():
            assert merged.setdefault(name, option) == option, f"{name} is described twice, differently"
    return merged


def tasks_in(node: Any) -> list[dict[str, Any]]:
    """All tasks of a task file or playbook, blocks opened."""
    found = []
    for item in node or []:
        inner = [key for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks") if key in item]
        for key in inner:
            found += tasks_in(item[key])
        if "block" not in item and "hosts" not in item:
            found.append(item)
    return found


def own_module(task: dict[str, Any]) -> str | None:
    return next((key for key in task if key.startswith("stowage.esxi.")), None)


def blocks_delegated(node: Any, inherited: bool = False) -> list[tuple[dict[str, Any], bool]]:
    found = []
    for item in node or []:
        delegated = inherited or "delegate_to" in item
        for key in ("block", "rescue", "always"):
            found += blocks_delegated(item.get(key), delegated)
        if "block" not in item:
            found.append((item, delegated))
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_equals_the_one_in_the_spec(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml")
    spec = {name: option["default"] for name, option in options_of(role).items() if "default" in option}
    assert defaults == spec


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_carries_the_prefix_of_its_role_or_the_shared_one(role: Path) -> None:
    assert [name for name in options_of(role) if not name.startswith((f"{role.name}_", "stowage_"))] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_public_variable_that_the_tasks_read_is_in_the_spec(role: Path) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in role.glob("tasks/*.yml"))
    templates = " ".join(re.findall(r"\{\{(.*?)\}\}", text, re.S)) + " ".join(re.findall(r"when: (.*)", text))
    templates = re.sub(r"'[^']*'", "", templates)
    read = set(re.findall(rf"(?<![\w.])({role.name}_\w+)", templates))
    made = set(re.findall(r"(?:register|loop_var|index_var): (\w+)", text)) | set(
        re.findall(rf"^ +({role.name}_\w+):", text, re.M)
    )
    assert sorted(read - made - set(options_of(role))) == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_task_with_a_module_of_ours_runs_on_the_backup_server(role: Path) -> None:
    lonely = []
    for path in sorted(role.glob("tasks/*.yml")):
        for task, delegated in blocks_delegated(load(path)):
            if own_module(task) and not delegated:
                lonely.append(f"{path.name}: {task['name']}")
    assert lonely == []


@functools.cache
def options_of_module(name: str) -> set[str]:
    """Option names as the module's documentation has them, its doc fragments and aliases included."""
    source = (ROOT / "plugins" / "modules" / f"{name}.py").read_text(encoding="utf-8")
    documentation = yaml.safe_load(re.search(r'^DOCUMENTATION = r?"""(.*?)^"""', source, re.S | re.M).group(1))  # type: ignore[union-attr]
    found = dict(documentation["options"])
    for fragment in documentation.get("extends_documentation_fragment", []):
        text = (ROOT / "plugins" / "doc_fragments" / f"{fragment.split('.')[2]}.py").read_text(encoding="utf-8")
        for block in re.findall(r'= r?"""(.*?)"""', text, re.S):
            parsed = yaml.safe_load(block)
            if isinstance(parsed, dict):
                found.update(parsed.get("options") or {})
    return set(found) | {alias for option in found.values() for alias in option.get("aliases", [])}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_option_that_a_task_gives_is_one_that_the_module_has(role: Path) -> None:
    wrong = []
    for path in sorted(role.glob("tasks/*.yml")):
        for task, _delegated in blocks_delegated(load(path)):
            module = own_module(task)
            if module:
                unknown = set(task[module]) - options_of_module(module.rpartition(".")[2])
                wrong += [f"{path.name}: {task['name']}: {name}" for name in sorted(unknown)]
    assert wrong == []


def test_one_machine_costs_at_most_eight_task_runs() -> None:
    tasks = blocks_delegated(load(ROOT / "roles" / "backup" / "tasks" / "vm.yml"))
    assert 0 < len([task for task, _delegated in tasks if own_module(task)]) <= 8


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_no_playbook_asks_a_question(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "vars_prompt" not in text
    assert "ansible.builtin.pause" not in text


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_variables_set_by_a_playbook_exist_in_a_spec(path: Path) -> None:
    known: set[str] = set()
    for role in ROLES:
        known |= set(options_of(role))
    known |= {
        "backup_servers",
        "stowage_hosts",
        "stowage_link_hosts",
        "stowage_order",
        "stowage_serial",
        "stowage_run_id",
        "stowage_run",
    }
    text = path.read_text(encoding="utf-8")
    used = set(
        re.findall(
            r"(?<![\w.])((?:backup|restore|recover|stowage)_\w+)", re.sub(r"#.*|record_fault_variable: \w+", "", text)
        )
    )
    files = {playbook.stem for playbook in PLAYBOOKS}
    assert sorted(used - known - files) == []


def test_the_role_pages_are_in_step_with_their_specs() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "tools" / "role_readme.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_the_page_of_variables_names_exactly_those_that_the_code_reads() -> None:
    """Those of the roles are written from the specs; those of a connection and of a run are found where they are."""
    page = (ROOT / "docs" / "variables.md").read_text(encoding="utf-8").split("## The roles")[0]
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    resolve = (ROOT / "plugins" / "plugin_utils" / "resolve.py").read_text(encoding="utf-8")
    read = set(re.findall(r'"((?:ansible|stowage)_\w+)"', resolve))
    # Looked at only to refuse a jump host that is hidden in them.
    read -= {"ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args"}
    for path in [*PLAYBOOKS, *ROOT.glob("roles/*/tasks/*.yml")]:
        text = path.read_text(encoding="utf-8")
        made = set(re.findall(r"^ +(stowage_\w+):", text, re.M))
        read |= set(re.findall(r"(?<![\w.'])(stowage_\w+)", re.sub(r"#.*|msg:.*", "", text))) - made
    assert sorted(named ^ read) == []


def test_the_page_of_faults_is_in_step_with_the_error_classes() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "tools" / "faults_page.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_id_of_an_error_is_on_the_page_of_faults() -> None:
    """Looked for in another way than the page is made: every text that stands where an id stands."""
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    shapes = re.compile(r"""\bid\b["']?\s*[:=]\s*["']([a-z]+(?:-[a-z]+)*)["']|_problem\(\s*["']([a-z-]+)["']""")
    found = set()
    for path in [*ROOT.glob("plugins/module_utils/**/*.py"), *ROOT.glob("roles/*/*/*.yml")]:
        for match in shapes.finditer(path.read_text(encoding="utf-8")):
            found.add(match.group(1) or match.group(2))
    # The root's own, which is never raised.
    found -= {"error"}
    assert {"host-not-run", "network-missing", "host-failed", "no-room"} <= found
    assert sorted(name for name in found if f"| `{name}` |" not in page) == []


def test_the_steps_of_a_backup_name_the_machine_by_the_number_it_has_now() -> None:
    """The plan may be hours old, and its number another machine's: only the job that was begun knows the one of now."""
    steps = tasks_in(load(ROOT / "roles" / "backup" / "tasks" / "vm.yml"))
    numbers = [
        options["vmid"]
        for task in steps
        for options in task.values()
        if isinstance(options, dict) and "vmid" in options
    ]
    assert len(numbers) == 4 and set(numbers) == {"{{ _backup_job.job.vmid }}"}


@pytest.mark.parametrize("role", ["backup", "restore"])
def test_every_copy_is_given_what_the_role_has_a_variable_for(role: str) -> None:
    """What a role does not hand on has the module's own default, whatever the operator wrote."""
    text = (ROOT / "plugins" / "modules" / "vmdk_copy.py").read_text(encoding="utf-8")
    known = yaml.safe_load(text.split('DOCUMENTATION = r"""')[1].split('"""')[0])["options"]
    # These name the VM or its place elsewhere in the role.
    wanted = {name for name in known if f"{role}_{name}" in options_of(ROOT / "roles" / role)} - {"vm", "uuid"}
    copies = [
        task["stowage.esxi.vmdk_copy"]
        for task in tasks_in(load(ROOT / "roles" / role / "tasks" / "vm.yml"))
        if "stowage.esxi.vmdk_copy" in task
    ]
    assert copies and "reserve_percent" in wanted
    for copy in copies:
        # Into a store nothing is made that has a format, and nothing is written over.
        made = {"disk_format", "in_place"} if role == "restore" and "src" not in copy else set()
        assert wanted - made - set(copy) == set()


@pytest.mark.parametrize("role", ["backup", "restore"])
def test_every_task_that_writes_to_a_journal_says_whose_it_is(role: str) -> None:
    """Without the job's id it would write to whoever holds the lock by then."""
    text = (ROOT / "roles" / role / "tasks" / "vm.yml").read_text(encoding="utf-8")
    folders = re.findall(r'journal: "{{ (\w+)\.job\.folder }}"\n +job_id: "{{ \1\.job\.id }}"', text)
    assert len(folders) == text.count("journal: ") > 0


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_truth_that_comes_as_text_is_read_as_one(role: Path) -> None:
    """Survey answers and `-e name=false` are texts: every one of these is true, or refused by a condition."""
    truths = {name for name, option in options_of(role).items() if option.get("type") == "bool"}
    wrong = []
    for path in [*role.glob("tasks/*.yml"), *role.glob("vars/*.yml")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            decides = re.match(r"\s*(- |when: )(?!name)[^:]*$", line) or re.search(r"\bif\b", line)
            named = [name for name in truths if re.search(rf"(?<![\w.]){name}\b", line)]
            wrong += [f"{path.name}:{number}: {name}" for name in named if decides and "| bool" not in line]
    assert wrong == []
