"""NodeRoutingStatus: what one agent reports about its node, for `kubectl` and the command line."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from agent.objects.model import Model, Object
from agent.objects.scalars import ASN, Address, FamilyName, RouterID, Time, Whole

Count = Annotated[int, Whole("a count", 0, 2**31 - 1)]

HEARTBEAT_S: Final = 90.0
"""How often an agent writes at the least."""

STALE_S: Final = 300.0
"""What was written so long ago is not taken for what is so: three heartbeats were missed."""


class FamilyStatus(Model):
    """Counts of one address family of one session."""

    family: FamilyName = Field(description="Address family.")
    received: Count = Field(description="Prefixes heard and not withdrawn.")
    accepted: Count = Field(description="Of these, prefixes the import rules let in.")
    refused: Count = Field(description="Of these, prefixes the import rules keep out.")
    announced: Count = Field(description="Prefixes the peer was told.")


class SessionStatus(Model):
    """One BGP session."""

    peer: Address = Field(description="Address of the peer.")
    object: str = Field(description="What asked for the session, such as `BGPPeer/rack-a-tor-1` or `mesh/n2`.")
    peer_asn: ASN | None = Field(default=None, description="AS number of the peer.")
    state: Literal["Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"] = Field(
        description="State of RFC 4271 section 8.2.2."
    )
    since: Time | None = Field(default=None, description="When this state began.")
    families: tuple[FamilyStatus, ...] = Field(default=(), description="Counts for each family.")
    last_error: str = Field(default="", description="Why the session is, or was last, down.")


class RoutesStatus(Model):
    """Counts of routes."""

    installed: Count = Field(default=0, description="Routes in the kernel.")
    refused: Count = Field(default=0, description="Routes the kernel did not take.")


class DrainStatus(Model):
    """Whether the node is being taken out of the way of traffic."""

    state: Literal["Draining", "Drained"] = Field(
        description="`Draining`: announced as the last choice (RFC 8326). `Drained`: withdrawn."
    )
    since: Time | None = Field(default=None, description="When it was asked for.")
    withdraw_at: Time | None = Field(default=None, description="When everything is, or was, withdrawn.")
    reason: str = Field(default="", description="Why, as was given with the command.")


class Condition(Model):
    """One statement about the node, as Kubernetes conditions are."""

    type: str = Field(description="What is stated, such as `Ready`.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(description="One word for machines.")
    message: str = Field(default="", description="A sentence for people.")
    last_transition_time: Time | None = Field(default=None, description="When `status` last changed.")


class NodeRoutingStatusStatus(Model):
    """What is so."""

    local_asn: ASN | None = Field(default=None, description="AS number of the node.")
    router_id: RouterID | None = Field(default=None, description="BGP Identifier of the node.")
    sessions: tuple[SessionStatus, ...] = Field(default=(), description="Every BGP session.")
    established_sessions: Count = Field(default=0, description="Of these, how many are established.")
    wanted_sessions: Count = Field(default=0, description="Of these, how many are not administratively down.")
    routes: RoutesStatus = Field(default=RoutesStatus(), description="Counts of routes.")
    drain: DrainStatus | None = Field(default=None, description="There while the node is drained or being so.")
    conditions: tuple[Condition, ...] = Field(default=(), description="Statements about the node.")
    last_heartbeat_time: Time | None = Field(
        default=None,
        description="When the agent last wrote, by the API server's clock. It does so every 90 seconds; where that was "
        "five minutes ago, take the rest for what once was.",
    )


class NodeRoutingStatus(Object):
    """Routing on one node. Named like the node and written by its agent; not for people to write."""

    kind: ClassVar[str] = "NodeRoutingStatus"

    status: NodeRoutingStatusStatus = Field(default=NodeRoutingStatusStatus(), description="What is so.")
