"""Outgoing NAT: which of the pods' traffic leaves the cluster under the node's address."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from agent.objects.label_selector import LabelSelector
from agent.objects.model import Model
from agent.objects.scalars import CIDR, FamilyName, Port, Switch, refuse
from agent.objects.server_checks import Check, server_checks

EXCLUDED: Final = 256
"""The longest list of excluded prefixes; the API server wants to know."""

CHOICES: Final = 64


class PortRange(Model):
    """Source ports that connections may get."""

    model_config = server_checks(Check("self.first <= self.last", "must not be less than first", "last"))

    first: Port = Field(description="The lowest port.")
    last: Port = Field(description="The highest port.")

    @model_validator(mode="after")
    def _last_is_not_before_first(self) -> Self:
        if self.last < self.first:
            raise refuse(f"{self.last} is less than first, {self.first}", field="last")
        return self


class PodChoice(Model):
    """Some pods, as a peer of a NetworkPolicy names them."""

    model_config = server_checks(
        Check(
            "has(self.namespaceSelector) || has(self.podSelector)",
            "needs namespaceSelector, podSelector or both; for all pods set outgoingNAT.enabled to false",
        )
    )

    namespace_selector: LabelSelector | None = Field(
        default=None, description="Pods in these namespaces. By default in all."
    )
    pod_selector: LabelSelector | None = Field(default=None, description="Pods with these labels. By default all.")

    @model_validator(mode="after")
    def _chooses_something(self) -> Self:
        if self.namespace_selector is None and self.pod_selector is None:
            raise refuse("needs namespaceSelector, podSelector or both; for all pods set outgoingNAT.enabled to false")
        return self


class OutgoingNAT(Model):
    """Traffic of pods to whatever is not a pod, a service or a node of the cluster gets the node's address."""

    enabled: Switch = Field(default=True, description="Whether there is any.")
    families: tuple[FamilyName, ...] = Field(
        default=(),
        max_length=2,
        description="The families it is for. By default IPv4, and IPv6 where pods have unique local addresses "
        "(`fc00::/7`), which nobody outside can answer.",
    )
    exclude: tuple[CIDR, ...] = Field(
        default=(),
        max_length=EXCLUDED,
        description="Destinations outside the cluster that see the pods' own addresses, because they know the way "
        "back to them.",
    )
    exempt_learned: Switch = Field(
        default=False,
        description="Whether destinations learned over BGP see the pods' own addresses, as if they were excluded. "
        "A default route does not count.",
    )
    opt_out: tuple[PodChoice, ...] = Field(
        default=(), max_length=CHOICES, description="Pods that keep their own addresses wherever they go."
    )
    source: Literal["Interface", "Node"] = Field(
        default="Interface",
        description="Which address is taken: that of the interface a packet leaves by, or the node's InternalIP, "
        "which stays the same when traffic moves to another uplink.",
    )
    ports: PortRange | None = Field(
        default=None, description="Source ports of translated connections. By default as the kernel chooses."
    )
    fully_random: Switch = Field(
        default=True,
        description="Whether source ports are chosen at random, so that connections that begin at one moment do not "
        "get the same.",
    )
