from __future__ import annotations

from typing import Any

import pytest

from agent.namespace import OWN_NAMESPACE
from agent.objects import BGPPeer, NodeRoutingStatus
from agent.objects.kinds import GROUP_VERSION, KINDS, decode, key_of, kind_of, manifest
from agent.objects.model import Key
from agent.objects.problem import Invalid

PEER = {"peer": {"address": "172.16.1.1"}, "peerASN": 65100}


def document(kind: str | None, group_version: str | None, **metadata: str) -> dict[str, Any]:
    said = {"apiVersion": group_version, "kind": kind, "metadata": {"name": "default"} | metadata}
    return {name: value for name, value in said.items() if value is not None}


def read(said: dict[str, Any]) -> None:
    kind = kind_of(said)
    assert kind
    decode(kind, key_of(kind, said), said)


def refusal(said: dict[str, Any]) -> str:
    with pytest.raises(Invalid) as error:
        read(said)
    (finding,) = error.value.findings
    return f"{finding.field}: {finding.message}"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_is_found_by_its_own_name_and_version(kind: Any) -> None:
    assert kind_of(document(kind.name, kind.group_version)) is kind
    assert kind.model is None or kind.model.kind == kind.name


@pytest.mark.parametrize(
    ("kind", "group_version"),
    [
        ("ConfigMap", "v1"),
        ("Deployment", "apps/v1"),
        ("Ingress", "networking.k8s.io/v1"),
        ("Node", "metrics.k8s.io/v1"),
        ("Secret", "vault.example.com/v1"),
    ],
)
def test_kinds_of_kubernetes_and_namesakes_of_its_kinds_are_none_of_our_business(kind: str, group_version: str) -> None:
    assert kind_of(document(kind, group_version)) is None


OURS = "NetworkConfiguration, BGPConfiguration, BGPNodeProfile, BGPPeer, NodeRoutingStatus"


@pytest.mark.parametrize(
    ("kind", "group_version", "wanted"),
    [
        (None, GROUP_VERSION, "kind: is required"),
        ("BGPPeer", None, "apiVersion: is required: a BGPPeer is of tortie.dev/v1alpha1"),
        ("Gadget", None, "apiVersion: is required"),
        (
            "BGPPeer",
            "tortie.dev/v1",
            "apiVersion: 'tortie.dev/v1' is not tortie.dev/v1alpha1, the version of BGPPeer that is read",
        ),
        ("Node", "v2", "apiVersion: 'v2' is not v1, the version of Node that is read"),
        ("BGPPeers", GROUP_VERSION, "kind: 'BGPPeers' is not a kind that is read; did you mean BGPPeer?"),
        ("BGPFilter", "tortie.dev/v1alpha1", "kind: 'BGPFilter' is not a kind that is read; did you mean BGPPeer?"),
        ("Gadget", "example.com/v1", f"kind: 'Gadget' is not a kind that is read: {OURS}"),
        (
            "BGPPeer",
            "crd.projectcalico.org/v1",
            "apiVersion: 'crd.projectcalico.org/v1' has no kind BGPPeer: it is of tortie.dev/v1alpha1",
        ),
    ],
)
def test_a_kind_that_is_not_read_is_told_apart(kind: str | None, group_version: str | None, wanted: str) -> None:
    assert refusal(document(kind, group_version)) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"metadata": None}, "metadata: is required"),
        ({"metadata": "tor-1"}, "metadata: 'tor-1' is not a mapping"),
        ({"metadata": {}}, "metadata.name: is required"),
        ({"metadata": {"name": 5}}, "metadata.name: 5 is not a name"),
        ({"metadata": {"name": "a", "namespace": 5}}, "metadata.namespace: 5 is not a namespace"),
        (
            {"metadata": {"name": "a", "namespace": "b"}},
            "metadata.namespace: a BGPPeer has no namespace: leave it out",
        ),
    ],
)
def test_an_object_nobody_can_name_is_refused(said: dict[str, Any], wanted: str) -> None:
    assert refusal({"apiVersion": GROUP_VERSION, "kind": "BGPPeer"} | said) == wanted


@pytest.mark.parametrize("kind", ["NetworkConfiguration", "BGPConfiguration"])
def test_a_single_object_has_one_name(kind: str) -> None:
    wanted = f"metadata.name: 'other' is not 'default': there is one {kind}, and that is its name"

    assert refusal(document(kind, GROUP_VERSION, name="other")) == wanted


def test_a_secret_without_a_namespace_is_in_ours_and_another_stays_in_its_own() -> None:
    for said, namespace in (({}, OWN_NAMESPACE), ({"namespace": "shop"}, "shop")):
        content = document("Secret", "v1", name="bgp", **said)
        kind = KINDS["Secret"]
        key = key_of(kind, content)

        assert key == Key("Secret", namespace, "bgp")
        assert decode(kind, key, content).key == key


def test_an_object_written_as_a_manifest_reads_back_as_itself() -> None:
    peer = BGPPeer.model_validate({"metadata": {"name": "tor-1", "labels": {"tier": "fabric"}}, "spec": PEER})
    written = manifest(peer)

    assert written["metadata"] == {"name": "tor-1", "labels": {"tier": "fabric"}}
    assert decode(KINDS["BGPPeer"], peer.key, written) == peer


def test_a_status_is_written_with_its_zeros() -> None:
    written = manifest(NodeRoutingStatus.model_validate({"metadata": {"name": "n1"}}))

    assert written == {
        "apiVersion": GROUP_VERSION,
        "kind": "NodeRoutingStatus",
        "metadata": {"name": "n1"},
        "status": {
            "sessions": [],
            "establishedSessions": 0,
            "wantedSessions": 0,
            "routes": {"installed": 0, "refused": 0},
            "conditions": [],
        },
    }
