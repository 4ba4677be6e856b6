# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the lab importable: its disk code, which shares nothing with ours, makes deltas as a hypervisor does."""

from __future__ import annotations

import sys
from pathlib import Path

for place in (str(Path(__file__).resolve().parents[4] / "lab"), str(Path(__file__).parent)):
    if place not in sys.path:
        sys.path.insert(0, place)
