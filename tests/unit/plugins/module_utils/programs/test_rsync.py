# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two real rsyncs over a real SSH connection: what travels, what is written, what breaks, what is left."""

from __future__ import annotations

import importlib.util
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base.progress import Progress
from ansible_collections.stowage.esxi.plugins.module_utils.esxi.host import Host
from ansible_collections.stowage.esxi.plugins.module_utils.programs import imagefile, overwire, rsync, watching
from ansible_collections.stowage.esxi.plugins.module_utils.programs.overwire import Wire
from ansible_collections.stowage.esxi.plugins.module_utils.programs.reach import Reach
from ansible_collections.stowage.esxi.plugins.module_utils.programs.rsync import File, Rsync, Wish, rsh
from ansible_collections.stowage.esxi.plugins.module_utils.programs.rsyncerrors import (
    RsyncDiffers,
    RsyncFailed,
    RsyncMissing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.programs.sources import Source
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.endpoint import Endpoint
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.openssh import OpenSshSession
from ansible_collections.stowage.esxi.plugins.module_utils.ssh.session import open_session

SIZE, HELD = 12 << 20, 4 << 20
NAME = "web $(reboot) 'x\" \u00fc-flat.vmdk"


def _servers() -> Any:
    """The sshd of the tests of the room `ssh`."""
    path = Path(__file__).resolve().parents[1] / "ssh" / "conftest.py"
    spec = importlib.util.spec_from_file_location("ssh_servers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    found = _servers().Sshd(tmp_path_factory.mktemp("sshd"), "127.0.0.37", "", False)
    yield found
    found.stop()


@pytest.fixture
def session(server: Any) -> Iterator[OpenSshSession]:
    endpoint = Endpoint(
        host=server.address,
        port=server.port,
        user=server.user,
        private_key_file=server.user_key,
        known_hosts_file=server.known_hosts(),
    )
    with open_session(endpoint) as opened:
        yield rsync.over(opened)


def disk(path: Path, change: int = 0) -> bytes:
    """A part in its middle holds something; `change` is where a few bytes are others."""
    data = bytearray(SIZE)
    data[HELD : 2 * HELD] = random.Random(7).randbytes(HELD)
    if change:
        data[change : change + 100] = random.Random(change).randbytes(100)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for begin in range(0, SIZE, 1 << 20):
            piece = data[begin : begin + (1 << 20)]
            if any(piece):
                file.seek(begin)
                file.write(piece)
    return bytes(data)


class Watcher:
    """Whoever is told of a copy, and may end it."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.stop = False

    def alive(self) -> None:
        if self.stop:
            raise RuntimeError("somebody has ended it")

    def reach(self, session: OpenSshSession, limit: int = 0) -> Reach:
        return Reach(
            host=Host(session),
            note=lambda *_words, **_more: None,
            progress=self.progress.append,
            alive=self.alive,
            bandwidth_limit=limit,
        )


def source(path: Path) -> Source:
    return Source("scsi0:0", str(path), SIZE, HELD, flat=str(path))


def test_the_second_time_only_what_differs_travels_and_the_former_image_stays(
    session: OpenSshSession, tmp_path: Path
) -> None:
    wire = overwire.wire_to(session, rsync.PROGRAM)
    assert (wire.session, wire.why_not) == (session, "")
    there, watcher = tmp_path / NAME, Watcher()
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "3").mkdir()
    first, second, third = (str(tmp_path / number / "scsi0-0-flat.vmdk") for number in "123")
    was = disk(there)
    one = overwire.bring(source(there), wire, first, None, "sample", False, watcher.reach(session))
    assert Path(first).read_bytes() == was
    # What it does not hold did not travel, and takes no room.
    assert HELD <= one.copied.wire < HELD + (1 << 20) and one.begun == "new"
    assert os.stat(first).st_blocks * 512 < HELD + (1 << 20) and os.stat(first).st_mode & 0o777 == 0o400
    now = disk(there, change=6 << 20)
    two = overwire.bring(source(there), wire, second, first, "full", False, watcher.reach(session))
    assert (Path(second).read_bytes(), Path(first).read_bytes()) == (now, was)
    assert two.copied.literal < (64 << 10) and two.copied.wire < (256 << 10)
    assert two.verified.endswith("compared (rsync --checksum)")
    three = overwire.bring(source(there), wire, third, second, "sample", False, watcher.reach(session))
    assert Path(third).read_bytes() == now and three.copied.literal == 0
    if two.begun == "former":
        # No reflinks here: nothing differs, and so it is the same file.
        assert (three.written, os.path.samefile(second, third)) == (0, True)
    whole = overwire.bring(source(there), wire, str(tmp_path / "w"), None, "none", True, watcher.reach(session))
    assert whole.copied.literal == SIZE and (tmp_path / "w").read_bytes() == now


def in_bursts(path: Path) -> None:
    """As files lie on a disk: many short pieces, with zeros before and behind each."""
    chance = random.Random(3)
    with path.open("r+b") as file:
        for at in range(8 << 20, SIZE, 16 << 10):
            file.seek(at + chance.randrange(8 << 10))
            file.write(chance.randbytes(3000))


def test_where_blocks_are_shared_the_second_day_takes_the_room_of_what_differs(
    session: OpenSshSession, reflinks: Path, tmp_path: Path
) -> None:
    def used() -> int:
        os.sync()
        state = os.statvfs(reflinks)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    there, watcher, wire = tmp_path / "disk-flat.vmdk", Watcher(), Wire(session)
    disk(there)
    in_bursts(there)
    names = [reflinks / number / "scsi0-0-flat.vmdk" for number in ("r1", "r2", "r3")]
    for name in names:
        name.parent.mkdir()
    overwire.bring(source(there), wire, str(names[0]), None, "none", False, watcher.reach(session))
    before, was = used(), there.read_bytes()
    same = overwire.bring(source(there), wire, str(names[1]), str(names[0]), "none", False, watcher.reach(session))
    assert (same.begun, same.copied.literal) == ("reflink", 0)
    assert used() - before < (256 << 10)
    # What the guest has let go of is a hole again, and what it has written is new.
    with there.open("r+b") as file:
        file.seek(HELD)
        file.write(bytes(1 << 20))
        file.seek(7 << 20)
        file.write(random.Random(9).randbytes(1 << 20))
    before = used()
    overwire.bring(source(there), wire, str(names[2]), str(names[1]), "none", False, watcher.reach(session))
    assert (1 << 20) <= used() - before < (1 << 20) + (512 << 10)
    assert names[2].read_bytes() == there.read_bytes() and names[0].read_bytes() == names[1].read_bytes() == was
    with names[2].open("rb") as image:
        assert os.lseek(image.fileno(), HELD, os.SEEK_DATA) == HELD + (1 << 20)


def test_where_much_was_let_go_of_its_zeros_take_no_room_meanwhile() -> None:
    gib = 1 << 30
    assert rsync.sparsely("new", 0, gib) and rsync.sparsely("former", 0, gib)
    assert not rsync.sparsely("reflink", gib, gib) and not rsync.sparsely("half copy", gib // 2, gib)
    assert not rsync.sparsely("reflink", gib + (100 << 20), gib)
    assert rsync.sparsely("reflink", 2 * gib, gib) and rsync.sparsely("reflink", 65 << 20, 0)


def test_a_zero_that_was_none_is_found_by_the_proof_that_follows(
    session: OpenSshSession, reflinks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, watcher, wire = tmp_path / "disk-flat.vmdk", Watcher(), Wire(session)
    disk(there)
    first, second = (reflinks / number / "scsi0-0-flat.vmdk" for number in ("z1", "z2"))
    for path in (first, second):
        path.parent.mkdir()
    overwire.bring(source(there), wire, str(first), None, "none", False, watcher.reach(session))
    # As if a read had wrongly given zeros.
    monkeypatch.setattr(imagefile, "zeros_in", lambda _handle, _check: iter([(HELD, HELD + (64 << 10))]))
    with pytest.raises(RsyncDiffers):
        overwire.bring(source(there), wire, str(second), str(first), "full", False, watcher.reach(session))
    assert second.stat().st_mode & 0o200


def test_while_a_large_disk_is_summed_up_something_moves_and_nobody_takes_the_silence_for_a_dead_line(
    session: OpenSshSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, image, size = tmp_path / "disk-flat.vmdk", tmp_path / "image", 2 << 30
    for path, seed in ((there, 1), (image, 2)):
        path.write_bytes(random.Random(seed).randbytes(1 << 20))
        os.truncate(path, size)
    one = Rsync(File(str(there), session), File(str(image)))
    seen, over = set(), threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            if one.done == 0:
                seen.add(one.moved)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert one.copy(Wish()).literal >= 1 << 20
    finally:
        over.set()
        looking.join()
    assert len(seen) > 5
    # What rsync itself does when it hears nothing for so long: a fast machine sums up 2 GiB of holes in a second.
    size *= 2
    for path in (there, image):
        os.truncate(path, size)
    with pytest.raises(RsyncFailed) as told:
        one.differs(quiet_seconds=1)
    assert told.value.data["rc"] == 30
    monkeypatch.setattr(rsync, "TIMEOUT_SECONDS", 1)
    moving = overwire.Moving(one.source, one.target, Wish(), "scsi0:0", size, Watcher().reach(session))
    assert "--checksum" in moving.verified("full")


def test_a_connection_that_breaks_is_made_again_and_the_copy_gone_on_with(
    session: OpenSshSession, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overwire, "_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)
    there, watcher = tmp_path / "disk-flat.vmdk", Watcher()
    data = disk(there)
    image = tmp_path / "image"

    def cut() -> None:
        while not image.exists() or image.stat().st_blocks < 2048:
            time.sleep(0.02)
        server.cut()

    cutter = threading.Thread(target=cut, daemon=True)
    cutter.start()
    one = overwire.bring(source(there), Wire(session), str(image), None, "none", False, watcher.reach(session, 1 << 20))
    cutter.join()
    assert one.retries == 1 and image.read_bytes() == data
    # What had arrived did not travel again.
    assert one.copied.literal < HELD - (512 << 10)
    assert any(0 < news.done_bytes < SIZE for news in watcher.progress)


def test_a_copy_that_must_end_ends_on_both_sides_and_stays_as_a_half_one(
    session: OpenSshSession, tmp_path: Path
) -> None:
    there, watcher = tmp_path / "unique-disk-flat.vmdk", Watcher()
    disk(there)
    timer = threading.Timer(1.5, lambda: setattr(watcher, "stop", True))
    timer.start()
    with pytest.raises(RuntimeError, match="somebody has ended it"):
        reach = watcher.reach(session, 256 << 10)
        overwire.bring(source(there), Wire(session), str(tmp_path / "image"), None, "none", False, reach)
    assert (tmp_path / "image").stat().st_size == SIZE
    assert holders(there) == []


def holders(path: Path) -> list[int]:
    """Processes that have a file open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.path.realpath(handle) == str(path) for handle in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:
            continue
    return found


def test_what_rsync_says_is_told_with_the_way_out(session: OpenSshSession, tmp_path: Path) -> None:
    with pytest.raises(RsyncFailed, match="No such file") as caught:
        Rsync(File(str(tmp_path / "absent"), session), File(str(tmp_path / "image"))).copy(Wish())
    assert caught.value.data["rc"] == 23 and "stowage-rsync" not in caught.value.message


def test_an_rsync_that_cannot_be_used_is_told_and_no_error(session: OpenSshSession, tmp_path: Path) -> None:
    assert overwire.wire_to(session, "") == Wire()
    assert "nowhere/rsync" in overwire.wire_to(session, "/nowhere/rsync").why_not
    denied = tmp_path / "rsync"
    denied.write_text("#!/bin/sh\n")
    denied.chmod(0o644)
    assert "execInstalledOnly" in overwire.wire_to(session, str(denied)).why_not
    denied.write_text("#!/bin/sh\necho 'rsync  version 3.0.9  protocol version 30'\n")
    denied.chmod(0o755)
    assert "3.0.9, not 3.1.3 or later" in overwire.wire_to(session, str(denied)).why_not
    with pytest.raises(RsyncMissing, match="No such file"):
        rsync.must_serve(None, "/nowhere/rsync")
    assert rsync.must_serve().count(".") == 2


def test_a_file_that_is_another_by_now_differs(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"1" * 5000)
    other.write_bytes(b"1" * 5000)
    os.utime(other, (time.time() - 1000, time.time() - 1000))
    assert Rsync(File(str(one)), File(str(other))).differs() == ""
    other.write_bytes(b"1" * 4999 + b"2")
    os.utime(other, (one.stat().st_atime, one.stat().st_mtime))
    assert Rsync(File(str(one)), File(str(other))).differs() != ""


def test_the_way_to_the_other_end_is_one_word_for_each_of_its_words() -> None:
    assert rsh(["ssh", "-o", "Proxy=sh -c 'a \"b\"'", "-p", "22"]) == 'ssh -o "Proxy=sh -c \'a ""b""\'" -p 22'
