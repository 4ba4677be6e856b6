# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs between releases. A profile is named by the release it plays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One release of the hypervisor as the commands show it."""

    name: str
    version: str
    build: str
    update: str
    patch: str
    built: str
    release: str
    hardware_max: int
    #: 4.x to 6.0 print dynamicType and a comma after every field.
    classic_dumps: bool = False
    #: snapshot.create returns before the task has ended.
    snapshot_async: bool = False
    #: 2gbsparse needs `esxcli system module load -m multiextent` first.
    multiextent_module: bool = True
    #: esxcli knows the VMFS 6 format (and snapshots on it are SESparse).
    sesparse_on_vmfs6: bool = True
    #: The help of vmkfstools calls -a deprecated, and the option is ignored.
    adapter_deprecated: bool = True
    descriptor_native_snapshot: bool = True
    max_nfs_version: str = "NFS"
    #: `vmware -r` prints the release, and -l is only what is left of former days.
    releases_by_r: bool = False

    @property
    def release_number(self) -> tuple[int, int]:
        """(8, 0) of 8.0.2."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def full_name(self) -> str:
        return f"VMware ESXi {self.version} build-{self.build}"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "6.0", "6.0.0", "3620759", "2", "34", "Mar  4 2016 21:53:27", "VMware ESXi 6.0.0 Update 2", 11,
            classic_dumps=True, snapshot_async=True, sesparse_on_vmfs6=False, adapter_deprecated=False,
        ),
        Profile(
            "6.7", "6.7.0", "15018017", "3", "77", "Nov  1 2019 01:35:06", "VMware ESXi 6.7.0 Update 3", 15,
            snapshot_async=True,
        ),
        Profile(
            "7.0", "7.0.3", "19482537", "3", "35", "Mar 11 2022 05:24:33", "VMware ESXi 7.0 Update 3", 19,
            descriptor_native_snapshot=False,
        ),
        Profile(
            "8.0", "8.0.2", "22380479", "2", "0", "Sep  4 2023 15:00:49", "VMware ESXi 8.0 Update 2", 21,
            multiextent_module=False, descriptor_native_snapshot=False,
        ),
        Profile(
            "9.0", "9.0.0.0100", "24755229", "0", "0", "Jun  6 2025 09:12:44", "VMware ESXi 9.0.0.0100", 22,
            multiextent_module=False, descriptor_native_snapshot=False, releases_by_r=True,
        ),
    )
}  # fmt: skip


def profile_of(name: str) -> Profile:
    """The profile of that name; a longer version such as 8.0.2 finds its release."""
    for key, profile in PROFILES.items():
        if name == key or name.startswith(key + "."):
            return profile
    raise ValueError(f"no profile for release {name!r}; known are {', '.join(PROFILES)}")
