# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's host with the benchmark's disks in it, and how it is reached."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import measure
from measure import STEP, Failed

LAB = Path(__file__).resolve().parents[1] / "lab" / "lab"
sys.path.insert(0, str(LAB.parent))

from esxilab import disks as esx  # noqa: E402  the lab's package lies beside its script

HOST = "esx"
PORT_BEHIND = 20000
"""The host's sshd itself listens so much above the port of the lab's wire."""
_PUNCH = 3
_UNIT = 1 << 16
_GRAIN = 4096
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


class Image:
    """A file that holds a disk as it was on one of its days, and is put from one to the other."""

    def __init__(self, path: Path, days: Sequence[str]) -> None:
        self.path, self._days = path, [Path(day) for day in days]
        self._day = 0
        self._areas: list[tuple[int, int]] | None = None

    def fill(self) -> None:
        """The first day, in place of whatever is in a file of the disk's length."""
        with open(self._days[0], "rb", buffering=0) as source, open(self.path, "r+b", buffering=0) as target:
            if os.fstat(target.fileno()).st_size != os.fstat(source.fileno()).st_size:
                raise Failed(f"{self.path} has another size than {self._days[0]}")
            os.truncate(self.path, 0)
            os.truncate(self.path, os.fstat(source.fileno()).st_size)
            for begin, end in measure.data_extents(str(self._days[0])):
                for at in range(begin, end, STEP):
                    _put(target.fileno(), os.pread(source.fileno(), min(STEP, end - at), at), at)
        self._day = 0

    def on(self, day: int) -> None:
        """As it was on that day: 1, 2."""
        if day - 1 == self._day:
            return
        if self._areas is None:
            self._areas = measure.differences(str(self._days[0]), str(self._days[1]), _UNIT)
        with open(self._days[day - 1], "rb", buffering=0) as source, open(self.path, "r+b", buffering=0) as target:
            for begin, length in self._areas:
                for at in range(begin, begin + length, STEP):
                    _put(target.fileno(), os.pread(source.fileno(), min(STEP, begin + length - at), at), at)
        self._day = day - 1

    def is_on(self, day: int) -> None:
        """Somebody else has put it there: proven, or `Failed`."""
        measure.same(str(self._days[day - 1]), str(self.path))
        self._day = day - 1

    @property
    def allocated(self) -> int:
        return os.stat(self.path).st_blocks * 512


def _put(handle: int, data: bytes, at: int) -> None:
    """Zeros become holes, unit by unit."""
    for place in range(0, len(data), _UNIT):
        part = data[place : place + _UNIT]
        if part.count(0) == len(part):
            if _LIBC.fallocate(handle, _PUNCH, at + place, len(part)):
                raise Failed(f"a hole cannot be made: {os.strerror(ctypes.get_errno())}")
        else:
            os.pwrite(handle, part, at + place)


@dataclass(frozen=True)
class Reach:
    """Where the host is for one regime."""

    address: str
    port: int
    key: Path
    known_hosts: Path

    def ssh(self) -> list[str]:
        """The peers' ssh: the cipher that is fastest here, as ours."""
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "none",
            "Ciphers": "aes128-gcm@openssh.com",
            "Compression": "no",
            "Port": str(self.port),
        }
        return ["ssh", "-F", "none", "-i", str(self.key), *(f"-o{name}={value}" for name, value in options.items())]

    @property
    def target(self) -> str:
        return f"root@{self.address}"

    def words(self) -> list[str]:
        """For our own program."""
        return ["--host", self.address, "--port", str(self.port), "--key", str(self.key)] + [
            "--known-hosts",
            str(self.known_hosts),
        ]


class WireLab:
    """One host with one datastore and one VM that is off, its disks empty as yet."""

    def __init__(self, folder: Path, name: str, base: str, sizes: Sequence[int], room: int) -> None:
        self.folder, self._name, self._base = folder, name, base
        self._sizes, self._room = sizes, room
        self.place = Path(f"/tmp/stowage-lab-{name}")

    def __enter__(self) -> WireLab:
        disks = [
            {"key": f"scsi0:{number}", "size": str(size), "format": "thin", "fill": "0"}
            for number, size in enumerate(self._sizes)
        ]
        host = {
            "name": HOST,
            "profile": "7.0",
            "login": "key",
            "datastores": [{"name": "ds1", "type": "vmfs6", "size": str(self._room)}],
            "vms": [{"name": "machine", "dir": "machine", "power": "off", "disks": disks}],
        }
        topology = self.folder / "topology.json"
        topology.write_text(json.dumps({"hosts": [host]}))
        self._lab("up", "--topology", str(topology), "--base-address", self._base)
        told = json.loads(self._lab("status"))["machines"][0]
        self.pid: int = told["pid"]
        self._address, self._port = told["address"], told["port"]
        self.uuid: str = told["datastores"]["ds1"]
        self.volume = self.place / "volumes" / self.uuid
        return self

    def __exit__(self, *_error: object) -> None:
        self._lab("down")

    def _lab(self, verb: str, *words: str) -> str:
        command = [sys.executable, str(LAB), verb, "--name", self._name, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"lab {verb} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def fault(self, *words: str) -> None:
        self._lab("fault", HOST, *words)

    # -- its disks -----------------------------------------------------------------------------------------------

    def flat(self, number: int) -> Path:
        """A disk's extent, as this machine sees it."""
        return self.volume / "machine" / f"{self._stem(number)}-flat.vmdk"

    def inside(self, path: Path) -> str:
        """The same file, as the host names it."""
        return f"/vmfs/volumes/{self.uuid}/{path.relative_to(self.volume)}"

    def descriptor(self, number: int) -> str:
        return f"/vmfs/volumes/{self.uuid}/machine/{self._stem(number)}.vmdk"

    def delta(self, number: int) -> str:
        """The descriptor of a snapshot's delta above a disk, once there is one."""
        return f"/vmfs/volumes/{self.uuid}/machine/{self._stem(number)}-000001.vmdk"

    def make_delta(self, number: int, before: str, after: str) -> None:
        """A snapshot's delta above a disk that is as `before`, which makes it as `after`: what a guest has written."""
        folder = self.volume / "machine"
        child = str(folder / f"{self._stem(number)}-000001.vmdk")
        esx.create_delta(str(folder / f"{self._stem(number)}.vmdk"), child, "sesparse")
        with esx.open_chain(child, writable=True) as disk, open(after, "rb", buffering=0) as source:
            for begin, length in measure.differences(before, after, _GRAIN):
                for at in range(begin, begin + length, STEP):
                    disk.write(at, os.pread(source.fileno(), min(STEP, begin + length - at), at))

    @staticmethod
    def _stem(number: int) -> str:
        return f"machine_{number}" if number else "machine"

    # -- its ways in ---------------------------------------------------------------------------------------------

    def past_the_wire(self) -> Reach:
        """Its sshd, without the process that plays a slow wire: that one would be what is measured."""
        return self.reach(self._address, self._port + PORT_BEHIND)

    def by_the_wire(self) -> Reach:
        return self.reach(self._address, self._port)

    def reach(self, address: str, port: int) -> Reach:
        """The host under any address: its key is the same."""
        keys = [line.split(maxsplit=1)[1] for line in (self.place / "known_hosts").read_text().splitlines() if line]
        known = self.folder / f"known_hosts.{address}.{port}"
        known.write_text("".join(f"[{address}]:{port} {key}\n" for key in dict.fromkeys(keys)))
        return Reach(address, port, self.place / "keys" / "id_rsa", known)
