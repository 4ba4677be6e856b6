# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is imported out of a zip file, as a module's payload is one, is compiled once.

zipimport compiles a file to tell its name, and again to run it: a third of what the imports of a large module take.
"""

from __future__ import annotations

import sys
from zipimport import zipimporter


class Importer(zipimporter):
    """Tells names by what lies in the zip file."""

    def get_filename(self, fullname: str) -> str:
        return f"{self.archive}/{self.inside(fullname)}"

    def inside(self, fullname: str) -> str:
        """The path in the zip file."""
        tail = "/__init__.py" if self.is_package(fullname) else ".py"
        return f"{self.prefix}{fullname.rpartition('.')[2]}{tail}"


def compile_once(importer: type[Importer] = Importer) -> None:
    """From now on, in this process; nothing happens to what does not run out of a zip file itself."""
    if not isinstance(globals().get("__loader__"), zipimporter):
        return
    sys.path_hooks[:] = [importer if hook in (zipimporter, Importer) else hook for hook in sys.path_hooks]
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter) and not isinstance(finder, importer):
            del sys.path_importer_cache[path]
