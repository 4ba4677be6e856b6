# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table from facts to tests is whole, and every test in it exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
TABLE = (TESTS / "lab/COVERAGE.md").read_text(encoding="utf-8")
#: How many sections each chapter of the fact collection has; chapter 1 and 2 begin at 0 and 1.
SECTIONS = [
    *(f"1.{number}" for number in range(15)),
    *(f"2.{number}" for number in range(1, 8)),
    *(f"3.{number}" for number in range(1, 7)),
    *(f"4.{number}" for number in range(1, 12)),
    *(f"5.{number}" for number in range(1, 7)),
    *(f"6.{number}" for number in range(1, 6)),
    *(f"7.{number}" for number in range(1, 6)),
]
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TABLE.splitlines()
    if re.match(r"\| \d+\.\d+", line)
]
NAMED = sorted(set(re.findall(r"`((?:unit|system)/[^`:]+\.py(?:::\w+)?)`", TABLE)))


@functools.cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_section_has_a_row_and_no_other_is_there() -> None:
    assert sorted({row[0].split()[0] for row in ROWS}) == sorted(SECTIONS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}"[:60])
def test_a_row_names_a_test_or_says_why_there_is_none(row: list[str]) -> None:
    assert len(row) == 3
    reason = re.search(r"not simulated[^:;]*[:;] \w", row[2])
    assert reason or "::test_" in row[2]


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_table_names_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert (TESTS / file).is_file()
    if function:
        assert function in functions_of(TESTS / file)


def test_names_are_written_in_the_form_that_is_checked() -> None:
    assert TABLE.count("::test_") == len(re.findall(r"`(?:unit|system)/[^`:]+\.py::test_\w+`", TABLE))
