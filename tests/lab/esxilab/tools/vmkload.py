# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vmkload_mod -u NAME: the only way to unload a kernel module; esxcli can but load and list.

The word of success is that of real hosts (`Module iso9660 successfully unloaded`); the refusals' texts are ours. What
a module of a real host also knows, how many use it just now, is not counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .answer import Answer
from .esxcli_commands import is_loaded

if TYPE_CHECKING:
    from esxilab.hostd import Hostd


def run(host: Hostd, argv: Sequence[str]) -> Answer:
    if len(argv) != 2 or argv[0] not in ("-u", "--unload"):
        return Answer(stderr="Usage: vmkload_mod -u <module-name>\n", rc=1)
    name = argv[1]
    if name in host.modules_loaded:
        host.modules_loaded.discard(name)
        return Answer(f"Module {name} successfully unloaded\n")
    reason = "Busy" if is_loaded(host, name) else "Not found"
    return Answer(stderr=f"vmkload_mod: Can not remove module {name}: {reason}\n", rc=1)
