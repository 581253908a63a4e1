"""NetworkConfiguration: the addresses of the cluster, and how nodes come to know each other's."""

from __future__ import annotations

from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from agent.objects.encapsulation import Encapsulation
from agent.objects.model import Model, Object
from agent.objects.outgoing_nat import OutgoingNAT
from agent.objects.scalars import CIDR, MTU, LinkPattern, refuse
from agent.objects.server_checks import Check, server_checks

CIDRS: Final = 64
"""The longest list of them; the API server wants to know."""

UPLINKS: Final = 16


class NetworkConfigurationSpec(Model):
    """Everything has a default."""

    model_config = server_checks(
        *(
            Check(
                f"!has(self.{name}) || self.{name}.all(c, !isCIDR(c) || cidr(c).prefixLength() > 0)",
                "must not hold every address there is",
                name,
            )
            for name in ("podCIDRs", "serviceCIDRs")
        ),
        Check(  # by their first addresses: containsCIDR of Kubernetes 1.31 says no where lengths differ
            "!has(self.podCIDRs) || !has(self.serviceCIDRs) || self.serviceCIDRs.all(s, self.podCIDRs.all(p, "
            "!isCIDR(s) || !isCIDR(p) || !(cidr(s).containsIP(cidr(p).ip()) || cidr(p).containsIP(cidr(s).ip()))))",
            "must not overlap podCIDRs",
            "serviceCIDRs",
        ),
    )

    pod_cidrs: tuple[CIDR, ...] = Field(
        default=(),
        max_length=CIDRS,
        description="Addresses of pods. By default what the Node objects' podCIDRs add up to.",
    )
    service_cidrs: tuple[CIDR, ...] = Field(default=(), max_length=CIDRS, description="Addresses of services.")
    node_routes: Literal["BGP", "Direct"] = Field(
        default="BGP",
        description="How a node learns the way to the pods of the others. `Direct`: from Node objects, where nodes "
        "share a link; no mesh of sessions is needed then, and BGP is spoken with routers alone.",
    )
    encapsulation: Encapsulation = Field(
        default=Encapsulation(), description="Whether packets to the pods of another node travel in a tunnel."
    )
    mtu: MTU = Field(
        default="auto",
        description="The largest packet of pods, in bytes. `auto`: what the uplinks take, less what a tunnel in use "
        "adds.",
    )
    uplinks: tuple[LinkPattern, ...] = Field(
        default=(),
        max_length=UPLINKS,
        description="Names of the links that lead to other nodes, where `*` stands for anything. By default the links "
        "on the way to the other nodes, without any the one of the default route.",
    )
    outgoing_nat: OutgoingNAT = Field(default=OutgoingNAT(), description="What leaves under the node's address.")

    @model_validator(mode="after")
    def _cidrs_are_apart(self) -> Self:
        for name, cidrs in (("podCIDRs", self.pod_cidrs), ("serviceCIDRs", self.service_cidrs)):
            for position, cidr in enumerate(cidrs):
                if cidr.is_default:
                    raise refuse(f"{cidr} is every address there is", field=f"{name}[{position}]")
        for position, service in enumerate(self.service_cidrs):
            for pod in self.pod_cidrs:
                if service.overlaps(pod):
                    raise refuse(f"{service} overlaps podCIDRs {pod}", field=f"serviceCIDRs[{position}]")
        return self


class NetworkConfiguration(Object):
    """Addresses of the cluster. One object, named `default`; without it everything is at its default."""

    kind: ClassVar[str] = "NetworkConfiguration"

    spec: NetworkConfigurationSpec = Field(default=NetworkConfigurationSpec(), description="What is wanted.")
