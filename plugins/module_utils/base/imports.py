# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Third-party libraries: imported when used, and their absence told in words."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class LibraryMissing(StowageError):
    id = "library-missing"
    template = "{purpose} needs the Python library {name}, which {python} does not have: {reason}"
    hint = "Install it on the machine where this module runs: {python} -m pip install {name}"
    exit_code = 4


def load(module: str, *, purpose: str, name: str | None = None) -> ModuleType:
    """The third-party module; ``LibraryMissing`` says what it is for and how to get it.

    ``name`` is the distribution's name where it is not the module's.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LibraryMissing(
            name=name or module.partition(".")[0], purpose=purpose, python=sys.executable, reason=str(error)
        ) from error


def available(module: str) -> bool:
    """Whether the module can really be imported here (a broken installation counts as absent)."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
