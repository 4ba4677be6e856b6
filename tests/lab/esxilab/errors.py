# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong in the lab, said so that the reader knows what to do next."""

from __future__ import annotations


class LabError(Exception):
    """Something the person at the keyboard can put right; its text is shown as it is."""
