# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m ansible_collections.stowage.esxi.plugins.module_utils.cli`."""

from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.cli.main import run

if __name__ == "__main__":
    raise SystemExit(run())
