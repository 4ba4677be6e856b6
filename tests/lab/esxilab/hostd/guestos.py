# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest's identifier is called in words: guestFullName of the summaries."""

from __future__ import annotations

import re

_FAMILIES = (
    (r"debian(\d+)_?", "Debian GNU/Linux {0}"),
    (r"ubuntu", "Ubuntu Linux"),
    (r"centos(\d*)_?", "CentOS {0}"),
    (r"rhel(\d+)_", "Red Hat Enterprise Linux {0}"),
    (r"sles(\d+)_", "SUSE Linux Enterprise {0}"),
    (r"windows9Server", "Microsoft Windows Server 2016 or later"),
    (r"windows2019srv_", "Microsoft Windows Server 2019"),
    (r"windows(\d+)_", "Microsoft Windows {0}"),
    (r"winXPPro", "Microsoft Windows XP Professional"),
    (r"solaris(\d+)_", "Oracle Solaris {0}"),
    (r"otherLinux", "Other Linux"),
    (r"other", "Other"),
)


def full_name(guest_id: str) -> str:
    """`debian10_64Guest` is `Debian GNU/Linux 10 (64-bit)`; an unknown one stays what it is."""
    stem = guest_id[: -len("Guest")] if guest_id.endswith("Guest") else guest_id
    bits = "64" if stem.endswith("64") else "32"
    for pattern, words in _FAMILIES:
        found = re.match(pattern, stem)
        if found:
            return f"{words.format(*found.groups()).strip()} ({bits}-bit)"
    return guest_id
