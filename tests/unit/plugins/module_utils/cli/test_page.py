# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page about the command line and the command line itself say the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.cli import commands, errors
from ansible_collections.stowage.esxi.plugins.module_utils.cli.main import parser

PAGE = (Path(__file__).resolve().parents[5] / "docs" / "command-line.md").read_text(encoding="utf-8")
ROOMS = ("base", "store", "vmdk", "cli")


def every_error() -> set[type[StowageError]]:
    found: set[type[StowageError]] = set()
    waiting = [StowageError]
    while waiting:
        cls = waiting.pop()
        found.add(cls)
        waiting += cls.__subclasses__()
    return {cls for cls in found if cls.__module__.split(".")[-2:][0] in ROOMS and cls is not StowageError}


def test_every_command_has_a_chapter_and_no_chapter_is_about_nothing() -> None:
    chapters = PAGE.partition("## Commands")[2].partition("\n## ")[0]
    named = [word for line in re.findall(r"^### (.*)$", chapters, re.M) for word in line.split(", ")]
    assert sorted(named) == sorted(command.name for command in commands.every())


def test_each_command_is_found_by_its_name_alone() -> None:
    for command in commands.every():
        found = commands.of(command.name)
        assert command in found and len(found) < len(commands.every())
    assert commands.of("") == commands.of("nonsense") == commands.every()


def test_every_option_is_on_the_page_and_every_option_of_the_page_exists() -> None:
    choices = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    exist = {
        word
        for one in choices.values()  # type: ignore[union-attr]
        for action in one._actions
        for word in action.option_strings
        if word.startswith("--")
    }
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE))
    assert told - exist == set()
    assert exist - told == {"--threads"}


def test_every_exit_code_is_on_the_page_and_every_code_of_the_page_exists() -> None:
    rows = re.findall(r"^\| (\d+)(?: to (\d+))? \|", PAGE.partition("## Exit codes")[2], re.M)
    told = {code for first, last in rows for code in range(int(first), int(last or first) + 1)}
    exist = {errors.exit_code(cls()) for cls in every_error()}
    assert told == exist | {errors.OK, errors.FAILED, errors.USAGE, errors.DAMAGE, errors.INTERRUPTED}


def test_every_command_line_of_the_page_is_understood() -> None:
    lines = re.findall(r"^stowage (.*)$", PAGE, re.M)
    assert len(lines) > 20
    for line in lines:
        parser().parse_args(shlex.split(line))
