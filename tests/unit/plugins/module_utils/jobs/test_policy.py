# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.arguments import policy_options
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.errors import BadPolicy
from ansible_collections.stowage.esxi.plugins.module_utils.jobs.policy import (
    Keep,
    VmPolicy,
    parse_policy,
    vm_policy_from_dict,
)

POINT = {"point": "/vmfs/volumes/backup"}


def test_an_override_changes_what_it_names_and_nothing_else() -> None:
    policy = parse_policy({**POINT, "keep": {"last": 3}, "quiesce": True, "vms": {"db01": {"how": "cold"}}})
    common, own = policy.for_vm(["web01"]), policy.for_vm(["db01", "uuid"])
    assert (common.how, common.keep, common.quiesce) == ("hot", Keep(last=3), True)
    assert (own.how, own.keep, own.quiesce) == ("cold", Keep(last=3), True)


def test_what_a_machine_keeps_replaces_what_the_others_keep() -> None:
    common = {"last": 7, "weekly": 4, "min": 2}
    policy = parse_policy({**POINT, "keep": common, "vms": {"db01": {"keep": {"monthly": 6}}, "web01": {"keep": {}}}})
    assert policy.for_vm(["db01"]).keep == Keep(last=0, monthly=6, min=1)
    assert policy.for_vm(["web01"]).keep == Keep(last=7, weekly=4, min=2)


def test_a_rule_without_last_keeps_no_last_ones_and_no_rule_at_all_is_the_default() -> None:
    assert parse_policy({**POINT, "keep": {"weekly": 4}}).common.keep == Keep(last=0, weekly=4)
    assert parse_policy({**POINT, "keep": {}}).common.keep == Keep()


def test_an_override_may_be_given_by_uuid() -> None:
    assert parse_policy({**POINT, "vms": {"uuid-1": {"quiesce": True}}}).for_vm(["web", "uuid-1"]).quiesce is True


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ({}, "point"),
        ({"point": "relative"}, "point"),
        ({"point": "/vmfs/volumes/../etc"}, "point"),
        ({"point": "/vmfs/volumes/a\nb"}, "point"),
        ({**POINT, "hwo": "hot"}, "hwo"),
        ({**POINT, "how": "lukewarm"}, "how"),
        ({**POINT, "keep": {"last": 0}}, "keep"),
        ({**POINT, "keep": {"min": 3}}, "keep"),
        ({**POINT, "keep": {"lsat": 1}}, "lsat"),
        ({**POINT, "keep": {"min": 0}}, "min"),
        ({**POINT, "shutdown_timeout": "soon"}, "shutdown_timeout"),
        ({**POINT, "quiesce": "perhaps"}, "quiesce"),
        ({**POINT, "disks": {"include": ["0:0"], "only": []}}, "disks"),
        ({**POINT, "disks": {"exclude": ["disk one"]}}, "disks"),
        ({**POINT, "vms": {"db01": {"how": "never"}}}, "db01"),
        ({**POINT, "vms": {"db01": {"select": ["all"]}}}, "select"),
        ({**POINT, "vms": ["db01"]}, "vms"),
        ({**POINT, "unknown_names": "panic"}, "unknown_names"),
    ],
)
def test_a_slip_is_an_error_that_names_the_variable(raw: dict[str, Any], names: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        parse_policy(raw)
    assert names in caught.value.message


def test_a_backup_is_made_durable_piece_by_piece_where_dedup_writes_it_and_nowhere_else() -> None:
    sync: dict[str, Any] = {"program": "dedup", "transfer_mode": "sync", "select": "all"}
    assert parse_policy({**sync, "point": "/srv/s"}).common.transfer_mode == "sync"
    also = {"point": "/vmfs/volumes/b", "program": "vmkfstools"}
    for raw in (
        {**sync, "point": "/srv/r", "program": "rsync"},
        {**sync, "points": ["/srv/s", also]},
        {**sync, "point": "/srv/s", "vms": {"db01": also}},
    ):
        with pytest.raises(BadPolicy, match=r"transfer_mode is sync for '/\S+', which (rsync|vmkfstools) writes"):
            parse_policy(raw)
    both = parse_policy({**sync, "points": ["/srv/s", {**also, "transfer_mode": "async"}]})
    assert [one.transfer_mode for one in both.all_for_vm(["db01"])] == ["sync", "async"]


def test_text_from_a_survey_counts_as_what_it_says() -> None:
    value = vm_policy_from_dict({**POINT, "quiesce": "yes", "shutdown_timeout": "30", "keep": {"last": "2"}})
    assert (value.quiesce, value.shutdown_timeout, value.keep.last) == (True, 30, 2)


def test_a_policy_survives_the_way_through_a_playbook() -> None:
    value = vm_policy_from_dict({**POINT, "how": "warm", "disks": {"exclude": ["scsi0:1"]}, "keep": {"daily": 2}})
    assert vm_policy_from_dict(value.as_dict()) == value


def test_the_module_offers_every_setting_with_its_own_default() -> None:
    options = policy_options()
    defaults = VmPolicy(point="/x")
    for field in fields(VmPolicy):
        assert field.name in options
        if options[field.name].get("default") not in (None, {}, []):
            assert options[field.name]["default"] == getattr(defaults, field.name)
    spec = {name: option["default"] for name, option in options.items() if "default" in option}
    assert parse_policy({**spec, **POINT}).common == vm_policy_from_dict(POINT)


DEDUP = {"point": "/srv/stowage", "program": "dedup"}


def test_a_reference_is_asked_for_by_a_policy_and_else_there_is_none() -> None:
    policy = parse_policy({**DEDUP, "vms": {"db01": {"reference": {"enabled": "yes", "max_age_hours": "24"}}}})
    assert policy.for_vm(["web01"]).keeps_reference is False
    own = policy.for_vm(["db01"])
    assert (own.keeps_reference, own.reference.max_age_hours, own.reference.prove_backups) == (True, 24, 7)
    assert vm_policy_from_dict(own.as_dict()) == own


def test_what_a_machine_says_of_its_reference_leaves_the_rest_as_it_is() -> None:
    common = {"enabled": True, "max_age_hours": 30}
    policy = parse_policy({**DEDUP, "reference": common, "vms": {"db01": {"reference": {"enabled": False}}}})
    assert policy.for_vm(["web01"]).keeps_reference and not policy.for_vm(["db01"]).keeps_reference
    assert policy.for_vm(["db01"]).reference.max_age_hours == 30
    # Who copies whole disks gains nothing by one.
    other = parse_policy({**POINT, "reference": common}).common
    assert not other.keeps_reference


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("yes", "must be a mapping"),
        ({"max_age": 5}, "reference.max_age is not a setting"),
        ({"max_age_hours": 0}, "reference.max_age_hours"),
        ({"prove_backups": 0}, "reference.prove_backups"),
        ({"max_size_percent": 101}, "reference.max_size_percent"),
        ({"enabled": "perhaps"}, "reference.enabled"),
    ],
)
def test_a_slip_in_it_is_named(reference: Any, words: str) -> None:
    with pytest.raises(BadPolicy, match=words):
        parse_policy({**DEDUP, "reference": reference})


def test_the_guests_memory_is_not_kept_between_backups() -> None:
    with pytest.raises(BadPolicy, match="memory"):
        parse_policy({**DEDUP, "reference": {"enabled": True}, "memory": True})


@pytest.mark.parametrize(
    ("program", "point", "meant"),
    [
        ("rsync", "/srv/images/", "/srv/images"),
        ("rsync", "vault:22:/srv/images", "vault:22:/srv/images"),
        ("rsync", "backup@[2001:db8::1]:2222:/srv/x/", "backup@[2001:db8::1]:2222:/srv/x"),
        ("dedup", "vault:22:/srv/store", "vault:22:/srv/store"),
        ("dedup", "root@[::1]:22:/srv/store", "root@[::1]:22:/srv/store"),
        ("borg", "borg@vault:2222:/srv/borg", "ssh://borg@vault:2222/srv/borg"),
        ("borg", "borg@[2001:db8::1]:22:/srv/borg", "ssh://borg@[2001:db8::1]:22/srv/borg"),
    ],
)
def test_a_backup_point_on_another_server_is_taken_by_every_program_that_reads_from_here(
    program: str, point: str, meant: str
) -> None:
    policy = parse_policy({"point": point, "program": program}).common
    assert policy.point == meant
    # It comes back as it was out of a job file.
    assert vm_policy_from_dict(policy.as_dict()) == policy


@pytest.mark.parametrize(
    ("program", "point", "words"),
    [
        ("vmkfstools", "vault:22:/srv/images", "use rsync .*server:port:/path.*dedup.*borg"),
        ("vmkfstools", "root@[2001:db8::1]:22:/srv/images", "use rsync"),
        ("rsync", "/vmfs/volumes/backup/x", "use the program vmkfstools"),
        ("rsync", "s3://bucket/x", "use the program dedup"),
        ("rsync", "images", "absolute path of the backup server, or .*server:port:/path"),
        ("rsync", "vault:22:/srv/../x", "server:port:/path"),
        ("dedup", "ssh://vault/srv/store", "server:port:/path"),
        ("dedup", "vault:99999:/srv/store", "no port"),
        ("borg", "vault:22:/", "no folder of its own"),
    ],
)
def test_a_backup_point_that_cannot_be_is_refused_with_what_to_use(program: str, point: str, words: str) -> None:
    with pytest.raises(BadPolicy, match=words):
        parse_policy({"point": point, "program": program})
