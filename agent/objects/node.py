"""Node, as far as it is used: name, labels, pod CIDRs, taints, addresses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from agent.objects.model import KubernetesModel, KubernetesObject
from agent.objects.scalars import CIDR, NOUN, read_address
from inet.prefix import IPAddress, Prefix

INTERNAL_IP = "InternalIP"
DRAIN_TAINT = "tortie.dev/drain"
DEFAULT_DRAIN_WAIT_S = 60
_LONGEST_WAIT_S = 86400


class Taint(KubernetesModel):
    """A mark that keeps pods away; one of them is for Tortie."""

    key: str = Field(description=f"`{DRAIN_TAINT}` has the node drained: announced as the last choice, then withdrawn.")
    value: str = Field(
        default="", description=f"Seconds between the two; {DEFAULT_DRAIN_WAIT_S} if it is no such number."
    )


class NodeSpec(KubernetesModel):
    """What the controller manager gave the node."""

    pod_cidrs: tuple[CIDR, ...] = Field(
        default=(), description="Addresses of the node's pods, at most one CIDR a family."
    )
    taints: tuple[Taint, ...] = Field(default=(), description="Marks that keep pods away.")

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
    def drain_wait_s(self) -> float | None:
        """Seconds to wait before withdrawing a node that its taint wants drained; None: it does not."""
        taint = next((taint for taint in self.spec.taints if taint.key == DRAIN_TAINT), None)
        if taint is None:
            return None
        is_number = taint.value.isascii() and taint.value.isdecimal() and int(taint.value) <= _LONGEST_WAIT_S
        return float(taint.value) if is_number else DEFAULT_DRAIN_WAIT_S

    @property
    def internal_addresses(self) -> tuple[IPAddress, ...]:
        """InternalIP addresses, in the order given."""
        return tuple(entry.address for entry in self.status.addresses if not isinstance(entry.address, str))
