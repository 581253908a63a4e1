"""Whose a service address is, as the API server knows it: the Service, its range, and the pods behind it.

An agent reads no Services and need not. An administrator may, and asks about an address that kube-proxy takes out of
the packet before any route or policy is asked about it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Final, Protocol, TypeVar

import msgspec

from agent.fleet import Service
from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused, Unreachable

_SERVICES: Final = Resource("", "v1", "services")
_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices")
_RANGES: Final = Resource("networking.k8s.io", "v1", "servicecidrs")
"""KEP-1880, since Kubernetes 1.33. Older servers know the range themselves and tell nobody."""


class ListMeta(msgspec.Struct, frozen=True):
    """What a list says of itself."""

    continue_: str = msgspec.field(name="continue", default="")


class Page(Protocol):
    """A page of a list."""

    @property
    def metadata(self) -> ListMeta:
        """Whether there are more."""


P = TypeVar("P", bound=Page)


class Pages(Protocol):
    """Lists page by page. Raises FleetError."""

    def __call__(self, request: Request, page: type[P]) -> AsyncIterator[P]:
        """Yield the pages."""


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class _Port(msgspec.Struct, frozen=True):
    port: int | None = None
    protocol: str = "TCP"
    name: str | None = None


class _Ingress(msgspec.Struct, frozen=True):
    ip: str = ""


class _LoadBalancer(msgspec.Struct, frozen=True):
    ingress: list[_Ingress] = []


class _ServiceStatus(msgspec.Struct, frozen=True, rename="camel"):
    load_balancer: _LoadBalancer = _LoadBalancer()


class _ServiceSpec(msgspec.Struct, frozen=True):
    cluster_ips: list[str] = msgspec.field(name="clusterIPs", default_factory=list)
    external_ips: list[str] = msgspec.field(name="externalIPs", default_factory=list)
    ports: list[_Port] = []


class _Service(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _ServiceSpec = _ServiceSpec()
    status: _ServiceStatus = _ServiceStatus()

    @property
    def addresses(self) -> list[str]:
        ingress = [each.ip for each in self.status.load_balancer.ingress]
        return [*self.spec.cluster_ips, *self.spec.external_ips, *ingress]


class _Services(msgspec.Struct, frozen=True):
    items: list[_Service]
    metadata: ListMeta = ListMeta()


class _Target(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None  # None: take it for ready


class _Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: list[str] = []
    conditions: _Conditions = _Conditions()
    target_ref: _Target | None = None

    @property
    def name(self) -> str:
        target = self.target_ref
        return f"{target.namespace}/{target.name}" if target and target.kind == "Pod" else self.addresses[0]


class _Slice(msgspec.Struct, frozen=True):
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _Slices(msgspec.Struct, frozen=True):
    items: list[_Slice]
    metadata: ListMeta = ListMeta()


class _RangeSpec(msgspec.Struct, frozen=True):
    cidrs: list[str] = []


class _Range(msgspec.Struct, frozen=True):
    spec: _RangeSpec = _RangeSpec()


class _Ranges(msgspec.Struct, frozen=True):
    items: list[_Range]


async def service_at(client: Client, pages: Pages, address: str) -> Service:
    """Return what is known of an address as a Service's. Raises FleetError where Services may not be listed."""
    async for page in pages(Request("list", _SERVICES), _Services):
        for service in page.items:
            if address in service.addresses:
                return await _with_pods(pages, service)
    return Service(cidr=await _range_of(client, address))


async def _with_pods(pages: Pages, service: _Service) -> Service:
    meta = service.metadata
    query = {"labelSelector": f"kubernetes.io/service-name={meta.name}"}
    request = Request("list", _SLICES, meta.namespace, query=query)
    slices = [each async for page in pages(request, _Slices) for each in page.items]
    ready = (each for some in slices for each in some.endpoints or () if each.conditions.ready is not False)
    pods = dict.fromkeys(each.name for each in ready if each.addresses)
    return Service(f"{meta.namespace}/{meta.name}", "", tuple(pods), dict(_ports(service.spec.ports, slices)))


def _ports(ports: Sequence[_Port], slices: Sequence[_Slice]) -> list[tuple[str, str]]:
    """Return which port of the pods each port of a Service is; its own where nobody says. Their names are the same."""
    targets = {each.name or "": each.port for some in slices for each in some.ports or ()}
    return [
        (f"{each.port}/{each.protocol}", f"{targets.get(each.name or '') or each.port}/{each.protocol}")
        for each in ports
    ]


async def _range_of(client: Client, address: str) -> str:
    """Return the range of service addresses that holds one; empty where none does, or nobody says."""
    try:
        ranges = msgspec.json.decode(await client.send(Request("list", _RANGES)), type=_Ranges).items
    except (Refused, Unreachable, msgspec.DecodeError):
        return ""
    cidrs = (cidr for each in ranges for cidr in each.spec.cidrs)
    return next((cidr for cidr in cidrs if ip_address(address) in ip_network(cidr, strict=False)), "")
