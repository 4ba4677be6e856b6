# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the table of errors at the end of docs/faults.md from the error classes, or check that it is in step.

python3 tests/tools/faults_page.py           writes
python3 tests/tools/faults_page.py --check   changes nothing, exit code 1 when the page is behind the code
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

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
}


def error_classes() -> dict[str, list[type]]:
    """All error classes by room, sorted by id."""
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
        if "template" in vars(cls):
            found.setdefault(cls.__module__[len(PACKAGE) + 1 :].split(".")[0], []).append(cls)
    return {room: sorted(classes, key=lambda cls: cls.id) for room, classes in found.items()}  # type: ignore[attr-defined]


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
