"""The rights of an agent, as a list. That they are enough, and all used, is tested against a real API server."""

from __future__ import annotations

import pytest

from agent.kubernetes.permissions import CLUSTER, FOLLOWED, OWN_NAMESPACE, Rule
from agent.objects.kinds import KINDS


def granted(kind: str) -> list[Rule]:
    group, _, _ = KINDS[kind].group_version.rpartition("/")
    return [rule for rule in (*CLUSTER, *OWN_NAMESPACE) if rule.group == group and KINDS[kind].plural in rule.resources]


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.is_written_by_agents])
def test_every_kind_that_is_followed_may_be_listed_and_watched(kind: str) -> None:
    assert [rule.verbs for rule in granted(kind)] == [FOLLOWED]


def test_secrets_may_be_read_in_the_agents_own_namespace_alone() -> None:
    assert not [rule for rule in CLUSTER if "secrets" in rule.resources]
    assert granted("Secret") == [*OWN_NAMESPACE]


def test_nothing_may_be_deleted_or_replaced_and_nothing_is_granted_by_a_star() -> None:
    for rule in (*CLUSTER, *OWN_NAMESPACE):
        assert set(rule.verbs) <= {"list", "watch", "create", "patch"}
        assert "*" not in (rule.group, *rule.resources, *rule.verbs)
        assert rule.why
