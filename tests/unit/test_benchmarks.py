# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks' own tools: what they measure is there, and without a peer there is no figure."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import disks  # noqa: E402
import measure  # noqa: E402
import peers  # noqa: E402
import programs  # noqa: E402
import wirelab  # noqa: E402
import wireshape  # noqa: E402


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is touched for the sake of time, which is no matter here; it is seconds of every command."""
    monkeypatch.setattr(measure, "TOUCHED", 0)


def test_the_memory_of_a_command_is_that_of_its_whole_tree() -> None:
    child = (
        "room = bytearray(60 << 20)\nfor at in range(0, len(room), 4096): room[at] = 1\nimport time; time.sleep(0.5)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = measure.run([sys.executable, "-c", parent])
    assert 60 < cost.memory < 120 and cost.wall > 0.5


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(measure.Failed, match="ended with 3: broken"):
        measure.run(["sh", "-c", "echo broken; exit 3"])


def test_without_a_peer_there_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cp").symlink_to(str(shutil.which("cp")))
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--small", "--data", str(tmp_path), "--pairs", "1", "verify"]
    environment = {"PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "borg is not installed" in done.stderr, done.stderr
    assert done.returncode == 2 and " x " not in done.stdout


def test_without_a_program_there_is_no_table_of_the_programs(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for needed in ("nsenter", "unshare", "ip", "tc", "borg"):
        (tmp_path / "bin" / needed).symlink_to("/bin/false")
    command = [sys.executable, str(BENCHMARKS / "programs.py"), "--small", "--data", str(tmp_path)]
    environment = {"PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "rsync is not installed" in done.stderr, done.stderr
    assert done.returncode == 2 and "|" not in done.stdout


def test_the_table_of_the_programs_has_seconds_wire_and_room_of_each_day() -> None:
    days = [programs.Figures(float(day), day << 20, 300 << 20, "", ()) for day in range(1, len(programs.DAYS) + 1)]
    head, line, row = programs.table({"borg": days}).splitlines()
    assert row == "| borg | 1.0 | 1.00 | 300 | 2.0 | 2.00 | 300 | 3.0 | 3.00 | 300 |"
    assert len({one.count("|") for one in (head, line, row)}) == 1


def test_how_much_of_a_disk_differs_is_told_for_pieces_of_each_size(tmp_path: Path) -> None:
    days = [tmp_path / "1.raw", tmp_path / "2.raw"]
    first = bytearray(os.urandom(2 << 20) + bytes(6 << 20))
    days[0].write_bytes(first)
    first[5000] ^= 1
    days[1].write_bytes(first)
    for day in days:
        # What a disk does not hold is no part of it.
        os.truncate(day, 2 << 20)
        os.truncate(day, 8 << 20)
    told = programs.changed([str(day) for day in days])
    assert told.startswith("2 MiB, ")
    assert told.endswith("0.2 % in pieces of 4 KiB, 3.1 % in pieces of 64 KiB, 50.0 % in pieces of 1 MiB")


def test_our_half_restores_what_it_has_backed_up(tmp_path: Path) -> None:
    disks.make(tmp_path, small=True)
    ours = peers.OursFast(tmp_path)
    ours.clear()
    for day in (1, 2):
        assert ours.backup(f"day{day}", disks.names(tmp_path, day)).memory < 100
    source, target = disks.names(tmp_path, 2)[1], str(tmp_path / "restored.raw")
    ours.restore("day2", source, target)
    assert subprocess.run(["cmp", source, target], check=False).returncode == 0
    ours.verify("--deep")


def test_an_image_goes_from_one_day_to_the_other_and_back(tmp_path: Path) -> None:
    days = [tmp_path / "1.raw", tmp_path / "2.raw"]
    first = bytearray(os.urandom(3 << 20) + bytes(5 << 20))
    second = bytes(1 << 20) + first[1 << 20 : 6 << 20] + os.urandom(2 << 20)
    days[0].write_bytes(first)
    days[1].write_bytes(second)
    image = wirelab.Image(tmp_path / "image.raw", [str(day) for day in days])
    image.path.write_bytes(os.urandom(8 << 20))
    image.fill()
    assert image.path.read_bytes() == first
    image.on(2)
    assert image.path.read_bytes() == second and image.allocated < 6 << 20
    image.on(1)
    assert image.path.read_bytes() == first
    with pytest.raises(measure.Failed):
        image.is_on(2)


def test_the_slow_line_is_slow_and_late_and_counts_what_it_carries() -> None:
    amount = 3 << 20
    with socket.create_server(("127.0.0.1", 0)) as server, wireshape.Line(50_000_000, 40, server.getsockname()) as line:
        script = (
            "import socket, time; begin = time.monotonic(); one = socket.create_connection(('10.66.0.1', 2222))\n"
            "one.sendall(b'go'); first = one.recv(1); late = time.monotonic() - begin; count = 1\n"
            "while True:\n    data = one.recv(65536)\n    count += len(data)\n    if not data: break\n"
            "print(late, time.monotonic() - begin, count)"
        )
        with subprocess.Popen([*line.words, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as client:
            with server.accept()[0] as one:
                assert one.recv(2) == b"go"
                one.sendall(bytes(amount))
            assert client.stdout is not None
            late, seconds, count = map(float, client.stdout.read().split())
        line.quiet()
        carried = line.carried()
    assert late >= 0.04 and seconds >= 0.9 * amount / line.rate
    assert int(count) == amount
    # The opening of a connection, and its end, count as a byte each.
    assert 2 <= carried.to_host <= 4 and amount <= carried.from_host <= amount + 2
