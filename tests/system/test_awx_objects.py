# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role awx_objects with the real modules of awx.awx, out of the package `ansible`, against an AWX on loopback.

The project is docs/awx-project as it stands: its playbooks are what AWX finds, its variables what AWX is told.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awxapi
import pytest
import yaml
from awxapi import Awx

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "docs" / "awx-project"
PACKAGE = "ansible>=13,<14"
TASKS = sorted((ROOT / "roles" / "awx_objects" / "tasks").glob("*.yml"))
MODULES = sorted(
    {
        name
        for path in TASKS
        for name in re.findall(r"^ +awx\.awx\.(\w+):$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
)
SECRETS = [value for value in yaml.safe_load((PROJECT / "awx" / "vault.yml").read_text(encoding="utf-8")).values()]


# Runs a module of awx.awx in the worker itself: its own code and argument spec, without an interpreter for each, which
# would cost most of the time. The soak starts them as ever.
IN_PROCESS = """
import contextlib, io, json
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.action import ActionBase
from ansible_collections.awx.awx.plugins.modules import {module} as module

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        arguments = dict(self._task.args)
        self._update_module_args(self._task.action, arguments, task_vars)
        told = io.StringIO()
        with patch_module_args(arguments), contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
            module.main()
        return json.loads(told.getvalue())
"""


@pytest.fixture(scope="session")
def fetched() -> Path:
    """A folder with awx.awx out of the package `ansible`; fetched once, and kept in .cache."""
    there = ROOT / ".cache" / "awx" / PACKAGE.replace("<", "_").replace(">", "_")
    if not there.is_dir():
        new = there.with_suffix(f".{os.getpid()}")
        fetching = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary", ":all:"]
        fetching += ["--disable-pip-version-check", "-d", str(new / "wheel"), PACKAGE]
        subprocess.run(fetching, check=True, timeout=300, stdin=subprocess.DEVNULL)
        (wheel,) = (new / "wheel").glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            wanted = [name for name in packed.namelist() if name.startswith("ansible_collections/awx/awx/")]
            packed.extractall(new, wanted)
        shutil.rmtree(new / "wheel")
        try:
            new.rename(there)
        except OSError:
            # Another worker was faster.
            shutil.rmtree(new)
    return there


@pytest.fixture(scope="session")
def collections(fetched: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same to run it from."""
    if request.config.getoption("--soak"):
        return fetched
    folder = tmp_path_factory.mktemp("collections")
    shutil.copytree(fetched, folder, dirs_exist_ok=True)
    plugins = folder / "ansible_collections" / "awx" / "awx" / "plugins"
    (plugins / "action").mkdir()
    for name in MODULES:
        (plugins / "action" / f"{name}.py").write_text(IN_PROCESS.format(module=name), encoding="utf-8")
    return folder


@pytest.fixture
def awx() -> Iterator[Awx]:
    files = {path.name for path in PROJECT.glob("*.yml")}
    with awxapi.serving(sorted(files)) as awx:
        yield awx


class Played:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.rc, self.text = done.returncode, done.stdout + done.stderr
        self.recap = {name: int(count) for name, count in re.findall(r"(ok|changed|failed|skipped)=(\d+)", done.stdout)}
        self.changed: list[str] = []
        task = ""
        for line in done.stdout.splitlines():
            named = re.match(r"TASK \[stowage\.esxi\.awx_objects : (.*)\] \*", line)
            task = named.group(1) if named else task
            item = re.match(r"changed: \[localhost\](?: => \(item=(.*?)\))?", line)
            if item:
                self.changed.append(f"{task}: {item.group(1)}" if item.group(1) else task)


def play(awx: Awx, collections: Path, tmp_path: Path, *options: str, **variables: Any) -> Played:
    given = {"awx_objects_host": awx.url, "awx_objects_token": awxapi.TOKEN, **variables}
    file = tmp_path / "given.json"
    file.write_text(json.dumps({name: value for name, value in given.items() if value is not None}), encoding="utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment.update(
        ANSIBLE_COLLECTIONS_PATH=os.pathsep.join([os.environ["ANSIBLE_COLLECTIONS_PATH"], str(collections)]),
        ANSIBLE_HOME=str(tmp_path / "home"),
        ANSIBLE_NOCOLOR="1",
        ANSIBLE_PIPELINING="1",
        # awx.awx reads all certificates of the machine anew for each request, also where it speaks plain HTTP.
        SSL_CERT_FILE=os.devnull,
        SSL_CERT_DIR=str(tmp_path),
        LC_ALL="C.UTF-8",
    )
    done = subprocess.run(
        ["ansible-playbook", "-i", "inventory", "awx_objects.yml", "-e", f"@{file}", *options],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    played = Played(done)
    assert [secret for secret in [*SECRETS, awxapi.TOKEN, awxapi.PASSWORD] if secret in played.text] == []
    return played


def snapshot(awx: Awx) -> Any:
    links = {mark: sorted(others) for mark, others in awx.links.items() if others}
    return copy.deepcopy((awx.objects, links, awx.surveys))


def edges(awx: Awx) -> set[tuple[str, str, str]]:
    names = {number: one["identifier"] for number, one in awx.objects["workflow_job_template_nodes"].items()}
    return {
        (names[number], relation.removesuffix("_nodes"), names[other])
        for (number, relation), others in awx.links.items()
        if relation.endswith("_nodes")
        for other in others
    }


def test_all_is_made_and_what_was_changed_by_hand_is_put_back(awx: Awx, collections: Path, tmp_path: Path) -> None:
    made = play(awx, collections, tmp_path)
    assert made.rc == 0, made.text
    templates = awx.objects["job_templates"]
    assert {one["playbook"] for one in templates.values()} | {"awx_objects.yml"} == set(awx.files)
    organization = awx.named("organizations", "Stowage")["id"]
    passwords = {"Stowage backup servers", "Stowage passwords", "Stowage vault"}
    for number, one in templates.items():
        assert one["organization"] == organization and one["execution_environment"]
        assert {awx.objects["credentials"][each]["name"] for each in awx.related(number, "credentials")} == passwords
        assert one["survey_enabled"] == (number in awx.surveys)
    kept = awx.named("credentials", "Stowage passwords")["inputs"]
    assert kept == {"esxi_password": "change-me-esxi", "store_passphrase": "change-me-store"}
    assert json.loads(awx.named("job_templates", "Stowage replicate")["extra_vars"])["replicate_source"] == "esx1"
    assert awx.named("inventory_sources", "Stowage")["source_path"] == "inventory/hosts.yml"
    schedules = {one["name"]: one for one in awx.objects["schedules"].values()}
    assert schedules["Stowage night"]["rrule"].startswith("DTSTART;TZID=Europe/Berlin:20260101T213000 RRULE:FREQ=DAILY")
    assert "FREQ=MINUTELY;INTERVAL=10" in schedules["Stowage recover every ten minutes"]["rrule"]
    assert (
        awx.get("unified_job_templates", schedules["Stowage night"]["unified_job_template"])["name"] == "Stowage night"
    )
    assert ("backup", "failure", "recover_after_backup") in edges(awx) and len(edges(awx)) == 18

    # By hand, in AWX's pages.
    before = snapshot(awx)
    awx.named("job_templates", "Stowage recover")["forks"] = 1
    awx.surveys[awx.named("job_templates", "Stowage backup hot")["id"]]["spec"][0]["default"] = "all"
    awx.named("schedules", "Stowage night")["enabled"] = False
    awx.named("projects", "Stowage")["scm_update_on_launch"] = False
    awx.links[awx.named("job_templates", "Stowage backup")["id"], "credentials"].pop()
    workflow = awx.named("workflow_job_templates", "Stowage night")["id"]
    awx.make("workflow_job_template_nodes", {"identifier": "by hand", "workflow_job_template": workflow})
    after = awx.named("workflow_job_template_nodes", "recover_after_link")["id"]
    awx.links[after, "success_nodes"] = [awx.links[after, "always_nodes"].pop(0)]
    awx.links[awx.named("workflow_job_template_nodes", "prune")["id"], "failure_nodes"].clear()

    mended = play(awx, collections, tmp_path)
    assert mended.rc == 0, mended.text
    assert mended.changed == [
        "The project",
        "The job templates: Stowage backup",
        "The job templates: Stowage backup hot",
        "The job templates: Stowage recover",
        "Nodes that the workflows no longer have: Stowage night: by hand",
        "Edges that change their kind: Stowage night: recover_after_link",
        "Nodes that are missing or differ: Stowage night: prune",
        "Nodes that are missing or differ: Stowage night: recover_after_link",
        "The schedules: Stowage night",
    ]
    assert snapshot(awx) == before


def test_check_mode_says_what_a_fresh_awx_would_get(awx: Awx, collections: Path, tmp_path: Path) -> None:
    before = snapshot(awx)
    told = play(awx, collections, tmp_path, "--check")
    assert told.rc == 0, told.text
    assert snapshot(awx) == before
    assert "The organisation" in told.changed
    for one in ("project Stowage", "job template Stowage restore", "node verdict", "schedule Stowage night"):
        assert f'"{one}"' in told.text


def test_every_option_is_one_that_the_modules_have(fetched: Path) -> None:
    modules = fetched / "ansible_collections" / "awx" / "awx" / "plugins" / "modules"
    seen = set()
    for path in TASKS:
        for task in yaml.safe_load(path.read_text(encoding="utf-8")):
            for name in [key for key in task if key.startswith("awx.awx.")]:
                source = (modules / f"{name.rpartition('.')[2]}.py").read_text(encoding="utf-8")
                options = yaml.safe_load(source.split("DOCUMENTATION = '''")[1].split("'''")[0])["options"]
                assert set(task[name]) <= set(options), task["name"]
                seen.add(name)
    assert sorted(f"awx.awx.{name}" for name in MODULES) == sorted(seen)


@pytest.mark.soak
def test_a_second_run_changes_nothing_and_check_mode_agrees(awx: Awx, collections: Path, tmp_path: Path) -> None:
    # With a password in place of a token: each module gets a token of its own, and gives it back.
    login = {"awx_objects_token": "", "awx_objects_username": awxapi.USER, "awx_objects_password": awxapi.PASSWORD}
    assert play(awx, collections, tmp_path, **login).rc == 0
    before = snapshot(awx)
    for options in ([], ["--check"]):
        again = play(awx, collections, tmp_path, *options, **login)
        assert (again.rc, again.changed, again.recap["changed"]) == (0, [], 0), again.text
    awx.named("job_templates", "Stowage restore")["limit"] = "esx1"
    awx.remove("workflow_job_template_nodes", awx.named("workflow_job_template_nodes", "verdict")["id"])
    told = play(awx, collections, tmp_path, "--check", **login)
    assert told.changed == ["The job templates: Stowage restore", "Say what would be made or changed besides"]
    assert '"node verdict"' in told.text
    assert play(awx, collections, tmp_path, **login).rc == 0
    assert (len(awx.objects["job_templates"]), len(before[0]["job_templates"])) == (12, 12)
    # Lookups of awx.awx give no token back; what the modules took is given back.
    assert len(awx.tokens) <= 5


@pytest.mark.soak
def test_secrets_are_set_again_when_asked_and_entries_can_be_taken_away(
    awx: Awx, collections: Path, tmp_path: Path
) -> None:
    assert play(awx, collections, tmp_path).rc == 0
    awx.named("credentials", "Stowage passwords")["inputs"]["esxi_password"] = "old"
    assert play(awx, collections, tmp_path).changed == []
    changed = play(awx, collections, tmp_path, awx_objects_update_secrets=True).changed
    assert len(changed) == 4 and all(one.startswith("The credentials: ") for one in changed)
    assert awx.named("credentials", "Stowage passwords")["inputs"]["esxi_password"] == "change-me-esxi"
    gone = {
        "awx_objects_templates": [
            {"key": "replicate", "state": "absent"},
            {"key": "own", "playbook": "backup.yml", "limit": "esx1", "forks": 1},
        ],
        "awx_objects_workflows": [{"key": "short", "nodes": [{"id": "only", "template": "own"}]}],
        "awx_objects_schedules": [{"key": "replicate", "template": "replicate", "state": "absent"}],
    }
    assert play(awx, collections, tmp_path, **gone).rc == 0
    assert not awx.using("job_templates", name="Stowage replicate") and not awx.using(
        "schedules", name="replicate at noon"
    )
    assert awx.named("workflow_job_template_nodes", "only") and awx.named("job_templates", "Stowage own")["forks"] == 1
    wrong = {"awx_objects_schedules": [{"key": "x", "template": "nothing"}]}
    refused = play(awx, collections, tmp_path, **wrong)
    assert refused.rc == 2 and "schedule x: there is no template nothing" in refused.text
