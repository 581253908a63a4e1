"""What NetworkConfiguration says about tunnels between nodes."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from agent.objects.label_selector import LabelSelector
from agent.objects.model import Model
from agent.objects.scalars import CIDR, Name, Whole, refuse
from agent.objects.server_checks import Check, server_checks

Mode: TypeAlias = Literal["Never", "Fallback", "Always"]
TunnelType: TypeAlias = Literal["VXLAN", "IPIP"]

OVERRIDES: Final = 64
"""The longest list of them, and of the CIDRs of one."""


class EncapsulationOverride(Model):
    """Other settings for some nodes. Between two nodes the stricter wish counts: Always, then Fallback, then Never."""

    name: Name = Field(description="Its name, unlike that of any other.")
    node_selector: LabelSelector = Field(
        default=LabelSelector(), description="Nodes this is about. By default every node."
    )
    pod_cidrs: tuple[CIDR, ...] = Field(
        default=(),
        max_length=OVERRIDES,
        description="Only nodes with a pod CIDR inside one of these, and only the family of that. By default all.",
    )
    mode: Mode = Field(description="As `encapsulation.mode`.")
    type: TunnelType | None = Field(default=None, description="As `encapsulation.type`, and by default the same.")


class Encapsulation(Model):
    """Whether, and in what, packets travel to the pods of another node."""

    model_config = server_checks(
        Check(
            "!has(self.overrides) || self.overrides.all(o, self.overrides.exists_one(p, p.name == o.name))",
            "must have names of their own",
            "overrides",
        ),
    )

    mode: Mode = Field(
        default="Never",
        description="`Never`: as they are. `Fallback`: as they are to a node on the same link, and where a router "
        "announces the destination; else in a tunnel to the node. `Always`: in a tunnel to the node.",
    )
    type: TunnelType = Field(
        default="VXLAN",
        description="`VXLAN` costs 50 bytes of each packet (IPv6: 70), `IPIP` 20 (IPv6: 40) but needs a network that "
        "lets IP protocols 4 and 41 pass.",
    )
    vni: Annotated[int, Whole("a VXLAN network identifier", 1, 2**24 - 1)] = Field(
        default=4096, description="VXLAN network identifier."
    )
    port: Annotated[int, Whole("a UDP port", 1, 65535)] = Field(
        default=4789, description="UDP port of VXLAN. A change interrupts what travels in tunnels for a moment."
    )
    overrides: tuple[EncapsulationOverride, ...] = Field(
        default=(),
        max_length=OVERRIDES,
        description="For mixed clusters: other settings for some nodes. Of those that fit a node the first counts.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for position, override in enumerate(self.overrides):
            if any(override.name == other.name for other in self.overrides[:position]):
                raise refuse(f"{override.name} is the name of another one, too", field=f"overrides[{position}]")
        return self
