# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the store's command line into one file. The standard library is enough for it.

make_cli.py TARGET
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import check


def main(target: Path) -> None:
    sys.path.insert(0, str(check.workspace()))
    bundle = importlib.import_module("ansible_collections.stowage.esxi.plugins.module_utils.cli.bundle")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(bundle.build())
    target.chmod(0o755)
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
