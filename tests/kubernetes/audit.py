"""What a user asked of the API server, as the server's audit log has it: for comparing with the rights granted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["admin", "system:apiserver"]},  # the tests themselves
        {"level": "Metadata"},
    ],
}


class Call(NamedTuple):
    """A kind of request, as RBAC sees it. `name` and `namespace` are empty where the request names none."""

    verb: str
    group: str
    resource: str  # with its subresource: nodes/status
    namespace: str
    name: str


def read_calls(log: Path, user: str) -> set[Call]:
    """Return every kind of request of a user so far, refused ones as well."""
    calls = set()
    for line in log.read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef")
        if event["user"].get("username") == user and about:
            resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
            names = (about.get("namespace", ""), about.get("name", ""))
            calls.add(Call(event["verb"], about.get("apiGroup", ""), resource, *names))
    return calls
