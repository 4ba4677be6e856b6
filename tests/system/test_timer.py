# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role timer with a real systemd: a user's manager in a mount namespace of its own, which starts real jobs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("ansible-playbook")
SECRETS = {"vault": "the vault's own password", "environment": 'a "secret" with $dollars and \\ strokes'}
# systemd refuses to start where the machine was not booted with it; this is how it knows.
MANAGER = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec /lib/systemd/systemd --user"


@dataclass
class House:
    """A user's home with a project, and systemd to look after it."""

    folder: Path
    environment: dict[str, str]

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["systemctl", "--user", "--no-pager", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def play(self, *options: str, **variables: Any) -> tuple[str, int]:
        """Runs the role; what it printed, and how many tasks changed something."""
        given = {
            "timer_scope": "user",
            "timer_project": str(self.folder / "project %h $1"),
            "timer_ansible_playbook": str(PROGRAM),
            "timer_inventory": ["hosts.yml"],
            "timer_vault_password": SECRETS["vault"],
            "timer_environment": {"STOWAGE_TEST": SECRETS["environment"]},
            "timer_jobs": [
                {
                    "name": "night",
                    "playbooks": ["first.yml", "second.yml"],
                    "calendar": "*-*-* 22:00:00 Europe/Berlin",
                    "options": ["-e", '{"word": "two words"}'],
                    "on_failure": "recover",
                },
                {"name": "recover", "playbooks": ["recover.yml"], "calendar": "*:05/10", "catch_up": False},
            ],
            **variables,
        }
        book = [{"hosts": "localhost", "gather_facts": False, "roles": [{"role": "stowage.esxi.timer"}]}]
        (self.folder / "book.json").write_text(json.dumps(book), encoding="utf-8")
        (self.folder / "given.json").write_text(json.dumps(given), encoding="utf-8")
        done = subprocess.run(
            [PROGRAM, "book.json", "-e", "@given.json", *options],
            cwd=self.folder,
            env={**self.environment, "ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"]},
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert [secret for secret in SECRETS.values() if secret in done.stdout + done.stderr] == []
        return done.stdout, sum(int(count) for count in re.findall(r"changed=(\d+)", done.stdout))

    def files(self) -> dict[str, int]:
        """What the role made, with its modes."""
        return {
            str(path.relative_to(self.folder / "home")): stat.S_IMODE(path.stat().st_mode)
            for path in (self.folder / "home" / ".config").rglob("*")
            if path.is_file() and not path.is_symlink()
        }


def lay_project(folder: Path) -> None:
    """Three playbooks; the first fails, the second says what it was given and opens a vault."""
    folder.mkdir()
    (folder / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n", encoding="utf-8")
    said = "{{ lookup('env', 'STOWAGE_TEST') }}|{{ word }}|{{ hidden }}"
    for name, task in (
        ("first", {"ansible.builtin.fail": {"msg": "as asked"}}),
        ("second", {"ansible.builtin.copy": {"content": said, "dest": "../second", "mode": "0600"}}),
        ("recover", {"ansible.builtin.copy": {"content": "recovered", "dest": "../recover", "mode": "0600"}}),
    ):
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [task]}
        if name == "second":
            play["vars_files"] = ["hidden.yml"]
        (folder / f"{name}.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    (folder / "hidden.yml").write_text("hidden: opened\n", encoding="utf-8")
    (folder / "password").write_text(SECRETS["vault"], encoding="utf-8")
    vault = [str(PROGRAM.with_name("ansible-vault")), "encrypt", "--vault-password-file", "password", "hidden.yml"]
    subprocess.run(vault, cwd=folder, check=True, capture_output=True, timeout=60)
    (folder / "password").unlink()


@pytest.fixture
def house() -> Iterator[House]:
    # Short: the manager's socket lies in it, and the path of a socket has an end.
    folder = Path(tempfile.mkdtemp(prefix="stowage-timer-"))
    for name in ("home", "run"):
        (folder / name).mkdir(mode=0o700)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
    }
    lay_project(folder / "project %h $1")
    with open(folder / "log", "wb") as log:
        manager = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", MANAGER], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    house = House(folder, environment)
    try:
        deadline = time.monotonic() + 60
        while house.systemctl("list-timers").returncode:
            assert manager.poll() is None and time.monotonic() < deadline, (folder / "log").read_text("utf-8")
            time.sleep(0.2)
        yield house
    finally:
        manager.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            manager.wait(20)
        manager.kill()
        manager.wait(20)
        shutil.rmtree(folder)


def until(path: Path) -> str:
    deadline = time.monotonic() + 90
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.read_text(encoding="utf-8")


@pytest.mark.soak
def test_a_night_runs_all_its_playbooks_fails_when_one_failed_and_then_recovers(house: House) -> None:
    house.play()
    assert house.files() == {
        ".config/stowage/vault-password": 0o400,
        ".config/stowage/environment": 0o400,
        ".config/stowage/night": 0o755,
        ".config/stowage/recover": 0o755,
        ".config/systemd/user/stowage-night.service": 0o644,
        ".config/systemd/user/stowage-night.timer": 0o644,
        ".config/systemd/user/stowage-recover.service": 0o644,
        ".config/systemd/user/stowage-recover.timer": 0o644,
    }
    units = "".join(path.read_text() for path in (house.folder / "home/.config/systemd/user").glob("stowage-*"))
    assert [secret for secret in SECRETS.values() if secret in units] == []
    waiting = house.systemctl("list-timers").stdout
    assert "stowage-night.timer" in waiting and "stowage-recover.timer" in waiting
    assert (
        house.systemctl("is-enabled", "stowage-night.timer", "stowage-recover.timer").stdout.split() == ["enabled"] * 2
    )
    # As the timer does it.
    assert house.systemctl("start", "stowage-night.service").returncode != 0
    assert "Result=exit-code" in house.systemctl("show", "stowage-night.service").stdout
    assert (house.folder / "second").read_text(encoding="utf-8") == f"{SECRETS['environment']}|two words|opened"
    assert until(house.folder / "recover") == "recovered"
    text, changed = house.play()
    assert changed == 0, text
    house.play(timer_state="absent")
    assert house.files() == {}
    assert "stowage" not in house.systemctl("list-timers", "--all").stdout


@pytest.mark.soak
def test_check_mode_changes_nothing_and_changes_are_told_made_and_taken_away(house: House) -> None:
    assert house.play("--check")[1] > 0
    assert house.files() == {}
    house.play()
    jobs = [{"name": "night", "playbooks": ["second.yml"], "calendar": "Mon 21:30"}]
    before = house.files()
    text, changed = house.play("--check", "--diff", timer_jobs=jobs)
    assert changed > 0 and "+OnCalendar=Mon 21:30" in text and house.files() == before
    house.play(timer_jobs=jobs, timer_vault_password="", timer_environment={})
    assert sorted(house.files()) == [
        ".config/stowage/night",
        ".config/systemd/user/stowage-night.service",
        ".config/systemd/user/stowage-night.timer",
    ]
    waiting = house.systemctl("list-timers", "--all").stdout
    assert "Mon" in waiting and "stowage-recover" not in waiting
    house.play(timer_state="absent")
    text, changed = house.play(timer_state="absent")
    assert (changed, house.files()) == (0, {}), text
