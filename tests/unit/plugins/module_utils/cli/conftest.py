# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, run in this process or as one of its own."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.cli.main import main
from ansible_collections.stowage.esxi.plugins.module_utils.store import crypto

STORE_TESTS = Path(__file__).parents[1] / "store"
sys.path.insert(0, str(STORE_TESTS))

_SPEC = importlib.util.spec_from_file_location("conftest_of_the_store", STORE_TESTS / "conftest.py")
assert _SPEC is not None and _SPEC.loader is not None
_STORE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_STORE)
s3_server = _STORE.s3_server

from benches import CHUNK, image  # noqa: E402  they lie beside the store's tests

Run = Callable[..., SimpleNamespace]


class Terminal(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def stowage() -> Run:
    """A run: its exit code and what it wrote; `json` is the document on standard output, `error` that of the other."""

    def run(*words: object, lively: bool = False) -> SimpleNamespace:
        out, err = io.StringIO(), Terminal() if lively else io.StringIO()
        code = main([str(word) for word in words], out, err)
        found = SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue(), json=None, error=None)
        if "--json" in words:
            for text, name in ((found.out, "json"), (found.err, "error")):
                setattr(found, name, document(text) if text else None)
        return found

    return run


def document(text: str) -> dict[str, Any]:
    assert text.count("\n") == 1 and text.endswith("\n")
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture(autouse=True)
def no_secrets_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STOWAGE_PASSPHRASE", "STOWAGE_NEW_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    # A passphrase costs 32 MiB and a moment at every opening.
    monkeypatch.setitem(crypto.SCRYPT, "n", 1 << 8)


@pytest.fixture
def place(tmp_path: Path, stowage: Run) -> Path:
    """A store with small chunks."""
    assert stowage("create", tmp_path / "store", "--chunk-size", "64KiB", "--pack-size", "1MiB").code == 0
    return tmp_path / "store"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return image(tmp_path / "disk", [1, 2, 0, 3, 3], 5 * CHUNK - 999)


@pytest.fixture
def point(place: Path, disk: Path, tmp_path: Path, stowage: Run) -> str:
    (tmp_path / "web.vmx").write_text("displayName = web")
    words = ["--machine", "id-1", "--name", "web", "--disk", f"scsi0:0={disk}", "--file", tmp_path / "web.vmx"]
    found = stowage("backup", place, *words, "--json")
    assert found.code == 0, found.err
    return str(found.json["point"])
