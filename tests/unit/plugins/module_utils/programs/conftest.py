# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A shell like the hypervisor's (busybox ash with its own applets) with a clone command that a test can steer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

APPLETS = (
    "sh cat cp dd grep kill mkdir mv nohup printf rm rmdir setsid sleep stat touch tr true wc which test tail ls df awk"
    " hexdump head sha256sum"
)

# Test double of `vmkfstools -i SRC -d FORMAT DST`: real files, real I/O, the real output; steered by files beside it:
# steps (how many seconds), fail (text of an error at half way), deaf (ignores TERM), race (somebody else's target
# appears), whole (the extent gets its full size), liar (ends well at half way), short (half the extent), delta,
# smaller (another disk than the source), inconsistent (-e says so), other (a byte in the middle is another).
VMKFSTOOLS = r"""#!/bin/sh
here=${0%/*}
if [ "$1" = -e ]; then
    if [ -e "$here/inconsistent" ]; then echo 'Disk chain is not consistent : (18)'; exit 1; fi
    echo 'Disk chain is consistent.'
    exit 0
fi
source=$2 format=$4 target=$5
[ -e "$here/deaf" ] && trap '' TERM
printf '%s\n' "$*" >>"$here/calls"
case $format in
thin) echo 'Destination disk format: VMFS thin-provisioned' ;;
*) echo "Destination disk format: VMFS $format" ;;
esac
echo "Cloning disk '$source'..."
if [ -e "$here/race" ]; then : >"$target"; fi
if [ -e "$target" ]; then echo 'Failed to clone disk: The file already exists (39).' >&2; exit 39; fi
if [ ! -f "$source" ]; then
    echo 'DiskLib_Check() failed for source disk The system cannot find the file specified (25).' >&2
    exit 25
fi
flat=${target%.vmdk}-flat.vmdk
: >"$flat" || exit 1
from=${source##*/} to=${target##*/} sectors=2048 parent=ffffffff
[ -e "$here/smaller" ] && sectors=1024
[ -e "$here/delta" ] && parent=00000001
while IFS= read -r line; do
    case $line in
    'RW '*) printf 'RW %s VMFS "%s"\n' "$sectors" "${to%.vmdk}-flat.vmdk" ;;
    'parentCID='*) printf 'parentCID=%s\n' "$parent" ;;
    *) printf '%s\n' "$line" ;;
    esac
done <"$source" >"$target"
steps=$(cat "$here/steps" 2>/dev/null || echo 1)
i=0
while [ "$i" -lt "$steps" ]; do
    printf '\rClone: %d%% done.' $((i * 100 / steps))
    dd if=/dev/zero bs=1024 count=64 2>/dev/null >>"$flat" || {
        echo 'Failed to clone disk: There is not enough space on the file system for the selected operation (13).' >&2
        exit 13
    }
    if [ -e "$here/fail" ] && [ "$i" -ge $((steps / 2)) ]; then cat "$here/fail" >&2; exit 1; fi
    if [ -e "$here/liar" ]; then exit 0; fi
    sleep 1
    i=$((i + 1))
done
[ -e "$here/whole" ] && dd if=/dev/zero bs=1024 count=1024 2>/dev/null >"$flat"
[ -e "$here/other" ] && printf x | dd of="$flat" bs=1 seek=700000 conv=notrunc 2>/dev/null
[ -e "$here/short" ] && dd if=/dev/zero bs=1024 count=512 2>/dev/null >"$flat"
printf '\rClone: 100%% done.\n'
"""

# The columns of ESXi's `ps -c`, from the machine's own table.
PS = ("/bin/ps -c", "/bin/ps -eo pid,pid,comm,args")

DESCRIPTOR = """# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
createType="vmfs"

# Extent description
RW 2048 VMFS "{name}-flat.vmdk"

# The Disk Data Base 
#DDB

ddb.adapterType = "lsilogic"
"""  # noqa: W291


class HostShell:
    """Runs texts as the hypervisor's shell would; knows its own processes, and ends them with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.volume = folder / "volume"
        self.bin.mkdir()
        self.volume.mkdir()
        busybox = shutil.which("busybox")
        assert busybox, "these tests need busybox"
        for applet in APPLETS.split():
            (self.bin / applet).symlink_to(busybox)
        (self.bin / "vmkfstools").write_text(VMKFSTOOLS)
        (self.bin / "vmkfstools").chmod(0o755)
        self.pids: list[int] = []

    def run(self, text: str, *args: str, timeout: float = 60) -> str:
        # In the same wrapping as Session.script.
        done = subprocess.run(
            ["sh", "-s", "--", *args],
            executable=str(self.bin / "sh"),
            input="{\n" + text.replace(*PS) + "\n} </dev/null\n",
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.stderr == "", done.stderr
        return done.stdout

    def steer(self, name: str, text: str = "") -> None:
        (self.bin / name).write_text(text)

    def source(self, name: str = "web01") -> Path:
        path = self.volume / f"{name}.vmdk"
        path.write_text(DESCRIPTOR.format(name=name))
        (self.volume / f"{name}-flat.vmdk").write_bytes(b"\0" * (1 << 20))
        return path

    def clones(self) -> list[str]:
        """The targets of the clones of this test that are running."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    argv = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if str(self.bin / "vmkfstools").encode() in argv:
                    found.append(argv[-2].decode())
        return found

    def until(self, probe, what: str, limit: float = 40):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            value = probe()
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(f"never: {what}")

    def listing(self) -> list[str]:
        return sorted(str(path.relative_to(self.volume)) for path in self.volume.rglob("*"))

    def end(self) -> None:
        for pid in self.pids:
            for number in (pid, -pid):
                try:
                    os.kill(number, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue


@pytest.fixture
def host_shell(tmp_path):
    shell = HostShell(tmp_path)
    yield shell
    shell.end()


@pytest.fixture(scope="session")
def reflinks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that can share blocks, where one can be made here."""
    if not shutil.which("mkfs.xfs") or os.geteuid() != 0:
        pytest.skip("no mkfs.xfs, or nobody who may mount: no file system with reflinks can be made here")
    base = tmp_path_factory.mktemp("xfs")
    with (base / "image").open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(base / "image")], check=True)
    place = base / "mounted"
    place.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", str(base / "image"), str(place)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no loop device can be had here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(params=["plain", "reflinks"])
def folder(request: Any, tmp_path: Path) -> Path:
    if request.param == "plain":
        return tmp_path
    made = request.getfixturevalue("reflinks") / tmp_path.name
    made.mkdir()
    return made
