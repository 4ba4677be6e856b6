# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWX's API, version 2, on a loopback address, as far as the modules of awx.awx use it for the kinds of awxmodel.py.

It keeps objects in memory, lists them in pages of 25 with AWX's filters, refuses what AWX refuses, shows no secret,
fetches a project a moment after it was made. A field or filter that it does not know is an error, so that nothing
passes because nobody looked.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import awxmodel
from awxmodel import KINDS, MANAGED_TYPES, UNIFIED, Object, Refused

TOKEN, USER, PASSWORD = "token-of-the-tests", "admin", "password-of-the-tests"
HIDDEN = "$encrypted$"
ROOT = "/api/v2/"
# What the modules send besides fields.
NO_FIELDS = {"type"}


@dataclass
class Awx:
    """One AWX, with what a fresh one has. `files` are the playbooks that every project turns out to have."""

    files: list[str]
    url: str = ""
    objects: dict[str, dict[int, Object]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    links: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    surveys: dict[int, Object] = field(default_factory=dict)
    updates: dict[int, Object] = field(default_factory=dict)
    tokens: dict[int, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    guard: threading.RLock = field(default_factory=threading.RLock)
    _last: int = 0

    def __post_init__(self) -> None:
        for name, (kind, fields) in MANAGED_TYPES.items():
            words = [(word.rstrip("*"), word.endswith("*")) for word in fields.split()]
            inputs = {
                "fields": [{"id": one, "label": one, "type": "string", "secret": secret} for one, secret in words]
            }
            self._keep("credential_types", {"name": name, "kind": kind, "managed": True, "inputs": inputs})
        galaxy = next(iter(self.using("credential_types", kind="galaxy")))["id"]
        self._keep("credentials", {"name": "Ansible Galaxy", "credential_type": galaxy, "managed": True})

    # What the rules of awxmodel ask.

    def get(self, kind: str, number: Any) -> Object:
        for one in UNIFIED if kind == "unified_job_templates" else (kind,):
            if number in self.objects.get(one, {}):
                return {**self.objects[one][number], "survey": self.surveys.get(number, {})}
        raise Refused("detail", f'Invalid pk "{number}" - object does not exist.')

    def related(self, number: int, relation: str) -> list[int]:
        return self.links.get((number, relation), [])

    def using(self, kind: str, /, **fields: Any) -> list[Object]:
        return [one for one in self.objects[kind].values() if all(one[name] == value for name, value in fields.items())]

    def playbooks(self, project: Object) -> list[str]:
        return self.files if project["scm_revision"] else []

    # What the API does.

    def named(self, kind: str, name: str) -> Object:
        """The object of this name; for tests."""
        (found,) = self.using(kind, **{_name_of(kind): name})
        return found

    def make(self, kind: str, sent: Object) -> Object:
        new = self._filled(kind, sent, None)
        awxmodel.check(kind, new, None, self)
        self._check_unique(kind, new)
        made = self._keep(kind, new)
        if kind == "projects" and made["scm_type"]:
            self._fetch(made)
        return made

    def change(self, kind: str, number: int, sent: Object) -> Object:
        old = self.objects[kind][number]
        new = self._filled(kind, sent, old)
        awxmodel.check(kind, new, old, self)
        self._check_unique(kind, new)
        self.objects[kind][number] = new
        if kind == "projects" and any(old[name] != new[name] for name in ("scm_url", "scm_branch", "scm_type")):
            self._fetch(new)
        return new

    def remove(self, kind: str, number: int) -> None:
        del self.objects[kind][number]
        for key in [key for key in self.links if key[0] == number]:
            del self.links[key]
        for others in self.links.values():
            if number in others:
                others.remove(number)
        # What cannot be without it goes with it.
        for schedule in self.using("schedules", unified_job_template=number) if kind in UNIFIED else []:
            self.remove("schedules", schedule["id"])
        for node in self.using("workflow_job_template_nodes", workflow_job_template=number):
            self.remove("workflow_job_template_nodes", node["id"])
        for node in self.using("workflow_job_template_nodes", unified_job_template=number):
            node["unified_job_template"] = None

    def attach(self, kind: str, number: int, relation: str, sent: Object) -> None:
        others = self.links.setdefault((number, relation), [])
        if sent.get("disassociate"):
            others.remove(sent["id"])
            return
        other = self.get(KINDS[kind].relations[relation], sent["id"])
        awxmodel.check_relation(kind, self.objects[kind][number], relation, other, self)
        if sent["id"] not in others:
            others.append(sent["id"])

    def shown(self, kind: str, one: Object) -> Object:
        """An object as the API shows it."""
        kinds = KINDS[kind]
        place = f"{ROOT}{kind}/{one['id']}/"
        found = {**one, "type": kinds.type, "url": place}
        found["related"] = {name: f"{place}{name}/" for name in kinds.relations}
        if kind in ("job_templates", "workflow_job_templates"):
            found["related"]["survey_spec"] = f"{place}survey_spec/"
        found["summary_fields"] = {}
        for name, entry in kinds.fields.items():
            if entry.type in KINDS and one[name]:
                other = self.objects[entry.type][one[name]]
                found["summary_fields"][name] = {"id": other["id"], "name": other["name"]}
        if kind == "projects":
            found["related"]["update"] = f"{place}update/"
            for update in self.updates.values():
                if update["project"] == one["id"] and update["status"] == "running":
                    found["summary_fields"]["current_update"] = {"id": update["id"], "status": "running"}
        if kind == "credentials":
            secret = self._secret(one)
            found["inputs"] = {
                name: HIDDEN if name in secret and value else value for name, value in one["inputs"].items()
            }
        for name in kinds.relations:
            if name.endswith("_nodes"):
                found[name] = list(self.related(one["id"], name))
        return found

    def listed(self, kind: str, query: list[tuple[str, str]]) -> list[Object]:
        kinds = UNIFIED if kind == "unified_job_templates" else (kind,)
        either = [(name[4:], value) for name, value in query if name.startswith("or__")]
        every = [
            (name, value) for name, value in query if not name.startswith("or__") and name not in ("page", "page_size")
        ]
        found = []
        for one_kind in kinds:
            for one in self.objects[one_kind].values():
                if all(self._matches(one_kind, one, *each) for each in every) and (
                    not either or any(self._matches(one_kind, one, *each) for each in either)
                ):
                    found.append(self.shown(one_kind, one))
        return sorted(found, key=lambda one: one["id"])

    def update_of(self, number: int) -> Object:
        """A project's update; it has ended when it is looked at for the second time."""
        update = self.updates[number]
        shown = dict(update)
        if update["status"] == "running":
            update["status"] = "successful"
            self.objects["projects"][update["project"]]["scm_revision"] = "5f1d2c"
        return shown

    def _fetch(self, project: Object) -> None:
        self._last += 1
        self.updates[self._last] = {"id": self._last, "project": project["id"], "status": "running"}

    def _keep(self, kind: str, new: Object) -> Object:
        self._last += 1
        defaults = {name: copy.deepcopy(entry.default) for name, entry in KINDS[kind].fields.items()}
        self.objects[kind][self._last] = {**defaults, **new, "id": self._last}
        return self.objects[kind][self._last]

    def _filled(self, kind: str, sent: Object, old: Object | None) -> Object:
        """All fields: those sent, made what AWX makes of them, over those that were there."""
        fields = KINDS[kind].fields
        unknown = set(sent) - set(fields) - NO_FIELDS
        if unknown:
            raise Refused("detail", f"this API of the tests does not know {sorted(unknown)} of {kind}")
        new = copy.deepcopy(old) if old else {name: copy.deepcopy(entry.default) for name, entry in fields.items()}
        for name, entry in fields.items():
            if name in sent and not entry.read_only and not (old and entry.fixed):
                new[name] = self._taken(name, entry, sent[name], old)
            if entry.required and new.get(name) in (None, ""):
                raise Refused(name, "This field is required.")
        if kind == "credentials" and old:
            # A secret that is sent back as it was shown stays what it was.
            new["inputs"] = {
                name: old["inputs"].get(name) if value == HIDDEN else value for name, value in new["inputs"].items()
            }
        return new

    def _taken(self, name: str, entry: awxmodel.Field, value: Any, old: Object | None) -> Any:
        if value is None:
            return entry.default if entry.type in ("text", "bool", "variables") else None
        if entry.type in KINDS or entry.type == "unified_job_templates":
            return self.get(entry.type, value)["id"]
        wanted = {"text": str, "variables": str, "bool": bool, "int": int, "dict": dict}[entry.type]
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise Refused(name, f"Not a valid {entry.type}: {value!r}")
        if entry.choices and value not in entry.choices:
            raise Refused(name, f'"{value}" is not a valid choice.')
        return copy.deepcopy(value)

    def _check_unique(self, kind: str, new: Object) -> None:
        for one in self.objects[kind].values():
            if one["id"] != new.get("id") and all(one[name] == new[name] for name in KINDS[kind].unique):
                raise Refused(
                    "__all__", f"{KINDS[kind].type} with this {', '.join(KINDS[kind].unique)} already exists."
                )

    def _secret(self, credential: Object) -> set[str]:
        fields = self.get("credential_types", credential["credential_type"])["inputs"].get("fields", [])
        return {one["id"] for one in fields if one.get("secret")}

    def _matches(self, kind: str, one: Object, name: str, value: str) -> bool:
        """Whether an object meets a filter; `a__b__name` follows relations."""
        first, _, rest = name.partition("__")
        if first == "id" and not rest:
            return str(one["id"]) == value
        if first == "type" and not rest:
            return KINDS[kind].type == value
        entry = KINDS[kind].fields.get(first)
        if entry is None:
            if kind in UNIFIED:
                return False
            raise Refused("detail", f"{KINDS[kind].type} has no field named '{first}'")
        if rest:
            return one[first] is not None and self._matches(
                entry.type, self.objects[entry.type][one[first]], rest, value
            )
        return str(one[first] if one[first] is not None else "None") == value


def _name_of(kind: str) -> str:
    return "identifier" if kind == "workflow_job_template_nodes" else "name"


class _Handler(BaseHTTPRequestHandler):
    awx: Awx
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        parts = urlsplit(self.path)
        with self.awx.guard:
            self.awx.requests.append((self.command, self.path))
            try:
                status, answer = self._handled(parts.path, parse_qsl(parts.query, keep_blank_values=True), body)
            except Refused as refused:
                status, answer = refused.status, refused.answer
            except KeyError:
                status, answer = 404, {"detail": "Not found."}
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-API-Product-Name", "AWX")
        self.send_header("X-API-Product-Version", "24.6.1")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def _handled(self, path: str, query: list[tuple[str, str]], body: bytes) -> tuple[int, Any]:
        words = path.removeprefix(ROOT).strip("/").split("/") if path.startswith(ROOT) else []
        if words[:1] == ["tokens"]:
            return self._token(words)
        if self.headers.get("Authorization") not in [f"Bearer {one}" for one in (TOKEN, *self.awx.tokens.values())]:
            return 401, {"detail": "Authentication credentials were not provided."}
        if words[:1] == ["project_updates"] and self.command == "GET":
            return 200, self.awx.update_of(int(words[1]))
        sent = json.loads(body) if body and self.command in ("POST", "PATCH") else {}
        kind = words[0] if words else ""
        if len(words) == 1 and self.command == "GET":
            return 200, self._page(path, query, self.awx.listed(kind, query))
        if len(words) == 1 and self.command == "POST":
            return 201, self.awx.shown(kind, self.awx.make(kind, sent))
        number = int(words[1]) if len(words) > 1 else 0
        one = self.awx.objects[kind][number]
        if len(words) == 2:
            if self.command == "GET":
                return 200, self.awx.shown(kind, one)
            if self.command == "PATCH":
                return 200, self.awx.shown(kind, self.awx.change(kind, number, sent))
            self.awx.remove(kind, number)
            return 204, None
        if words[2] == "survey_spec":
            return self._survey(number, sent)
        relation = words[2]
        if self.command == "GET":
            other = KINDS[kind].relations[relation]
            listed = [
                self.awx.shown(other, self.awx.objects[other][each]) for each in self.awx.related(number, relation)
            ]
            return 200, self._page(path, query, listed)
        self.awx.attach(kind, number, relation, sent)
        return 204, None

    def _token(self, words: list[str]) -> tuple[int, Any]:
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != basic:
            return 401, {"detail": "Authentication credentials were not provided."}
        if self.command == "DELETE":
            del self.awx.tokens[int(words[1])]
            return 204, None
        number = len(self.awx.requests)
        self.awx.tokens[number] = f"made-{number}"
        return 201, {"id": number, "token": self.awx.tokens[number]}

    def _survey(self, number: int, sent: Object) -> tuple[int, Any]:
        if self.command == "GET":
            return 200, self.awx.surveys.get(number, {})
        if self.command == "POST":
            awxmodel.check_survey(sent)
            self.awx.surveys[number] = sent
        else:
            self.awx.surveys.pop(number, None)
        return 200, {}

    def _page(self, path: str, query: list[tuple[str, str]], found: list[Object]) -> Object:
        words = dict(query)
        size, page = min(int(words.get("page_size", 25)), 200), int(words.get("page", 1))
        more = f"{path}?page={page + 1}&page_size={size}"
        more += "".join(f"&{name}={value}" for name, value in query if name not in ("page", "page_size"))
        return {
            "count": len(found),
            "next": more if len(found) > page * size else None,
            "previous": None,
            "results": found[(page - 1) * size : page * size],
        }


@contextlib.contextmanager
def serving(files: list[str]) -> Iterator[Awx]:
    """A fresh AWX on a loopback address; `url` is where it is."""
    awx = Awx(files)

    class Handler(_Handler):
        pass

    Handler.awx = awx
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    awx.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield awx
    finally:
        server.shutdown()
        server.server_close()
