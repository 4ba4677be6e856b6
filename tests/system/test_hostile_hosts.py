# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor that lies, over the real wire: what runs on the lab's host speaks our protocol, and tells lies.

It shows another one's VM identity, too. Nothing of that one's restore points is told or touched, every lie ends the
copy soon with an error that names it, and a host that comes to its senses is backed up in the same job.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.programs import watching
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import MovesTooSlowly, NothingMoves
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, restore
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import SourceLied
from ansible_collections.stowage.esxi.plugins.module_utils.store.points import Point
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import starting
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import AgentLies
from judge import one_moment

from . import stories, test_dedup
from .test_dedup import StoreStory, points_in, raw, readers

before, host, impatient = stories.before, stories.host, stories.impatient
stores, story = test_dedup.stores, test_dedup.story

MIB = 1 << 20
SECRET = random.Random(7).randbytes(MIB)
SOON = 120.0

# Put into the agent before it begins. Each answers what is asked of it about hashes, or bytes, in its own way.
LIES: dict[str, tuple[str, type[Exception], str]] = {
    # The first: what a copy has sent before its lie was met is not asked for again, and a young guest has little.
    "gives a little now and then": (
        "import time\nplain = Agent.send\ndef drip(self, frame, buffer=None):\n"
        "    time.sleep(1.5 * (FRAME.unpack_from(frame)[1] == DATA))\n"
        "    plain(self, frame, buffer)\nAgent.send = drip",
        MovesTooSlowly,
        "bytes have moved within [3-9] seconds",
    ),
    "claims a chunk of another's": (
        f"Agent.hash = lambda self, flags, number, body: b'\\1' + bytes.fromhex('{hashlib.sha256(SECRET).hexdigest()}')"
        " + honest(self, flags, number, body)[33:]",
        SourceLied,
        "came with other content than their hash",
    ),
    "makes hashes up": (
        "Agent.hash = lambda self, flags, number, body: (b'\\1' + os.urandom(32))"
        " * (len(honest(self, flags, number, body)) // 33)",
        SourceLied,
        "came with other content than their hash",
    ),
    "says less than was asked": (
        "Agent.hash = lambda self, flags, number, body: honest(self, flags, number, body)[33:]",
        AgentLies,
        "cannot be understood",
    ),
    "a frame of two gigabytes": (
        "Agent.hash = lambda self, flags, number, body: self.send(FRAME.pack(MARK, DONE, 0, number, 1 << 31))",
        AgentLies,
        "2147483648 bytes of kind",
    ),
    "answers another question": (
        "Agent.hash = lambda self, flags, number, body: self.send(FRAME.pack(MARK, DONE, 0, number + 1, 0))",
        AgentLies,
        "it answers request",
    ),
    "prints without an end": (
        "def endless(self, flags, number, body):\n    while True: os.write(1, bytes(65536))\nAgent.hash = endless",
        AgentLies,
        "a frame begins with",
    ),
    "never answers": (
        "import time\nAgent.hash = lambda self, flags, number, body: time.sleep(3600)",
        NothingMoves,
        "nothing has moved",
    ),
}
#: What is asked of the copy meanwhile, so that the test is soon over.
HASTE: dict[str, dict[str, Any]] = {
    "never answers": {"stall_timeout": 8},
    "gives a little now and then": {"stall_timeout": 3, "minimum_rate": 16 * MIB, "connections": 1},
}
#: Ends neither with its input nor when it is asked to.
STAYS = (
    "import time\nleave = lambda status: time.sleep(3600)\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)"
)


def lying(monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    honest = starting.source().decode()
    head, mark, tail = honest.rpartition("\nif __name__ ==")
    assert mark
    source = f"{head}\nhonest = Agent.hash\n{lie}\n{mark}{tail}".encode()
    monkeypatch.setattr(starting, "source", lambda: source)


FEW = ("gives a little now and then", "claims a chunk of another's", "prints without an end", "never answers")


@pytest.mark.parametrize("lies", [FEW, pytest.param(tuple(LIES), marks=pytest.mark.soak)], ids=["few", "all"])
def test_a_host_that_lies_learns_nothing_harms_nobody_and_holds_no_job(
    story: Callable[..., StoreStory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies: Sequence[str]
) -> None:
    first = story("hot")
    store = first.context.stores.open(first.entry["target"])
    image = tmp_path / "others.raw"
    image.write_bytes(SECRET + random.Random(8).randbytes(MIB))
    theirs = others(store, first.vm.identity, image)
    job = story("hot")
    (warning,) = [text for text in job.entry["warnings"] if "identity" in text]
    assert "were made by another-host" in warning
    job.start()
    job.bracket()
    for name in lies:
        lie, error, words = LIES[name]
        with monkeypatch.context() as patched:
            lying(patched, lie)
            patched.setattr(job, "params", given(job.params(), HASTE.get(name, {})))
            if error is MovesTooSlowly:
                # What a young guest has is copied, however slowly, before the ordinary time to judge it is over.
                patched.setattr(watching, "PACE_STALLS", 1)
            begun = time.monotonic()
            with pytest.raises(error, match=words):
                job.copy()
            print(f"{name}: {time.monotonic() - begun:.1f} s")
            assert time.monotonic() - begun < SOON, name
        assert points_in(job) == [theirs], name
        assert readers(job.host) == [], name
    # It is killed, and what it has read is what it should.
    with monkeypatch.context() as patched:
        lying(patched, STAYS)
        job.copy()
    assert readers(job.host) == []
    job.commit()
    ended = job.end()
    assert (ended.error, ended.entry["status"]) == (None, "ok")
    one, mine = points_in(job)
    assert (one, mine.parent) == (theirs, None)
    one_moment([raw(job, mine, tmp_path)])
    back = tmp_path / "others.back"
    restore.to_file(store, theirs.disks[0], str(back))
    assert back.read_bytes() == image.read_bytes()


def others(store: Any, identity: str, image: Path) -> Point:
    """A restore point that another hypervisor has made of the same identity."""
    disk = RawDisk(str(image))
    try:
        facts = {"hypervisor": "another-host"}
        return backup.run(store, identity, "theirs", [backup.DiskInput("scsi0:0", disk)], facts=facts)[0]
    finally:
        disk.close()


def given(params: dict[str, Any], more: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {**params, **more}
