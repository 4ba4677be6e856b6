# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All commands, each loaded when it is wanted: a short one would spend its time on loading the others.

Each import stands as such: what travels with a module, and into `stowage.pyz`, is found by reading the imports."""

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


_OF: dict[str, Callable[[], tuple[Command, ...]]] = {
    "create": _making,
    "settings": _making,
    "backup": _making,
    "list": _looking,
    "show": _looking,
    "stats": _looking,
    "restore": _restoring,
    "mount": _mounting,
    "verify": _verifying,
    "gc": _keeping,
    "prune": _pruning,
    "hold": _pruning,
    "release": _pruning,
    "holds": _pruning,
    "copy": _second,
    "repair": _second,
    "keys": _keyring,
}


def every() -> tuple[Command, ...]:
    return tuple(command for load in dict.fromkeys(_OF.values()) for command in load())


def of(word: str) -> tuple[Command, ...]:
    """The command of this name and those of its kind, or all when there is no such, for whoever is to be told so."""
    return _OF[word]() if word in _OF else every()
