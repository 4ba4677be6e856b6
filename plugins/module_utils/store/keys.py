# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of an encrypted store: each passphrase or recovery key has a slot in which the master key lies wrapped.

A slot is its file in `keys/`, `<slot>.json`; one that was replaced has a number in its name, `<slot>.2.json`. The
master key itself never changes: who has an old passphrase *and* an old copy of its file can still open the store.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.store import crypto, keyfiles, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadKeys, Damaged, ObjectMissing
from ansible_collections.stowage.esxi.plugins.module_utils.store.keyfiles import FOLDER
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import is_number
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

PASSPHRASE, RECOVERY, DAMAGED = "passphrase", "recovery", "damaged"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Slot:
    """One key that opens the store."""

    name: str
    kind: str
    """`passphrase` or `recovery`, or `damaged`: that one opens nothing any more."""
    object_name: str


def slots(backend: Backend) -> list[Slot]:
    """All keys, by name. Needs no key itself."""
    found = []
    for name, entry in keyfiles.read(backend).items():
        kind = DAMAGED if isinstance(entry, Damaged) else RECOVERY if entry.get("kdf") == "none" else PASSPHRASE
        found.append(Slot(name[len(FOLDER) :].partition(".")[0], kind, name))
    return found


def opens(store: Store, slot: Slot, secret: str) -> bool:
    """Whether this very slot opens to the secret."""
    try:
        entry = textfile.parse(store.backend.read(slot.object_name, 1 << 16), slot.object_name, store.name)
        crypto.unlock([entry], _bytes(secret), store.id, store.name)
    except (crypto.WrongKey, Damaged, ObjectMissing):
        return False
    return True


def set_passphrase(store: Store, name: str, passphrase: str) -> None:
    """A new key of this name; one that has it already is replaced, the new one being there before the old one goes."""
    vault = _vault(store)
    check_name(name, store.name)
    if not passphrase:
        raise BadKeys(store=store.name, reason="an empty passphrase protects nothing")
    entry = vault.wrap(name, _bytes(passphrase), store.id)
    _replace(store, name, textfile.render(entry))


def add_recovery(store: Store, name: str = RECOVERY) -> str:
    """A new random key for paper, as it is to be printed; it is never shown again."""
    vault = _vault(store)
    check_name(name, store.name)
    key = secrets.token_bytes(crypto.KEY_BYTES)
    _replace(store, name, textfile.render(vault.wrap(name, key, store.id, "none")))
    return crypto.recovery_text(key)


def check_name(name: str, store: str) -> None:
    """It becomes the name of a file."""
    if not _NAME.fullmatch(name):
        raise BadKeys(store=store, reason=f"{name!r} is no name of a key (small letters, digits, dashes, at most 40)")


def remove(store: Store, name: str) -> None:
    """The key of this name opens the store no more. The last one cannot go."""
    _vault(store)
    there = slots(store.backend)
    going = [slot for slot in there if slot.name == name]
    if not going:
        raise BadKeys(store=store.name, reason=f"there is no key {name!r}, but {', '.join(sorted(_names(there)))}")
    if all(slot in going for slot in there if slot.kind != DAMAGED):
        raise BadKeys(store=store.name, reason=f"{name!r} is the only key; without one nobody can read the store again")
    for slot in going:
        store.backend.delete(slot.object_name)


def _names(there: list[Slot]) -> set[str]:
    return {slot.name for slot in there}


def _replace(store: Store, name: str, data: bytes) -> None:
    old = [slot for slot in slots(store.backend) if slot.name == name]
    numbers = [_number(slot.object_name) for slot in old]
    ending = f".{max(numbers) + 1}.json" if numbers else ".json"
    store.backend.create(f"{FOLDER}{name}{ending}", data)
    for slot in old:
        store.backend.delete(slot.object_name)


def _number(object_name: str) -> int:
    parts = object_name[len(FOLDER) :].split(".")
    return int(parts[1]) if len(parts) == 3 and is_number(parts[1]) else 1


def _vault(store: Store) -> crypto.Vault:
    if store.vault is None:
        raise BadKeys(store=store.name, reason="it is not encrypted, and cannot become so")
    return store.vault


def _bytes(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")
