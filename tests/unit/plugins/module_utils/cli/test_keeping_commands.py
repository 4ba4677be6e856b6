# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What commands remove, keep and copy: gc, prune, holds, quota, and a second store."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.cli import keeping
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, writer
from benches import CHUNK, image

Run = Callable[..., SimpleNamespace]


def test_what_no_point_needs_is_collected(place: Path, point: str, tmp_path: Path, stowage: Run) -> None:
    before = stowage("stats", place, "--json").json["stats"]["stored_bytes"]
    next(place.glob("points/*/*.json")).unlink()
    people = stowage("gc", place, "--dry-run").out
    assert re.match(r"[2-9] packs would be removed, \d+ KiB would be freed\n", people) and "announced" not in people
    told = stowage("gc", place, "--dry-run", "--json").json
    assert (
        told["freed_bytes"] == before and told["dry_run"] and len(told["announced"]) == len(list(place.rglob("*.pack")))
    )
    assert stowage("stats", place, "--json").json["stats"]["dead_bytes"] > 0
    done = stowage("gc", place, "--json").json
    assert done["freed_bytes"] == before and list(place.rglob("*.pack")) == []
    for more in ([], ["--dry-run"]):
        assert stowage("gc", place, *more).out == "no pack to remove\n"
    assert collect.OBSERVE_SECONDS == 60


def test_prune_says_why_and_removes_what_it_said(place: Path, point: str, disk: Path, stowage: Run) -> None:
    for _day in range(3):
        image(disk, [1, 2, 0, _day + 20, 3], 5 * CHUNK - 999)
        assert stowage("backup", place, "--machine", "id-1", "--name", "web", "--disk", f"scsi0:0={disk}").code == 0
    points = [one["point"] for one in stowage("list", place, "--json").json["points"]]
    hold = ["hold", place, points[1], "--as", "audit", "--reason", "until May"]
    assert stowage(*hold, "--json").json["changed"] and not stowage(*hold, "--json").json["changed"]
    assert stowage("holds", place, "--json").json["holds"][0]["reason"] == "until May"
    assert re.search(rf"^{points[1]} .*  319 KiB  held$", stowage("list", place).out, re.M)
    words = ["prune", place, "--keep-last", 1, "--machine", "web", "--observe-seconds", 0]
    predicted = stowage(*words, "--dry-run", "--json").json
    assert stowage("list", place, "--json").json["points"][0]["point"] == points[0] == point
    people = stowage(*words, "--dry-run").out
    assert re.search(rf"^{points[1]} .* keep +held$", people, re.M) and "REMOVE  no rule keeps it" in people
    assert "2 restore points would be removed" in people and f"{points[1]}  web (id-1)" in people
    assert f"{points[1]}  web (id-1)  audit" in stowage("holds", place).out
    happened = stowage(*words, "--json").json
    assert happened["decisions"] == predicted["decisions"]
    assert sorted(happened["removed"]) == sorted(predicted["removed"]) == sorted([points[0], points[2]])
    assert [one["point"] for one in stowage("list", place, "--json").json["points"]] == [points[1], points[3]]
    for more in ([], ["--dry-run"]):
        assert "no restore point to remove\n" in stowage(*words, *more).out
    assert stowage(*words, "--json").json["removed"] == []
    assert stowage("release", place, points[1], "--as", "audit", "--json").json["holds"] == []
    assert stowage("release", place, points[1], "--as", "audit").code == 65
    assert stowage("prune", place, "--room", "1KiB", "--min-verified", 0, "--observe-seconds", 0, "--json").json[
        "removed"
    ] == [points[1]]
    assert stowage("prune", place).code == 2
    assert stowage("prune", place, "--keep-last", "-1").code == 2
    assert stowage("prune", place, "--keep-last", 1, "--machine", "nobody").code == 65


def test_a_pack_that_cannot_be_written_anew_is_told_by_the_exit_code(place: Path, tmp_path: Path, stowage: Run) -> None:
    big, small = image(tmp_path / "big", list(range(1, 21))), image(tmp_path / "small", [1, 7])
    for machine, disk in (("big", big), ("small", small)):
        assert stowage("backup", place, "--machine", machine, "--disk", f"scsi0:0={disk}").code == 0
    (gone,) = stowage("list", place, "--machine", "big", "--json").json["points"]
    next(Path(place, "points").rglob(f"{gone['point']}.json")).unlink()
    for path in Path(place, "packs").rglob("*.pack"):
        data = bytearray(path.read_bytes())
        for at in range(70, len(data) - 4096, 4096):
            data[at] ^= 1
        path.write_bytes(data)
    found = stowage("prune", place, "--keep-last", 9, "--json")
    assert found.code == 3 and found.json["collected"]["problems"]


def test_a_living_writer_is_looked_at_for_longer_than_it_is_silent() -> None:
    assert keeping._observed("0") == keeping._observed("5") == 2 * writer.BEAT_SECONDS
    assert keeping._observed("90") == 90


def test_a_quota_gives_a_backup_up_and_nothing_else(place: Path, point: str, tmp_path: Path, stowage: Run) -> None:
    assert stowage("settings", place, "--quota", "200KiB", "--json").json["settings"]["quota_bytes"] == 200 << 10
    big = image(tmp_path / "big", list(range(50, 90)))
    found = stowage("backup", place, "--machine", "id-2", "--disk", f"scsi0:0={big}", "--json")
    assert found.code == 68 and found.error["error"]["id"] == "store-quota-reached"
    assert [one["point"] for one in stowage("list", place, "--json").json["points"]] == [point]
    assert stowage("verify", place).code == 0


# -- a second store --------------------------------------------------------------------------------------------------


def test_a_second_store_gets_copies_and_gives_back_what_is_lost(
    place: Path, point: str, disk: Path, tmp_path: Path, stowage: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second"
    monkeypatch.setenv("STOWAGE_PASSPHRASE", "of the second")
    assert stowage("create", second, "--chunk-size", "64KiB", "--encrypt").code == 0
    monkeypatch.delenv("STOWAGE_PASSPHRASE")
    told = stowage("copy", place, second)
    assert told.code == 67 and "--other-passphrase-fd N, in STOWAGE_OTHER_PASSPHRASE" in told.err
    (tmp_path / "other").write_text("of the second\n")
    other = ["--other-passphrase-file", tmp_path / "other"]
    assert len(stowage("copy", place, second, *other, "--dry-run", "--json").json["copied"]) == 1
    done = stowage("copy", place, second, *other, "--json").json
    assert done["copied"][0]["point"] == point and done["told"]["stored"] > 0
    again = stowage("copy", place, second, *other, "--machine", "web", "--json").json
    assert (again["copied"], again["there"]) == ([], [point])
    assert stowage("copy", place, second, *other, "--dry-run").out == "nothing to copy; 1 there already\n"
    monkeypatch.setenv("STOWAGE_PASSPHRASE", "of the second")
    stowage("restore", second, "latest", "--disk", f"scsi0:0={tmp_path / 'twin'}")
    monkeypatch.delenv("STOWAGE_PASSPHRASE")
    assert (tmp_path / "twin").read_bytes() == disk.read_bytes()

    pack = max(place.rglob("*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[500] ^= 1
    pack.write_bytes(data)
    assert stowage("repair", place, "--dry-run", "--json").code == 3
    lost = stowage("repair", place, "--observe-seconds", 0)
    assert lost.code == 3 and f"{point}.json" in lost.out and lost.out.endswith("NOT EVERYTHING CAN BE RESTORED\n")
    before = {path: path.read_bytes() for path in [*place.rglob("*"), *second.rglob("*")] if path.is_file()}
    dry = stowage("repair", place, "--from", second, *other, "--dry-run")
    assert dry.code == 3 and "1 record would be brought back from the second store\n" in dry.out
    assert dry.out.endswith("every restore point can be restored then\n")
    assert {path: path.read_bytes() for path in [*place.rglob("*"), *second.rglob("*")] if path.is_file()} == before
    healed = stowage("repair", place, "--from", second, *other, "--observe-seconds", 0, "--json")
    assert healed.code == 0 and healed.json["healed"] == 1 and healed.json["lost"] == {}
    assert stowage("verify", place, "--deep").code == 0
    stowage("restore", place, point, "--disk", f"scsi0:0={tmp_path / 'back'}")
    assert (tmp_path / "back").read_bytes() == disk.read_bytes()
