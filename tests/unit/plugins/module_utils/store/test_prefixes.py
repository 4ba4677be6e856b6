# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A table of many ids finds each by its lowest number, in a fixed room."""

from __future__ import annotations

import random

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import prefixes
from ansible_collections.stowage.esxi.plugins.module_utils.store.prefixes import Prefixes
from hypothesis import given, settings
from hypothesis import strategies as st


def first(identity: bytes) -> int:
    return int.from_bytes(identity[:8], "big")


@settings(max_examples=100, deadline=None)
@given(
    lists=st.lists(st.lists(st.binary(min_size=32, max_size=32), max_size=20), max_size=12),
    absent=st.lists(st.binary(min_size=32, max_size=32), max_size=20),
    batch=st.sampled_from([1, 7, 1 << 16]),
)
def test_each_id_is_found_by_its_lowest_number(lists: list[list[bytes]], absent: list[bytes], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "_BATCH", batch)
        table = Prefixes(1 << 20)
        wanted: dict[bytes, int] = {}
        for number, ids in enumerate(lists):
            table.add(map(first, ids), number)
            for identity in ids:
                wanted.setdefault(identity[:5], number)
        table.finish()
    assert len(table) == len(wanted)
    for key, number in wanted.items():
        assert table.find(key + bytes(27)) == number
    for identity in absent:
        assert table.find(identity) == wanted.get(identity[:5])


def test_above_its_room_the_first_stay_and_many_repeats_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "_BATCH", 1000)
    chance = random.Random(3)
    ids = [chance.randbytes(32) for _number in range(200_000)]
    table = Prefixes(100_000)
    for turn in range(3):
        table.add(map(first, ids[:90_000]), turn)
    assert not table.full
    table.finish()
    # Two of so many may have the same 40 bits.
    assert 89_990 <= len(table) <= 90_000 and all(table.find(identity) == 0 for identity in ids[:90_000])
    for begin in range(0, len(ids), 1000):
        table.add(map(first, ids[begin : begin + 1000]), 9)
    table.finish()
    assert table.full and 100_000 <= len(table) <= 170_000
    assert all(table.find(identity) == 0 for identity in ids[:90_000])
    found = [table.find(identity) for identity in ids[90_000:]]
    assert set(found) == {None, 9}
