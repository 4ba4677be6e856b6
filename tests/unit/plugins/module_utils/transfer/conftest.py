# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents on this machine: in every interpreter that there is, over plain pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.pipe import ProcessPipe
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink

sys.path.insert(0, str(Path(__file__).resolve().parents[5] / "tests" / "lab"))

from esxilab import interpreters  # noqa: E402  the lab knows how to find them

PYTHONS = [found for found in interpreters.found() if found.version >= (3, 5)]


def interpreter(found: Any, way: str = "command", *, zlib: bool = True) -> starting.Interpreter:
    return starting.Interpreter(found.executable, found.version, way, zlib)


def local_pipe(words: list[str]) -> ProcessPipe:
    return ProcessPipe(words, words[0], "here", 0, {"PATH": os.environ["PATH"]})


def local_agent(found: Any, way: str = "command", *, lease: int = 60, zlib: bool = True, **settings: Any) -> AgentLink:
    made = interpreter(found, way, zlib=zlib)
    pipe = local_pipe(made.argv(starting.mark("test"), lease))
    link = AgentLink(pipe, "here", lease_seconds=lease, **{"stall_seconds": 20.0, **settings})
    try:
        link.greet(made)
    except BaseException:
        link.abandon()
        raise
    return link


@pytest.fixture
def start() -> Iterator[Callable[..., AgentLink]]:
    """Starts agents, in the newest interpreter where none is named, and ends them."""
    made: list[AgentLink] = []

    def begin(found: Any = None, way: str = "command", **settings: Any) -> AgentLink:
        made.append(local_agent(found or PYTHONS[-1], way, **settings))
        return made[-1]

    yield begin
    for link in made:
        link.close()


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda found: found.text)
def every(request: pytest.FixtureRequest) -> Iterator[AgentLink]:
    """An agent in each interpreter of this machine, for all tests of a file that leave it alive."""
    link = local_agent(request.param)
    yield link
    link.close()
