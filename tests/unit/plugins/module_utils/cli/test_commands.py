# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command does what its page says, ends with its code, and speaks to programs in JSON alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import objectstore
import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.cli import main
from ansible_collections.stowage.esxi.plugins.module_utils.store import collect, registry
from ansible_collections.stowage.esxi.plugins.module_utils.store.index import build
from ansible_collections.stowage.esxi.plugins.module_utils.store.part import Slice
from ansible_collections.stowage.esxi.plugins.module_utils.store.store import Store
from ansible_collections.stowage.esxi.plugins.module_utils.store.writer import Writer
from benches import BUCKET, CHUNK, image, local, new_store

Run = Callable[..., SimpleNamespace]


def test_the_whole_story_for_a_program(tmp_path: Path, stowage: Run, disk: Path) -> None:
    store = tmp_path / "s"
    made = stowage("create", store, "--json", "--chunk-size", "64KiB", "--hash", "blake3", "--level", 3).json
    assert (made["hash"], made["chunk_bytes"], made["encrypted"], made["settings"]["level"]) == (
        "blake3",
        CHUNK,
        False,
        3,
    )
    assert {path.name for path in store.iterdir()} >= {"reader.py", "stowage.pyz", "README.txt"}
    base = ["backup", store, "--machine", "id-1", "--disk", f"scsi0:0={disk}", "--json"]
    first = stowage(*base).json
    assert first["told"]["new"] == 4 * CHUNK - 999 and first["machine"] == {"id": "id-1", "name": "id-1"}
    second = stowage(*base).json
    assert (second["parent"], second["told"]["unchanged"]) == (first["point"], 4 * CHUNK - 999)
    third = stowage(*base, "--parent", "none", "--rehash").json
    assert (third["parent"], third["told"]["unchanged"]) == (None, 0)
    listed = stowage("list", store, "--json").json
    assert [one["point"] for one in listed["points"]] == [first["point"], second["point"], third["point"]]
    assert stowage("show", store, "latest", "--json").json["disks"][0]["bytes"] == 5 * CHUNK - 999
    assert stowage("stats", store, "--json").json["stats"]["points"] == 3
    report = stowage("verify", store, "--deep", "--json").json
    assert [one["verified"]["deep"] for one in stowage("list", store, "--json").json["points"]] == [True] * 3
    assert report["ok"] and report["proven_bytes"] > 3 * CHUNK - 999 and report["hit"] == []
    done = stowage("restore", store, first["point"], "--to", tmp_path / "out", "--paranoid", "--json").json
    assert (tmp_path / "out" / "scsi0-0.raw").read_bytes() == disk.read_bytes()
    assert done["disks"][0]["told"]["written"] > 0
    assert stowage("gc", store, "--json").json["removed"] == []
    assert stowage("settings", store, "--level", 5, "--json").json == {
        "changed": True,
        "settings": {**made["settings"], "level": 5},
    }
    assert stowage("settings", store, "--level", 5, "--json").json["changed"] is False


def test_the_same_for_people(place: Path, point: str, disk: Path, stowage: Run) -> None:
    made = stowage("backup", place, "--machine", "id-1", "--name", "web", "--disk", f"scsi0:0={disk}")
    assert re.match(r"restore point \S+\nread +255 KiB", made.out)
    listed = stowage("list", place)
    assert re.search(
        rf"^{point} +web \(id-1\) +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(just now\) +1  319 KiB$", listed.out, re.M
    )
    assert listed.out.endswith("2 restore points\n") and listed.err == ""
    assert "FILE     SIZE\nweb.vmx  17 B  17 bytes" in stowage("show", place, point).out
    assert "dedup ratio        2." in stowage("stats", place).out
    assert stowage("verify", place).out.endswith("no damage found\n")


@pytest.mark.parametrize(
    "words",
    [
        "verify {} --threads -1",
        "verify {} --threads 100000",
        "repair {} --threads -1",
        "restore {} latest --to {}-out --threads -2",
        "backup {} --machine m --file {}/config.json --threads -1",
        "backup {} --machine= --file {}/config.json",
        "gc {} --observe-seconds -1",
        "gc {} --observe-seconds nan",
        "prune {} --keep-last 1 --observe-seconds inf",
        "settings {} --quota " + "9" * 400 + ".0",
        "verify {} latest --machine a --machine b",
        "verify {} --machine a",
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(place: Path, stowage: Run, words: str) -> None:
    before = {path for path in place.rglob("*")}
    found = stowage(*(word.replace("{}", str(place)) for word in words.split()), "--json")
    assert found.code in (2, 61) and found.error["error"]["message"], found
    assert {path for path in place.rglob("*")} == before


def test_a_rule_of_more_days_than_there_were_keeps_all(place: Path, point: str, stowage: Run) -> None:
    found = stowage("prune", place, "--keep-within-days", "9" * 30, "--dry-run", "--json")
    assert (found.code, found.json["removed"]) == (0, [])


def test_the_newest_of_several_machines_are_looked_at(place: Path, disk: Path, stowage: Run) -> None:
    made = {}
    for name in ("one", "two", "three"):
        words = ["backup", place, "--machine", name, "--disk", f"scsi0:0={disk}", "--json"]
        made[name] = stowage(*words).json["point"]
    words = ["verify", place, "--newest", "--machine", "one", "--machine", "three", "--json"]
    found = stowage(*words).json
    assert set(found["looked_at"]["points"]) == {made["one"], made["three"]} and len(found["good_points"]) == 2


def test_output_that_cannot_be_written_is_told(place: Path) -> None:
    words = [sys.executable, "-m", main.__name__, "list", str(place)]
    with open("/dev/full", "w") as full:
        for more in ([], ["--json"]):
            found = subprocess.run([*words, *more], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
            assert found.returncode == 1 and "No space left on device" in found.stderr, found
            assert "Traceback" not in found.stderr and "ignored" not in found.stderr


def test_a_passphrase_from_a_descriptor_that_cannot_be_is_told(place: Path, stowage: Run) -> None:
    for number in ("-1", "987"):
        found = stowage("list", place, f"--passphrase-fd={number}", "--json")
        assert found.code == 1 and "could not be read" in found.error["error"]["message"]


def test_an_interrupt_is_told_to_programs_too(place: Path, stowage: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_words: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "run", interrupt)
    found = stowage("gc", place, "--json")
    assert (found.code, found.out) == (130, "")
    assert (found.error["error"]["id"], found.error["error"]["exit_code"]) == ("cli-interrupted", 130)


def test_what_is_no_file_is_never_replaced(place: Path, point: str, tmp_path: Path, stowage: Run) -> None:
    """A device, a pipe: an image in its place is not what anybody means. Also behind a link, as logical volumes are."""
    os.mkfifo(tmp_path / "device")
    (tmp_path / "link").symlink_to("device")
    for name in ("device", "link"):
        for form in ([], ["--overwrite"]):
            found = stowage("restore", place, point, "--disk", f"scsi0:0={tmp_path / name}", *form, "--json")
            assert found.code == 66 and "--in-place writes into a device" in found.error["error"]["message"]
    assert (tmp_path / "device").is_fifo() and (tmp_path / "link").is_symlink()
    found = stowage("restore", place, point, "--disk", f"scsi0:0={tmp_path / 'device'}", "--in-place", "--json")
    assert found.code == 66 and "Illegal seek" in found.error["error"]["message"]


@pytest.mark.parametrize("how", ["--overwrite", "--in-place"])
def test_two_to_one_place_is_no_restore(place: Path, point: str, tmp_path: Path, stowage: Run, how: str) -> None:
    target = tmp_path / "one"
    target.write_bytes(b"mine")
    (tmp_path / "same").symlink_to("one")
    words = ["--disk", f"scsi0:0={target}", "--file", f"web.vmx={tmp_path / 'same'}", how]
    assert stowage("restore", place, point, *words).code == 2 and target.read_bytes() == b"mine"


def test_what_a_killed_restore_left_stops_no_other(
    place: Path, point: str, disk: Path, tmp_path: Path, stowage: Run
) -> None:
    """And a name may be as long as a name can be."""
    long = "ä" * 120 + "x" * 15
    for name, words in ((f"scsi0:0={tmp_path / long}", "--disk"), (f"web.vmx={tmp_path / 'web.vmx'}", "--file")):
        target = Path(name.partition("=")[2])
        shop = target.parent / os.fsdecode(b"." + os.fsencode(target.name)[:200] + b".stowage-restore")
        for more in ([], ["--overwrite"]):
            target.unlink(missing_ok=True)
            shop.mkdir()
            (shop / ".raw.stowage-part").write_bytes(b"half")
            (shop / target.name[:100]).write_bytes(b"half")
            assert stowage("restore", place, point, words, name, *more).code == 0
            assert not shop.exists()
    assert (tmp_path / long).read_bytes() == disk.read_bytes()
    assert (tmp_path / "web.vmx").read_text() == "displayName = web"


def test_a_file_does_not_take_the_place_of_a_disk_s_flat_one(
    place: Path, disk: Path, tmp_path: Path, stowage: Run
) -> None:
    (tmp_path / "scsi0-0-flat.vmdk").write_bytes(b"from a stranger")
    words = ["--machine", "id-1", "--disk", f"scsi0:0={disk}", "--file", tmp_path / "scsi0-0-flat.vmdk"]
    assert stowage("backup", place, *words).code == 0
    found = stowage("restore", place, "latest", "--to", tmp_path / "out", "--form", "vmdk")
    assert found.code == 66 and "is there already" in found.err
    assert (tmp_path / "out" / "scsi0-0-flat.vmdk").read_bytes()[:100] == disk.read_bytes()[:100]


def test_a_point_is_named_by_what_is_enough_of_it(place: Path, point: str, disk: Path, stowage: Run) -> None:
    stowage("backup", place, "--machine", "id-2", "--name", "other", "--disk", f"scsi0:0={disk}")
    assert stowage("show", place, point[:20], "--json").json["point"] == point
    assert stowage("show", place, "latest", "--machine", "web", "--json").json["point"] == point
    assert stowage("show", place, "2", "--machine", "id-1", "--json").json["point"] == point
    for words, said in (
        (["2"], "may be several"),
        (["latest"], "may be several"),
        (["1999"], "no restore point 1999"),
        ([point, "--machine", "id-2"], "no restore point"),
    ):
        found = stowage("show", place, *words, "--json")
        assert (found.code, found.json) == (65, None) and said in found.error["error"]["message"]


@pytest.mark.parametrize(
    "words",
    [
        "list S",
        "show S latest",
        "show S POINT",
        "restore S latest --to S-out",
        "hold S POINT --as a --reason b",
        "verify S POINT",
        "verify S --newest",
        "prune S --keep-last 1 --dry-run",
        "copy S S2",
    ],
)
def test_a_machine_that_is_not_there_has_one_answer_and_id_and_name_are_both_good(
    place: Path, point: str, tmp_path: Path, stowage: Run, words: str
) -> None:
    assert stowage("create", tmp_path / "store2", "--chunk-size", "64KiB").code == 0
    given = [
        word.replace("S", str(place)) if word[0] == "S" else word.replace("POINT", point) for word in words.split()
    ]
    found = stowage(*given, "--machine", "nobody", "--json")
    message = f"The store {place} has no restore point of a machine 'nobody'; it has some of: 'web' (id-1)"
    assert (found.code, found.out, found.error["error"]["message"]) == (65, "", message)
    for number, name in enumerate(("id-1", "web")):
        named = [word.replace(f"{place}-out", f"{place}-out{number}") for word in given]
        assert stowage(*named, "--machine", name).code == 0


def test_a_machine_whose_points_cannot_be_read_is_there_and_one_that_never_had_any_is_not(
    place: Path, point: str, stowage: Run
) -> None:
    with pytest.raises(ZeroDivisionError), Writer(Store.open(local(place)), "id-2", "db") as writer:
        registry.revoke(writer.store.backend, registry.registrations(writer.store.backend)[0], build(()))
        raise ZeroDivisionError
    assert len(list(place.glob("points/*/*.json"))) == 2
    assert stowage("list", place, "--machine", "id-2").code == 65
    for path in place.glob(f"points/*/{point}.json"):
        path.write_bytes(b"x")
    found = stowage("list", place, "--machine", "id-1")
    assert found.code == 3 and f"{point}.json" in found.out
    assert "it has some of: none" in stowage("list", place, "--machine", "web").err


def test_only_what_may_differ_is_read_when_that_is_known(
    place: Path, point: str, disk: Path, tmp_path: Path, stowage: Run
) -> None:
    image(disk, [1, 9, 0, 3, 3], 5 * CHUNK - 999)
    (tmp_path / "map").write_text(f'[{{"start": {CHUNK}, "length": 10}}]')
    words = [
        "backup",
        place,
        "--machine",
        "id-1",
        "--disk",
        f"scsi0:0={disk}",
        "--changes",
        f"scsi0:0={tmp_path / 'map'}",
    ]
    found = stowage(*words, "--parent", point, "--json").json
    assert found["told"]["read"] == CHUNK
    stowage("restore", place, found["point"], "--disk", f"scsi0:0={tmp_path / 'out'}")
    assert (tmp_path / "out").read_bytes() == disk.read_bytes()
    assert stowage(*words).code == 2
    (tmp_path / "map").write_text('[{"start": 1}]')
    assert stowage(*words, "--parent", point).code == 66


def test_what_is_there_is_not_touched_unless_that_is_meant(
    place: Path, point: str, disk: Path, tmp_path: Path, stowage: Run
) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    free = f"scsi0:0={tmp_path / 'free'}"
    found = stowage("restore", place, point, "--disk", free, "--file", f"web.vmx={tmp_path / 'there'}")
    assert found.code == 66 and "is there already" in found.err
    assert (tmp_path / "there").read_bytes() == b"mine" and not (tmp_path / "free").exists()
    assert stowage("restore", place, point, "--file", f"web.vmx={tmp_path / 'there'}", "--overwrite").code == 0
    assert (tmp_path / "there").read_text() == "displayName = web"
    (tmp_path / "folder").mkdir()
    assert stowage("restore", place, point, "--file", f"web.vmx={tmp_path / 'folder'}", "--overwrite").code == 66
    assert not list(tmp_path.glob("*.stowage-*")) and not list(tmp_path.glob(".*.stowage-*"))
    changed = image(tmp_path / "live", [1, 7, 0, 3, 3], 5 * CHUNK - 999)
    done = stowage("restore", place, point, "--disk", f"scsi0:0={changed}", "--in-place", "--json").json
    assert done["disks"][0]["told"]["written"] == CHUNK and changed.read_bytes() == disk.read_bytes()
    assert stowage("restore", place, point, "--disk", f"scsi0:0={tmp_path / 'no'}", "--in-place").code == 66
    gone = stowage("restore", place, point, "--disk", f"ide0:0={tmp_path / 'x'}")
    assert gone.code == 65 and "it has: scsi0:0" in gone.err


def test_names_in_a_store_neither_leave_the_folder_nor_steer_the_terminal(tmp_path: Path, stowage: Run) -> None:
    store = new_store(local(tmp_path / "store"))
    # Names with a slash are no names of files, and the store refuses them.
    hostile = {".hidden": b"2", "scsi0-0.raw": b"5", "\x1b[2J": b"7", "...": b"8", "a\\..\\b": b"9"}
    disk = image(tmp_path / "disk", [1])
    from ansible_collections.stowage.esxi.plugins.module_utils.store import backup
    from ansible_collections.stowage.esxi.plugins.module_utils.store.sources import RawDisk

    backup.run(
        store, "m", "evil\x1b]0;x\x07\u202e name\udcff", [backup.DiskInput("scsi0:0", RawDisk(str(disk)))], hostile
    )
    (tmp_path / "a" / "b").mkdir(parents=True)
    found = stowage("restore", tmp_path / "store", "latest", "--to", tmp_path / "a" / "b" / "out", "--json")
    assert found.code == 0, found.err
    assert {path.name for path in tmp_path.iterdir()} == {"store", "disk", "a"}
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["out"]
    contents = sorted(path.read_bytes() for path in (tmp_path / "a" / "b" / "out").iterdir())
    assert contents == sorted([*hostile.values(), disk.read_bytes()])
    for words in (["list"], ["show", "latest"]):
        shown = stowage(words[0], tmp_path / "store", *words[1:])
        assert shown.code == 0 and "evil\\x1b]0;x\\x07\\u202e name\\udcff" in shown.out
        assert not set(shown.out) & {"\x1b", "\x07", "\u202e", "\0"}


def test_damage_is_told_by_its_own_code_and_named(place: Path, point: str, tmp_path: Path, stowage: Run) -> None:
    for pack in place.rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[200] ^= 1
        pack.write_bytes(data)
    found = stowage("verify", place, "--json")
    assert found.code == 3 and not found.json["ok"] and found.json["bad"] and point in found.json["hit"][0]
    people = stowage("verify", place)
    assert people.code == 3 and "HIT: 'web'" in people.out and "DAMAGE FOUND; next: repair" in people.out
    listed = stowage("list", place)
    assert listed.code == 3 and f"restore point {point} of 'web': verify found it damaged" in listed.out
    broken = stowage("restore", place, point, "--to", tmp_path / "out", "--json")
    assert broken.code == 62 and broken.error["error"]["id"] == "store-damaged"
    assert list((tmp_path / "out").iterdir()) == []
    manifest = next(place.glob("points/*/*.json"))
    manifest.write_bytes(b"x" + manifest.read_bytes())
    for command in ("list", "stats"):
        told = stowage(command, place)
        assert told.code == 3 and f"PROBLEM: points/{manifest.parent.name}/{point}.json" in told.out
    again = stowage("backup", place, "--machine", "id-1", "--disk", f"scsi0:0={tmp_path / 'disk'}", "--json")
    assert again.code == 0 and again.json["parent"] is None


def test_damaged_settings_are_told_at_every_command_and_stop_none(
    place: Path, point: str, disk: Path, tmp_path: Path, stowage: Run
) -> None:
    assert stowage("settings", place, "--level", 4).code == 0
    bad = max((place / "settings").iterdir())
    bad.write_bytes(b"")
    for words, code in ((["list"], 0), (["restore", point, "--to", tmp_path / "out"], 0), (["verify"], 3)):
        found = stowage(words[0], place, *words[1:])
        assert found.code == code and f"stowage: warning: settings/{bad.name} in the store {place}" in found.err
    assert (tmp_path / "out" / "scsi0-0.raw").read_bytes() == disk.read_bytes()
    assert f"DAMAGED: settings/{bad.name}" in stowage("verify", place).out
    mended = stowage("repair", place, "--observe-seconds", 0)
    assert mended.code == 0 and f"DAMAGED: settings/{bad.name} removed" in mended.out
    again = stowage("verify", place)
    assert (again.code, again.err) == (0, "")


def test_the_folder_above_a_new_store_must_be_there_and_is_named(tmp_path: Path, stowage: Run) -> None:
    refused = stowage("create", tmp_path / "nowhere" / "store", "--json")
    assert refused.code == 63 and f"the folder {tmp_path / 'nowhere'} is not there" in refused.error["error"]["message"]
    assert not (tmp_path / "nowhere").exists()


def test_a_part_is_looked_at_and_named(place: Path, point: str, tmp_path: Path, stowage: Run) -> None:
    other = image(tmp_path / "other", [70, 71, 72])
    backup = ["backup", place, "--machine", "id-2", "--name", "db", "--disk", f"scsi0:0={other}", "--json"]
    older, newer = (stowage(*backup, "--rehash").json["point"] for _turn in range(2))
    parts = [stowage("verify", place, "--slice", f"{k}/3", "--json").json for k in (1, 2, 3)]
    assert [one["looked_at"] for one in parts] == [{"part": "slice", "slice": f"{k}/3"} for k in (1, 2, 3)]
    whole = stowage("verify", place, "--deep", "--json").json
    assert whole["looked_at"] == {"part": "all"} and len(whole["good_points"]) == 3 and whole["bad_points"] == []
    assert sum(one["records"] for one in parts) == whole["records"] and not any(one["good_points"] for one in parts)
    newest = stowage("verify", place, "--newest", "--json").json
    assert newest["looked_at"]["part"] == "newest" and set(newest["looked_at"]["points"]) == {point, newer}
    assert stowage("verify", place, "--newest", "--machine", "db", "--json").json["looked_at"]["points"] == [newer]
    for words in ([older, "--deep", point], ["--deep", older, point], [older, point, "--deep"]):
        given = stowage("verify", place, *words, "--json").json
        assert given["looked_at"] == {"part": "points", "points": [older, point]} and given["deep"]
    latest = stowage("verify", place, "--deep", "latest", "--machine", "id-1")
    assert latest.code == 0 and f"{point} web: good\n" in latest.out and latest.out.endswith("no damage found\n")
    assert stowage("verify", place, "--slice", "2/3").out.startswith("slice 2 of 3; the others were not looked at\n")
    deep = {one["point"]: one["verified"]["deep"] for one in stowage("list", place, "--json").json["points"]}
    assert deep == {point: True, older: True, newer: False}


def test_a_damaged_part_has_its_code_and_leaves_the_others_word(
    place: Path, point: str, tmp_path: Path, stowage: Run
) -> None:
    before = set(place.rglob("*.pack"))
    other = image(tmp_path / "other", [70, 71, 72])
    mine = stowage("backup", place, "--machine", "id-2", "--disk", f"scsi0:0={other}", "--json").json["point"]
    spoilt = set(place.rglob("*.pack")) - before
    for pack in spoilt:
        data = bytearray(pack.read_bytes())
        data[100] ^= 1
        pack.write_bytes(data)
    assert stowage("verify", place, point).code == 0
    found = stowage("verify", place, mine)
    assert found.code == 3 and f"{mine} id-2: DAMAGED\n" in found.out and f"HIT: 'id-2' {mine}" in found.out
    good = {one["point"]: one["verified"]["good"] for one in stowage("list", place, "--json").json["points"]}
    assert good == {point: True, mine: False}
    for number in range(1, 5):
        if any(Slice(number, 4).has(pack.stem) for pack in spoilt):
            found = stowage("verify", place, "--slice", f"{number}/4")
            assert found.code == 3 and f"HIT: 'id-2' {mine}" in found.out


@pytest.mark.parametrize("words", [["gc"], ["gc", "--dry-run"], ["repair", "--dry-run"], ["verify", "latest"]])
def test_a_terminal_shows_how_far_the_store_is_looked_through(
    place: Path, point: str, stowage: Run, words: list[str]
) -> None:
    found = stowage(words[0], place, *words[1:], lively=True)
    assert found.code == 0, found.err
    last = found.err.rstrip("\n").rpartition("\r")[2]
    assert last.startswith(f"{words[0]}  ") and found.err.endswith("\n")
    if words[0] != "gc":
        assert "100 %" in last
    assert stowage(words[0], place, *words[1:], "--quiet", lively=True).err == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "COMMAND"),
        (["dance", "S"], 2, "invalid choice"),
        (["list"], 2, "STORE"),
        (["list", "S", "--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["list", "ftp://x"], 61, "no other address"),
        (["list", "S/none"], 61, "no store at"),
        (["create", "S"], 61, "is a store already"),
        (["create", "S/new", "--level", "99"], 61, "levels from -7 to 19"),
        (["create", "S/new", "--pack-size", "4GiB"], 61, "between 65536"),
        (["create", "S/new", "--quota", "1GiB", "--reserve", "2GiB"], 61, "leaves no room for backups"),
        (["settings", "S", "--quota", "1GiB", "--reserve", "1GiB"], 61, "leaves no room for backups"),
        (["copy", "S", "S"], 61, "the same place"),
        (["copy", "S", "S/../store"], 61, "the same place"),
        (["repair", "S", "--from", "S"], 61, "the same place"),
        (["create", "S/new", "--recovery-key"], 2, "needs --encrypt"),
        (["create", "S/new", "--passphrase-file", "/dev/null"], 2, "not --encrypt"),
        (["create", "S/new", "--encrypt", "--passphrase-file", "/dev/null"], 2, "is needed"),
        (["create", "S/new", "--encrypt", "--passphrase-file", "S/nothing"], 1, "No such file"),
        (["backup", "S", "--machine", "m"], 2, "nothing to back up"),
        (["backup", "S", "--machine", "m", "--disk", "/dev/null"], 2, "NAME=PATH"),
        (["backup", "S", "--machine", "m", "--disk", "a=/x", "--disk", "a=/y"], 2, "given twice"),
        (["backup", "S", "--machine", "m", "--disk", "a=S/no"], 66, "No such file"),
        (["backup", "S", "--machine", "m", "--file", "S/no"], 1, "No such file"),
        (["restore", "S", "latest"], 2, "what goes where"),
        (["restore", "S", "latest", "--to", "x", "--in-place", "--overwrite"], 2, "cannot both"),
        (["keys", "S", "add"], 2, "needs --key"),
        (["keys", "S", "recovery"], 67, "not encrypted"),
        (["mount", "S", "latest", "S/m", "--cache-mib", "-1"], 2, "not below 0"),
        (["verify", "S", "--slice", "0/7"], 2, "'0/7' is no slice of a store: of 7 slices there is none"),
        (["verify", "S", "--slice", "8/7"], 2, "'8/7' is no slice of a store: of 7 slices there is none"),
        (["verify", "S", "--slice", "3"], 2, "'3' is no slice of a store: it is not of the form K/N"),
        (["verify", "S", "--slice", "1/7", "--newest"], 2, "cannot be meant together"),
        (["verify", "S", "--slice", "1/7", "latest"], 2, "cannot be meant together"),
        (["verify", "S", "latest", "--newest"], 2, "cannot be meant together"),
        (["verify", "S", "--machine", "m"], 2, "neither was given"),
        (["verify", "S", "--slice", "1/7", "--machine", "m"], 2, "neither was given"),
        (["verify", "S", "--newest", "--machine", "nobody"], 65, "no restore point of a machine 'nobody'"),
        (["verify", "S", "--deep", "1999"], 65, "no restore point 1999"),
        (["verify", "S", "--nonsense", "1999"], 2, "unrecognized arguments: --nonsense"),
    ],
)
def test_a_wish_that_cannot_be_ends_with_its_code_and_changes_nothing(
    place: Path, stowage: Run, words: list[str], code: int, said: str
) -> None:
    words = [word.replace("S", str(place), 1) if word[:1] == "S" else word.replace("=S", f"={place}") for word in words]
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    people, program = stowage(*words), stowage(*words, "--json")
    assert (people.code, people.out, program.code, program.out) == (code, "", code, "")
    assert said in people.err and people.err.startswith("stowage: ")
    assert said in program.error["error"]["message"] and program.error["error"]["exit_code"] == code
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")}.keys() == before.keys()


def test_a_store_in_a_bucket(
    s3_server: str, tmp_path: Path, disk: Path, stowage: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", objectstore.KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", objectstore.KEYS[1])
    there = [f"s3://{BUCKET}/{tmp_path.name}", "--endpoint", s3_server, "--json"]
    assert stowage("create", *there, "--chunk-size", "64KiB").json["location"] == there[0]
    found = stowage("backup", *there, "--machine", "m", "--disk", f"scsi0:0={disk}").json
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    stowage("restore", there[0], found["point"], "--disk", f"scsi0:0={tmp_path / 'out'}")
    assert (tmp_path / "out").read_bytes() == disk.read_bytes()
    assert stowage("verify", *there).json["ok"]
    assert stowage("create", *there).code == 61
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert stowage("list", *there).code == 63


# -- progress --------------------------------------------------------------------------------------------------------


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(
    place: Path, point: str, disk: Path, tmp_path: Path, stowage: Run
) -> None:
    words = ["backup", place, "--machine", "id-9", "--disk", f"scsi0:0={disk}"]
    drawn = stowage(*words, lively=True)
    assert drawn.err.startswith("\r") and drawn.err.endswith("\x1b[K\n")
    assert "backup id-9  [########################]  100 %" in drawn.err and drawn.err.count("\n") == 1
    assert "\x1b" not in drawn.out
    for command in (["verify", place], ["restore", place, point, "--to", tmp_path / "o"]):
        assert "100 %" in stowage(*command, lively=True).err
    for quiet in (stowage(*words), stowage(*words, "--quiet", lively=True), stowage(*words, "--json", lively=True)):
        assert (quiet.code, quiet.err) == (0, "")


# -- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "ending"), [("vmdk", "vmdk"), ("qcow2", "qcow2"), ("vmdk-stream", "vmdk")])
def test_a_disk_is_restored_in_a_form_and_backed_up_from_it(
    place: Path, tmp_path: Path, stowage: Run, form: str, ending: str
) -> None:
    if form != "vmdk" and not shutil.which("qemu-img"):
        pytest.skip("no qemu-img here")
    disk = image(tmp_path / "disk", [1, 0, 2, 0, 0])
    made = stowage("backup", place, "--machine", "m", "--disk", f"ide0:0={disk}", "--form", "raw", "--json").json
    found = stowage("restore", place, made["point"], "--to", tmp_path / "out", "--form", form, "--json")
    assert found.code == 0, found.err
    target = tmp_path / "out" / f"ide0-0.{ending}"
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "compare", "-F", "raw", target, disk], check=True, capture_output=True)
    assert stowage("restore", place, made["point"], "--to", tmp_path / "out", "--form", form).code == 66
    assert stowage("restore", place, made["point"], "--to", tmp_path / "o", "--form", form, "--overwrite").code == 2
    if ending == "vmdk":
        again = stowage("backup", place, "--machine", "m", "--disk", f"ide0:0={target}", "--json").json
        assert again["disks"][0]["bytes"] == 5 * CHUNK and again["told"]["new"] == 0
