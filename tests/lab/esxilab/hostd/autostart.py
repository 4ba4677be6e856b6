# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The autostart list of a host, kept in /etc/vmware/hostd/vmAutoStart.xml: it outlives a reboot and drives it."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from pathlib import Path
from xml.sax.saxutils import escape, unescape

from .dictfile import replace_text

NAMES = ("key", "startAction", "startDelay", "startOrder", "stopAction", "stopDelay", "waitForHeartbeat")


@dataclass(frozen=True)
class Entry:
    vmid: str
    start_action: str
    start_delay: int
    order: int
    stop_action: str
    stop_delay: int
    heartbeat: str


class AutoStart:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.enabled = False
        self.entries: dict[str, Entry] = {}
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            return
        self.enabled = "<enabled>true</enabled>" in text
        for block in re.findall(r"<AutoPowerInfo>.*?</AutoPowerInfo>", text, re.DOTALL):
            found = {name: unescape(value) for name, value in re.findall(r"<(\w+)>(.*?)</\1>", block)}
            self.entries[found["key"]] = Entry(
                found["key"],
                found["startAction"],
                int(found["startDelay"]),
                int(found["startOrder"]),
                found["stopAction"],
                int(found["stopDelay"]),
                found["waitForHeartbeat"],
            )

    def sequence(self) -> list[Entry]:
        """In the order of the start; entries without a number (-1) come last."""
        return sorted(self.entries.values(), key=lambda entry: (entry.order < 0, entry.order, int(entry.vmid)))

    def starting(self) -> list[str]:
        """The vmids that a booting host powers on."""
        if not self.enabled:
            return []
        return [entry.vmid for entry in self.sequence() if entry.start_action.lower() == "poweron"]

    def put(self, entry: Entry) -> None:
        self.entries.pop(entry.vmid, None)
        if entry.start_action.lower() != "none":
            self.entries[entry.vmid] = entry
        self._save()

    def enable(self, wanted: bool) -> None:
        self.enabled = wanted
        self._save()

    def forget(self, vmid: str) -> None:
        if self.entries.pop(vmid, None) is not None:
            self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        blocks = "".join(
            "  <AutoPowerInfo>\n"
            + "".join(f"    <{name}>{escape(str(value))}</{name}>\n" for name, value in zip(NAMES, astuple(entry)))
            + "  </AutoPowerInfo>\n"
            for entry in self.sequence()
        )
        enabled = str(self.enabled).lower()
        replace_text(self.path, f"<ConfigRoot>\n  <enabled>{enabled}</enabled>\n{blocks}</ConfigRoot>\n", 0o644)
