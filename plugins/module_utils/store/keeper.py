# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever changes what others have written: one at a time, by a turn that is a name nobody can take twice.

A keeper is registered like a writer, so collections wait for it, and it may be given up like one. All that it can
publish is one index file of its own name. Whoever gives it up takes that name: one that wakes up late changes nothing.
What it then removes is in the index file that it has published, or was announced and waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.stowage.esxi.plugins.module_utils.store import registry, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    Damaged,
    KeeperBusy,
    KeeperRevoked,
    ObjectExists,
    ObjectMissing,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import Segment, build
from ansible_collections.stowage.esxi.plugins.module_utils.store.merge import Merged
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_number
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Registered

TURNS = "turns/"


class Keeper(Registered):
    """Has the turn from its making to its end; `KeeperBusy` when another has it."""

    _nameless = False

    def __init__(self, store: Store) -> None:
        super().__init__(store, None)
        try:
            self._take_turn()
        except BaseException:
            self.abort()
            raise

    def _take_turn(self) -> None:
        backend = self.store.backend
        turns = _turns(self.store)
        others = {one.id for one in registry.registrations(backend) if one.point is None} - {self.id}
        if turns:
            holder = _holder(self.store, turns[-1])
            # One that cannot be read is free only when nobody is there who could have it.
            if holder in others or (holder is None and others):
                raise KeeperBusy(store=self.store.name)
        number = 1 + (_number(turns[-1]) if turns else 0)
        mine = f"{TURNS}{number:012d}.json"
        try:
            backend.create(mine, textfile.render({"writer": self.id}))
        except ObjectExists as error:
            raise KeeperBusy(store=self.store.name) from error
        # Who looked long ago may have made an old number anew.
        if _turns(self.store)[-1] != mine:
            raise KeeperBusy(store=self.store.name)
        for name in turns:
            backend.delete(name)

    def publish(self, merged: Merged) -> None:
        """The one index file of this keeper; `KeeperRevoked` when it was given up meanwhile."""
        upload = self.store.backend.upload(registry.index_name(self.id))
        self.published = True
        try:
            for piece in merged.pieces():
                upload.append([piece])
            upload.commit()
        except ObjectExists as error:
            upload.abort()
            raise KeeperRevoked(store=self.store.name) from error
        except BaseException:
            upload.abort()
            raise

    def replace(self, old: Sequence[Segment], merged: Merged) -> None:
        """An index file in the place of others, which hold nothing else."""
        if merged.count:
            self.publish(merged)
        else:
            self._take_name()
        for segment in old:
            self.store.backend.delete(segment.name)
        self.store.index(fresh=True)

    def _take_name(self) -> None:
        """Where there is nothing to publish: whoever has given us up has our index file's name."""
        try:
            self.store.backend.create(registry.index_name(self.id), build(()))
        except ObjectExists as error:
            raise KeeperRevoked(store=self.store.name) from error
        self._nameless = True

    def unregister(self) -> None:
        super().unregister()
        if self._nameless:
            self.store.backend.delete(registry.index_name(self.id))

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self.abort()
        else:
            self.unregister()


def _turns(store: Store) -> list[str]:
    return sorted(name for name, _size in store.backend.list(TURNS) if is_number(name[len(TURNS) :].partition(".")[0]))


def _number(name: str) -> int:
    return int(name[len(TURNS) :].partition(".")[0])


def _holder(store: Store, name: str) -> str | None:
    try:
        return str(textfile.parse(store.backend.read(name, 1 << 16), name, store.name).get("writer"))
    except ObjectMissing as error:
        # The next turn has begun since.
        raise KeeperBusy(store=store.name) from error
    except Damaged:
        return None
