# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two threads on one line of which one makes a new link: the order is played, as chance would meet it once in years."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.transfer.encoding import RemoteFile
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import AgentLost
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.steady import Files, Line, Starter


class Answer:
    def __init__(self, value: Any, before: Callable[[], None]) -> None:
        self.value, self.before = value, before

    def result(self) -> Any:
        self.before()
        return self.value


class Link:
    """Gives its files the numbers from 10 times its own on."""

    def __init__(self, number: int) -> None:
        self.next = number * 10
        self.open_files: set[int] = set()
        self.before: Callable[[], None] = lambda: None

    def open(self, path: str, writable: bool = False) -> Answer:
        file = RemoteFile(number=self.next, path=path, size=5, mtime_ns=1, allocated=0, device=1, inode=1, real=path)
        self.open_files.add(self.next)
        self.next += 1
        before, self.before = self.before, lambda: None
        return Answer(file, before)

    def shut(self, file: RemoteFile) -> None:
        self.open_files.remove(file.number)

    def abandon(self) -> None:
        self.open_files.clear()


class Links(Starter):
    host, packs = "esx1", True

    def __init__(self) -> None:
        self.made: list[Link] = []

    def start(self) -> Link:
        self.made.append(Link(len(self.made)))
        return self.made[-1]

    def end(self, link: Link) -> None:
        link.abandon()


def test_a_file_that_was_opened_on_a_link_that_is_no_more_is_opened_on_the_next_one() -> None:
    links = Links()
    line = Line(links, Files())
    links.made[0].before = lambda: line.renew(line.turn, AgentLost(host="esx1", reason="cut"))
    number, file = line.open("/disk")
    assert (len(links.made), file.number) == (2, 10) and links.made[1].open_files == {10}
    # What it is called here means the same on each link to come.
    line.renew(line.turn, AgentLost(host="esx1", reason="cut"))
    assert links.made[2].open_files == {20}
    line.shut(number)
    assert links.made[2].open_files == set()
    line.close()
