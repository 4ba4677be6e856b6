# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the playbook runs of one controller share what Ansible makes of each module.

Ansible puts a module and all that it imports into one file, once in a run: seconds for each of the large ones. The runs
of a test session are of the same sources. The file's place, below the run's own temporary folder, becomes a link.
"""

from __future__ import annotations

from pathlib import Path

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: payloads
type: aggregate
short_description: Shares the payloads of modules between runs
description: The folder of payloads is one for all runs that have their temporary folders in the same place.
author: Stowage contributors
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "payloads"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        own = Path(constants.DEFAULT_LOCAL_TMP)
        shared = own.parent / "payloads"
        shared.mkdir(exist_ok=True)
        (own / "ansiballz_cache").symlink_to(shared, target_is_directory=True)
