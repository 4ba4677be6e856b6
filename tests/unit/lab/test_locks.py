# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's file locks hold for every program, by the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from esxilab import locks
from esxilab.locks import LockTable

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
BUSY = "Device or resource busy"


@pytest.fixture
def table() -> Iterator[LockTable]:
    if os.geteuid() != 0:
        pytest.skip("fanotify permission events need root")
    with LockTable() as made:
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "web-flat.vmdk").write_bytes(b"content\n")
    return tmp_path / "web-flat.vmdk"


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, timeout=60, **options
    )  # type: ignore[call-overload, no-any-return]


def cat(path: Path) -> subprocess.CompletedProcess[str]:
    return run(BUSYBOX, "cat", path)


def in_bwrap(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A shell in namespaces of its own that sees the folder under another path, as a lab host does."""
    words = ["bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]
    words += ["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--unshare-pid"]
    return run(*words, "--bind", folder, "/vmfs", BUSYBOX, "sh", "-c", script)


def test_an_exclusive_lock_stops_static_and_dynamic_programs_and_not_the_lab(table: LockTable, target: Path) -> None:
    assert cat(target).stdout == "content\n"
    table.lock(str(target))
    for done in (
        cat(target),
        run("cat", target),
        run("dd", f"if={target}"),
        run(sys.executable, "-c", f"open({str(target)!r})"),
    ):
        assert done.returncode != 0 and BUSY in done.stderr
    assert target.read_bytes() == b"content\n"
    table.unlock(str(target))
    assert cat(target).stdout == "content\n"


def test_the_answer_is_ebusy(table: LockTable, target: Path) -> None:
    table.lock(str(target))
    done = run(
        sys.executable, "-c", f"import os\ntry: os.open({str(target)!r}, 0)\nexcept OSError as e: print(e.errno)"
    )
    assert int(done.stdout) == (errno.EBUSY if table.busy_errno else errno.EPERM)
    assert ("EBUSY" in table.status) == table.busy_errno


def test_a_lock_holds_in_other_namespaces_and_under_other_paths(table: LockTable, target: Path) -> None:
    table.lock(str(target))
    done = in_bwrap(target.parent, "cat /vmfs/web-flat.vmdk")
    assert done.returncode != 0 and BUSY in done.stderr
    os.link(target, target.with_name("other-name"))
    assert BUSY in cat(target.with_name("other-name")).stderr


def test_a_shared_lock_lets_readers_in_and_writers_not(table: LockTable, target: Path) -> None:
    table.lock(str(target), mode=2, readable=True)
    assert cat(target).stdout == "content\n"
    for done in (
        run(BUSYBOX, "sh", "-c", f"echo x >> {target}"),
        run(BUSYBOX, "sh", "-c", f": > {target}"),
        run("dd", "if=/dev/null", f"of={target}", "conv=notrunc"),
        run(sys.executable, "-c", f"open({str(target)!r}, 'r+b')"),
        in_bwrap(target.parent, "echo x >> /vmfs/web-flat.vmdk"),
    ):
        assert done.returncode != 0 and BUSY in done.stderr, done
    assert target.read_bytes() == b"content\n"


def test_a_shared_lock_that_is_not_readable_stops_readers_too(table: LockTable, target: Path) -> None:
    table.lock(str(target), mode=2, readable=False)
    assert BUSY in cat(target).stderr
    table.lock(str(target), mode=2, readable=True)
    assert cat(target).returncode == 0
    table.lock(str(target), mode=1)
    assert BUSY in cat(target).stderr


def test_another_owner_cannot_take_what_is_locked_but_may_share(table: LockTable, target: Path) -> None:
    table.lock(str(target), owner="esx1")
    for mode in (1, 2):
        with pytest.raises(OSError, match="esx1") as caught:
            table.lock(str(target), mode=mode, owner="esx2")
        assert caught.value.errno == errno.EBUSY
    table.lock(str(target), mode=2, readable=True, owner="esx1")
    table.lock(str(target), mode=2, readable=True, owner="esx2")
    found = table.state(str(target))
    assert found is not None and found.owners == ("esx1", "esx2")
    with pytest.raises(OSError, match="esx2"):
        table.lock(str(target), mode=1, owner="esx1")
    table.unlock(str(target), owner="esx2")
    table.lock(str(target), mode=1, owner="esx1")
    table.unlock(str(target))
    assert table.state(str(target)) is None and cat(target).returncode == 0


def test_a_grant_is_for_one_process_and_its_files_and_ends_with_it(table: LockTable, target: Path) -> None:
    other = target.with_name("other-flat.vmdk")
    other.write_bytes(b"other\n")
    for path in (target, other):
        table.lock(str(path))
    # The shell waits, gets its grant, and becomes the reader: one pid, as vmkfstools is one process.
    script = 'read go; exec 2>&1; "$0" cat "$1"; exec "$0" cat "$1" "$2"'
    reader = subprocess.Popen(
        [BUSYBOX, "sh", "-c", script, BUSYBOX, target, other], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    table.grant(reader.pid, [str(target)])
    assert table.granted(str(target)) == [reader.pid] and table.granted(str(other)) == []
    out, _ = reader.communicate("go\n")
    lines = out.splitlines()
    assert BUSY in lines[0]  # the shell's child is another process
    assert lines[1] == "content"
    assert BUSY in lines[2] and len(lines) == 3
    assert table.granted(str(target)) == []
    assert BUSY in cat(target).stderr
    with pytest.raises(ProcessLookupError):
        table.grant(reader.pid, [str(target)])


def test_a_revoked_grant_is_over(table: LockTable, target: Path) -> None:
    table.lock(str(target))
    reader = subprocess.Popen(
        [BUSYBOX, "sh", "-c", 'read go; exec "$0" cat "$1" 2>&1', BUSYBOX, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    table.grant(reader.pid, [str(target)])
    table.revoke(reader.pid)
    assert BUSY in reader.communicate("go\n")[0]


def test_holders_are_found_in_other_namespaces(table: LockTable, target: Path) -> None:
    assert table.holders(str(target)) == []
    with open(target, "rb"):
        assert table.holders(str(target)) == []
        assert table.holders(str(target), own=True) == [os.getpid()]
        words = ["bwrap", "--dev-bind", "/", "/", "--bind", target.parent, "/mnt", "--unshare-pid", "--proc", "/proc"]
        reader = subprocess.Popen(
            [*map(str, words), BUSYBOX, "sh", "-c", "exec 5</mnt/web-flat.vmdk; echo open; read go; exec 5<&-; echo x"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout is not None and reader.stdout.readline() == "open\n"
        found = table.holders(str(target))
        assert len(found) == 1 and found[0] not in (os.getpid(), reader.pid)
        reader.communicate("go\n")
        assert table.holders(str(target)) == []


def test_an_open_from_before_the_lock_stays_open(table: LockTable, target: Path) -> None:
    reader = subprocess.Popen(
        [BUSYBOX, "sh", "-c", 'exec 5<"$0"; echo open; read go; cat <&5', target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None and reader.stdout.readline() == "open\n"
    table.lock(str(target))
    assert table.holders(str(target)) == [reader.pid]
    assert reader.communicate("go\n")[0] == "content\n"


def test_a_lock_follows_a_renamed_file(table: LockTable, target: Path) -> None:
    table.lock(str(target))
    moved = target.with_name("moved-flat.vmdk")
    target.rename(moved)
    table.moved(str(target), str(moved))
    target.write_bytes(b"new\n")
    assert BUSY in cat(moved).stderr
    assert cat(target).stdout == "new\n"
    table.unlock(str(moved))
    assert cat(moved).returncode == 0


def test_a_file_deleted_under_its_lock_does_not_lock_its_successor(table: LockTable, target: Path) -> None:
    table.lock(str(target))
    target.unlink()
    target.write_bytes(b"new\n")
    table.unlock(str(target))
    assert cat(target).stdout == "new\n"
    table.lock(str(target))
    assert BUSY in cat(target).stderr


def test_closing_the_table_ends_all_locks(target: Path, table: LockTable) -> None:
    second = LockTable()
    second.lock(str(target))
    assert BUSY in cat(target).stderr
    second.close()
    second.close()
    assert cat(target).returncode == 0
    assert second.status == "closed"


def test_many_opens_at_once_are_all_answered(table: LockTable, tmp_path: Path) -> None:
    paths = []
    for number in range(40):
        path = tmp_path / f"d{number}-flat.vmdk"
        path.write_bytes(b"x")
        paths.append(path)
        if number % 2:
            table.lock(str(path))
    script = 'for i in 1 2 3; do for f; do "$B" cat "$f" >/dev/null 2>&1 && echo "$f"; done; done'
    shells = [
        subprocess.Popen(
            [BUSYBOX, "sh", "-c", script, "sh", *paths], stdout=subprocess.PIPE, text=True, env={"B": BUSYBOX}
        )
        for _ in range(4)
    ]
    readable = sorted([str(path) for path in paths[::2]] * 3)
    for shell in shells:
        assert sorted(shell.communicate(timeout=120)[0].split()) == readable
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        cat(paths[1])
    assert len(os.listdir("/proc/self/fd")) == before


# execInstalledOnly


@pytest.fixture
def datastore(volume: Callable[[int], Path]) -> Path:
    folder = volume(16)
    shutil.copy(BUSYBOX, folder / "busybox")
    for name, text in (("shebang.sh", "#!/bin/sh\necho shebang\n"), ("plain.sh", "echo plain\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def test_a_program_on_a_guarded_datastore_is_not_executed_even_through_a_bind_mount(
    table: LockTable, datastore: Path
) -> None:
    assert in_bwrap(datastore, "/vmfs/busybox echo ran").stdout == "ran\n"
    table.exec_guard(str(datastore))
    for script in ("/vmfs/busybox echo ran", "cd /vmfs; ./busybox echo ran", "/vmfs/plain.sh"):
        done = in_bwrap(datastore, script)
        assert (done.returncode, done.stdout) == (126, "")
        assert "Operation not permitted" in done.stderr
    assert "Operation not permitted" in run("sh", "-c", f"{datastore}/busybox echo ran").stderr
    table.exec_unguard(str(datastore))
    assert in_bwrap(datastore, "/vmfs/busybox echo ran").stdout == "ran\n"


def test_scripts_run_on_a_guarded_datastore_through_an_installed_shell(table: LockTable, datastore: Path) -> None:
    table.exec_guard(str(datastore))
    assert in_bwrap(datastore, "/vmfs/shebang.sh").stdout == "shebang\n"
    assert in_bwrap(datastore, "sh /vmfs/plain.sh").stdout == "plain\n"
    assert in_bwrap(datastore, "cat /vmfs/plain.sh").stdout == "echo plain\n"
    # A script whose interpreter lies on the datastore gets no further than the interpreter.
    (datastore / "own.sh").write_text("#!/vmfs/busybox sh\necho own\n")
    (datastore / "own.sh").chmod(0o755)
    assert in_bwrap(datastore, "/vmfs/own.sh").returncode == 126


def test_a_guard_can_be_for_some_processes_only(table: LockTable, datastore: Path) -> None:
    asked: list[int] = []

    def applies(pid: int) -> bool:
        asked.append(pid)
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
        return True

    table.exec_guard(str(datastore), applies)
    assert run("sh", "-c", f"{datastore}/busybox echo ran").stdout == "ran\n"
    assert in_bwrap(datastore, "/vmfs/busybox echo ran").returncode == 126
    assert len(asked) == 2


def test_a_folder_of_the_machines_own_file_system_is_not_guarded(table: LockTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a mount point"):
        table.exec_guard(str(tmp_path))


def test_a_locked_file_on_a_guarded_datastore_can_be_run_by_nobody_and_read_by_its_grant(
    table: LockTable, datastore: Path
) -> None:
    table.exec_guard(str(datastore))
    table.lock(str(datastore / "busybox"), mode=2, readable=True)
    assert in_bwrap(datastore, "cat /vmfs/busybox | wc -c").stdout.strip() == str(
        (datastore / "busybox").stat().st_size
    )
    assert in_bwrap(datastore, "/vmfs/busybox echo ran").returncode == 126


def test_the_start_time_tells_a_process_from_a_later_one_with_its_number() -> None:
    assert locks.start_time(os.getpid()) == locks.start_time(os.getpid())
    child = subprocess.Popen([BUSYBOX, "sh", "-c", "read go"], stdin=subprocess.PIPE)
    assert locks.start_time(child.pid) is not None
    child.communicate(b"go\n")
    assert locks.start_time(child.pid) is None
