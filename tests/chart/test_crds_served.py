"""What the models refuse, the real API server refuses from the schemas made of them; what they take, it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from agent.objects.kinds import KINDS, Kind, decode, key_of
from tests.agent.objects import (
    test_bgp_configuration,
    test_bgp_node_profile,
    test_bgp_peer,
    test_label_selector,
    test_model,
    test_network_configuration,
    test_scalars,
    test_session_settings,
)
from tests.kubernetes.cluster import ApiError, Cluster

pytestmark = pytest.mark.kubernetes

EXAMPLES = Path(__file__).parents[2] / "docs" / "reference" / "examples"
REFUSED = {
    test_bgp_configuration: test_bgp_configuration.HEAD + "spec: %s",
    test_bgp_node_profile: test_bgp_node_profile.HEAD + "spec: %s",
    test_bgp_peer: test_bgp_peer.HEAD + "spec: %s",
    test_label_selector: test_label_selector.HEAD,
    test_model: test_model.HEAD + "metadata: %s",
    test_network_configuration: test_network_configuration.HEAD + "spec: %s",
}
"""Where the models' tests list what is refused, and the manifest each entry stands in."""


PEER = "apiVersion: tortie.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: a}\nspec: "
CONFIGURATION = "apiVersion: tortie.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n"
PROFILE = "apiVersion: tortie.dev/v1alpha1\nkind: BGPNodeProfile\nmetadata: {name: a}\nspec: "

PARTS = {
    test_session_settings.test_timers_that_cannot_work_are_refused: '{"timers": %s}',
    test_session_settings.test_ranges_that_hold_nothing_are_refused: '{"import": {"accept": [%s]}}',
}
"""Tests of parts of a BGPConfiguration, and where the part stands in its spec."""


class Case(NamedTuple):
    """A manifest, and what the agent says of it."""

    text: str
    said: str


def refused_by_the_models() -> Iterator[Case]:
    for module, manifest in REFUSED.items():
        for name, test in vars(module).items():
            for mark in getattr(test, "pytestmark", ()) if name.startswith("test_") else ():
                if "wanted" in mark.args[0] and "spelled" not in mark.args[0]:
                    for entry in mark.args[1]:
                        content, said = getattr(entry, "values", entry)
                        yield Case(manifest % ("null" if content is None else content), said)


def refused_parts() -> Iterator[Case]:
    for test, spec in PARTS.items():
        for content, said in test.pytestmark[0].args[1]:
            yield Case(CONFIGURATION + f"spec: {spec % json.dumps(content)}", said)
    for address, said in test_scalars.test_what_no_session_can_use_is_no_address.pytestmark[0].args[1]:
        yield Case(PEER + json.dumps({"peer": {"address": address}, "peerASN": 65100}), said)


def ask(cluster: Cluster, manifest: str | dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Have the server judge an object as `kubectl apply` would, without storing it."""
    path = f"/apis/{kind.group_version}/{kind.plural}?dryRun=All&fieldValidation=Strict"
    content = yaml.safe_load(manifest) if isinstance(manifest, str) else manifest
    return cluster.request("POST", path, json.loads(json.dumps(content, default=str)))


@pytest.mark.parametrize("case", [*refused_by_the_models(), *refused_parts()], ids=lambda case: case.said[:60])
def test_what_the_models_refuse_the_server_refuses(cluster: Cluster, case: Case) -> None:
    kind = KINDS[yaml.safe_load(case.text)["kind"]]

    with pytest.raises(ApiError) as refused:
        ask(cluster, case.text, kind)
    assert refused.value.status in {400, 422}


def test_there_is_something_to_refuse() -> None:
    assert len(list(refused_by_the_models())) > 60


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.is_ours], ids=lambda kind: kind.name)
def test_the_examples_are_taken(cluster: Cluster, kind: Kind) -> None:
    for document in yaml.safe_load_all((EXAMPLES / f"{kind.name}.yaml").read_text()):
        ask(cluster, document, kind)


@pytest.mark.parametrize(
    "manifest",
    [
        CONFIGURATION,
        CONFIGURATION + "spec: {}",
        CONFIGURATION + "spec: {timers: null, import: null}",
        CONFIGURATION + "spec: {timers: {holdTimeSeconds: 0}}",
        CONFIGURATION + "spec: {timers: {holdTimeSeconds: 0, keepaliveTimeSeconds: 0}}",
        CONFIGURATION + "spec: {localASN: 4200000001, timers: {holdTimeSeconds: 3, keepaliveTimeSeconds: 1}}",
        CONFIGURATION + "spec: {import: {accept: [{cidr: 0.0.0.0/0, maxLength: 0}, {cidr: '::/0', minLength: 48}]}}",
        CONFIGURATION + "spec: {import: {accept: [{cidr: '2001:DB8::/32', minLength: 32, maxLength: 128}]}}",
        PEER + "{peer: {address: 169.254.1.1}, peerASN: 1}",
        PEER + "{peer: {address: 127.0.0.1}, peerASN: 4294967295}",
        PEER + "{peer: {address: 'fe80::1%eth0'}, peerASN: Internal}",
        PEER + "{peer: {address: 'FE80::1%bond0.100'}, peerASN: External}",
        PEER + "{peer: {address: 'fd00::1'}, peerASN: 65100, sourceAddress: 'fe80::2%eth0', families: [IPv6, IPv4]}",
        PEER + "{peer: {nodeSelector: {}}, timers: {}, shutdown: {}, ttlSecurity: {hops: 254}}",
        PEER + "{peer: {nodeSelector: {matchLabels: {example.com/a.b_c: '', x: y}}}, multihop: {ttl: 255}}",
        PEER + "{peer: {nodeSelector: {matchExpressions: [{key: a/b, operator: DoesNotExist, values: []}]}}}",
        PROFILE + "{}",
        PROFILE + "{sourceAddresses: [10.0.0.1, 'fd00::1'], routerID: 255.255.255.255, transit: true}",
    ],
)
def test_what_the_models_take_the_server_takes_and_gives_back_with_the_same_meaning(
    cluster: Cluster, manifest: str
) -> None:
    document = yaml.safe_load(manifest)
    kind = KINDS[document["kind"]]
    key = key_of(kind, document)
    written: Any = decode(kind, key, document)

    stored: Any = decode(kind, key, ask(cluster, document, kind))

    assert stored.spec == written.spec


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.is_singleton], ids=lambda kind: kind.name)
def test_a_single_object_has_one_name(cluster: Cluster, kind: Kind) -> None:
    with pytest.raises(ApiError, match=f"there is one {kind.name}, and its name is default"):
        ask(cluster, f"apiVersion: {kind.group_version}\nkind: {kind.name}\nmetadata: {{name: other}}\n", kind)


def test_a_field_of_a_refused_object_is_named_in_words(cluster: Cluster) -> None:
    with pytest.raises(ApiError) as refused:
        ask(cluster, PEER + "{peer: {address: 'fe80::1'}, peerASN: 65100}", KINDS["BGPPeer"])
    assert "spec.peer.address" in str(refused.value)
    assert "says on which interface: fe80::1%eth0" in str(refused.value)


def test_kubectl_shows_what_an_administrator_looks_for(cluster: Cluster) -> None:
    peers = list(yaml.safe_load_all((EXAMPLES / "BGPPeer.yaml").read_text()))
    status = yaml.safe_load((EXAMPLES / "NodeRoutingStatus.yaml").read_text())
    closed = [{**peers[0], "metadata": {"name": f"closed-{word}"}, "spec": {**peers[0]["spec"], "shutdown": said}}
              for word, said in (("bare", {}), ("why", {"message": "cable work"}))]  # fmt: skip
    peers += closed
    cluster.apply(*peers, status)
    try:
        shown = cluster.kubectl("get", "bgppeers,noderoutingstatuses")
        heartbeat = cluster.kubectl("get", "noderoutingstatuses", "-o", "jsonpath={.items[*].status.lastHeartbeatTime}")
        everything = cluster.kubectl("get", "tortie", "-o", "name")
    finally:
        cluster.delete(*peers, status)

    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    assert rows["bgppeer.tortie.dev/rack-a-tor-1"][1:3] == ["172.16.1.1", "65100"]
    assert rows["noderoutingstatus.tortie.dev/n1"][1:7] == ["True", "65001", "172.16.1.11", "1", "1", "4"]
    assert rows["bgppeer.tortie.dev/closed-bare"][3] == "{}", (
        "a session that is down on purpose can be told from others"
    )
    assert "cable work" in " ".join(rows["bgppeer.tortie.dev/closed-why"])
    assert "1 session established" in shown
    assert "HEARTBEAT" in shown
    assert heartbeat == status["status"]["lastHeartbeatTime"]
    assert len(everything.split()) == 5
