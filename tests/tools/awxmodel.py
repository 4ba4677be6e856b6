# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWX 24 keeps and what it refuses, for the kinds of objects that role awx_objects makes; awxapi.py serves them.

The rules are those of AWX's serializers and models of release 24.6: which fields there are, what they default to, what
is required, unique, read-only or limited to some values, and what has to fit together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jinja2
import jinja2.sandbox
import yaml

Object = dict[str, Any]


class Refused(Exception):
    """What AWX answers with status 400 or 403."""

    def __init__(self, field_name: str, why: str, status: int = 400) -> None:
        super().__init__(f"{field_name}: {why}")
        self.answer, self.status = {field_name: [why]}, status


class Store(Protocol):
    def get(self, kind: str, number: Any) -> Object: ...
    def related(self, number: int, relation: str) -> list[int]: ...
    def using(self, kind: str, /, **fields: Any) -> list[Object]: ...
    def playbooks(self, project: Object) -> list[str]: ...


@dataclass(frozen=True)
class Field:
    """`type` is text, bool, int, dict, variables (text that is JSON or YAML of a mapping), or the kind referred to."""

    type: str = "text"
    default: Any = None
    required: bool = False
    choices: tuple[Any, ...] = ()
    read_only: bool = False
    fixed: bool = False  # settable when the object is made, ignored afterwards


@dataclass(frozen=True)
class Kind:
    """`type` is what the API calls one of them."""

    type: str
    fields: Mapping[str, Field]
    unique: tuple[str, ...]
    relations: Mapping[str, str] = field(default_factory=dict)
    ordered: tuple[str, ...] = ()


TEXT = Field(default="")
YES, NO, ZERO = Field("bool", True), Field("bool", False), Field("int", 0)
NAME = Field(required=True)


def each(words: str, entry: Field, form: str = "{}") -> dict[str, Field]:
    """The same entry for several fields."""
    return {form.format(word): entry for word in words.split()}


NOTIFY = {f"notification_templates_{when}": "notification_templates" for when in ("started", "success", "error")}
ASKS = (
    "scm_branch diff_mode variables limit tags skip_tags job_type verbosity inventory credential labels forks"
    " execution_environment job_slice_count timeout instance_groups"
)
# What a schedule or node may set where its template asks for it: field, and the template's switch.
PROMPTS = {
    "limit": "ask_limit_on_launch",
    "job_type": "ask_job_type_on_launch",
    "job_tags": "ask_tags_on_launch",
    "skip_tags": "ask_skip_tags_on_launch",
    "diff_mode": "ask_diff_mode_on_launch",
    "verbosity": "ask_verbosity_on_launch",
    "inventory": "ask_inventory_on_launch",
    "scm_branch": "ask_scm_branch_on_launch",
}
LAUNCH = {
    "extra_data": Field("dict", {}),
    "inventory": Field("inventories"),
    **{name: Field() for name in ("scm_branch", "job_type", "job_tags", "skip_tags", "limit")},
    "diff_mode": Field("bool"),
    "verbosity": Field("int"),
}

KINDS: dict[str, Kind] = {
    "organizations": Kind(
        "organization",
        {"name": NAME, "description": TEXT, "max_hosts": ZERO, "default_environment": Field("execution_environments")},
        ("name",),
        {"galaxy_credentials": "credentials", "instance_groups": "instance_groups", **NOTIFY},
        ("galaxy_credentials",),
    ),
    "credential_types": Kind(
        "credential_type",
        {
            "name": NAME,
            "description": TEXT,
            "kind": Field(required=True, choices=("cloud", "net")),
            "managed": Field("bool", False, read_only=True),
            "inputs": Field("dict", {}),
            "injectors": Field("dict", {}),
        },
        ("name", "kind"),
    ),
    "credentials": Kind(
        "credential",
        {
            "name": NAME,
            "description": TEXT,
            "organization": Field("organizations"),
            "credential_type": Field("credential_types", required=True),
            "managed": Field("bool", False, read_only=True),
            "inputs": Field("dict", {}),
        },
        ("organization", "name", "credential_type"),
    ),
    "execution_environments": Kind(
        "execution_environment",
        {
            "name": NAME,
            "description": TEXT,
            "organization": Field("organizations"),
            "image": Field(required=True),
            "credential": Field("credentials"),
            "pull": Field(default="", choices=("", "always", "missing", "never")),
        },
        ("name",),
    ),
    "projects": Kind(
        "project",
        {
            "name": NAME,
            "description": TEXT,
            "organization": Field("organizations", required=True),
            "scm_type": Field(default="", choices=("", "git", "svn", "insights", "archive")),
            "scm_revision": Field(default="", read_only=True),
            **{name: TEXT for name in ("scm_url", "scm_branch", "scm_refspec")},
            **{
                name: NO
                for name in [
                    "scm_clean",
                    "scm_delete_on_update",
                    "scm_track_submodules",
                    "scm_update_on_launch",
                    "allow_override",
                ]
            },
            "credential": Field("credentials"),
            "timeout": ZERO,
            "scm_update_cache_timeout": ZERO,
            "default_environment": Field("execution_environments"),
        },
        ("name", "organization"),
        NOTIFY,
    ),
    "inventories": Kind(
        "inventory",
        {
            "name": NAME,
            "description": TEXT,
            "organization": Field("organizations", required=True),
            "kind": Field(default="", choices=("", "smart", "constructed")),
            "host_filter": Field(),
            "variables": Field("variables", ""),
            "prevent_instance_group_fallback": NO,
        },
        ("name", "organization"),
        {"instance_groups": "instance_groups"},
    ),
    "inventory_sources": Kind(
        "inventory_source",
        {
            "name": NAME,
            "description": TEXT,
            "inventory": Field("inventories", required=True, fixed=True),
            "source": Field(
                required=True, choices=("scm", "ec2", "gce", "azure_rm", "vmware", "openstack", "controller")
            ),
            **{
                name: TEXT
                for name in ("source_path", "scm_branch", "enabled_var", "enabled_value", "host_filter", "limit")
            },
            "source_vars": Field("variables", ""),
            "credential": Field("credentials"),
            "source_project": Field("projects"),
            **{name: NO for name in ("overwrite", "overwrite_vars", "update_on_launch")},
            **{name: ZERO for name in ("timeout", "update_cache_timeout")},
            "verbosity": Field("int", 1, choices=(0, 1, 2)),
            "execution_environment": Field("execution_environments"),
        },
        ("name", "inventory"),
        NOTIFY,
    ),
    "job_templates": Kind(
        "job_template",
        {
            "name": NAME,
            "description": TEXT,
            "organization": Field("organizations", read_only=True),
            "job_type": Field(default="run", choices=("run", "check")),
            "inventory": Field("inventories"),
            "project": Field("projects", required=True),
            "execution_environment": Field("execution_environments"),
            **{name: TEXT for name in ("playbook", "scm_branch", "limit", "job_tags", "skip_tags", "start_at_task")},
            **{name: ZERO for name in ("forks", "timeout")},
            "verbosity": Field("int", 0, choices=(0, 1, 2, 3, 4, 5)),
            "job_slice_count": Field("int", 1),
            "extra_vars": Field("variables", ""),
            **each("force_handlers use_fact_cache survey_enabled become_enabled diff_mode allow_simultaneous", NO),
            "prevent_instance_group_fallback": NO,
            **each(ASKS, NO, "ask_{}_on_launch"),
        },
        ("name", "organization"),
        {"credentials": "credentials", "labels": "labels", "instance_groups": "instance_groups", **NOTIFY},
    ),
    "workflow_job_templates": Kind(
        "workflow_job_template",
        {
            "name": NAME,
            "description": TEXT,
            "organization": Field("organizations"),
            "inventory": Field("inventories"),
            "extra_vars": Field("variables", ""),
            **{name: NO for name in ("survey_enabled", "allow_simultaneous")},
            **{name: Field() for name in ("limit", "scm_branch", "job_tags", "skip_tags")},
            **each("variables inventory scm_branch limit labels tags skip_tags", NO, "ask_{}_on_launch"),
        },
        ("name", "organization"),
        {"labels": "labels", **NOTIFY, "notification_templates_approvals": "notification_templates"},
    ),
    "workflow_job_template_nodes": Kind(
        "workflow_job_template_node",
        {
            "identifier": Field(required=True),
            "workflow_job_template": Field("workflow_job_templates", required=True, fixed=True),
            "unified_job_template": Field("unified_job_templates"),
            "all_parents_must_converge": NO,
            **LAUNCH,
        },
        ("identifier", "workflow_job_template"),
        {
            **{f"{edge}_nodes": "workflow_job_template_nodes" for edge in ("success", "failure", "always")},
            "credentials": "credentials",
            "labels": "labels",
            "instance_groups": "instance_groups",
        },
    ),
    "schedules": Kind(
        "schedule",
        {
            "name": NAME,
            "description": TEXT,
            "unified_job_template": Field("unified_job_templates", required=True),
            "enabled": YES,
            "rrule": Field(required=True),
            **LAUNCH,
        },
        ("unified_job_template", "name"),
        {"credentials": "credentials", "labels": "labels", "instance_groups": "instance_groups"},
    ),
    "notification_templates": Kind(
        "notification_template",
        {
            "name": NAME,
            "description": TEXT,
            "organization": Field("organizations"),
            "notification_type": Field(default="email"),
        },
        ("organization", "name"),
    ),
}
# These share one list in the API, and may be started, be a node, have a schedule.
UNIFIED = ("projects", "inventory_sources", "job_templates", "workflow_job_templates")

# AWX's own credential types: namespace-like kind, and fields, the secret ones starred.
MANAGED_TYPES = {
    "Machine": (
        "ssh",
        "username password* ssh_key_data* ssh_public_key_data ssh_key_unlock* become_method become_username"
        " become_password*",
    ),
    "Vault": ("vault", "vault_password* vault_id"),
    "Source Control": ("scm", "username password* ssh_key_data* ssh_key_unlock*"),
    "Container Registry": ("registry", "host username password*"),
    "Ansible Galaxy/Automation Hub API Token": ("galaxy", "url auth_url token*"),
}
SURVEY_TYPES: dict[str, Any] = {
    "text": str,
    "textarea": str,
    "password": str,
    "multiplechoice": str,
    "multiselect": str,
    "integer": int,
    "float": (float, int),
}


def mapping(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text or "{}")
    if not isinstance(found, dict):
        raise Refused("__all__", "Cannot parse as JSON or YAML of a mapping")
    return found


def check(kind: str, new: Object, old: Object | None, store: Store) -> None:
    """Raises Refused where AWX would not take `new`, which has all fields, in place of `old`."""
    rule = globals().get(f"_check_{kind}")
    if rule is not None:
        rule(new, old, store)


def _check_credential_types(new: Object, old: Object | None, store: Store) -> None:
    if old and old["managed"]:
        raise Refused("detail", "Modifications not allowed for managed credential types", 403)
    if old and old["inputs"] != new["inputs"] and store.using("credentials", credential_type=old["id"]):
        raise Refused("detail", "Modifications to inputs are not allowed for credential types that are in use", 403)
    if set(new["inputs"]) - {"fields", "required"}:
        raise Refused("inputs", "Additional properties are not allowed")
    for one in new["inputs"].get("fields", []):
        unknown = set(one) - {"type", "format", "choices", "id", "label", "help_text", "multiline", "secret", "default"}
        if (
            unknown
            or not {"id", "label"} <= set(one)
            or not re.fullmatch(r"[a-zA-Z_]\w*", one["id"])
            or one["id"] == "tower"
        ):
            raise Refused("inputs", f"{one} is not a field")
        # It is filled in, so that a type that leaves it out never equals what is stored.
        one.setdefault("type", "string")
        if one["type"] not in ("string", "boolean"):
            raise Refused("inputs", f"{one['type']} is not one of ['string', 'boolean']")
    if set(new["injectors"]) - {"file", "env", "extra_vars"}:
        raise Refused("injectors", "Additional properties are not allowed")
    example = {one["id"]: "EXAMPLE" for one in new["inputs"].get("fields", [])}
    templates = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    for place, entries in new["injectors"].items():
        for name, text in entries.items():
            if place == "env" and name.startswith("ANSIBLE_"):
                raise Refused("injectors", f"Environment variable {name} may affect Ansible configuration")
            try:
                templates.from_string(text).render(example)
            except jinja2.exceptions.TemplateError as error:
                raise Refused("injectors", f"{name} uses an undefined field ({error})") from None


def _check_credentials(new: Object, old: Object | None, store: Store) -> None:
    if not new["organization"] and not (old and old["managed"]):
        raise Refused("detail", "Missing 'user', 'team', or 'organization'.")
    fields = store.get("credential_types", new["credential_type"])["inputs"].get("fields", [])
    known = {one["id"]: one for one in fields}
    for name, value in new["inputs"].items():
        if name not in known:
            raise Refused("inputs", f"Additional properties are not allowed ('{name}' was unexpected)")
        if not isinstance(value, bool if known[name].get("type") == "boolean" else str):
            raise Refused("inputs", f"{name} is not of type {known[name].get('type', 'string')}")


def _check_execution_environments(new: Object, old: Object | None, store: Store) -> None:
    if new["credential"] and _type_of(new["credential"], store)["kind"] != "registry":
        raise Refused(
            "credential", "Only Container Registry credentials can be associated with an Execution Environment"
        )
    if old and new["organization"] and new["organization"] != old["organization"]:
        raise Refused("organization", "Cannot change the organization of an execution environment")


def _check_projects(new: Object, old: Object | None, store: Store) -> None:
    if new["scm_type"] and not new["scm_url"]:
        raise Refused("scm_url", "SCM URL is required.")
    if new["credential"] and _type_of(new["credential"], store)["kind"] != "scm":
        raise Refused("credential", "Credential kind must be 'scm'.")


def _check_inventory_sources(new: Object, old: Object | None, store: Store) -> None:
    if new["source"] == "scm" and not new["source_project"]:
        raise Refused("source_project", "Project required for scm type sources.")
    if new["source"] != "scm" and (new["source_project"] or new["source_path"]):
        raise Refused("detail", "Cannot set source_project source_path if not SCM type.")
    if new["credential"] and _type_of(new["credential"], store)["kind"] in ("insights", "vault"):
        raise Refused("credential", "Credentials of type insights and vault are disallowed for scm inventory sources.")


def _check_job_templates(new: Object, old: Object | None, store: Store) -> None:
    project = store.get("projects", new["project"])
    new["organization"] = project["organization"]
    if not new["inventory"] and not new["ask_inventory_on_launch"]:
        raise Refused("inventory", "You must either set a default value or ask to prompt on launch.")
    if not new["playbook"]:
        raise Refused("playbook", "Must select playbook for project.")
    if new["playbook"] not in store.playbooks(project):
        raise Refused("playbook", "Playbook not found for project.")
    if (new["scm_branch"] or new["ask_scm_branch_on_launch"]) and not project["allow_override"]:
        raise Refused("scm_branch", "Project does not allow overriding branch.")
    mapping(new["extra_vars"])


def _check_workflow_job_templates(new: Object, old: Object | None, store: Store) -> None:
    mapping(new["extra_vars"])


def _check_workflow_job_template_nodes(new: Object, old: Object | None, store: Store) -> None:
    if new["unified_job_template"]:
        _check_prompts(new, store.get("unified_job_templates", new["unified_job_template"]), required=False)


def _check_schedules(new: Object, old: Object | None, store: Store) -> None:
    _check_prompts(new, store.get("unified_job_templates", new["unified_job_template"]), required=True)
    rule = new["rrule"]
    starts = re.findall(r"DTSTART(?:;TZID=([^:]+))?:(\d{8}T\d{6}Z?)", rule)
    rules = re.findall(r"RRULE:(\S+)", rule)
    if len(starts) != 1:
        raise Refused("rrule", "Valid DTSTART required in rrule. Value should start with: DTSTART:YYYYMMDDTHHMMSSZ")
    if not starts[0][0] and not starts[0][1].endswith("Z"):
        raise Refused("rrule", "A valid TZID must be provided (e.g., America/New_York)")
    if not rules:
        raise Refused("rrule", "One or more rule required in rrule.")
    for one in rules:
        parts = dict(part.split("=", 1) for part in one.split(";"))
        if "INTERVAL" not in parts:
            raise Refused("rrule", f"INTERVAL required in rrule: {one}")
        if parts.get("FREQ") not in ("MINUTELY", "HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"):
            raise Refused("rrule", f"rrule parsing failed validation: {one}")


def _check_prompts(new: Object, template: Object, *, required: bool) -> None:
    """What a saved launch sets must be asked for by what it launches; a schedule must give what is required."""
    for name, switch in PROMPTS.items():
        if new.get(name) not in (None, "") and new[name] != template.get(name) and not template.get(switch):
            raise Refused(name, "Field is not configured to prompt on launch.")
    left = dict(new["extra_data"])
    for question in template.get("survey", {}).get("spec", []) if template.get("survey_enabled") else []:
        given = left.pop(question["variable"], None)
        if given is not None and question["type"] == "multiplechoice" and given not in question["choices"]:
            raise Refused(
                "extra_data", f"Value {given} for '{question['variable']}' expected to be one of {question['choices']}."
            )
        if required and given is None and question["required"] and question.get("default") in (None, ""):
            raise Refused("variables_needed_to_start", f"'{question['variable']}' value missing")
    if left and not template.get("ask_variables_on_launch"):
        raise Refused("extra_data", f"Variables {', '.join(left)} are not allowed on launch.")


def check_survey(spec: Object) -> None:
    """Raises Refused where AWX would not take a survey."""
    for name, wanted in (("name", str), ("description", str), ("spec", list)):
        if not isinstance(spec.get(name), wanted):
            raise Refused("error", f"Field '{name}' is missing from survey spec.")
    if not spec["spec"]:
        raise Refused("error", "'spec' doesn't contain any items.")
    seen = set()
    for number, question in enumerate(spec["spec"]):
        for name, wanted in (("type", str), ("question_name", str), ("variable", str), ("required", bool)):
            if not isinstance(question.get(name), wanted):
                raise Refused("error", f"'{name}' missing from survey question {number}")
        if question["variable"] in seen:
            raise Refused("error", f"'variable' '{question['variable']}' duplicated in survey question {number}.")
        seen.add(question["variable"])
        if question["type"] not in SURVEY_TYPES:
            raise Refused("error", f"'{question['type']}' in survey question {number} is not an allowed question type.")
        default = question.get("default", "")
        if default != "" and not isinstance(default, SURVEY_TYPES[question["type"]]):
            raise Refused(
                "error", f"Default value {default} in survey question {number} expected to be {question['type']}."
            )
        if any(not isinstance(question[end], int) for end in ("min", "max") if question.get(end) is not None):
            raise Refused("error", f"The limit in survey question {number} expected to be integer.")
        if question["type"] in ("multiselect", "multiplechoice"):
            if "choices" not in question:
                raise Refused("error", f"Survey question {number} must specify choices.")
            if any(one not in question["choices"] for one in str(default).splitlines()):
                raise Refused("error", "Default choice must be answered from the choices listed.")


def check_relation(kind: str, owner: Object, relation: str, other: Object, store: Store) -> None:
    """Raises Refused where AWX would not attach `other` to `owner`."""
    if relation == "galaxy_credentials" and _type_of(other["id"], store)["kind"] != "galaxy":
        raise Refused("msg", "Credential must be a Galaxy credential.")
    if kind == "job_templates" and relation == "credentials":
        mine = _type_of(other["id"], store)
        if mine["kind"] not in ("ssh", "vault", "cloud", "net", "kubernetes"):
            raise Refused("error", f"Cannot assign a Credential of kind `{mine['kind']}`.")
        marks = [_mark(number, store) for number in store.related(owner["id"], relation)]
        if _mark(other["id"], store) in marks:
            raise Refused("error", f"Cannot assign multiple {mine['name']} credentials.")
    if relation in ("success_nodes", "failure_nodes", "always_nodes"):
        if other["workflow_job_template"] != owner["workflow_job_template"]:
            raise Refused("error", "Cannot associate nodes of different workflows.")
        for edge in {"success_nodes", "failure_nodes", "always_nodes"} - {relation}:
            if other["id"] in store.related(owner["id"], edge):
                raise Refused("Error", "Relationship not allowed.")
        if owner["id"] in _below(other["id"], store):
            raise Refused("Error", "Cycle detected.")


def _type_of(credential: int, store: Store) -> Object:
    return store.get("credential_types", store.get("credentials", credential)["credential_type"])


def _mark(credential: int, store: Store) -> tuple[int, str]:
    """What there may be one of on a job template: a credential type, for vaults together with their id."""
    one = store.get("credentials", credential)
    return one["credential_type"], str(one["inputs"].get("vault_id", ""))


def _below(node: int, store: Store) -> set[int]:
    found, left = set(), [node]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += [
                number for edge in ("success", "failure", "always") for number in store.related(one, f"{edge}_nodes")
            ]
    return found
