# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Links that are kept between two uses: real agents, and connections that end while nobody asks them anything."""

from __future__ import annotations

import os
import signal

from ansible_collections.stowage.esxi.plugins.module_utils.transfer.keptlinks import KeptLinks
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import PAUSES, Files, Line
from fakeclock import FakeClock
from remotebench import LocalHost


def test_what_is_released_is_used_again_and_all_are_ended() -> None:
    host = LocalHost()
    with KeptLinks(host, 1) as links:
        first = links.start()
        links.release(first)
        assert links.start() is first
        links.release(first)
    assert len(host.links) == 1
    assert first.forget() is False


def test_idle_links_that_ended_with_the_one_in_use_cost_no_attempt_to_come_back() -> None:
    host, clock = LocalHost(), FakeClock()
    with KeptLinks(host, 1) as links:
        held = [links.start() for _link in range(len(PAUSES) + 2)]
        line = Line(links, Files(), clock)
        for link in held:
            links.release(link)
        for link in host.links:
            os.kill(link.pid, signal.SIGKILL)
        line.run(lambda link: link.ping().result())
        assert len(host.links) == len(held) + 2 and clock.slept == []
        line.close()
