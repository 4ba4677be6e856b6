# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store as it shall be: what is missing of that is decided first, and done second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter, WaitTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.store import founding, keys, settings
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.config import CHUNK_SIZES, KEPT_DEFAULTS
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BadKeys,
    BadSettings,
    NoStore,
    StoreExists,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import HASHES
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

FIRST_KEY = "first"
# Some small files: longer only on a line that hardly moves.
_MAKING_SECONDS = 30
_ATTEMPTS = 3


@dataclass(frozen=True)
class Wish:
    """What is None is left as it is, or made as is usual. `keys`: passphrases by the names of their keys."""

    chunk_bytes: int | None = None
    hash_name: str | None = None
    passphrase: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    purge_keys: bool = False
    recovery_key: bool = False


@dataclass
class Plan:
    """What is to be done. `before` and `after` are the store as it can be shown; None where there is none."""

    create: bool
    settings: dict[str, Any]
    set_keys: list[str]
    remove_keys: list[str]
    recovery_key: bool
    before: dict[str, Any] | None
    after: dict[str, Any]

    @property
    def changed(self) -> bool:
        return self.create or self.before != self.after or bool(self.set_keys)

    @property
    def words(self) -> list[str]:
        said = ["create the store"] if self.create else []
        old = (self.before or {}).get("settings", {})
        if not self.create:
            said += [f"set {name} from {old.get(name)} to {value}" for name, value in sorted(self.settings.items())]
        said += [f"set the key {name!r}" for name in self.set_keys]
        said += [f"remove the key {name!r}" for name in self.remove_keys]
        return said + (["make a recovery key"] if self.recovery_key else [])


def look(backend: Backend, wish: Wish) -> Store | None:
    """The store that is there, opened; None in an empty place, or where a making was cut short; `StoreExists` where
    something else is."""
    with contextlib.suppress(NoStore):
        return Store.open(backend, wish.passphrase)
    _left, other = founding.look(backend)
    if other is None:
        return None
    try:
        # Somebody else may have made it between the two looks.
        return Store.open(backend, wish.passphrase)
    except NoStore:
        raise StoreExists(store=backend.name, reason=f"{other} is there, but no store") from None


def plan(backend: Backend, wish: Wish, store: Store | None) -> Plan:
    """Refuses what cannot be, in a check as in a run."""
    _refuse(backend, wish, store)
    chunk, hash_name = wish.chunk_bytes or 1 << 20, wish.hash_name or HASHES[0]
    encrypted = store.vault is not None if store else wish.passphrase is not None
    there = {slot.name: slot for slot in keys.slots(backend)} if store else {}
    if store is None:
        new = settings.check({**(KEPT_DEFAULTS if backend.keeps_chunks else {}), **wish.settings}, backend.name)
        change = new
        before = None
    else:
        chunk, hash_name = store.chunk_bytes, store.config["hash"]
        new = settings.check({**store.settings, **wish.settings}, backend.name)
        change = {name: value for name, value in new.items() if value != store.settings.get(name)}
        before = _shown(chunk, hash_name, encrypted, store.settings, {name: slot.kind for name, slot in there.items()})
    set_keys = [
        name
        for name, passphrase in wish.keys.items()
        if store is None or name not in there or not keys.opens(store, there[name], passphrase)
    ]
    kinds = {name: slot.kind for name, slot in there.items()}
    if store is None and encrypted:
        kinds[FIRST_KEY] = keys.PASSPHRASE
    kinds.update(dict.fromkeys(set_keys, keys.PASSPHRASE))
    going = [name for name, kind in kinds.items() if kind == keys.PASSPHRASE and name not in wish.keys]
    going = going if wish.purge_keys else []
    recovery = wish.recovery_key and keys.RECOVERY not in kinds.values()
    if recovery:
        kinds[keys.RECOVERY] = keys.RECOVERY
    left = {name: kind for name, kind in kinds.items() if name not in going}
    after = _shown(chunk, hash_name, encrypted, new, left)
    return Plan(store is None, change, set_keys, sorted(going), recovery, before, after)


def run(
    backend: Backend, wish: Wish, decided: Plan, store: Store | None, beside: Mapping[str, bytes]
) -> tuple[Store, str | None]:
    """The store, and a recovery key where one was made: it can never be shown again."""
    if store is None:
        store = Store.create(
            backend,
            chunk_bytes=decided.after["chunk_bytes"],
            hash_name=decided.after["hash"],
            passphrase=wish.passphrase,
            settings=decided.settings,
            beside=beside,
        )
    elif decided.settings:
        settings.change(store, decided.settings)
    for name in decided.set_keys:
        keys.set_passphrase(store, name, wish.keys[name])
    paper = keys.add_recovery(store) if decided.recovery_key else None
    # Last: until then at least one of the old keys opens the store.
    for name in decided.remove_keys:
        keys.remove(store, name)
    return store, paper


def fulfil(
    backend: Backend, wish: Wish, beside: Callable[[], Mapping[str, bytes]], check: bool = False
) -> tuple[Plan, Store | None, str | None]:
    """What was decided, the store, and the recovery key that was made. With `check` nothing is done.
    `beside` is asked where one is made.

    All hosts of a fleet may make it at once: one does, and for the others it was there. Where further keys are wished
    for, only one may: each would take another's for its own."""
    attempts = 1 if wish.keys or wish.recovery_key else _ATTEMPTS
    while True:
        store = look(backend, wish)
        decided = plan(backend, wish, store)
        if check or not decided.changed:
            return decided, store, None
        attempts -= 1
        try:
            return (decided, *run(backend, wish, decided, store, beside() if decided.create else {}))
        except StoreExists:
            if not attempts:
                raise
        _wait_for_its_maker(backend, wish)


def _wait_for_its_maker(backend: Backend, wish: Wish) -> None:
    """Until it is there. Where it does not come, he has died: the next making goes on from what he has left."""

    def opened() -> bool | None:
        with contextlib.suppress(NoStore):
            Store.open(backend, wish.passphrase)
            return True
        return None

    with contextlib.suppress(WaitTimeout):
        Waiter(_MAKING_SECONDS, interval_seconds=0.1, max_interval_seconds=1.0).until(opened, "its making")


def _refuse(backend: Backend, wish: Wish, store: Store | None) -> None:
    def never(what: str, there: Any, wanted: Any) -> BadSettings:
        return BadSettings(
            store=backend.name, reason=f"{what} was {there} when it was made, and cannot become {wanted}"
        )

    if wish.chunk_bytes is not None and wish.chunk_bytes not in CHUNK_SIZES:
        reason = f"chunks have a power of two from {CHUNK_SIZES[0]} to {CHUNK_SIZES[-1]} bytes, not {wish.chunk_bytes}"
        raise BadSettings(store=backend.name, reason=reason)
    if wish.passphrase == "" or "" in wish.keys.values():
        raise BadKeys(store=backend.name, reason="an empty passphrase protects nothing")
    for name in wish.keys:
        keys.check_name(name, backend.name)
    if wish.purge_keys and not wish.keys:
        raise BadKeys(store=backend.name, reason="all of them were to be removed, and none to stay")
    encrypted = store.vault is not None if store else wish.passphrase is not None
    if not encrypted and (wish.keys or wish.recovery_key):
        raise BadKeys(store=backend.name, reason="it is not encrypted")
    if store is None:
        _refuse_where_chunks_are_kept(backend, wish)
        return
    if wish.passphrase is not None and store.vault is None:
        raise never("encryption", "off", "on: make a new store, and copy the restore points there")
    if wish.chunk_bytes not in (None, store.chunk_bytes):
        raise never("the size of a chunk", store.chunk_bytes, wish.chunk_bytes)
    if wish.hash_name not in (None, store.config["hash"]):
        raise never("the hash", store.config["hash"], wish.hash_name)


def _refuse_where_chunks_are_kept(backend: Backend, wish: Wish) -> None:
    """The machine that packs them has no key, and it sees the disks anyway."""
    if not backend.keeps_chunks:
        return
    if wish.passphrase is not None:
        reason = "the hypervisor packs the chunks itself and has no cipher; a store on a datastore is never encrypted"
        raise BadKeys(store=backend.name, reason=reason)
    if wish.hash_name not in (None, HASHES[0]):
        raise BadSettings(store=backend.name, reason=f"no hypervisor computes {wish.hash_name}")


def _shown(
    chunk: int, hash_name: str, encrypted: bool, set_to: Mapping[str, Any], kinds: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "chunk_bytes": chunk,
        "hash": hash_name,
        "encrypted": encrypted,
        "settings": dict(sorted(set_to.items())),
        "key_slots": [{"name": name, "kind": kind} for name, kind in sorted(kinds.items())],
    }
