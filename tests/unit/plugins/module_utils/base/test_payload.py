# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What travels to the backup server with a module that only controls ESXi: little, and nothing above the room esxi."""

from __future__ import annotations

import ast
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[5]
PREFIX = "ansible_collections.stowage.esxi."
CONTROL = ["esxi_vm_info", "esxi_snapshot", "esxi_vm_power", "esxi_vm"]
ALLOWED = {"base", "ssh", "vmdk", "esxi"}


def payload(module: str) -> dict[str, int]:
    """Our files in the module's payload and their compressed sizes; imports inside functions travel too."""
    found: dict[str, int] = {}
    waiting = [ROOT / "plugins" / "modules" / f"{module}.py"]
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(ROOT))
        if name in found:
            continue
        data = path.read_bytes()
        found[name] = len(zlib.compress(data))
        for node in ast.walk(ast.parse(data)):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for imported in names:
                if imported.startswith(PREFIX):
                    target = ROOT / (imported[len(PREFIX) :].replace(".", "/") + ".py")
                    if target.exists():
                        waiting.append(target)
    return found


@pytest.mark.parametrize("module", CONTROL)
def test_a_control_module_carries_nothing_above_esxi_and_under_100_kb(module: str) -> None:
    found = payload(module)
    rooms = {Path(name).parts[2] for name in found if name.startswith("plugins/module_utils/")}
    assert rooms <= ALLOWED
    assert "ssh" in rooms
    assert sum(found.values()) < 100_000, sorted(found.items(), key=lambda item: -item[1])[:10]


# What only some jobs need, and those alone load: another program's code, and the way to another machine's disks.
SPARED = (
    "store.store",
    "store.backup",
    "transfer.agent",
    "transfer.link",
    "programs.borg",
    "programs.rsync",
    "programs.dedup",
)


@pytest.mark.parametrize("module", ["backup_job", "backup_plan", "backup_recover", "vmdk_copy", "restore_plan"])
def test_a_module_loads_no_program_before_a_job_asks_for_it(module: str) -> None:
    code = f"import sys, {PREFIX}plugins.modules.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition("module_utils.")[2] for name in done.stdout.split() if name.startswith(PREFIX)}
    assert "jobs.policy" in loaded
    assert loaded.isdisjoint(SPARED)
