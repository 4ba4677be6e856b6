# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may reach whom, from the matrix of role link_fleet: the pairs of machines that one machine of a run deals with.

Plain data in, plain data out; nothing here reaches a machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What makes a word more than a name: a pattern may fit nothing today and something tomorrow, a name may not.
_PATTERN = re.compile(r"[*?\[\]!&:,~]")
Resolve = Callable[[Sequence[str]], Sequence[str]]


def lay_out(
    entries: Sequence[Mapping[str, Any]],
    resolve: Resolve,
    groups: Mapping[str, Collection[str]],
    me: str,
    played: Collection[str],
) -> dict[str, Any]:
    """What machine `me` does about the links that `entries` name.

    `resolve` gives the inventory hosts that patterns fit; `groups` are the inventory's, with `all`; `played` are the
    hosts of the run. Returned:

    * `entries`: those with work for `me`, each with `pairs` of source and target. Each pair is dealt with by one of
      the two: by that of the larger side, so that forks share the work; by the other one where that one is not in the
      run. A source that has left the inventory is in pairs of links to revoke only: its target forgets its key;
    * `named`: `NAME:SOURCE:TARGET` of every link to `me` in the matrix, whoever deals with it;
    * `asked`: the other machines that deal with links to `me`;
    * `problems`: a sentence for each name that no host and no group has. Where there is one, the rest must not be used;
    * `notes`: a sentence for each machine that has left and has nothing to forget.
    """
    laid: list[dict[str, Any]] = []
    named: set[str] = set()
    asked: set[str] = set()
    problems: list[str] = []
    notes: list[str] = []
    for entry in entries:
        absent = entry.get("state", "present") == "absent"
        sides = [_Side.of(entry[side], resolve, groups) for side in ("from", "to")]
        if not absent:
            problems += [
                f"link {entry['name']!r}: {word!r} is no host and no group of the inventory. Correct it; the links of "
                "a machine that has left are revoked by an entry of their own with state: absent"
                for side in sides
                for word in side.gone
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
                    named.add(f"{entry['name']}:{source}:{target}")
            if absent and me in targets.hosts:
                pairs += [(source, me) for source in sources.gone]
                named.update(f"{entry['name']}:{source}:{me}" for source in sources.gone)
            if absent and me in sources.hosts:
                notes += [
                    f"link {entry['name']!r}: {target} has left the inventory and was not asked to forget the key of "
                    f"{me}. Where it still stands, revoke the key there"
                    for target in targets.gone
                ]
        if pairs:
            laid.append({**entry, "pairs": [list(pair) for pair in dict.fromkeys(pairs)]})
    return {
        "entries": laid,
        "named": sorted(named),
        "asked": sorted(asked),
        "problems": problems,
        "notes": notes,
    }


@dataclass(frozen=True)
class _Side:
    """One side of a link: inventory hosts, and names that nobody has (any more)."""

    hosts: tuple[str, ...]
    gone: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[Any], resolve: Resolve, groups: Mapping[str, Collection[str]]) -> _Side:
        names = [str(word) for word in words]
        gone = tuple(name for name in names if _unknown(name, groups))
        return cls(tuple(resolve([name for name in names if name not in gone])), gone)


def _pairs_of(me: str, sources: _Side, targets: _Side) -> Iterator[tuple[str, str]]:
    """The links from and to `me`; none leads from a machine to itself."""
    if me in sources.hosts:
        yield from ((me, target) for target in targets.hosts if target != me)
    if me in targets.hosts:
        yield from ((source, me) for source in sources.hosts if source != me)


def _unknown(word: str, groups: Mapping[str, Collection[str]]) -> bool:
    return not _PATTERN.search(word) and word not in groups and word not in groups["all"]


def unlisted(found: Sequence[Mapping[str, Any]], named: Collection[str]) -> list[dict[str, str]]:
    """Links that a machine accepts and nobody named, each with `name`, `source` and `target`, and the `user`.

    `found` are results of module `link_server` for links to that machine; each tells which marks the file of its user
    had. `named` are links as `NAME:SOURCE:TARGET`.
    """
    known = set(named)
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for result in found:
        user = str(result["link"]["user"])
        for mark in result.get("links_accepted") or ():
            link = str(mark).removeprefix("stowage-link:")
            if link not in known:
                seen[user, link] = dict(zip(("name", "source", "target"), link.split(":")), user=user)
    return [seen[key] for key in sorted(seen)]
