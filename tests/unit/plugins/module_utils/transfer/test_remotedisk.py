# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host hashes and sends of a disk is what is read of the same files here, whatever its chain is made of."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import struct
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.errors import JournalFailed
from ansible_collections.stowage.esxi.plugins.module_utils.programs.dedup import opening_of
from ansible_collections.stowage.esxi.plugins.module_utils.programs.errors import OpensTooSlowly
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.errors import AuthenticationFailed, HostUnreachable
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import ending, steady
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.diskerrors import FileChanged, GaveUp, NotInFiles
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.errors import (
    AgentLost,
    AgentNotStarted,
    AgentStays,
    TransferError,
)
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.link import AgentLink
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.probe import Way
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.remotedisk import OnHost, RemoteDisk
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.starting import Interpreter
from ansible_collections.stowage.esxi.plugins.module_utils.transfer.storelink import StoreLink
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.fileerrors import ExtentUnusable, PathOutside
from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.localdisk import LocalDisk
from fakeclock import FakeClock
from remotebench import LocalHost, LocalShell, remote

from diskbench import MIB, chain, converted, image, stream  # isort: skip
from esxilab import disks  # isort: skip


def pieces(size: int, step: int = MIB) -> list[tuple[int, int]]:
    return [(at, min(step, size - at)) for at in range(0, size, step)]


def same(path: Path, step: int = MIB, host: LocalHost | None = None, **options: object) -> RemoteDisk:
    """Compares all that a lane says with what LocalDisk reads; the closed disk, for its counters."""
    local = LocalDisk(str(path))
    asked = pieces(local.size, step)
    room = memoryview(bytearray(step))
    with remote(path, host, **options) as disk:
        assert disk.size == local.size
        if not isinstance(host, LocalShell):
            assert list(disk.allocated()) == list(local.allocated())
        # What was written since each of the links was frozen.
        for there, here in zip(disk.links, local.links):
            assert list(disk.above(there)) == list(local.above(here))
        with disk.lane() as lane:
            spans = [asked[at : at + 7] for at in range(0, len(asked), 7)]
            hashes = [lane.ask(span) for span in spans]
            found = [digest for one in hashes for digest in one.hashes()]
            fetched = [lane.fetch(span) for span in spans]
            chunks = (view for one in fetched for view in one.chunks())
            for (offset, length), digest in zip(asked, found):
                local.read_into(room[:length], offset)
                assert next(chunks) == room[:length], offset
                wanted = hashlib.sha256(room[:length]).digest()
                assert digest == (None if bytes(room[:length]).count(0) == length else wanted), offset
            assert next(chunks, None) is None
    local.close()
    return disk


def test_who_has_waited_long_enough_opens_no_further_extent(tmp_path: Path) -> None:
    top, _expected = chain(tmp_path, ["vmfssparse"] * 3)
    host, clock, signs = LocalHost(), FakeClock(), [0]

    def alive() -> None:
        signs[0] += 1
        clock.advance(20)

    reach: Any = SimpleNamespace(host=SimpleNamespace(name="esx1"), alive=alive, clock=clock, stall_seconds=30.0)
    with pytest.raises(OpensTooSlowly, match=r"esx1 has opened 2 extents of /vmfs/volumes/ds/web01.vmdk within 40 s"):
        remote(top, host, opening=opening_of("/vmfs/volumes/ds/web01.vmdk", reach))
    assert signs == [3]
    (link,) = host.links
    with pytest.raises(ProcessLookupError):
        os.kill(link.pid, 0)
    reach.stall_seconds = 1e6
    with remote(top, opening=opening_of("x", reach)) as disk:
        assert disk.size > 0 and signs[0] >= 3 + 4


@pytest.mark.parametrize(
    "kinds",
    [["vmfssparse"], ["sesparse"], ["vmfssparse"] * 3, ["sesparse"] * 3, ["sesparse", "vmfssparse"]],
)
def test_a_chain_of_deltas(tmp_path: Path, kinds: list[str]) -> None:
    top, _expected = chain(tmp_path, kinds)
    same(top)


@pytest.mark.parametrize("step", [512, 12_800, 5 * MIB])
def test_pieces_of_any_length(tmp_path: Path, step: int) -> None:
    top, _expected = chain(tmp_path, ["vmfssparse", "sesparse"], MIB + 512)
    same(top, step)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_disk_of_qemu_img(tmp_path: Path, subformat: str) -> None:
    raw = image(tmp_path / "raw", 37 * MIB + 512)
    same(converted(raw, tmp_path / "disk.vmdk", subformat))


def test_a_chunk_that_lies_in_two_extents(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    edge = 2 << 30
    with open(raw, "wb") as file:
        file.truncate(5 << 30)
        for offset in (0, edge - 70_000, 2 * edge - 4096, (5 << 30) - MIB):
            file.seek(offset)
            file.write(random.Random(offset).randbytes(MIB))
    path = converted(raw, tmp_path / "disk.vmdk", "twoGbMaxExtentFlat")
    assert f"RW {edge // 512} FLAT" in path.read_text()
    with remote(path) as disk, disk.lane() as lane:
        span = (edge - MIB, 2 * MIB)
        assert len({number for number, _place, _size in disk.segments(*span) if number >= 0}) == 2
        (digest,) = lane.ask([span]).hashes()
        with open(raw, "rb") as file:
            file.seek(span[0])
            assert digest == hashlib.sha256(file.read(span[1])).digest()
        (view,) = lane.fetch([span]).chunks()
        assert hashlib.sha256(view).digest() == digest


def test_emptied_and_unmapped_grains_hide_what_lies_below(tmp_path: Path) -> None:
    for kind in ("vmfssparse", "sesparse"):
        folder = tmp_path / kind
        folder.mkdir()
        disks.create_disk(str(folder / "d.vmdk"), 4 * MIB, "thin")
        with disks.open_chain(str(folder / "d.vmdk"), writable=True) as disk:
            disk.write(0, b"below" * 1000)
        disks.create_delta(str(folder / "d.vmdk"), str(folder / "c.vmdk"), kind)
        with disks.open_chain(str(folder / "c.vmdk"), writable=True) as disk:
            disk.write(0, b"a" * 4096)
        delta = next(folder.glob("c-*.vmdk"))
        data = bytearray(delta.read_bytes())
        if kind == "vmfssparse":
            (directory,) = struct.unpack_from("<I", data, 20)
            (table,) = struct.unpack_from("<I", data, directory * 512)
            struct.pack_into("<I", data, table * 512, 1)
        else:
            words = struct.unpack_from("<26Q", data)
            (entry,) = struct.unpack_from("<Q", data, words[16] * 512)
            struct.pack_into("<Q", data, (words[18] + (entry & 0xFFFFFFFF) * 64) * 512, 1 << 60)
        delta.write_bytes(data)
        disk = same(folder / "c.vmdk", 4096)
        assert list(LocalDisk(str(folder / "c.vmdk")).allocated())[:1] != [(0, 512)]
        with remote(folder / "c.vmdk") as disk, disk.lane() as lane:
            # Whole in the delta's zeros: the host is not asked.
            before = lane.told()[0]
            assert lane.ask([(0, 512)]).hashes() == [None] and lane.told()[0] == before


def test_what_lies_in_holes_costs_no_question(tmp_path: Path) -> None:
    disks.create_disk(str(tmp_path / "d.vmdk"), 64 * MIB, "thin")
    with disks.open_chain(str(tmp_path / "d.vmdk"), writable=True) as disk:
        disk.write(20 * MIB, b"x" * 4096)
    with remote(tmp_path / "d.vmdk") as disk, disk.lane() as lane:
        before = lane.told()[0]
        assert lane.ask(pieces(20 * MIB)).hashes() == [None] * 20
        assert [len(view) for view in lane.fetch(pieces(20 * MIB)).chunks()] == [MIB] * 20
        assert lane.told()[0] == before
        assert lane.ask(pieces(21 * MIB)).hashes()[20] == hashlib.sha256(b"x" * 4096 + bytes(MIB - 4096)).digest()


def test_several_lanes_at_once(tmp_path: Path) -> None:
    top, expected = chain(tmp_path, ["sesparse", "vmfssparse"])
    failed: list[object] = []
    with remote(top) as disk:

        def run(first: int) -> None:
            with disk.lane() as lane:
                own = pieces(len(expected), 128 * 1024)[first::3]
                for (offset, length), view in zip(own, lane.fetch(own).chunks()):
                    if view != expected[offset : offset + length]:
                        failed.append(offset)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []


@pytest.mark.parametrize("level", [0, 1])
def test_packed_or_raw_it_is_the_same(tmp_path: Path, level: int) -> None:
    top, _expected = chain(tmp_path, ["sesparse"])
    same(top, level=level)


@pytest.mark.parametrize("digest", ["sha256sum", None])
def test_a_host_with_nothing_but_its_shell(tmp_path: Path, digest: str | None) -> None:
    top, expected = chain(tmp_path, ["vmfssparse", "sesparse"], 3 * MIB + 512)
    host = LocalShell(digest=digest)
    disk = same(top, host=host)
    assert sum(link.received_bytes for link in host.links) > len(expected)
    # Where holes are is not known without an agent.
    assert disk.renewals == 0 and host.packs is False


def test_a_shell_that_is_cut_is_gone_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 4)
    top, _expected = chain(tmp_path, ["sesparse"], 3 * MIB + 512)
    host = LocalShell(30_000, 700_000, 900_000, 1 << 40)
    assert same(top, host=host).renewals >= 2


# -- connections that end ----------------------------------------------------------------------------------------------


def test_a_cut_costs_no_more_than_what_was_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 4)
    (tmp_path / "raw").write_bytes(random.Random(1).randbytes(24 * MIB))
    path = converted(tmp_path / "raw", tmp_path / "d.vmdk", "monolithicFlat")
    # The first connection carries the chain, the second one the lane; each of the lane's next ones ends, too.
    host = LocalHost(1 << 40, 3 * MIB + 77, 5, 9 * MIB, 400, 0)
    disk = same(path, host=host, level=0)
    # Three of the seven ended before they had opened the disk again.
    assert disk.renewals == 3 and len(host.links) == 7
    carried = sum(link.received_bytes for link in host.links)
    # A chunk that had come in part, once for each cut that came in the middle of one.
    assert carried < 24 * MIB + 3 * MIB
    for link in host.links:
        with pytest.raises(ProcessLookupError):
            os.kill(link.pid, 0)


def test_the_chain_itself_may_be_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 4)
    top, _expected = chain(tmp_path, ["vmfssparse", "sesparse"])
    for cut in (300, 2000, 40_000):
        host = LocalHost(cut)
        same(top, host=host)
        assert len(host.links) == 3, cut


def test_a_host_that_stays_away_is_told_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 3)
    top, _expected = chain(tmp_path, ["sesparse"])
    host = LocalHost(1 << 40, 40_000)
    with remote(top, host) as disk, disk.lane() as lane:
        host.refuse = HostUnreachable(host="here", port=22, reason="no route to it")
        with pytest.raises(GaveUp, match="here was lost 3 times in a row.*no route to it"):
            list(lane.fetch(pieces(disk.size)).chunks())
        with pytest.raises(GaveUp):
            lane.ask(pieces(disk.size)).hashes()
        host.refuse = None


def test_a_lane_may_have_to_wait_for_its_host_and_a_refused_login_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 3)
    top, expected = chain(tmp_path, ["sesparse"])
    host = LocalHost(1 << 40, 10, 20)
    with remote(top, host) as disk:
        with disk.lane() as lane:
            (view,) = lane.fetch([(0, MIB)]).chunks()
            assert view == expected[:MIB] and len(host.links) == 4
        host.refuse = AuthenticationFailed(host="here", port=22, user="root", reason="no")
        tried: list[int] = []
        host.before_start = lambda: tried.append(1)
        with pytest.raises(AuthenticationFailed):
            disk.lane()
        assert len(tried) == 1
        host.refuse = None


@pytest.mark.parametrize("how", ["written", "longer"])
def test_a_file_that_changed_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 3)
    top, _expected = chain(tmp_path, ["sesparse"])
    host = LocalHost(1 << 40, 40_000)
    with remote(top, host) as disk, disk.lane() as lane:
        with open(tmp_path / "disk-flat.vmdk", "r+b") as file:
            file.seek(0, os.SEEK_END if how == "longer" else os.SEEK_SET)
            file.write(b"another")
        with pytest.raises(FileChanged, match="disk-flat.vmdk on here is not what it was"):
            list(lane.fetch(pieces(disk.size)).chunks())


def test_several_waiting_threads_share_one_new_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "PAUSES", (0.0,) * 4)
    top, expected = chain(tmp_path, ["vmfssparse"])
    host = LocalHost(60_000, 1 << 40, 1 << 40, 1 << 40, 200_000)
    bad: list[int] = []
    with remote(top, host) as disk:
        lanes = [disk.lane() for _number in range(3)]

        def run(number: int) -> None:
            own = pieces(len(expected), 64 * 1024)[number::3]
            for (offset, length), view in zip(own, lanes[number].fetch(own).chunks()):
                if view != expected[offset : offset + length]:
                    bad.append(offset)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bad == [] and disk.renewals >= 1


@pytest.mark.parametrize("waits", ["for an answer", "for its host"])
def test_a_disk_may_be_closed_by_another_thread_than_waits_for_it(tmp_path: Path, waits: str) -> None:
    top, _expected = chain(tmp_path, ["sesparse"])
    host = LocalHost()
    disk = remote(top, host)
    lane = disk.lane()
    raised: list[Exception] = []

    def wait() -> None:
        try:
            list(lane.fetch(pieces(disk.size)).chunks())
        except TransferError as error:
            raised.append(error)

    if waits == "for an answer":
        os.kill(host.links[1].pid, signal.SIGSTOP)
    else:
        host.refuse = HostUnreachable(host="here", port=22, reason="no route to it")
        os.kill(host.links[1].pid, signal.SIGKILL)
    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    closing = threading.Thread(target=disk.close)
    closing.start()
    # Well before the host would be given up.
    thread.join(12)
    assert [type(error) for error in raised] == [AgentLost]
    closing.join(20)
    assert not closing.is_alive()


def test_whoever_closes_again_is_told_again_what_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, _expected = chain(tmp_path, ["sesparse"])
    host = LocalHost()
    disk = remote(top, host)

    def stays(link: object) -> None:
        raise AgentStays(host="here", pid=4711, token="stowage-agent-x", seconds=10)

    with monkeypatch.context() as patch:
        patch.setattr(host, "end", stays)
        for _time in range(2):
            with pytest.raises(AgentStays, match="4711"):
                disk.close()
    disk.close()
    with pytest.raises(ProcessLookupError):
        os.kill(host.links[0].pid, 0)


def test_an_agent_that_cannot_be_written_down_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    host = LocalHost()
    session: Any = SimpleNamespace(endpoint=Endpoint(host="here"))
    way = Way("agent", Interpreter(sys.executable, sys.version_info[:3]))
    monkeypatch.setattr(AgentLink, "start", lambda *words, **more: host.start())

    def note(event: str, **data: object) -> None:
        raise JournalFailed(host="here", folder="/f", operation="written", output="No space left on device")

    with pytest.raises(JournalFailed):
        OnHost(session, way, note).start()
    host.end(host.links[0])
    with pytest.raises(AgentLost):
        host.links[0].ping().result()


def test_where_the_connection_that_was_made_ahead_is_lost_another_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    host = LocalHost()
    session: Any = SimpleNamespace(endpoint=Endpoint(host="here"))
    ahead: Any = SimpleNamespace(take=iter(["idle", None]).__next__)
    began: list[Any] = []

    def start(*words: Any, connection: Any, **more: Any) -> Any:
        began.append(connection)
        if connection is not None:
            raise AgentNotStarted(host="here", interpreter="python3", reason="its output ended")
        return host.start()

    monkeypatch.setattr(AgentLink, "start", start)
    starter = OnHost(session, Way("agent", Interpreter(sys.executable, sys.version_info[:3])), ahead=ahead)
    link = starter.start()
    link.ping().result()
    assert began == ["idle", None]
    host.end(link)


# -- what is not right -------------------------------------------------------------------------------------------------


def test_nothing_outside_the_roots_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 1024)
    folder = tmp_path / "vm"
    folder.mkdir()
    (folder / "link").symlink_to("../secret")
    (folder / "out").symlink_to("..")
    for name in ("../secret", "link", "out/secret", str(tmp_path / "secret")):
        (folder / "d.vmdk").write_text(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
            f'createType="vmfs"\nRW 2 VMFS "{name}"\n'
        )
        with pytest.raises(PathOutside, match="secret|link"):
            remote(folder / "d.vmdk")
    disk = remote(folder / "d.vmdk", roots=[str(tmp_path)])
    disk.close()


def test_what_cannot_be_opened_is_named_and_nothing_stays(tmp_path: Path) -> None:
    top, _expected = chain(tmp_path, ["sesparse"])
    (tmp_path / "disk-flat.vmdk").unlink()
    host = LocalHost()
    with pytest.raises(ExtentUnusable, match="disk-flat.vmdk cannot be read .*No such file"):
        remote(top, host)
    with pytest.raises(ProcessLookupError):
        os.kill(host.links[0].pid, 0)


def test_a_compressed_disk_is_refused(tmp_path: Path) -> None:
    raw = image(tmp_path / "raw", 3 * MIB)
    with pytest.raises(NotInFiles, match="exported.vmdk on here holds a compressed disk"):
        remote(stream(tmp_path / "exported.vmdk", raw.read_bytes()))


@pytest.mark.parametrize("kind", ["vmfssparse", "sesparse"])
def test_a_delta_that_was_cut_is_told(tmp_path: Path, kind: str) -> None:
    top, _expected = chain(tmp_path, [kind])
    delta = next(tmp_path.glob("disk-000001-*.vmdk"))
    with open(delta, "r+b") as file:
        file.truncate(delta.stat().st_blocks * 512 // 2 if kind == "vmfssparse" else MIB)
    with remote(top) as disk, disk.lane() as lane, pytest.raises(Exception, match=f"{delta.name}"):
        list(lane.fetch(pieces(disk.size)).chunks())


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_sparse_disk_of_two_terabytes_costs_no_memory(tmp_path: Path) -> None:
    size = 2 << 40
    (tmp_path / "d.vmdk").write_text(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
        f'createType="vmfs"\nRW {size // 512} VMFS "d-flat.vmdk"\n'
    )
    with open(tmp_path / "d-flat.vmdk", "wb") as file:
        file.truncate(size)
        for at in range(0, size, 4 << 30):
            file.seek(at)
            file.write(b"x" * 4096)
    disks.create_delta(str(tmp_path / "d.vmdk"), str(tmp_path / "c.vmdk"), "sesparse")
    tracemalloc.start()
    with remote(tmp_path / "c.vmdk") as disk, disk.lane() as lane:
        found = list(disk.allocated())
        assert len(found) == 512 and all(length == 4096 for _at, length in found)
        wanted = hashlib.sha256(b"x" * 4096 + bytes(MIB - 4096)).digest()
        assert lane.ask([(at, MIB) for at, _length in found]).hashes() == [wanted] * 512
        assert lane.ask([(at + MIB, MIB) for at, _length in found]).hashes() == [None] * 512
        assert disk.metadata["seconds"] < 20 and disk.allocated_bytes < 64 * MIB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shutil.rmtree(tmp_path)
    assert peak < 40 * MIB


class _Ended(StoreLink):
    """A link whose close is noted, and may fail."""

    def __init__(self, pid: int, closed: list[int], error: StowageError | None = None) -> None:
        self.pid, self.token = pid, f"stowage-agent-{pid}"
        self._noted, self._error = closed, error

    def close(self, session: Any = None) -> None:
        self._noted.append(self.pid)
        if self._error is not None:
            raise self._error


def test_several_links_are_closed_together_and_asked_after_once_whatever_becomes_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[tuple[int, str]]] = []
    monkeypatch.setattr(ending, "prove_gone", lambda _session, agents, **_more: asked.append(list(agents)))
    session: Any = SimpleNamespace(endpoint=Endpoint(host="here"))
    closed: list[int] = []
    lost = AgentLost(host="here", reason="on purpose")
    links = [_Ended(7, closed), _Ended(8, closed, lost), _Ended(0, closed), _Ended(9, closed)]
    with pytest.raises(AgentLost, match="on purpose"):
        OnHost(session, Way("agent")).end_all(links)
    assert sorted(closed) == [0, 7, 8, 9]
    # One that never told its number has no process that anybody could ask after.
    assert asked == [[(7, "stowage-agent-7"), (8, "stowage-agent-8"), (9, "stowage-agent-9")]]
