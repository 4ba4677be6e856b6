# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds the tree to the rules of docs/architecture.md: arrows point down, modules are thin, nothing is lab-only."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
PREFIX = "ansible_collections.stowage.esxi.plugins."

# A room may import the rooms that stand in its row, and itself.
BELOW = {
    "base": set(),
    "ssh": {"base"},
    "vmdk": {"base"},
    "store": {"base", "vmdk"},
    "cli": {"base", "store"},
    "esxi": {"base", "ssh", "vmdk"},
    "transfer": {"base", "ssh", "vmdk", "esxi"},
    "programs": {"base", "ssh", "vmdk", "esxi", "store", "transfer"},
    "jobs": {"base", "ssh", "vmdk", "esxi", "store", "transfer", "programs"},
    "link": {"base", "ssh", "esxi"},
}
MODULE_LIMIT_LINES = 150


def imports_of(path: Path) -> set[str]:
    """Every module of the collection that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name[len(PREFIX) :] for name in found if name.startswith(PREFIX)}


ROOM_FILES = sorted((PLUGINS / "module_utils").rglob("*.py"))
MODULES = sorted((PLUGINS / "modules").glob("*.py"))


@pytest.mark.parametrize("path", ROOM_FILES, ids=lambda path: str(path.relative_to(PLUGINS)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = path.relative_to(PLUGINS / "module_utils").parts[0]
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("module_utils.")}
    assert rooms <= BELOW[room] | {room}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_stays_thin(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    documents: set[int] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in (
            "DOCUMENTATION",
            "EXAMPLES",
            "RETURN",
        ):
            documents.update(range(node.lineno, (node.end_lineno or 0) + 1))
    code = [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if number not in documents and line.strip() and not line.strip().startswith("#")
    ]
    assert len(code) <= MODULE_LIMIT_LINES


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_product_has_no_word_of_the_lab() -> None:
    guilty = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("plugins", "roles", "playbooks")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".yml", ".yaml", ".j2")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\besxilab\b|\blab\b|\.lab\b|labd", line, re.IGNORECASE)
    ]
    assert guilty == []


def test_every_python_file_says_its_licence() -> None:
    guilty = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py"
        and path.stat().st_size
        and "SPDX-License-Identifier: GPL-3.0-or-later" not in path.read_text(encoding="utf-8")[:600]
    ]
    assert guilty == []


def test_no_file_names_a_registry_or_a_place_of_one_machine() -> None:
    words = re.compile(
        "|".join(
            [
                "/wo" + "rk/",
                "/ro" + "ot/[.]py",
                "py" + "pi[.]org",
                "pythonhos" + "ted",
                "deb" + "ian[.]org",
                "npm" + "js",
            ]
        )
    )
    guilty = []
    for path in tracked():
        if path.name == "LICENSE":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        guilty += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(text.splitlines(), 1) if words.search(line)]
    assert guilty == []


def test_the_action_group_lists_exactly_the_modules_that_reach_a_hypervisor() -> None:
    group = set(yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))["action_groups"]["esxi"])
    with_connection = {path.stem for path in MODULES if "stowage.esxi.connection" in path.read_text(encoding="utf-8")}
    assert group == with_connection
    assert {name for name in group if not (PLUGINS / "action" / f"{name}.py").exists()} == set()


@pytest.mark.xdist_group("told")
def test_tests_of_a_group_are_told_to_be_one(request: pytest.FixtureRequest) -> None:
    """Where workers share the tests, the name of a group goes with its tests: else each makes what the group is for."""
    assert request.node.nodeid.endswith("@told") or not getattr(request.config.option, "loadgroup", False)
