# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who writes, and what is about to go: the two lists by which writers and a collection stay out of each other's way.

A writer registers, then reads what is announced, then reads the index. A collection announces, then reads who is
registered, and removes nothing before all of those have ended. Whichever order two of them meet in, either the writer
knows what he must not lean on, or the collection waits for him. No clock takes part.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.stowage.esxi.plugins.module_utils.store import textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.interface import Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import Damaged, ObjectExists, ObjectMissing
from ansible_collections.stowage.esxi.plugins.module_utils.store.names import (
    is_pack_name,
    is_point_name,
    is_writer_id,
    names_in,
)

WRITERS, BEATS, ANNOUNCED = "writers/", "beats/", "gc/"


def revoked() -> bytes:
    """What stands in the place of a restore point that must never come."""
    return textfile.render({"revoked": True})


@dataclass(frozen=True)
class Registration:
    """A writer that has not ended. `point` is the one name that it may commit; None for a keeper, who commits none."""

    id: str
    point: str | None

    @property
    def object_name(self) -> str:
        return f"{WRITERS}{self.id}.json"


@dataclass(frozen=True)
class Announcement:
    """Packs that no new restore point may lean on, and the writers that may not know it yet (None: not asked yet).

    Its id never comes again: whoever withdraws it late, withdraws nothing else.
    """

    id: str
    packs: frozenset[str]
    waits_for: frozenset[str] | None

    @property
    def object_name(self) -> str:
        return f"{ANNOUNCED}{self.id}.json"

    @property
    def waits_name(self) -> str:
        return f"{ANNOUNCED}{self.id}-waits.json"


def _objects(backend: Backend, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, _size in sorted(backend.list(prefix)):
        try:
            value = textfile.parse(backend.read(name), name, backend.name)
        except ObjectMissing:
            continue
        yield name, value


def registration(name: str, value: Mapping[str, Any]) -> Registration | None:
    """What a registration says; None when it is none: whoever gives a writer up creates and deletes these names."""
    writer = Registration(value.get("writer", ""), value.get("point", ""))
    # A keeper has no point.
    sound = is_writer_id(writer.id) and (writer.point is None or is_point_name(writer.point))
    return writer if sound and writer.object_name == name else None


def registrations(backend: Backend) -> list[Registration]:
    found = []
    for name, value in _objects(backend, WRITERS):
        writer = registration(name, value)
        if writer is None:
            raise Damaged(name=name, store=backend.name, reason="it is no registration of a writer")
        found.append(writer)
    return found


def _token(name: str) -> tuple[str, bool]:
    """The id of an announcement, and whether this object of it says for whom it waits."""
    token, dash, _rest = name[len(ANNOUNCED) :].partition(".")[0].partition("-")
    return token, bool(dash)


def announced(name: str, value: Mapping[str, Any]) -> frozenset[str] | None:
    """The packs of an announcement, or the writers that it waits for; None when it names neither."""
    _id, waits = _token(name)
    return names_in(value.get("writers"), is_writer_id) if waits else names_in(value.get("packs"), is_pack_name)


def announcements(backend: Backend) -> list[Announcement]:
    packs: dict[str, frozenset[str]] = {}
    waits: dict[str, frozenset[str]] = {}
    for name, value in _objects(backend, ANNOUNCED):
        found = announced(name, value)
        if found is None:
            raise Damaged(name=name, store=backend.name, reason="it is no list of packs")
        token, waiting = _token(name)
        (waits if waiting else packs)[token] = found
    return [Announcement(token, packs[token], waits.get(token)) for token in sorted(packs)]


def condemned(backend: Backend) -> frozenset[str]:
    """Packs that no new restore point may lean on."""
    return frozenset().union(*(one.packs for one in announcements(backend)))


def announce(backend: Backend, packs: frozenset[str]) -> None:
    """From here on no new restore point leans on these packs; those that may do so already are fixed after that."""
    one = Announcement(secrets.token_hex(8), packs, None)
    backend.create(one.object_name, textfile.render({"packs": sorted(packs)}))
    ask_waits(backend, one)


def ask_waits(backend: Backend, one: Announcement) -> None:
    """Fixes for whom this announcement waits: all that are registered after it stood."""
    ids = frozenset(writer.id for writer in registrations(backend))
    with contextlib.suppress(ObjectExists):
        backend.create(one.waits_name, textfile.render({"writers": sorted(ids)}))


def withdraw(backend: Backend, one: Announcement) -> None:
    """The announcement goes first: what is left of it alone says nothing."""
    backend.delete(one.object_name)
    backend.delete(one.waits_name)


def beats(backend: Backend) -> dict[str, int]:
    """The highest beat of every writer."""
    found: dict[str, int] = {}
    for name, _size in backend.list(BEATS):
        writer, _dash, number = name[len(BEATS) :].partition("-")
        with contextlib.suppress(ValueError):
            found[writer] = max(found.get(writer, 0), int(number))
    return found


def index_name(writer: str) -> str:
    return f"index/{writer}.idx"


def revoke(backend: Backend, writer: Registration, empty_index: bytes) -> bool:
    """Takes the names that the writer could still create; False when he had committed. Either way he has ended.

    His index, too: one that came after his packs were removed would lead others to what is not there.
    """
    with contextlib.suppress(ObjectExists):
        backend.create(index_name(writer.id), empty_index)
    taken = True
    try:
        if writer.point is not None:
            backend.create(writer.point, revoked())
    except ObjectExists:
        taken = False
    for name, _size in list(backend.list(BEATS)):
        if name[len(BEATS) :].partition("-")[0] == writer.id:
            backend.delete(name)
    backend.delete(writer.object_name)
    return taken
