# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a vim-cmd call can answer besides success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .vmodl import UNSET, FaultObj


class VimFault(Exception):
    """A fault of the API; printed as a dump, or as `<Operation> failed` by the operations that do so."""

    type = "vmodl.fault.SystemError"

    def __init__(self, msg: str, fields: Sequence[tuple[str, Any]] = ()) -> None:
        super().__init__(msg)
        self.msg = msg
        self.fields = tuple(fields)

    def dump(self) -> FaultObj:
        return FaultObj(self.type, self.msg, self.fields)


class SystemError_(VimFault):
    type = "vmodl.fault.SystemError"

    def __init__(self, reason: str) -> None:
        super().__init__(f"A general system error occurred: {reason}", [("reason", reason)])


class NotFound(VimFault):
    type = "vim.fault.NotFound"


class NoSuchVm(NotFound):
    def __init__(self, vmid: str) -> None:
        super().__init__(f'Unable to find a VM corresponding to "{vmid}"')


class ObjectNotFound(NotFound):
    def __init__(self) -> None:
        super().__init__("The object or item referred to could not be found.")


class ManagedObjectNotFound(VimFault):
    type = "vmodl.fault.ManagedObjectNotFound"

    def __init__(self, obj: Any) -> None:
        super().__init__("The object has already been deleted or has not been completely created", [("obj", obj)])


class AlreadyExists(VimFault):
    type = "vim.fault.AlreadyExists"

    def __init__(self, name: str) -> None:
        super().__init__(f"The specified key, name, or identifier '{name}' already exists.", [("name", name)])


_STATE_WORDS = {"poweredOn": "Powered on", "poweredOff": "Powered off", "suspended": "Suspended"}


class InvalidPowerState(VimFault):
    type = "vim.fault.InvalidPowerState"

    def __init__(self, requested: str | None, existing: str) -> None:
        super().__init__(
            f"The attempted operation cannot be performed in the current state ({_STATE_WORDS[existing]}).",
            [("requestedState", requested), ("existingState", existing)],
        )


class InvalidState(VimFault):
    type = "vim.fault.InvalidState"

    def __init__(self, msg: str = "The operation is not allowed in the current state.") -> None:
        super().__init__(msg)


class ToolsUnavailable(VimFault):
    type = "vim.fault.ToolsUnavailable"

    def __init__(self) -> None:
        super().__init__("Cannot complete operation because VMware Tools is not running in this virtual machine.")


class TaskInProgress(VimFault):
    type = "vim.fault.TaskInProgress"

    def __init__(self, task: Any) -> None:
        super().__init__("Operation failed since another task is in progress.", [("task", task)])


class FileLocked(VimFault):
    type = "vim.fault.FileLocked"

    def __init__(self, path: str) -> None:
        super().__init__(f"Unable to access file {path} since it is locked", [("file", path)])


class GenericVmConfigFault(VimFault):
    type = "vim.fault.GenericVmConfigFault"

    def __init__(self, reason: str) -> None:
        super().__init__(reason, [("reason", reason)])


class InsufficientRoom(VimFault):
    type = "vim.fault.NoDiskSpace"

    def __init__(self, datastore: str) -> None:
        super().__init__("Insufficient disk space on datastore '" + datastore + "'.", [("datastore", datastore)])


class QuiesceFailed(VimFault):
    type = "vim.fault.ApplicationQuiesceFault"

    def __init__(self) -> None:
        super().__init__(
            "An error occurred while quiescing the virtual machine. See the virtual machine's event log for details."
        )


class TooManySnapshotLevels(VimFault):
    type = "vim.fault.TooManySnapshotLevels"

    def __init__(self) -> None:
        super().__init__("The snapshot hierarchy is too deep")


class NotSupported(VimFault):
    type = "vmodl.fault.NotSupported"

    def __init__(self, msg: str = "The operation is not supported on the object.") -> None:
        super().__init__(msg)


class InvalidArgument(VimFault):
    type = "vmodl.fault.InvalidArgument"

    def __init__(self, name: str) -> None:
        super().__init__(f"A specified parameter was not correct: {name}", [("invalidProperty", name)])


class InvalidName(VimFault):
    type = "vim.fault.InvalidName"

    def __init__(self, name: str) -> None:
        super().__init__(f"The name '{name}' is not valid.", [("name", name)])


class Timedout(VimFault):
    type = "vim.fault.Timedout"

    def __init__(self) -> None:
        super().__init__("Operation timed out.")


class HostConfigFault(VimFault):
    type = "vim.fault.HostConfigFault"


class DuplicateName(VimFault):
    type = "vim.fault.DuplicateName"

    def __init__(self, name: str) -> None:
        super().__init__(f"The name '{name}' already exists.", [("name", name)])


class ResourceInUse(VimFault):
    type = "vim.fault.ResourceInUse"

    def __init__(self, name: str) -> None:
        super().__init__(f"The resource '{name}' is in use.", [("type", UNSET), ("name", name)])


class RequestCanceled(VimFault):
    type = "vmodl.fault.RequestCanceled"

    def __init__(self) -> None:
        super().__init__("The task was canceled by a user.")
