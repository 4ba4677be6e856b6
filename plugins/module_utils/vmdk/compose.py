# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A descriptor for a disk that has none."""

from __future__ import annotations

import secrets

from ansible_collections.stowage.esxi.plugins.module_utils.vmdk.descriptor import (
    NO_PARENT,
    SECTOR_BYTES,
    Descriptor,
    Extent,
)

ADAPTERS = ("ide", "buslogic", "lsilogic")
# What the oldest host that is known still reads.
_HARDWARE = "8"


def flat_base(flat_name: str, size: int, adapter: str = "lsilogic") -> Descriptor:
    """For a flat file beside it, thin, as a host writes it. Its content id is new: nothing can be its child yet."""
    if adapter not in ADAPTERS:
        raise ValueError(f"unknown adapter {adapter!r}: one of {', '.join(ADAPTERS)}")
    sectors = -(-size // SECTOR_BYTES)
    heads, per_track = (16, 63) if adapter == "ide" else (255, 63) if size >= 1 << 30 else (64, 32)
    content = secrets.token_hex(16)
    unique = "6000c29" + secrets.token_hex(16)[:25]
    pairs = [unique[at : at + 2] for at in range(0, 32, 2)]
    return Descriptor(
        version=1,
        encoding="UTF-8",
        # The two highest mean that there is no parent, and that nothing was written yet.
        cid=content[-8:] if content[-8:] < "fffffffe" else "00000001",
        parent_cid=NO_PARENT,
        create_type="vmfs",
        extents=(Extent("RW", sectors, "VMFS", flat_name),),
        ddb={
            "ddb.adapterType": adapter,
            "ddb.geometry.cylinders": str(min(65535, sectors // (heads * per_track))),
            "ddb.geometry.heads": str(heads),
            "ddb.geometry.sectors": str(per_track),
            "ddb.longContentID": content,
            "ddb.thinProvisioned": "1",
            "ddb.uuid": f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}",
            "ddb.virtualHWVersion": _HARDWARE,
        },
    )
