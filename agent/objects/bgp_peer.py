"""BGPPeer: sessions of a choice of nodes with a router, or with other nodes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agent.objects.label_selector import LabelSelector
from agent.objects.model import Model, Object
from agent.objects.scalars import Address, FamilyName, PeerASN, Port, Whole, refuse
from agent.objects.server_checks import Check, server_checks
from agent.objects.session_settings import PREFIX_RANGES, MaxPrefixes, PrefixRange, SecretKeyRef, Timers


class PeerTarget(Model):
    """Exactly one of the two."""

    model_config = server_checks(
        Check("has(self.address) != has(self.nodeSelector)", "needs exactly one of address and nodeSelector")
    )

    address: Address | None = Field(
        default=None, description="Address of a router. A link-local one names the interface: `fe80::1%eth0`."
    )
    node_selector: LabelSelector | None = Field(
        default=None, description="Nodes: each node this BGPPeer is about peers with each of them but itself."
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.address is None) == (self.node_selector is None):
            raise refuse("needs exactly one of address and nodeSelector")
        return self


class TTLSecurity(Model):
    """Packets from further away are dropped by the kernel (GTSM, RFC 5082)."""

    hops: Annotated[int, Whole("a number of hops", 1, 254)] = Field(
        description="Hops the peer may be away; 1 for a neighbour on the link. The peer must send with TTL 255."
    )


class Multihop(Model):
    """The peer is not on the link."""

    ttl: Annotated[int, Whole("a TTL", 2, 255)] = Field(description="TTL of packets sent: hops they can go.")


class PeerImport(Model):
    """What is believed of what this peer says."""

    accept: tuple[PrefixRange, ...] = Field(
        default=(),
        max_length=PREFIX_RANGES,
        description="Prefixes accepted from this peer beside what is accepted from every peer.",
    )
    max_prefixes: MaxPrefixes | None = Field(
        default=None, description="Prefixes of one family it may announce. By default BGPConfiguration's."
    )


class Shutdown(Model):
    """The session is administratively down."""

    message: str = Field(
        default="", max_length=128, description="Why, for people who look; at most 128 characters (RFC 9003)."
    )


class BGPPeerSpec(Model):
    """Sessions of the selected nodes."""

    model_config = server_checks(
        Check("!has(self.peer.address) || has(self.peerASN)", "is required with peer.address", "peerASN"),
        Check(
            "!has(self.peer.nodeSelector) || !has(self.peerASN)",
            "is known for nodes (peer.nodeSelector): leave it out",
            "peerASN",
        ),
        Check(
            "!has(self.ttlSecurity) || !has(self.multihop)", "excludes ttlSecurity: leave one of them out", "multihop"
        ),
        Check(
            "!has(self.peer.address) || !has(self.sourceAddress) || "
            "self.peer.address.contains(':') == self.sourceAddress.contains(':')",
            "must be of the family of peer.address",
            "sourceAddress",
        ),
        Check(
            "!has(self.families) || self.families.size() == 1 || "
            "(self.families.size() == 2 && self.families[0] != self.families[1])",
            "must name a family, and none twice",
            "families",
        ),
    )

    node_selector: LabelSelector = Field(
        default=LabelSelector(), description="Nodes that have the session. By default every node."
    )
    peer: PeerTarget = Field(description="The other side: exactly one of `address` and `nodeSelector`.")
    peer_asn: PeerASN | None = Field(
        default=None,
        description="AS number of the router, or `Internal` (the node's own) or `External` (any other). Required with "
        "`peer.address`; not allowed with `peer.nodeSelector`, where it is known.",
    )
    port: Port = Field(default=179, description="TCP port the peer is called on.")
    password_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="TCP MD5 password (RFC 2385). By default none. While the Secret or key is missing, the session "
        "stays down.",
    )
    timers: Timers | None = Field(
        default=None,
        description="Timers of these sessions, as a whole: what is left out here has the defaults below. Without it, "
        "BGPConfiguration's.",
    )
    ttl_security: TTLSecurity | None = Field(
        default=None,
        description="Take packets only from so near (GTSM, RFC 5082). Excludes `multihop`.",
    )
    multihop: Multihop | None = Field(
        default=None, description="For an eBGP peer that is not on the link. Excludes `ttlSecurity`."
    )
    source_address: Address | None = Field(
        default=None, description="Own address of the session. By default the node's of the peer's family."
    )
    families: tuple[FamilyName, ...] | None = Field(
        default=None,
        json_schema_extra={"maxItems": 2},  # here none, and one named twice, are refused by name
        description="Address families of routes. By default those the node has pod CIDRs of.",
    )
    next_hop: Literal["Auto", "Self", "Unchanged"] = Field(
        default="Auto",
        description="Next hop announced: `Self` is the node, `Unchanged` as learned; `Auto` is the node over eBGP and "
        "for its own prefixes, else as learned (RFC 4271 section 5.1.3).",
    )
    allow_own_asn: Annotated[int, Whole("a number of times", 0, 10)] = Field(
        default=0,
        description="How often the node's own AS may stand in a path. Pod CIDRs of other nodes are always "
        "accepted with it once, since nodes of one rack may share an AS.",
    )
    import_: PeerImport = Field(default=PeerImport(), description="What is believed of what this peer says.")
    shutdown: Shutdown | None = Field(default=None, description="Present: the session is administratively down.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.peer.address is not None and self.peer_asn is None:
            raise refuse("is required with peer.address", field="peerASN")
        if self.peer.node_selector is not None and self.peer_asn is not None:
            raise refuse("is known for nodes (peer.nodeSelector): leave it out", field="peerASN")
        if self.ttl_security and self.multihop:
            raise refuse("excludes ttlSecurity: leave one of them out", field="multihop")
        if self.peer.address and self.source_address and self.peer.address.version != self.source_address.version:
            raise refuse(f"{self.source_address} is not of the family of {self.peer.address}", field="sourceAddress")
        if self.families == ():
            raise refuse("names no family: leave it out", field="families")
        if self.families and len(set(self.families)) < len(self.families):
            raise refuse("names a family twice", field="families")
        return self


class BGPPeer(Object):
    """Sessions of a choice of nodes with a router, or with other nodes beside or in place of the mesh."""

    kind: ClassVar[str] = "BGPPeer"

    spec: BGPPeerSpec = Field(description="What is wanted.")
