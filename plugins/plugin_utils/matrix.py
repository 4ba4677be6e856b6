# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may reach whom, from the matrix of role link_fleet: the pairs of machines that one machine of a run deals with.

Plain data in, plain data out; nothing here reaches a machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# What makes a word more than a name: a pattern may fit nothing today and something tomorrow, a name may not.
_PATTERN = re.compile(r"[*?\[\]~]")
# Ansible has these without an inventory.
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Inventory(Protocol):
    """The hosts and groups that there are."""

    groups: Mapping[str, Collection[str]]

    def split(self, words: Any) -> list[str]:
        """Hosts, groups and patterns, one in each."""

    def hosts(self, patterns: Sequence[str]) -> Sequence[str]:
        """The hosts that they come to."""


def lay_out(
    entries: Sequence[Mapping[str, Any]], inventory: Inventory, me: str, played: Collection[str]
) -> dict[str, Any]:
    """What machine `me` does about the links that `entries` name, in a run with the hosts `played`.

    * `pairs`: for each entry a list of sources and targets. Each pair is dealt with by one of the two: by that of the
      larger side, so that forks share the work; by the other one where that one is not in the run. A source that has
      left the inventory is in pairs of links to revoke only: its target forgets its key;
    * `named`: `NAME:SOURCE:TARGET` of every link to `me` in the matrix, whoever deals with it, with `:USER` where the
      entry names the account;
    * `asked`: the other machines that deal with links to `me`;
    * `problems`: a sentence for each name that no host and no group has. Where there is one, the rest must not be used;
    * `notes`: a sentence for each machine that has left and has nothing to forget.
    """
    laid: list[list[list[str]]] = []
    named: set[str] = set()
    asked: set[str] = set()
    problems: list[str] = []
    notes: list[str] = []
    for entry in entries:
        absent = entry.get("state", "present") == "absent"
        account = f":{entry['user']}" if entry.get("user") else ""
        sides = [_Side.of(entry[side], inventory) for side in ("from", "to")]
        problems += [
            f"link {entry['name']!r}: {word!r} is no host and no group of the inventory. Correct it; the links of a "
            "machine that has left are revoked by an entry of their own with state: absent"
            for side in sides
            for word in (*side.wrong, *(() if absent else side.gone))
        ]
        pairs: list[tuple[str, str]] = []
        for sources, targets in [sides, sides[::-1]] if entry.get("both_ways") else [sides]:
            for source, target in _pairs_of(me, sources, targets):
                first, second = (source, target) if len(sources.hosts) > len(targets.hosts) else (target, source)
                doing = first if first in played else second
                if doing == me:
                    pairs.append((source, target))
                elif target == me and doing in played:
                    asked.add(doing)
                if target == me:
                    named.add(f"{entry['name']}:{source}:{target}{account}")
            if absent and me in targets.hosts:
                pairs += [(source, me) for source in sources.gone]
                named.update(f"{entry['name']}:{source}:{me}{account}" for source in sources.gone)
            if absent and me in sources.hosts:
                notes += [
                    f"link {entry['name']!r}: {target} has left the inventory and was not asked to forget the key of "
                    f"{me}. Where it still stands, revoke the key there"
                    for target in targets.gone
                ]
        laid.append([list(pair) for pair in dict.fromkeys(pairs)])
    return {"pairs": laid, "named": sorted(named), "asked": sorted(asked), "problems": problems, "notes": notes}


@dataclass(frozen=True)
class _Side:
    """One side of a link: inventory hosts; names that nobody has (any more); and such behind `!` or `&`."""

    hosts: tuple[str, ...]
    gone: tuple[str, ...]
    wrong: tuple[str, ...]

    @classmethod
    def of(cls, words: Any, inventory: Inventory) -> _Side:
        names = inventory.split(words)
        unknown = [name for name in names if _unknown(name.lstrip("!&"), inventory.groups)]
        wrong = tuple(name for name in unknown if name[0] in "!&")
        gone = tuple(name for name in unknown if name not in wrong)
        there = [name for name in names if name not in unknown]
        # Of "gone, but not this one" nothing is left; an exclusion alone would mean all but this one.
        some = any(name[0] not in "!&" for name in there)
        return cls(tuple(inventory.hosts(there)) if some or not gone else (), gone, wrong)


def _unknown(name: str, groups: Mapping[str, Collection[str]]) -> bool:
    return not _PATTERN.search(name) and name not in (*groups, *groups["all"], *_LOCAL)


def _pairs_of(me: str, sources: _Side, targets: _Side) -> Iterator[tuple[str, str]]:
    """The links from and to `me`; none leads from a machine to itself."""
    if me in sources.hosts:
        yield from ((me, target) for target in targets.hosts if target != me)
    if me in targets.hosts:
        yield from ((source, me) for source in sources.hosts if source != me)


def unlisted(found: Sequence[Mapping[str, Any]], named: Collection[str]) -> list[dict[str, str]]:
    """Links that a machine accepts and nobody named, each with `name`, `source` and `target`, and the `user`.

    `found` are results of module `link_server` for links to that machine; each tells which marks the file of its user
    had. `named` are links as `NAME:SOURCE:TARGET`, or with `:USER` where they are meant for that account alone.
    """
    known = set(named)
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for result in found:
        user = str(result["link"]["user"])
        for mark in result.get("links_accepted") or ():
            link = str(mark).removeprefix("stowage-link:")
            if not known & {link, f"{link}:{user}"}:
                seen[user, link] = dict(zip(("name", "source", "target"), link.split(":")), user=user)
    return [seen[key] for key in sorted(seen)]
