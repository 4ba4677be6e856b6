# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which restore points go, and why; and that what must stay stays, whatever else is wished for."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.retention import Keep
from ansible_collections.stowage.esxi.plugins.module_utils.store import holds, prune, quota, textfile, verified, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, NoSuchMachine
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from fakeclock import FakeClock

from .benches import CHUNK, back_up, image, local, new_store, restored, sound, spoiled

BEGIN = datetime(2026, 3, 1, 1, tzinfo=timezone.utc)
NOTHING = Keep(last=0)


def history(store: Store, folder: Path, days: int, machine: str = "vm-1", begin: int = 0) -> list[Point]:
    """One point a day; each has four chunks of its own and shares two with all others."""
    made = []
    for day in range(days):
        store.clock = FakeClock(BEGIN + timedelta(days=day))
        own = range(1000 + (begin + day) * 4, 1004 + (begin + day) * 4)
        made.append(back_up(store, image(folder / f"{machine}-{day}", [1, 2, *own]), machine=machine)[0])
    store.clock = FakeClock(BEGIN + timedelta(days=30))
    return made


def left(store: Store) -> list[str]:
    return [point.point for point in store.points()]


def names(points: list[Point]) -> list[str]:
    return [point.point for point in points]


def test_of_one_machine_no_hypervisor_pushes_out_what_another_one_has_made(plain: Store, tmp_path: Path) -> None:
    """That it is the same machine is only what each of them says."""
    made: dict[str, list[str]] = {"esx1": [], "esx2": []}
    for day in range(4):
        for number, host in enumerate(made):
            plain.clock = FakeClock(BEGIN + timedelta(days=day, hours=number))
            disk = image(tmp_path / "disk", [10 * day + number + 1])
            made[host].append(back_up(plain, disk, facts={"hypervisor": host})[0].point)
    plain.clock = FakeClock(BEGIN + timedelta(days=30))
    prune.run(plain, Keep(last=2), machines=["vm-1"])
    assert sorted(left(plain)) == sorted(made["esx1"][2:] + made["esx2"][2:])


def test_what_no_rule_keeps_goes_with_its_room_and_the_dry_run_said_so(
    store: Store, again: Callable[[], Store], root: Path, tmp_path: Path
) -> None:
    made = history(store, tmp_path, 6)
    before = quota.used(store)
    opened = again()
    check = prune.run(opened, Keep(last=2), check=True)
    assert left(opened) == names(made) and quota.used(store) == before
    report = prune.run(again(), Keep(last=2))
    assert report.removed == check.removed == sorted(point.object_name for point in made[:4])
    assert [(one.point.point, one.keep, one.reasons) for one in check.decisions] == [
        (one.point.point, one.keep, one.reasons) for one in report.decisions
    ]
    assert report.decisions[0].reasons == ["last 1 of 2"] and report.decisions[-1].reasons == ["no rule keeps it"]
    opened = again()
    assert left(opened) == names(made[4:]) and quota.used(opened) < before / 2
    for day in (4, 5):
        assert restored(opened, made[day], tmp_path) == (tmp_path / f"vm-1-{day}").read_bytes()
    sound(opened)
    assert prune.run(again(), Keep(last=2)).removed == []


def test_machines_are_decided_each_for_itself_and_others_are_left(plain: Store, tmp_path: Path) -> None:
    one, two = history(plain, tmp_path, 3), history(plain, tmp_path, 2, "vm-2", 10)
    report = prune.run(plain, Keep(last=1), machines=["vm-1"])
    assert left(plain) == sorted(names([one[2], *two])) and len(report.decisions) == 3
    with pytest.raises(NoSuchMachine, match="vm-9"):
        prune.run(plain, Keep(last=1), machines=["vm-9"])


def test_a_held_point_stays(plain: Store, tmp_path: Path) -> None:
    made = history(plain, tmp_path, 4)
    holds.hold(plain, made[0], "audit", "why")
    report = prune.run(plain, Keep(last=1), room=1)
    assert left(plain) == names([made[0], made[3]])
    assert report.decisions[-1].reasons == ["held"] and report.over_bytes > 0


def test_a_hold_that_comes_while_it_is_decided_counts(
    plain: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = history(plain, tmp_path, 3)
    decide = prune.decide

    def late(*words: object, **more: object) -> object:
        found = decide(*words, **more)  # type: ignore[arg-type]
        holds.hold(plain, made[0], "audit", "why")
        return found

    monkeypatch.setattr(prune, "decide", late)
    report = prune.run(plain, Keep(last=1))
    assert report.held == [made[0].object_name] and left(plain) == names([made[0], made[2]])


def test_the_last_verified_points_stay(plain: Store, tmp_path: Path) -> None:
    made = history(plain, tmp_path, 6)
    verified.record(plain, True, [point.object_name for point in made[:3]], [])
    report = prune.run(plain, Keep(last=2), min_verified=2)
    assert left(plain) == names([*made[1:3], *made[4:]])
    assert report.decisions[3].reasons == ["verified 1 of 2"] and report.decisions[3].verified
    # Once a newer one is verified, the older ones may go.
    verify.run(plain)
    prune.run(plain, Keep(last=2), min_verified=2)
    assert left(plain) == names(made[4:])


def test_a_damaged_point_takes_no_good_one_s_place(plain: Store, root: Path, tmp_path: Path) -> None:
    made = history(plain, tmp_path, 3)
    verified.record(plain, False, [made[0].object_name], [made[2].object_name])
    report = prune.run(plain, Keep(last=1))
    assert left(plain) == names([*made[:1], *made[1:]])
    assert "verify found it damaged" in report.decisions[0].reasons[0]
    assert report.decisions[1].reasons == ["last 1 of 1"]


def test_a_failed_backup_rotates_nothing_away(plain: Store, root: Path, tmp_path: Path) -> None:
    made = history(plain, tmp_path, 2)
    plain.settings.update(quota_bytes=quota.used(plain) + 2 * CHUNK)
    for _turn in range(3):
        with pytest.raises(Exception, match="given up"):
            back_up(plain, image(tmp_path / "x", list(range(1, 30))))
        prune.run(plain, Keep(last=2))
    assert left(plain) == names(made)


def test_nothing_at_all_leaves_the_least(plain: Store, tmp_path: Path) -> None:
    made = history(plain, tmp_path, 4)
    report = prune.run(plain, Keep(last=0, min=2), room=1)
    assert left(plain) == names(made[2:]) and report.over_bytes > 0


@pytest.mark.parametrize("jump", [timedelta(days=365), timedelta(days=-365)])
def test_a_clock_that_jumps_makes_nothing_old(plain: Store, tmp_path: Path, jump: timedelta) -> None:
    made = history(plain, tmp_path, 4)
    plain.clock = FakeClock(BEGIN + timedelta(days=4) + jump)
    prune.run(plain, Keep(last=0, within_days=7))
    assert left(plain) == names(made)


def test_room_takes_the_oldest_until_it_suffices(plain: Store, tmp_path: Path) -> None:
    made = [*history(plain, tmp_path, 6), *history(plain, tmp_path, 2, "vm-2", 10)]
    before = quota.used(plain)
    room = before * 3 // 5
    check = prune.run(plain, Keep(last=5), room=room, check=True)
    report = prune.run(plain, Keep(last=5), room=room)
    assert check.removed == report.removed and check.room_bytes == report.room_bytes
    assert report.over_bytes == 0 and quota.used(plain) <= room
    gone = [one.point.point for one in report.decisions if not one.keep]
    kept = left(plain)
    assert gone and sorted([*gone, *kept]) == sorted(names(made))
    # The newest of each machine is its least; all else that stays is newer than what went.
    assert made[5].point in kept and made[7].point in kept
    assert max(gone) < min(set(kept) - {made[7].point})
    assert any(one.reasons == [f"room: the store would take more than {room} bytes"] for one in report.decisions)
    sound(plain)


def test_the_forecast_of_room_is_what_comes(root: Path, tmp_path: Path) -> None:
    store = new_store(local(root))
    chance = random.Random(5)
    for number in range(8):
        store.clock = FakeClock(BEGIN + timedelta(hours=number))
        seeds = [chance.randrange(1, 60) for _ in range(14)]
        back_up(store, image(tmp_path / str(number), seeds), machine=f"vm-{number % 2}")
    room = quota.used(store) // 2
    report = prune.run(store, Keep(last=9), room=room)
    assert report.room_bytes is not None and report.removed
    assert 0.9 * report.room_bytes < quota.used(store) < 1.1 * report.room_bytes
    sound(store)


def test_a_removal_that_was_cut_short_counts_as_gone(plain: Store, tmp_path: Path) -> None:
    made = history(plain, tmp_path, 4)
    plain.backend.create("removals/dead.json", textfile.render({"points": [made[3].object_name]}))
    check = prune.run(plain, Keep(last=1), check=True)
    assert check.decisions[0].reasons == ["its removal has begun"] and check.decisions[1].reasons == ["last 1 of 1"]
    prune.run(plain, Keep(last=1))
    assert left(plain) == [made[2].point]


def test_nothing_goes_while_a_point_a_finding_or_the_index_cannot_be_read(
    plain: Store, root: Path, tmp_path: Path
) -> None:
    made = history(plain, tmp_path, 3)
    verify.run(plain)
    (finding,) = (root / "verified").iterdir()
    index = next((root / "index").iterdir())
    for path in (root / made[1].object_name, finding, index):
        data = path.read_bytes()
        path.write_bytes(spoiled(data))
        with pytest.raises(Damaged):
            prune.run(plain, Keep(last=1))
        path.write_bytes(data)
        assert left(plain) == names(made)
