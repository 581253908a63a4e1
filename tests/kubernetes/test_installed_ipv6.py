"""A cluster that knows no IPv4: nodes, pods, Services and the API server have IPv6 addresses alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest

from inet.prefix import Family
from tests.kubernetes.installed import BUSYBOX_IMAGE, TORTIE, Installed, missing
from tests.kubernetes.test_installed import PORT, answers

pytestmark = [pytest.mark.kubernetes, pytest.mark.kernel, pytest.mark.timeout(400)]  # of which the cluster is the most

NODES = ("n1", "n2")
PODS = {"a": "n1", "b": "n2", "c": "n1"}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "b", "namespace": "default"},
    "spec": {"selector": {"app": "b"}, "ports": [{"port": PORT}]},
}


def pod(name: str, node: str) -> dict[str, Any]:
    command = ["httpd", "-f", "-p", str(PORT)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": BUSYBOX_IMAGE, "command": command}],
        },
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    if reason := missing():
        pytest.skip(reason)
    directory, name = tmp_path_factory.mktemp("ipv6"), f"tsix{os.getpid()}"
    with Installed.started(directory, name, NODES, families=[Family.IPV6]) as running:
        running.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(
            {"kind": "List", "apiVersion": "v1", "items": [SERVICE, *(pod(*each) for each in PODS.items())]}
        ))  # fmt: skip
        running.cluster.kubectl("wait", "--for=condition=Ready", "pod", *PODS, "--timeout=120s")
        yield running


def found(installed: Installed, *words: str) -> Any:
    return json.loads(installed.cluster.kubectl("get", *words, "-o", "json"))


def peer(installed: Installed, node: str) -> dict[str, Any]:
    """Return the other node as this one knows it, with its session up or down."""
    command = [*installed.machines[node].inside, str(TORTIE), "peers", "-o", "json"]
    (only,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return dict(only)


def runs(installed: Installed, client: str, command: str) -> bool:
    """Whether a command in a pod ends well."""
    inside = [*installed.kubectl, "exec", client, "--", "sh", "-c", command]
    return subprocess.run(inside, capture_output=True, check=False).returncode == 0


def test_nothing_in_it_has_an_ipv4_address(installed: Installed) -> None:
    """Else the other tests of this file would show nothing."""
    for node in found(installed, "nodes")["items"]:
        (cidr,) = node["spec"]["podCIDRs"]
        (address,) = [each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
        assert IPv6Network(cidr)
        assert IPv6Address(address)
        shown = json.loads(installed.machines[node["metadata"]["name"]].run("ip", "-j", "-4", "addr"))
        assert [each["ifname"] for each in shown if each] == ["lo"]
    for each in found(installed, "pods", "-A")["items"]:
        assert all(IPv6Address(ip["ip"]) for ip in each["status"]["podIPs"])
    assert "inet 127.0.0.1/8" in installed.cluster.kubectl("exec", "a", "--", "ip", "-4", "addr")
    assert "eth0" not in installed.cluster.kubectl("exec", "a", "--", "ip", "-4", "addr")


def test_nodes_can_take_pods_and_say_so(installed: Installed) -> None:
    def said() -> list[tuple[str, str]]:
        conditions = [each for node in found(installed, "nodes")["items"] for each in node["status"]["conditions"]]
        return [(each["status"], each["reason"]) for each in conditions if each["type"] == "NetworkUnavailable"]

    installed.until(lambda: said() == [("False", "TortieIsUp")] * len(NODES), "no node's network is unavailable")


def test_sessions_are_up_over_ipv6_with_a_router_id_for_each_node_that_its_name_gives(installed: Installed) -> None:
    def router_ids() -> dict[str, str]:
        statuses = found(installed, "noderoutingstatuses")["items"]
        return {each["metadata"]["name"]: each["status"]["routerID"] for each in statuses if "status" in each}

    installed.until(lambda: router_ids().keys() == set(NODES), "every node's status is written")
    ids = router_ids()
    assert len({IPv4Address(each) for each in ids.values()}) == len(NODES)
    for node, other in (NODES, NODES[::-1]):
        shown = peer(installed, node)
        assert shown["state"] == "Established"
        assert IPv6Address(shown["peer"])
        assert shown["routerID"] == ids[other]
        assert [each["family"] for each in shown["families"]] == ["IPv6"]

    flaps = peer(installed, "n1")["flaps"]
    installed.kill_agent("n2")
    installed.until(lambda: peer(installed, "n1")["flaps"] > flaps, "the session was lost")
    installed.until(lambda: peer(installed, "n1")["routerID"] == ids["n2"], "n2 is back under its router id")


def test_pods_reach_each_other_by_routes_that_bgp_brought(installed: Installed) -> None:
    cidrs = {each["metadata"]["name"]: each["spec"]["podCIDR"] for each in found(installed, "nodes")["items"]}
    for node, other in (NODES, NODES[::-1]):
        routes = json.loads(installed.machines[node].run("ip", "-j", "-6", "route", "show", "proto", "97"))
        assert cidrs[other] in {each["dst"] for each in routes}
        assert installed.machines[node].run("ip", "-4", "route", "show", "table", "all", "proto", "97") == ""
    for client, server in ("ab", "ba", "cb", "ac"):
        assert answers(installed, client, server, Family.IPV6), f"{client} to {server}"


def test_a_pod_reaches_a_service_and_the_world(installed: Installed) -> None:
    service = IPv6Address(found(installed, "service", "b")["spec"]["clusterIP"])
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {service} {PORT} | grep -q HTTP"
    installed.until(lambda: runs(installed, "a", ask), "a reaches the Service")
    # The gateway has no route to any pod: what it answers went through outgoing NAT.
    outside = f"nc -w 2 {installed.cluster.address} {installed.cluster.port} </dev/null"
    assert runs(installed, "a", outside)


def test_a_policy_holds_and_ends(installed: Installed) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-c"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "b"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "c"}}}]}],
        },
    }
    installed.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    installed.until(lambda: not answers(installed, "a", "b", Family.IPV6), "a is refused")
    assert answers(installed, "c", "b", Family.IPV6)
    installed.cluster.kubectl("delete", "networkpolicy", "only-c")
    installed.until(lambda: answers(installed, "a", "b", Family.IPV6), "a is let in again")


def test_the_doctor_finds_nothing_that_fails(installed: Installed) -> None:
    command = [*installed.inside, str(TORTIE), "doctor", "--all-nodes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=installed.environment)
    assert done.returncode < 2, done.stderr  # it could look
    assert "FAIL" not in done.stdout, done.stdout


def test_the_release_is_tested_as_helm_tests_it(installed: Installed) -> None:
    phase, log = installed.test()
    assert phase == "Succeeded", log
