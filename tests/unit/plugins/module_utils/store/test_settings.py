# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a store, and the words that say where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import settings, textfile
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import BadLocation, BadSettings, Damaged
from ansible_collections.stowage.esxi.plugins.module_utils.store.location import S3Access, backend_at
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import local


def test_a_setting_is_changed_for_everyone_and_the_others_stay(plain: Store, root: Path) -> None:
    assert settings.change(plain, {"level": 7})
    assert not settings.change(plain, {"level": 7})
    again = Store.open(local(root))
    assert (again.settings["level"], again.settings["pack_bytes"], again.codec.level) == (7, 1 << 20, 7)
    assert settings.change(again, {"codec": "zlib", "level": 6})
    assert Store.open(local(root)).codec.number == 2


@pytest.mark.parametrize("name", ["codec", "level", "pack_bytes", "quota_bytes", "reserve_bytes", "repack_percent"])
def test_a_stranger_s_setting_is_told_in_few_words(plain: Store, root: Path, name: str) -> None:
    evil = {**plain.settings, name: ["x" * 5000]}
    plain.backend.create("settings/00000009.json", textfile.render(evil))
    with pytest.raises(Damaged) as caught:
        Store.open(local(root))
    assert "'xxx" in caught.value.message and len(caught.value.message) < 500


def test_of_two_that_change_settings_at_once_both_count(
    plain: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, raced = plain.backend.create, []

    def create(name: str, data: bytes) -> None:
        if not raced:
            raced.append(name)
            settings.change(Store.open(local(root)), {"pack_bytes": 9 << 20})
        original(name, data)

    monkeypatch.setattr(plain.backend, "create", create)
    settings.change(plain, {"level": 3})
    found = Store.open(local(root)).settings
    assert (found["level"], found["pack_bytes"]) == (3, 9 << 20)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"codec": "lz4"}, "unknown codec 'lz4'"),
        ({"level": 20}, "levels from -7 to 19"),
        ({"codec": "zlib", "level": 10}, "levels from 1 to 9"),
        ({"pack_bytes": 1}, "between 65536"),
        ({"pack_bytes": 1 << 32}, "not 4294967296"),
        ({"colour": "red"}, "colour: not known"),
    ],
)
def test_settings_that_cannot_be_are_refused(plain: Store, root: Path, wanted: dict[str, object], said: str) -> None:
    before = sorted((root / "settings").iterdir())
    with pytest.raises(BadSettings, match=said):
        settings.change(plain, wanted)
    assert sorted((root / "settings").iterdir()) == before
    assert textfile.parse(before[-1].read_bytes(), "settings", "store")["level"] == 1


@pytest.mark.parametrize(
    "strange", [{"quota_bytes": "much"}, {"reserve_bytes": -1}, {"repack_percent": 101}, {"level": True}, {"codec": 1}]
)
def test_settings_that_somebody_else_has_spoiled_are_damage(
    plain: Store, root: Path, strange: dict[str, object]
) -> None:
    before = textfile.parse(sorted((root / "settings").iterdir())[-1].read_bytes(), "settings", "store")
    plain.backend.create("settings/00000099.json", textfile.render({**before, **strange}))
    with pytest.raises(Damaged, match="settings"):
        Store.open(local(root))


def test_a_place_is_a_folder_or_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = backend_at("~/store")
    assert isinstance(found, LocalBackend) and found.root == str(tmp_path / "store")
    pytest.importorskip("boto3")
    bucket = backend_at(
        "s3://backups/esxi/one/", S3Access(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b")
    )
    assert isinstance(bucket, S3Backend) and bucket.name == "s3://backups/esxi/one"


@pytest.mark.parametrize("text", ["", "s3://", "s3://UP/x", "s3://ok-bucket/a b", "https://x/y", "a\0b", "s3://a_b/c"])
def test_other_words_are_no_place(text: str) -> None:
    with pytest.raises(BadLocation, match="does not say where a store is"):
        backend_at(text)
