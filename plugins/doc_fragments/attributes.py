# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    # Wording of the attributes; a module states its own support beside it.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the changed status prediction without modifying the target.
  diff_mode:
    description: Returns details of what has changed, or would change in C(check_mode), when in diff mode.
  idempotent:
    description:
      - When run twice in a row outside check mode with the same arguments, the second run reports no change.
      - This assumes that the managed machine was not changed in between.
  platform:
    description: The platform on which the module itself runs.
"""

    # Should be used together with the standard fragment.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    support: full
    details:
      - This module changes nothing.
"""

    ACTIONGROUP_ESXI = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/stowage.esxi.esxi) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - stowage.esxi.esxi
  action:
    description: Has an action plugin that runs on the controller, so some parts of the task happen there.
    support: partial
    details:
      - The action plugin takes the connection options from the variables of the inventory host. The work is the
        module's.
  async:
    description: Supports being used with the C(async) keyword.
    support: full
  platform:
    description: The platform on which the module itself runs.
    support: full
    platforms: posix
"""
