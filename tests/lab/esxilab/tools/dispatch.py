# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which simulated command answers a request of a client."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esxilab.hostd import calls

from . import esxcli, grants, identity, services, vimcmd, vmkload, vmkvsitools, vsish
from .answer import Answer

if TYPE_CHECKING:
    from esxilab.hostd import Hostd

TOOLS: dict[str, Callable[[Hostd, Sequence[str]], Answer]] = {
    "vim-cmd": vimcmd.run,
    "vmware-vim-cmd": vimcmd.run,
    "esxcli": esxcli.run,
    "localcli": esxcli.run_local,
    "vmware": identity.vmware,
    "uname": identity.uname,
    "hostname": identity.hostname,
    "vsish": vsish.run,
    "vmkload_mod": vmkload.run,
    "vdf": vmkvsitools.vdf,
    "hostd": services.hostd,
    "services.sh": services.all_services,
    "auto-backup.sh": services.quiet,
}


def handle(host: Hostd, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request; `signal` in it says that the client's process dies by it."""
    tool = os.path.basename(str(request["tool"]))
    if tool == "vmkfstools":
        return grants.handle(host, request)
    argv = [str(word) for word in request.get("argv", [])]
    if tool in ("vmkvsitools", "lsof"):
        words = argv if tool == "vmkvsitools" else ["lsof", *argv]
        return vmkvsitools.run(host, words, int(request.get("pid", 0))).as_dict()
    run = TOOLS.get(tool)
    if run is None:
        return Answer(stderr=f"-sh: {tool}: not found\n", rc=127).as_dict()
    call = calls.answer(host, argv, lambda: run(host, argv)) if run is vimcmd.run else run(host, argv)
    answer = call.as_dict()
    if answer["rc"] == 137 and not answer["stdout"]:
        return {"signal": 9, "rc": 137}
    return answer
