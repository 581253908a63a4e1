"""The agent on a real API server: what it takes from there, and what it writes."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.cli.client import ask
from agent.kubernetes import permissions
from agent.namespace import OWN_NAMESPACE
from agent.objects.node_routing_status import HEARTBEAT_S
from agent.report import ConditionReport, PeerReport, StatusReport
from tests.kubernetes import assets
from tests.kubernetes.cluster import ApiError, Cluster
from tests.kubernetes.node import WHY_NOT, AgentNode, until
from tests.kubernetes.rights import granted

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.kernel,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

RESTRICTED = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "restricted", "namespace": "default"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []},
}
PEER_PROFILE = {
    "apiVersion": "tortie.dev/v1alpha1",
    "kind": "BGPNodeProfile",
    "metadata": {"name": "test"},
    "spec": {"localASN": 65007},
}

WITH_PASSWORD = {
    "apiVersion": "tortie.dev/v1alpha1",
    "kind": "BGPPeer",
    "metadata": {"name": "with-password"},
    "spec": {
        "peer": {"address": "172.16.9.9"},
        "peerASN": 65100,
        "passwordSecretRef": {"name": "bgp", "key": "tor"},
    },
}


AWAY_S = 90.0


class Outage(NamedTuple):
    """A server that is away, and a node of its that goes on without."""

    node: AgentNode
    began: float  # on the monotonic clock
    listening: contextlib.ExitStack  # closed, it fails if anything changed in the node's kernel


@pytest.fixture(scope="module", autouse=True)
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """One that begins with the first test of this file, whichever that is: it takes its time beside them."""
    if reason := assets.missing(*assets.SERVER):
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("outage")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster.started(directory / "cluster"))
        cluster.install_crds()
        node = stack.enter_context(AgentNode.built(cluster, directory))
        cluster.apply(node.manifest(), RESTRICTED)
        node.start()
        node.until(lambda status: status.ready, "ready")
        until(lambda: heartbeat(node), "the first heartbeat")
        listening = stack.enter_context(contextlib.ExitStack())
        listening.enter_context(node.silence())
        cluster.stop("kube-apiserver")
        yield Outage(node, time.monotonic(), listening)


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[AgentNode]:
    with AgentNode.built(cluster, tmp_path) as node:
        yield node
        cluster.delete(node.manifest(), status_of("n1"))


def status_of(name: str) -> dict[str, Any]:
    return {"apiVersion": "tortie.dev/v1alpha1", "kind": "NodeRoutingStatus", "metadata": {"name": name}}


def written(node: AgentNode) -> dict[str, Any]:
    try:
        return node.cluster.get(status_of(node.name)).get("status", {})
    except ApiError:
        return {}


def heartbeat(node: AgentNode) -> datetime | None:
    said = written(node).get("lastHeartbeatTime")
    return datetime.fromisoformat(said) if said else None


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in status.get("conditions", ())}


def test_it_programs_the_pod_cidrs_of_its_node_and_reports_so(node: AgentNode) -> None:
    node.cluster.apply(node.manifest())
    node.start()

    node.until_in_force()
    assert "blackhole 10.42.9.0/24" in node.routes()
    assert "blackhole fd42:0:0:9::/64" in node.routes()

    until(lambda: conditions(written(node)).get("Ready", {}).get("status") == "True", lambda: written(node))
    status = written(node)
    assert status["localASN"] == 64512
    assert status["routes"]["installed"] == 2
    assert conditions(status)["ObjectsAccepted"]["status"] == "True"
    heartbeat = datetime.fromisoformat(status["lastHeartbeatTime"])
    assert abs((datetime.now(UTC) - heartbeat).total_seconds()) < HEARTBEAT_S

    def unavailable() -> list[str]:
        found = node.cluster.get(node.manifest())["status"].get("conditions", ())
        return [each["status"] for each in found if each["type"] == "NetworkUnavailable"]

    until(lambda: unavailable() == ["False"], unavailable)


def test_an_agent_that_starts_without_the_server_leaves_the_kernel_as_it_is(node: AgentNode) -> None:
    node.cluster.apply(node.manifest(), RESTRICTED, PEER_PROFILE)
    node.start()
    node.until_in_force()
    node.until(lambda status: status.ready, "ready")
    before = node.routes()
    node.kill()
    node.relay.close()

    with node.silence():
        node.start()
        status = node.until(lambda status: any(is_unsynced(each) for each in status.conditions), "says so")
        assert not status.ready
        assert node.routes() == before

        node.relay.open()
        node.until(lambda status: status.ready, "ready")
    assert node.routes() == before
    node.cluster.delete(RESTRICTED, PEER_PROFILE)


def is_unsynced(condition: ConditionReport) -> bool:
    return condition.reason == "NotSynced" and "cannot connect to 127.0.0.1" in condition.message


def test_a_server_that_goes_and_comes_costs_no_kernel_event(node: AgentNode) -> None:
    node.cluster.apply(node.manifest(), RESTRICTED)
    node.start()
    node.until_in_force()
    node.until(lambda status: status.ready, "ready")

    with node.silence():
        for _ in range(3):
            node.relay.close()
            status = node.until(lambda status: "ObjectsUnreadable" in types(status), "notices")
            assert status.ready  # what was read stays in force
            node.relay.open()
            node.until(lambda status: "ObjectsUnreadable" not in types(status), "is back")
    node.cluster.delete(RESTRICTED)


def test_a_server_that_is_away_for_long_costs_no_kernel_event_and_hears_of_the_node_when_it_is_back(
    outage: Outage,
) -> None:
    node, cluster = outage.node, outage.node.cluster
    until(lambda: time.monotonic() - outage.began > AWAY_S, "the end of the outage", within_s=AWAY_S + 1)
    status = node.until(lambda status: "ObjectsUnreadable" in types(status), "has noticed")
    assert status.ready
    cluster.compact()  # as a server does every five minutes
    cluster.start_api()
    back = datetime.now(UTC).replace(microsecond=0)
    node.until(lambda status: "ObjectsUnreadable" not in types(status), "is back")
    until(lambda: (heartbeat(node) or back) > back, lambda: written(node))
    outage.listening.close()

    cluster.apply(PEER_PROFILE)
    node.until(lambda status: status.local_asn == 65007, "a change after it")


def types(status: StatusReport) -> set[str]:
    return {condition.type for condition in status.conditions}


@pytest.mark.usefixtures("_controller_manager")
def test_a_node_without_pod_cidrs_waits_and_says_so(node: AgentNode) -> None:
    bare = node.manifest(unschedulable=False)
    node.cluster.apply(bare)
    node.start()
    status = node.until(lambda status: "NoPodCIDRs" in {each.reason for each in status.conditions}, "waits")
    assert not status.ready
    assert node.routes() == ""

    node.cluster.start_controllers()
    try:
        status = node.until(lambda status: status.ready, "ready")
    finally:
        node.cluster.stop("kube-controller-manager")
    given = node.cluster.get(bare)["spec"]["podCIDRs"]
    assert len(given) == 2
    assert status.pod_cidrs == given
    assert all(cidr in node.routes() for cidr in given)


def test_a_node_replaced_under_its_name_gets_the_new_ones_routes_and_status(node: AgentNode) -> None:
    node.cluster.apply(node.manifest())
    node.start()
    node.until_in_force()
    until(lambda: written(node), "the status")

    node.cluster.delete(node.manifest(), status_of("n1"))  # a garbage collector takes the status along
    status = node.until(lambda status: status.problems, "the problem")
    assert status.problems == ["Node n1 is gone: its last version stays in force"]
    assert "10.42.9.0/24" in node.routes()

    other = node.manifest(podCIDRs=["10.42.8.0/24"], podCIDR="10.42.8.0/24")
    node.cluster.apply(other)
    node.until(lambda status: status.pod_cidrs == ["10.42.8.0/24"] and not status.routes_pending, "the new one")
    until(lambda: "10.42.9.0/24" not in node.routes(), node.routes)
    assert "10.42.8.0/24" in node.routes()
    uid = node.cluster.get(other)["metadata"]["uid"]

    def owners() -> list[str]:
        try:
            found = node.cluster.get(status_of("n1"))
        except ApiError:
            return []
        return [each["uid"] for each in found["metadata"].get("ownerReferences", ())] if "status" in found else []

    until(lambda: owners() == [uid], owners)


def test_it_asks_for_what_it_is_granted_and_is_granted_what_it_asks_for(node: AgentNode) -> None:
    token = node.cluster.token(OWN_NAMESPACE, "exact")
    roles = granted("exact", "exact", permissions.CLUSTER)
    roles += granted("exact", "exact", permissions.OWN_NAMESPACE, OWN_NAMESPACE)
    rival = PEER_PROFILE | {"metadata": {"name": "younger"}, "spec": {"localASN": 65009}}
    node.cluster.apply(*roles, node.manifest(), WITH_PASSWORD, PEER_PROFILE, rival)
    node.start(token)
    user = f"system:serviceaccount:{OWN_NAMESPACE}:exact"
    rights = {
        (verb, rule.group, resource)
        for rule in (*permissions.CLUSTER, *permissions.OWN_NAMESPACE)
        for resource in rule.resources
        for verb in rule.verbs
    }

    def asked() -> set[tuple[str, str, str]]:
        return {(call.verb, call.group, call.resource) for call in node.cluster.calls(user)}

    try:
        # Not asked of this server: lists in pages (it streams them), and what is not installed.
        spared = {(verb, group, resource) for verb, group, resource in rights if verb == "list" and resource != "nodes"}
        created = {("create", "tortie.dev", "noderoutingstatuses")}  # what an apply that makes something needs besides
        # The session is down: the node's condition is not cleared.
        session = {("list", "", "nodes"), ("patch", "", "nodes/status")}
        until(lambda: asked() | spared | created | session >= rights, lambda: rights - asked() - spared)
        node.cluster.delete(WITH_PASSWORD)
        until(lambda: asked() | spared | created >= rights, lambda: rights - asked() - spared)
        assert asked() <= rights
        named = {call.name for call in node.cluster.calls(user) if call.resource == "secrets"}
        assert named == {"bgp"}
        refused = [each for each in node.events() if "unwritten" in each["event"] or "unreadable" in each["event"]]
        assert refused == []
    finally:
        node.cluster.delete(*roles, WITH_PASSWORD, PEER_PROFILE, rival)


def test_a_kind_that_may_not_be_read_keeps_policy_back_and_nothing_else(node: AgentNode) -> None:
    token = node.cluster.token(OWN_NAMESPACE, "lacking")
    rules = [rule for rule in permissions.CLUSTER if rule.group != "networking.k8s.io"]
    roles = granted("lacking", "lacking", rules)
    node.cluster.apply(*roles, node.manifest())
    node.start(token)
    try:
        node.until_in_force()
        status = node.until(lambda status: status.policy.error, "says so")
        assert status.policy.error == "NetworkPolicy cannot be read, and without them no policy is right"
        assert not status.ready
        (unreadable,) = [each for each in status.conditions if each.type == "ObjectsUnreadable"]
        assert "networkpolicies.networking.k8s.io is forbidden" in unreadable.message

        node.cluster.apply(*granted("lacking", "lacking", permissions.CLUSTER))
        node.until(lambda status: status.ready, "ready")
    finally:
        node.cluster.delete(*roles)


def test_secrets_that_may_not_be_read_keep_the_session_that_names_one_down_and_nothing_else(node: AgentNode) -> None:
    token = node.cluster.token(OWN_NAMESPACE, "secretless")
    roles = granted("secretless", "secretless", permissions.CLUSTER)
    more = granted("secretless", "secretless", permissions.OWN_NAMESPACE, OWN_NAMESPACE)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bgp", "namespace": OWN_NAMESPACE},
        "stringData": {"tor": "correct-horse"},
    }
    node.cluster.apply(*roles, node.manifest(), secret, WITH_PASSWORD)
    node.start(token)
    try:
        node.until_in_force()

        def reason() -> str:
            (peer,) = ask(node.run_dir / "agent.sock", "peers", list[PeerReport])
            return peer.reason

        until(lambda: reason().startswith("Secret bgp cannot be read: 403 Forbidden: secrets"), reason)
        status = node.until(lambda status: "ObjectsUnreadable" in types(status), "says why")
        (unreadable,) = [each for each in status.conditions if each.type == "ObjectsUnreadable"]
        assert reason().removeprefix("Secret bgp cannot be read: ") in unreadable.message
        node.until(lambda status: status.policy.in_kernel, "has policy in force all the same")

        node.cluster.apply(*more)
        until(lambda: "Secret" not in reason(), reason)
    finally:
        node.cluster.delete(*roles, *more, secret, WITH_PASSWORD)


def test_a_kind_of_ours_that_may_not_be_read_leaves_the_kernel_as_it_is(node: AgentNode) -> None:
    token = node.cluster.token(OWN_NAMESPACE, "peerless")
    ours = [rule for rule in permissions.CLUSTER if rule.group == "tortie.dev" and "bgppeers" in rule.resources]
    lacking = [rule for rule in permissions.CLUSTER if rule not in ours]
    lacking += [rule._replace(resources=tuple(set(rule.resources) - {"bgppeers"})) for rule in ours]
    roles = granted("peerless", "peerless", lacking)
    node.cluster.apply(*roles, node.manifest())
    node.start(token)
    try:
        status = node.until(lambda status: "bgppeers.tortie.dev is forbidden" in str(status.conditions), "says so")
        assert not status.ready
        assert node.routes() == ""

        node.cluster.apply(*granted("peerless", "peerless", permissions.CLUSTER))
        node.until(lambda status: status.ready, "ready")
    finally:
        node.cluster.delete(*roles)


def test_a_token_that_is_no_longer_taken_is_replaced_by_the_next_one(node: AgentNode) -> None:
    token = node.cluster.token(OWN_NAMESPACE, "renewed")
    roles = granted("renewed", "renewed", permissions.CLUSTER)
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "renewed", "namespace": OWN_NAMESPACE},
    }
    node.cluster.apply(*roles, node.manifest())
    node.start(token)
    try:
        node.until(lambda status: status.ready, "ready")
        with node.silence():
            node.cluster.delete(account)  # and with it every token of it

            def is_refused(status: StatusReport) -> bool:
                node.relay.cut()  # a watch is not asked again who it is, and for a while the server remembers
                return "401 Unauthorized" in str(status.conditions)

            status = node.until(is_refused, "refused")
            assert status.ready

            node.write_kubeconfig(node.cluster.token(OWN_NAMESPACE, "renewed"))
            node.until(lambda status: "ObjectsUnreadable" not in types(status), "is back")
        assert token not in node.log.read_text()
    finally:
        node.cluster.delete(*roles)


def test_a_clock_that_is_wrong_by_an_hour_harms_nothing(node: AgentNode, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\nreally = time.time\ntime.time = lambda: really() - 3600\n")
    node.cluster.apply(node.manifest(), RESTRICTED)
    node.start(PYTHONPATH=str(tmp_path))
    node.until(lambda status: status.ready, "ready")
    until(lambda: conditions(written(node)).get("Ready", {}).get("status") == "True", lambda: written(node))
    with node.silence():
        node.relay.cut()
        node.cluster.apply(PEER_PROFILE)
        node.until(lambda status: status.local_asn == 65007, "a change after it")
    node.cluster.delete(RESTRICTED, PEER_PROFILE)


def test_an_object_that_is_not_in_force_gets_an_event(node: AgentNode) -> None:
    rival = PEER_PROFILE | {"metadata": {"name": "younger"}, "spec": {"localASN": 65009}}
    node.cluster.apply(node.manifest(), PEER_PROFILE)
    node.cluster.apply(rival)
    node.start()
    try:

        def notes() -> list[str]:
            found = node.cluster.request("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
            return [each["note"] for each in found if each["regarding"]["name"] == "younger"]

        until(notes, "the Event")
        (note,) = notes()
        assert note.startswith("spec.localASN: BGPNodeProfile test, which is older or first by name, sets it")
        assert note.split(". ")[-1] == "On those the other one's value is in force."
        assert "NotInForce" in node.cluster.kubectl("describe", "bgpnodeprofile", "younger")
        until(lambda: conditions(written(node)).get("ObjectsAccepted", {}).get("status") == "False", "the condition")
    finally:
        node.cluster.delete(PEER_PROFILE, rival)


def test_a_policy_applied_with_kubectl_is_in_the_kernel_of_the_pods_node(node: AgentNode) -> None:
    ours, theirs = running("ours", "n1", "10.42.9.5"), running("theirs", "n2", "10.42.8.5")
    node.cluster.apply(node.manifest(), ours, theirs)
    node.start()
    node.until(lambda status: status.ready, "ready")
    assert "10.42.8.5" not in node.table()

    from_web = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
    said = RESTRICTED | {"spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [from_web]}}
    node.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(said))
    until(lambda: "10.42.8.5" in node.table(), node.table)  # as one who is let in
    until(lambda: judged("10.42.9.5", node.table()), node.table)
    assert not judged("10.42.8.5", node.table())

    node.cluster.delete(theirs)
    until(lambda: "10.42.8.5" not in node.table(), node.table)


def judged(address: str, table: str) -> bool:
    """Whether a map says what becomes of traffic of an address."""
    return re.search(rf'{re.escape(address)} (comment "[^"]*" )?: ', table) is not None


def running(name: str, node: str, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }
