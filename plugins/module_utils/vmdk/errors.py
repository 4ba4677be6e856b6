# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.stowage.esxi.plugins.module_utils.base.errors import StowageError


class VmdkError(StowageError):
    id = "vmdk"
    template = "{path}: {reason}"
    hint = "Look at the named file on the datastore."
    exit_code = 20


class NotADescriptor(VmdkError):
    id = "vmdk-not-a-descriptor"
    template = "{path} is not a VMDK descriptor: {reason}"
    hint = "Name the small text file of the disk (x.vmdk), not one of its extents (x-flat.vmdk)."
    exit_code = 21


class BrokenChain(VmdkError):
    id = "vmdk-broken-chain"
    template = (
        "The disk chain of {path} is broken at {child}: it was made on content id {wanted}, "
        "its parent {parent} has {found}"
    )
    hint = "The parent was written after the snapshot was made. Check it with `vmkfstools -e` on the host."
    exit_code = 22


class MissingLink(VmdkError):
    id = "vmdk-missing-link"
    template = "The disk chain of {path} ends at {child}: its parent {parent} cannot be read ({reason})"
    hint = "Look for the parent on the datastore; it may have been moved or deleted by hand."
    exit_code = 23


class ChainLoop(VmdkError):
    id = "vmdk-chain-loop"
    template = "The disk chain of {path} comes back to {parent}"
    hint = "A parentFileNameHint is wrong; repair the descriptor."
    exit_code = 24


class ChainTooDeep(VmdkError):
    id = "vmdk-chain-too-deep"
    template = "The disk chain of {path} has more than {limit} links"
    hint = "ESXi allows 32; remove snapshots before the next one is made."
    exit_code = 25


class BadDictionary(VmdkError):
    id = "vmdk-bad-dictionary"
    template = "{path} cannot be read, line {line}: {reason}"
    hint = "The file is not in the form of a .vmx or .vmsd file, or it was cut short."
    exit_code = 26
