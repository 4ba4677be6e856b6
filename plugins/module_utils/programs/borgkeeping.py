# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository of borg, made where it is not there, and checked."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Archive, Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borgerrors import (
    BorgFailed,
    NoRepository,
    RepositoryDamaged,
)

CHECKS = ("none", "repository", "data")
_WORDS = {"repository": ["check"], "data": ["check", "--verify-data"]}


@dataclass(frozen=True)
class Kept:
    archives: tuple[Archive, ...]
    actions: tuple[str, ...]
    made: bool


def keep(repository: Repository, encryption: str | None, check: str, dry: bool, make: bool = True) -> Kept:
    """`encryption` is that of a new one, where `make` allows one; without a wish, with a passphrase it is encrypted.
    `dry` changes nothing."""
    repository.must_serve()
    actions, made = [], False
    try:
        archives = tuple(repository.archives())
    except NoRepository:
        if not make:
            raise
        mode = encryption or ("repokey-blake2" if repository.passphrase else "none")
        actions.append(f"made a repository at {repository.location}, encryption {mode}")
        archives, made = (), True
        if not dry:
            repository.make(mode)
            archives = tuple(repository.archives())
    if check != "none" and not made:
        try:
            repository.run([*_WORDS[check], repository.location])
        except BorgFailed as error:
            # Status 1 is what a check ends with that came to its end; whatever kept it from that has another one.
            if error.id == BorgFailed.id and error.data.get("rc") == 1:
                raise RepositoryDamaged(**error.data) from error
            raise
        actions.append(f"checked {len(archives)} archives" + (", all data read" if check == "data" else ""))
    return Kept(archives, tuple(actions), made)
