# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vmware, uname and hostname."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .answer import Answer

if TYPE_CHECKING:
    from esxilab.hostd import Hostd

VMWARE_USAGE = """Usage: vmware [options]
   -v, --version: version
   -l, --fullversion: version and release level
"""
VMWARE_RELEASE = "   -r, --release: release\n"


def vmware(host: Hostd, argv: Sequence[str]) -> Answer:
    """vmware -v, -l, -vl; from 9.0 on also -r, which is to take the place of -l."""
    profile = host.profile
    wanted = set()
    for word in argv:
        if word.startswith("--"):
            wanted.add({"--version": "v", "--fullversion": "l", "--release": "r"}.get(word, "?"))
        elif word.startswith("-"):
            wanted.update(word[1:])
        else:
            wanted.add("?")
    known = {"v", "l", "r"} if profile.releases_by_r else {"v", "l"}
    if not wanted or wanted - known:
        return Answer(stderr=VMWARE_USAGE + (VMWARE_RELEASE if profile.releases_by_r else ""), rc=1)
    text = profile.full_name + "\n" if "v" in wanted else ""
    return Answer(text + (profile.release + "\n" if wanted & {"l", "r"} else ""))


def fqdn(host: Hostd) -> str:
    name = str(host.host_config.get("hostname") or host.name)
    return name if "." in name else f"{name}.localdomain"


def uname(host: Hostd, argv: Sequence[str]) -> Answer:
    profile = host.profile
    parts = {
        "s": "VMkernel",
        "n": fqdn(host),
        "r": ".".join(profile.version.split(".")[:3]),
        "v": f"#1 SMP Release build-{profile.build} {profile.built}",
        "m": "x86_64",
        "p": "x86_64",
        "i": "x86_64",
        "o": "ESXi",
    }
    wanted = "".join(word.lstrip("-") for word in argv) or "s"
    if "a" in wanted:
        wanted = "snrvmpio"
    unknown = [letter for letter in wanted if letter not in parts]
    if unknown:
        return Answer(stderr=f"uname: invalid option -- '{unknown[0]}'\n", rc=1)
    return Answer(" ".join(text for letter, text in parts.items() if letter in wanted) + "\n")


def hostname(host: Hostd, argv: Sequence[str]) -> Answer:
    name = fqdn(host)
    wanted = "".join(word.lstrip("-") for word in argv)
    if "s" in wanted:
        return Answer(name.partition(".")[0] + "\n")
    if "d" in wanted:
        return Answer(name.partition(".")[2] + "\n")
    if "i" in wanted:
        return Answer(str(host.host_config.get("address", "127.0.0.1")) + "\n")
    return Answer(name + "\n")
