# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes this clone importable as ``ansible_collections.stowage.esxi``, wherever it lies; holds the seeds."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ansible_collections.stowage.esxi"


def _points_here() -> bool:
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):
        return False
    places = list(spec.submodule_search_locations or []) if spec else []
    return any(Path(place).resolve() == ROOT for place in places)


def _make_importable() -> None:
    if _points_here():
        return
    # An installed copy of the collection must not be what is tested: forget it, and put this clone first.
    for name in [
        name for name in sys.modules if name == "ansible_collections" or name.startswith("ansible_collections.")
    ]:
        del sys.modules[name]
    folder = tempfile.mkdtemp(prefix="stowage-collections-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    namespace = Path(folder, "ansible_collections", "stowage")
    namespace.mkdir(parents=True)
    (namespace / "esxi").symlink_to(ROOT, target_is_directory=True)
    sys.path.insert(0, folder)
    # Programs that tests start (ansible-playbook, python) find the same clone.
    for variable in ("PYTHONPATH", "ANSIBLE_COLLECTIONS_PATH"):
        before = os.environ.get(variable)
        os.environ[variable] = os.pathsep.join([folder] + ([before] if before else []))
    importlib.invalidate_caches()


_make_importable()
# What tests of several folders share.
sys.path.insert(0, str(ROOT / "tests" / "tools"))
# The programs of the environment that runs the tests, whether it was activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# The same examples in every run; `HYPOTHESIS_PROFILE=fresh` looks for new ones.
# However long one takes to be made: a machine that does other things stands still for a second now and then.
settings.register_profile("fixed", derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fresh", max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the full counts, too")
    parser.addoption(
        "--store-place", choices=("folder", "bucket"), default="folder", help="where stores of tests are made"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("soak") and not config.getoption("--soak"):
            item.add_marker(pytest.mark.skip(reason="full counts: run with --soak"))
