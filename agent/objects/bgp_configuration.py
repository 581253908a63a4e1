"""BGPConfiguration: what holds for BGP on every node."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agent.objects.model import Model, Object
from agent.objects.scalars import ASN, Port, Switch, Whole
from agent.objects.session_settings import PREFIX_RANGES, MaxPrefixes, PrefixRange, SecretKeyRef, Timers


class NodeMesh(Model):
    """Sessions of every node with every other node."""

    enabled: Switch = Field(default=True, description="Whether there are such sessions.")
    password_secret_ref: SecretKeyRef | None = Field(
        default=None, description="TCP MD5 password (RFC 2385) of all mesh sessions. By default none."
    )


class GracefulRestart(Model):
    """Routes outlive a restart of the agent or of a peer (RFC 4724)."""

    enabled: Switch = Field(default=True, description="Whether it is offered and given.")
    restart_time_seconds: Annotated[int, Whole("a number of seconds", 1, 4095)] = Field(
        default=120, description="Seconds for which a peer that restarts may stay away before its routes are dropped."
    )


class ImportSettings(Model):
    """What is believed of what peers say."""

    accept: tuple[PrefixRange, ...] = Field(
        default=(),
        max_length=PREFIX_RANGES,
        description="Prefixes accepted from every peer beside the cluster's own pod and service CIDRs. A default "
        "route is accepted only where one of these says so.",
    )
    max_prefixes: MaxPrefixes = Field(
        default=10000, description="Prefixes of one family a peer may announce; more are not taken, and counted."
    )


class BGPConfigurationSpec(Model):
    """Everything has a default."""

    local_asn: ASN = Field(
        default=64512, description="AS number of nodes that no BGPNodeProfile gives another; not 23456 (AS_TRANS)."
    )
    node_mesh: NodeMesh = Field(
        default=NodeMesh(),
        description="Sessions of every node with every other node: iBGP within an AS, eBGP between.",
    )
    listen_port: Port = Field(default=179, description="TCP port nodes listen on, and mesh peers are called on.")
    timers: Timers = Field(default=Timers(), description="Timers of every session without its own.")
    graceful_restart: GracefulRestart = Field(
        default=GracefulRestart(), description="Routes outlive a restart of the agent or of a peer (RFC 4724)."
    )
    max_paths: Annotated[int, Whole("a number of paths", 1, 256)] = Field(
        default=64, description="Equally good paths to one prefix that share the load."
    )
    resilient_multipath: Switch = Field(
        default=False,
        description="Whether flows stay on the path they have when another one comes or comes back: that one then gets "
        "only flows that are new, or were idle for two minutes. Flows of a lost path move at once. Needs Linux 5.13.",
    )
    import_: ImportSettings = Field(default=ImportSettings(), description="What is believed of what peers say.")


class BGPConfiguration(Object):
    """BGP on every node. One object, named `default`; without it everything is at its default."""

    kind: ClassVar[str] = "BGPConfiguration"

    spec: BGPConfigurationSpec = Field(default=BGPConfigurationSpec(), description="What is wanted.")
