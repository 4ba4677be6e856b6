# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules about a store: what check mode predicts happens, a second run is at rest, no secret is told."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.stowage.esxi.plugins.module_utils.base import imports
from ansible_collections.stowage.esxi.plugins.module_utils.store import backup, crypto
from ansible_collections.stowage.esxi.plugins.module_utils.store.backends.local import LocalBackend
from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store

SECRETS = ("s3cret-one", "s3cret-two", "s3cret-cloud")


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(crypto.SCRYPT, "n", 1 << 8)
    yield


def run(what: str, /, *, check: bool = False, **params: Any) -> dict[str, Any]:
    code = importlib.import_module(f"ansible_collections.stowage.esxi.plugins.modules.{what}")
    output = io.StringIO()
    given = {**params, "_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args(given), redirect_stdout(output), pytest.raises(SystemExit):
        code.main()
    said = json.loads(output.getvalue().strip().splitlines()[-1])
    said.pop("invocation", None)
    assert not any(secret in json.dumps(said) for secret in SECRETS)
    return dict(said)


def both(place: Path, **params: Any) -> dict[str, Any]:
    """Check mode, the run, and the run again."""
    predicted = run("dedup_store", check=True, location=str(place), **params)
    happened = run("dedup_store", location=str(place), **params)
    assert not happened.get("failed"), happened
    for name in ("changed", "store", "actions", "diff"):
        assert predicted[name] == happened[name], name
    again = run("dedup_store", location=str(place), **params)
    assert (again["changed"], again["actions"], again["diff"]["before"]) == (False, [], again["diff"]["after"])
    return happened


def test_made_changed_locked_each_first_in_check_mode(tmp_path: Path) -> None:
    place = tmp_path / "store"
    assert run("dedup_store", check=True, location=str(place))["changed"] and not place.exists()
    made = both(place, passphrase=SECRETS[0], chunk_bytes=65536, level=2)
    assert made["diff"]["before"] == {} and made["diff"]["after"]["settings"]["level"] == 2
    assert made["id"] == Store.open(LocalBackend(str(place)), SECRETS[0]).id
    assert (place / "stowage.pyz").stat().st_size > 100_000
    changed = both(place, passphrase=SECRETS[0], level=5)
    assert changed["actions"] == ["set level from 2 to 5"]
    key = [{"name": "second", "passphrase": SECRETS[1]}]
    assert both(place, passphrase=SECRETS[0], keys=key)["actions"] == ["set the key 'second'"]
    assert both(place, passphrase=SECRETS[1], keys=key, purge_keys=True)["actions"] == ["remove the key 'first'"]
    wrong = run("dedup_store", location=str(place), passphrase=SECRETS[0])
    assert wrong["failed"] and wrong["error"]["id"] == "store-wrong-key"


def test_a_recovery_key_is_told_once_and_opens(tmp_path: Path) -> None:
    params = {"location": str(tmp_path / "s"), "passphrase": SECRETS[0], "recovery_key": True}
    assert "recovery_key" not in run("dedup_store", check=True, **params)
    paper = run("dedup_store", **params)["recovery_key"]
    assert "recovery_key" not in run("dedup_store", **params)
    assert run("dedup_store_info", location=str(tmp_path / "s"), passphrase=paper)["store"]["key_slots"] == [
        {"name": "first", "kind": "passphrase"},
        {"name": "recovery", "kind": "recovery"},
    ]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "missing required arguments: location"),
        ({"location": "/x", "state": "absent"}, "value of state"),
        ({"location": "/x", "access_key": "a"}, "secret_key"),
        ({"location": "ftp://x"}, "no other address than s3://"),
        ({"location": "/x", "level": 77}, "levels from -7 to 19"),
        ({"location": "/x", "keys": [{"name": "a", "passphrase": SECRETS[1]}]}, "not encrypted"),
        ({"location": "/x", "keys": [{"name": "a", "passphrase": "1"}] * 2, "passphrase": SECRETS[0]}, "given twice"),
        ({"location": "/nowhere", "state": "collected"}, "There is no store"),
        ({"location": "/x", "state": "verified", "slice": "1/7", "newest": True}, "mutually exclusive"),
        ({"location": "/x", "state": "verified", "slice": "1/7", "points": ["latest"]}, "mutually exclusive"),
        ({"location": "/x", "state": "verified", "newest": True, "points": ["latest"]}, "mutually exclusive"),
        ({"location": "/x", "state": "verified", "machines": ["a"], "points": ["latest"]}, "mutually exclusive"),
        ({"location": "/x", "state": "verified", "points": []}, "points is an empty list"),
        ({"location": "/x", "state": "verified", "newest": True, "machines": []}, "machines is an empty list"),
        ({"location": "/x", "state": "pruned", "room_bytes": 1, "machines": []}, "machines is an empty list"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_its_reason(params: dict[str, Any], said: str) -> None:
    result = run("dedup_store", **params)
    assert result["failed"] and said in result["msg"]


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = imports.importlib.import_module

    def without(name: str) -> Any:
        if name == "zstandard":
            raise ImportError("No module named 'zstandard'")
        return original(name)

    monkeypatch.setattr(imports.importlib, "import_module", without)
    result = run("dedup_store", location=str(tmp_path / "s"))
    assert result["failed"] and result["error"]["id"] == "library-missing" and "zstandard" in result["msg"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With two restore points of one machine, and one of another."""
    store = Store.create(LocalBackend(str(tmp_path / "store")), chunk_bytes=1 << 16)
    for number, (machine, name) in enumerate([("id-1", "old name"), ("id-1", "web"), ("id-2", "db")]):
        (tmp_path / "disk").write_bytes(bytes([number + 1]) * (3 << 16))
        backup.run(
            store, machine, name, [backup.DiskInput("scsi0:0", RawDisk(str(tmp_path / "disk")))], {"a.vmx": b"x"}
        )
    return store


def test_all_that_can_be_said_of_a_store(store: Store) -> None:
    found = run("dedup_store_info", location=store.name)
    assert found["exists"] and found["changed"] is False and found["store"]["id"] == store.id
    assert [(one["name"], one["points"]) for one in found["machines"]] == [("db", 1), ("web", 2)]
    latest = [point["point"] for point in found["points"] if point["machine"]["id"] == "id-1"][-1]
    assert found["machines"][1]["latest"] == latest
    assert (found["stats"]["points"], found["stats"]["data_bytes"]) == (3, 9 * 65536 + 3)
    assert found["health"] == {"ok": True, "problems": [], "writers": 0, "announced_packs": 0, "untold": {}}
    some = run("dedup_store_info", location=store.name, machine="web", gather=["points"])
    assert "stats" not in some and len(some["points"]) == 1
    nothing = run("dedup_store_info", location=f"{store.name}-not")
    assert (nothing["exists"], nothing["points"], nothing["machines"], nothing["stats"]) == (False, [], [], {})


def test_what_no_point_needs_goes_once(store: Store) -> None:
    place = {"location": store.name, "state": "collected", "observe_seconds": 0}
    assert run("dedup_store", **place)["changed"] is False
    store.backend.delete(store.points("id-2")[0].object_name)
    predicted = run("dedup_store", check=True, **place)
    assert predicted["changed"] and predicted["diff"]["after"] == {"packs": []}
    happened = run("dedup_store", **place)
    assert (
        happened["collected"]["removed"] == predicted["collected"]["announced"] and happened["collected"]["freed_bytes"]
    )
    assert happened["diff"] == predicted["diff"]
    assert run("dedup_store", **place)["changed"] is False
    # An earlier step of the same play has not really happened.
    assert run("dedup_store", check=True, location=f"{store.name}-not", state="collected")["changed"] is False


def test_damage_fails_the_task_and_names_who_is_hit(store: Store, tmp_path: Path) -> None:
    place = {"location": store.name, "state": "verified"}
    assert run("dedup_store", **place, deep=True)["verified"]["proven_bytes"] > 0
    for pack in (tmp_path / "store").rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[100] ^= 1
        pack.write_bytes(data)
    found = run("dedup_store", **place)
    assert found["failed"] and found["error"]["id"] == "store-damage-found" and "disk scsi0:0" in found["msg"]
    assert found["verified"]["hit"] and not found["verified"]["ok"]
    (tmp_path / "store" / store.points("id-2")[0].object_name).write_bytes(b"x")
    told = run("dedup_store_info", location=store.name)
    assert len(told["points"]) == 2 and not told["health"]["ok"]
    damaged = [problem for problem in told["health"]["problems"] if "verify found it damaged" in problem]
    assert len(damaged) == 2 and len(told["health"]["problems"]) == 3


def test_a_part_is_proven_and_recorded(store: Store, tmp_path: Path) -> None:
    place = {"location": store.name, "state": "verified"}
    old, web, db = (point.point for point in [*store.points("id-1"), *store.points("id-2")])
    records = run("dedup_store", **place)["verified"]["records"]
    slices = [run("dedup_store", **place, slice=f"{number}/7")["verified"] for number in range(1, 8)]
    assert sum(one["records"] for one in slices) == records
    assert slices[2]["looked_at"] == {"part": "slice", "slice": "3/7"}
    newest = run("dedup_store", **place, newest=True, deep=True)
    assert newest["changed"] is False and set(newest["verified"]["looked_at"]["points"]) == {web, db}
    only = run("dedup_store", **place, newest=True, machines=["id-2"])["verified"]["looked_at"]
    assert only == {"part": "newest", "points": [db]}
    given = run("dedup_store", **place, points=[old])["verified"]
    assert given["looked_at"] == {"part": "points", "points": [old]} and len(given["good_points"]) == 1
    for params, name in (
        ({"slice": "8/7"}, "store-bad-slice"),
        ({"points": ["1999"]}, "store-no-such-point"),
        ({"points": ["latest"]}, "store-ambiguous-point"),
        ({"newest": True, "machines": ["id-9"]}, "store-no-such-machine"),
    ):
        wrong = run("dedup_store", **place, **params)
        assert wrong["failed"] and wrong["error"]["id"] == name
    writer = store.points("id-2")[0].writer
    for pack in (tmp_path / "store").rglob(f"{writer}-*.pack"):
        data = bytearray(pack.read_bytes())
        data[100] ^= 1
        pack.write_bytes(data)
    assert run("dedup_store", **place, points=[web])["verified"]["ok"]
    found = run("dedup_store", **place, newest=True)
    assert found["failed"] and found["error"]["id"] == "store-damage-found" and db in found["msg"]
    assert len(found["verified"]["bad_points"]) == len(found["verified"]["good_points"]) == 1


def test_what_no_rule_keeps_goes_with_its_reason_and_once(store: Store) -> None:
    oldest = store.points("id-1")[0]
    place = {"location": store.name, "state": "pruned", "keep": {"last": 1}, "observe_seconds": 0}
    predicted = run("dedup_store", check=True, **place)
    assert [point.point for point in store.points("id-1")][0] == oldest.point
    happened = run("dedup_store", **place)
    assert happened["changed"] and happened["diff"] == predicted["diff"]
    assert happened["pruned"]["decisions"] == predicted["pruned"]["decisions"]
    assert happened["pruned"]["removed"] == [oldest.point]
    assert {reason for one in happened["pruned"]["decisions"] for reason in one["reasons"]} == {
        "last 1 of 1",
        "no rule keeps it",
    }
    assert run("dedup_store", **place)["changed"] is False
    assert "room_bytes" in run("dedup_store", location=store.name, state="pruned")["msg"]
    assert (
        run("dedup_store", location=store.name, state="pruned", room_bytes=1 << 30, observe_seconds=0)["changed"]
        is False
    )


def test_a_second_store_gets_copies_once_and_heals_the_first(store: Store, tmp_path: Path) -> None:
    other = {"location": str(tmp_path / "second"), "passphrase": SECRETS[1]}
    assert run("dedup_store", **other, chunk_bytes=1 << 16)["changed"]
    place = {"location": store.name, "state": "copied", "other": other}
    assert "other" in run("dedup_store", location=store.name, state="copied")["msg"]
    assert len(run("dedup_store", check=True, **place, machines=["id-1"])["copied"]["copied"]) == 2
    assert len(run("dedup_store", **place)["copied"]["copied"]) == 3
    assert run("dedup_store", **place)["changed"] is False
    pack = max((tmp_path / "store").rglob("*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    mend = {"location": store.name, "state": "repaired", "observe_seconds": 0}
    lost = run("dedup_store", check=True, **mend)
    assert lost["failed"] and lost["error"]["id"] == "store-damage-found" and lost["repaired"]["damaged_packs"]
    healed = run("dedup_store", **mend, other=other)
    assert healed["changed"] and healed["repaired"]["lost"] == {} and healed["repaired"]["healed"] >= 1
    assert run("dedup_store", location=store.name, state="verified", deep=True)["verified"]["ok"]
    assert run("dedup_store", **mend)["changed"] is False


@pytest.mark.parametrize(
    "params",
    [
        {"state": "pruned", "keep": {"last": -1}},
        {"state": "pruned", "keep": {"daily": 3, "min": -1}},
        {"state": "pruned", "keep": {"daily": 3}, "min_verified": -1},
        {"state": "pruned", "room_bytes": -1},
        {"state": "collected", "observe_seconds": -1},
        {"state": "collected", "observe_seconds": "nan"},
        {"state": "repaired", "observe_seconds": "inf"},
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(tmp_path: Path, params: dict[str, Any]) -> None:
    run("dedup_store", location=str(tmp_path / "s"))
    found = run("dedup_store", location=str(tmp_path / "s"), **params)
    assert found["failed"] and found["error"]["id"] == "store-bad-number"
