# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outside judge: looks at a lab with tools that are not ours (qemu-img, e2fsck, the hypervisor's own commands).

Nothing in here uses the collection. What it reads of a lab it reads on this machine, below the lab's volumes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "lab"))

from esxilab import cli, faults  # noqa: E402  the lab's package lies beside its script
from esxilab.errors import LabError  # noqa: E402
from esxilab.hostroot import LabPaths  # noqa: E402

LAB = TESTS / "lab" / "lab"
GUESTCHECK = TESTS / "lab" / "guestcheck.py"
# Names that only we give: what of them is found after a run was left behind.
OURS = re.compile(r"^(\.stowage-job.*|\.partial-.*|.*\.stowage-tmp.*)$")


class Wrong(Exception):
    """A proof that did not hold; the text says what was found."""


def output(
    argv: Sequence[str | Path],
    *,
    good: tuple[int, ...] = (0,),
    seconds: float = 300,
    env: Mapping[str, str] | None = None,
) -> str:
    """What a command prints; Wrong when it ends otherwise than it should. `env`: what it is told beside ours."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    if done.returncode not in good:
        raise Wrong(f"{shlex.join(words)} ended with {done.returncode}: {(done.stderr + done.stdout).strip()[-800:]}")
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """What the hypervisor itself says of one VM."""

    power: str
    snapshots: str
    files: frozenset[str]


@dataclass
class Lab:
    """A running lab, seen from this machine."""

    folder: Path
    name: str

    def verb(self, *words: str, seconds: float = 300) -> str:
        name, rest = words[0], words[1:]
        return output([sys.executable, LAB, name, "--dir", self.folder, "--name", self.name, *rest], seconds=seconds)

    def ask(self, **request: Any) -> Any:
        """What a verb answers, asked without a new process."""
        try:
            return cli.ask(LabPaths(self.folder), **request)
        except LabError as error:
            raise Wrong(str(error)) from error

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask(verb="status")
        return answer

    def run(self, machine: str, *argv: str) -> str:
        """A command in a machine, each word as it is."""
        return output(self.ask(verb="exec", machine=machine, command=shlex.join(argv)))

    def fault(self, machine: str, kind: str, **arguments: Any) -> None:
        words = faults.parse_arguments([f"{key}={value}" for key, value in arguments.items()])
        self.ask(verb="fault", machine=machine, kind=kind, arguments=words)

    def host(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(entry for entry in self.status()["machines"] if entry["name"] == name)
        return found

    def outside(self, path: str) -> Path:
        """A path as a hypervisor names it, as this machine reads it."""
        match = re.fullmatch(r"/vmfs/volumes/([^/]+)(/.*)?", path)
        if not match:
            raise Wrong(f"{path} is not on a datastore")
        name, below = match.group(1), (match.group(2) or "/").lstrip("/")
        volumes = {name} if (self.folder / "volumes" / name).is_dir() else self._volumes(name)
        if len(volumes) != 1:
            raise Wrong(f"{len(volumes)} volumes are called {name}")
        return self.folder / "volumes" / volumes.pop() / below

    def _volumes(self, datastore: str) -> set[str]:
        found = {entry.get("datastores", {}).get(datastore) for entry in self.status()["machines"]}
        return {uuid for uuid in found if uuid and (self.folder / "volumes" / uuid).is_dir()}

    def occupied(self) -> int:
        """Bytes that all datastores hold."""
        return sum(entry["size"] - entry["free"] for entry in self.status()["volumes"])

    def settle(self, seconds: float = 90) -> None:
        """Wait until the guests have written their rings full: from then on their thin disks grow no more."""
        end, known = time.monotonic() + seconds, -1
        while known != (known := self.occupied()):
            if time.monotonic() > end:
                raise Wrong(f"the guests' disks still grow after {seconds:.0f} s")
            time.sleep(3)

    def machines(self, host: str) -> dict[str, Machine]:
        """Power state, snapshot tree and files of every VM, by name, from vim-cmd and the datastore."""
        found = {}
        for vm in self.host(host)["vms"]:
            power = self.run(host, "vim-cmd", "vmsvc/power.getstate", str(vm["vmid"])).strip().splitlines()[-1]
            tree = self.run(host, "vim-cmd", "vmsvc/snapshot.get", str(vm["vmid"]))
            found[vm["name"]] = Machine(power, tree, disk_files(self.outside(str(vm["vmx"])).parent))
        return found

    def left_behind(self, host: str) -> list[str]:
        """Files and processes that only we make."""
        found = []
        for volume in sorted((self.folder / "volumes").iterdir()):
            found += [str(path.relative_to(volume)) for path in volume.rglob("*") if OURS.match(path.name)]
        listing = self.run(host, "ps", "-c")
        found += [line.strip() for line in listing.splitlines() if "vmkfstools" in line or "stowage" in line]
        return found


def disk_files(folder: Path) -> frozenset[str]:
    """The files that make up a VM, without logs, swap and lock files, which come and go by themselves."""
    passing = re.compile(r".*\.(log|vswp|lck)(~)?$|.*~$")
    return frozenset(path.name for path in folder.iterdir() if not passing.match(path.name))


def raw_copy(descriptor: Path, target: Path) -> Path:
    """The whole disk as a plain file, read by qemu-img."""
    output(["qemu-img", "convert", "-O", "raw", descriptor, target])
    return target


def same_content(one: Path, other: Path) -> str:
    """qemu-img's own verdict that two disks hold the same bytes."""
    return output(["qemu-img", "compare", one, other]).strip()


def out_of_borg(archive: str, member: str, work: Path, secret: str) -> Path:
    """One disk of an archive, by borg alone. `archive`: `PATH::NAME`, the repository by its path on this machine."""
    settings = {
        "BORG_BASE_DIR": str(work / "base"),
        "BORG_PASSPHRASE": secret,
        # Whoever made it may know it by another path.
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    # It has no option for where to.
    argv = ["sh", "-c", 'cd "$1" && exec borg extract --sparse "$2" "$3"', "sh", work, archive, member]
    output(argv, seconds=900, env=settings)
    return work / member


def out_of_store(store: Path, point: str, disk: str, target: Path, secret: str = "") -> Path:
    """One disk of a store, by the reader that lies in each: one file, which knows nothing of the program."""
    argv = [sys.executable, store / "reader.py", store, point, disk, target]
    output(argv, seconds=900, env={"STOWAGE_PASSPHRASE": secret} if secret else None)
    return target


def file_system_is_clean(raw: Path) -> str:
    """e2fsck over the first partition, read-only; its last line."""
    table = json.loads(output(["sfdisk", "--json", raw]))["partitiontable"]
    start = int(table["partitions"][0]["start"]) * int(table.get("sectorsize", 512))
    return output(["e2fsck", "-fn", f"{raw}?offset={start}"]).strip().splitlines()[-1]


def one_moment(raws: Sequence[Path]) -> dict[str, Any]:
    """The guest writer's own checker: do these disks hold one single moment?"""
    verdict: dict[str, Any] = json.loads(output([sys.executable, GUESTCHECK, "--json", *raws], good=(0, 1, 2)))
    if not verdict.get("consistent"):
        raise Wrong(f"these disks do not hold one moment: {verdict.get('problems') or verdict.get('error')}")
    return verdict


@dataclass(frozen=True)
class RestorePoint:
    """One committed restore point, read from its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def disks(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.vmdk") if not re.search(r"-(flat|s\d{3})\.vmdk$", path.name))


def restore_points(point: Path) -> list[RestorePoint]:
    """All restore points below a backup point, oldest first."""
    manifests = sorted(point.glob("*/*/stowage.json"), key=lambda path: path.parent.name)
    return [
        RestorePoint(path.parent, json.loads(path.read_text(encoding="utf-8")))
        for path in manifests
        if not path.parent.name.startswith(".")
    ]


def prove_disks(descriptors: Sequence[Path], work: Path, *, booted: bool = True) -> str:
    """Every disk extracted by qemu-img, its file system checked, and all of them one moment; in words what was found.

    A machine that never ran has nothing of its guest's writer to check: `booted=False`.
    """
    work.mkdir(parents=True, exist_ok=True)
    raws = [raw_copy(path, work / f"{number}.raw") for number, path in enumerate(descriptors)]
    try:
        for raw in raws:
            file_system_is_clean(raw)
        if not booted:
            return f"{len(raws)} disk(s): file system clean"
        verdict = one_moment(raws)
    finally:
        for raw in raws:
            raw.unlink(missing_ok=True)
    kind = "clean shutdown" if verdict.get("clean") else "quiesced" if verdict.get("quiesced") else "crash-consistent"
    return f"{len(raws)} disk(s): file system clean, one moment (write {verdict['sequence']}), {kind}"
