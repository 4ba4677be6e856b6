# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line as one file, `stowage.pyz`: this program and the parts of the rooms that it imports, nothing else.

The same sources give the same bytes, wherever and whenever it is made: no compression, no times, names in order.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import io
import zipfile

from ansible_collections.stowage.esxi.plugins.module_utils.base import zipped
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError

NAME = "stowage.pyz"
_COLLECTION = "ansible_collections.stowage.esxi."
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ENTRY = """\
# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import sys

if sys.version_info < (3, 9):
    sys.exit("stowage.pyz needs Python 3.9 or newer; reader.py, beside it in every store, restores with Python 3.6")

from ansible_collections.stowage.esxi.plugins.module_utils.base.zipped import compile_once

compile_once()

from ansible_collections.stowage.esxi.plugins.module_utils.cli.main import run

sys.exit(run())
"""


class NoSources(StowageError):
    id = "cli-no-sources"
    template = "The program cannot be made into one file: the source of {module} is not at hand"
    hint = "Make it from an unpacked collection: make cli"


@functools.cache
def build() -> bytes:
    """The whole file; made once in a process, whose sources do not change."""
    found = sources()
    output = io.BytesIO()
    output.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted({**_packages(found), **found, "__main__.py": _ENTRY}.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return output.getvalue()


def beside() -> dict[str, bytes]:
    """What a new store gets beside its reader; nothing where this program has no sources (it is worth no failure)."""
    with contextlib.suppress(NoSources):
        return {NAME: build()}
    return {}


def sources() -> dict[str, str]:
    """Path and text of every module of ours that the program imports, anywhere in it."""
    found: dict[str, str] = {}
    # Not before: it imports this file. A module of Ansible travels with what it imports, and so with the whole program.
    from ansible_collections.stowage.esxi.plugins.module_utils.cli import main

    waiting = [main.__name__, zipped.__name__]
    while waiting:
        module = waiting.pop()
        path = f"{module.replace('.', '/')}.py"
        if path in found:
            continue
        text = _source(module)
        if text is None:
            continue
        found[path] = text
        waiting += _imports(text)
    if not found:
        raise NoSources(module=main.__name__)
    return found


def _imports(text: str) -> list[str]:
    """An import is a statement: only those are looked through, not the expressions that most of a tree is made of."""
    names: list[str] = []
    waiting: list[ast.AST] = [*ast.parse(text).body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        for part in ("body", "orelse", "finalbody", "handlers"):
            waiting += getattr(node, part, ())
    return [name for name in names if name.startswith(_COLLECTION)]


def _source(module: str) -> str | None:
    """None for a package, and for a name in a module that is no module."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.submodule_search_locations is not None:
        return None
    text = spec.loader.get_source(module) if spec.loader is not None and hasattr(spec.loader, "get_source") else None
    if text is None:
        raise NoSources(module=module)
    return str(text)


def _packages(found: dict[str, str]) -> dict[str, str]:
    """An empty __init__.py for every folder: whatever else is called ansible_collections on a machine is not ours."""
    folders: set[str] = set()
    for path in found:
        parts = path.split("/")[:-1]
        folders.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return {f"{folder}/__init__.py": "" for folder in folders}
