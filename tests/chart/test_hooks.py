"""`helm test`: what it makes, with which rights, and that all of it goes."""

from __future__ import annotations

from typing import Any

import pytest

from agent.fleet.kubernetes import AGENT_LABELS
from tests.chart.rendering import HOOK, NAMESPACE, VALUE_SETS, hooks, objects, the

EVERY_SET = pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())


def pod(values: dict[str, Any] | None = None) -> dict[str, Any]:
    *_, last = hooks(values)
    assert last["kind"] == "Pod"
    return last


@EVERY_SET
def test_what_a_test_makes_is_its_own_and_goes_with_it(values: dict[str, Any]) -> None:
    of_the_release = {(each["kind"], each["metadata"]["name"]) for each in objects(values)}
    for each in hooks(values):
        annotations = each["metadata"]["annotations"]
        assert annotations[HOOK] == "test"
        assert annotations[f"{HOOK}-delete-policy"] == "before-hook-creation,hook-succeeded"
        assert (each["kind"], each["metadata"]["name"]) not in of_the_release
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tortie"


def test_a_cleanup_has_nothing_to_test() -> None:
    assert hooks({"cleanup": True}) == []
    assert hooks()


def test_the_pod_comes_after_its_rights() -> None:
    assert [each["kind"] for each in hooks()][-1] == "Pod"
    assert {each["metadata"]["annotations"].get(f"{HOOK}-weight") for each in hooks()[:-1]} == {"-1"}


def test_the_pod_is_no_agents_and_as_harmless_as_pods_can_be_told_to_be() -> None:
    """It passes Pod Security's `restricted`, and is in the pods' network, which it is to show."""
    labels, spec = pod()["metadata"]["labels"], pod()["spec"]
    selected = dict(each.split("=") for each in AGENT_LABELS.split(","))
    assert not selected.items() <= labels.items()
    assert not the("DaemonSet")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "volumes"}
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@EVERY_SET
def test_the_pod_is_where_agents_are_and_from_the_same_registry(values: dict[str, Any]) -> None:
    if not hooks(values):
        return
    agents, tester = the("DaemonSet", values)["spec"]["template"]["spec"], pod(values)["spec"]
    for name in ("nodeSelector", "affinity", "imagePullSecrets"):
        assert tester.get(name) == agents.get(name)
    for name in ("image", "imagePullPolicy"):
        assert tester["containers"][0][name] == agents["containers"][0][name]


def test_the_pod_stays_off_nodes_that_carry_none() -> None:
    """An agent tolerates everything; a pod that did would be put on a node that is not ready."""
    assert [each["key"] for each in pod()["spec"]["tolerations"]] == ["node-role.kubernetes.io/control-plane"]
