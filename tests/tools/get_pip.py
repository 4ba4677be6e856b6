# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the pip bootstrap that ansible-test would download: the interpreter brings pip itself (ensurepip).

Called as `python get_pip.py [options] requirement...`, inside a virtual environment made without pip.
"""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: called in here, ensurepip blanks pip's settings and breaks the certificate look-up.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
arguments = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", *arguments]).returncode)
