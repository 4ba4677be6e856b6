# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module imports out of its zip file is compiled once, kept, and otherwise what it always was."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.base import heavy, zipped

ROOT = Path(__file__).resolve().parents[5]
BASE = "ansible_collections/stowage/esxi/plugins/module_utils/base"
PROGRAM = """
import json, sys, zipimport
sys.path[:0] = [sys.argv[1]]
compiled = []
real = zipimport._compile_source
zipimport._compile_source = lambda path, source: compiled.append(path) or real(path, source)
name = "ansible_collections.stowage.esxi.plugins.module_utils.base"
found = {}
for word in sys.argv[2:]:
    module = __import__(f"{name}.{word}", fromlist=["x"])
    found[word] = [module.__file__, module.__spec__.origin, module.__spec__.loader.get_source(f"{name}.{word}")]
try:
    __import__(f"{name}.nothing")
except ModuleNotFoundError as error:
    found["nothing"] = str(error)
print(json.dumps({"found": found, "times": {path: compiled.count(path) for path in compiled}}))
"""


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """As Ansible makes one: no file of a folder has anything in it but those that are imported."""
    path = tmp_path / "payload.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(1, len(Path(BASE).parts) + 1):
            archive.writestr("/".join((*Path(BASE).parts[:number], "__init__.py")), "")
        for name in ("ansible", "errors", "heavy", "zipped", "waiter", "clock"):
            archive.write(ROOT / "plugins/module_utils/base" / f"{name}.py", f"{BASE}/{name}.py")
        archive.writestr(f"{BASE}/more/__init__.py", "WORD = 'a package'\n")
    return path


def test_each_file_is_compiled_once_and_knows_where_it_lies(payload: Path) -> None:
    command = [sys.executable, "-B", "-c", PROGRAM, str(payload), "ansible", "waiter", "more"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for word, path in (("ansible", "ansible.py"), ("waiter", "waiter.py"), ("more", "more/__init__.py")):
        place, origin, source = told["found"][word]
        assert place == origin == f"{payload}/{BASE}/{path}"
        with zipfile.ZipFile(payload) as archive:
            assert source.encode() == archive.read(f"{BASE}/{path}")
    assert "nothing" in told["found"]["nothing"]
    # What is imported before it, and the folders on the way there, cost what they always did.
    later = {f"{payload}/{BASE}/{name}" for name in ("waiter.py", "clock.py", "more/__init__.py")}
    assert {path: times for path, times in told["times"].items() if path in later} == dict.fromkeys(later, 1)


def test_what_runs_from_files_is_left_alone() -> None:
    before = list(sys.path_hooks)
    zipped.compile_once()
    assert sys.path_hooks == before


NAME = "ansible_collections.stowage.esxi.plugins.module_utils.base.more"
SHOWN = """
import builtins, json, pwd, sys, types
sys.path[:0] = [sys.argv[1]]
# The home of the user that this process is.
pwd.getpwuid = lambda uid: types.SimpleNamespace(pw_dir=sys.argv[2])
real, compiled = builtins.compile, []
builtins.compile = lambda source, name, *more, **other: compiled.append(name) or real(source, name, *more, **other)
base = "ansible_collections.stowage.esxi.plugins.module_utils.base"
__import__(base + ".heavy")
more, waiter = (__import__(f"{base}.{word}", fromlist=["x"]) for word in ("more", "waiter"))
later = [name for name in set(compiled) if name.endswith(("/more/__init__.py", "/waiter.py", "/clock.py"))]
told = sorted(name[name.index("ansible_collections") :] for name in later)
print(json.dumps([more.WORD, more.__file__, waiter.Waiter.__init__.__code__.co_filename, told]))
"""
ALL = [f"{BASE}/{name}" for name in ("clock.py", "more/__init__.py", "waiter.py")]
OLDEST = sorted((Path.home() / ".pyenv" / "versions").glob("3.9.*/bin/python"))
PYTHONS = [sys.executable, *map(str, OLDEST[-1:])]


def shown(payload: Path, home: Path, *options: str, python: str = sys.executable, **environment: str) -> list[str]:
    """A process that imports from the payload: a word, its place, code's place, what of three files was compiled."""
    given = {"PATH": os.environ["PATH"], **environment}
    command = [python, *options, "-c", SHOWN, str(payload), str(home)]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def with_word(payload: Path, other: Path, word: str) -> Path:
    """The same payload in another place, with another text in one file."""
    with zipfile.ZipFile(payload) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            text = f"WORD = {word!r}\n" if name.endswith("more/__init__.py") else source.read(name)
            target.writestr(name, text)
    return other


def folder_of(home: Path) -> Path:
    return home / ".cache/stowage/bytecode"


def kept_file(home: Path) -> Path:
    (found,) = folder_of(home).glob(f"{NAME}.*")
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_next_process_compiles_only_what_has_changed(payload: Path, tmp_path: Path, python: str) -> None:
    word, place, code, compiled = shown(payload, tmp_path, python=python)
    assert (word, place) == ("a package", f"{payload}/{ALL[1]}") and compiled == ALL
    # The payload of the next task lies elsewhere; where code is from is told in its own terms.
    other = with_word(payload, tmp_path / "next.zip", "a package")
    assert shown(other, tmp_path, python=python) == ["a package", f"{other}/{ALL[1]}", ALL[2], []] and code == ALL[2]
    changed = with_word(payload, tmp_path / "new.zip", "a new text")
    assert shown(changed, tmp_path, python=python) == ["a new text", f"{changed}/{ALL[1]}", ALL[2], [ALL[1]]]
    # There and back: one file for a name, whatever the number of versions.
    assert shown(other, tmp_path, python=python)[3] == [ALL[1]]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (*folder_of(tmp_path).parents[:2], folder_of(tmp_path))}
    assert modes == {0o700} and stat.S_IMODE(kept_file(tmp_path).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "harm", ["cut", "empty", "bit in the code", "bit in the digest", "of another source", "folder"]
)
def test_kept_code_that_is_not_what_was_written_is_made_anew(payload: Path, tmp_path: Path, harm: str) -> None:
    shown(payload, tmp_path)
    path = kept_file(tmp_path)
    good = path.read_bytes()
    if harm == "folder":
        path.unlink()
        path.mkdir()
    else:
        at = {"bit in the code": heavy.DIGEST + 9, "bit in the digest": 3, "of another source": 31}
        bad = bytearray(good)
        if harm in at:
            bad[at[harm]] ^= 4
        path.write_bytes({"cut": good[:-7], "empty": b""}.get(harm, bytes(bad)))
    assert shown(payload, tmp_path)[0] == "a package"
    if harm != "folder":
        assert path.read_bytes() == good


def test_nothing_is_kept_where_nothing_can_be_written_or_nothing_shall_be(payload: Path, tmp_path: Path) -> None:
    assert shown(payload, tmp_path, "-B")[0] == "a package"
    assert shown(payload, Path("/dev/null"))[0] == "a package"
    assert shown(payload, Path("/nowhere"))[0] == "a package"
    # It is of no importance what the environment says.
    elsewhere = str(tmp_path / "elsewhere")
    assert shown(payload, Path("/nowhere"), HOME=elsewhere, XDG_CACHE_HOME=elsewhere)[3] == ALL
    assert os.listdir(tmp_path) == ["payload.zip"]


def test_a_disk_that_is_full_keeps_nothing_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = heavy.Kept(str(tmp_path))

    def full(*_words: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    scope: dict[str, int] = {}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        exec(kept.code("x", "x.py", b"a = 1 + 1"), scope)
    assert scope["a"] == 2 and os.listdir(folder_of(tmp_path)) == [f"x{kept.tail}.part"]
    # Another Python's code is not ours.
    exec(kept.code("y", "y.py", b"a = 3"), scope)
    path = folder_of(tmp_path) / f"y{kept.tail}"
    before = path.read_bytes()
    monkeypatch.setattr(importlib.util, "MAGIC_NUMBER", b"next")
    exec(kept.code("y", "y.py", b"a = 3"), scope)
    assert scope["a"] == 3 and path.read_bytes() != before


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("harm", [0o770, 0o707, "link", "of another user"])
def test_code_that_others_could_have_put_there_is_not_run(
    payload: Path, tmp_path: Path, level: int, harm: int | str
) -> None:
    shown(payload, tmp_path)
    folder = tmp_path.joinpath(*heavy.FOLDERS[: level + 1])
    moved = tmp_path / "moved"
    if isinstance(harm, int):
        folder.chmod(harm)
    elif harm == "link":
        folder.rename(moved)
        folder.symlink_to(moved)
    elif os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    else:
        pytest.skip("gives a folder to another user")
    assert shown(payload, tmp_path)[3] == ALL
    if harm == "link":
        folder.unlink()
        moved.rename(folder)
    elif isinstance(harm, int):
        folder.chmod(0o700)
    else:
        os.chown(folder, 0, 0)
    assert shown(payload, tmp_path)[3] == []


def test_a_link_in_the_place_of_a_file_is_not_followed(payload: Path, tmp_path: Path) -> None:
    shown(payload, tmp_path)
    path, other = kept_file(tmp_path), tmp_path / "other"
    path.rename(other)
    path.symlink_to(other)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    Path(f"{path}.part").symlink_to(precious)
    assert shown(payload, tmp_path)[3] == [ALL[1]] and precious.read_text() == "mine"


def test_what_a_zip_file_has_as_compiled_code_only_is_still_imported(payload: Path, tmp_path: Path) -> None:
    source = tmp_path / "only.py"
    source.write_text("WORD = 'compiled'\n")
    py_compile.compile(str(source), str(tmp_path / "only.pyc"), doraise=True)
    with zipfile.ZipFile(payload, "a") as archive:
        archive.write(tmp_path / "only.pyc", f"{BASE}/only.pyc")
    program = SHOWN + "\nassert __import__(base + '.only', fromlist=['x']).WORD == 'compiled'\n"
    command = [sys.executable, "-c", program, str(payload), str(tmp_path)]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
