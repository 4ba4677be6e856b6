# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that role timer makes for a whole machine, judged by systemd's own tools, which work where none runs."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROLE = Path(__file__).resolve().parents[3] / "roles" / "timer"
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))


def render(folder: Path, **variables: Any) -> list[Path]:
    """The files of all jobs as the role lays them, with everything in one folder."""
    engine = jinja2.Environment(
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(ROLE),
    )
    engine.filters["quote"] = shlex.quote
    given = {**DEFAULTS, "timer_project": "/srv/project", "timer_user": "daemon", **variables}
    given.update(_timer_config_dir=str(folder), _timer_vault_password_file="", _timer_mark="# mark")
    units = []
    for job in given["timer_jobs"]:
        for kind, name in (
            ("job", job["name"]),
            ("service", f"stowage-{job['name']}.service"),
            ("timer", f"stowage-{job['name']}.timer"),
        ):
            text = engine.get_template(f"templates/{kind}.j2").render(given, timer_job=job)
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755 if kind == "job" else 0o644)
            if kind != "job":
                units.append(folder / name)
    return units


def ask(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "timer_user": "root",
            "timer_environment": {"A": "1"},
            "timer_collections_path": "/opt/with blank/100%",
            "timer_project": "/srv/it's here",
        },
        {"timer_hardened": False},
    ],
    ids=["as it is", "odd names", "not hardened"],
)
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, variables: dict[str, Any]) -> None:
    units = render(tmp_path, **variables)
    found = ask("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    for job in DEFAULTS["timer_jobs"]:
        assert ask("sh", "-n", tmp_path / job["name"]).returncode == 0


def test_a_fault_in_a_unit_would_have_been_found(tmp_path: Path) -> None:
    (unit, *_others) = render(tmp_path)
    unit.write_text(unit.read_text(encoding="utf-8") + "ProtectEverything=yes\n", encoding="utf-8")
    assert "ProtectEverything" in ask("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).stderr


def test_a_hardened_job_is_little_exposed_and_one_that_is_not_is_much(tmp_path: Path) -> None:
    """By systemd's own measure, from 0 to 10."""
    judge = ("systemd-analyze", "security", "--offline=yes", "--no-pager")
    (unit, *_others) = render(tmp_path)
    assert ask(*judge, "--threshold=40", unit).returncode == 0
    (unit, *_others) = render(tmp_path, timer_hardened=False)
    assert ask(*judge, "--threshold=40", unit).returncode != 0


@pytest.mark.parametrize("job", DEFAULTS["timer_jobs"], ids=lambda job: job["name"])
def test_systemd_understands_when_a_job_starts(job: dict[str, Any]) -> None:
    found = ask("systemd-analyze", "calendar", "--iterations=3", job["calendar"])
    assert found.returncode == 0
    times = [
        line.split(": ", 1)[1].split()[2]
        for line in found.stdout.splitlines()
        if line.lstrip().startswith(("Next", "Iter"))
    ]
    if job["name"] == "night":
        assert set(times) == {"22:00:00"}
    else:
        minutes = [int(one.split(":")[1]) for one in times]
        assert [(later - earlier) % 60 for earlier, later in zip(minutes, minutes[1:])] == [10, 10]


def test_the_playbooks_that_run_by_themselves_are_those_of_awx_too() -> None:
    text = (ROLE.parent / "awx_objects" / "vars" / "main.yml").read_text(encoding="utf-8")
    for job in DEFAULTS["timer_jobs"]:
        assert all(f"- key: {playbook.rpartition('.')[2]}\n" in text for playbook in job["playbooks"])
