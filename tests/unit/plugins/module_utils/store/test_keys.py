# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys come and go, and at every moment somebody who may can open the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import keys, verify
from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import WrongKey
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadKeys, Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import SECRET, back_up, by_hand, image, local, new_store


@pytest.fixture
def locked(root: Path) -> Store:
    return new_store(local(root), SECRET)


def names(store: Store) -> list[tuple[str, str]]:
    return [(slot.name, slot.kind) for slot in keys.slots(store.backend)]


def test_a_second_passphrase_opens_the_store_and_the_first_one_can_go(locked: Store, root: Path) -> None:
    keys.set_passphrase(locked, "night-shift", "zweite ü")
    assert names(locked) == [("first", "passphrase"), ("night-shift", "passphrase")]
    Store.open(local(root), "zweite ü")
    Store.open(local(root), SECRET)
    keys.remove(locked, "first")
    assert names(locked) == [("night-shift", "passphrase")]
    Store.open(local(root), "zweite ü")
    with pytest.raises(WrongKey):
        Store.open(local(root), SECRET)


def test_a_passphrase_that_is_replaced_opens_no_more(locked: Store, root: Path) -> None:
    for number in range(3):
        keys.set_passphrase(locked, "first", f"new {number}")
    assert names(locked) == [("first", "passphrase")]
    slot = keys.slots(locked.backend)[0]
    assert keys.opens(locked, slot, "new 2") and not keys.opens(locked, slot, "new 1")
    with pytest.raises(WrongKey):
        Store.open(local(root), "new 0")


def test_the_new_key_is_there_before_the_old_one_goes(
    locked: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(name: str) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(locked.backend, "delete", cut)
        with pytest.raises(RuntimeError):
            keys.set_passphrase(locked, "first", "new")
    for passphrase in (SECRET, "new"):
        keys.set_passphrase(Store.open(local(root), passphrase), "other", passphrase)
    again = Store.open(local(root), "new")
    keys.set_passphrase(again, "first", "newest")
    assert len(keys.slots(again.backend)) == 2
    Store.open(local(root), "newest")


def test_a_recovery_key_opens_by_us_and_by_hand_as_typed(locked: Store, root: Path, tmp_path: Path) -> None:
    paper = keys.add_recovery(locked)
    assert ("recovery", "recovery") in names(locked)
    disk = image(tmp_path / "disk", [1])
    point, _told = back_up(Store.open(local(root), paper.lower().replace("-", " ")), disk)
    assert by_hand(root, point, tmp_path, secret=paper) == disk.read_bytes()


def test_a_damaged_key_locks_nobody_out_and_is_told(locked: Store, root: Path, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", [1])
    point, _told = back_up(locked, disk)
    paper = keys.add_recovery(locked)
    keys.set_passphrase(locked, "night-shift", "second")
    path = root / "keys" / "first.json"
    for spoilt in (path.read_bytes()[:-9], b"", b"{}", b"\xff"):
        path.write_bytes(spoilt)
        for secret in (paper, "second"):
            opened = Store.open(local(root), secret)
            assert by_hand(root, point, tmp_path, secret=secret) == disk.read_bytes()
        assert ("first", "damaged") in names(opened)
        assert [problem for problem in verify.run(opened).problems if "keys/first.json" in problem]
        with pytest.raises(Damaged, match=r"keys/first.json"):
            Store.open(local(root), SECRET)
    keys.remove(opened, "recovery")
    # The damaged one is none that would be left.
    with pytest.raises(BadKeys, match="only key"):
        keys.remove(opened, "night-shift")
    keys.remove(opened, "first")
    assert names(opened) == [("night-shift", "passphrase")] and verify.run(opened).ok


def test_a_damaged_key_is_set_anew(locked: Store, root: Path) -> None:
    (root / "keys" / "first.json").write_bytes(b"")
    keys.set_passphrase(locked, "first", "new")
    assert names(Store.open(local(root), "new")) == [("first", "passphrase")]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda store: keys.remove(store, "first"), "the only key"),
        (lambda store: keys.remove(store, "nobody"), "there is no key 'nobody', but first"),
        (lambda store: keys.set_passphrase(store, "../x", "p"), "no name of a key"),
        (lambda store: keys.set_passphrase(store, "x", ""), "protects nothing"),
        (lambda store: keys.add_recovery(store, "A B"), "no name of a key"),
    ],
)
def test_what_would_lock_everybody_out_is_refused(locked: Store, what: object, said: str) -> None:
    with pytest.raises(BadKeys, match=said):
        what(locked)  # type: ignore[operator]
    assert names(locked) == [("first", "passphrase")]


def test_a_store_without_encryption_has_no_keys(plain: Store) -> None:
    assert keys.slots(plain.backend) == []
    with pytest.raises(BadKeys, match="not encrypted"):
        keys.set_passphrase(plain, "first", "p")
