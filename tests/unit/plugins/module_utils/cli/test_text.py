# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes and times as people read and write them; nothing in a text steers the terminal."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 26, 15, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("64MiB", 64 << 20),
        ("64 mb", 64 << 20),
        ("2G", 2 << 30),
        ("1.5TiB", 3 << 39),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_is_read_as_it_is_written(word: str, count: int) -> None:
    assert text.parse_size(word) == count


@pytest.mark.parametrize("word", ["", "MiB", "-1", "1e9", "64 Mi B", "0x10", "1.5.5G", "١٢", "1PiB"])
def test_what_is_no_size_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        text.parse_size(word)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("2026-11-26T14:59:30Z", "2026-11-26 14:59:30 UTC (just now)"),
        ("2026-11-26T14:58:59Z", "2026-11-26 14:58:59 UTC (1 minute ago)"),
        ("2026-11-26T03:00:00Z", "2026-11-26 03:00:00 UTC (12 hours ago)"),
        ("2026-11-24T15:00:00Z", "2026-11-24 15:00:00 UTC (2 days ago)"),
        ("2026-12-24T15:00:00Z", "2026-12-24 15:00:00 UTC (in the future)"),
        ("yester\x1bday", "yester\\x1bday"),
    ],
)
def test_a_time_says_how_long_ago_it_was(at: str, said: str) -> None:
    assert text.moment(at, NOW) == said


@given(st.text(st.characters(), max_size=30))
def test_any_text_comes_out_printable_and_plain_text_unchanged(name: str) -> None:
    shown = text.printable(name)
    assert shown.isprintable()
    assert not name.isprintable() or shown == name
    shown.encode("utf-8")


def test_columns_are_as_wide_as_they_must_be() -> None:
    rows = list(text.table(["NAME", "SIZE"], [["a\nb", "1"], ["long name", "1000"]], right=(1,)))
    assert rows == ["NAME       SIZE", "a\\nb          1", "long name  1000"]
