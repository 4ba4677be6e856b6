# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Time, as a parameter."""

from __future__ import annotations

import time
from datetime import datetime, timezone


class Clock:
    """The machine's time. Tests put in one that they move themselves."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)  # noqa: UP017 - datetime.UTC needs 3.11

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
