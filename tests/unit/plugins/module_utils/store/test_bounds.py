# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Much damage is told in few words, with the count of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.store import bounds, chores, find, repair, stats, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.report import Report
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import back_up, image, local


def test_a_hundred_thousand_damaged_records_make_a_short_document() -> None:
    lanes = [Report(), Report()]
    for number in range(100_000):
        lanes[number % 2].damaged(number.to_bytes(32, "big"), f"chunk {number} " + "x" * 5000)
    report = Report(problems=["p" * 100_000] * 3000, hit=["h"] * 1500)
    for lane in lanes:
        report.add(lane)
    shown = report.shown()
    assert len(json.dumps(shown)) < 2_000_000 and shown["bad_records"] == 100_000
    assert [len(shown[name]) for name in ("bad", "problems", "hit")] == [1000, 1, 1000]
    assert shown["untold"] == {"bad": 99_000, "hit": 500}
    assert shown["problems"][0].endswith("(99400 characters more)")
    assert len(report.reasons) == 1000
    lines = list(text.told("DAMAGED", report.reasons, len(report.bad)))
    assert len(lines) == 1001 and lines[-1] == "DAMAGED: and 99000 more"
    assert list(text.told("HIT", ["a"])) == ["HIT: a"]


def test_words_of_a_message_are_few_and_short() -> None:
    assert find.few(["n" * 10**6] * 10**5, 3, "; ").startswith("n" * 600 + "... (999400 characters more); n")
    assert len(find.few(["n" * 10**6] * 10**5, 3, "; ")) < 2000


@pytest.mark.folder
def test_every_document_of_a_damaged_store_has_its_bound(
    plain: Store, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(plain, image(tmp_path / "disk", list(range(1, 30))))
    for pack in root.rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        for place in range(64 + 64, len(data), 32 << 10):
            data[place] ^= 1
        pack.write_bytes(data)
    whole = verify.run(Store.open(local(root)), record=False)
    assert len(whole.bad) > 10
    monkeypatch.setattr(bounds, "MOST", 3)
    report = verify.run(Store.open(local(root)), record=False)
    shown = report.shown()
    assert report.bad.keys() == whole.bad.keys() and len(report.reasons) == len(shown["bad"]) == 3
    assert shown["untold"]["bad"] == len(whole.bad) - 3 and shown["bad_records"] == len(whole.bad)
    told = chores.repaired(repair.run(Store.open(local(root)), check=True))
    assert told["bad_records"] == len(whole.bad) and len(told["problems"]) == 3
    for path in root.glob("index/*"):
        path.unlink()
    counted = stats.gather(Store.open(local(root)))
    assert 0 < len(counted.problems) <= 5 and "more chunks are in no index file" in counted.problems[-1]
