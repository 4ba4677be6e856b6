# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All commands, each loaded when it is wanted: half of what a short one takes would be the loading of the others."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command


def _making() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.making import COMMANDS

    return COMMANDS


def _looking() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.looking import COMMANDS

    return COMMANDS


def _restoring() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.restoring import COMMANDS

    return COMMANDS


def _mounting() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.mounting import COMMANDS

    return COMMANDS


def _verifying() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.verifying import COMMANDS

    return COMMANDS


def _keeping() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.keeping import COMMANDS

    return COMMANDS


def _pruning() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.pruning import COMMANDS

    return COMMANDS


def _second() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.second import COMMANDS

    return COMMANDS


def _keyring() -> tuple[Command, ...]:
    from ansible_collections.stowage.esxi.plugins.module_utils.cli.keyring import COMMANDS

    return COMMANDS


_ALL = (_making, _looking, _restoring, _mounting, _verifying, _keeping, _pruning, _second, _keyring)
# Those that are run by the clock, or in which somebody waits for a disk. Of the others all are loaded.
_SOLE: dict[str, Callable[[], tuple[Command, ...]]] = {
    "backup": _making,
    "create": _making,
    "gc": _keeping,
    "list": _looking,
    "mount": _mounting,
    "restore": _restoring,
    "show": _looking,
    "stats": _looking,
    "verify": _verifying,
}


def every() -> tuple[Command, ...]:
    return tuple(command for load in _ALL for command in load())


def of(word: str) -> tuple[Command, ...]:
    """The command of this name and those of its kind, or all when there is no such, for whoever is to be told so."""
    return _SOLE[word]() if word in _SOLE else every()
