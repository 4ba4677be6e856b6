# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall's rule sets: shown and switched, not enforced. Files in /etc/vmware/firewall bring more at a refresh."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree


class Rule(NamedTuple):
    direction: str
    protocol: str
    port_type: str
    begin: int
    end: int


@dataclass
class RuleSet:
    name: str
    enabled: bool
    rules: tuple[Rule, ...]
    all_addresses: bool = True
    addresses: list[str] = field(default_factory=list)


def _built_in() -> list[RuleSet]:
    return [
        RuleSet("sshServer", True, (Rule("Inbound", "TCP", "Dst", 22, 22),)),
        RuleSet("sshClient", False, (Rule("Outbound", "TCP", "Dst", 22, 22),)),
        RuleSet("nfsClient", True, (Rule("Outbound", "TCP", "Dst", 0, 65535),)),
    ]


class Firewall:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sets = {one.name: one for one in _built_in()}
        self.refresh()

    def refresh(self) -> None:
        """Read the files: new services come, those whose file is gone go; what is there keeps its state."""
        found: dict[str, RuleSet] = {}
        for path in sorted(self.folder.glob("*.xml")):
            with contextlib.suppress(OSError, ElementTree.ParseError, ValueError):
                found.update({one.name: one for one in _services(path)})
        kept = {one.name: self.sets.get(one.name, one) for one in _built_in()}
        self.sets = {**kept, **{name: self.sets.get(name, one) for name, one in found.items()}}

    def reboot(self) -> None:
        """Custom files do not outlive a boot, and neither do the sets that they brought."""
        for path in self.folder.glob("*.xml"):
            path.unlink()
        self.refresh()


def _services(path: Path) -> list[RuleSet]:
    found = []
    for service in ElementTree.parse(path).getroot().iter("service"):
        name = (service.findtext("id") or "").strip()
        if name:
            enabled = (service.findtext("enabled") or "").strip().lower() == "true"
            found.append(RuleSet(name, enabled, tuple(_rule(rule) for rule in service.findall("rule"))))
    return found


def _rule(rule: ElementTree.Element) -> Rule:
    port = rule.find("port")
    text = (port.text or "").strip() if port is not None else ""
    begin = int(text or (port.findtext("begin") if port is not None else None) or 0)
    end = int(text or (port.findtext("end") if port is not None else None) or begin)
    words = [(rule.findtext(name) or "").strip() for name in ("direction", "protocol", "porttype")]
    return Rule(words[0].capitalize(), words[1].upper(), words[2].capitalize(), begin, end)
