# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small files by which writers, collections and removals know of each other, when one of them is damaged.

None of them holds data. But while one cannot be read, nobody can tell what it said: so they go only when nobody is left
whom that could hurt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, find, registry, removal, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    Damaged,
    ObjectMissing,
    StoreInUse,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import build
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def damaged(store: Store) -> list[str]:
    """Names of what cannot be read, or makes no sense."""
    found = []
    for folder in (registry.ANNOUNCED, registry.WRITERS, removal.FOLDER):
        for name, _size in sorted(store.backend.list(folder)):
            try:
                value = textfile.parse(store.backend.read(name), name, store.name)
            except ObjectMissing:
                continue
            except Damaged:
                value = {}
            if not _sound(name, value):
                found.append(name)
    return [*found, *store.damaged_settings()]


def _sound(name: str, value: Mapping[str, Any]) -> bool:
    if name.startswith(registry.WRITERS):
        return registry.registration(name, value) is not None
    if name.startswith(registry.ANNOUNCED):
        return registry.announced(name, value) is not None
    return removal.going(value) is not None


def run(store: Store, observe_seconds: float) -> list[str]:
    """Gives up dead writers, then removes what cannot be read; `StoreInUse` when that must wait for living ones."""
    names = damaged(store)
    unknown = [name for name in names if name.startswith(registry.WRITERS)]
    alive = _alive(store, unknown, observe_seconds) if unknown else set()
    for name in unknown:
        writer = name[len(registry.WRITERS) :].partition(".")[0]
        if writer not in alive:
            # His restore point's name is not known; without an index file of his own he cannot publish what he wrote.
            registry.revoke(store.backend, registry.Registration(writer, None), build(()))
    if not alive:
        collect.give_up_dead(store, observe_seconds, collect.Report())
    left = [name for name in names if name not in unknown]
    writers = [name for name, _size in store.backend.list(registry.WRITERS)]
    if writers and (alive or any(name.startswith(registry.ANNOUNCED) for name in left)):
        raise StoreInUse(store=store.name, name=names[0], writers=find.few(writers, 20))
    for name in left:
        store.backend.delete(name)
    return names


def _alive(store: Store, unknown: list[str], observe_seconds: float) -> set[str]:
    before = registry.beats(store.backend)
    store.clock.sleep(observe_seconds)
    after = registry.beats(store.backend)
    ids = {name[len(registry.WRITERS) :].partition(".")[0] for name in unknown}
    return {writer for writer in ids if after.get(writer) != before.get(writer)}
