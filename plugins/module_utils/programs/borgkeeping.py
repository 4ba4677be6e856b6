# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository of borg, made where it is not there, and checked."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.stowage.esxi.plugins.module_utils.base.waiter import Waiter, WaitTimeout
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borg import Archive, Repository
from ansible_collections.stowage.esxi.plugins.module_utils.programs.borgerrors import (
    BorgFailed,
    NoRepository,
    RepositoryDamaged,
    WrongPassphrase,
)

# Longer than borg takes to make one on a slow line.
_MAKING_SECONDS = 30
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
        archives, made = (), True
        if not dry:
            made = _make(repository, mode)
            archives = tuple(repository.archives())
        if made:
            actions.append(f"made a repository at {repository.location}, encryption {mode}")
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


def _make(repository: Repository, encryption: str) -> bool:
    """Whether it was made here. All hosts of a fleet may try at once: borg lets one do it, the others wait for that."""
    try:
        repository.make(encryption)
    except BorgFailed as error:
        # What has a name of its own is not that something was there already.
        if error.id != BorgFailed.id:
            raise
        _wait_for_its_maker(repository, error)
        return False
    return True


def _wait_for_its_maker(repository: Repository, error: BorgFailed) -> None:
    def opens() -> bool | None:
        try:
            # Not `look`: who does not wait for the maker's lock may be in his way.
            repository.run(["list", repository.location])
        except BorgFailed as failure:
            if isinstance(failure, WrongPassphrase):
                raise
            return None
        return True

    try:
        Waiter(_MAKING_SECONDS, interval_seconds=0.2, max_interval_seconds=2.0).until(opens, "its making")
    except WaitTimeout:
        raise error from None
