# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vmware.log of a VM: rotated at every power-on, appended while it runs."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from .clock import Clock
from .profiles import Profile

#: Old logs that stay, as log.keepOld does.
KEEP_OLD = 6


class VmLog:
    def __init__(self, folder: Path, profile: Profile, clock: Clock) -> None:
        self.path = folder / "vmware.log"
        self._profile = profile
        self._clock = clock

    def rotate(self, pid: int) -> None:
        """Start the log of a new power-on; the one before becomes vmware-N.log."""
        folder = self.path.parent
        if self.path.exists():
            numbers = sorted(
                int(match.group(1))
                for match in (re.fullmatch(r"vmware-(\d+)\.log", name) for name in os.listdir(folder))
                if match
            )
            os.replace(self.path, folder / f"vmware-{(numbers[-1] if numbers else 0) + 1}.log")
            for number in numbers[: max(0, len(numbers) + 1 - KEEP_OLD)]:
                (folder / f"vmware-{number}.log").unlink()
        self.write(
            f"Log for VMware ESX pid={pid} version={self._profile.version} "
            f"build=build-{self._profile.build} option=Release",
            number=5,
        )
        self.write("DICT --- CONFIGURATION")
        with contextlib.suppress(OSError):
            os.chmod(self.path, 0o644)

    def write(self, text: str, source: str = "vmx", number: int = 5) -> None:
        moment = self._clock.now()
        stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
        major = int(self._profile.version.split(".")[0])
        if major >= 8:
            line = f"{stamp} In({number:02d}) {source} - {text}"
        elif major == 7:
            line = f"{stamp}| {source}| | I{number:03d}: {text}"
        else:
            line = f"{stamp}| {source}| I{number + 120}: {text}"
        # A full datastore loses log lines; the VM goes on.
        with contextlib.suppress(OSError), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(line + "\n")
