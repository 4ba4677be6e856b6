# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of vmkfstools."""

from __future__ import annotations

import getopt
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

SHORT = "C:b:S:Z:G:Phy:Tc:d:a:W:wjkKUE:i:NX:Mr:qz:v:gx:eQL:B:HDt:"
LONG = {
    "createfs=": "C", "blocksize=": "b", "setfsname=": "S", "spanfs=": "Z", "growfs=": "G", "queryfs": "P",
    "humanreadable": "h", "upgradevmfs": "T", "reclaimBlocks=": "y", "createvirtualdisk=": "c", "diskformat=": "d",
    "adaptertype=": "a", "objecttype=": "W", "object=": "W", "policyFile=": "policyFile", "writezeros": "w",
    "inflatedisk": "j", "eagerzero": "k", "punchzero": "K", "deletevirtualdisk": "U", "renamevirtualdisk=": "E",
    "clonevirtualdisk=": "i", "avoidnativeclone": "N", "extendvirtualdisk=": "X", "migratevirtualdisk": "M",
    "createrdm=": "r", "queryrdm": "q", "createrdmpassthru=": "z", "verbose=": "v", "geometry": "g", "fix=": "x",
    "chainConsistent": "e", "uniqueblocks=": "uniqueblocks", "lock=": "L", "breaklock=": "B", "help": "H",
}  # fmt: skip
#: Options that say what to do; the others modify.
ACTIONS = "PcwjkKUEiXqxeDtrz"
ADAPTERS = ("buslogic", "lsilogic", "ide", "lsisas", "pvscsi")
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class BadArguments(Exception):
    """Something that vmkfstools does not take; `text` goes to stderr before the help."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text


@dataclass
class Request:
    """What is to be done, on which path, with which options."""

    action: str
    path: str
    options: dict[str, str] = field(default_factory=dict)


def parse(arguments: Sequence[str]) -> Request:
    """The request of a command line; options may follow the path."""
    try:
        pairs, operands = getopt.gnu_getopt(list(arguments), SHORT, list(LONG))
    except getopt.GetoptError as error:
        name = f"-{error.opt}" if len(error.opt) == 1 else f"--{error.opt}"
        if "requires argument" in error.msg:
            raise BadArguments(f"vmkfstools: option requires an argument -- '{error.opt}'\n") from error
        kind = "invalid option -- " if len(error.opt) == 1 else "unrecognized option "
        raise BadArguments(f"vmkfstools: {kind}'{error.opt if len(error.opt) == 1 else name}'\n") from error
    options: dict[str, str] = {}
    for name, value in pairs:
        bare = name.lstrip("-")
        options[bare if name.startswith("-") and len(name) == 2 else _short(bare)] = value
    chosen = [letter for letter in ACTIONS if letter in options]
    if "H" in options or (not chosen and "h" in options):
        raise BadArguments()
    if len(chosen) != 1:
        raise BadArguments()
    if not operands:
        raise BadArguments()
    if len(operands) > 1:
        raise BadArguments("Extra arguments at the end of the command line.\n")
    if options.get("a", ADAPTERS[0]) not in ADAPTERS:
        raise BadArguments(f"Invalid adapter type '{options['a']}'.\n")
    return Request(chosen[0], operands[0], options)


def _short(name: str) -> str:
    return LONG.get(f"{name}=") or LONG[name]


def parse_size(text: str) -> int:
    """Bytes of `10G`, `512m`, `4096`; a whole number of sectors."""
    match = re.fullmatch(r"(\d+)([gGmMkK]?)", text)
    if not match or int(match.group(1)) == 0:
        raise BadArguments(f"Invalid size '{text}'.\n")
    return int(match.group(1)) * UNITS[match.group(2).lower()] // 512 * 512
