# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""keys: who can open an encrypted store."""

from __future__ import annotations

from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.cli import text
from ansible_collections.stowage.esxi.plugins.module_utils.cli.errors import OK
from ansible_collections.stowage.esxi.plugins.module_utils.cli.session import Command, Session
from ansible_collections.stowage.esxi.plugins.module_utils.store import keys
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadKeys
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store


def _arguments(parser: Any) -> None:
    parser.add_argument(
        "do",
        choices=("list", "add", "remove", "recovery"),
        help="add: a passphrase, in place of one of the same name; recovery: a random key to be printed",
    )
    parser.add_argument("--key", metavar="NAME", help="name of the key; for recovery the default is: recovery")
    parser.add_argument("--new-passphrase-file", metavar="PATH", help="for add: the new passphrase")
    parser.add_argument("--new-passphrase-fd", type=int, metavar="N", help="for add: the new passphrase")


def _run(session: Session) -> int:
    args = session.args
    if args.do in ("add", "remove") and not args.key:
        raise session.usage(f"keys {args.do} needs --key NAME")
    with session.open() as store:
        document: dict[str, Any] = {}
        lines: list[str] = []
        if args.do == "add":
            keys.set_passphrase(store, args.key, session.new_secret.needed(twice=True))
        elif args.do == "remove":
            keys.remove(store, args.key)
        elif args.do == "recovery":
            name = args.key or keys.RECOVERY
            _refuse_taken(store, name)
            document["recovery_key"] = keys.add_recovery(store, name)
            lines = ["recovery key, shown this once:", f"  {document['recovery_key']}", ""]
        there = keys.slots(store.backend)
        document["keys"] = [{"name": slot.name, "kind": slot.kind} for slot in there]
        lines += text.table(["KEY", "KIND"], [[slot.name, slot.kind] for slot in there])
        session.console.result(document, lines)
    return OK


def _refuse_taken(store: Store, name: str) -> None:
    """A recovery key lies on paper somewhere: it is never replaced in passing."""
    if any(slot.name == name for slot in keys.slots(store.backend)):
        raise BadKeys(store=store.name, reason=f"there is a key {name!r}; remove it first, or give another --key")


COMMANDS = (Command("keys", "list, add and remove keys of an encrypted store", _arguments, _run),)
