# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.plugin_utils.connection import EsxiActionBase


class ActionModule(EsxiActionBase):
    MODULE = "stowage.esxi.backup_proof"
