# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the table of errors at the end of docs/faults.md from the code, or check that it is in step.

Most errors are classes. The others are dictionaries with an id and a message, made where no exception is raised: in the
rooms (read from their syntax trees), and in the roles.

python3 tests/tools/faults_page.py           writes
python3 tests/tools/faults_page.py --check   changes nothing, exit code 1 when the page is behind the code
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import check

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
MARK = "<!-- From here on written by tests/tools/faults_page.py -->\n"
PACKAGE = "ansible_collections.stowage.esxi.plugins.module_utils"
ROOMS = {
    "base": "Files and waiting",
    "ssh": "Reaching a hypervisor",
    "vmdk": "Disk files",
    "esxi": "Hypervisor and machine",
    "programs": "Copying",
    "jobs": "Runs, restore points, recovery",
    "store": "The dedup store",
    "cli": "The store's command line",
}


def error_classes() -> dict[str, list[type]]:
    """All error classes by room, sorted by id."""
    if importlib.util.find_spec("ansible_collections") is None:
        sys.path.insert(0, str(check.workspace()))
    folder = ROOT / "plugins" / "module_utils"
    for path in sorted(folder.rglob("*.py")):
        words = path.relative_to(folder).with_suffix("").parts
        importlib.import_module(".".join([PACKAGE, *(word for word in words if word != "__init__")]))
    errors = importlib.import_module(PACKAGE + ".base.errors")
    found: dict[str, list[type]] = {}
    seen: set[type] = set()
    queue: list[type] = list(errors.StowageError.__subclasses__())
    while queue:
        cls = queue.pop()
        queue += cls.__subclasses__()
        if cls in seen or not cls.__module__.startswith(PACKAGE):
            continue
        seen.add(cls)
        if "id" in vars(cls):
            found.setdefault(cls.__module__[len(PACKAGE) + 1 :].split(".")[0], []).append(cls)
    return {room: sorted(classes, key=lambda cls: cls.id) for room, classes in found.items()}  # type: ignore[attr-defined]


# In a role an error is made of what the failed task said.
_OF_A_ROLE = re.compile(r"'id': '([a-z-]+)', 'message':")
_OF_THE_TASK = "What the failed task said: {message}"


def written_errors() -> dict[str, tuple[str, str]]:
    """Errors without a class: id -> message and hint, with fields in braces as in a class's template."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for name, message, hint in _written_in(function):
                    found.setdefault(name, (message, hint))
    for path in sorted((ROOT / "roles").rglob("*.yml")):
        for name in _OF_A_ROLE.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, (_OF_THE_TASK, ""))
    return found


def _written_in(function: ast.FunctionDef) -> list[tuple[str, str, str]]:
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            parts = {key.value: value for key, value in zip(node.keys, node.values) if isinstance(key, ast.Constant)}
            named = [parts.get("id"), parts.get("message"), parts.get("hint")]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_problem" and len(node.args) == 3:
            named = list(node.args)
        else:
            continue
        name, message, hint = named
        if isinstance(name, ast.Constant) and isinstance(name.value, str) and message is not None:
            found.append((name.value, _said(message, function), _said(hint, function) if hint is not None else ""))
    return found


def _said(node: ast.expr, function: ast.FunctionDef) -> str:
    """The text of an expression; a name stands for what was last assigned to it above."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_said(part, function) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        word = ast.unparse(node.value)
        return "{" + (re.sub(r"\W.*", "", word.rpartition(".")[2]) or "value") + "}"
    if isinstance(node, ast.Name):
        above = [
            step
            for step in ast.walk(function)
            if isinstance(step, ast.Assign)
            and step.lineno < node.lineno
            and [target.id for target in step.targets if isinstance(target, ast.Name)] == [node.id]
        ]
        if above:
            return _said(max(above, key=lambda step: step.lineno).value, function)
    return _OF_THE_TASK


def cell(text: str) -> str:
    text = re.sub(r"\{(\w+)(?:![rsa])?(?::[^}]*)?\}", r"‹\1›", text)
    return " ".join(text.split()).replace("|", "\\|")


def table() -> str:
    lines = ["", "What stands in ‹…› is filled in: the machine, the disk, the command's own words.", ""]
    found = error_classes()
    for room in [*ROOMS, *sorted(set(found) - set(ROOMS))]:
        if room not in found:
            continue
        lines += [f"### {ROOMS.get(room, room)}", "", "| id | what the operator sees | the way out |", "|---|---|---|"]
        for cls in found[room]:
            lines.append(f"| `{cls.id}` | {cell(cls.template)} | {cell(cls.hint)} |")  # type: ignore[attr-defined]
        lines.append("")
    classes = {cls.id for group in found.values() for cls in group}  # type: ignore[attr-defined]
    lines += ["### In plans and records", "", "| id | what the operator sees | the way out |", "|---|---|---|"]
    for name, (message, hint) in sorted(written_errors().items()):
        if name not in classes:
            lines.append(f"| `{name}` | {cell(message)} | {cell(hint)} |")
    lines.append("")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    text = PAGE.read_text(encoding="utf-8")
    wanted = text.split(MARK)[0] + MARK + table()
    if text == wanted:
        return 0
    if "--check" in argv:
        print("docs/faults.md: is behind the error classes; run tests/tools/faults_page.py")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
