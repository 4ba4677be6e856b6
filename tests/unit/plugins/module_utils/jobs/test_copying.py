# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import JournalLost
from ansible_collections.stowage.esxi.plugins.module_utils.jobs import copying, limits
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.room import RoomBelowReserve, RoomWatch
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import NotSupported
from ansible_collections.stowage.esxi.plugins.module_utils.programs.plan import Request
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import AuthenticationFailed, ConnectionLost
from fakeclock import FakeClock

CUT = ConnectionLost(host="esx1", port=22, command="sh", reason="reset by peer")


def test_room_is_watched_while_a_copy_waits_for_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our snapshot is open for as long, and its delta grows."""
    host: Any = SimpleNamespace(name="esx1", session=None)
    vm: Any = SimpleNamespace(name="web01")
    full = SimpleNamespace(name="ds1", capacity_bytes=100, free_bytes=1)
    watch = RoomWatch(SimpleNamespace(name="esx1", datastores=lambda: [full]), "web01", ["ds1"], 5)  # type: ignore[arg-type]
    monkeypatch.setattr(copying, "request_from", lambda *_: Request(dest="/x", vm=vm, snapshot_id=1))
    monkeypatch.setattr(RoomWatch, "of_vm", lambda *_: watch)
    (tmp_path / "one").mkdir()
    params = {
        "program": "vmkfstools",
        "verify": "none",
        "limits": [{"name": "one", "slots": 1}],
        "limits_dir": str(tmp_path),
        "limits_timeout": 5,
        "snapshot_reserve_percent": 5,
    }
    with open(tmp_path / "one" / "0", "w", encoding="ascii") as slot:
        fcntl.flock(slot, fcntl.LOCK_EX)
        with pytest.raises(RoomBelowReserve):
            copying.perform(host, params)


def test_a_copy_that_moves_nothing_any_more_gives_its_slot_to_who_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host: Any = SimpleNamespace(name="esx1", session=None)
    place = "/srv/store"
    monkeypatch.setattr(copying, "request_from", lambda *_: Request(dest=place, src="/y"))
    settings = copying.Settings(limits=(limits.Limit("one", 1),), limits_dir=str(tmp_path), limits_timeout=0)
    with copying.around(host, {}, settings, None) as first:
        with pytest.raises(limits.LimitBusy), copying.around(host, {}, settings, None):
            raise AssertionError("two have one slot")
        first.reach(host, settings).all_read()
        with copying.around(host, {}, settings, None):
            pass
    # Into a store on another server, the index crosses the same line after that.
    place = "bk2:22:/srv/store"
    with copying.around(host, {}, settings, None) as first:
        first.reach(host, settings).all_read()
        with pytest.raises(limits.LimitBusy), copying.around(host, {}, settings, None):
            raise AssertionError("two have one slot")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connections", 0),
        ("connections", -1),
        ("connections", 33),
        ("bandwidth_limit", -1),
        ("bandwidth_limit", 50),
        ("minimum_rate", -1),
    ],
)
@pytest.mark.parametrize("act", [copying.predict, copying.perform])
def test_a_number_that_nothing_can_be_done_with_is_refused_first(act: Any, name: str, value: int) -> None:
    nobody: Any = None
    params = {
        "program": "dedup",
        "verify": "none",
        "limits_dir": "/x",
        "limits_timeout": 5,
        "snapshot_reserve_percent": 5,
        name: value,
    }
    with pytest.raises(NotSupported, match=f"{name} is {value}") as caught:
        act(nobody, params)
    assert f"backup_{name}" in caught.value.hint_text


def test_a_copy_may_not_be_slower_than_its_own_limit_lets_it_be() -> None:
    params = {
        "program": "dedup",
        "verify": "none",
        "limits_dir": "/x",
        "limits_timeout": 5,
        "snapshot_reserve_percent": 5,
    }
    with pytest.raises(NotSupported, match="minimum_rate is 40000 and bandwidth_limit 70000"):
        copying.settings_from({**params, "bandwidth_limit": 70000, "minimum_rate": 40000})
    assert copying.settings_from({**params, "bandwidth_limit": 70000, "minimum_rate": 35000}).minimum_rate == 35000
    assert copying.settings_from({**params, "minimum_rate": 0}).minimum_rate == 0
    # Of the least limit that can be asked for, the floor that nobody has asked for is no hindrance.
    least = copying.settings_from({**params, "bandwidth_limit": copying.LEAST_BANDWIDTH})
    assert least.minimum_rate == copying.MINIMUM_RATE


@pytest.mark.parametrize(
    ("program", "src", "refused"),
    [
        ("dedup", None, ""),
        ("dedup", "/srv/s::p/scsi0:0", ""),
        ("borg", "/srv/b::a/scsi0:0", ""),
        ("rsync", "/srv/r/a/scsi0:0", ""),
        ("borg", None, "only dedup makes its backups durable piece by piece"),
        ("rsync", None, "only dedup makes its backups durable piece by piece"),
        ("vmkfstools", "/vmfs/volumes/a/b.vmdk", "vmkfstools writes as the hypervisor does"),
    ],
)
def test_piece_by_piece_goes_what_crosses_a_wire_into_something_that_can(
    program: str, src: str | None, refused: str
) -> None:
    params = {
        "program": program,
        "src": src,
        "verify": "none",
        "limits_dir": "/x",
        "limits_timeout": 5,
        "snapshot_reserve_percent": 5,
        "transfer_mode": "sync",
    }
    if refused:
        with pytest.raises(NotSupported, match=refused):
            copying.choose(copying.settings_from(params))
        return
    settings, beat = copying.settings_from(params), SimpleNamespace(note=print, beat=print, folder="/j")
    request: Any = SimpleNamespace(vm=None, dest="/x", reserve_percent=5)
    frame = copying.Frame(request, None, cast(Any, beat), print)
    nobody: Any = None
    assert frame.reach(nobody, settings).stepwise
    assert not frame.reach(nobody, replace(settings, transfer_mode="async")).stepwise


def test_a_connection_that_is_cut_for_a_moment_ends_no_copy() -> None:
    answers: list[Exception | None] = []

    def beat() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    clock = FakeClock()
    journal: Any = SimpleNamespace(beat=beat)
    frame = copying.Frame(Request(dest="/x"), None, journal, lambda progress: None, clock=clock)
    for _cut in range(2):
        answers[:] = [CUT, CUT, CUT, None]
        while answers:
            frame.waiting()
            clock.sleep(25)
    answers[:] = [CUT] * 4
    frame.waiting()
    clock.sleep(59)
    frame.waiting()
    clock.sleep(1)
    with pytest.raises(ConnectionLost):
        frame.waiting()
    # What another attempt does not mend, or makes worse, is told at once.
    gone = JournalLost(host="esx1", folder="/f", operation="refreshed", output="its lease is gone")
    for error in (gone, AuthenticationFailed(host="esx1", port=22, reason="denied")):
        frame.cut_since = None
        answers[:] = [error]
        with pytest.raises(type(error)):
            frame.waiting()
