"""The whole of it: three machines of kubelet, containerd and kube-proxy, the chart, kubectl, pods, packets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from inet.prefix import Family
from tests.kubernetes import kubeproxy
from tests.kubernetes.installed import BUSYBOX_IMAGE, TORTIE, Installed, missing

pytestmark = [pytest.mark.kubernetes, pytest.mark.kernel, pytest.mark.timeout(400)]  # agents are replaced one by one

PORT = 8080
PODS = {"a": "n1", "b": "n2", "c": "n3"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    if reason := missing():
        pytest.skip(reason)
    with Installed.started(tmp_path_factory.mktemp("installed"), f"tk8s{os.getpid()}") as running:
        running.cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {
                    "nodeName": node,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [
                        {"name": "main", "image": BUSYBOX_IMAGE, "command": ["httpd", "-f", "-p", str(PORT)]}
                    ],
                },
            }
            for name, node in PODS.items()
        ]}))  # fmt: skip
        running.cluster.kubectl("wait", "--for=condition=Ready", "pod", *PODS, "--timeout=120s")
        yield running


def address(installed: Installed, pod: str, family: Family) -> str:
    status = json.loads(installed.cluster.kubectl("get", "pod", pod, "-o", "json"))["status"]
    (found,) = (each["ip"] for each in status["podIPs"] if (":" in each["ip"]) == (family is Family.IPV6))
    return str(found)


def answers(installed: Installed, client: str, server: str, family: Family) -> bool:
    """Whether one pod's server answers another pod."""
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address(installed, server, family)} {PORT} | grep -q HTTP"
    command = [*installed.kubectl, "exec", client, "--", "sh", "-c", ask]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_pods_reach_each_other_across_nodes(installed: Installed, family: Family) -> None:
    for client in PODS:
        for server in PODS:
            assert answers(installed, client, server, family), f"{client} to {server}"


def test_a_policy_applied_with_kubectl_holds_and_ends(installed: Installed, family: Family) -> None:
    only_c = [{"from": [{"podSelector": {"matchLabels": {"app": "c"}}}]}]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-c"},
        "spec": {"podSelector": {"matchLabels": {"app": "b"}}, "ingress": only_c},
    }
    installed.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    installed.until(lambda: not answers(installed, "a", "b", family), "a is refused")
    assert answers(installed, "c", "b", family)
    assert answers(installed, "a", "c", family)
    installed.cluster.kubectl("delete", "networkpolicy", "only-c")
    installed.until(lambda: answers(installed, "a", "b", family), "a is let in again")


def test_a_peer_applied_with_kubectl_is_tried_without_any_restart(installed: Installed) -> None:
    peer = {
        "apiVersion": "tortie.dev/v1alpha1",
        "kind": "BGPPeer",
        "metadata": {"name": "tor"},
        "spec": {"peer": {"address": "172.16.9.1"}, "peerASN": 65100},
    }
    shown = [*installed.inside, str(TORTIE), "peers", "--all-nodes", "-o", "json"]

    def rows() -> str:
        done = subprocess.run(shown, capture_output=True, text=True, check=False, env=installed.environment)
        return done.stdout

    installed.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(peer))
    installed.until(lambda: rows().count('"172.16.9.1"') == len(PODS), "every node has the session")
    installed.cluster.kubectl("delete", "bgppeer", "tor")
    installed.until(lambda: '"172.16.9.1"' not in rows(), "no node has it")


def asked(installed: Installed, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `tortie` as an administrator does: a kubeconfig, no agent here."""
    command = [*installed.inside, str(TORTIE), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=installed.environment)


def test_a_way_across_nodes_is_drawn_though_no_agent_knows_both_pods(installed: Installed, family: Family) -> None:
    """No policy speaks of pods, so that agents read those of their own nodes alone."""
    for source, destination in (("a", "c"), ("c", "b")):
        ends = f"default/{source}", f"default/{destination}"
        done = asked(installed, "path", *ends, f"{PORT}/TCP", "--family", family.label.lower())
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert lines[0].startswith(ends[0]), done.stdout
        assert any(line.startswith(PODS[source]) and PODS[destination] in line for line in lines), done.stdout
        assert any(line.startswith(ends[1]) for line in lines), done.stdout


def test_a_denial_is_explained_by_the_agents_of_both_ends(installed: Installed, family: Family) -> None:
    """By blocks of addresses: no agent knows a pod of another node."""
    everybody = {"ipBlock": {"cidr": "0.0.0.0/0" if family is Family.IPV4 else "::/0"}}
    policies = [
        policy("out-of-a", "a", "Egress", egress=[{"to": [everybody]}]),
        policy("none-into-b", "b", "Ingress", ingress=[]),
    ]
    manifest = json.dumps({"kind": "List", "apiVersion": "v1", "items": policies})
    installed.cluster.kubectl("apply", "-f", "-", stdin=manifest)
    try:
        installed.until(lambda: not answers(installed, "a", "b", family), "a is refused")
        ends = "default/a", "default/b", f"{PORT}/TCP"
        done = asked(installed, "policy", "explain", *ends, "--family", family.label.lower(), "-o", "json")
        assert done.returncode == 1, done.stdout + done.stderr
        story = json.loads(done.stdout)
        assert (story["verdict"], story["source"]["name"], story["destination"]["name"], story["reasons"]) == (
            "deny", "default/a", "default/b", []
        )  # fmt: skip
        assert [(tier["node"], tier["direction"], tier["action"], tier["policies"]) for tier in story["tiers"]] == [
            ("n1", "egress", "Accept", ["NetworkPolicy default/out-of-a"]),
            ("n2", "ingress", "Deny", ["NetworkPolicy default/none-into-b"]),
        ]
        assert all(tier["packets"] for tier in story["tiers"]), "each counted by its own kernel"
    finally:
        installed.cluster.kubectl("delete", "-f", "-", stdin=manifest)


def policy(name: str, app: str, direction: str, **rules: object) -> dict[str, object]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": [direction], **rules},
    }


def test_a_service_address_is_said_to_be_one_with_the_pod_behind_it(installed: Installed) -> None:
    spec = {
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {"app": "b"},
        "ports": [{"port": 80, "targetPort": PORT}],
    }
    service = json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    installed.cluster.kubectl("apply", "-f", "-", stdin=service)
    try:
        found = json.loads(installed.cluster.kubectl("get", "service", "web", "-o", "json"))["spec"]["clusterIPs"]
        for vip in found:
            words = f"{vip} is the address of Service default/web"
            wanted = f"{words}: kube-proxy puts a pod's in its place; ask about default/b {PORT}/TCP"
            for command in (["path"], ["policy", "explain"]):
                installed.until(lambda: wanted in asked(installed, *command, "default/a", vip, "80").stdout, wanted)  # noqa: B023 - asked here and now
                assert asked(installed, *command, "default/a", vip, "80").returncode == 2
    finally:
        installed.cluster.kubectl("delete", "service", "web")


def test_nodes_that_are_well_have_nothing_noted(installed: Installed) -> None:
    def rows() -> subprocess.CompletedProcess[str]:
        return asked(installed, "status", "--all-nodes", "-o", "json")

    installed.until(lambda: rows().returncode == 0, "every agent has written its status down")
    notes = {each["node"]: each["answer"]["note"] for each in json.loads(rows().stdout)}
    assert notes == dict.fromkeys(PODS.values(), "")


def test_the_release_is_tested_as_helm_tests_it(installed: Installed) -> None:
    phase, log = installed.test()
    assert phase == "Succeeded", log
    for node in PODS.values():
        assert re.search(rf"^{node}\s+yes", log, re.MULTILINE), log


def test_an_agent_that_is_replaced_costs_no_packet(installed: Installed) -> None:
    pings = [[*installed.kubectl, "exec", "a", "--", "ping", "-i", "0.1", address(installed, "c", family)]
             for family in Family]  # fmt: skip
    before = installed.agents("n3")
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(subprocess.Popen(each, stdout=subprocess.PIPE, text=True)) for each in pings]
        for each in streams:
            assert each.stdout is not None
            assert "bytes" in each.stdout.readline() + each.stdout.readline()
        installed.cluster.kubectl("-n", "tortie-system", "delete", *before)
        installed.until(lambda: not before & installed.agents("n3"), "another agent")
        installed.until_agents_are_ready()
        installed.cluster.kubectl("exec", "a", "--", "killall", "-INT", "ping")
        ends = [each.communicate()[0][-300:] for each in streams]
    assert all(" 0% packet loss" in each for each in ends), ends


def test_an_agent_that_starts_before_kube_proxy_waits_for_the_api_servers_address(installed: Installed) -> None:
    before = installed.agents("n3")
    installed.remove_proxy()
    try:
        installed.cluster.kubectl("-n", "tortie-system", "delete", "--wait=false", *before)
        said = "https://10.96.0.1:443: no answer in time"
        installed.until(lambda: said in installed.status("n3"), "it says what it waits for")
        for family in Family:  # meanwhile pods have what they had
            assert answers(installed, "a", "c", family)
    finally:
        installed.install_proxy(kubeproxy.MODES[0])
    installed.until(lambda: not before & installed.agents("n3"), "another agent")
    installed.until_agents_are_ready()


def test_portmap_goes_by_the_iptables_that_the_kubelet_found(installed: Installed) -> None:
    def backends() -> list[str | None]:
        lists = (each.run("cat", "/etc/cni/net.d/10-tortie.conflist") for each in installed.machines.values())
        plugins = [plugin for each in lists for plugin in json.loads(each)["plugins"]]
        return [each.get("backend") for each in plugins if each["type"] == "portmap"]

    installed.until(lambda: backends() == ["iptables"] * len(PODS), "no portmap has to look for it")


def set_underlay(installed: Installed, mtu: int) -> None:
    """Let the network between the nodes take packets of so many bytes."""
    for node, machine in installed.machines.items():
        for namespace, link in ((machine.namespace, "eth0"), (installed.name, node)):
            subprocess.run(["ip", "-n", namespace, "link", "set", link, "mtu", str(mtu)], check=True)


def mtu_of(installed: Installed, pod: str) -> int:
    return int(installed.cluster.kubectl("exec", pod, "--", "cat", "/sys/class/net/eth0/mtu"))


def test_running_pods_follow_the_mtu_of_the_underlay_where_the_agent_may_enter_them(installed: Installed) -> None:
    try:
        set_underlay(installed, 1400)
        for pod, node in PODS.items():
            # A cleanup takes the names off the links of pods that go on running.
            named = rf"(Pod default/{pod}|link \S+): MTU 1500 instead of 1400"
            installed.until(lambda named=named, node=node: re.search(named, installed.status(node)), named)
            assert mtu_of(installed, pod) == 1500
        at_once = {"rollingUpdate": {"maxUnavailable": "100%"}}
        installed.install(mtu={"correctRunningPods": True}, updateStrategy=at_once)
        installed.until_agents_are_ready()
        for mtu in (1400, 1500, 1300):
            set_underlay(installed, mtu)
            for pod, node in PODS.items():
                installed.until(lambda pod=pod, mtu=mtu: mtu_of(installed, pod) == mtu, f"{pod} has MTU {mtu}")
                links = json.loads(installed.machines[node].run("ip", "-j", "link", "show", "group", "97"))
                assert {each["mtu"] for each in links if each} == {mtu}, "the host's ends"  # others are empty
            for family in Family:
                assert answers(installed, "a", "c", family)
        assert "instead of" not in installed.status("n1")
        set_underlay(installed, 1500)
        for pod in PODS:  # before the agents that come next, who may not enter them
            installed.until(lambda pod=pod: mtu_of(installed, pod) == 1500, f"{pod} has its MTU back")
    finally:
        set_underlay(installed, 1500)
        installed.install()
        installed.until_agents_are_ready()


def test_a_cleanup_before_the_uninstall_leaves_nothing_on_any_node(installed: Installed) -> None:
    def traces(node: str) -> str:
        looks = (
            *(("ip", family, "route", "show", "table", "all", "proto", "97") for family in ("-4", "-6")),
            ("ip", "nexthop", "show", "proto", "97"),
            ("sh", "-c", "nft list tables | grep tortie || true"),
            ("sh", "-c", "ls /etc/cni/net.d /opt/cni/bin /run/tortie 2>/dev/null | grep -v : || true"),
        )
        return "".join(installed.machines[node].run(*look) for look in looks).strip()

    nodes = list(PODS.values())
    assert all(map(traces, nodes))
    installed.install(cleanup=True)
    try:
        installed.until_agents_are_ready()
        assert [traces(node) for node in nodes] == ["", "", ""]
        assert [installed.machines[node].run("cat", "/proc/sys/net/ipv4/ip_forward") for node in nodes] == ["0\n"] * 3
    finally:
        # As an uninstall does; an upgrade would wait for sessions that no other node has yet.
        installed.cluster.kubectl("-n", "tortie-system", "delete", "daemonset", "tortie-agent")
        installed.install()
        installed.until_agents_are_ready()
    assert all(map(traces, nodes))
    for family in Family:
        installed.until(lambda family=family: answers(installed, "a", "c", family), "pods of before have their network")
