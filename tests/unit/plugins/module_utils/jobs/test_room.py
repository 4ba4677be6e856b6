# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.datastore import Datastore
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.room import RoomBelowReserve, RoomWatch
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import HostUnreachable
from fakeclock import FakeClock


class Host:
    """Answers with the free room that the test sets."""

    name = "esx1"

    def __init__(self, **free: int) -> None:
        self.free = free
        self.asked = 0
        self.error: Exception | None = None

    def datastores(self) -> tuple[Datastore, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return tuple(
            Datastore(name, f"/vmfs/volumes/{name}", name, "VMFS-6", 1000, free) for name, free in self.free.items()
        )


def watch(host: Host, clock: FakeClock, *names: str) -> RoomWatch:
    return RoomWatch(host, "web01", names, 5, 15, clock)  # type: ignore[arg-type]


def test_room_at_the_reserve_is_enough_and_below_it_is_not():
    host, clock = Host(a=50, b=1000), FakeClock()
    watched = watch(host, clock, "a", "b")
    watched.check()
    host.free["a"] = 49
    clock.advance(15)
    with pytest.raises(RoomBelowReserve) as caught:
        watched.check()
    assert "'a' has 49 B free, less than the reserve of 50 B" in caught.value.message


def test_other_datastores_do_not_count():
    watch(Host(a=1000, other=0), FakeClock(), "a").check()


def test_the_host_is_not_asked_at_every_turn():
    host, clock = Host(a=1000), FakeClock()
    watched = watch(host, clock, "a")
    for _turn in range(30):
        watched.check()
        clock.advance(1)
    assert host.asked == 2


def test_a_host_that_does_not_answer_is_not_a_full_one():
    host = Host(a=0)
    host.error = HostUnreachable(host="esx1", port=22, reason="no route")
    watch(host, FakeClock(), "a").check()
