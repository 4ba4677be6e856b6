# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam between the engine and a module: errors become ``fail_json``, once."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError
from ansible_collections.stowage.esxi.plugins.module_utils.base.zipped import compile_once

# Every module imports this file before all others of ours.
compile_once()


class FailingModule(Protocol):
    """The part of ``AnsibleModule`` that is used here."""

    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn: ...


def fail(module: FailingModule, error: StowageError, **fields: Any) -> NoReturn:
    """Ends the module: the message with its way out, and ``error`` = id, message, hint, data. Fields are added."""
    message = error.message
    if error.hint_text:
        message = f"{message.rstrip('.')}. {error.hint_text}"
    fields.setdefault("changed", False)
    module.fail_json(msg=message, error=error.as_dict(), **fields)
