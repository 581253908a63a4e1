"""BGPNodeProfile: BGP settings of a choice of nodes, such as an AS number for each rack."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from agent.objects.label_selector import LabelSelector
from agent.objects.model import Model, Object
from agent.objects.scalars import ASN, Address, RouterID, Switch, refuse
from agent.objects.server_checks import Check, server_checks


class BGPNodeProfileSpec(Model):
    """Settings a profile leaves out come from other profiles that select the node, then from BGPConfiguration."""

    model_config = server_checks(
        Check(
            "!has(self.sourceAddresses) || self.sourceAddresses.size() < 2 || "
            "self.sourceAddresses[0].contains(':') != self.sourceAddresses[1].contains(':')",
            "must have at most one address of each family",
            "sourceAddresses",
        )
    )

    node_selector: LabelSelector = Field(
        default=LabelSelector(), description="Nodes this is about. By default every node."
    )
    local_asn: ASN | None = Field(default=None, description="AS number. By default BGPConfiguration's.")
    router_id: RouterID | None = Field(
        default=None,
        description="BGP Identifier (RFC 6286); no two nodes may share one. By default the node's first IPv4 address.",
    )
    source_addresses: tuple[Address, ...] = Field(
        default=(),
        json_schema_extra={"maxItems": 2},  # here a second one of a family is refused by name
        description="Own address of sessions, at most one for each family. By default the node's InternalIP addresses.",
    )
    transit: Switch = Field(
        default=False,
        description="Whether routes learned from one peer are passed on to other peers. A node is no transit by "
        "default: it announces its own pods alone.",
    )

    @model_validator(mode="after")
    def _one_address_of_a_family(self) -> Self:
        for position, address in enumerate(self.source_addresses):
            if any(address.version == other.version for other in self.source_addresses[:position]):
                raise refuse(
                    f"{address} is a second IPv{address.version} address", field=f"sourceAddresses[{position}]"
                )
        return self


class BGPNodeProfile(Object):
    """BGP settings of a choice of nodes. Of two profiles that say the same thing the older wins, then the name."""

    kind: ClassVar[str] = "BGPNodeProfile"

    spec: BGPNodeProfileSpec = Field(description="What is wanted.")
