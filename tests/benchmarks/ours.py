# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our half of the benchmarks: one act of the store in a process of its own, its start and its commit included."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, restore, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

MACHINE = "machine"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("act", choices=["create", "backup", "restore", "verify"])
    parser.add_argument("store")
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument(
        "--no-trust", action="store_true", help="name every chunk by its hash, whatever the parent says"
    )
    parser.add_argument("--changed", help="a file with the changed ranges of each disk")
    parser.add_argument("--paranoid", action="store_true")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--deep", action="store_true")
    words = parser.parse_intermixed_args()
    backend = LocalBackend(words.store)
    if words.act == "create":
        options: dict[str, Any] = {"hash_name": "blake3", "settings": {"level": -1}} if words.fast else {}
        passphrase = os.environ["STOWAGE_PASSPHRASE"] if words.encrypted else None
        Store.create(backend, passphrase=passphrase, **options)
        return
    store = Store.open(backend, os.environ["STOWAGE_PASSPHRASE"])
    if words.act == "backup":
        _backup(store, words)
    elif words.act == "restore":
        disk, target = words.paths
        found = next(one for one in store.points(MACHINE)[-1].disks if one.key == _key(disk))
        print(restore.to_file(store, found, target, in_place=words.in_place, paranoid=words.paranoid))
    else:
        report = verify.run(store, deep=words.deep)
        if not report.ok:
            raise SystemExit(f"damaged: {report.problems} {report.hit}")


def _backup(store: Store, words: argparse.Namespace) -> None:
    before = store.points(MACHINE)
    changed = json.loads(Path(words.changed).read_text()) if words.changed else {}
    disks = [backup.DiskInput(_key(path), RawDisk(path), changed.get(path)) for path in words.paths]
    parent = before[-1] if before else None
    _point, told = backup.run(store, MACHINE, MACHINE, disks, parent=parent, trust_check=not words.no_trust)
    print(told)


def _key(path: str) -> str:
    """The same disk on both days."""
    return Path(path).stem.partition("-")[0]


if __name__ == "__main__":
    main()
