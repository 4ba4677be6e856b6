# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs that are measured, ours and the peers, with one set of acts: init, backup, restore, verify."""

from __future__ import annotations

import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import measure
from measure import Cost

CLI = "ansible_collections.stowage.esxi.plugins.module_utils.cli.main"
SECRET = {"STOWAGE_PASSPHRASE": "a benchmark", "BORG_PASSPHRASE": "a benchmark", "RESTIC_PASSWORD": "a benchmark"}


class Program(ABC):
    """One program, on one repository in `folder`."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder / re.sub(r"\W+", "-", self.name)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.init()

    def mebibytes(self) -> float:
        """What the repository takes on the disk."""
        kept = self.folder / "repository"
        files = [path for path in (kept if kept.exists() else self.folder).rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files) / (1 << 20)

    @abstractmethod
    def init(self) -> None: ...

    @abstractmethod
    def backup(self, point: str, disks: Sequence[str]) -> Cost: ...

    @abstractmethod
    def restore(self, point: str, disk: str, target: str) -> Cost: ...

    @abstractmethod
    def verify(self) -> Cost: ...


class Ours(Program):
    """This collection's store, by its command line."""

    name = "stowage"
    settings: tuple[str, ...] = ()

    def _run(self, act: str, *words: str) -> Cost:
        return self._reading((), act, *words)

    def _reading(self, reads: Sequence[str | Path], act: str, *words: str) -> Cost:
        command = [sys.executable, "-m", CLI, act, str(self.folder), "--quiet", *words]
        return measure.run(command, SECRET, reads=reads, writes=act != "verify")

    def init(self) -> None:
        self._run("create", *self.settings)

    def backup(self, point: str, disks: Sequence[str], *more: str) -> Cost:
        given = [word for path in disks for word in ("--disk", f"{key_of(path)}={path}")]
        return self._run("backup", "--machine", "machine", *given, *more)

    def changed(self, disks: Sequence[str], maps: Sequence[str]) -> Cost:
        """With a map of the changed areas of each disk since the latest restore point."""
        latest = max(path.stem for path in self.folder.glob("points/*/*.json"))
        given = [word for path, one in zip(disks, maps) for word in ("--changes", f"{key_of(path)}={one}")]
        return self.backup("", disks, "--parent", latest, *given)

    def restore(self, point: str, disk: str, target: str, *more: str) -> Cost:
        return self._reading((self.folder, target), "restore", "latest", "--disk", f"{key_of(disk)}={target}", *more)

    def verify(self, *more: str) -> Cost:
        return self._reading((self.folder,), "verify", *more)


class OursFast(Ours):
    name = "stowage fast"
    settings = ("--hash", "blake3", "--level", "-1")


class OursEncrypted(Ours):
    name = "stowage encrypted"
    settings = ("--encrypt",)


class Borg(Program):
    """With fixed chunks as large as ours: its fastest way with disks."""

    name = "borg"
    encryption = "none"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._env = {
            "BORG_BASE_DIR": str(self.folder / "base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            **SECRET,
        }
        self._repository = str(self.folder / "repository")

    def _run(self, *words: str) -> Cost:
        checks = words[0] == "check"
        return measure.run(
            [found("borg"), *words], self._env, reads=(self.folder,) if checks else (), writes=not checks
        )

    def init(self) -> None:
        self._run("init", "--encryption", self.encryption, self._repository)

    def backup(self, point: str, disks: Sequence[str]) -> Cost:
        options = ("--sparse", "--chunker-params", "fixed,1048576", "--compression", "lz4")
        return self._run("create", *options, f"{self._repository}::{point}", *disks)

    def restore(self, point: str, disk: str, target: str) -> Cost:
        folder = Path(target).with_suffix(".borg")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        script = 'cd "$1" && "$2" extract --sparse --strip-components "$5" "$3" "$4" && sync *'
        depth = str(len(Path(disk).parts) - 2)
        words = (str(folder), found("borg"), f"{self._repository}::{point}", disk.lstrip("/"), depth)
        cost = measure.run(["sh", "-c", script, "sh", *words], self._env, reads=(self.folder,))
        (folder / Path(disk).name).rename(target)
        return cost

    def verify(self) -> Cost:
        return self._run("check", "--verify-data", self._repository)

    def scrub(self) -> Cost:
        """Checksums of its segments, without decoding."""
        return self._run("check", "--repository-only", self._repository)


class BorgEncrypted(Borg):
    name = "borg encrypted"
    encryption = "repokey-blake2"


class Restic(Program):
    """As it comes."""

    name = "restic"
    options: tuple[str, ...] = ()

    def _run(self, *words: str) -> Cost:
        command = [found("restic"), "--no-cache", "--repo", str(self.folder / "repository"), *self.options, *words]
        checks = words[0] == "check"
        return measure.run(command, SECRET, reads=(self.folder,) if checks else (), writes=not checks)

    def init(self) -> None:
        self._run("init")

    def backup(self, point: str, disks: Sequence[str]) -> Cost:
        return self._run("backup", "--tag", point, *self._more(), *disks)

    def _more(self) -> tuple[str, ...]:
        return ()

    def restore(self, point: str, disk: str, target: str) -> Cost:
        folder = Path(target).with_suffix(".restic")
        shutil.rmtree(folder, ignore_errors=True)
        base = (found("restic"), "--no-cache", "--repo", str(self.folder / "repository"), "restore", "--sparse")
        words = ("--tag", point, "--include", disk, "--target", str(folder), "latest")
        script = 'f=$1; shift; "$@" && sync "$f"'
        made = folder / disk.lstrip("/")
        cost = measure.run(["sh", "-c", script, "sh", str(made), *base, *words], SECRET, reads=(self.folder,))
        made.rename(target)
        shutil.rmtree(folder)
        return cost

    def verify(self) -> Cost:
        return self._run("check", "--read-data")


class ResticFast(Restic):
    """Its fastest settings."""

    name = "restic fastest"
    options = ("--compression", "fastest", "--pack-size", "64")

    def _more(self) -> tuple[str, ...]:
        return ("--read-concurrency", "2", "--no-scan")


class Copy(Program):
    """`cp`, the floor of every copy."""

    name = "cp --sparse=always"

    def init(self) -> None:
        pass

    def backup(self, point: str, disks: Sequence[str]) -> Cost:
        folder = self.folder / point
        folder.mkdir(exist_ok=True)
        script = 'd=$1; shift; cp --sparse=always "$@" "$d" && sync "$d"/*'
        return measure.run(["sh", "-c", script, "sh", str(folder), *disks])

    def restore(self, point: str, disk: str, target: str) -> Cost:
        source = self.folder / point / Path(disk).name
        command = ["sh", "-c", 'cp --sparse=always "$1" "$2" && sync "$2"', "sh", str(source), target]
        return measure.run(command, reads=(source,))

    def verify(self) -> Cost:
        raise measure.Failed("cp cannot verify")


def key_of(path: str) -> str:
    """The same disk on both days."""
    return Path(path).stem.partition("-")[0]


def found(program: str) -> str:
    """Where a peer is; without it there is no ratio, and no figure."""
    path = shutil.which(program)
    if path is None:
        raise measure.Failed(f"{program} is not installed: it is one half of this benchmark")
    return path
