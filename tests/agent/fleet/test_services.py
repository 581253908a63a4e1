"""Whose a service address is. With a real server: tests/kubernetes/test_fleet.py."""

from __future__ import annotations

from typing import Any

import pytest

from agent.fleet import FleetError, Service
from agent.fleet.kubernetes import KubernetesFleet
from agent.kubernetes.client import Request
from agent.kubernetes.errors import Refused
from tests.agent.kubernetes.apiserver import FakeClient

DNS: dict[str, Any] = {
    "metadata": {"name": "kube-dns", "namespace": "kube-system"},
    "spec": {
        "clusterIPs": ["10.96.0.10", "fd96::a"],
        "externalIPs": ["192.0.2.1"],
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "udp"},
            {"name": "metrics", "port": 9153, "protocol": "TCP"},
        ],
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "lb.example.com"}]}},
}
HEADLESS: dict[str, Any] = {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIPs": ["None"]}}


def endpoint(name: str, **more: Any) -> dict[str, Any]:
    return {"addresses": ["10.42.1.5"], "targetRef": {"kind": "Pod", "namespace": "kube-system", "name": name}, **more}


SLICES: list[dict[str, Any]] = [
    {
        "addressType": "IPv4",
        "ports": [{"name": "dns", "port": 8053, "protocol": "UDP"}],
        "endpoints": [
            endpoint("a", conditions={"ready": True}),
            endpoint("b", conditions={"ready": False}),
            endpoint("c"),
            {"addresses": ["10.99.0.1"]},
        ],
    },
    {"addressType": "IPv6", "ports": None, "endpoints": [endpoint("a")]},
    {"addressType": "IPv6", "endpoints": None},
]


class Server:
    """Services, and perhaps ranges of their addresses."""

    def __init__(self) -> None:
        self.ranges: list[dict[str, Any]] | Exception = [{"spec": {"cidrs": ["10.96.0.0/12", "fd96::/108"]}}]
        self.client = FakeClient(self._answer)
        self.fleet = KubernetesFleet(self.client)

    def _answer(self, request: Request) -> dict[str, Any]:
        match str(request.resource):
            case "services":
                return {"items": [HEADLESS, {"metadata": {"name": "x"}}, DNS]}
            case "endpointslices.discovery.k8s.io":
                assert request.namespace == "kube-system"
                assert request.query["labelSelector"] == "kubernetes.io/service-name=kube-dns"
                return {"items": SLICES}
            case _:
                if isinstance(self.ranges, Exception):
                    raise self.ranges
                return {"items": self.ranges}


@pytest.mark.parametrize("address", ["10.96.0.10", "fd96::a", "192.0.2.1", "192.0.2.2"])
async def test_a_service_is_told_with_the_pods_that_are_ready_and_their_ports(address: str) -> None:
    assert await Server().fleet.service_at(address) == Service(
        "kube-system/kube-dns",
        "",
        ("kube-system/a", "kube-system/c", "10.99.0.1"),
        {"53/UDP": "8053/UDP", "9153/TCP": "9153/TCP"},
    )


@pytest.mark.parametrize(
    ("address", "cidr"), [("10.96.0.99", "10.96.0.0/12"), ("fd96::99", "fd96::/108"), ("8.8.8.8", "")]
)
async def test_an_address_that_no_service_has_may_be_of_their_range(address: str, cidr: str) -> None:
    assert await Server().fleet.service_at(address) == Service(cidr=cidr)


async def test_a_server_that_does_not_tell_ranges_tells_services_all_the_same() -> None:
    server = Server()
    server.ranges = Refused(404, "NotFound", "the server could not find the requested resource")
    assert await server.fleet.service_at("10.96.0.99") == Service()
    found = await server.fleet.service_at("10.96.0.10")
    assert found is not None
    assert found.name == "kube-system/kube-dns"


async def test_services_that_may_not_be_listed_are_an_error_that_names_the_right() -> None:
    def refuse(_request: Request) -> Any:
        raise Refused(403, "Forbidden", "no")

    with pytest.raises(FleetError, match="list services: 403 Forbidden"):
        await KubernetesFleet(FakeClient(refuse)).service_at("10.96.0.10")
