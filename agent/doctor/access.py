"""Whether the API server lets the agent do what it has to, asked as the agent: from inside its pod."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import msgspec

from agent.doctor import Check, Finding, Level, LookError, Patient
from agent.kubernetes.access import Access, is_in_pod, own_namespace
from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.permissions import CLUSTER, OWN_NAMESPACE, Rule

_REVIEWS: Final = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews")


class Right(NamedTuple):
    """One verb on one resource, what for, and whether it is granted. `namespace` is empty for the whole cluster."""

    verb: str
    resource: str
    namespace: str
    why: str
    granted: bool


class _Answer(msgspec.Struct):
    allowed: bool = False


class _Review(msgspec.Struct):
    status: _Answer


async def gather_rights(patient: Patient) -> list[Right] | None:
    """Ask for each right that the chart grants; None outside of a pod, where the agent needs none."""
    del patient
    if not is_in_pod():
        return None
    client = Client(Access())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        return await review(client, own_namespace())


async def review(client: Client, namespace: str) -> list[Right]:
    """Ask the API server what whoever asks may do (SelfSubjectAccessReview). Raises LookError."""
    wanted = [(rule, "") for rule in CLUSTER] + [(rule, namespace) for rule in OWN_NAMESPACE]
    try:
        return [
            Right(verb, resource, where, rule.why, await _is_granted(client, rule, resource, verb, where))
            for rule, where in wanted
            for resource in rule.resources
            for verb in rule.verbs
        ]
    except (Refused, Unreachable) as error:
        raise LookError(f"the API server does not say what the agent may do: {error}") from None


async def _is_granted(client: Client, rule: Rule, resource: str, verb: str, namespace: str) -> bool:
    plural, _, subresource = resource.partition("/")
    asked = {
        "group": rule.group,
        "resource": plural,
        "subresource": subresource,
        "verb": verb,
        "namespace": namespace,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = await client.send(Request("create", _REVIEWS, body=body))
    return msgspec.json.decode(answer, type=_Review).status.allowed


def judge_rights(facts: Sequence[Right] | None) -> Iterator[Finding]:
    """A right that is missing is a kind of object that is not followed, or a status that is not written."""
    if facts is None:
        return
    missing: dict[tuple[str, str, str], list[str]] = {}
    for right in facts:
        if not right.granted:
            missing.setdefault((right.resource, right.namespace, right.why), []).append(right.verb)
    for (resource, namespace, why), verbs in missing.items():
        where = f" in namespace {namespace}" if namespace else ""
        text = f"the agent may not {' or '.join(verbs)} {resource}{where}: {why}"
        yield Finding(RIGHTS.name, Level.FAIL, text, "grant it as the chart does (templates/rbac.yaml)")
    if not missing:
        yield Finding(RIGHTS.name, Level.OK, f"the API server grants all {len(facts)} rights that the agent uses")


RIGHTS: Final = Check("rights", gather_rights, judge_rights)
CHECKS: Final = (RIGHTS,)
