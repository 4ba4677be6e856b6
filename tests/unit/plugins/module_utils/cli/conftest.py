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


class Terminal(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def stowage() -> Callable[..., SimpleNamespace]:
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
