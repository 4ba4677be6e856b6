# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of registered VMs: /etc/vmware/hostd/vmInventory.xml of one host."""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import escape, unescape

from .dictfile import replace_text

HEAD = "<ConfigRoot>\n"
TAIL = "</ConfigRoot>\n"


class Inventory:
    """vmid -> path of the .vmx, kept in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, str] = {}
        self._last = 0
        self.load()

    def load(self) -> None:
        self.entries = {}
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError:
            return
        for block in re.findall(r"<ConfigEntry\b.*?</ConfigEntry>", text, re.DOTALL):
            vmid = re.search(r"<objID>(\d+)</objID>", block)
            path = re.search(r"<vmxCfgPath>(.*?)</vmxCfgPath>", block)
            if vmid and path:
                self.entries[vmid.group(1)] = unescape(path.group(1))
        # An id is never given twice in the life of a host, so the highest one is kept, too.
        last = re.search(r"<!-- lastObjID (\d+) -->", text)
        self._last = max([int(last.group(1)) if last else 0, *(int(vmid) for vmid in self.entries)])

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        body = "".join(
            f'  <ConfigEntry id="{number:04d}">\n'
            f"    <objID>{vmid}</objID>\n"
            f"    <secDomain>{int(vmid) + 6}</secDomain>\n"
            f"    <vmxCfgPath>{escape(path)}</vmxCfgPath>\n"
            "  </ConfigEntry>\n"
            for number, (vmid, path) in enumerate(self.entries.items())
        )
        replace_text(self.path, f"{HEAD}{body}  <!-- lastObjID {self._last} -->\n{TAIL}", 0o644)

    @property
    def next_id(self) -> int:
        return self._last + 1

    def add(self, vmx_path: str) -> str:
        self._last += 1
        vmid = str(self._last)
        self.entries[vmid] = vmx_path
        self.save()
        return vmid

    def remove(self, vmid: str) -> None:
        del self.entries[vmid]
        self.save()

    def holder(self, vmx_path: str) -> str | None:
        return next((vmid for vmid, path in self.entries.items() if path == vmx_path), None)
