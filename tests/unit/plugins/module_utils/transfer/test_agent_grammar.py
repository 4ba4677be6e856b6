# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's source is Python 3.5 and the standard library, whatever the interpreters of this machine let pass."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent, starting

from .conftest import PYTHONS

SOURCE = Path(str(agent.__file__)).read_text(encoding="utf-8")
TREE = ast.parse(SOURCE, feature_version=(3, 5))

# Everything of a module that the agent may use was there in 3.5.
USED = {
    "collections": {"deque"},
    "errno": {
        *("EACCES", "EBADF", "EBUSY", "EEXIST", "EFBIG", "EINVAL", "EIO", "EISDIR", "ENODATA", "ENOENT", "ENOMEM"),
        *("ENOSYS", "ENOTDIR", "ENXIO", "EOPNOTSUPP", "EPERM", "EPROTO", "ESTALE", "errorcode"),
    },
    "hashlib": {"sha256"},
    "json": {"dumps"},
    "io": {"FileIO"},
    "os": {
        *("SEEK_SET", "fstat", "fsync", "getpid", "lseek", "path", "stat", "write", "_exit"),
        # What a store in a folder needs; see Root.
        *("O_CREAT", "O_RDONLY", "O_RDWR", "O_TRUNC", "close", "ftruncate", "listdir", "lstat", "mkdir", "open"),
        *("rename", "rmdir", "unlink", "utime"),
    },
    "platform": {"system"},
    "re": {"compile"},
    "select": {"select"},
    "stat": {"S_ISDIR", "S_ISREG"},
    "struct": {"Struct", "pack", "unpack", "unpack_from"},
    "sys": {"argv", "version_info"},
    "threading": {"Condition", "Thread"},
    "time": {"monotonic", "time"},
    "zlib": {"compress", "decompressobj", "error"},
}


def test_it_imports_and_uses_only_what_is_listed() -> None:
    modules: set[str] = set()
    for node in ast.walk(TREE):
        assert not isinstance(node, ast.ImportFrom)
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    assert modules == set(USED)
    used: dict[str, set[str]] = {}
    for node in ast.walk(TREE):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in USED:
            used.setdefault(node.value.id, set()).add(node.attr)
    assert {name: words - USED[name] for name, words in used.items()} == {name: set() for name in used}


def test_nothing_newer_than_3_5_is_in_its_grammar() -> None:
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Await, ast.Match, ast.AsyncFor)
    guilty = [type(node).__name__ for node in ast.walk(TREE) if isinstance(node, newer)]
    for node in ast.walk(TREE):
        if isinstance(node, ast.FunctionDef):
            arguments: Any = [*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            guilty += [f"{node.name}: annotation" for item in arguments if item is not None and item.annotation]
            guilty += [f"{node.name}: returns"] if node.returns else []
            guilty += [f"{node.name}: positional-only"] if node.args.posonlyargs else []
    assert guilty == []
    numbers = [token.string for token in tokenize.generate_tokens(io.StringIO(SOURCE).readline) if token.type == 2]
    assert numbers
    assert [number for number in numbers if "_" in number] == []


def test_it_has_no_epoll_and_starts_no_process() -> None:
    for word in ("epoll", "multiprocessing", "subprocess", "fork", "selectors", "asyncio", "mmap"):
        assert word not in {node.attr for node in ast.walk(TREE) if isinstance(node, ast.Attribute)}, word


def test_one_place_makes_files_and_it_is_asked_for_names_below_the_stores_folder_only() -> None:
    """Whoever calls it, or removes, or renames, has had the name looked at: see `place` and `under_way`."""
    makers = {
        function.name
        for function in ast.walk(TREE)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr in ("O_CREAT", "mkdir", "rename", "unlink", "rmdir")
    }
    assert makers == {"made", "make_folder", "give", "clear", "drop", "put", "remove"}


@pytest.mark.parametrize("found", PYTHONS, ids=lambda found: found.text)
def test_every_interpreter_compiles_it_and_the_bootstrap(found: Any) -> None:
    code = "import sys; compile(sys.stdin.buffer.read(), 'agent', 'exec')"
    for text in (starting.source(), starting.BOOTSTRAP.encode()):
        done = subprocess.run(
            [found.executable, "-W", "error", "-c", code], input=text, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_sent_is_the_file_packed_where_the_interpreter_can_unpack() -> None:
    assert starting.source().decode("utf-8") == SOURCE
    plain = starting.Interpreter("/bin/python3", (3, 8, 1), zlib=False)
    assert plain.program() == starting.source() and not plain.program().startswith(b"x")
    packed = starting.Interpreter("/bin/python3", (3, 8, 1)).program()
    assert packed.startswith(b"x") and zlib.decompress(packed) == plain.program()
    assert len(packed) < len(plain.program()) / 3


def test_it_is_also_found_in_the_zip_file_that_ansible_makes_of_a_module(tmp_path: Path) -> None:
    rooms = Path(str(agent.__file__)).parents[1]
    root = "ansible_collections/stowage/esxi/plugins/module_utils"
    with zipfile.ZipFile(tmp_path / "module.zip", "w") as made:
        folders = ["ansible_collections"]
        for name in (*root.split("/")[1:], "transfer"):
            folders.append(f"{folders[-1]}/{name}")
        for folder in folders:
            made.writestr(f"{folder}/__init__.py", "")
        for name in ("agent.py", "starting.py"):
            made.write(rooms / "transfer" / name, f"{root}/transfer/{name}")
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from ansible_collections.stowage.esxi.plugins.module_utils.transfer import agent, starting\n"
        "assert 'module.zip' in agent.__file__\n"
        "sys.stdout.buffer.write(starting.source())\n"
    )
    words = [sys.executable, "-I", "-c", code, str(tmp_path / "module.zip")]
    assert subprocess.run(words, capture_output=True, check=True).stdout.decode("utf-8") == SOURCE


def test_process_lists_show_its_mark_in_the_one_line_of_its_command() -> None:
    for way in ("command", "stdin"):
        words = starting.Interpreter("/bin/python3", (3, 8, 0), way).argv(starting.mark("abc"), 60)
        assert not any("\n" in word for word in words)
        assert "stowage-agent-abc" in " ".join(words)
