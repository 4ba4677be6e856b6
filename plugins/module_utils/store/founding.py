# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store is made: all that lies in it from the beginning, its configuration last.

What a making that was cut short has left is known by its names, and the next making goes on from there. Of several at
once one creates the configuration. Only then does it remove what others have left: who comes second has nothing there
any more that he could need.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import secrets
from collections.abc import Mapping
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.base.clock import Clock, iso
from ansible_collections.stowage.esxi.plugins.module_utils.store import crypto, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.config import CHUNK_SIZES, DEFAULTS
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import ObjectExists, StoreExists
from ansible_collections.stowage.esxi.plugins.module_utils.store.identity import HASHES, XXH3

VERSION = 1
CONFIG = "config.json"
_LEFT = re.compile(
    r"README\.txt|reader\.py|stowage\.pyz|keys/first(\.[0-9]+)?\.json|settings/[0-9]{8}\.json|check/[0-9a-f]{16}"
)
# What only a store that was whole once has.
_DATA = ("packs/", "index/", "points/")

_README = """\
This is a store of restore points of virtual machines' disks (stowage-store, version 1, {id}).
Nothing in it may be changed, renamed or deleted by hand.

To restore with nothing but Python 3 and the library or the program zstd:

    python3 reader.py .                                  the restore points
    python3 reader.py . POINT                            its disks and files
    python3 reader.py . POINT DISK-OR-FILE TARGET        one of them, to a new file (a raw image)

An encrypted store also needs the library cryptography, and its passphrase or recovery key in STOWAGE_PASSPHRASE.
A store with the hash blake3 needs the library blake3. POINT is the whole id of a restore point.
Where stowage.pyz lies here, and Python 3.9 or newer has the libraries zstandard and xxhash, there is the whole
command line:

    python3 stowage.pyz --help

The format is described in docs/store-format.md of the collection stowage.esxi.
"""


def look(backend: Backend) -> tuple[list[str], str | None]:
    """What a making that was cut short has left here, and the first thing that it has not: only an empty place, or one
    without such a thing, may become a store."""
    left: list[str] = []
    for name, _size in backend.list(""):
        if _LEFT.fullmatch(name) is None:
            return left, name
        left.append(name)
    return sorted(left), None


def instead(backend: Backend) -> str:
    """What a place without a configuration is, in words."""
    left, other = look(backend)
    none = f"there is no {CONFIG} in it"
    if other is None:
        return f"{none}: its making was cut short; create it again, which finishes it" if left else none
    if other.startswith(_DATA):
        return f"{none}, but {other}: it was a store; put its {CONFIG} back from a copy of it"
    return f"{none}, but {other}"


def wanted(chunk_bytes: int, hash_name: str, clock: Clock, check: str = XXH3) -> dict[str, Any]:
    """The configuration of a store that is to be, without its seed."""
    if chunk_bytes not in CHUNK_SIZES:
        raise ValueError(f"chunks of {chunk_bytes} bytes: a power of two from {CHUNK_SIZES[0]} to {CHUNK_SIZES[-1]}")
    if hash_name not in HASHES:
        raise ValueError(f"unknown hash {hash_name!r}")
    return {
        "format": "stowage-store",
        "version": VERSION,
        "id": secrets.token_hex(16),
        "chunk_bytes": chunk_bytes,
        "hash": hash_name,
        "encryption": None,
        # Where it is not named it is what every store had before there were others.
        **({"check": check} if check != XXH3 else {}),
        "created_at": iso(clock.now()),
    }


def found(
    backend: Backend,
    config: dict[str, Any],
    passphrase: str | None,
    settings: Mapping[str, Any] | None,
    beside: Mapping[str, bytes],
) -> tuple[dict[str, Any], crypto.Vault | None]:
    """Makes it; its configuration, and what follows from its master key where it has one. `StoreExists`."""
    # Here: whoever only opens a store need not load it.
    from ansible_collections.stowage.esxi.plugins.module_utils.store import reader

    left, other = look(backend)
    if other is not None:
        raise StoreExists(store=backend.name, reason=f"{other} is there")
    backend.check()
    objects: dict[str, bytes] = {}
    vault = crypto.new_vault() if passphrase is not None else None
    if vault is None or passphrase is None:
        config["seed"] = secrets.token_hex(8)
    else:
        config["encryption"] = {"cipher": "aes-256-gcm"}
        slot = vault.wrap("first", passphrase.encode("utf-8", "surrogateescape"), config["id"])
        objects[_key(left)] = textfile.render(slot)
    before = [int(name[len("settings/") :].partition(".")[0]) for name in left if name.startswith("settings/")]
    if settings or before:
        objects[f"settings/{max(before, default=0) + 1:08d}.json"] = textfile.render({**DEFAULTS, **(settings or {})})
    programs = {
        "README.txt": _README.format(id=config["id"]).encode("ascii"),
        "reader.py": inspect.getsource(reader).encode("utf-8"),
        **beside,
    }
    objects.update((name, data) for name, data in programs.items() if name not in left)
    # Last: a store exists when its configuration does.
    objects[CONFIG] = textfile.render(config)
    _create(backend, objects)
    for name in left:
        # A check may be that of one who is at it right now: he would take its end for a place that keeps nothing.
        if not name.startswith(("settings/", "check/")):
            backend.delete(name)
        if name in programs:
            # One who came second and has not seen that yet may have put his own there.
            with contextlib.suppress(ObjectExists):
                backend.create(name, programs[name])
    return config, vault


def _key(left: list[str]) -> str:
    numbers = [int(name.split(".")[1]) if name.count(".") == 2 else 1 for name in left if name.startswith("keys/")]
    return f"keys/first.{max(numbers) + 1}.json" if numbers else "keys/first.json"


def _create(backend: Backend, objects: Mapping[str, bytes]) -> None:
    mine = []
    try:
        for name, data in objects.items():
            backend.create(name, data)
            mine.append(name)
    except ObjectExists as error:
        # Not the programs: who was faster may have put his own in their places.
        for one in mine:
            if one.startswith(("keys/", "settings/")):
                backend.delete(one)
        raise StoreExists(store=backend.name, reason=f"somebody else is making it: {name} is there") from error
