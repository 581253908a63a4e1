"""Services beside Tortie: kube-proxy in each of its modes, real kubelets, real packets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from inet.prefix import Family
from tests.kubernetes import kubeproxy
from tests.kubernetes.echo import PORT, PROTOCOLS, TCP, UDP, Answer, Echoes, pod, question, service
from tests.kubernetes.installed import Installed, missing

pytestmark = [pytest.mark.kubernetes, pytest.mark.kernel, pytest.mark.timeout(400)]  # of which a cluster is the most

BACKENDS = {"b", "c"}
PODS = [pod("a", "n1"), pod("b", "n2", tier="back"), pod("c", "n3", tier="back"), pod("d", "n1")]
NAMES = [each["metadata"]["name"] for each in PODS]
SERVICES = [
    service("back", {"tier": "back"}, type="NodePort"),
    service("sticky", {"tier": "back"}, sessionAffinity="ClientIP"),
    service("headless", {"tier": "back"}, clusterIP="None"),
    service("local", {"app": "b"}, type="NodePort", externalTrafficPolicy="Local"),
    service("nobody", {"app": "nobody"}),
    *(service(f"only-{name}", {"app": name}) for name in NAMES),
]
GATEWAY = {Family.IPV4: "172.16.9.1", Family.IPV6: "fd16:9::1"}  # the address of whoever is outside


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    if reason := missing():
        pytest.skip(reason)
    with Installed.started(tmp_path_factory.mktemp("services"), f"tsvc{os.getpid()}") as running:
        running.cluster.apply(*PODS, *SERVICES)
        running.cluster.kubectl("wait", "--for=condition=Ready", "pod", *NAMES, "--timeout=120s")
        yield running


@pytest.fixture(scope="module")
def echoes(installed: Installed) -> Echoes:
    return Echoes(installed, NAMES)


@pytest.fixture(scope="module", params=kubeproxy.MODES)
def mode(installed: Installed, echoes: Echoes, request: pytest.FixtureRequest) -> str:
    mode = str(request.param)
    installed.install_proxy(mode)
    installed.until_proxies_are_ready()
    for place in NAMES:
        for family in Family:
            for name in NAMES:
                at = echoes.cluster_ip(f"only-{name}", family)
                installed.until(lambda place=place, at=at: echoes.answers(place, at, TCP), f"{place} reaches {at}")
    return mode


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def policy(installed: Installed, name: str, **spec: Any) -> Iterator[None]:
    """Have a NetworkPolicy in the API."""
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
    installed.cluster.apply(document)
    try:
        yield
    finally:
        installed.cluster.delete(document)


def chosen(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


@pytest.mark.usefixtures("mode")
def test_a_cluster_ip_reaches_every_endpoint_which_sees_the_pod_that_asks(
    echoes: Echoes, family: Family, protocol: str
) -> None:
    at = echoes.cluster_ip("back", family)
    for client in NAMES:
        answers = {echoes.ask(client, at, protocol) for _ in range(30)}
        others = {each for each in answers if each.pod != client}
        assert {each.pod for each in answers} == BACKENDS
        assert {each.client for each in others} == {echoes.addresses[client][family]}
    for node in ("n1", "n2", "n3"):
        assert echoes.ask(node, at, protocol).pod in BACKENDS


@pytest.mark.usefixtures("mode")
def test_a_node_port_of_any_node_is_reached_from_nodes_pods_and_outside(
    echoes: Echoes, family: Family, protocol: str
) -> None:
    for node in ("n1", "n2", "n3"):
        at = echoes.node_port("back", node, family, protocol)
        for place in ("outside", "n1", "n2", "n3", "a", "b"):
            assert echoes.ask(place, at, protocol).pod in BACKENDS, f"{place} by {node}"


@pytest.mark.usefixtures("mode")
def test_a_node_port_with_local_endpoints_alone_keeps_the_address_of_whoever_asks(
    echoes: Echoes, family: Family, protocol: str
) -> None:
    by_its_node = echoes.node_port("local", "n2", family, protocol)
    assert echoes.ask("outside", by_its_node, protocol) == Answer("b", GATEWAY[family])
    by_another = echoes.node_port("local", "n3", family, protocol)
    assert not echoes.answers("outside", by_another, protocol)
    assert echoes.ask("a", by_its_node, protocol) == Answer("b", echoes.addresses["a"][family])


@pytest.mark.usefixtures("mode")
def test_endpoints_of_a_headless_service_are_reached_where_its_slices_say(
    installed: Installed, echoes: Echoes, family: Family, protocol: str
) -> None:
    selector = "kubernetes.io/service-name=headless"
    slices = json.loads(installed.cluster.kubectl("get", "endpointslices", "-l", selector, "-o", "json"))["items"]
    (listed,) = (each for each in slices if each["addressType"] == family.label)
    addresses = {address for endpoint in listed["endpoints"] for address in endpoint["addresses"]}
    assert {echoes.ask("a", (each, PORT), protocol).pod for each in addresses} == BACKENDS


@pytest.mark.usefixtures("mode")
def test_a_pod_reaches_itself_by_a_service_whatever_policy_selects_it(
    installed: Installed, echoes: Echoes, family: Family, protocol: str
) -> None:
    at = echoes.cluster_ip("only-a", family)
    assert echoes.ask("a", at, protocol).pod == "a"
    with policy(installed, "closed", **chosen("a"), policyTypes=["Ingress", "Egress"]):
        installed.until(lambda: not echoes.answers("d", at, protocol), "the policy is in force")
        assert echoes.ask("a", at, protocol).pod == "a"  # "a pod cannot block access to itself"


@pytest.mark.usefixtures("mode")
def test_ingress_policy_is_about_the_pod_that_asks_by_a_service(
    installed: Installed, echoes: Echoes, family: Family, protocol: str
) -> None:
    at = echoes.cluster_ip("only-b", family)
    only_c = [{"from": [chosen("c")], "ports": [{"port": PORT, "protocol": each} for each in PROTOCOLS]}]
    with policy(installed, "only-c", **chosen("b"), ingress=only_c):
        installed.until(lambda: not echoes.answers("a", at, protocol), "a is refused")
        assert echoes.ask("c", at, protocol) == Answer("b", echoes.addresses["c"][family])
        assert not echoes.answers("d", at, protocol)
    installed.until(lambda: echoes.answers("a", at, protocol), "a is let in again")


@pytest.mark.usefixtures("mode")
def test_egress_policy_is_about_the_pod_behind_a_service(
    installed: Installed, echoes: Echoes, family: Family, protocol: str
) -> None:
    allowed, denied = (echoes.cluster_ip(f"only-{name}", family) for name in "bc")
    only_b = [{"to": [chosen("b")], "ports": [{"port": PORT, "protocol": each} for each in PROTOCOLS]}]
    with policy(installed, "to-b", **chosen("a"), policyTypes=["Egress"], egress=only_b):
        installed.until(lambda: not echoes.answers("a", denied, protocol), "c is out of reach")
        assert echoes.ask("a", allowed, protocol).pod == "b"
        assert echoes.ask("d", denied, protocol).pod == "c"
    installed.until(lambda: echoes.answers("a", denied, protocol), "c is in reach again")


@pytest.mark.usefixtures("mode")
def test_session_affinity_holds(echoes: Echoes, family: Family, protocol: str) -> None:
    at = echoes.cluster_ip("sticky", family)
    assert len({echoes.ask("a", at, protocol).pod for _ in range(30)}) == 1


@pytest.mark.usefixtures("mode")
def test_a_service_without_endpoints_refuses_at_once(echoes: Echoes, family: Family) -> None:
    with pytest.raises(ConnectionRefusedError):
        echoes.ask("a", echoes.cluster_ip("nobody", family), TCP)


@pytest.mark.usefixtures("mode")
def test_a_pod_reaches_the_api_server_by_its_service(installed: Installed, echoes: Echoes) -> None:
    context: ssl.SSLContext = installed.cluster.tls
    with echoes.open("a", Family.IPV4, TCP) as plain:
        plain.connect(("10.96.0.1", 443))
        with context.wrap_socket(plain, server_hostname="kubernetes.default.svc") as connection:
            connection.sendall(b"GET /version HTTP/1.0\r\nHost: kubernetes\r\n\r\n")
            answer = http.client.HTTPResponse(connection)  # type: ignore[arg-type]  # an SSLSocket is one
            answer.begin()
            assert json.load(answer)["major"] == "1"


class Load(threading.Thread):
    """Asks a Service again and again from a pod, until `stop`: over a connection each, and over one flow of UDP."""

    def __init__(self, echoes: Echoes, client: str, service_name: str) -> None:
        super().__init__()
        self.asked = 0
        self.lost: list[str] = []
        self._echoes = echoes
        self._client = client
        self._places = {family: echoes.cluster_ip(service_name, family) for family in Family}
        self._end = threading.Event()

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            flows = {family: stack.enter_context(self._echoes.open(self._client, family, UDP)) for family in Family}
            for family, flow in flows.items():
                flow.connect(self._places[family])
            while not self._end.wait(0.01):
                for family, flow in flows.items():
                    self._count(family, lambda flow=flow: question(flow, UDP))
                    self._count(family, lambda at=self._places[family]: self._echoes.ask(self._client, at, TCP))

    def _count(self, family: Family, ask: Any) -> None:
        self.asked += 1
        try:
            ask()
        except OSError as error:
            self.lost.append(f"{family.label}: {error!r}")

    def stop(self) -> None:
        self._end.set()
        self.join()


@pytest.mark.usefixtures("mode")
def test_an_agent_that_is_killed_and_comes_back_costs_no_packet_to_a_service(
    installed: Installed, echoes: Echoes
) -> None:
    loads = [Load(echoes, "a", "only-b"), Load(echoes, "b", "back")]
    for load in loads:
        load.start()
    try:
        for load in loads:
            installed.until(lambda load=load: load.asked > 100, "the load runs")
        installed.kill_agent("n2")
        installed.until(lambda: ": ready" in installed.status("n2"), "it is ready again")
        installed.until_agents_are_ready()
    finally:
        for load in loads:
            load.stop()
    assert [load.lost for load in loads] == [[], []]
