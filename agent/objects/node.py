"""Node, as far as it is used: name, labels, pod CIDRs, addresses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from agent.objects.model import KubernetesModel, KubernetesObject
from agent.objects.scalars import CIDR, NOUN, read_address
from inet.prefix import IPAddress, Prefix

INTERNAL_IP = "InternalIP"


class NodeSpec(KubernetesModel):
    """What the controller manager gave the node."""

    pod_cidrs: tuple[CIDR, ...] = Field(
        default=(), description="Addresses of the node's pods, at most one CIDR a family."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_the_old_field(cls, data: Any) -> Any:
        """Take `podCIDR`, the older field of the same meaning, where it is all there is."""
        if isinstance(data, dict) and data.get("podCIDR") and not data.get("podCIDRs"):
            return data | {"podCIDRs": [data["podCIDR"]]}
        return data


class NodeAddress(KubernetesModel):
    """One address or name of the node."""

    type: str = Field(description="`InternalIP` is what sessions use; others are skipped.")
    address: Annotated[IPAddress | str, WithJsonSchema({"type": "string", NOUN: "IP address or host name"})] = Field(
        description="An IP address, or a host name where the type says so."
    )

    @field_validator("address", mode="plain")
    @classmethod
    def _internal_ip_is_an_address(cls, value: Any, said: ValidationInfo) -> IPAddress | str:
        return read_address(value) if said.data.get("type") == INTERNAL_IP else str(value)


class NodeStatus(KubernetesModel):
    """What the kubelet says."""

    addresses: tuple[NodeAddress, ...] = Field(default=(), description="Addresses and names.")


class Node(KubernetesObject):
    """A node of the cluster."""

    kind: ClassVar[str] = "Node"

    spec: NodeSpec = Field(default=NodeSpec(), description="What the controller manager gave the node.")
    status: NodeStatus = Field(default=NodeStatus(), description="What the kubelet says.")

    @property
    def pod_cidrs(self) -> tuple[Prefix, ...]:
        """Addresses of its pods."""
        return self.spec.pod_cidrs

    @property
    def internal_addresses(self) -> tuple[IPAddress, ...]:
        """InternalIP addresses, in the order given."""
        return tuple(entry.address for entry in self.status.addresses if not isinstance(entry.address, str))
