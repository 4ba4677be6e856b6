# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of damage has a bound: of a million damaged records the first are named, and the others counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

# Sentences of a kind, and the characters of one.
MOST = 1000
LONGEST = 600


def shortened(text: str) -> str:
    """Names in a store may be as long as a file."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST} characters more)"


def first(found: Sequence[str]) -> list[str]:
    return [shortened(one) for one in islice(found, MOST)]


def bounded(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The document with the first of each of these lists of sentences, or objects of them. Where that is not all,
    `untold` says how many more there are of each."""
    told = dict(document)
    untold = {}
    for name in names:
        if len(told[name]) > MOST:
            untold[name] = len(told[name]) - MOST
        if isinstance(told[name], Mapping):
            told[name] = {key: _value(value) for key, value in islice(sorted(told[name].items()), MOST)}
        else:
            told[name] = first(told[name])
    return {**told, "untold": untold}


def _value(value: str | Sequence[str]) -> str | list[str]:
    return shortened(value) if isinstance(value, str) else first(value)
