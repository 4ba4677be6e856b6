# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Help and fixed texts of vmkfstools."""

from __future__ import annotations

from collections.abc import Sequence

DESTINATIONS = {
    "zeroedthick": "VMFS zeroedthick",
    "thin": "VMFS thin-provisioned",
    "eagerzeroedthick": "VMFS eagerzeroedthick",
    "2gbsparse": "sparse with 2GB maximum extent size",
    "sesparse": "VMFS sesparse",
}

ADAPTERS = """               -a --adaptertype [buslogic|lsilogic|ide
                                |lsisas|pvscsi]
"""
ADAPTERS_DEPRECATED = "               -a --adaptertype [deprecated]\n"

HELP = """OPTIONS FOR FILE SYSTEMS:
vmkfstools -C --createfs [vmfs3|vmfs5]
               -b --blocksize #[mMkK]
               -S --setfsname fsName
           -Z --spanfs span-partition
           -G --growfs grown-partition
   deviceName
           -P --queryfs -h --humanreadable
           -T --upgradevmfs
   vmfsPath
           -y --reclaimBlocks vmfsPath [--reclaimBlocksUnit #blocks]
OPTIONS FOR VIRTUAL DISKS:
vmkfstools -c --createvirtualdisk #[gGmMkK]
               -d --diskformat [zeroedthick
                               |thin
                               |eagerzeroedthick
                               ]
{adapters}               -W --objecttype [file|vsan]
               --policyFile <fileName>
           -w --writezeros
           -j --inflatedisk
           -k --eagerzero
           -K --punchzero
           -U --deletevirtualdisk
           -E --renamevirtualdisk srcDisk
           -i --clonevirtualdisk srcDisk
               -d --diskformat [zeroedthick
                               |thin
                               |eagerzeroedthick
                               |rdm:<device>|rdmp:<device>{formats}]
               -W --object [file|vsan]
               --policyFile <fileName>
               -N --avoidnativeclone
           -X --extendvirtualdisk #[gGmMkK]
               [-d --diskformat eagerzeroedthick]
           -M --migratevirtualdisk
           -r --createrdm /vmfs/devices/disks/...
           -q --queryrdm
           -z --createrdmpassthru /vmfs/devices/disks/...
           -v --verbose #
           -g --geometry
           -x --fix [check|repair]
           -e --chainConsistent
           -Q --objecttype name/value pair
           --uniqueblocks childDisk
   vmfsPath
OPTIONS FOR DEVICES:
           -L --lock [reserve|release|lunreset|targetreset|busreset|readkeys|readresv
                     ] /vmfs/devices/disks/...
           -B --breaklock /vmfs/devices/disks/...
vmkfstools -H --help
"""


def help_text(adapter_deprecated: bool, formats: Sequence[str] = ("2gbsparse",)) -> str:
    """The help of the release: newer ones call -a deprecated. Of the formats, those that not every host takes vary."""
    more = "".join(f"\n                               |{name}" for name in ("2gbsparse", "sesparse") if name in formats)
    return HELP.format(adapters=ADAPTERS_DEPRECATED if adapter_deprecated else ADAPTERS, formats=more)
