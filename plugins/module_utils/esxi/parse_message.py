# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD = re.compile(r"^Virtual machine message ([^\s:]+):\s*$", re.MULTILINE)
_CHOICE = re.compile(r"^ +(\d+)\. (.*?)(?: \(.*\))?( \[default\])?\s*$")


@dataclass(frozen=True)
class Question:
    """A question that blocks a VM. `choices` maps the number to give as the answer to its label."""

    id: str
    text: str
    choices: tuple[tuple[int, str], ...]
    default: int | None


def parse_message(text: str) -> Question | None:
    """Read `vmsvc/message VMID`: None when nothing is asked. Numbers differ by release and are read, never assumed."""
    head = _HEAD.search(text)
    if not head:
        return None
    lines: list[str] = []
    choices: list[tuple[int, str]] = []
    default = None
    for line in text[head.end() :].split("\n"):
        match = _CHOICE.match(line)
        if match:
            choices.append((int(match.group(1)), match.group(2).replace("_", "")))
            if match.group(3):
                default = int(match.group(1))
        elif line.startswith("Answer:"):
            break
        elif not choices:
            lines.append(line)
    return Question(head.group(1), "\n".join(lines).strip(), tuple(choices), default)
