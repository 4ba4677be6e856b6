# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is planned is what happens, and what is as it shall be is left alone."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import describe, keys, wish
from ansible_collections.stowage.esxi.plugins.module_utils.store.crypto import WrongKey
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import StoreError, StoreExists
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.wish import Wish
from benches import SECRET, local, new_store, s3

LOCKED = Wish(chunk_bytes=1 << 16, passphrase=SECRET)


def fulfil(root: Path, wanted: Wish) -> tuple[wish.Plan, str | None]:
    """Plans, proves that planning changed nothing, runs, and proves that the plan was right and the wish is at rest."""
    backend = local(root)
    before = sorted(root.rglob("*"))
    decided = wish.plan(backend, wanted, wish.look(backend, wanted))
    assert sorted(root.rglob("*")) == before
    store, paper = wish.run(backend, wanted, decided, wish.look(backend, wanted), {"program": b"x"})
    found = describe.store(Store.open(backend, wanted.passphrase or next(iter(wanted.keys.values()), None)))
    assert {name: found[name] for name in decided.after} == decided.after
    again = wish.plan(backend, wanted, wish.look(backend, wanted))
    assert not again.changed and again.words == [] and again.before == again.after == decided.after
    return decided, paper


def test_a_store_is_made_once_and_its_settings_follow(root: Path) -> None:
    made, _paper = fulfil(root, Wish(chunk_bytes=1 << 16, hash_name="sha256", settings={"level": 4}))
    assert made.create and made.before is None and made.words == ["create the store"]
    assert (root / "program").read_bytes() == b"x"
    changed, _paper = fulfil(root, Wish(settings={"level": 7, "pack_bytes": 8 << 20}))
    assert changed.words == ["set level from 4 to 7", f"set pack_bytes from {64 << 20} to {8 << 20}"]
    assert changed.before is not None and changed.before["settings"]["level"] == 4


def test_keys_follow_and_nobody_is_locked_out(root: Path) -> None:
    made, paper = fulfil(root, Wish(passphrase=SECRET, keys={"night": "n1"}, recovery_key=True))
    assert made.words == ["create the store", "set the key 'night'", "make a recovery key"] and paper is not None
    changed, none = fulfil(root, Wish(passphrase=paper, keys={"night": "n2"}, recovery_key=True))
    assert changed.words == ["set the key 'night'"] and none is None
    with pytest.raises(WrongKey):
        Store.open(local(root), "n1")
    last = Wish(passphrase="n2", keys={"night": "n2"}, purge_keys=True)
    assert fulfil(root, last)[0].words == ["remove the key 'first'"]
    assert [slot.name for slot in keys.slots(local(root))] == ["night", "recovery"]
    Store.open(local(root), paper)
    with pytest.raises(WrongKey):
        Store.open(local(root), SECRET)


@pytest.mark.folder
@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("where", ["folder", pytest.param("s3", marks=pytest.mark.xdist_group("s3"))])
def test_of_many_that_wish_for_it_at_once_one_makes_it_and_for_the_others_it_is_there(
    tmp_path: Path, where: str, secret: str | None, request: pytest.FixtureRequest
) -> None:
    wanted, many = Wish(passphrase=secret, settings={"level": 4}), 8
    endpoint = request.getfixturevalue("s3_server") if where == "s3" else ""
    begin = threading.Barrier(many)

    def one(place: str) -> str:
        backend = s3(endpoint, place) if endpoint else local(tmp_path / place)
        begin.wait()
        _decided, store, paper = wish.fulfil(backend, wanted, dict)
        assert store is not None and paper is None
        return store.id

    with ThreadPoolExecutor(many) as threads:
        for _turn in range(1 if endpoint else 10):
            place = secrets.token_hex(6)
            (made,) = set(threads.map(one, [place] * many))
            store = Store.open(s3(endpoint, place) if endpoint else local(tmp_path / place), secret)
            assert store.id == made and store.settings["level"] == 4
            assert len(keys.slots(store.backend)) == (1 if secret else 0)


def test_who_began_to_make_it_meanwhile_and_died_is_waited_for_and_his_leavings_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wish, "_MAKING_SECONDS", 0.3)
    backend = local(tmp_path / "store")
    created = backend.create

    def after_another(name: str, data: bytes) -> None:
        monkeypatch.setattr(backend, "create", created)
        created(name, b"of another")
        created(name, data)

    monkeypatch.setattr(backend, "create", after_another)
    # A recovery key is shown once: of two, one would be void.
    with pytest.raises(StoreExists, match="somebody else is making it"):
        wish.fulfil(backend, Wish(passphrase=SECRET, recovery_key=True), dict)
    monkeypatch.setattr(backend, "create", after_another)
    backend.delete("keys/first.json")
    decided, store, _paper = wish.fulfil(backend, Wish(), dict)
    assert decided.create and store is not None and b"Nothing in it" in backend.read("README.txt")


@pytest.mark.parametrize(
    ("there", "wanted", "said"),
    [
        (LOCKED, Wish(passphrase=SECRET, chunk_bytes=1 << 20), "the size of a chunk was 65536"),
        (LOCKED, Wish(passphrase=SECRET, hash_name="blake3"), "the hash was sha256"),
        (LOCKED, Wish(passphrase=SECRET, purge_keys=True), "none to stay"),
        (LOCKED, Wish(passphrase=SECRET, keys={"A": "x"}), "no name of a key"),
        (LOCKED, Wish(passphrase=SECRET, keys={"a": ""}), "protects nothing"),
        (LOCKED, Wish(passphrase=SECRET, settings={"level": 99}), "levels from -7 to 19"),
        (LOCKED, Wish(), "is encrypted, and no passphrase was given"),
        (LOCKED, Wish(passphrase="p"), "None of the 1 keys"),
        (None, Wish(settings={"quota_bytes": 1 << 30, "reserve_bytes": 1 << 30}), "leaves no room for backups"),
        (Wish(), Wish(passphrase="p"), "encryption was off"),
        (Wish(), Wish(recovery_key=True), "not encrypted"),
        (None, Wish(chunk_bytes=5), "power of two"),
        (None, Wish(passphrase=""), "protects nothing"),
        (None, Wish(keys={"a": "x"}), "not encrypted"),
        (None, Wish(settings={"codec": "lz4"}), "unknown codec"),
    ],
)
def test_what_cannot_be_is_refused_by_the_plan_already(root: Path, there: Wish | None, wanted: Wish, said: str) -> None:
    if there is not None:
        fulfil(root, there)
    before = sorted(root.rglob("*"))
    with pytest.raises(Exception, match=said) as caught:
        wish.plan(local(root), wanted, wish.look(local(root), wanted))
    assert not isinstance(caught.value, (AssertionError, KeyError)) and hasattr(caught.value, "hint_text")
    assert sorted(root.rglob("*")) == before


def test_a_place_with_something_else_in_it_is_left_alone(root: Path) -> None:
    (root / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreExists, match="holiday.jpg is there, but no store"):
        wish.look(local(root), Wish())


def test_a_damaged_store_is_not_made_anew(root: Path) -> None:
    new_store(local(root))
    (root / "config.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match="damaged"):
        wish.look(local(root), Wish())
