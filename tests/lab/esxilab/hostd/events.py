# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What commands of a host change about the machine around its management daemon; the lab's daemon puts in its own."""

from __future__ import annotations

from pathlib import Path


class MachineEvents:
    """A host without a machine around it, as in the tests of hostd alone: nothing to do."""

    def exec_installed_only(self, wanted: bool) -> None:
        """Executions from datastores are refused, or no longer."""

    def power(self, again: bool, seconds: float) -> None:
        """The host powers off, or restarts, some seconds from now."""

    def mount(self, source: Path, uuid: str, name: str) -> None:
        """A folder appears as a datastore under /vmfs/volumes."""

    def unmount(self, uuid: str, name: str) -> None:
        """A datastore disappears; OSError where it is in use."""

    def exported(self, server: str, share: str) -> Path | None:
        """The folder here of an NFS export, if a server of the lab has it."""
        return None
