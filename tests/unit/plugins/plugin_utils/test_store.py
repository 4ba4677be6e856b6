# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task about a store gets the connection of a hypervisor where the store lies on one, and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.plugin_utils.connection import EsxiActionBase
from ansible_collections.stowage.esxi.plugins.plugin_utils.store import StoreActionBase

THERE = "/vmfs/volumes/backup/stowage"


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ({"location": "/srv/stowage"}, False),
        ({"path": "/srv/stowage", "other": {"location": "s3://bucket/x"}}, False),
        ({"location": "/srv/vmfs/volumes/x"}, False),
        ({"location": THERE}, True),
        ({"path": THERE}, True),
        ({"location": "/srv/stowage", "other": {"location": THERE}}, True),
        ({"location": "/srv/stowage", "other": {"path": THERE}}, True),
        ({"location": None, "other": None}, False),
    ],
)
def test_only_a_store_on_a_datastore_is_reached_by_ssh(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], filled: bool
) -> None:
    monkeypatch.setattr(EsxiActionBase, "module_args", lambda plugin, _vars: {**plugin._task.args, "hostname": "esx1"})
    plugin = object.__new__(StoreActionBase)
    plugin._task = SimpleNamespace(args=given)
    args = plugin.module_args({})
    assert args == ({**given, "hostname": "esx1"} if filled else {k: v for k, v in given.items() if v is not None})
