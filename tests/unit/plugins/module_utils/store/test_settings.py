# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a store, and the words that say where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.store import (
    repair,
    settings,
    stats,
    textfile,
    verify,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.s3 import S3Backend
from ansible_collections.stowage.esxi.plugins.module_utils.store.errors import (
    BackendFailed,
    BadLocation,
    BadSettings,
)
from ansible_collections.stowage.esxi.plugins.module_utils.store.location import S3Access, backend_at
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from benches import back_up, image, local, restored


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
    (told,) = Store.open(local(root)).settings_problems.values()
    assert "'xxx" in told and len(told) < 500


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
    _mended(root, "settings/00000099.json")


def _mended(root: Path, name: str) -> None:
    store = Store.open(local(root))
    assert store.settings["pack_bytes"] == 1 << 20 and list(store.settings_problems) == [name]
    (problem,) = verify.run(store, record=False).problems
    assert problem.startswith(name) and repair.run(store, check=True).mended == [name]
    assert (root / name).exists()
    report = repair.run(store, observe_seconds=0)
    assert report.mended == [name] and not (root / name).exists()
    again = Store.open(local(root))
    assert again.settings_problems == {} and again.settings == store.settings
    assert verify.run(again).ok


@pytest.mark.parametrize("data", [b"", b"{}\n", b"\0" * 4096, b"x" * (1 << 17)])
def test_the_newest_settings_are_damaged_and_everything_can_be_read_by_those_before(
    plain: Store, root: Path, tmp_path: Path, data: bytes
) -> None:
    disk = image(tmp_path / "disk", [1, 2])
    point, _told = back_up(plain, disk)
    assert settings.change(plain, {"level": 9})
    (root / "settings" / "00000002.json").write_bytes(data)
    again = Store.open(local(root))
    assert again.settings["level"] == 1 and restored(again, point, tmp_path) == disk.read_bytes()
    assert stats.gather(again).problems == list(again.settings_problems.values())
    # A change counts at once.
    assert settings.change(again, {"level": 5}) and Store.open(local(root)).settings["level"] == 5
    (root / "settings" / "00000003.json").unlink()
    _mended(root, "settings/00000002.json")


def test_settings_that_cannot_be_had_just_now_are_not_taken_for_damaged(
    plain: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = local(root)
    original = backend.read

    def read(name: str, limit: int = 1 << 26) -> bytes:
        if name.startswith("settings/"):
            raise BackendFailed(name=name, store=backend.name, done="read", reason="a server under pressure")
        return original(name, limit)

    monkeypatch.setattr(backend, "read", read)
    with pytest.raises(BackendFailed):
        Store.open(backend)


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
