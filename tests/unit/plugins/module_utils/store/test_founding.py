# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store is made whole, wherever an earlier making was cut short, and by one alone of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import keys, wish
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import NoStore, StoreExists
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.wish import Wish
from benches import CHUNK, SECRET, back_up, by_hand, image, local, sound


class Killed(BaseException):
    """The process ends here."""


def make(root: Path, secret: str | None, before: Callable[[int], Any] = lambda step: None, **settings: Any) -> Store:
    """`before` is called before each object that is created."""
    backend = local(root)
    original, steps = backend.create, []

    def create(name: str, data: bytes) -> None:
        steps.append(name)
        before(len(steps))
        original(name, data)

    backend.create = create  # type: ignore[method-assign]
    try:
        return Store.create(
            backend, chunk_bytes=CHUNK, passphrase=secret, settings=settings, beside={"stowage.pyz": b"p" * 99}
        )
    finally:
        backend.create = original  # type: ignore[method-assign]


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("first", [None, "another one"])
def test_a_making_that_was_cut_short_anywhere_is_told_and_finished(
    tmp_path: Path, secret: str | None, first: str | None
) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    for step in range(1, 7):
        root = tmp_path / f"{step}"

        def kill(now: int, step: int = step) -> None:
            if now == step:
                raise Killed

        try:
            make(root, first, kill, level=7)
        except Killed:
            if step > 1:
                with pytest.raises(NoStore, match="its making was cut short; create it again, which finishes it"):
                    Store.open(local(root), secret)
            assert wish.look(local(root), Wish(passphrase=secret)) is None
        else:
            assert step == (6 if first is None else 7)
            continue
        store = make(root, secret, level=3)
        again = Store.open(local(root), secret)
        assert again.settings["level"] == 3 and again.id in (root / "README.txt").read_text()
        assert [(slot.name, slot.kind) for slot in keys.slots(again.backend)] == (
            [("first", "passphrase")] if secret else []
        )
        point, _told = back_up(store, disk)
        assert by_hand(root, point, tmp_path, secret=secret) == disk.read_bytes()
        sound(again)


@pytest.mark.folder
@pytest.mark.parametrize("secret", [None, SECRET])
def test_of_two_that_make_it_at_once_one_does_and_the_other_leaves_nothing(tmp_path: Path, secret: str | None) -> None:
    for killed in range(1, 6):
        for step in range(1, 7):
            root = tmp_path / f"{killed}-{step}"

            def kill(now: int, step: int = killed) -> None:
                if now == step:
                    raise Killed

            with pytest.raises(Killed):
                make(root, "long ago", kill)
            made: list[Store] = []

            def meet(now: int, step: int = step, root: Path = root, made: list[Store] = made) -> None:
                if now == step:
                    try:
                        made.append(make(root, secret, level=5))
                    except StoreExists:
                        made.clear()

            with contextlib.suppress(StoreExists):
                made.append(make(root, secret, meet, level=4))
            assert len(made) == 1
            found = Store.open(local(root), secret)
            assert (found.id, found.settings) == (made[0].id, made[0].settings)
            assert len(keys.slots(found.backend)) == (1 if secret else 0)
            assert found.id in (root / "README.txt").read_text() and (root / "reader.py").stat().st_size


def test_a_store_without_its_configuration_is_told_as_that_and_never_made_anew(plain: Store, root: Path) -> None:
    back_up(plain, image(root.parent / "disk", [1]))
    (root / "config.json").unlink()
    with pytest.raises(
        NoStore, match=r"there is no config.json in it, but \w+/.*: it was a store; put its config.json"
    ):
        Store.open(local(root))
    with pytest.raises(StoreExists):
        make(root, None)
    (root.parent / "other").mkdir()
    (root.parent / "other" / "a.jpg").write_bytes(b"x")
    with pytest.raises(NoStore, match=r"there is no config.json in it, but a.jpg"):
        Store.open(local(root.parent / "other"))
