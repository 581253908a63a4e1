"""Rights of service accounts: roles and who has them, as objects to apply."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agent.kubernetes.permissions import Rule
from agent.namespace import OWN_NAMESPACE


def granted(name: str, account: str, rules: Iterable[Rule], namespace: str = "") -> list[dict[str, Any]]:
    """Return a role with these rights and who has it."""
    kind, place = ("Role", {"namespace": namespace}) if namespace else ("ClusterRole", {})
    group = "rbac.authorization.k8s.io"
    said = [{"apiGroups": [rule.group], "resources": list(rule.resources), "verbs": list(rule.verbs)} for rule in rules]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": OWN_NAMESPACE}
    return [
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": name, **place}, "rules": said},
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": {"name": name, **place},
            "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [subject],
        },
    ]
