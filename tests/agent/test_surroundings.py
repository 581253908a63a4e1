"""What of all objects is kept for a node's own settings."""

from __future__ import annotations

from typing import Any

import pytest

from agent.objects.kinds import Keyed
from agent.surroundings import Surroundings
from tests.agent.objects_of_nodes import batch, node_object
from tests.agent.policy_world import manifest


def pod(name: str, node: str = "n1", *, phase: str = "Running", **spec: Any) -> Keyed:
    status = {"phase": phase, "podIPs": [{"ip": "10.42.1.9"}, {"ip": "fd42::9"}]}
    return manifest("Pod", name, "x", spec={"nodeName": node, **spec}, status=status)


def settings(**spec: Any) -> Keyed:
    return manifest("NetworkConfiguration", "default", apiVersion="tortie.dev/v1alpha1", spec=spec)


@pytest.fixture
def around() -> Surroundings:
    return Surroundings("n1")


def test_nodes_are_its_own_and_others(around: Surroundings) -> None:
    assert around.take(batch(node_object(1), node_object(2)))
    assert around.own is not None
    assert around.own.name == "n1"
    assert [node.name for node in around.others] == ["n2"]


def test_its_own_node_stays_as_it_was_when_the_object_goes_and_others_do_not(around: Surroundings) -> None:
    around.take(batch(node_object(1), node_object(2)))
    around.take(batch(gone=(node_object(1), node_object(2))))
    assert around.own is not None
    assert around.others == []


@pytest.mark.parametrize(
    "other",
    [pod("p", "n2"), pod("p", hostNetwork=True), pod("p", phase="Succeeded")],
    ids=["of another node", "in the host's network", "completed"],
)
def test_only_pods_that_have_an_address_here_are_kept(around: Surroundings, other: Keyed) -> None:
    around.take(batch(pod("p"), pod("q")))
    around.take(batch(other))
    assert [key.name for key in around.pods] == ["q"]


def test_pods_and_namespaces_that_go_are_forgotten(around: Surroundings) -> None:
    around.take(batch(pod("p"), manifest("Namespace", "x", labels={"team": "a"})))
    assert around.namespaces["x"]["team"] == "a"
    around.take(batch(gone=(pod("p"), manifest("Namespace", "x"))))
    assert (around.pods, around.namespaces) == ({}, {})


def test_addresses_of_pods_are_those_configured_and_those_of_nodes(around: Surroundings) -> None:
    around.take(batch(node_object(1), settings(podCIDRs=["10.99.0.0/16"])))
    assert list(map(str, around.pod_cidrs)) == ["10.99.0.0/16", "10.42.1.0/24", "fd42:0:0:1::/64"]


def test_settings_that_go_are_the_defaults_again(around: Surroundings) -> None:
    around.take(batch(settings(outgoingNAT={"enabled": False})))
    assert not around.network.outgoing_nat.enabled
    around.take(batch(gone=(settings(),)))
    assert around.network.outgoing_nat.enabled


def test_news_are_nodes_settings_and_that_all_was_read_but_no_pods(around: Surroundings) -> None:
    assert not around.take(batch(pod("p"), full_lists=0))
    assert around.take(batch(full_lists=1))
    assert not around.take(batch(pod("q")))
    assert around.take(batch(node_object(1)))
    assert not around.take(batch(node_object(1)))
    assert around.take(batch(settings(podCIDRs=["10.99.0.0/16"])))
    assert around.take(batch(gone=(settings(),)))
