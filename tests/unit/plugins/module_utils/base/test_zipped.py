# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module imports out of its zip file is compiled once, and is otherwise what it always was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[5]
BASE = "ansible_collections/stowage/esxi/plugins/module_utils/base"
PROGRAM = """
import json, sys, zipimport
sys.path[:0] = [sys.argv[1]]
compiled = []
real = zipimport._compile_source
zipimport._compile_source = lambda path, source: compiled.append(path) or real(path, source)
name = "ansible_collections.stowage.esxi.plugins.module_utils.base"
found = {}
for word in sys.argv[2:]:
    module = __import__(f"{name}.{word}", fromlist=["x"])
    found[word] = [module.__file__, module.__spec__.origin, module.__spec__.loader.get_source(f"{name}.{word}")]
try:
    __import__(f"{name}.nothing")
except ModuleNotFoundError as error:
    found["nothing"] = str(error)
print(json.dumps({"found": found, "times": {path: compiled.count(path) for path in compiled}}))
"""


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """As Ansible makes one: no file of a folder has anything in it but those that are imported."""
    path = tmp_path / "payload.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(1, len(Path(BASE).parts) + 1):
            archive.writestr("/".join((*Path(BASE).parts[:number], "__init__.py")), "")
        for name in ("ansible", "errors", "zipped", "waiter", "clock"):
            archive.write(ROOT / "plugins/module_utils/base" / f"{name}.py", f"{BASE}/{name}.py")
        archive.writestr(f"{BASE}/more/__init__.py", "WORD = 'a package'\n")
    return path


def test_each_file_is_compiled_once_and_knows_where_it_lies(payload: Path) -> None:
    command = [sys.executable, "-B", "-c", PROGRAM, str(payload), "ansible", "waiter", "more"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for word, path in (("ansible", "ansible.py"), ("waiter", "waiter.py"), ("more", "more/__init__.py")):
        place, origin, source = told["found"][word]
        assert place == origin == f"{payload}/{BASE}/{path}"
        with zipfile.ZipFile(payload) as archive:
            assert source.encode() == archive.read(f"{BASE}/{path}")
    assert "nothing" in told["found"]["nothing"]
    # What is imported before it, and the folders on the way there, cost what they always did.
    later = {f"{payload}/{BASE}/{name}" for name in ("waiter.py", "clock.py", "more/__init__.py")}
    assert {path: times for path, times in told["times"].items() if path in later} == dict.fromkeys(later, 1)


def test_what_runs_from_files_is_left_alone() -> None:
    from ansible_collections.stowage.esxi.plugins.module_utils.base import zipped

    before = list(sys.path_hooks)
    zipped.compile_once()
    assert sys.path_hooks == before
