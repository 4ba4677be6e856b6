# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vmkfstools asks the host before it touches a disk: may I, and how fast.

The process that asks is known by its pid. A grant lets it open files that the kernel's locks would refuse it; it ends
with the process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esxilab.hostd import calls

from .bootbanks import banks, system_volumes

if TYPE_CHECKING:
    from esxilab.hostd import Hostd


def handle(host: Hostd, request: Mapping[str, Any]) -> dict[str, Any]:
    """`ask` is one of: host, grant, locks; and reached, ended, with which a run tells how far it is."""
    ask = request.get("ask")
    argv = [str(word) for word in request.get("argv", ())]
    if ask == "host":
        if argv:
            calls.hold(host, "vmkfstools", argv, "before")
        return describe(host)
    if ask in ("reached", "ended"):
        calls.hold(host, "vmkfstools", argv, "during" if ask == "reached" else "after")
        hangs = host.faults.get("clone_hangs") if ask == "reached" else None
        if hangs is not None:
            host.faults.wait_while(hangs)
        return {}
    if ask == "grant":
        return grant(host, request)
    if ask == "locks":
        return {"locks": [lock_info(host, str(path)) for path in request["paths"]]}
    raise ValueError(f"vmkfstools asks {ask!r}")


def describe(host: Hostd) -> dict[str, Any]:
    """What the process must know of its host: release, datastores, modules, and the faults that hit clones."""
    stops = [f for f in host.faults.all("hold", "clone_hangs") if f.name != "hold" or f.args.get("when") == "during"]
    short = host.faults.get("clone_short")
    after = any(fault.args.get("when") == "after" for fault in host.faults.all("hold"))
    slow, fails = host.faults.get("slow_clone"), host.faults.get("clone_fails_at")
    return {
        "version": host.profile.version,
        "adapter_deprecated": host.profile.adapter_deprecated,
        "multiextent": not host.profile.multiextent_module or "multiextent" in host.modules_loaded,
        "formats": list(host.switches["clone_formats"]),
        "block_map": host.switches["block_map"],
        "error_first": bool(host.switches["clone_error_first"]),
        "buffered": bool(host.switches["vmkfstools_buffered"]),
        "rate": float(slow.args.get("rate", 4 << 20)) if slow else None,
        "stop_at": min((int(fault.args.get("percent", 50)) for fault in stops), default=None),
        "tell_end": after,
        "short": {"bytes": int(short.args.get("bytes", 1 << 20)), "hole": bool(short.args.get("hole"))}
        if short
        else None,
        "fail": {
            "percent": int(fails.args.get("percent", 50)),
            "code": int(fails.args.get("code", 327689)),
            "text": str(fails.args.get("text", "Input/output error")),
        }
        if fails
        else None,
        "banks": banks(host),
        "system": [vars(one) for one in system_volumes(host.name, host.profile)],
        "volumes": [
            {
                "name": volume.name,
                "uuid": volume.uuid,
                "type": volume.type,
                "device": volume.device,
                "remote": f"{volume.remote_host} {volume.remote_share}".strip(),
            }
            for volume in host.volumes.all
        ],
    }


def grant(host: Hostd, request: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the lock rules to extents: `paths` is a list of [path, write]; the first refusal is the answer.

    An extent in mode 1 is refused to everyone, one in mode 2 to writers. Descriptors carry no lock.
    """
    files: list[str] = []
    for path, write in request["paths"]:
        outside = host.volumes.outside(str(path))
        if outside is None:
            continue
        mode = lock_mode(host, str(outside))
        if mode == 1 or (mode == 2 and write):
            return {"granted": False, "path": path}
        if write and any(pid != int(request["pid"]) for pid in host.engine.holders(str(outside))):
            return {"granted": False, "path": path}
        files.append(str(outside))
    if host.locks is not None and files:
        host.locks.grant(int(request["pid"]), files)
    return {"granted": True}


def lock_mode(host: Hostd, path: str) -> int:
    if host.locks is None:
        return 0
    found = host.locks.state(path)
    return 0 if found is None else int(found.mode)


def lock_info(host: Hostd, path: str) -> dict[str, Any]:
    """For -D: the mode, the owner, and the readers of one file."""
    outside = host.volumes.outside(path)
    if outside is None or not os.path.exists(outside):
        return {"mode": 0, "owner": "", "readers": 0}
    found = host.locks.state(str(outside)) if host.locks is not None else None
    if found is None:
        return {"mode": 0, "owner": "", "readers": 0}
    # Two VMs of one host that read the same base are one holder: the lock belongs to the host.
    owners = list(dict.fromkeys(owner.partition(" ")[0] for owner in found.owners))
    return {"mode": found.mode, "owner": found.owner.partition(" ")[0], "readers": len(owners), "owners": owners}
